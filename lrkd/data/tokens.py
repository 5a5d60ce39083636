"""Token ids of all pairs, made once, kept flat and memory-mapped, and laid out as padded batches without Python loops.

A fast tokenizer encodes query and item each for itself and only then adds special tokens. So the two are tokenised
once, uncut, and the pair is put together when a batch is made: any length and any query cap work from one cache.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from rich.progress import track

from lrkd.data.pairs import BATCH_ROWS, file_fingerprint, iter_pairs, open_parquet, pairs_path
from lrkd.data.types import ItemText
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
        """Read the layout off a tokenizer, and check it on a pair.

        Raises:
            UserError: The tokenizer has no fast backend or no pad token, or lays pairs out in another way.
        """
        backend = _backend(tokenizer)
        if tokenizer.pad_token_id is None:
            raise UserError(f"tokenizer {tokenizer.name_or_path!r} has no pad token; a student's encoder needs one")
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
        layout = cls(ids[prefix], ids[middle], ids[suffix], type_ids, tokenizer.pad_token_id)  # type: ignore[arg-type]
        parts = [backend.encode(text, add_special_tokens=False).ids for text in ("red shoes", "blue suede shoe")]
        if [*layout.prefix, *parts[0], *layout.middle, *parts[1], *layout.suffix] != encoding.ids:
            raise UserError(f"tokenizer {tokenizer.name_or_path!r} does not encode the two texts of a pair separately")
        return layout


def _backend(tokenizer: Any) -> Any:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise UserError(f"tokenizer {tokenizer.name_or_path!r} has no fast (Rust) version; lrkd needs one")
    backend.no_truncation()
    backend.no_padding()
    return backend


@dataclass
class FlatTokens:
    """N texts' tokens in one array: text i is ``values[offsets[i] : offsets[i + 1]]``."""

    values: np.ndarray
    """(T,) int32, memory-mapped."""
    offsets: np.ndarray
    """(N + 1,) int64."""

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

    def batch(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """The padded batch of some rows.

        Args:
            rows: (B,) int.

        Returns:
            ``ids``, ``segments``, ``type_ids`` (B, L) int64 and ``mask`` (B, L) bool, as in
            :class:`~lrkd.data.types.TripleBatch`; L is the longest of these rows.
        """
        start_query, start_item = self.queries.offsets[rows], self.items.offsets[rows]
        query = np.minimum(self.queries.offsets[rows + 1] - start_query, self.query_cap)
        room = self.max_length - self.layout.special - query
        item = np.minimum(self.items.offsets[rows + 1] - start_item, room)
        sizes = [len(self.layout.prefix), query, len(self.layout.middle), item, len(self.layout.suffix)]
        ends = np.cumsum(np.stack([np.broadcast_to(size, rows.shape) for size in sizes]), axis=0)[
            ..., None
        ]  # (5, B, 1)
        place = np.arange(ends[-1].max())[None]  # (1, L)
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


def token_fingerprint(root: str | Path, tokenizer: Any, item_text: ItemText) -> dict[str, str]:
    """What a token cache depends on: the pairs' bytes, the tokenizer and the item's text."""
    return {
        "pairs": file_fingerprint(pairs_path(root)),
        "tokenizer": hashlib.sha256(_backend(tokenizer).to_str().encode()).hexdigest(),
        "item_text": item_text.template,
    }


def cache_folder(cache_dir: str | Path, fingerprint: dict[str, str]) -> Path:
    """Where the cache of this fingerprint lies."""
    digest = hashlib.sha256(json.dumps(fingerprint, sort_keys=True).encode()).hexdigest()
    return Path(cache_dir) / "tokens" / digest[:16]


def build_token_cache(root: str | Path, tokenizer: Any, item_text: ItemText, cache_dir: str | Path) -> Path:
    """Tokenise a data root's pairs unless it was done before; memory does not grow with the pairs.

    Args:
        root: The data root.
        tokenizer: A fast transformers tokenizer.
        item_text: The template of the item's text.
        cache_dir: Holds the caches of all roots and tokenizers.

    Returns:
        The folder of this cache.

    Raises:
        UserError: As :func:`~lrkd.data.pairs.iter_pairs` and :meth:`PairLayout.of`.
    """
    fingerprint = token_fingerprint(root, tokenizer, item_text)
    folder = cache_folder(cache_dir, fingerprint)
    if folder.is_dir():
        return folder
    backend = _backend(tokenizer)
    # Runs that start at once, on several machines too, may each make it; the first to end stays.
    partial = folder.with_name(f"{folder.name}.{platform.node()}-{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    batches = -(-open_parquet(pairs_path(root)).metadata.num_rows // BATCH_ROWS)
    pieces = iter_pairs(root, columns=["query", "title", *[f for f in item_text.fields if f != "title"]])
    with _FlatWriter(partial, "query") as queries, _FlatWriter(partial, "item") as items:
        for table in track(pieces, description="Tokenising", total=batches, transient=True):
            unique = table["query"].combine_chunks().dictionary_encode()
            encoded = list(chain.from_iterable(_encode(backend, unique.dictionary.to_pylist())))
            queries.write([encoded[i] for i in unique.indices.to_pylist()])
            for piece in _encode(backend, item_texts(table, item_text)):
                items.write(piece)
    (partial / "fingerprint.json").write_text(json.dumps(fingerprint, indent=2))
    try:
        partial.rename(folder)
    except OSError:
        shutil.rmtree(partial)
        if not folder.is_dir():
            raise
    return folder


def item_texts(table: pa.Table, item_text: ItemText) -> list[str]:
    """The items' texts (N) of N pairs, as they are tokenised."""
    if item_text.template == "{title}":
        return table["title"].to_pylist()  # type: ignore[no-any-return]
    return [item_text.render(item) for item in table.select(item_text.fields).to_pylist()]


def _encode(backend: Any, texts: list[str]) -> Iterator[list[list[int]]]:
    """The texts' tokens, some texts at a time: their encodings hold far more than the ids."""
    for start in range(0, len(texts), ENCODE_TEXTS):
        piece = texts[start : start + ENCODE_TEXTS]
        yield [encoding.ids for encoding in backend.encode_batch_fast(piece, add_special_tokens=False)]


class _FlatWriter:
    """Appends token lists to ``<name>.ids`` and their lengths to ``<name>.lengths``."""

    def __init__(self, folder: Path, name: str) -> None:
        self.paths = folder / f"{name}.ids", folder / f"{name}.lengths"

    def __enter__(self) -> _FlatWriter:
        self.files = [path.open("wb") for path in self.paths]
        return self

    def write(self, texts: list[list[int]]) -> None:
        np.fromiter(chain.from_iterable(texts), TOKEN).tofile(self.files[0])
        np.fromiter(map(len, texts), np.int32, len(texts)).tofile(self.files[1])

    def __exit__(self, *_: object) -> None:
        for file in self.files:
            file.close()


def load_flat(folder: Path, name: str) -> FlatTokens:
    """The ``query`` or ``item`` tokens of a cache, memory-mapped."""
    lengths = np.fromfile(folder / f"{name}.lengths", np.int32)
    path = folder / f"{name}.ids"
    values = np.memmap(path, TOKEN, mode="r") if path.stat().st_size else np.zeros(0, TOKEN)
    return FlatTokens(values, np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]))
