"""The index of teacher rationales that latents are looked up in: NumPy and Arrow alone, so that a server can use it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lrkd.data.pairs import open_parquet
from lrkd.data.targets import normalise
from lrkd.errors import UserError

VECTORS, RATIONALES, ABOUT = "vectors.npy", "rationales.parquet", "index.json"

RATIONALES_COLUMNS = pa.schema(
    [
        pa.field("pair_id", pa.string(), nullable=False),
        pa.field("query", pa.string(), nullable=False),
        pa.field("title", pa.string(), nullable=False),
        pa.field("label", pa.string()),
        pa.field("perspective", pa.string(), nullable=False),
        pa.field("sample", pa.int32(), nullable=False),
        pa.field("rationale", pa.string(), nullable=False),
        pa.field("verdict", pa.string(), nullable=False),
    ]
)
"""A rationale with the pair that it was written about, and that pair's gold label."""

SIMILARITIES = 1 << 24
"""Similarities held at a time: 64 MB."""


class Nearest(NamedTuple):
    """The k nearest rationales of K perspectives to the latents of N pairs, nearest first."""

    place: np.ndarray
    """(N, K, k) int64: the rationale's place in the index."""
    similarity: np.ndarray
    """(N, K, k) float32: its cosine to the latent."""


@dataclass(frozen=True)
class ExplanationIndex:
    """M rationales of training pairs with their vectors in the space that the latents live in.

    The search is exact: it multiplies every latent with every vector.

    Args:
        vectors: (M, R) float32, of unit length, placed as training's targets are (centred, whitened).
        rationales: M rows in :data:`RATIONALES_COLUMNS`, those of a perspective together, in the order of
            ``perspectives``.
        perspectives: Each perspective, and which of the P latents it is looked up by.
        latents: P: one for all perspectives, or one a perspective.
        about: What it was made from, in plain types.

    Raises:
        ValueError: Vectors, rationales and perspectives do not fit each other.
    """

    vectors: np.ndarray
    rationales: pa.Table
    perspectives: Mapping[str, int]
    latents: int
    about: Mapping[str, Any] = field(default_factory=dict)
    bounds: np.ndarray = field(init=False, repr=False)
    """(K + 1,) int64: the rationales of perspective k are those from ``bounds[k]`` to ``bounds[k + 1]``."""

    def __post_init__(self) -> None:
        names, order = self.rationales["perspective"].to_pylist(), list(self.perspectives)
        place = {name: number for number, name in enumerate(order)}
        numbers = np.array([place.get(name, -1) for name in names], np.int64)
        rows_fit = len(self.vectors) == len(names) > 0 and set(numbers.tolist()) == set(place.values())
        latents_fit = all(0 <= latent < self.latents for latent in self.perspectives.values())
        if not (rows_fit and latents_fit) or (np.diff(numbers) < 0).any():
            raise ValueError(
                f"{len(self.vectors)} vectors and {len(names)} rationales, to be sorted by the perspectives {order}"
            )
        object.__setattr__(self, "bounds", np.searchsorted(numbers, np.arange(len(order) + 1)))

    def search(self, latents: np.ndarray, neighbours: int = 1) -> Nearest:
        """The nearest rationales of every perspective, by cosine.

        Args:
            latents: (N, P, R): a student's latents. A latent of length 0 has similarity 0 to everything.
            neighbours: k, how many a perspective.

        Raises:
            UserError: A perspective has fewer rationales.
            ValueError: The latents have another shape.
        """
        if latents.ndim != 3 or latents.shape[1:] != (self.latents, self.vectors.shape[1]):
            raise ValueError(f"latents (N, {self.latents}, {self.vectors.shape[1]}) are wanted, got {latents.shape}")
        sizes = dict(zip(self.perspectives, np.diff(self.bounds).tolist(), strict=True))
        if not 1 <= neighbours <= min(sizes.values()):
            raise UserError(f"neighbours {neighbours}: 1 to the number of rationales of a perspective ({sizes})")
        unit = normalise(latents.astype(np.float32))
        found = [
            self._search_one(unit[:, latent], int(self.bounds[k]), int(self.bounds[k + 1]), neighbours)
            for k, latent in enumerate(self.perspectives.values())
        ]
        place, similarity = (np.stack(parts, axis=1) for parts in zip(*found, strict=True))
        return Nearest(place, similarity)

    def _search_one(self, unit: np.ndarray, start: int, end: int, neighbours: int) -> tuple[np.ndarray, np.ndarray]:
        """Places and similarities (N, k) among the rationales from ``start`` to ``end``."""
        place = np.empty((len(unit), neighbours), np.int64)
        similarity = np.empty((len(unit), neighbours), np.float32)
        vectors, step = self.vectors[start:end], max(1, SIMILARITIES // (end - start))
        for first in range(0, len(unit), step):
            piece = slice(first, first + step)
            cosine = unit[piece] @ vectors.T
            best = np.argpartition(-cosine, neighbours - 1, axis=1)[:, :neighbours]
            values = np.take_along_axis(cosine, best, axis=1)
            order = np.argsort(-values, axis=1, kind="stable")
            place[piece] = start + np.take_along_axis(best, order, axis=1)
            similarity[piece] = np.take_along_axis(values, order, axis=1)
        return place, similarity

    def save(self, folder: str | Path) -> None:
        """Write it as a folder: ``vectors.npy``, ``rationales.parquet`` and ``index.json``.

        Raises:
            UserError: There is something of that name.
        """
        folder = Path(folder)
        if folder.exists():
            raise UserError(f"{folder}: is there already; give another folder for the index, or delete it")
        partial = folder.with_name(folder.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        np.save(partial / VECTORS, self.vectors)
        pq.write_table(self.rationales, partial / RATIONALES, compression="zstd")
        about = {"latents": self.latents, "perspectives": dict(self.perspectives), "about": dict(self.about)}
        (partial / ABOUT).write_text(json.dumps(about, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        partial.rename(folder)

    @classmethod
    def open(cls, folder: str | Path) -> ExplanationIndex:
        """Open a saved index; the vectors are memory-mapped.

        Raises:
            UserError: There is none, or it is broken.
        """
        folder = Path(folder)
        if not (folder / ABOUT).is_file():
            raise UserError(
                f"{folder}: no index of explanations; make one with `python -m lrkd explain --save_index {folder}`"
            )
        rationales = open_parquet(folder / RATIONALES).read()
        try:
            found = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
            vectors = np.load(folder / VECTORS, mmap_mode="r")
            return cls(vectors, rationales, found["perspectives"], found["latents"], found["about"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{folder}: a broken index ({error}); delete it and make it again") from error
