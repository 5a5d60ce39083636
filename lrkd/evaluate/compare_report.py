"""How a comparison looks: the terminal's table, Markdown, CSV and the picture."""

from __future__ import annotations

import csv
import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lrkd.runs import RunRecord, ScoredSplit

QUALITY = {
    "accuracy": "Accuracy ↑",
    "macro_f1": "Macro-F1 ↑",
    "ndcg@10": "NDCG@10 ↑",
    "auroc": "AUROC ↑",
    "ece": "ECE ↓",
}
COLUMNS = QUALITY | {"parameters": "Params", "seconds": "Fit (s)"}

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
"""Okabe and Ito's colours, which the colour-blind tell apart; the shapes below say the same again."""
SHAPES = "osD^vP"
DARK, LIGHT = "#0072B2", "#8FBFDF"


class Estimate(NamedTuple):
    """A mean over runs, and the sample standard deviation (n − 1), which one run does not have."""

    mean: float
    sd: float | None


class Row(NamedTuple):
    """One line of a table: a name, how many runs (or paired differences) it stands on, and its estimates."""

    name: str
    size: int
    estimates: dict[str, Estimate]


@dataclass(frozen=True)
class Report:
    """A comparison, ready to be shown.

    Args:
        split: The split that was compared.
        runs: The runs behind it.
        rows: The majority's row, then one a method.
        points: The macro-F1 of every run, by method.
        baseline: The method that the differences are to.
        differences: One row a method, if there is a baseline.
        warning: What the reader must know before trusting the means.
    """

    split: ScoredSplit
    runs: Sequence[RunRecord]
    rows: Sequence[Row]
    points: dict[str, list[float]]
    baseline: str | None = None
    differences: Sequence[Row] = ()
    warning: str | None = None

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels of the runs' label set."""
        return self.runs[0].label_set.labels

    @property
    def source(self) -> str:
        """What was compared, in a line."""
        run = self.runs[0]
        return (
            f"{_count(len(self.runs), 'run')} of {_count(len(self.points), 'method')}, {self.split} split; label set "
            f"{run.label_set.name}; data {run.data_root} (fingerprint {run.fingerprint[:12]})"
        )

    @property
    def notes(self) -> list[str]:
        """What the table's rows and signs mean."""
        return [
            "Mean ± sample standard deviation (n − 1) over a method's runs, folds and seeds together; – where there is "
            "none (a single run, or a metric that the row does not have); undefined where it is so in one of the runs.",
            f"{self.rows[0].name}: gives every pair the training split's most frequent label, over the same folds and "
            "seeds, each counted once.",
            "Methods by ascending macro-F1. ECE is that of the calibrated probabilities.",
        ]

    @property
    def _differences_title(self) -> str:
        return f"Difference to {self.baseline}, paired by fold and seed"

    def show(self) -> None:
        """Print the tables to the terminal."""
        console = Console()
        if not console.is_terminal:
            console.width = 200  # a pipe or a file has no edge to wrap at
        _print_table(console, _grid(self.rows, COLUMNS, "Runs"))
        for note in self.notes:
            console.print(Text(note, style="dim"))
        if self.baseline is not None:
            console.print(Text(f"\n{self._differences_title}"))
            _print_table(console, _grid(self.differences, QUALITY, "Pairs", signed=True))
        if self.warning:
            console.print(Text(f"WARNING: {self.warning}", style="bold yellow"))

    def write(self, folder: Path) -> list[Path]:
        """Write compare.md, compare.csv and compare.png.

        Args:
            folder: Where to; made if there is none.

        Returns:
            The files written.
        """
        folder.mkdir(parents=True, exist_ok=True)
        files = [folder / f"compare.{kind}" for kind in ("md", "csv", "png")]
        files[0].write_text(self.markdown(), encoding="utf-8")
        self._write_csv(files[1])
        self._draw(files[2])
        return files

    def markdown(self) -> str:
        """The report as Markdown; it shows compare.png from the same folder."""
        labels = {f"f1/{label}": label for label in self.labels}
        runs = [["Method", "Fold", "Seed", "Folder"]]
        runs += [[r.method, "–" if r.fold is None else str(r.fold), str(r.seed), str(r.path)] for r in self.runs]
        parts = ["# Comparison", f"{self.source}."]
        if self.warning:
            parts.append(f"> **Warning:** {self.warning}")
        parts += [_markdown_table(_grid(self.rows, COLUMNS, "Runs")), *self.notes, "![Macro-F1 a method](compare.png)"]
        if self.baseline is not None:
            table = _markdown_table(_grid(self.differences, QUALITY, "Pairs", signed=True))
            parts += [f"## {self._differences_title}", table]
        parts += ["## F1 by label", _markdown_table(_grid(self.rows[1:], labels, "Runs"))]
        parts += ["## Runs", _markdown_table(runs)]
        return "\n\n".join(parts) + "\n"

    def _write_csv(self, path: Path) -> None:
        """One line a method at full precision; an empty cell is a value that does not exist."""
        names = [*COLUMNS, *(f"f1/{label}" for label in self.labels)]
        header = ["method", "runs", *(f"{name}_{part}" for name in names for part in ("mean", "sd"))]
        if self.baseline is not None:
            header += ["paired", *(f"{name}_difference_{part}" for name in QUALITY for part in ("mean", "sd"))]
        against = {row.name: row for row in self.differences}
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(header)
            for row in self.rows:
                line: list[object] = [row.name, row.size, *_flat(row, names)]
                if row.name in against:
                    line += [against[row.name].size, *_flat(against[row.name], list(QUALITY))]
                writer.writerow(line + [""] * (len(header) - len(line)))

    def _draw(self, path: Path) -> None:
        """Macro-F1 a method beside F1 a label; the best method on top."""
        from matplotlib.figure import Figure  # a third of a second that other commands need not pay
        from matplotlib.layout_engine import ConstrainedLayoutEngine

        methods = self.rows[1:]
        by_label = len(self.labels) <= len(SHAPES)  # more than that no eye keeps apart
        names = [_plain(textwrap.fill(f"{row.name} (n = {row.size})", 30)) for row in methods]
        size = (11.5 if by_label else 7, 2 + 0.55 * len(methods))
        figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(wspace=0.05), dpi=160)
        axes = figure.subplots(1, 2 if by_label else 1, sharey=True, squeeze=False)[0]
        _draw_macro_f1(axes[0], self.rows[0], methods, self.points)
        axes[0].set_yticks(range(len(methods)), names)
        axes[0].set_ylim(-0.6, len(methods) - 0.4)
        if by_label:
            _draw_labels(axes[1], methods, self.labels)
        for axis in axes:
            axis.spines[["top", "right", "left"]].set_visible(False)
            axis.tick_params(axis="y", length=0)
            axis.grid(axis="x", color="#E3E3E3", linewidth=0.8)
            axis.set_axisbelow(True)
            for place in range(0, len(methods), 2):  # bands lead the eye from a name to its dots in both panels
                axis.axhspan(place - 0.5, place + 0.5, color="#F4F4F4", linewidth=0, zorder=-1)
        note = f"{self.split} split · large dot: mean, bar: ± 1 sd over runs (none for a single run), small dots: runs"
        figure.supxlabel(note, fontsize=8, color="#555555", x=0.01, ha="left")
        if self.warning:
            title = "Unbalanced: the methods do not cover the same folds and seeds (see compare.md)"
            figure.suptitle(title, fontsize=9, color="#B03A00", x=0.01, ha="left")
        figure.savefig(path)


