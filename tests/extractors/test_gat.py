import functools
import inspect
import math

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lrkd.data.triples import TripleDataModule
from lrkd.data.types import LabelSet
from lrkd.errors import UserError
from lrkd.extractors import (
    AttentiveExtractor,
    FullGraph,
    GATExtractor,
    LexicalGraph,
    SimilarityGraph,
    TokenGraph,
    TokenStates,
    UnionGraph,
    WindowGraph,
)
from lrkd.student import StudentLRKD
from lrkd.testing import ExtractorContract, example_tokens, export_to_onnx

GRAPHS = {
    "default": None,
    "window": WindowGraph(radius=1),
    "lexical": LexicalGraph(max_links=2),
    "similarity": SimilarityGraph(),
    "full": FullGraph(),
}


class NoEdge(TokenGraph):
    """No token hears another."""

    def adjacency(self, tokens):
        return torch.zeros_like(tokens.mask[:, None] & tokens.mask[:, :, None])


def few_words(batch, length, hidden_size):
    """Tokens of so few words that query and item have some in common."""
    tokens = example_tokens(batch, length, hidden_size)
    tokens.ids %= 9
    return tokens


class GATContract(ExtractorContract):
    """The contract on few words. An export takes seconds, so settings that bring no other operations leave it out."""

    def tokens(self, batch=5, length=17):
        return few_words(batch, length, self.hidden_size)


def small(**arguments):
    return staticmethod(functools.partial(GATExtractor, **({"width": 16, "heads": 2} | arguments)))


class TestGATv2Extractor(GATContract):
    factory = small()
    test_onnx_export = None  # test_exported_form_agrees_whatever_the_number_of_edges is more


class TestThreeLayerGATExtractor(GATContract):
    factory = small(layer="gat", num_layers=3, graph=SimilarityGraph())
    perspectives = (3,)


class TestThreeLayerGATv2Extractor(GATContract):
    factory = small(num_layers=3, heads=1, graph=WindowGraph())
    test_onnx_export = None


class TestTwoLayerGATExtractor(GATContract):
    factory = small(layer="gat", graph=LexicalGraph())
    test_onnx_export = None


class TestFullGraphGATExtractor(GATContract):
    factory = small(graph=FullGraph())
    test_onnx_export = None


class TestEdgelessGATExtractor(GATContract):
    factory = small(graph=NoEdge())
    test_onnx_export = None


# By hand: H = G = R = 1, one head, one rationale token; LayerNorms and the reduction are taken out. Two real tokens
# x_1 = -1 and x_2 = 2, and a pad; the rationale token is r = 0. Token 1 hears token 2; everyone hears himself; the
# rationale token hears both tokens. LeakyReLU has slope 0.2, and weights are powers of 2 because a = ln 2.
#
# Layer 1, W_t = W_s = 1, a = ln 2, b = 0: token i gives j the weight 2^LeakyReLU(x_i + x_j).
#   1: hears 1 with 2^-0.4 = 0.75786 and 2 with 2^1 = 2: α = 0.27480, 0.72520; Σ α x = 1.17560; x_1' = 0.17560.
#   2: hears itself: x_2' = 2 + 2 = 4.
#   r: hears 1 with 2^-0.2 = 0.87055, 2 with 2^2 = 4, itself with 1: α = 0.14829, 0.68137, 0.17034;
#      Σ α x = 1.21445 = r'.
# Layer 2, W_t = 0, W_s = -1, a = -5 ln 2, b = 0.25: the weight is 2^(-5 · LeakyReLU(-x_j)) = 2^(x_j), for x_j > 0.
#   r: 2^0.17560 = 1.12944, 2^4 = 16, 2^1.21445 = 2.32055: α = 0.05807, 0.82262, 0.11931;
#      Σ α (-x) + b = -3.44558 + 0.25 = -3.19558; ELU: e^-3.19558 - 1 = -0.95906; r'' = 1.21445 - 0.95906 = 0.25539.
# Outer, W = 2, b = 1: the latent is 1.51078. The rationale token's weights of the tokens are 0.05807 and 0.82262.
#
# GAT's form gives the same: layer 1 has W = 1, a_t = a_s = ln 2, and ln 2 > 0 passes through LeakyReLU; layer 2 has
# W = -1, a_t = 0, a_s = -ln 2: LeakyReLU(-ln 2 · (-x_j)) = ln 2 · x_j.
V2 = ({"lin_l": 1, "lin_r": 1, "att": math.log(2)}, {"lin_l": -1, "lin_r": 0, "att": -5 * math.log(2)})
V1 = (
    {"lin": 1, "att_dst": math.log(2), "att_src": math.log(2)},
    {"lin": -1, "att_dst": 0, "att_src": -math.log(2)},
)


