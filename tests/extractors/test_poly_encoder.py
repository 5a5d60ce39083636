import functools
import inspect
import math

import pytest
import torch

from lrkd.errors import UserError
from lrkd.extractors import AttentiveExtractor, PolyEncoderExtractor, TokenStates
from lrkd.testing import ExtractorContract, example_tokens


class TestPolyEncoderExtractor(ExtractorContract):
    factory = PolyEncoderExtractor


class TestMeanPolyEncoderExtractor(ExtractorContract):
    factory = staticmethod(functools.partial(PolyEncoderExtractor, reduction="mean", num_codes=3, dropout=0.5))
    perspectives = (3,)


class TestOneCodePolyEncoderExtractor(ExtractorContract):
    factory = staticmethod(functools.partial(PolyEncoderExtractor, num_codes=1, reduction="mean"))
    test_onnx_export = None  # no other graph than with three codes


# H = 2, R = 1, M = 2. LayerNorm of [0, 2] is [-1, 1] (mean 1, sd 1), of [4, 0] it is [1, -1]: x_1 and x_2.
# Codes c_1 = √2·[-a, 0] with a = ln 3 / 2, and c_2 = [0, 0]. The scores c·x / √2 are a and -a for c_1, 0 and 0 for c_2:
#   c_1's weights are 3/4 and 1/4, for the scores differ by ln 3; y_1 = 3/4·[-1, 1] + 1/4·[1, -1] = [-1/2, 1/2];
#   c_2's are 1/2 and 1/2; y_2 = [0, 0].
# The second latent has -c_1 in the place of c_1: weights 1/4 and 3/4, y_1 = [1/2, -1/2], y_2 = [0, 0].
# W = [10, 2], b = 0.5: an y of [-t, t] gives -8t + 0.5.
#
# mean: y = [-1/4, 1/4], r = -1.5; token weights (3/4 + 1/2) / 2 = 5/8 and 3/8. The second latent: r = 2.5; 3/8 and 5/8.
# attention: x_cls = x_1 = [-1, 1], x_cls·y_1 / √2 = 1 / √2, x_cls·y_2 / √2 = 0. The weight of y_1 is
#   w = e^(1/√2) / (e^(1/√2) + 1) = 2.0281 / 3.0281 = 0.66976; y = w·[-1/2, 1/2]; r = -4w + 0.5 = -2.17904;
#   token weights 3/4·w + 1/2·(1 - w) = 0.66744 and 0.33256.
#   The second latent: x_cls·y_1 / √2 = -1 / √2, so y_1 weighs 1 - w = 0.33024; r = 4·0.33024 + 0.5 = 1.82096;
#   token weights 1/4·0.33024 + 1/2·0.66976 = 0.41744 and 0.58256.
BY_HAND = {
    "mean": ([-1.5, 2.5], [[5 / 8, 3 / 8, 0], [3 / 8, 5 / 8, 0]]),
    "attention": ([-2.17904, 1.82096], [[0.66744, 0.33256, 0], [0.41744, 0.58256, 0]]),
}


@pytest.mark.parametrize("reduction", BY_HAND)
def test_latents_and_token_weights_by_hand(reduction):
    extractor = PolyEncoderExtractor(2, 1, 2, num_codes=2, reduction=reduction).eval()
    code = torch.tensor([-math.sqrt(2) * math.log(3) / 2, 0.0])
    with torch.no_grad():
        extractor.codes.copy_(torch.stack([torch.stack([code, 0 * code]), torch.stack([-code, 0 * code])]))
        extractor.outer.weight.copy_(torch.tensor([[10.0, 2.0]]))
        extractor.outer.bias.fill_(0.5)
    mask = torch.tensor([[True, True, False]])  # the third is a pad with a state that would count for much
    tokens = TokenStates(torch.tensor([[[0.0, 2.0], [4.0, 0.0], [99.0, 0.0]]]), mask, mask.long(), mask.long())
    latents, weights = BY_HAND[reduction]
    torch.testing.assert_close(extractor(tokens), torch.tensor([latents]).unsqueeze(-1), atol=1e-4, rtol=0)
    torch.testing.assert_close(extractor.token_weights(tokens), torch.tensor([weights]), atol=1e-4, rtol=0)


@pytest.mark.parametrize("reduction", ["attention", "mean"])
def test_token_weights_are_those_of_the_latent(reduction):
    # r = W (Σ_l weight_l x_l) + b: the latent follows from the weights alone, and they sum to 1 over real tokens.
    extractor = PolyEncoderExtractor(32, 24, 3, reduction=reduction).eval()
    tokens = example_tokens(4, 13, 32)
    weights = extractor.token_weights(tokens)
    assert isinstance(extractor, AttentiveExtractor)
    assert weights.shape == (4, 3, 13)
    assert (weights >= 0).all()
    assert not weights[~tokens.mask[:, None].expand_as(weights)].any()
    torch.testing.assert_close(weights.sum(-1), torch.ones(4, 3))
    torch.testing.assert_close(extractor.outer(weights @ extractor.norm(tokens.states)), extractor(tokens))


def latents(train=False, **arguments):
    torch.manual_seed(0)
    extractor = PolyEncoderExtractor(8, 4, **arguments).train(train)
    torch.manual_seed(1)
    return extractor(example_tokens(2, 7, 8))


OTHER = {"num_perspectives": 2, "num_codes": 3, "reduction": "mean"}


@pytest.mark.parametrize("name", OTHER)
def test_every_argument_changes_the_latents(name):  # trap 29
    usual, other = latents(), latents(**{name: OTHER[name]})
    assert usual.shape != other.shape or not torch.allclose(usual, other)


def test_dropout_acts_in_training_only():  # trap 29
    assert torch.equal(latents(dropout=0.5), latents(dropout=0.0))
    assert not torch.allclose(latents(train=True, dropout=0.5), latents(train=True, dropout=0.0))
    assert {*OTHER, "hidden_size", "target_size", "dropout"} == {*inspect.signature(PolyEncoderExtractor).parameters}


def test_parameters_are_as_many_whether_codes_serve_one_latent_or_several():
    def count(**sizes):
        return sum(p.numel() for p in PolyEncoderExtractor(8, 4, **sizes).parameters())

    # LayerNorm 2·8, codes 12·8, W 4·8, b 4
    assert count(num_perspectives=3, num_codes=4) == count(num_perspectives=1, num_codes=12) == 16 + 96 + 36


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_codes": 0}, "num_codes is at least 1, got 0"),
        ({"reduction": "max"}, "reduction is 'attention' or 'mean', got 'max'"),
    ],
)
def test_mistakes_are_named(arguments, message):
    with pytest.raises(UserError, match=message):
        PolyEncoderExtractor(8, 4, **arguments)
