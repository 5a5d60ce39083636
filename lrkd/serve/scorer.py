"""Scorer: an exported student scores pairs with onnxruntime and tokenizers alone."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

from lrkd.data.label_set import LabelSet
from lrkd.data.pair_tokens import FlatTokens, PairLayout, TokenCache, encode
from lrkd.errors import UserError
from lrkd.serve.card import MODEL_FILE, TOKENIZER_FILE, StudentCard

TOKEN_BUDGET = 2048
STEP = 4
"""Pairs are padded to a multiple of so many tokens: more makes fewer batches, less makes less padding."""

SLOWER = ["SkipLayerNormFusion"]
"""Fusions of onnxruntime that cost: an addition and a normalisation apart take a fifth of the time of both in one."""


@dataclass(frozen=True)
class Scored:
    """What the student says of N pairs.

    Args:
        probabilities: (N, C) float32: of each label, calibrated by the card's temperature.
        latents: (N, P, R) float32; None where the student has no extractor.
        tokens_cut: (N,) int: tokens that truncation took from query and item.
        label_set: The C labels in order, with gains.
    """

    probabilities: np.ndarray
    latents: np.ndarray | None
    tokens_cut: np.ndarray
    label_set: LabelSet

    def __len__(self) -> int:
        return len(self.probabilities)

    @property
    def labels(self) -> list[str]:
        """The most probable label of each pair."""
        return [self.label_set.labels[place] for place in self.probabilities.argmax(1)]

    @property
    def gains(self) -> np.ndarray:
        """(N,) float32: the expected gain Σ_c p_c · gain_c, which pairs are ranked by."""
        gains: np.ndarray = self.probabilities @ np.array(self.label_set.gains, np.float32)
        return gains


@dataclass(frozen=True)
class Ranking:
    """A query's items, best first.

    Args:
        order: Where each stands in the list that was given.
        scored: What the student says of them, in the order that they were given in.
    """

    order: list[int]
    scored: Scored


class Scorer:
    """An exported student. Its methods may be called from several threads at once.

    Pairs are scored in batches of like length; a pair's numbers do not depend on what else is scored with it
    (:func:`token_batches`).

    Args:
        folder: What ``python -m lrkd export`` wrote.
        threads: Threads of a matrix product; all cores that the process may use by default.
        token_budget: Tokens of a batch at most, padding included (a longer pair goes alone).

    Raises:
        UserError: The folder is none of an exported student, or an argument is out of range.
    """

    def __init__(self, folder: str | Path, *, threads: int | None = None, token_budget: int = TOKEN_BUDGET) -> None:
        if threads is not None and threads < 1:
            raise UserError(f"threads is at least 1, got {threads}")
        if token_budget < 1:
            raise UserError(f"token_budget is at least 1, got {token_budget}")
        folder = Path(folder)
        self.card = StudentCard.read(folder)
        self.token_budget = token_budget
        self._tokenizer = Tokenizer.from_file(str(folder / TOKENIZER_FILE))
        self._layout = PairLayout.read(self._tokenizer, self.card.pad_id, str(folder / TOKENIZER_FILE))
        self._session = session(folder / MODEL_FILE, threads or cores())
        self._inputs = [node.name for node in self._session.get_inputs()]

    def check(self, pair: Mapping[str, Any]) -> None:
        """Check that a pair can be scored: query and, where the item's text has it, title are text and not blank.

        Args:
            pair: ``query`` and the item's fields. Fields that the item's text does not have are not looked at; others
                than title may be missing; category may be a list of texts.

        Raises:
            UserError: A field is missing, blank, or no text; names it.
        """
        if not isinstance(pair, Mapping):
            raise UserError(f"a pair is a mapping of field to text, got {type(pair).__name__}")
        for name in ("query", *self.card.item_text.fields):
            value = pair.get(name)
            if value is None and name not in ("query", "title"):
                continue
            texts = value if name == "category" and isinstance(value, list | tuple) else [value]
            if not all(isinstance(text, str) for text in texts):
                raise UserError(f"{name}: expected text, got {'nothing' if value is None else repr(value)[:80]}")
            if name in ("query", "title") and not str(value).strip():
                raise UserError(f"{name}: empty")
            if not all(map(_is_unicode, texts)):
                raise UserError(f"{name}: holds half of a surrogate pair, which is no character")

    def score(self, pairs: Sequence[Mapping[str, Any]]) -> Scored:
        """Score N pairs.

        Args:
            pairs: Each has ``query`` and the fields of the item's text (``title``, ...).

        Raises:
            UserError: A pair cannot be scored (see :meth:`check`); names its place and field.
        """
        for place, pair in enumerate(pairs):
            try:
                self.check(pair)
            except UserError as error:
                raise UserError(f"pair {place}: {error}") from error
        render = self.card.item_text.render
        return self.score_texts([pair["query"] for pair in pairs], [render(pair) for pair in pairs])

    def rank(self, query: str, items: Sequence[Mapping[str, Any]]) -> Ranking:
        """Order a query's items by expected gain, best first; equal ones stay in the order given.

        Args:
            query: The query.
            items: Each has the fields of the item's text.

        Raises:
            UserError: As :meth:`score`.
        """
        scored = self.score([{**item, "query": query} for item in items])
        return Ranking(np.argsort(-scored.gains, kind="stable").tolist(), scored)

    def score_texts(self, queries: Sequence[str], items: Sequence[str]) -> Scored:
        """Score N pairs whose items' texts are made already.

        Args:
            queries: N queries.
            items: N items' texts, as :class:`~lrkd.data.item_text.ItemText` renders them.
        """
        tokens = self.tokens(queries, items)
        logits, latents = self._run(tokens)
        return Scored(
            softmax(logits / np.float32(self.card.temperature)),
            latents,
            np.sum(tokens.cut, axis=0),
            self.card.label_set,
        )

    def tokens(self, queries: Sequence[str], items: Sequence[str]) -> TokenCache:
        """The tokens of N pairs, laid out as in training."""
        flat = (self._flat(queries), self._flat(items))
        return TokenCache(*flat, self._layout, self.card.max_length, self.card.query_cap)

    @property
    def special_tokens(self) -> int:
        """How many special tokens a pair has."""
        return self._layout.special

    def count_tokens(self, text: str) -> int:
        """How many tokens a text has, without special ones."""
        return len(self._flat([text]).values)

    def _flat(self, texts: Sequence[str]) -> FlatTokens:
        """The texts' tokens; each different text is tokenised once: the pairs of a ranking share their query."""
        places: dict[str, int] = {}
        for text in texts:
            places.setdefault(text, len(places))
        ids = [one for piece in encode(self._tokenizer, list(places)) for one in piece]
        return FlatTokens.of([ids[places[text]] for text in texts])

    def _run(self, tokens: TokenCache) -> tuple[np.ndarray, np.ndarray | None]:
        """Logits (N, C) and latents (N, P, R) in the pairs' order."""
        lengths, card = tokens.lengths, self.card
        sizes = [(len(card.label_set),), *([(len(card.latents), card.latent_size)] if card.latents else [])]
        outputs = [np.empty((len(lengths), *size), np.float32) for size in sizes]
        for rows, length in token_batches(lengths, self.token_budget, self.card.max_length):
            batch = tokens.batch(rows, length)
            found = self._session.run(None, {name: batch[name] for name in self._inputs})
            for output, values in zip(outputs, found, strict=True):
                output[rows] = values
        return outputs[0], outputs[1] if len(outputs) > 1 else None


