"""Every estimate of a comparison in one CSV file, a line each."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from lrkd.evaluate.compare.estimates import Estimate, Row
from lrkd.evaluate.compare.slice_scores import SliceTable

HEADER = (
    *("table", "method", "baseline", "family", "slice", "metric", "runs", "pairs", "queries"),
    *("estimate", "sd", "low", "high", "p", "p_holm"),
)
Line = dict[str, object]


def write_csv(
    path: Path, rows: Sequence[Row], baseline: str | None, differences: Sequence[Row], slices: Sequence[SliceTable]
) -> None:
    """Write the estimates at full precision; an empty cell is a value that does not exist.

    The column ``table`` is overall, difference or slice.

    Args:
        path: The file.
        rows: The overall estimates.
        baseline: What the differences are to.
        differences: Theirs.
        slices: The slices'.
    """
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, HEADER, restval="")
        writer.writeheader()
        writer.writerows(_row_lines(rows, {"table": "overall"}))
        writer.writerows(_row_lines(differences, {"table": "difference", "baseline": baseline}))
        writer.writerows(_slice_lines(slices))


def _row_lines(rows: Sequence[Row], common: Line) -> Iterator[Line]:
    for row in rows:
        for metric, found in row.estimates.items():
            yield common | {"method": row.name, "metric": metric, "runs": row.size} | _numbers(found)


def _slice_lines(slices: Sequence[SliceTable]) -> Iterator[Line]:
    for table in slices:
        for method, scores in table.scores.items():
            for metric, estimates in scores.items():
                for part, found in zip(table.slices, estimates, strict=True):
                    place: Line = {"table": "slice", "family": table.family.name, "slice": part.name}
                    size: Line = {"pairs": part.pairs, "queries": part.queries}
                    yield place | size | {"method": method, "metric": metric} | _numbers(found)


def _numbers(found: Estimate) -> Line:
    low, high = found.interval or (None, None)
    values = {"estimate": found.mean, "sd": found.sd, "low": low, "high": high, "p": found.p, "p_holm": found.p_holm}
    return {name: value for name, value in values.items() if value is not None and math.isfinite(value)}
