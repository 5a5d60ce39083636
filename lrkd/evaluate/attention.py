"""Which words a student's latents look at in one pair: the numbers, and the command that draws them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from lrkd.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from lrkd.data.types import TripleBatch
    from lrkd.extractors import AttentiveExtractor, TokenStates
    from lrkd.student import StudentLRKD

Part = Literal["query", "item", "special"]
_PARTS: dict[int, Part] = {0: "query", 1: "item", -1: "special"}


class Word(NamedTuple):
    """A column of the picture: a word, or one of the tokenizer's special tokens."""

    text: str
    part: Part


@dataclass(frozen=True)
class PairAttention:
    """What a student's P latents look at in one pair of W words.

    Args:
        words: W words and special tokens, in the encoder's order; cut as the encoder's input is.
        latents: P names.
        weights: (P, W) the weight of each word in each latent: the sum over its tokens. A row sums to at most 1.
        probabilities: Label to calibrated probability.
        links: (query word, item word) that hear each other in the extractor's graph; None if it has none.
    """

    words: tuple[Word, ...]
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
    """Draw which words of a pair each latent of a trained student looks at, with the student's verdict.

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
        most = ", ".join(f"{found.words[place].text} {row[place]:.0%}" for place in (-row).argsort()[:3])
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
    batch, words, place = _read(model, query, title)
    training = model.training
    model.eval()  # dropout would fall on the weights
    with torch.no_grad():
        output = model(batch)
        weights = extractor.token_weights(output.tokens)[0].float()  # (P, L)
        probabilities = torch.softmax(output.logits[0].float() / model.temperature, -1).tolist()
    model.train(training)
    by_word = weights.new_zeros(len(weights), len(words)).index_add(1, torch.tensor(place).to(weights.device), weights)
    return PairAttention(
        words=words,
        latents=latents or _numbered(len(weights)),
        weights=by_word.cpu().numpy(),
        probabilities=dict(zip(model.label_set.labels, probabilities, strict=True)),
        links=_links(extractor, output.tokens, place),
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


def _read(model: StudentLRKD, query: str, title: str) -> tuple[TripleBatch, tuple[Word, ...], list[int]]:
    """A pair as the encoder gets it, its words, and which word each of the L tokens belongs to."""
    import numpy as np
    import torch
    from transformers import AutoTokenizer

    from lrkd.data.tokens import FlatTokens, PairLayout, TokenCache
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
    flat_query, flat_item = (FlatTokens(np.array(e.ids), np.array([0, len(e.ids)])) for e in encodings)
    cache = TokenCache(flat_query, flat_item, layout, settings["max_length"], settings["query_cap"])
    tensors = {name: torch.from_numpy(a).to(model.device) for name, a in cache.batch(np.zeros(1, np.int64)).items()}
    one = torch.zeros(1, dtype=torch.long, device=model.device)
    batch = TripleBatch(row=one, query=one, label=one - 1, **tensors)
    special = tokenizer.convert_ids_to_tokens(batch.ids[0].tolist())
    words, place = _words(batch.segments[0].tolist(), special, texts, encodings)
    return batch, words, place


def _words(
    segments: list[int], tokens: list[str], texts: list[str], encodings: list[Any]
) -> tuple[tuple[Word, ...], list[int]]:
    """Tokens put together to words, as they stand in the texts, and the word of each token."""
    spans: list[tuple[int, str, int, int]] = []  # segment, special token, start and end in the text
    place, last = [], None
    pieces = [iter(zip(e.word_ids, e.offsets, strict=True)) for e in encodings]
    for segment, token in zip(segments, tokens, strict=True):
        word, (start, end) = next(pieces[segment]) if segment >= 0 else (None, (0, 0))
        if segment >= 0 and (segment, word) == last:
            spans[-1] = (*spans[-1][:3], end)
        else:
            spans.append((segment, token, start, end))
        last = (segment, word)
        place.append(len(spans) - 1)
    words = (Word(texts[s][start:end].strip() if s >= 0 else token, _PARTS[s]) for s, token, start, end in spans)
    return tuple(words), place


def _links(extractor: AttentiveExtractor, tokens: TokenStates, place: list[int]) -> tuple[tuple[int, int], ...] | None:
    """The query and item words between which the extractor's graph has an edge, in either direction."""
    from lrkd.extractors import TokenGraph

    graph = getattr(extractor, "graph", None)
    if not isinstance(graph, TokenGraph):
        return None
    edges, segments = graph.adjacency(tokens)[0], tokens.segments[0]
    across = (edges | edges.T) & (segments == 0)[:, None] & (segments == 1)
    return tuple(sorted({(place[q], place[i]) for q, i in across.nonzero().tolist()}))
