"""Learning curves: validation macro-F1 by epoch, from the runs' ``metrics.csv``."""

from __future__ import annotations

import csv
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from lrkd.errors import UserError
from lrkd.evaluate.compare.plot_style import (
    DARK,
    GREY,
    LIGHT,
    axis_range,
    new_figure,
    note,
    round_limits,
    save,
    tidy,
    wrapped,
)
from lrkd.runs import RunRecord

HISTORY_FILE = "metrics.csv"
METRIC = "val/macro_f1"
Curve = dict[int, float]
"""Epoch, from 1, to value."""


def read_curves(records: Sequence[RunRecord]) -> tuple[dict[str, list[Curve]], list[Path]]:
    """The curves of runs by method; and the folders that hold none, for want of a ``metrics.csv`` or of a value."""
    curves: dict[str, list[Curve]] = {}
    without = []
    for run in records:
        if curve := read_curve(run.path):
            curves.setdefault(run.method, []).append(curve)
        else:
            without.append(run.path)
    return curves, without


def read_curve(folder: Path) -> Curve:
    """A run's curve; of several values in one epoch the last, and nothing where another logger wrote elsewhere.

    Raises:
        UserError: A value is not a number.
    """
    file = folder / HISTORY_FILE
    if not file.is_file():
        return {}
    with file.open(encoding="utf-8", newline="") as lines:
        rows = [row for row in csv.DictReader(lines) if row.get(METRIC) and row.get("epoch")]
    try:
        return {int(float(row["epoch"])) + 1: float(row[METRIC]) for row in rows}
    except ValueError as error:
        raise UserError(f"{file}, column {METRIC!r}: {error}; the file was edited or is broken") from error


def mean_curve(curves: Sequence[Curve]) -> Curve:
    """The mean at each epoch that all curves reach: with fewer it would jump where a run ends."""
    epochs = sorted(set.intersection(*(set(curve) for curve in curves)))
    return {epoch: statistics.fmean(curve[epoch] for curve in curves) for epoch in epochs}


def draw_curves(path: Path, curves: Mapping[str, Sequence[Curve]], baseline: str | None) -> None:
    """A panel a method: its runs, their mean, and the baseline's mean behind.

    Args:
        path: The PNG file.
        curves: By method.
        baseline: The method that stands in every panel, if any.
    """
    across = min(4, len(curves))
    down = math.ceil(len(curves) / across)
    figure = new_figure(1 + 2.6 * across, 0.8 + 2.1 * down)
    axes = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False).ravel()
    behind = mean_curve(curves[baseline]) if baseline is not None and baseline in curves else {}
    low, high = round_limits([value for own in curves.values() for curve in own for value in curve.values()])
    last = max(epoch for own in curves.values() for curve in own for epoch in curve)
    for axis, (method, own) in zip(axes, curves.items(), strict=False):
        for curve in own:
            axis.plot(curve.keys(), curve.values(), color=LIGHT, linewidth=1, marker=".", markersize=4)
        if behind and method != baseline:
            axis.plot(behind.keys(), behind.values(), color=GREY, linestyle="--", linewidth=1.5, marker=".")
        mean = mean_curve(own)
        axis.plot(mean.keys(), mean.values(), color=DARK, linewidth=2, marker="o", markersize=4)
        axis.set_title(wrapped(f"{method} (n = {len(own)})"), fontsize=9)
        axis.set_ylim(low, high)
        axis.set_xlim(0.8, last + 0.2)
        axis.locator_params(axis="x", integer=True, nbins=min(last, 8) + 1)
        tidy(axis)
    for axis in axes[len(curves) :]:
        axis.set_visible(False)
    figure.supylabel(f"validation macro-F1\n{axis_range(low, high)}", fontsize=9)
    grey = f"; dashed: the mean of {baseline}" if behind else ""
    note(figure, f"x: epoch; thin: the n runs, thick: their mean{grey}")
    save(figure, path)
