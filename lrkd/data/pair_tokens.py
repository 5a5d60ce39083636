"""Token ids of pairs, laid out as padded batches without Python loops: the same in training and in serving.

A fast tokenizer encodes query and item each for itself and only then adds special tokens. So the two are tokenised
once, uncut, and the pair is put together when a batch is made: any length and any query cap work from the same tokens.
This module imports neither torch nor pyarrow.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from lrkd.errors import UserError

TOKEN = np.int32
ENCODE_TEXTS = 2048


@dataclass(frozen=True)
class PairLayout:
    """Where a tokenizer puts special tokens in a pair: ``prefix query middle item suffix``."""

    prefix: np.ndarray
    middle: np.ndarray
    suffix: np.ndarray
    type_ids: tuple[int, int, int, int, int]
    """Token type of prefix, query, middle, item and suffix."""
    pad: int

    @property
    def special(self) -> int:
        """How many special tokens a pair has."""
        return len(self.prefix) + len(self.middle) + len(self.suffix)

    @classmethod
    def of(cls, tokenizer: Any) -> PairLayout:
        """Read the layout off a tokenizer of transformers.

        Raises:
            UserError: The tokenizer has no fast backend or no pad token, or lays pairs out in another way.
        """
        backend = backend_of(tokenizer)
        if tokenizer.pad_token_id is None:
            raise UserError(f"tokenizer {tokenizer.name_or_path!r} has no pad token; a student's encoder needs one")
        return cls.read(backend, tokenizer.pad_token_id, tokenizer.name_or_path)

    @classmethod
    def read(cls, backend: Any, pad: int, name: str) -> PairLayout:
        """Read the layout off a tokenizer of the library tokenizers, and check it on a pair.

        Args:
            backend: A ``tokenizers.Tokenizer`` without truncation and padding.
            pad: The id of the pad token.
            name: The tokenizer's, for messages.

        Raises:
            UserError: It lays pairs out in another way.
        """
        encoding = backend.encode("red shoes", "blue suede shoe")
        ids, types, part = np.array(encoding.ids), np.array(encoding.type_ids), encoding.sequence_ids
        query = [i for i, segment in enumerate(part) if segment == 0]
        item = [i for i, segment in enumerate(part) if segment == 1]
        prefix, middle, suffix = (
            slice(0, query[0]), slice(query[-1] + 1, item[0]), slice(item[-1] + 1, len(ids)),
        )  # fmt: skip
        type_ids = tuple(
            int(types[piece][0]) if len(types[piece]) else 0
            for piece in (prefix, slice(query[0], query[-1] + 1), middle, slice(item[0], item[-1] + 1), suffix)
        )
        layout = cls(ids[prefix], ids[middle], ids[suffix], type_ids, pad)  # type: ignore[arg-type]
        parts = [backend.encode(text, add_special_tokens=False).ids for text in ("red shoes", "blue suede shoe")]
        if [*layout.prefix, *parts[0], *layout.middle, *parts[1], *layout.suffix] != encoding.ids:
            raise UserError(f"tokenizer {name!r} does not encode the two texts of a pair separately")
        return layout


def backend_of(tokenizer: Any) -> Any:
    """The ``tokenizers.Tokenizer`` of a tokenizer of transformers, without truncation and padding.

    Raises:
        UserError: It has none.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise UserError(f"tokenizer {tokenizer.name_or_path!r} has no fast (Rust) version; lrkd needs one")
    backend.no_truncation()
    backend.no_padding()
    return backend


def encode(backend: Any, texts: Sequence[str]) -> Iterator[list[list[int]]]:
    """The texts' token ids without special ones, some texts at a time: their encodings hold far more than the ids."""
    for start in range(0, len(texts), ENCODE_TEXTS):
        piece = texts[start : start + ENCODE_TEXTS]
        yield [encoding.ids for encoding in backend.encode_batch_fast(piece, add_special_tokens=False)]


