"""The target store (vectors of rationales on disk) and the targets that a data module makes of it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lrkd.errors import UserError

VECTORS, INDEX, FINGERPRINT = "vectors.npy", "index.parquet", "fingerprint.json"
KEY = ("pair_id", "perspective", "sample")

TargetMode = Literal["unified", "sampled", "per_perspective"]
Centring = Literal["none", "global", "query"]


@dataclass(frozen=True)
class Fingerprint:
    """What a rationale's vector depends on; two stores with the same one are interchangeable.

    Args:
        encoder: The sentence encoder's name as the user gave it.
        weights: SHA-256 of its weights.
        pooling: How it pools token states.
        normalised: Whether vectors have unit length.
        max_length: Tokens of a rationale at most.
        dtype: Of the stored vectors.
        text: The template of the embedded text.
        rationales: SHA-256 over the keys, texts and verdicts embedded, in order.
        precision: In which the encoder computed.
    """

    encoder: str
    weights: str
    pooling: str
    normalised: bool
    max_length: int
    dtype: str
    text: str
    rationales: str
    precision: str = "float32"

    @property
    def settings(self) -> str:
        """How the vectors were made, beside the encoder's weights and the rationales: readable JSON."""
        rest = {k: v for k, v in asdict(self).items() if k not in ("encoder", "weights", "rationales")}
        return json.dumps(rest, sort_keys=True)

    def differences(self, other: Fingerprint) -> list[str]:
        """The fields in which two fingerprints differ, with both values.

        The encoder's name does not count: the same weights may lie in two places.
        """
        mine, theirs = asdict(self), asdict(other)
        return [f"{k}: {mine[k]!r} against {theirs[k]!r}" for k in mine if k != "encoder" and mine[k] != theirs[k]]


def rationales_digest(rationales: pa.Table) -> str:
    """SHA-256 over what identifies N rationales: key, text and verdict, in order."""
    digest = hashlib.sha256()
    for batch in rationales.select([*KEY, "rationale", "verdict"]).to_batches(16_384):
        for row in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            digest.update(json.dumps(row, ensure_ascii=True).encode())
    return digest.hexdigest()


@dataclass
class TargetStore:
    """N rationale vectors on disk: ``vectors.npy``, ``index.parquet`` (the keys and verdicts), ``fingerprint.json``.

    Args:
        vectors: (N, R) float16 or float32, memory-mapped.
        index: N rows: pair_id, perspective, sample, verdict.
        fingerprint: What the vectors depend on.
    """

    vectors: np.ndarray
    index: pa.Table
    fingerprint: Fingerprint

    @property
    def width(self) -> int:
        """R."""
        return int(self.vectors.shape[1])

    @classmethod
    def open(cls, folder: str | Path) -> TargetStore:
        """Open a finished store.

        Raises:
            UserError: There is none, it is unfinished, or its vectors do not fit its fingerprint and index.
        """
        folder = Path(folder)
        if not (folder / FINGERPRINT).is_file():
            raise UserError(
                f"{folder}: no target store; make one with `python -m lrkd rationales embed --out {folder}`"
            )
        if missing := [name for name in (VECTORS, INDEX) if not (folder / name).is_file()]:
            raise UserError(
                f"{folder}: unfinished, without {' and '.join(missing)}; run `python -m lrkd rationales embed` again"
            )
        fingerprint = read_fingerprint(folder)
        vectors = np.load(folder / VECTORS, mmap_mode="r")
        index = pq.read_table(folder / INDEX)
        if vectors.ndim != 2 or len(vectors) != index.num_rows or str(vectors.dtype) != fingerprint.dtype:
            raise UserError(
                f"{folder}: {VECTORS} is {vectors.dtype} {vectors.shape}, but {INDEX} has {index.num_rows} rows and "
                f"{FINGERPRINT} says {fingerprint.dtype}; embed the rationales again"
            )
        return cls(vectors, index, fingerprint)

    def check_rationales(self, rationales: pa.Table, folder: str | Path) -> None:
        """Refuse a store that was not made from these rationales.

        Raises:
            UserError: A rationale was added, removed or changed since.
        """
        if rationales_digest(rationales) != self.fingerprint.rationales:
            raise UserError(
                f"{folder}: made from other rationales ({self.index.num_rows}) than the data root's now "
                f"({rationales.num_rows}); run `python -m lrkd rationales embed` again"
            )


