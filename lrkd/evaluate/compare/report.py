"""The report of a comparison: its sections, and the files that it is written to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.text import Text

from lrkd.data.types import LabelSet
from lrkd.evaluate.compare.blocks import Block, Picture, Points, Section, Table, Warn, markdown, show
from lrkd.evaluate.compare.cost_plot import draw_cost
from lrkd.evaluate.compare.costs import Cost
from lrkd.evaluate.compare.curves import Curve, draw_curves
from lrkd.evaluate.compare.estimates import Measured, Row
from lrkd.evaluate.compare.page import page
from lrkd.evaluate.compare.plots import draw_labels, draw_overview
from lrkd.evaluate.compare.reading import how_to_read
from lrkd.evaluate.compare.score_plots import draw_confusion, draw_reliability
from lrkd.evaluate.compare.scored import Fold, FoldPairs
from lrkd.evaluate.compare.slice_scores import FEW_PAIRS, SliceTable
from lrkd.evaluate.compare.table_cells import (
    COLUMNS,
    QUALITY_COLUMNS,
    estimates_table,
    p_values_table,
    slice_tables,
)
from lrkd.evaluate.compare.tidy_csv import write_csv
from lrkd.runs import RunRecord, ScoredSplit


@dataclass(frozen=True)
class Report:
    """A comparison, ready to be shown.

    Args:
        split: The split that was compared.
        records: The runs behind it.
        label_set: Their label set.
        folds: The pairs of each fold.
        measured: The majority, then the other contenders by rising macro-F1.
        baseline: The contender that the differences are to.
        differences: One row a contender, if there is a baseline.
        slices: One table a family.
        left_out: What is not in the report, and why.
        focus: The contenders whose reliability and confusion are drawn.
        cost: What macro-F1 is set against.
        curves: The methods' learning curves.
        resamples: How often queries were drawn.
        seed: The draws' seed.
        warnings: What the reader must know before trusting the figures.
    """

    split: ScoredSplit
    records: Sequence[RunRecord]
    label_set: LabelSet
    folds: Mapping[Fold, FoldPairs]
    measured: Sequence[Measured]
    baseline: str | None
    differences: Sequence[Row]
    slices: Sequence[SliceTable]
    left_out: Sequence[str]
    focus: Sequence[Measured]
    cost: Cost
    curves: Mapping[str, Sequence[Curve]]
    resamples: int
    seed: int
    warnings: Sequence[str]

    @property
    def rows(self) -> list[Row]:
        """The majority's row, then the others."""
        return [found.row() for found in self.measured]

    @property
    def source(self) -> str:
        """What was compared, in a line."""
        run, methods = self.records[0], {run.method for run in self.records}
        pairs, queries = (sum(f(p) for p in self.folds.values()) for f in (len, lambda p: p.queries))
        return (
            f"{_count(len(self.records), 'run')} of {_count(len(methods), 'method')}, {self.split} split: "
            f"{_count(pairs, 'pair')} of {queries:,} queries{_folds(self.folds)}; label set {run.label_set.name}; "
            f"data {run.data_root} (fingerprint {run.fingerprint[:12]})"
        )

    def show(self) -> None:
        """Print the warnings and the tables but the slices' to the terminal."""
        console = Console()
        if not console.is_terminal:
            console.width = 200  # a pipe or a file has no edge to wrap at
        show([*map(Warn, self.warnings), *self._main()], console)
        for section in (self._differences(), self._labels()):
            if section is not None:
                console.print(Text(f"\n{section.title}"))
                show([block for block in section.blocks if isinstance(block, Table)], console)

    def write(self, folder: Path) -> list[Path]:
        """Write compare.md, compare.csv, compare.png, the other plots, and all of it as compare.html.

        Args:
            folder: Where to; made if there is none.

        Returns:
            The files written.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._draw(folder)
        report = self._report()
        files = [folder / f"compare.{kind}" for kind in ("html", "md", "csv", "png")]
        files[0].write_text(page(report, folder), encoding="utf-8")
        files[1].write_text(markdown(report), encoding="utf-8")
        write_csv(files[2], self.rows, self.baseline, self.differences, self.slices)
        return files

    def _draw(self, folder: Path) -> None:
        majority, *rows = self.rows
        labels, focus = self.label_set.labels, [found.contender for found in self.focus]
        points = {m.contender.name: [unit.values["macro_f1"] for unit in m.units.values()] for m in self.measured}
        warning = self.warnings[0] if self.warnings else None
        draw_overview(folder / "compare.png", majority, rows, points, labels, warning)
        draw_labels(folder / "plots/labels.png", self.rows, labels)
        draw_cost(folder / "plots/cost.png", majority, rows, self.cost)
        draw_reliability(folder / "plots/reliability.png", focus, self.folds)
        draw_confusion(folder / "plots/confusion.png", focus, self.folds, labels)
        if self.curves:
            draw_curves(folder / "plots/curves.png", self.curves, self.baseline)

    def _report(self) -> Section:
        overview = Picture("compare.png", f"Macro-F1 and F1 by label: {self._best()}", "The best contender on top.")
        blocks: list[Block] = [f"{self.source}.", *map(Warn, self.warnings), *self._main(), overview]
        made = [
            self._differences(),
            self._labels(),
            self._cost(),
            self._slices(),
            self._certainty(),
            self._curves(),
            self._runs(),
            Section("How to read this", [Points(how_to_read(self.resamples, self.seed, self.baseline))]),
        ]
        return Section("Comparison", blocks, [section for section in made if section is not None])

    def _main(self) -> list[Block]:
        notes = [f"{m.contender.name}: {m.contender.note}." for m in self.measured if m.contender.note]
        return [
            estimates_table(self.rows, COLUMNS, "Runs"),
            "Mean ± sample standard deviation (n − 1) over a method's runs, folds and seeds together, and the 95 % "
            "interval over resampled queries; – where there is none (a single run, or a metric that the row does not "
            "have); undefined where it is so in one of the runs. By rising macro-F1.",
            *notes,
        ]

    def _differences(self) -> Section | None:
        if self.baseline is None:
            return None
        table = estimates_table(self.differences, QUALITY_COLUMNS, "Pairs", signed=True)
        return Section(
            f"Difference to {self.baseline}",
            [
                "Paired by fold and seed: mean ± standard deviation of the runs' differences, and the 95 % interval "
                "over queries, both sides on the same resampled ones.",
                table,
                p_values_table(self.differences),
                "Two-sided p of no difference over resampled queries; in brackets the same after Holm's correction "
                "over the rows, one metric at a time: decide which metric counts before you look.",
            ],
        )

    def _labels(self) -> Section:
        columns = {f"f1/{label}": label for label in self.label_set.labels}
        picture = Picture("plots/labels.png", "F1 by label, a bar a contender", "F1 by label, with 95 % intervals.")
        return Section("F1 by label", [estimates_table(self.rows, columns, "Runs"), picture])

    def _cost(self) -> Section:
        missing = [row.name for row in self.rows[1:] if row.name not in self.cost.values]
        caption = f"Macro-F1 against {self.cost.name}; up and to the left is better."
        if missing:
            caption += f" Not drawn, for want of a value: {', '.join(missing)}."
        return Section("Quality and cost", [Picture("plots/cost.png", caption, caption)])

    def _slices(self) -> Section:
        intro: list[Block] = [
            "Accuracy and macro-F1 on parts of the pairs, over all of a method's runs together, with 95 % intervals "
            "over resampled queries (none where a resample missed the slice). To find out where to look, not to prove: "
            "nothing here is corrected for the number of slices. Macro-F1 is over all labels, absent ones counting 0, "
            f"so compare down a column, not across. (few) marks slices of fewer than {FEW_PAIRS} pairs."
        ]
        if self.left_out:
            intro.append(Points([f"Left out: {reason}." for reason in self.left_out]))
        parts = [
            Section(_sentence(table.family.name)[:-1], [_sentence(table.family.meaning), *slice_tables(table)])
            for table in self.slices
        ]
        return Section("Slices", intro, parts)

    def _certainty(self) -> Section:
        names = ", ".join(found.contender.name for found in self.focus)
        return Section(
            "Certainty and confusion",
            [
                Picture("plots/reliability.png", f"Reliability of {names}", f"Reliability of {names}."),
                Picture("plots/confusion.png", f"Confusion matrices of {names}", f"Gold against predicted: {names}."),
            ],
        )

    def _curves(self) -> Section | None:
        if not self.curves:
            return None
        caption = "Macro-F1 on the validation split by epoch."
        return Section("Learning curves", [Picture("plots/curves.png", "Learning curves by method", caption)])

    def _runs(self) -> Section:
        values = {m.contender.name: m.units for m in self.measured}
        lines = [
            [
                run.method,
                "–" if run.fold is None else str(run.fold),
                str(run.seed),
                str(run.path),
                f"{values[run.method][run.fold, run.seed].values['macro_f1']:.3f}",
            ]
            for run in self.records
        ]
        return Section("Runs", [Table(["Method", "Fold", "Seed", "Folder", "Macro-F1"], lines)])

    def _best(self) -> str:
        majority, *rows = self.rows
        best = rows[-1]
        return (
            f"the highest is {best.name}, {best.estimates['macro_f1'].mean:.3f}; "
            f"{majority.name} {majority.estimates['macro_f1'].mean:.3f}"
        )


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' * (number != 1)}"


def _folds(folds: Mapping[Fold, FoldPairs]) -> str:
    return "" if None in folds else f" in {_count(len(folds), 'fold')}"