@dataclass
class FlatTokens:
    """N texts' tokens in one array: text i is ``values[offsets[i] : offsets[i + 1]]``."""

    values: np.ndarray
    """(T,) int32, memory-mapped."""
    offsets: np.ndarray
    """(N + 1,) int64."""

    @classmethod
    def of(cls, texts: Sequence[list[int]]) -> FlatTokens:
        """N texts' token ids, in memory."""
        offsets = np.cumsum([0, *map(len, texts)], dtype=np.int64)
        return cls(np.fromiter(chain.from_iterable(texts), TOKEN, int(offsets[-1])), offsets)

    @property
    def lengths(self) -> np.ndarray:
        """(N,) int64: tokens of each text."""
        return np.diff(self.offsets)


@dataclass
class TokenCache:
    """The tokens of a data root's N pairs, and how to make batches of them.

    Args:
        queries: The queries' tokens, uncut, one a pair.
        items: The items' tokens, uncut, one a pair.
        layout: The tokenizer's special tokens.
        max_length: Tokens of a pair at most, special ones included.
        query_cap: Tokens of a query at most.

    Raises:
        UserError: The query cap leaves no room for the item.
    """

    queries: FlatTokens
    items: FlatTokens
    layout: PairLayout
    max_length: int
    query_cap: int

    def __post_init__(self) -> None:
        if not 0 < self.query_cap < self.max_length - self.layout.special:
            raise UserError(
                f"query_cap {self.query_cap} and max_length {self.max_length} leave no room for the item beside "
                f"{self.layout.special} special tokens; raise max_length or lower query_cap"
            )

    @property
    def kept(self) -> tuple[np.ndarray, np.ndarray]:
        """Tokens of query and of item that are kept, (N,) each: the item gives way first (trap 26)."""
        query = np.minimum(self.queries.lengths, self.query_cap)
        return query, np.minimum(self.items.lengths, self.max_length - self.layout.special - query)

    @property
    def lengths(self) -> np.ndarray:
        """(N,) int64: tokens of each pair as the encoder sees it."""
        query, item = self.kept
        lengths: np.ndarray = query + item + self.layout.special
        return lengths

    @property
    def cut(self) -> tuple[np.ndarray, np.ndarray]:
        """Tokens that truncation took from query and from item, (N,) each."""
        query, item = self.kept
        return self.queries.lengths - query, self.items.lengths - item

    def batch(self, rows: np.ndarray, length: int = 0) -> dict[str, np.ndarray]:
        """The padded batch of some rows.

        Args:
            rows: (B,) int.
            length: Pad to this length at least.

        Returns:
            ``ids``, ``segments``, ``type_ids`` (B, L) int64 and ``mask`` (B, L) bool, as in
            :class:`~lrkd.data.types.TripleBatch`; L is the longest of these rows, or ``length``.
        """
        start_query, start_item = self.queries.offsets[rows], self.items.offsets[rows]
        query = np.minimum(self.queries.offsets[rows + 1] - start_query, self.query_cap)
        room = self.max_length - self.layout.special - query
        item = np.minimum(self.items.offsets[rows + 1] - start_item, room)
        sizes = [len(self.layout.prefix), query, len(self.layout.middle), item, len(self.layout.suffix)]
        ends = np.cumsum(np.stack([np.broadcast_to(size, rows.shape) for size in sizes]), axis=0)[
            ..., None
        ]  # (5, B, 1)
        place = np.arange(max(length, ends[-1].max()))[None]  # (1, L)
        piece = (place >= ends).sum(0)  # (B, L): 0 to 4 as in `sizes`, 5 for padding
        ids = np.full(piece.shape, self.layout.pad, dtype=np.int64)
        within = place - np.concatenate([np.zeros_like(ends[:1]), ends])[piece, np.arange(len(rows))[:, None], 0]
        for number, special in ((0, self.layout.prefix), (2, self.layout.middle), (4, self.layout.suffix)):
            here = piece == number
            ids[here] = special[within[here]]
        for number, tokens, start in ((1, self.queries, start_query), (3, self.items, start_item)):
            here = piece == number
            ids[here] = tokens.values[(within + start[:, None])[here]]
        segments = np.array([-1, 0, -1, 1, -1, -1])[piece]
        return {
            "ids": ids,
            "mask": piece < 5,
            "segments": segments,
            "type_ids": np.array([*self.layout.type_ids, 0])[piece],
        }
