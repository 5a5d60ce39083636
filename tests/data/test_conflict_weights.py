"""Who is right where others are wrong, by hand."""

import numpy as np
import pyarrow as pa

from lrkd.data.conflict_weights import conflict_weights, contradicted
from lrkd.data.joined_rationales import join_rationales

ROWS = [  # pair, perspective, verdict; all pairs are Exact but d, which has no label
    ("a", "p", "Exact"), ("a", "q", "Irrelevant"), ("a", "r", "Irrelevant"),  # p against both others
    ("b", "p", "Exact"), ("b", "q", "Exact"), ("b", "r", "Irrelevant"),  # each right one against one of two others
    ("c", "p", "Exact"), ("c", "p", "Irrelevant"),  # a perspective does not contradict itself
    ("d", "p", "Exact"), ("d", "q", "Irrelevant"),
]  # fmt: skip


def joined(perspectives=None):
    index = pa.table({name: [row[i] for row in ROWS] for i, name in enumerate(("pair_id", "perspective", "verdict"))})
    return join_rationales(index, pa.array(list("abcd")), pa.array(["Exact"] * 3 + [None]), perspectives)


def test_the_share_of_others_that_are_wrong():
    np.testing.assert_allclose(contradicted(joined()), [1, 0, 0, 0.5, 0.5, 0, 0, 0, 0, 0])


def test_only_chosen_perspectives_contradict():
    # Without r: a's p against q alone, b's p and q agree.
    found = joined(["p", "q"])
    assert found.vector.tolist() == [0, 1, 3, 4, 6, 7, 8, 9]
    np.testing.assert_allclose(contradicted(found), [1, 0, 0, 0, 0, 0, 0, 0])


def test_a_target_weighs_by_the_mean_over_its_rationales():
    rationales = joined()
    every = np.ones(len(ROWS), bool)
    np.testing.assert_allclose(
        conflict_weights(rationales, rationales.pair, rationales.right, 5, 3.0), [4, 2.5, 1, 1, 1]
    )
    # Unfiltered, a's mean is over three rationales of which two are wrong: 1 + 3 · ⅓.
    np.testing.assert_allclose(conflict_weights(rationales, rationales.pair, every, 5, 3.0), [2, 2, 1, 1, 1])