def _draw_macro_f1(axis: Any, majority: Row, methods: Sequence[Row], points: dict[str, list[float]]) -> None:
    line = majority.estimates["macro_f1"].mean
    axis.axvline(line, color="#444444", linestyle="--", linewidth=1.2)
    axis.annotate(
        _plain(f"{majority.name}: {line:.3f}"),
        (line, 1),
        xycoords=("data", "axes fraction"),
        xytext=(3, 4),
        textcoords="offset points",
        fontsize=8,
        color="#444444",
    )
    for place, row in enumerate(methods):
        mean, sd = row.estimates["macro_f1"]
        own = points[row.name]
        axis.scatter(own, [place - 0.26] * len(own), s=16, color=LIGHT, edgecolors="none", zorder=2)
        if math.isnan(mean):
            continue
        axis.errorbar(mean, place - 0.04, xerr=sd, fmt="o", markersize=7, color=DARK, elinewidth=2, zorder=3)
        text = f"{mean:.3f}" if sd is None else f"{mean:.3f} ± {sd:.3f}"
        axis.text(mean, place + 0.16, text, ha="center", fontsize=8, color="#222222")
    edges = [line, *(value for own in points.values() for value in own)]
    edges += [mean + sign * (sd or 0) for mean, sd in (r.estimates["macro_f1"] for r in methods) for sign in (-1, 1)]
    edges = [edge for edge in edges if not math.isnan(edge)] or [0.0, 1.0]
    margin = max(0.08 * (max(edges) - min(edges)), 0.01)
    low = max(0.0, math.floor(100 * (min(edges) - margin)) / 100)  # round, so that the axis is what its label says
    high = min(1.0, math.ceil(100 * (max(edges) + 2 * margin)) / 100)
    axis.set_xlim(low, high)
    axis.set_xlabel(f"Macro-F1, higher is better\n(axis {low:.2f} to {high:.2f}{', not from 0' if low else ''})")


