"""Estimates as the text of tables."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from lrkd.evaluate.compare.blocks import Table
from lrkd.evaluate.compare.bootstrap import Interval
from lrkd.evaluate.compare.estimates import Estimate, Row
from lrkd.evaluate.compare.slice_scores import SliceTable

QUALITY_COLUMNS = {
    "accuracy": "Accuracy ↑",
    "macro_f1": "Macro-F1 ↑",
    "ndcg@10": "NDCG@10 ↑",
    "auroc": "AUROC ↑",
    "ece": "ECE ↓",
}
COLUMNS = QUALITY_COLUMNS | {"parameters": "Params", "seconds": "Fit (s)"}
TESTED = ("accuracy", "macro_f1", "ndcg@10", "auroc")


def estimates_table(rows: Sequence[Row], columns: Mapping[str, str], count: str, *, signed: bool = False) -> Table:
    """One line a row: its name, its size, and a cell a metric."""
    lines = [
        [row.name, str(row.size), *(cell(name, row.estimates.get(name), signed=signed) for name in columns)]
        for row in rows
    ]
    return Table(["Method", count, *columns.values()], lines)


def p_values_table(rows: Sequence[Row]) -> Table:
    """One line a row: p and corrected p of each tested metric."""
    columns = {name: QUALITY_COLUMNS[name].split()[0] for name in TESTED}
    lines = [[row.name, *(_p_cell(row.estimates.get(name)) for name in columns)] for row in rows]
    return Table(["Method", *(f"{title}: p (Holm)" for title in columns.values())], lines)


def slice_tables(table: SliceTable) -> list[Table]:
    """Macro-F1 and accuracy: a line a contender, a column a slice, with the slices' sizes."""
    sizes = [
        ["pairs", *(f"{s.pairs:,}{' (few)' * s.small}" for s in table.slices)],
        ["queries", *(f"{s.queries:,}" for s in table.slices)],
    ]
    tables = []
    for metric, title in (("macro_f1", "Macro-F1 ↑"), ("accuracy", "Accuracy ↑")):
        scores = [[name, *map(_slice_cell, found[metric])] for name, found in table.scores.items()]
        tables.append(Table(["Method", *(s.name for s in table.slices)], [*sizes, *scores], title))
    return tables


def cell(column: str, value: Estimate | None, *, signed: bool = False) -> str:
    """``mean ± sd`` and, behind a line break, the interval; – stands for what does not exist."""
    if value is None:
        return "–"
    if math.isnan(value.mean):
        return "undefined"
    if column == "parameters":  # a count, not an outcome: its spread is worth showing only where there is one
        return f"{value.mean / 1e6:.2f} M" + (f" ± {value.sd / 1e6:.2f} M" if value.sd else "")
    digits = 1 if column == "seconds" else 3
    mean = f"{value.mean:+z.{digits}f}" if signed else f"{value.mean:.{digits}f}"
    text = f"{mean} ± {'–' if value.sd is None else f'{value.sd:.{digits}f}'}"
    return text if value.interval is None else f"{text}\n{ends(value.interval, signed=signed)}"


def ends(interval: Interval, *, signed: bool = False) -> str:
    """An interval as text.

    >>> ends(Interval(0.1, 0.25)), ends(Interval(-0.1, 0.25), signed=True)
    ('[0.100, 0.250]', '[-0.100, +0.250]')
    """
    low, high = (f"{end:+z.3f}" if signed else f"{end:.3f}" for end in interval)
    return f"[{low}, {high}]"


def _slice_cell(value: Estimate) -> str:
    if math.isnan(value.mean):
        return "–"
    return f"{value.mean:.3f}" + ("" if value.interval is None else f"\n{ends(value.interval)}")


def _p_cell(value: Estimate | None) -> str:
    if value is None or value.p is None or value.p_holm is None:
        return "–"
    return f"{_p(value.p)} ({_p(value.p_holm)})"


def _p(value: float) -> str:
    return f"{value:.4f}" if value < 0.001 else f"{value:.3f}"
