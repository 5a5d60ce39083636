"""More weight for perspectives that are right where others are wrong."""

from __future__ import annotations

import numpy as np

from lrkd.data.joined_rationales import JoinedRationales


def contradicted(rationales: JoinedRationales) -> np.ndarray:
    """For each right rationale, the share of wrong ones among its pair's rationales from other perspectives.

    Returns:
        (M,) float64, 0 to 1; 0 for a rationale that is not right or has no others beside it.
    """
    pair = rationales.pair
    own = pair * len(rationales.perspectives) + rationales.perspective
    wrong = np.bincount(pair, rationales.wrong)[pair] - np.bincount(own, rationales.wrong)[own]
    others = np.bincount(pair)[pair] - np.bincount(own)[own]
    return np.where(rationales.right, wrong / np.maximum(others, 1), 0.0)


def conflict_weights(
    rationales: JoinedRationales, cell: np.ndarray, kept: np.ndarray, cells: int, weight: float
) -> np.ndarray:
    """The weight of every target: 1 + ``weight`` times how far its rationales are :func:`contradicted`.

    Args:
        rationales: M rationales.
        cell: (M,) int: the target that each belongs to.
        kept: (M,) bool: which of them the targets are made of.
        cells: G, the number of targets.
        weight: β, at least 0.

    Returns:
        (G,) float32: 1 + β · the mean over the target's rationales; 1 for a target without any.
    """
    share, cell = contradicted(rationales)[kept], cell[kept]
    mean = np.bincount(cell, share, cells) / np.maximum(np.bincount(cell, minlength=cells), 1)
    return np.asarray(1 + weight * mean, np.float32)
