"""Soft labels: a teacher's probabilities for pairs, from its rationales' verdicts or from prediction files."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lrkd.data.calibrated_votes import calibrated_votes
from lrkd.data.joined_rationales import used_perspectives
from lrkd.data.pairs import file_fingerprint, open_parquet
from lrkd.data.rationales import merge_rationales
from lrkd.data.rows import repeated
from lrkd.data.types import LabelSet
from lrkd.errors import UserError

VOTES, CALIBRATED_VOTES = "votes", "calibrated_votes"

SoftLabelMean = Literal["probabilities", "logits"]


@dataclass(frozen=True)
class SoftLabels:
    """The soft labels of N pairs."""

    probability: np.ndarray
    """(N, C) float32: sums to 1, or 0 where a pair has none."""

    def present_of(self, rows: np.ndarray) -> np.ndarray:
        """(B,) bool: which of some pairs have some."""
        return np.asarray(self.probability[rows].any(1))


@dataclass(frozen=True)
class SoftLabelSource:
    """Where soft labels come from.

    Args:
        given: :data:`VOTES`, :data:`CALIBRATED_VOTES`, or one or several prediction files.
        mean: How prediction files are averaged.
        rationales: The files whose verdicts vote.
    """

    given: list[str] | str
    mean: SoftLabelMean
    rationales: list[Path]

    def __str__(self) -> str:
        return self.given if isinstance(self.given, str) else ", ".join(self.given)

    @property
    def files(self) -> list[Path]:
        """What is read."""
        if self.given in (VOTES, CALIBRATED_VOTES):
            return self.rationales
        return [Path(file) for file in ([self.given] if isinstance(self.given, str) else self.given)]

    @property
    def digest(self) -> str:
        """SHA-256 over the files' bytes and, of votes, how they are read."""
        read = self.given if self.given == CALIBRATED_VOTES else ""
        return hashlib.sha256((str(read) + "".join(map(file_fingerprint, self.files))).encode()).hexdigest()

    def read(self, pairs: JudgedPairs, labels: LabelSet, perspectives: Sequence[str] | None) -> SoftLabels:
        """The soft labels of N pairs.

        Args:
            pairs: The pairs.
            labels: C labels.
            perspectives: Whose votes count; None: all.

        Raises:
            UserError: As :func:`vote_counts`, :func:`~lrkd.data.calibrated_votes.calibrated_votes` and
                :func:`averaged_predictions`, or something is wrong with the rationales.
        """
        if self.given not in (VOTES, CALIBRATED_VOTES):
            return averaged_predictions(self.files, pairs.pair_id, labels.labels, self.mean)
        rationales = merge_rationales(self.files, labels=labels)[0]
        counts = vote_counts(rationales, pairs.pair_id, labels.labels, perspectives)
        if self.given == VOTES:
            return SoftLabels(_shares(counts.sum(1)))
        return SoftLabels(calibrated_votes(_shares(counts), pairs.label, pairs.query, pairs.train))


@dataclass(frozen=True)
class JudgedPairs:
    """What soft labels are made for.

    Args:
        pair_id: (N,) the pairs' ids.
        label: (N,) int64: gold labels; -1 where unknown.
        query: (N,) int: their query groups.
        train: (M,) int: the rows that train.
    """

    pair_id: pa.Array
    label: np.ndarray
    query: np.ndarray
    train: np.ndarray


def vote_counts(
    rationales: pa.Table, pair_id: pa.Array, labels: Sequence[str], perspectives: Sequence[str] | None = None
) -> np.ndarray:
    """How many of a pair's rationales end in each label, right or not: (N, P, C) float32.

    Args:
        rationales: In :data:`~lrkd.data.types.RATIONALES_SCHEMA`; those of other pairs are left out.
        pair_id: (N,) the pairs' ids.
        labels: The C labels in order.
        perspectives: Count these P perspectives' rationales; None: all.

    Raises:
        UserError: As :func:`~lrkd.data.joined_rationales.used_perspectives`.
    """
    names = used_perspectives(rationales["perspective"], perspectives)
    rationales = rationales.filter(pc.is_in(rationales["perspective"], value_set=pa.array(names, pa.string())))
    rationales = rationales.filter(pc.is_in(rationales["pair_id"], value_set=pair_id))
    pair, perspective, verdict = (
        pc.index_in(rationales[column], value_set=values).to_numpy()
        for column, values in (
            ("pair_id", pair_id),
            ("perspective", pa.array(names, pa.string())),
            ("verdict", pa.array(labels, pa.string())),
        )
    )
    count = np.zeros((len(pair_id), len(names), len(labels)), np.float32)
    np.add.at(count, (pair, perspective, verdict), 1)
    return count


def _shares(count: np.ndarray) -> np.ndarray:
    return np.asarray(count / np.maximum(count.sum(-1, keepdims=True), 1))


def averaged_predictions(
    files: Sequence[Path], pair_id: pa.Array, labels: Sequence[str], mean: SoftLabelMean
) -> SoftLabels:
    """The mean of several teachers' predictions of a pair, over those that have the pair.

    ``probabilities``: ``q = 1/M Σ_m p_m``;  ``logits``: ``q ∝ exp(1/M Σ_m log p_m)``, since ``log p`` is a teacher's
    logits but for a constant that the softmax takes away (trap 27).

    Args:
        files: As ``predict`` and ``test`` write them: pair_id, and a probability a label in ``p/<Label>``.
        pair_id: (N,) the pairs' ids.
        labels: The C labels in order.
        mean: Which one.

    Raises:
        UserError: A file is not readable, lacks a column, names a pair twice, or holds no probabilities.
    """
    total = np.zeros((len(pair_id), len(labels)))
    count = np.zeros((len(pair_id), 1))
    for file in files:
        ids, probability = _read(file, labels)
        row = pc.index_in(ids, value_set=pair_id)
        known = pc.is_valid(row).to_numpy()
        rows = row.drop_null().to_numpy()
        if mean == "logits":
            probability = np.log(np.maximum(probability, np.finfo(np.float32).tiny))
        total[rows] += probability[known]
        count[rows] += 1
    value = total / np.maximum(count, 1)
    if mean == "logits":
        value = np.exp(value - value.max(1, keepdims=True))
        value /= value.sum(1, keepdims=True)
    return SoftLabels((value * (count > 0)).astype(np.float32))


def _read(file: Path, labels: Sequence[str]) -> tuple[pa.ChunkedArray, np.ndarray]:
    """A prediction file's pair ids (M,) and probabilities (M, C)."""
    columns = ["pair_id", *(f"p/{label}" for label in labels)]
    with open_parquet(file) as parquet:
        if missing := [name for name in columns if name not in parquet.schema_arrow.names]:
            raise UserError(
                f"{file}: lacks the columns {missing}; soft labels are what `python -m lrkd predict` writes"
            )
        table = parquet.read(columns=columns)
    if len(twice := repeated([table["pair_id"]])):
        raise UserError(
            f"{file}, row {twice[0] + 1}: pair {table['pair_id'][int(twice[0])]} stands there a second time"
        )
    probability = np.stack([table[name].to_numpy() for name in columns[1:]], 1).astype(np.float64)
    wrong = ~((probability >= 0).all(1) & (np.abs(probability.sum(1) - 1) < 1e-3))
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise UserError(
            f"{file}, row {row + 1}: {probability[row].tolist()} are no probabilities of {list(labels)}: they must be "
            "at least 0 and sum to 1"
        )
    return table["pair_id"], probability