def read_fingerprint(folder: Path) -> Fingerprint:
    """A store's fingerprint.

    Raises:
        UserError: The file is broken.
    """
    try:
        return Fingerprint(**json.loads((folder / FINGERPRINT).read_text(encoding="utf-8")))
    except (json.JSONDecodeError, TypeError) as error:
        raise UserError(f"{folder / FINGERPRINT}: not a target store's fingerprint: {error}") from error


def write_fingerprint(folder: Path, fingerprint: Fingerprint) -> None:
    """Write a store's fingerprint."""
    (folder / FINGERPRINT).write_text(json.dumps(asdict(fingerprint), indent=2) + "\n", encoding="utf-8")


def normalise(vectors: np.ndarray) -> np.ndarray:
    """(..., R) to unit length; a zero vector stays zero."""
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    unit: np.ndarray = np.divide(vectors, length, out=np.zeros_like(vectors), where=length > 1e-12)
    return unit


class Targets:
    """The targets of N pairs, joined to the store by key and made when a batch asks for them.

    A pair's target is the mean of its rationales' vectors (all perspectives for ``unified``, one perspective's samples
    for ``per_perspective``, one drawn rationale for ``sampled``), at unit length; less a mean if centred, and then at
    unit length again, so that a target's length never says how far perspectives agree.

    Args:
        store: The vectors.
        pair_id: (N,) the pairs' ids in the order of ``pairs.parquet``.
        label: (N,) gold label names, null where unknown.
        query: (N,) int64: the pairs' query groups, 0 to Q-1.
        fit_rows: (M,) the training rows: only they make the global mean (trap 36).
        mode: ``unified`` or ``sampled`` (P = 1), or ``per_perspective`` (P = the store's perspectives, sorted by name).
        consistent: Use only rationales whose verdict is the pair's gold label.
        centring: ``none``; ``global``: less the mean target of the training pairs; ``query``: less the mean target of
            the pair's query group, shrunk towards the global mean as by one more pair, so that a query of one pair gets
            the globally centred target and a query of many its own mean.
    """

    def __init__(
        self,
        store: TargetStore,
        pair_id: pa.Array,
        label: pa.Array,
        query: np.ndarray,
        fit_rows: np.ndarray,
        *,
        mode: TargetMode,
        consistent: bool,
        centring: Centring,
    ) -> None:
        self.store = store
        self.mode = mode
        self.perspectives: list[str] = sorted(pc.unique(store.index["perspective"]).to_pylist())
        self.num_latents = len(self.perspectives) if mode == "per_perspective" else 1
        self.query = query
        pair = pc.index_in(store.index["pair_id"], value_set=pair_id)
        keep = pc.is_valid(pair)
        if consistent:
            gold = label.take(pc.fill_null(pair, 0))
            keep = pc.and_(keep, pc.fill_null(pc.equal(gold, store.index["verdict"]), False))
        self.unknown = len(pair) - pc.sum(pc.is_valid(pair)).as_py() if len(pair) else 0
        vector = np.flatnonzero(keep.to_numpy())
        pair = pair.to_numpy()[vector].astype(np.int64)
        slot = np.zeros(len(vector), np.int64)
        if mode == "per_perspective":
            slot = pc.index_in(store.index["perspective"], value_set=pa.array(self.perspectives)).to_numpy()[vector]
        # (pair, slot) in order: the rationales of one target are neighbours, found by two offsets.
        cell = pair * self.num_latents + slot
        order = np.argsort(cell, kind="stable")
        self._vector = vector[order]
        self._offsets = np.searchsorted(cell[order], np.arange(len(pair_id) * self.num_latents + 1))
        self.fit_rows = np.asarray(fit_rows)
        self.centre, self._group = self._centres(centring)

    @property
    def present(self) -> np.ndarray:
        """(N, P) bool: which pairs have which target."""
        return (np.diff(self._offsets) > 0).reshape(-1, self.num_latents)

    def present_of(self, rows: np.ndarray) -> np.ndarray:
        """(B, P) bool: which of some pairs have which target, before centring."""
        cell = rows[:, None] * self.num_latents + np.arange(self.num_latents)
        return self._offsets[cell + 1] > self._offsets[cell]

    def _means(self, rows: np.ndarray, draw: np.ndarray | None = None) -> np.ndarray:
        """Mean rationale vectors (B, P, R) at unit length; 0 where there is none."""
        cell = (rows[:, None] * self.num_latents + np.arange(self.num_latents)).ravel()
        start, count = self._offsets[cell], self._offsets[cell + 1] - self._offsets[cell]
        if draw is not None:
            start = start + np.minimum((draw * count).astype(np.int64), np.maximum(count - 1, 0))
            count = np.minimum(count, 1)
        owner = np.repeat(np.arange(len(cell)), count)
        within = np.arange(len(owner)) - np.repeat(np.cumsum(count) - count, count)
        vectors = np.asarray(self.store.vectors[self._vector[start[owner] + within]], np.float32)
        total = np.zeros((len(cell), self.store.width), np.float32)
        np.add.at(total, owner, vectors)
        return normalise(total).reshape(len(rows), self.num_latents, -1)

    def _centres(self, centring: Centring) -> tuple[np.ndarray | None, np.ndarray]:
        """What is subtracted: (G, P, R) centres, and each pair's place among them (N,)."""
        group = np.zeros(len(self.query), np.int64)
        if centring == "none":
            return None, group
        mean, _ = self._group_sums(self.fit_rows, np.zeros(len(self.fit_rows), np.int64), 1)
        present = self.present[self.fit_rows].sum(0)
        mean = (mean / np.maximum(present, 1)[None, :, None]).astype(np.float32)
        if centring == "global":
            return mean, group
        group = self.query
        total, count = self._group_sums(np.arange(len(group)), group, int(group.max(initial=-1)) + 1)
        return ((total + mean) / (count[..., None] + 1)).astype(np.float32), group

    def _group_sums(self, rows: np.ndarray, group: np.ndarray, groups: int) -> tuple[np.ndarray, np.ndarray]:
        """Sums (G, P, R) and counts (G, P) of the targets of some rows, by group."""
        total = np.zeros((groups, self.num_latents, self.store.width), np.float32)
        count = np.zeros((groups, self.num_latents), np.int64)
        for piece in np.array_split(np.arange(len(rows)), max(1, len(rows) // 16_384)):
            np.add.at(total, group[piece], self._means(rows[piece]))
            np.add.at(count, group[piece], self.present[rows[piece]])
        return total, count

    def batch(self, rows: np.ndarray, epoch: int = 0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """The targets of some pairs.

        Args:
            rows: (B,) int: positions of the pairs.
            epoch: Decides, with the seed and the row, which rationale ``sampled`` draws.
            seed: See ``epoch``.

        Returns:
            Targets (B, P, R) float32, 0 where there is none, and whether there is one (B, P) bool.
        """
        draw = _hashed_uniform(rows, epoch, seed) if self.mode == "sampled" else None
        targets, there = self.place(self._means(rows, draw), rows)
        mask = self.present_of(rows) & there
        return targets * mask[..., None], mask

    def place(self, vectors: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rationale vectors where the latents are to meet them: centred, at unit length.

        Args:
            vectors: (B, P, R), of unit length.
            rows: (B,) int: the pairs that they belong to.

        Returns:
            The vectors, float32, and whether each is one (B, P) bool: what is its own mean points nowhere.
        """
        if self.centre is None:
            return vectors, np.ones(vectors.shape[:-1], bool)
        vectors = vectors - self.centre[self._group[rows]]
        return normalise(vectors), np.linalg.norm(vectors, axis=-1) > 1e-6

    def summary(self) -> dict[str, Any]:
        """Counts for the run's record and the terminal."""
        return {
            "rationales": int(self.store.index.num_rows),
            "used": len(self._vector),
            "of_unknown_pairs": int(self.unknown),
            "training_pairs_with_target": int(self.present[self.fit_rows].any(1).sum()),
            "perspectives": self.perspectives,
        }


def _hashed_uniform(rows: np.ndarray, epoch: int, seed: int) -> np.ndarray:
    """(B,) numbers in [0, 1) that depend on row, epoch and seed alone, on any process (SplitMix64's finaliser)."""
    with np.errstate(over="ignore"):
        x = (
            rows.astype(np.uint64)
            + np.uint64(epoch + 1) * np.uint64(0x9E3779B97F4A7C15)
            + np.uint64(seed) * np.uint64(0xD1B54A32D192ED03)
        )
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x = x ^ (x >> np.uint64(31))
    return (x >> np.uint64(11)).astype(np.float64) / 2.0**53