def _draw_labels(axis: Any, methods: Sequence[Row], labels: Sequence[str]) -> None:
    for number, label in enumerate(labels):
        shift = 0.12 * ((len(labels) - 1) / 2 - number)
        estimates = [row.estimates[f"f1/{label}"] for row in methods]
        axis.errorbar(
            [e.mean for e in estimates],
            [place + shift for place in range(len(methods))],
            xerr=[math.nan if e.sd is None else e.sd for e in estimates],
            fmt=SHAPES[number],
            markersize=5.5,
            color=COLOURS[number],
            elinewidth=1.2,
            label=_plain(label),
        )
    axis.set_xlim(0, 1)
    axis.set_xlabel("F1 by label, higher is better\n(axis 0 to 1)")
    axis.legend(
        loc="lower left", bbox_to_anchor=(0, 1), ncols=len(labels), frameon=False, fontsize=8, columnspacing=0.8
    )


def _plain(text: str) -> str:
    """Text that matplotlib must not read as a formula."""
    return text.replace("$", r"\$")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


def _cell(column: str, value: Estimate | None, *, signed: bool = False) -> str:
    """``mean ± sd`` as text; – stands for what does not exist."""
    if value is None:
        return "–"
    if math.isnan(value.mean):
        return "undefined"
    if column == "parameters":  # a count, not an outcome: its spread is worth showing only where there is one
        return f"{value.mean / 1e6:.2f} M" + (f" ± {value.sd / 1e6:.2f} M" if value.sd else "")
    digits = 1 if column == "seconds" else 3
    mean = f"{value.mean:+z.{digits}f}" if signed else f"{value.mean:.{digits}f}"
    return f"{mean} ± {'–' if value.sd is None else f'{value.sd:.{digits}f}'}"


def _grid(rows: Sequence[Row], columns: dict[str, str], count: str, *, signed: bool = False) -> list[list[str]]:
    """A table as text, its header first."""
    lines = [[row.name, str(row.size)] for row in rows]
    for line, row in zip(lines, rows, strict=True):
        line += [_cell(name, row.estimates.get(name), signed=signed) for name in columns]
    return [["Method", count, *columns.values()], *lines]


def _flat(row: Row, names: Sequence[str]) -> list[float | None]:
    return [part for name in names for part in row.estimates.get(name, (None, None))]


def _print_table(console: Console, grid: list[list[str]]) -> None:
    table = Table(box=None, pad_edge=False, padding=(0, 1))
    narrow = console.width < 140
    for place, name in enumerate(grid[0]):
        table.add_column(
            Text(name.replace(" ", "\n") if narrow else name), justify="right" if place else "left", overflow="fold"
        )
    for line in grid[1:]:
        table.add_row(*(Text(cell.replace(" ± ", "\n± ") if narrow else cell) for cell in line))
    console.print(table)


def _markdown_table(grid: list[list[str]]) -> str:
    lines = [grid[0], ["---"] + ["---:"] * (len(grid[0]) - 1), *grid[1:]]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)
