"""The symmetric root of the inverse second moment."""

import numpy as np
import pytest

from lrkd.data.whitening import FLOOR, whitening_matrix


@pytest.mark.parametrize(("power", "expected"), [(1.0, [0.5, 1, 2]), (0.5, [0.5**0.5, 1, 2**0.5])])
def test_of_a_diagonal_matrix_by_hand(power, expected):
    # Σ = diag(4, 1, ¼): Σ^(-1/2) = diag(½, 1, 2).
    np.testing.assert_allclose(whitening_matrix(np.diag([4.0, 1.0, 0.25]), power), np.diag(expected), atol=1e-6)


def test_it_is_symmetric_and_whitens():
    vectors = np.random.default_rng(0).standard_normal((500, 5)) @ np.random.default_rng(1).standard_normal((5, 5))
    moment = vectors.T @ vectors / 500
    matrix = whitening_matrix(np.stack([moment, np.eye(5)]), 1.0)
    np.testing.assert_allclose(matrix, np.swapaxes(matrix, 1, 2), atol=1e-5)
    np.testing.assert_allclose(matrix[1], np.eye(5), atol=1e-6)
    white = vectors @ matrix[0]
    # Eigenvalues above the floor become 1, those below shrink to less.
    assert np.linalg.eigvalsh(white.T @ white / 500).max() == pytest.approx(1, abs=1e-3)


def test_directions_without_spread_are_not_blown_up():
    # Σ = diag(2, 0): mean 1, so the floor is 0.01, and its root's inverse 10.
    np.testing.assert_allclose(whitening_matrix(np.diag([2.0, 0.0]), 1.0), np.diag([2**-0.5, FLOOR**-0.5]), rtol=1e-5)
    assert np.isfinite(whitening_matrix(np.zeros((2, 2)), 1.0)).all()