class FirstHearsSecond(TokenGraph):
    def adjacency(self, tokens):
        edges = torch.zeros(1, 3, 3, dtype=torch.bool)
        edges[0, 0, 1] = True
        edges[0, :, 2] = edges[0, 2, :] = True  # the pad's edges, which count for nothing
        return edges


@pytest.mark.parametrize(("layer", "weights"), [("gatv2", V2), ("gat", V1)])
def test_latent_and_token_weights_by_hand(layer, weights):
    extractor = GATExtractor(1, 1, width=1, heads=1, layer=layer, graph=FirstHearsSecond()).eval()
    extractor.reduce = nn.Identity()
    extractor.norms = nn.ModuleList([nn.Identity(), nn.Identity()])
    values = [("rationale_tokens", 0), ("outer.weight", 2), ("outer.bias", 1), ("layers.1.bias", 0.25)]
    for number, own in enumerate(weights):
        values += [(f"layers.{number}.{name}{'' if 'att' in name else '.weight'}", v) for name, v in own.items()]
    parameters = dict(extractor.named_parameters())
    with torch.no_grad():
        for parameter in parameters.values():
            parameter.zero_()
        for name, value in values:
            parameters[name].fill_(value)
    mask = torch.tensor([[True, True, False]])
    tokens = TokenStates(torch.tensor([[[-1.0], [2.0], [50.0]]]), mask, mask.long(), mask.long())
    torch.testing.assert_close(extractor(tokens), torch.tensor([[[1.51078]]]), atol=1e-4, rtol=0)
    expected = torch.tensor([[[0.05807, 0.82262, 0.0]]])
    torch.testing.assert_close(extractor.token_weights(tokens), expected, atol=1e-4, rtol=0)


def dense(extractor, tokens):
    """Latents and token weights of the equations in GATExtractor's docstring, node by node in Python loops."""
    hears = extractor.graph.adjacency(tokens)
    latents, token_weights = [], []
    for b, mask in enumerate(tokens.mask):
        real, number = mask.nonzero()[:, 0].tolist(), extractor.num_perspectives
        nodes = torch.cat([extractor.reduce(tokens.states[b, real]), extractor.rationale_tokens])
        own = [{i} | {j for j in range(len(real)) if hears[b, real[i], real[j]]} for i in range(len(real))]
        own += [{*range(len(real)), len(real) + p} for p in range(number)]
        for layer, norm in zip(extractor.layers, extractor.norms, strict=True):
            out, shares = [], []
            for i, sources in enumerate(own):
                heard, share = attend(layer, nodes, i, sorted(sources))
                out.append(norm(nodes[i] + F.elu(heard)))
                shares.append(share)
            nodes = torch.stack(out)
        latents.append(extractor.outer(nodes[-number:]))
        weight = torch.zeros(number, len(mask))
        for p in range(number):
            for j, share in shares[len(real) + p].items():
                if j < len(real):
                    weight[p, real[j]] = share
        token_weights.append(weight)
    return torch.stack(latents), torch.stack(token_weights)


def attend(layer, nodes, i, sources):
    """What node i hears (G,), and its attention to each source, the mean over heads."""
    heads, size = layer.heads, layer.out_channels
    heard, share = torch.zeros(heads, size), dict.fromkeys(sources, 0.0)
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        scores, messages = [], []
        for j in sources:
            if hasattr(layer, "att"):  # GATv2
                message = layer.lin_l(nodes[j])[part]
                inner = layer.lin_r(nodes[i])[part] + message
                scores.append(layer.att[0, head] @ torch.where(inner > 0, inner, 0.2 * inner))
            else:
                message = layer.lin(nodes[j])[part]
                score = layer.att_dst[0, head] @ layer.lin(nodes[i])[part] + layer.att_src[0, head] @ message
                scores.append(torch.where(score > 0, score, 0.2 * score))
            messages.append(message)
        alpha = torch.stack(scores).exp() / torch.stack(scores).exp().sum()
        for j, a, message in zip(sources, alpha, messages, strict=True):
            heard[head] += a * message
            share[j] += float(a) / heads
    return heard.flatten() + layer.bias, share


