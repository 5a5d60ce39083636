"""Which tokens a student's latents look at in one pair: the numbers, and the command that draws them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from lrkd.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np

    from lrkd.data.types import TripleBatch
    from lrkd.extractors import AttentiveExtractor, TokenStates
    from lrkd.student import StudentLRKD

Part = Literal["query", "item", "special"]
_PARTS: dict[int, Part] = {0: "query", 1: "item", -1: "special"}


class Token(NamedTuple):
    """A column of the picture: a word, a piece of one, or one of the tokenizer's special tokens."""

    text: str
    part: Part


@dataclass(frozen=True)
class PairAttention:
    """What a student's P latents look at in one pair of L tokens.

    Args:
        tokens: L tokens as they stand in the texts, in the encoder's order; a word's later pieces begin with ``·``.
        latents: P names.
        weights: (P, L) the weight of each token in each latent. A row sums to at most 1.
        probabilities: Label to calibrated probability.
        links: (query token, item token) of which one hears the other in the extractor's graph; None without a graph.
    """

    tokens: tuple[Token, ...]
    latents: tuple[str, ...]
    weights: np.ndarray
    probabilities: dict[str, float]
    links: tuple[tuple[int, int], ...] | None = None


def plot_attention(
    ckpt_path: Path,
    *,
    query: str,
    title: str,
    out: Path = Path("runs/attention.png"),
) -> None:
    """Draw which tokens of a pair each latent of a trained student looks at, with the student's verdict.

    For students with a Poly-Encoder or GAT extractor. For example:

        python -m lrkd attention --ckpt_path runs/lrkd_gat-seed0/checkpoints/best.ckpt --query "red mug" --title "Mug"

    Args:
        ckpt_path: The student's checkpoint; the latents' names come from its run's run.json, if it is there.
        query: The query.
        title: The item's title; other fields of the item are taken as empty.
        out: The picture; the ending (.png, .svg, .pdf) decides its format.

    Raises:
        UserError: There is no such checkpoint, its extractor cannot say what it looks at, or a text is empty.
    """
    from lrkd.evaluate.attention_plot import draw
    from lrkd.student import StudentLRKD

    ckpt_path, out = Path(ckpt_path), Path(out)
    if not ckpt_path.is_file():
        raise UserError(f"--ckpt_path {ckpt_path}: no such checkpoint")
    model = StudentLRKD.load_from_checkpoint(ckpt_path, map_location="cpu")
    found = token_weights_of(model, query, title, latents=latent_names(ckpt_path, model.hparams["num_perspectives"]))
    print(f"read {ckpt_path} ({type(model.extractor).__name__})")
    for name, row in zip(found.latents, found.weights, strict=True):
        most = ", ".join(f"{found.tokens[place].text} {row[place]:.0%}" for place in (-row).argsort()[:3])
        print(f"  {name}: {most}")
    out.parent.mkdir(parents=True, exist_ok=True)
    draw(found, out)
    print(f"wrote {out}")


def token_weights_of(
    model: StudentLRKD, query: str, title: str, *, latents: tuple[str, ...] | None = None
) -> PairAttention:
    """What a student's latents look at in one pair, and what it says of the pair.

    Args:
        model: With an extractor that has ``token_weights`` (:class:`~lrkd.extractors.AttentiveExtractor`).
        query: The query.
        title: The item's title; other fields of the item are taken as empty.
        latents: Names of the P latents; numbers by default.

    Raises:
        UserError: The extractor has no ``token_weights``, or a text is empty.
    """
    import torch

    extractor = _attentive(model)
    batch, read = _read(model, query, title)
    training = model.training
    model.eval()  # dropout would fall on the weights
    with torch.no_grad():
        output = model(batch)
        weights = extractor.token_weights(output.tokens)[0].float()  # (P, L)
        probabilities = torch.softmax(output.logits[0].float() / model.temperature, -1).tolist()
    model.train(training)
    return PairAttention(
        tokens=read,
        latents=latents or _numbered(len(weights)),
        weights=weights.cpu().numpy(),
        probabilities=dict(zip(model.label_set.labels, probabilities, strict=True)),
        links=_links(extractor, output.tokens),
    )


