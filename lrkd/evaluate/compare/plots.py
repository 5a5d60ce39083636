"""Plots of the estimates: the overview, and F1 by label."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lrkd.evaluate.compare.estimates import Estimate, Row
from lrkd.evaluate.compare.plot_style import (
    COLOURS,
    DARK,
    GREY,
    LIGHT,
    SHAPES,
    TEXT,
    axis_range,
    bars,
    new_figure,
    note,
    plain,
    round_limits,
    save,
    tidy,
    wrapped,
)


def draw_overview(
    path: Path,
    majority: Row,
    rows: Sequence[Row],
    points: Mapping[str, Sequence[float]],
    labels: Sequence[str],
    warning: str | None,
) -> None:
    """Macro-F1 a contender beside F1 a label; the best contender on top.

    Args:
        path: The PNG file.
        majority: The majority's row, drawn as a line.
        rows: The others', by rising macro-F1.
        points: The macro-F1 of each of their runs.
        labels: The label set's names; with more than six the second panel is left out.
        warning: What stands above, if anything.
    """
    by_label = len(labels) <= len(SHAPES)  # more than that no eye keeps apart
    figure = new_figure(11.5 if by_label else 7, 2 + 0.55 * len(rows))
    axes = figure.subplots(1, 2 if by_label else 1, sharey=True, squeeze=False)[0]
    _draw_macro_f1(axes[0], majority, rows, points)
    axes[0].set_yticks(range(len(rows)), [wrapped(f"{row.name} (n = {row.size})") for row in rows])
    axes[0].set_ylim(-0.6, len(rows) - 0.4)
    if by_label:
        _draw_f1(axes[1], rows, labels)
    for axis in axes:
        tidy(axis, "x")
        axis.spines["left"].set_visible(False)
        axis.tick_params(axis="y", length=0)
        for place in range(0, len(rows), 2):  # bands lead the eye from a name to its dots in both panels
            axis.axhspan(place - 0.5, place + 0.5, color="#F4F4F4", linewidth=0, zorder=-1)
    note(figure, "large dot: mean over n runs; bar: 95 % interval over resampled queries; small dots: the runs")
    if warning:
        figure.suptitle(wrapped(warning, 120), fontsize=9, color="#B03A00", x=0.01, ha="left")
    save(figure, path)


def _draw_macro_f1(axis: Any, majority: Row, rows: Sequence[Row], points: Mapping[str, Sequence[float]]) -> None:
    line = majority.estimates["macro_f1"].mean
    axis.axvline(line, color="#444444", linestyle="--", linewidth=1.2)
    axis.annotate(
        plain(f"{majority.name}: {line:.3f}"), (line, 1), xycoords=("data", "axes fraction"), xytext=(3, 4),
        textcoords="offset points", fontsize=8, color="#444444",
    )  # fmt: skip
    edges = [line]
    for place, row in enumerate(rows):
        found, own = row.estimates["macro_f1"], points[row.name]
        axis.scatter(own, [place - 0.26] * len(own), s=16, color=LIGHT, edgecolors="none", zorder=2)
        _draw_bars(axis, [found], [place - 0.04], fmt="o", markersize=7, color=DARK, elinewidth=2, zorder=3)
        text = f"{found.mean:.3f}"
        if found.interval is not None:
            text += f" [{found.interval.low:.3f}, {found.interval.high:.3f}]"
        axis.text(found.mean, place + 0.16, text, ha="center", fontsize=8, color=TEXT)
        edges += [*own, found.mean, *(found.interval or ())]
    low, high = round_limits(edges)
    axis.set_xlim(low, high)
    axis.set_xlabel(f"Macro-F1, higher is better\n{axis_range(low, high)}")


def _draw_f1(axis: Any, rows: Sequence[Row], labels: Sequence[str]) -> None:
    for number, label in enumerate(labels):
        shift = 0.12 * ((len(labels) - 1) / 2 - number)
        _draw_bars(
            axis,
            [row.estimates[f"f1/{label}"] for row in rows],
            [place + shift for place in range(len(rows))],
            fmt=SHAPES[number], markersize=5.5, color=COLOURS[number], elinewidth=1.2, label=plain(label),
        )  # fmt: skip
    axis.set_xlim(0, 1)
    axis.set_xlabel("F1 by label, higher is better\n(axis 0 to 1)")
    axis.legend(
        loc="lower left", bbox_to_anchor=(0, 1), ncols=len(labels), frameon=False, fontsize=8, columnspacing=0.8
    )


def _draw_bars(axis: Any, estimates: Sequence[Estimate], places: Sequence[float], **style: Any) -> None:
    means = [found.mean for found in estimates]
    axis.errorbar(means, places, xerr=bars(means, [found.interval for found in estimates]), **style)


def draw_labels(path: Path, rows: Sequence[Row], labels: Sequence[str]) -> None:
    """F1 by label: a panel a label, a bar with its interval a contender.

    Args:
        path: The PNG file.
        rows: The majority's row first, then the others by rising macro-F1.
        labels: The label set's names.
    """
    across = min(4, len(labels))
    down = math.ceil(len(labels) / across)
    figure = new_figure(2.6 + 2.5 * across, (1.3 + 0.32 * len(rows)) * down)
    axes = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False).ravel()
    for axis, label in zip(axes, labels, strict=False):
        found = [row.estimates[f"f1/{label}"] for row in rows]
        colours = [GREY, *[LIGHT] * (len(rows) - 1)]
        axis.barh(range(len(rows)), [f.mean for f in found], height=0.66, color=colours)
        _draw_bars(axis, found, range(len(rows)), fmt="none", ecolor=TEXT, elinewidth=1.2, capsize=2)
        axis.set_title(plain(label), fontsize=10, loc="left")
        axis.set_xlim(0, 1)
        axis.set_yticks(range(len(rows)), [wrapped(row.name) for row in rows], fontsize=8)
        tidy(axis, "x")
        axis.tick_params(axis="y", length=0)
    for axis in axes[len(labels) :]:
        axis.set_visible(False)
    note(figure, "F1, higher is better, axis 0 to 1; bar: mean over runs; line: 95 % interval over resampled queries")
    save(figure, path)
