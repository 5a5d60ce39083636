"""How the latents' attention looks: a heat strip, a row a latent and a column a token, below the graph's links."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrkd.evaluate.attention import PairAttention, Token

if TYPE_CHECKING:
    import numpy as np

COLOURS = {"query": "#0072B2", "item": "#006B4E", "special": "#777777"}
LINK = "#D55E00"
GAP = 0.3
"""Columns between the parts of a pair."""
MOST_LINKS = 40
"""More than that no eye follows."""
MOST_NUMBERED = 30
"""Columns at most that leave room for a number in each cell."""


def draw(pair: PairAttention, out: Path) -> None:
    """Draw a pair's attention.

    Args:
        pair: What to draw.
        out: The file; its ending decides the format.
    """
    from matplotlib.figure import Figure  # a third of a second that other commands need not pay
    from matplotlib.layout_engine import ConstrainedLayoutEngine
    from matplotlib.ticker import PercentFormatter

    tokens, weights = _with_rest(pair)
    left = _left_edges(tokens)
    wide = left[-1] + 1
    heights = [0.55 + 0.5 * len(pair.latents)]
    if pair.links is not None:
        heights.insert(0, 1.0 if 0 < len(pair.links) <= MOST_LINKS else 0.25)
    size = (max(7.0, 2.6 + (0.46 if len(tokens) <= MOST_NUMBERED else 0.26) * wide), 2.1 + sum(heights))
    figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(hspace=0), dpi=160)
    axes = figure.subplots(len(heights), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    if pair.links is not None:
        _draw_links(axes[0], pair.links, left)
    strip = axes[-1]
    mesh = _draw_strip(strip, weights, tokens, left)
    _label(strip, tokens, left, pair.latents)
    strip.set_xlim(-0.15, wide + 0.15)
    bar = figure.colorbar(mesh, ax=list(axes), pad=0.01, aspect=14, shrink=0.8)
    bar.set_label("attention weight")
    bar.ax.yaxis.set_major_formatter(PercentFormatter(1.0))
    bar.outline.set_visible(False)
    figure.suptitle(_title(pair), x=0.01, ha="left", fontsize=11, linespacing=1.4)
    figure.savefig(out)


def _with_rest(pair: PairAttention) -> tuple[list[Token], np.ndarray]:
    """Tokens and weights with one more column for what a latent gives to no token, where it is worth showing."""
    import numpy as np

    rest = 1 - pair.weights.sum(1, keepdims=True)
    if (rest < 0.005).all():
        return list(pair.tokens), pair.weights
    return [*pair.tokens, Token("(itself)", "special")], np.concatenate([pair.weights, rest], axis=1)


def _left_edges(tokens: Sequence[Token]) -> list[float]:
    """Each column's left edge, with a gap wherever the part changes."""
    edges, at = [], 0.0
    for number, token in enumerate(tokens):
        if number and (token.part != tokens[number - 1].part or token.text == "(itself)"):
            at += GAP
        edges.append(at)
        at += 1
    return edges


def _draw_strip(axis: Any, weights: np.ndarray, tokens: Sequence[Token], left: list[float]) -> Any:
    """The cells, with the weight in percent where there is room."""
    import numpy as np

    rows = np.arange(len(weights) + 1)
    most = float(weights.max())
    for number, at in enumerate(left):
        column = weights[:, number : number + 1]
        mesh = axis.pcolormesh(
            [at, at + 1], rows, column, cmap="Blues", vmin=0, vmax=most, edgecolors="white", linewidth=1
        )
        for row, value in enumerate(column[:, 0]) if len(tokens) <= MOST_NUMBERED else ():
            colour = "white" if value > 0.6 * most else "#333333"
            axis.text(at + 0.5, row + 0.5, f"{100 * value:.0f}", ha="center", va="center", fontsize=8, color=colour)
    return mesh


def _label(axis: Any, tokens: Sequence[Token], left: list[float], latents: Sequence[str]) -> None:
    """Names of rows, columns and of the pair's two parts."""
    axis.set_yticks([row + 0.5 for row in range(len(latents))], [_plain(name) for name in latents])
    axis.set_xticks(
        [at + 0.5 for at in left],
        [_plain(token.text) for token in tokens],
        rotation=40,
        ha="right",
        rotation_mode="anchor",
    )
    for tick, token in zip(axis.get_xticklabels(), tokens, strict=True):
        tick.set_color(COLOURS[token.part])
        tick.set_fontsize(9 if len(tokens) <= MOST_NUMBERED else 7)
    for part, group in groupby(range(len(tokens)), lambda n: tokens[n].part):
        if part == "special":
            continue
        columns = [left[n] for n in group]
        start, width = columns[0], columns[-1] + 1 - columns[0]
        axis.bar(start, 0.4, width, bottom=-0.45, align="edge", color=COLOURS[part], linewidth=0)
        axis.text(start + width / 2, -0.25, part, ha="center", va="center", fontsize=9, color="white")
    axis.set_ylim(len(latents), -0.45)
    axis.spines[:].set_visible(False)
    axis.tick_params(length=0)
    axis.set_ylabel("latent" if len(latents) > 1 else "")
    numbers = f"; in percent, a row sums to 100 and an even share is {100 / len(tokens):.1f}"
    axis.set_xlabel(f"tokens as the encoder reads them{numbers if len(tokens) <= MOST_NUMBERED else ''}", fontsize=9)


def _draw_links(axis: Any, links: Sequence[tuple[int, int]], left: list[float]) -> None:
    """An arc for each pair of tokens that hear each other, above their columns."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path as Curve

    axis.set_ylim(0, 1)
    axis.axis("off")
    drawn = links if len(links) <= MOST_LINKS else ()
    longest = max((left[item] - left[query] for query, item in drawn), default=1.0)
    for query, item in drawn:
        start, end = left[query] + 0.5, left[item] + 0.5
        top = 0.25 + 0.75 * (end - start) / longest  # a cubic curve reaches three quarters of its control points
        curve = Curve([(start, 0), (start, top), (end, top), (end, 0)], [Curve.MOVETO, *[Curve.CURVE4] * 3])
        axis.add_patch(PathPatch(curve, fill=False, edgecolor=LINK, linewidth=1.6, alpha=0.8))
    text = "query–item links of the token graph"
    if not links:
        text = "no query–item link in the token graph"
    elif not drawn:
        text = f"{len(links)} query–item links in the token graph, too many to draw"
    axis.text(0.0, 1.0, text, transform=axis.transAxes, fontsize=9, color=LINK, va="top")


def _title(pair: PairAttention) -> str:
    """What is shown, and the student's verdict with its probabilities, the highest first."""
    ranked = sorted(pair.probabilities.items(), key=lambda entry: -entry[1])
    said = " · ".join(f"{label} {probability:.0%}" for label, probability in ranked)
    return _plain(f"Which tokens each latent looks at\nThe student's verdict: {said}")


def _plain(text: str) -> str:
    """Text that matplotlib must not read as a formula."""
    return text.replace("$", r"\$")
