"""The target store: vectors of rationales on disk."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lrkd.errors import UserError

VECTORS, INDEX, FINGERPRINT = "vectors.npy", "index.parquet", "fingerprint.json"
KEY = ("pair_id", "perspective", "sample")


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
                f"{folder}: made from other rationales ({self.index.num_rows}) than those given now "
                f"({rationales.num_rows}). Give as rationales (by default the data root's) what they were made from, "
                "or run `python -m lrkd rationales embed` again"
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
