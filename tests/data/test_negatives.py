"""Negatives by hand: whose they are, how many, and where they are placed."""

from __future__ import annotations

import numpy as np
import pytest
from target_tables import store_of, targets_of

from lrkd.data.negatives import Negatives

# One query has a, b, c and d; e is alone. d has no right rationale. Vectors tell which is which.
E = np.eye(8)
STORE = store_of(
    ("a", "p", 0, "Exact", E[0]),
    ("a", "q", 0, "Irrelevant", E[1]),
    ("a", "q", 1, "Substitute", E[2]),
    ("b", "p", 0, "Exact", E[3]),
    ("c", "p", 0, "Exact", E[4]),
    ("c", "q", 0, "Exact", E[5]),
    ("d", "p", 0, "Irrelevant", E[6]),
    ("e", "p", 0, "Exact", E[7]),
)
QUERY = [0, 0, 0, 0, 1]


def negatives(wrong, neighbours, **settings):
    return Negatives(targets_of(STORE, ["Exact"] * 5, query=QUERY, **settings), wrong, neighbours)


def axes(vectors, mask):
    """Which of the eight axes each negative that there is lies on, as sets by pair and latent."""
    return [
        [{int(v.argmax()) for v in vectors[i, p][mask[i, p]]} for p in range(mask.shape[1])] for i in range(len(mask))
    ]


def test_wrong_ones_are_the_pairs_own_of_any_perspective():
    vectors, mask = negatives(3, 0, perspectives=None).batch(np.arange(5), 0, 0)
    assert vectors.shape == (5, 1, 3, 8)
    assert mask[:, 0].tolist() == [[True, True, False]] + [[False] * 3] * 4
    assert axes(vectors, mask) == [[{1, 2}], [set()], [set()], [set()], [set()]]  # d has no target to tell it from
    assert (vectors[~mask] == 0).all()


def test_neighbours_are_the_other_targets_of_the_query():
    vectors, mask = negatives(0, 4).batch(np.arange(5), 0, 0)
    assert mask[:, 0].sum(1).tolist() == [2, 2, 2, 0, 0]
    half = np.sqrt(0.5)
    c = half * (E[4] + E[5])
    for row, others in ((0, [E[3], c]), (1, [E[0], c]), (2, [E[0], E[3]])):
        found = sorted(vectors[row, 0][mask[row, 0]].tolist())
        np.testing.assert_allclose(found, sorted(np.array(others).tolist()), atol=1e-6)


def test_neighbours_are_of_the_latents_perspective():
    # Of q only c has a right rationale, so nobody has a neighbour there; a's wrong ones serve both latents.
    vectors, mask = negatives(2, 2, mode="per_perspective").batch(np.arange(3), 0, 0)
    assert vectors.shape == (3, 2, 4, 8)
    assert axes(vectors, mask) == [[{1, 2, 3, 4}, set()], [{0, 4}, set()], [{0, 3}, set()]]  # a has no target of q
    assert mask[0, 0].tolist() == [True] * 4


def test_pairs_outside_training_are_nobodys_neighbours():  # trap 36
    vectors, mask = negatives(0, 4, fit=[0, 2, 3]).batch(np.arange(3), 0, 0)
    assert axes(vectors, mask)[0] == [{4}]  # c's mean of 4 and 5 has its first maximum there; b does not train
    assert not mask[1].any()


def test_fewer_than_there_are_are_drawn_anew_each_epoch_none_twice():
    many = store_of(
        *((chr(ord("a") + i), "p", 0, "Exact", np.eye(24)[i]) for i in range(12)),
        *(("a", "q", s, "Irrelevant", np.eye(24)[12 + s]) for s in range(12)),
    )
    made = Negatives(targets_of(many, ["Exact"] * 12, query=[0] * 12), 3, 4)
    seen = []
    for epoch in range(60):
        vectors, mask = made.batch(np.arange(12), epoch, 0)
        assert mask[0].all()
        axis = vectors[0, 0].argmax(-1).tolist()
        assert len(set(axis[:3])) == 3
        assert set(axis[:3]) <= set(range(12, 24))
        assert len(set(axis[3:])) == 4
        assert set(axis[3:]) <= set(range(1, 12)), "never its own target"
        seen.append(axis)
    assert {axis for drawn in seen for axis in drawn} == set(range(1, 24)), "all of them come up"
    again, _ = made.batch(np.array([7, 0]), 5, 0)
    np.testing.assert_array_equal(again[1], made.batch(np.arange(12), 5, 0)[0][0])  # in any batch the same
    assert (made.batch(np.array([0]), 5, 1)[0] != again[1]).any(), "the seed draws others"


@pytest.mark.parametrize("whitening", [0.0, 1.0])
def test_they_are_placed_as_targets_are(whitening):
    made = negatives(2, 2, centring="query", whitening=whitening)
    vectors, mask = made.batch(np.arange(3), 0, 0)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=-1), mask, atol=1e-5)
    own, _ = made.targets.batch(np.arange(3))
    neighbours = vectors[1, 0, 2:]  # of b: a and c, in some order
    distance = np.linalg.norm(neighbours[:, None] - own[None, [0, 2], 0], axis=-1)
    np.testing.assert_allclose(distance.min(1), 0, atol=1e-5)


def test_shuffled_targets_bring_their_own_negatives():
    made = negatives(2, 0, shuffle_seed=0)
    assert (made.targets.source != np.arange(5)).any()
    _, mask = made.batch(np.arange(5), 0, 0)
    assert np.flatnonzero(mask.any((1, 2))).tolist() == np.flatnonzero(made.targets.source == 0).tolist()
