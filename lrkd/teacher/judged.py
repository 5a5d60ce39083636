"""Rationales of training pairs, judged against the gold labels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lrkd.data.pairs import pairs_path, read_pairs
from lrkd.data.rationales import key_order
from lrkd.data.split_rows import group_queries, split_rows, training_mask
from lrkd.data.types import LabelSet
from lrkd.errors import UserError


@dataclass(frozen=True)
class Training:
    """N pairs of a data root, and which of them train.

    Args:
        pairs: The pairs, with pair_id.
        label: (N,) int: the gold class, -1 where unknown.
        query: (N,) int64: the query group.
        listed: (N,) bool: the pair is in the training part.
        mask: (N,) bool: it is, and its query is in no other part.
        held_out: The query groups that validate or test.
    """

    pairs: pa.Table
    label: np.ndarray
    query: np.ndarray
    listed: np.ndarray
    mask: np.ndarray
    held_out: np.ndarray


def read_training(root: Path, labels: LabelSet, *, fold: int | None, val_fraction: float, split_seed: int) -> Training:
    """A data root's pairs and which of them train; the arguments are those of the student's data.

    Raises:
        UserError: A broken row, no such fold, or nothing trains.
    """
    columns = ["pair_id", "query", "label", "split" if fold is None else "fold"]
    pairs = read_pairs(root, columns=columns, labels=labels)
    query = group_queries(pairs["query"])
    rows = split_rows(pairs, query, root, fold=fold, val_fraction=val_fraction, seed=split_seed)
    if not len(rows["train"]):
        raise UserError(
            f"{pairs_path(root)}: no pair trains (column {columns[-1]!r}); run `python -m lrkd data split` first"
        )
    listed = np.zeros(len(query), bool)
    listed[rows["train"]] = True
    held_out = np.unique(query[np.concatenate([rows["val"], rows["test"]])])
    label = pc.index_in(pairs["label"], value_set=pa.array(labels.labels)).fill_null(-1).to_numpy()
    return Training(pairs, label, query, listed, training_mask(rows, query), held_out)


@dataclass(frozen=True)
class Judged:
    """M rationales of labelled pairs as numbers, in the order of their keys.

    Args:
        pair: (M,) int, ascending from 0 without a gap: the pair.
        perspective: (M,) int from 0 to P-1.
        text: (M,) int: equal texts have equal numbers.
        label: (M,) int: the pair's gold class.
        verdict: (M,) int: the rationale's class.
        more: (M,) bool: a further sample, which serves where no other rationale of its pair is right.
        query: (M,) int: the pair's query group.
        perspectives: The P names, the neutral one's among them.
        neutral: Its number.
        table: The rationales themselves.
    """

    pair: np.ndarray
    perspective: np.ndarray
    text: np.ndarray
    label: np.ndarray
    verdict: np.ndarray
    more: np.ndarray
    query: np.ndarray
    perspectives: tuple[str, ...]
    neutral: int
    table: pa.Table

    @property
    def right(self) -> np.ndarray:
        """(M,) bool: the verdict is gold."""
        return np.asarray(self.verdict == self.label)

    def pairs_with(self, mask: np.ndarray) -> np.ndarray:
        """Which pairs (as many as there are) have a rationale under a mask (M,)."""
        having = np.zeros(int(self.pair[-1]) + 1 if len(self.pair) else 0, bool)
        having[self.pair[mask]] = True
        return having


def judge(
    rationales: pa.Table, more: np.ndarray, training: Training, labels: LabelSet, neutral: str
) -> tuple[Judged, dict[str, int]]:
    """The rationales of labelled training pairs, in the order of their keys.

    Args:
        rationales: Rationales of any pairs (R).
        more: (R,) bool: which are further samples.
        training: The pairs.
        labels: The label set.
        neutral: The name of the prompt that names no perspective.

    Returns:
        The rationales, judged; and how many were left out, by reason.
    """
    ids = training.pairs["pair_id"].combine_chunks()
    row = pc.index_in(rationales["pair_id"], value_set=ids).fill_null(-1).to_numpy()
    known = row >= 0
    listed, trains, labelled = training.listed[row], training.mask[row], training.label[row] >= 0
    left_out = {
        "pair unknown": int((~known).sum()),
        "pair does not train": int((known & ~listed).sum()),
        "query also validates or tests": int((known & listed & ~trains).sum()),
        "pair without label": int((known & trains & ~labelled).sum()),
    }
    used = np.flatnonzero(known & trains & labelled)
    used = used[key_order(rationales.take(pa.array(used)).select(["pair_id", "perspective", "sample"]))]
    table = rationales.take(pa.array(used))
    perspectives = sorted({neutral, *pc.unique(table["perspective"]).to_pylist()})
    judged = Judged(
        pair=_codes(table["pair_id"]),
        perspective=pc.index_in(table["perspective"], value_set=pa.array(perspectives, pa.string())).to_numpy(),
        text=_codes(table["rationale"]),
        label=training.label[row[used]],
        verdict=pc.index_in(table["verdict"], value_set=pa.array(labels.labels)).to_numpy(),
        more=more[used],
        query=training.query[row[used]],
        perspectives=tuple(perspectives),
        neutral=perspectives.index(neutral),
        table=table,
    )
    return judged, left_out


def _codes(column: pa.ChunkedArray) -> np.ndarray:
    """The values (M,) as numbers by first appearance: ascending where equal values stand together."""
    encoded = column.dictionary_encode().unify_dictionaries()
    return np.concatenate([np.zeros(0, np.int64), *(chunk.indices.to_numpy() for chunk in encoded.chunks)])
