"""An optimiser step's trees, cut into pieces that fit in memory."""

from __future__ import annotations

from collections.abc import Sequence

from lrkd.data.prefix_tree import PrefixTree


def cut(trees: Sequence[PrefixTree], token_budget: int) -> list[list[int]]:
    """Which trees are computed together: of like length, and, padded, of at most so many tokens.

    Args:
        trees: N trees.
        token_budget: Places of a micro-batch, padding among them. A tree that has more is a micro-batch of its own.

    Returns:
        The places of the trees in each micro-batch, longest first, so that memory runs out at once or never.
    """
    order = sorted(range(len(trees)), key=lambda place: -trees[place].length)
    batches: list[list[int]] = []
    for place in order:
        if batches and trees[batches[-1][0]].length * (len(batches[-1]) + 1) <= token_budget:
            batches[-1].append(place)
        else:
            batches.append([place])
    return batches
