"""Whitening: targets that spread alike in all directions."""

from __future__ import annotations

import numpy as np

FLOOR = 0.01


def whitening_matrix(moment: np.ndarray, power: float) -> np.ndarray:
    """``Σ^(-power/2)``, the symmetric root (ZCA; Kessy et al. 2018, arXiv 1512.00809, section 3).

    With power 1, vectors of second moment Σ get the second moment I; with less, the strong directions are only damped.
    Eigenvalues below a hundredth of their mean are raised to that: in a direction in which the training targets hardly
    differ there is nothing but noise to blow up.

    Args:
        moment: (..., R, R) Σ, symmetric.
        power: 0 to 1.

    Returns:
        (..., R, R) float32.
    """
    values, vectors = np.linalg.eigh(moment.astype(np.float64))
    floor = np.maximum(FLOOR * values.mean(-1, keepdims=True), np.finfo(np.float32).tiny)
    scale = np.maximum(values, floor) ** (-power / 2)
    matrix: np.ndarray = (vectors * scale[..., None, :]) @ np.swapaxes(vectors, -1, -2)
    return matrix.astype(np.float32)
