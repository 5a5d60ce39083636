"""What finished runs predicted: the pairs of a fold, and each run's probabilities of them, aligned by pair_id."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lrkd.data.rows import repeated
from lrkd.data.split_rows import group_queries
from lrkd.errors import UserError
from lrkd.runs import RunRecord, ScoredSplit

Fold = int | None
"""The fold that was held out; None where the data's own split was used."""


@dataclass(frozen=True)
class FoldPairs:
    """The N labelled pairs that all runs of a fold were scored on, in the order of their pair_id.

    Args:
        pair_id: (N,) their names.
        query: N query texts.
        group: (N,) int64, 0 to Q - 1: queries that are alike after normalisation are one.
        label: (N,) int64: gold class indices.
        cut: (N,) bool: tokens were cut in at least one run.
    """

    pair_id: pa.Array
    query: tuple[str, ...]
    group: np.ndarray
    label: np.ndarray
    cut: np.ndarray

    def __len__(self) -> int:
        return len(self.label)

    @property
    def queries(self) -> int:
        """Q, the number of query groups."""
        return int(self.group.max()) + 1


@dataclass(frozen=True)
class Scored:
    """What one run, or an ensemble of runs, says about the pairs of its fold, and what it cost.

    Args:
        probabilities: (N, C) float64, in the order of :class:`FoldPairs`.
        parameters: How many it has.
        seconds: Wall-clock seconds of the fit.
    """

    probabilities: np.ndarray
    parameters: float
    seconds: float


def read_scored(records: Sequence[RunRecord], split: ScoredSplit) -> tuple[dict[Fold, FoldPairs], dict[Path, Scored]]:
    """The predictions of runs that can be compared.

    Args:
        records: The runs.
        split: The split that they were scored on.

    Returns:
        The pairs by fold, folds rising; and what each run says of its fold's pairs, by the run's folder.

    Raises:
        UserError: Label sets, data or, in one fold, the scored pairs or their labels differ; runs with folds stand
            beside runs without; or a run's predictions are missing or broken.
    """
    check_same(records, "label sets", [str(run.label_set.to_dict()) for run in records])
    check_same(records, "data", [f"fingerprint {run.fingerprint}" for run in records])
    check_same(records, "ways of testing", ["a split" if run.fold is None else "a fold" for run in records])
    folds: dict[Fold, FoldPairs] = {}
    scored: dict[Path, Scored] = {}
    for fold in sorted({run.fold for run in records}, key=lambda fold: fold or 0):
        peers = [run for run in records if run.fold == fold]
        tables = [_labelled(run, split) for run in peers]
        check_same(peers, f"{split} pairs", [f"{table.num_rows} labelled pairs" for table in tables])
        check_same(peers, "majority labels in one fold", [run.majority_label for run in peers])
        for run, table in zip(peers[1:], tables[1:], strict=True):
            _check_aligned((peers[0], tables[0]), (run, table))
        cut = np.any([table["tokens_cut"].to_numpy() > 0 for table in tables], axis=0)
        folds[fold] = _fold_pairs(tables[0], peers[0], cut)
        for run, table in zip(peers, tables, strict=True):
            scored[run.path] = Scored(_probabilities(run, table), float(run.parameters["total"]), run.seconds)
    return folds, scored


def check_same(records: Sequence[RunRecord], what: str, traits: Sequence[str]) -> None:
    """Refuse runs that differ in a trait (one a run), naming which have which.

    Raises:
        UserError: They do.
    """
    groups: dict[str, list[str]] = {}
    for run, trait in zip(records, traits, strict=True):
        groups.setdefault(trait, []).append(str(run.path))
    if len(groups) > 1:
        lines = [f"\n  {value}: {', '.join(paths[:4])}{', ...' * (len(paths) > 4)}" for value, paths in groups.items()]
        raise UserError(f"--runs mixes different {what}; compare these apart:{''.join(lines)}")


def _labelled(run: RunRecord, split: ScoredSplit) -> pa.Table:
    """A run's predictions of labelled pairs, by rising pair_id."""
    table = run.predictions(split)
    table = table.filter(pc.is_valid(table["label"])).sort_by("pair_id")
    if not table.num_rows:
        raise UserError(f"{run.path}: its {split} predictions hold no pair with a gold label, so nothing to compare")
    if len(twice := repeated([table["pair_id"]])):
        raise UserError(
            f"{run.path}: its {split} predictions hold pair_id {table['pair_id'][int(twice[0])].as_py()!r} twice; "
            "score the run again"
        )
    return table


def _check_aligned(one: tuple[RunRecord, pa.Table], other: tuple[RunRecord, pa.Table]) -> None:
    """Refuse two runs of one fold whose pairs or gold labels are not the same."""
    for column in ("pair_id", "query", "label"):
        differs = pc.not_equal(one[1][column], other[1][column]).to_numpy()
        if differs.any():
            row = int(differs.argmax())
            raise UserError(
                f"{one[0].path} and {other[0].path} were scored on different pairs: the first difference in "
                f"{column} is {one[1][column][row].as_py()!r} against {other[1][column][row].as_py()!r}; "
                "score both again, on the same data"
            )


def _fold_pairs(table: pa.Table, run: RunRecord, cut: np.ndarray) -> FoldPairs:
    label = pc.index_in(table["label"], value_set=pa.array(run.label_set.labels))
    if label.null_count:
        unknown = table["label"].filter(pc.is_null(label))[0].as_py()
        raise UserError(f"{run.path}: its predictions hold the label {unknown!r}, which is none of its label set's")
    group = np.unique(group_queries(table["query"]), return_inverse=True)[1]
    return FoldPairs(
        pair_id=table["pair_id"].combine_chunks(),
        query=tuple(table["query"].to_pylist()),
        group=group,
        label=label.to_numpy().astype(np.int64),
        cut=cut,
    )


def _probabilities(run: RunRecord, table: pa.Table) -> np.ndarray:
    columns = [table[f"p/{label}"].to_numpy() for label in run.label_set.labels]
    found = np.stack(columns, axis=1).astype(np.float64)
    broken = ~(np.isfinite(found).all(1) & (found >= 0).all(1) & (np.abs(found.sum(1) - 1) < 1e-3))
    if broken.any():
        row = int(broken.argmax())
        raise UserError(
            f"{run.path}: the probabilities of pair_id {table['pair_id'][row].as_py()!r} are "
            f"{found[row].round(4).tolist()}, which is no distribution; score the run again"
        )
    return found
