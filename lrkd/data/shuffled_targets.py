"""Shuffled targets: a control that keeps what the label says of a rationale and takes away what the pair says."""

from __future__ import annotations

import numpy as np


def shuffled_within_label(label: np.ndarray, present: np.ndarray, rows: np.ndarray, seed: int) -> np.ndarray:
    """From which pair each pair gets its targets: another training pair of the same label.

    A permutation of the training pairs that have a target: every target is used once, and a pair has the same ones of
    the P targets as before. Nobody keeps their own, but a pair that is the only one of its kind.

    Args:
        label: (N,) int: class index, -1 where unknown.
        present: (N, P) bool: which targets a pair has.
        rows: (M,) int: the training pairs; the others keep their targets.
        seed: Of the permutation.

    Returns:
        (N,) int64: for each pair the pair whose targets it gets.
    """
    source = np.arange(len(label))
    rows = rows[present[rows].any(1)]
    kinds, kind = np.unique(np.column_stack([label[rows], present[rows]]), axis=0, return_inverse=True)
    rng = np.random.default_rng(seed)
    for number in range(len(kinds)):
        ring = rng.permutation(rows[kind.ravel() == number])
        source[ring] = np.roll(ring, 1)
    return source