@pytest.mark.parametrize(
    ("layer", "num_layers", "graph"),
    [
        ("gatv2", 2, "default"),
        ("gatv2", 3, "similarity"),
        ("gatv2", 2, "full"),
        ("gat", 2, "lexical"),
        ("gat", 3, "window"),
    ],
)
def test_equals_a_dense_reference(layer, num_layers, graph):  # trap 22
    torch.manual_seed(0)
    arguments = {"width": 8, "heads": 2, "layer": layer, "num_layers": num_layers, "graph": GRAPHS[graph]}
    extractor = GATExtractor(6, 5, 2, **arguments).eval()
    for parameter in extractor.parameters():  # biases begin at zero, norms at one
        nn.init.normal_(parameter, std=0.5)
    tokens = few_words(2, 9, 6)
    with torch.no_grad():
        latents, weights = dense(extractor, tokens)
        torch.testing.assert_close(extractor(tokens), latents, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(extractor.token_weights(tokens), weights, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("layer", ["gatv2", "gat"])
def test_token_weights_lack_what_the_latent_gives_itself(layer):
    torch.manual_seed(0)
    extractor = GATExtractor(32, 24, 3, layer=layer).eval()
    tokens = few_words(4, 13, 32)
    weights = extractor.token_weights(tokens)
    assert isinstance(extractor, AttentiveExtractor)
    assert weights.shape == (4, 3, 13)
    assert not weights[~tokens.mask[:, None].expand_as(weights)].any()
    assert (weights[tokens.mask[:, None].expand_as(weights)] > 0).all(), "it hears every real token"
    assert (weights.sum(-1) < 1).all()


def test_without_edges_it_is_finite_and_no_token_hears_another():  # trap 22
    torch.manual_seed(0)
    extractor = GATExtractor(8, 4, 2, width=8, heads=2, graph=NoEdge()).eval()
    tokens = few_words(3, 9, 8)
    tokens.mask[2, 1:] = False
    tokens.states.requires_grad_()
    latents = extractor(tokens)
    latents.square().sum().backward()
    assert torch.isfinite(latents).all()
    assert torch.isfinite(tokens.states.grad).all()
    # Without edges the order of the tokens says nothing; with a window it does.
    turned = TokenStates(tokens.states.flip(1), tokens.mask.flip(1), tokens.segments.flip(1), tokens.ids.flip(1))
    torch.testing.assert_close(extractor(turned), latents, atol=1e-5, rtol=1e-5)


def test_exported_form_agrees_whatever_the_number_of_edges():  # trap 22
    torch.manual_seed(0)
    extractor = GATExtractor(8, 4, 2, width=8, heads=2).eval()
    run = export_to_onnx(extractor, few_words(3, 11, 8))
    usual, no_common_word, one_word, single_tokens = (few_words(4, 14, 8) for _ in range(4))
    no_common_word.ids = torch.arange(4 * 14).reshape(4, 14)
    one_word.ids = torch.full_like(one_word.ids, 5)
    single_tokens.mask[:, 1:], single_tokens.segments[:] = False, -1
    for tokens in (usual, few_words(1, 6, 8), no_common_word, one_word, single_tokens):
        torch.testing.assert_close(run(tokens), extractor(tokens).detach(), atol=1e-4, rtol=1e-4)


def test_token_edges_reach_the_latents():
    # The rationale tokens hear every token in any case, so only what tokens hear of each other can differ.
    found = [latents(graph=graph) for graph in (NoEdge(), *GRAPHS.values())]
    assert all(not torch.allclose(a, b, atol=1e-5) for i, a in enumerate(found) for b in found[:i])


def latents(train=False, **arguments):
    torch.manual_seed(0)
    extractor = GATExtractor(8, 4, **({"width": 8, "heads": 2} | arguments)).train(train)
    torch.manual_seed(1)
    return extractor(few_words(3, 11, 8))


OTHER = {
    "num_perspectives": 2,
    "graph": FullGraph(),
    "width": 16,
    "num_layers": 3,
    "heads": 4,
    "layer": "gat",
}


@pytest.mark.parametrize("name", OTHER)
def test_every_argument_changes_the_latents(name):  # trap 29
    usual, other = latents(), latents(**{name: OTHER[name]})
    assert usual.shape != other.shape or not torch.allclose(usual, other)


def test_dropout_acts_in_training_only():  # trap 29
    assert torch.equal(latents(dropout=0.5), latents(dropout=0.0))
    assert not torch.allclose(latents(train=True, dropout=0.5), latents(train=True, dropout=0.0))
    assert {*OTHER, "hidden_size", "target_size", "dropout"} == {*inspect.signature(GATExtractor).parameters}


def test_by_default_the_graph_is_window_and_common_words():
    usual = latents(graph=UnionGraph([WindowGraph(radius=2), LexicalGraph(max_links=4)]))
    assert torch.equal(latents(), usual)


def test_a_graph_in_the_form_that_checkpoints_keep():
    plain = {"class_path": "lrkd.extractors.WindowGraph", "init_args": {"radius": 1}}
    assert torch.equal(latents(graph=plain), latents(graph=WindowGraph(radius=1)))


def test_more_latents_cost_only_their_tokens():
    def shapes(number):
        return {k: v.shape for k, v in GATExtractor(8, 4, number).named_parameters() if k != "rationale_tokens"}

    assert shapes(1) == shapes(3)
    assert GATExtractor(8, 4, 3).rationale_tokens.shape == (3, 128)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_layers": 1}, "num_layers is at least 2"),
        ({"width": 30}, "width 30 is not a multiple of heads 4"),
        ({"layer": "gcn"}, "layer is 'gatv2' or 'gat', got 'gcn'"),
        ({"graph": {"class_path": "lrkd.extractors.MLPExtractor"}}, "not a subclass of .*TokenGraph"),
    ],
)
def test_mistakes_are_named(arguments, message):
    with pytest.raises(UserError, match=message):
        GATExtractor(8, 4, **arguments)


