"""The tokens of a data root's pairs, made once and kept on disk, memory-mapped, for any length and query cap."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import track

from lrkd.data.pair_tokens import TOKEN, FlatTokens, backend_of, encode
from lrkd.data.pairs import BATCH_ROWS, file_fingerprint, iter_pairs, open_parquet, pairs_path
from lrkd.data.types import ItemText


def token_fingerprint(root: str | Path, tokenizer: Any, item_text: ItemText) -> dict[str, str]:
    """What a token cache depends on: the pairs' bytes, the tokenizer and the item's text."""
    return {
        "pairs": file_fingerprint(pairs_path(root)),
        "tokenizer": hashlib.sha256(backend_of(tokenizer).to_str().encode()).hexdigest(),
        "item_text": f"{item_text.template} (white space folded)",
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
    backend = backend_of(tokenizer)
    # Runs that start at once, on several machines too, may each make it; the first to end stays.
    partial = folder.with_name(f"{folder.name}.{platform.node()}-{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    batches = -(-open_parquet(pairs_path(root)).metadata.num_rows // BATCH_ROWS)
    pieces = iter_pairs(root, columns=["query", "title", *[f for f in item_text.fields if f != "title"]])
    with _FlatWriter(partial, "query") as queries, _FlatWriter(partial, "item") as items:
        for table in track(pieces, description="Tokenising", total=batches, transient=True):
            unique = table["query"].combine_chunks().dictionary_encode()
            encoded = list(chain.from_iterable(encode(backend, unique.dictionary.to_pylist())))
            queries.write([encoded[i] for i in unique.indices.to_pylist()])
            for piece in encode(backend, item_text.render_table(table)):
                items.write(piece)
    (partial / "fingerprint.json").write_text(json.dumps(fingerprint, indent=2))
    try:
        partial.rename(folder)
    except OSError:
        shutil.rmtree(partial)
        if not folder.is_dir():
            raise
    return folder


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