def latent_names(ckpt_path: Path, number: int) -> tuple[str, ...]:
    """The perspectives of a checkpoint's latents, from its run's ``run.json``; numbers where it does not tell.

    Args:
        ckpt_path: A checkpoint, in the ``checkpoints/`` of a run's folder or anywhere else.
        number: P.
    """
    file = ckpt_path.resolve().parents[1] / "run.json"
    record = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    perspectives = ((record.get("data") or {}).get("targets") or {}).get("perspectives", [])
    if number > 1 and len(perspectives) == number:  # the targets' order, by name, is the latents'
        return tuple(name.replace("_", " ") for name in perspectives)
    return _numbered(number)


def _numbered(number: int) -> tuple[str, ...]:
    return ("latent",) if number == 1 else tuple(f"latent {n}" for n in range(1, number + 1))


def _attentive(model: StudentLRKD) -> AttentiveExtractor:
    from lrkd.extractors import AttentiveExtractor

    extractor: object = model.extractor
    if isinstance(extractor, AttentiveExtractor):
        return extractor
    name = "no extractor" if extractor is None else f"the extractor {type(extractor).__name__}"
    raise UserError(
        f"the student has {name}, which cannot say which tokens it looks at. PolyEncoderExtractor and GATExtractor can "
        "(configs/student/lrkd_poly.yaml, lrkd_gat.yaml), and so can one of your own with a method token_weights"
    )


def _read(model: StudentLRKD, query: str, title: str) -> tuple[TripleBatch, tuple[Token, ...]]:
    """A pair as the encoder gets it, and its tokens as a person reads them."""
    import numpy as np
    import torch
    from transformers import AutoTokenizer

    from lrkd.data.pair_tokens import FlatTokens, PairLayout, TokenCache
    from lrkd.data.types import ItemText, TripleBatch
    from lrkd.pretrained import resolve

    settings = {"item_text": "{title}", "max_length": 128, "query_cap": 32} | (model.hparams["text"] or {})
    texts = [query, ItemText(settings["item_text"]).render({"title": title})]
    for name, text in zip(("--query", "--title"), texts, strict=True):
        if not text.strip():
            raise UserError(f"{name} is empty; give the pair's text")
    tokenizer: Any = AutoTokenizer.from_pretrained(resolve(model.hparams["encoder"]))
    layout = PairLayout.of(tokenizer)
    encodings = [tokenizer.backend_tokenizer.encode(text, add_special_tokens=False) for text in texts]
    flat_query, flat_item = (FlatTokens.of([encoding.ids]) for encoding in encodings)
    cache = TokenCache(flat_query, flat_item, layout, settings["max_length"], settings["query_cap"])
    tensors = {name: torch.from_numpy(a).to(model.device) for name, a in cache.batch(np.zeros(1, np.int64)).items()}
    one = torch.zeros(1, dtype=torch.long, device=model.device)
    batch = TripleBatch(row=one, query=one, label=one - 1, step=None, **tensors)
    special = tokenizer.convert_ids_to_tokens(batch.ids[0].tolist())
    pieces = [_pieces(text, encoding) for text, encoding in zip(texts, encodings, strict=True)]
    read = (
        Token(token if segment < 0 else next(pieces[segment]), _PARTS[segment])
        for segment, token in zip(batch.segments[0].tolist(), special, strict=True)
    )
    return batch, tuple(read)


def _pieces(text: str, encoding: Any) -> Iterator[str]:
    """A text's tokens as they stand in it; those that go on with a word begin with ``·``."""
    last = None
    for word, (start, end) in zip(encoding.word_ids, encoding.offsets, strict=True):
        yield ("·" if word == last else "") + text[start:end].strip()
        last = word


def _links(extractor: AttentiveExtractor, tokens: TokenStates) -> tuple[tuple[int, int], ...] | None:
    """The query and item tokens between which the extractor's graph has an edge, in either direction."""
    from lrkd.extractors import TokenGraph

    graph = getattr(extractor, "graph", None)
    if not isinstance(graph, TokenGraph):
        return None
    edges, segments = graph.adjacency(tokens)[0], tokens.segments[0]
    across = (edges | edges.T) & (segments == 0)[:, None] & (segments == 1)
    return tuple((query, item) for query, item in across.nonzero().tolist())
