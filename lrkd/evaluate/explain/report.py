"""The measured quality of explanations, in the terminal and as JSON."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from lrkd.evaluate.explain.quality import ALL, DIFFERENCES, OWN, STUDENT, Share


def show_quality(console: Console, report: dict[str, Any], state: str) -> None:
    """Print a report of :func:`lrkd.evaluate.explain.quality.measure`.

    Args:
        console: Where to.
        report: With ``split``, ``pairs``, ``queries``, ``student_agrees_with_gold`` and ``rows``.
        state: What stands for a pair in the student's head: ``[CLS]`` or ``mean state``.
    """
    measures = [name for name in report["rows"][0] if name not in ("by", "perspective")]
    title = f"{report['split']}: the nearest rationale of {report['pairs']:,} pairs, {report['queries']:,} queries"
    table = Table("rationale by", "perspective", title=title, title_justify="left")
    for name in measures:
        table.add_column(name.replace("_", " "), justify="right")
    for row in report["rows"]:
        by = row["by"].replace("[CLS]", state)
        cells = [_cell(row[name], signed=row["by"] in DIFFERENCES) for name in measures]
        table.add_row(by, row["perspective"].replace("_", " "), *cells, end_section=row["perspective"] == ALL)
    console.print(table)
    judged = next(row[STUDENT] for row in report["rows"] if (row["by"], row["perspective"]) == (OWN, ALL))
    console.print(
        f"Share of pairs ± standard error by query. {OWN}: by what the teacher wrote of the pair, on the "
        f"{judged.pairs if judged else 0:,} of which it wrote; random: expected of one drawn from the perspective's; "
        "most frequent: its most frequent verdict. The student's own label is gold on "
        f"{_cell(report['student_agrees_with_gold'])}.",
        style="dim",
    )


def _cell(share: Share | None, *, signed: bool = False) -> str:
    if share is None:
        return "–"
    error = "" if math.isnan(share.error) else f" ± {share.error:.3f}"
    return (f"{share.mean:+.3f}" if signed else f"{share.mean:.3f}") + error


def write_quality(report: dict[str, Any], path: Path) -> None:
    """Write a report as JSON; a share is an object with mean, error (null where undefined) and pairs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(_plain(report), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _plain(value: Any) -> Any:
    if isinstance(value, Share):
        return _plain(value._asdict())
    if isinstance(value, dict):
        return {name: _plain(entry) for name, entry in value.items()}
    if isinstance(value, list):
        return [_plain(entry) for entry in value]
    return None if isinstance(value, float) and math.isnan(value) else value
