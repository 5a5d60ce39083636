"""Probes find what is planted, and nothing where there is nothing."""

import numpy as np
import pytest
from sklearn.model_selection import StratifiedKFold

from lrkd.evaluate.probe.probing import majority_scores, probe_scores, query_folds, shuffled_by_query

QUERIES, A_QUERY, WIDTH = 60, 5, 12
QUERY = np.repeat(np.arange(QUERIES), A_QUERY)


@pytest.fixture(scope="module")
def noise():
    return np.random.default_rng(0).standard_normal((QUERIES * A_QUERY, WIDTH))


def by_query(rng, classes):
    """Random labels that all pairs of a query share, and vectors that tell the query."""
    label = rng.integers(classes, size=QUERIES)[QUERY]
    wide = 4 * WIDTH  # enough for a hyperplane between any two sets of queries
    return label, 4 * rng.standard_normal((QUERIES, wide))[QUERY] + rng.standard_normal((len(QUERY), wide))


@pytest.mark.parametrize("classes", [2, 3])
def test_a_planted_signal_is_found_and_its_shuffled_control_is_near_chance(classes, noise):  # trap 36
    label = np.random.default_rng(1).integers(classes, size=len(QUERY))
    vectors = noise + 3 * np.eye(classes, WIDTH)[label]
    splits = query_folds(label, QUERY, 5, 0)
    found = probe_scores(vectors, label, QUERY, splits)
    assert found.balanced_accuracy.mean() > 0.9
    assert found.macro_f1.mean() > 0.9
    shuffled = probe_scores(vectors, shuffled_by_query(label, QUERY, 0), QUERY, splits)
    assert shuffled.balanced_accuracy.mean() == pytest.approx(1 / classes, abs=0.1)
    assert majority_scores(label, splits).balanced_accuracy.tolist() == pytest.approx([1 / classes] * 5)


def test_no_query_is_on_both_sides():  # trap 36
    label = np.random.default_rng(2).integers(3, size=len(QUERY))
    splits = query_folds(label, QUERY, 4, 0)
    assert not any(np.isin(QUERY[train], QUERY[test]).any() for train, test in splits)
    tested = np.concatenate([test for _, test in splits])
    assert sorted(tested) == list(range(len(QUERY))), "every pair is tested once"
    assert [test.tolist() for _, test in query_folds(label, QUERY, 4, 1)] != [test.tolist() for _, test in splits]


def test_labels_that_queries_have_by_heart_are_not_found():  # trap 36
    """Folds of pairs would let them through, and there the shuffled control tells."""
    label, vectors = by_query(np.random.default_rng(3), 2)
    shuffled = shuffled_by_query(label, QUERY, 0)
    by_pair = list(StratifiedKFold(5, shuffle=True, random_state=0).split(vectors, label))

    def accuracy(label, splits):
        return probe_scores(vectors, label, QUERY, splits).balanced_accuracy.mean()

    splits = query_folds(label, QUERY, 5, 0)
    assert accuracy(label, splits) == pytest.approx(0.5, abs=0.15)
    assert accuracy(shuffled, splits) == pytest.approx(0.5, abs=0.15)
    assert accuracy(label, by_pair) > 0.65
    assert accuracy(shuffled, by_pair) > 0.65, "the control shows that the folds leak"


def test_shuffling_keeps_every_label_and_each_query_s_together():
    label, _ = by_query(np.random.default_rng(4), 3)
    shuffled = shuffled_by_query(label, QUERY, 0)
    assert np.bincount(shuffled).tolist() == np.bincount(label).tolist()
    assert all(len(set(shuffled[query == QUERY])) == 1 for query in range(QUERIES))
    assert (shuffled != label).any()
    order = np.random.default_rng(5).permutation(len(label))  # however the pairs are sorted
    again = shuffled_by_query(label[order], QUERY[order], 0)
    assert all(len(set(again[query == QUERY[order]])) == 1 for query in range(QUERIES))


def test_scores_are_over_the_classes_that_a_fold_has():
    # Fitted on 0, 0, 1: always 0. The fold holds 0 and 1, then 1 alone: recalls ½ and 0; F1 of 0 is ⅔, of 1 0.
    label = np.array([0, 0, 1, 0, 1, 1])
    splits = [(np.array([0, 1, 2]), np.array([3, 4])), (np.array([0, 1, 2]), np.array([5]))]
    found = majority_scores(label, splits)
    assert found.balanced_accuracy.tolist() == [0.5, 0]
    assert found.macro_f1.tolist() == pytest.approx([1 / 3, 0])