def test_under_autocast_it_computes_in_float32():
    torch.manual_seed(0)
    extractor = GATExtractor(8, 4, width=8, heads=2).eval()
    tokens = few_words(3, 11, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(extractor(tokens), extractor(tokens))
        mixed = extractor(tokens)
    assert mixed.dtype == torch.float32
    assert torch.equal(mixed, extractor(tokens))


def test_a_student_with_it_trains_reloads_and_predicts_the_same(
    tiny_encoder, tiny_root, tiny_targets, tmp_path
):  # trap 37
    data = TripleDataModule(
        str(tiny_root),
        tiny_encoder,
        targets=str(tiny_targets),
        cache_dir=str(tmp_path / "cache"),
        target_mode="per_perspective",
        max_length=32,
        query_cap=12,
        predict_split="test",
    )
    graphs = [{"class_path": f"lrkd.extractors.{name}"} for name in ("WindowGraph", "SimilarityGraph")]
    union = {"class_path": "lrkd.extractors.UnionGraph", "init_args": {"graphs": graphs}}
    student = StudentLRKD(
        tiny_encoder,
        label_set=LabelSet.load("esci").to_dict(),
        target_size=data.target_size,
        num_perspectives=data.num_perspectives,
        text=data.text,
        extractor={"class_path": "lrkd.extractors.GATExtractor", "init_args": {"graph": union, "width": 16}},
        guidance={"class_path": "lrkd.losses.MSEGuidance"},
    )
    before = {name: p.detach().clone() for name, p in student.extractor.named_parameters()}
    quiet = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing"), False)
    trainer = L.Trainer(max_epochs=2, accelerator="cpu", default_root_dir=tmp_path, **quiet)
    trainer.fit(student, datamodule=data)
    assert all(not torch.equal(p, before[name]) for name, p in student.extractor.named_parameters())
    trainer.save_checkpoint(tmp_path / "student.ckpt")
    reloaded = StudentLRKD.load_from_checkpoint(tmp_path / "student.ckpt")
    predicted = [torch.cat(trainer.predict(model, datamodule=data)) for model in (student, reloaded)]
    assert len(predicted[0]) == 6
    assert torch.equal(*predicted)
