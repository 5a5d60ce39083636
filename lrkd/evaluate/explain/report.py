"""The measured quality of explanations: in the terminal, as Markdown and JSON."""

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
    header, *lines = _grid(report, state)
    table = Table(*header[:2], title=_title(report), title_justify="left")
    for name in header[2:]:
        table.add_column(name, justify="right")
    for line in lines:
        table.add_row(*line, end_section=line[1] == ALL)
    console.print(table)
    console.print(_note(report), style="dim")


def _grid(report: dict[str, Any], state: str) -> list[tuple[str, ...]]:
    """The table's cells, the header first."""
    measures = [name for name in report["rows"][0] if name not in ("by", "perspective")]
    grid = [("rationale by", "perspective", *(name.replace("_", " ") for name in measures))]
    for row in report["rows"]:
        cells = [_cell(row[name], signed=row["by"] in DIFFERENCES) for name in measures]
        grid.append((row["by"].replace("[CLS]", state), row["perspective"].replace("_", " "), *cells))
    return grid


def _title(report: dict[str, Any]) -> str:
    return f"{report['split']}: the nearest rationale of {report['pairs']:,} pairs, {report['queries']:,} queries"


def _note(report: dict[str, Any]) -> str:
    judged = next(row[STUDENT] for row in report["rows"] if (row["by"], row["perspective"]) == (OWN, ALL))
    return (
        f"Share of pairs ± standard error by query. {OWN}: by what the teacher wrote of the pair, on the "
        f"{judged.pairs if judged else 0:,} of which it wrote; random: expected of one drawn from the perspective's; "
        "most frequent: its most frequent verdict. The student's own label is gold on "
        f"{_cell(report['student_agrees_with_gold'])}."
    )


def _cell(share: Share | None, *, signed: bool = False) -> str:
    if share is None:
        return "–"
    error = "" if math.isnan(share.error) else f" ± {share.error:.3f}"
    return (f"{share.mean:+.3f}" if signed else f"{share.mean:.3f}") + error


def write_quality(report: dict[str, Any], state: str, folder: Path) -> list[Path]:
    """Write a report as Markdown and JSON; in JSON a share is an object with mean, error (null where undefined), pairs.

    Args:
        report: As :func:`show_quality`.
        state: See there.
        folder: Takes ``<split>_explanations.md`` and ``.json``; made if there is none.

    Returns:
        The files written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{report['split']}_explanations.{kind}" for kind in ("md", "json")]
    header, *lines = _grid(report, state)
    rule = ("---", "---", *["---:"] * (len(header) - 2))
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in (header, rule, *lines))
    files[0].write_text(f"{_title(report)}\n\n{table}\n\n{_note(report)}\n", encoding="utf-8")
    files[1].write_text(json.dumps(_plain(report), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return files


def _plain(value: Any) -> Any:
    if isinstance(value, Share):
        return _plain(value._asdict())
    if isinstance(value, dict):
        return {name: _plain(entry) for name, entry in value.items()}
    if isinstance(value, list):
        return [_plain(entry) for entry in value]
    return None if isinstance(value, float) and math.isnan(value) else value