def token_batches(lengths: np.ndarray, budget: int, longest: int) -> Iterator[tuple[np.ndarray, int]]:
    """Pairs of like length together, so that there is next to no padding, and none that depends on the neighbours.

    Every pair is padded to the next multiple of :data:`STEP`, and a batch holds pairs of one padded length. So a pair
    is computed in the same shape whatever else is scored, and rounding, which integers would amplify, is the same.

    Args:
        lengths: (N,) tokens of each pair.
        budget: Tokens of a batch at most, padding included; a longer pair goes alone.
        longest: What no pair is padded beyond.

    Yields:
        Rows (B,) int64 of a batch, and the length to pad them to; every row once, the longest first.
    """
    padded = np.minimum(-(-lengths // STEP) * STEP, longest)
    for length in np.unique(padded)[::-1].tolist():
        rows, size = np.flatnonzero(padded == length), max(1, budget // length)
        for start in range(0, len(rows), size):
            yield rows[start : start + size], length


def session(graph: Path | bytes, threads: int) -> onnxruntime.InferenceSession:
    """A graph, ready to run on the CPU.

    Args:
        graph: A file, or its content.
        threads: Threads of a matrix product.

    Raises:
        UserError: onnxruntime cannot load it.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    try:
        content = graph if isinstance(graph, bytes) else str(graph)
        return onnxruntime.InferenceSession(
            content, options, providers=["CPUExecutionProvider"], disabled_optimizers=SLOWER
        )
    except Exception as error:  # onnxruntime's own exceptions share no base class
        where = "graph" if isinstance(graph, bytes) else graph
        raise UserError(
            f"{where}: onnxruntime {onnxruntime.__version__} cannot load it ({error}); use the version on the card"
        ) from error


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities (N, C) of logits (N, C), row by row."""
    exponents = np.exp(logits - logits.max(1, keepdims=True))
    probabilities: np.ndarray = exponents / exponents.sum(1, keepdims=True)
    return probabilities


def _is_unicode(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
