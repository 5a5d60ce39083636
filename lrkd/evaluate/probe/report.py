"""The results of probes: in the terminal, as Markdown, CSV and JSON."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from lrkd.evaluate.probe.probing import Scores

HEADER = ("vectors", "width", "macro-F1", "balanced accuracy", "… labels shuffled", "… against the first")
NOTE = (
    "Mean ± standard deviation over the folds; folds share their fitting pairs, so the deviation is no standard error. "
    "Labels shuffled: the balanced accuracy of the same probe on labels dealt out anew over queries, which should be "
    "by chance. Against the first: the difference in balanced accuracy to the first vectors, fold by fold."
)


@dataclass(frozen=True)
class Probed:
    """One kind of vectors on one task.

    Args:
        vectors: What they are; ``majority`` for the row without.
        width: D; None for the majority.
        scores: Of the F folds.
        shuffled: The same with shuffled labels; None for the majority.
    """

    vectors: str
    width: int | None
    scores: Scores
    shuffled: Scores | None


@dataclass(frozen=True)
class TaskResult:
    """All probes of one task.

    Args:
        name: The task.
        meaning: What it is.
        classes: How many pairs each class has.
        queries: How many queries the pairs are of.
        rows: The majority first, then the vectors in order.
    """

    name: str
    meaning: str
    classes: dict[str, int]
    queries: int
    rows: list[Probed]

    @property
    def title(self) -> str:
        """The task, its classes and how many pairs they have."""
        classes = ", ".join(f"{name} {count:,}" for name, count in self.classes.items())
        return (
            f"{self.name} ({self.meaning}): {sum(self.classes.values()):,} pairs, {self.queries:,} queries; "
            f"{classes}; chance {1 / len(self.classes):.3f}"
        )

    def grid(self) -> list[tuple[str, ...]]:
        """The cells of its table, without the header."""
        first = self.rows[1].scores.balanced_accuracy
        lines: list[tuple[str, ...]] = []
        for row in self.rows:
            against = None if row in self.rows[:2] else row.scores.balanced_accuracy - first
            lines.append(
                (
                    row.vectors,
                    "" if row.width is None else f"{row.width:,}",
                    _cell(row.scores.macro_f1),
                    _cell(row.scores.balanced_accuracy),
                    _cell(row.shuffled.balanced_accuracy if row.shuffled else None),
                    _cell(against, signed=True),
                )
            )
        return lines

    def to_dict(self) -> dict[str, Any]:
        """Plain types, every fold's scores among them."""
        rows = [
            {
                "vectors": row.vectors,
                "width": row.width,
                "folds": {name: values.tolist() for name, values in row.scores._asdict().items()},
                "shuffled_folds": row.shuffled
                and {name: values.tolist() for name, values in row.shuffled._asdict().items()},
            }
            for row in self.rows
        ]
        return {
            "task": self.name,
            "meaning": self.meaning,
            "classes": self.classes,
            "queries": self.queries,
            "rows": rows,
        }


def _cell(values: np.ndarray | None, *, signed: bool = False) -> str:
    if values is None:
        return ""
    return (f"{values.mean():+.3f}" if signed else f"{values.mean():.3f}") + f" ± {values.std(ddof=1):.3f}"


def show(console: Console, results: list[TaskResult]) -> None:
    """Print a table a task."""
    for result in results:
        console.print(f"\n{result.title}")
        table = Table(box=None, padding=(0, 1))
        for name in HEADER:
            table.add_column(name, justify="left" if name == HEADER[0] else "right")
        for line in result.grid():
            table.add_row(*line)
        console.print(table)
    console.print(f"\n{NOTE}", style="dim")


def write(folder: Path, results: list[TaskResult], source: dict[str, Any], left_out: list[str]) -> list[Path]:
    """Write ``probe.md``, ``probe.csv`` and ``probe.json``.

    Args:
        folder: Where to; made if there is none.
        results: A result a task.
        source: What was probed, in plain types.
        left_out: What was not, and why.

    Returns:
        The files written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"probe.{kind}" for kind in ("md", "csv", "json")]
    files[0].write_text(_markdown(results, source, left_out), encoding="utf-8")
    _write_csv(files[1], results)
    content = {"source": source, "left_out": left_out, "tasks": [result.to_dict() for result in results]}
    files[2].write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return files


def _markdown(results: list[TaskResult], source: dict[str, Any], left_out: list[str]) -> str:
    parts = ["# Probes", "; ".join(f"{name.replace('_', ' ')}: {value}" for name, value in source.items()), NOTE]
    for result in results:
        rule = ["---", *["---:"] * (len(HEADER) - 1)]
        lines = [f"| {' | '.join(cells)} |" for cells in (HEADER, rule, *result.grid())]
        parts += [f"## {result.name}", result.title, "\n".join(lines)]
    if left_out:
        parts += ["## Left out", "\n".join(f"- {reason}" for reason in left_out)]
    return "\n\n".join(parts) + "\n"


def _write_csv(path: Path, results: list[TaskResult]) -> None:
    """One line a task and kind of vectors, at full precision."""
    scores = [f"{prefix}{score}" for prefix in ("", "shuffled_") for score in Scores._fields]
    names = [f"{score}_{part}" for score in scores for part in ("mean", "sd")]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["task", "vectors", "width", "pairs", "queries", "classes", *names])
        for result in results:
            facts = (sum(result.classes.values()), result.queries, len(result.classes))
            for row in result.rows:
                values = [*row.scores, *(row.shuffled or ())]
                numbers = [number for fold in values for number in (float(fold.mean()), float(fold.std(ddof=1)))]
                line = [result.name, row.vectors, row.width, *facts, *numbers]
                writer.writerow(line + [""] * (6 + len(names) - len(line)))
