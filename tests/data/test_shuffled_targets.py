"""The permutation within a label."""

import numpy as np

from lrkd.data.shuffled_targets import shuffled_within_label

rng = np.random.default_rng(0)
LABEL = rng.integers(0, 4, 200)
PRESENT = rng.random((200, 3)) < 0.6
ROWS = np.flatnonzero(rng.random(200) < 0.7)


def test_it_permutes_within_label_and_pattern_without_fixed_points():
    source = shuffled_within_label(LABEL, PRESENT, ROWS, 0)
    np.testing.assert_array_equal(LABEL[source], LABEL)
    np.testing.assert_array_equal(PRESENT[source], PRESENT)
    assert sorted(source) == list(range(200)), "every target is used once"
    outside = np.setdiff1d(np.arange(200), ROWS)
    np.testing.assert_array_equal(source[outside], outside)
    assert set(source[ROWS]) == set(ROWS), "and only training pairs' targets"
    kinds = {}
    for row in ROWS:
        if PRESENT[row].any():
            kinds.setdefault((LABEL[row], *PRESENT[row]), []).append(row)
    assert any(len(rows) > 1 for rows in kinds.values())
    for rows in kinds.values():
        assert len(rows) == 1 or (source[rows] != rows).all()
        assert len(rows) > 1 or source[rows[0]] == rows[0]
    without = ROWS[~PRESENT[ROWS].any(1)]
    np.testing.assert_array_equal(source[without], without)


def test_the_seed_decides():
    first, again, other = (shuffled_within_label(LABEL, PRESENT, ROWS, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first[ROWS] != other[ROWS]).mean() > 0.5


def test_nothing_to_shuffle():
    np.testing.assert_array_equal(shuffled_within_label(LABEL, np.zeros((200, 1), bool), ROWS, 0), np.arange(200))
