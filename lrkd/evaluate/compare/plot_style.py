"""What the plots have in common: colours, figures, labels."""

from __future__ import annotations

import math
import textwrap
from pathlib import Path
from typing import Any

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
"""Okabe and Ito's colours, which the colour-blind tell apart; the shapes below say the same again."""
SHAPES = "osD^vP"
DARK, LIGHT, GREY, TEXT = "#0072B2", "#8FBFDF", "#6E6E6E", "#222222"


def look(number: int) -> dict[str, str]:
    """Colour, marker and line of the contender in place ``number``; where colours begin again, the others differ."""
    again = number // len(COLOURS)
    return {
        "color": COLOURS[number % len(COLOURS)],
        "marker": SHAPES[(number + again) % len(SHAPES)],
        "linestyle": "--" if again % 2 else "-",
    }


def new_figure(width: float, height: float) -> Any:
    """A figure of that many inches."""
    from matplotlib.figure import Figure  # a third of a second that other commands need not pay
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    return Figure(
        figsize=(width, height), layout=ConstrainedLayoutEngine(h_pad=0.08, wspace=0.05, hspace=0.06), dpi=160
    )


def tidy(axis: Any, grid: str = "both") -> None:
    """No frame but the axes, and a quiet grid behind."""
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis=grid, color="#E3E3E3", linewidth=0.8)
    axis.set_axisbelow(True)


def note(figure: Any, text: str) -> None:
    """A line below all panels."""
    width = int(15 * figure.get_size_inches()[0])
    figure.supxlabel(plain(textwrap.fill(text, width)), fontsize=8, color="#555555", x=0.01, ha="left")


def save(figure: Any, path: Path) -> None:
    """Write a figure; its folder is made if there is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def plain(text: str) -> str:
    """Text that matplotlib must not read as a formula."""
    return text.replace("$", r"\$")


def wrapped(text: str, width: int = 30) -> str:
    """A name broken into short lines, after its underscores too; an equation stays whole."""
    text = text.replace("_", "_ ").replace(" = ", "\u00a0=\u00a0")
    return plain(textwrap.fill(text, width).replace("_ ", "_"))


def round_limits(values: list[float], *, least: float = 0.0, most: float = 1.0) -> tuple[float, float]:
    """Limits at full hundredths round the finite values, so that an axis is what its label says."""
    known = [value for value in values if math.isfinite(value)] or [least, most]
    margin = max(0.08 * (max(known) - min(known)), 0.01)
    low = max(least, math.floor(100 * (min(known) - margin)) / 100)
    return low, min(most, math.ceil(100 * (max(known) + 2 * margin)) / 100)


def axis_range(low: float, high: float) -> str:
    """A note on an axis's range, for those who would take its end for 0."""
    return f"(axis {low:.2f} to {high:.2f}{', not from 0' if low else ''})"


def bars(means: list[float], ends: list[tuple[float, float] | None]) -> list[list[float]]:
    """Two-sided error bars: the distances (2, N) from the means to their intervals' ends; NaN where there is none."""
    low = [math.nan if end is None else max(0.0, mean - end[0]) for mean, end in zip(means, ends, strict=True)]
    high = [math.nan if end is None else max(0.0, end[1] - mean) for mean, end in zip(means, ends, strict=True)]
    return [low, high]
