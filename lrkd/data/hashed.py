"""Random numbers that follow from what they are for: the same on any process, in any batch."""

from __future__ import annotations

import numpy as np


def hashed_uniform(rows: np.ndarray, epoch: int, seed: int, stream: int = 0) -> np.ndarray:
    """Numbers in [0, 1) that depend on row, epoch, seed and stream alone (SplitMix64's finaliser).

    Args:
        rows: (...,) int, at least 0.
        epoch: At least 0.
        seed: At least 0.
        stream: At least 0; draws for different ends take different ones.

    Returns:
        (...,) float64.
    """
    with np.errstate(over="ignore"):
        x = (
            rows.astype(np.uint64)
            + np.uint64(epoch + 1) * np.uint64(0x9E3779B97F4A7C15)
            + np.uint64(seed) * np.uint64(0xD1B54A32D192ED03)
            + np.uint64(stream) * np.uint64(0xABC98388FB8FAC03)
        )
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x = x ^ (x >> np.uint64(31))
    return np.asarray((x >> np.uint64(11)).astype(np.float64) / 2.0**53)
