"""Macro-F1 against what it costs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lrkd.evaluate.compare.costs import Cost
from lrkd.evaluate.compare.estimates import Row
from lrkd.evaluate.compare.plot_style import (
    axis_range,
    bars,
    look,
    new_figure,
    note,
    plain,
    round_limits,
    save,
    tidy,
    wrapped,
)

NEAR = 0.02
"""The part of the axis within which two dots would lie on each other."""


def draw_cost(path: Path, majority: Row, rows: Sequence[Row], cost: Cost) -> None:
    """Macro-F1 with its interval against a cost; up and to the left is better.

    Args:
        path: The PNG file.
        majority: The majority's row, drawn as a line.
        rows: The others'.
        cost: What each costs.
    """
    figure = new_figure(8.6, 4.4)
    axis = figure.subplots()
    line = majority.estimates["macro_f1"].mean
    axis.axhline(line, color="#444444", linestyle="--", linewidth=1.2, label=wrapped(f"{majority.name}: {line:.3f}"))
    drawn = [row for row in rows if row.name in cost.values]
    values = [cost.values[row.name] for row in drawn]
    axis.set_xlabel(plain(f"{cost.name}, lower is better\n{_scale(axis, values)}"))
    edges = [line]
    for number, (row, place) in enumerate(zip(drawn, side_by_side(axis, values), strict=True)):
        found = row.estimates["macro_f1"]
        axis.errorbar(
            place, found.mean, yerr=bars([found.mean], [found.interval]), markersize=7, elinewidth=1.2,
            label=wrapped(row.name), **(look(number) | {"linestyle": "none"}),
        )  # fmt: skip
        edges += [found.mean, *(found.interval or ())]
    low, high = round_limits(edges)
    axis.set_ylim(low, high)
    axis.set_ylabel(f"Macro-F1, higher is better\n{axis_range(low, high)}")
    tidy(axis)
    axis.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=8)
    note(figure, "dot: mean over runs; bar: 95 % interval over resampled queries; dots of one cost stand side by side")
    save(figure, path)


def _scale(axis: Any, values: Sequence[float]) -> str:
    """Set a scale that tells the values apart, and say which."""
    from matplotlib.ticker import EngFormatter

    axis.xaxis.set_major_formatter(EngFormatter(sep=" "))
    low, high = min(values), max(values)
    if high / low > 10:
        axis.set_xscale("log")
        axis.xaxis.set_minor_formatter("")
        axis.set_xlim(low / 1.5, high * 1.5)
        return "(log scale)"
    margin = 0.15 * (high - low) or 0.05 * high
    low, high = (0.0 if low < 2 * (high - low) else low - margin), high + margin
    axis.set_xlim(low, high)
    if low == 0:
        return "(axis from 0)"
    ends = EngFormatter(places=1, sep=" ")
    return f"(axis {ends(low)} to {ends(high)}, not from 0)"


def side_by_side(axis: Any, values: Sequence[float]) -> list[float]:
    """Places on the axis: the values, but those that would lie on each other spread round their middle.

    Args:
        axis: With its scale and limits.
        values: N of them.

    Returns:
        N places, in the order of the values.
    """
    log = axis.get_xscale() == "log"
    low, high = (math.log(end) if log else end for end in axis.get_xlim())
    spots = [((math.log(value) if log else value) - low) / (high - low) for value in values]
    order = sorted(range(len(spots)), key=spots.__getitem__)
    clusters: list[list[int]] = []
    for number in order:
        if clusters and spots[number] - spots[clusters[-1][-1]] < NEAR:
            clusters[-1].append(number)
        else:
            clusters.append([number])
    for cluster in clusters:
        middle = sum(spots[number] for number in cluster) / len(cluster)
        for place, number in enumerate(cluster):
            spots[number] = middle + (place - (len(cluster) - 1) / 2) * NEAR
    places = [low + spot * (high - low) for spot in spots]
    return [math.exp(place) if log else place for place in places]
