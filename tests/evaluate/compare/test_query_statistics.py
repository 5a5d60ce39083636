"""A run's metrics by query against scikit-learn, torchmetrics and hand-derived numbers."""

import math

import numpy as np
import pytest
import torch
from finished_runs import GOLD, TWO, fold_pairs, probabilities, random_fold
from sklearn.metrics import accuracy_score, f1_score, ndcg_score, roc_auc_score

from lrkd.data.types import LabelSet
from lrkd.evaluate.compare.bootstrap import draws
from lrkd.evaluate.compare.query_statistics import (
    QueryStatistics,
    calibration_error,
    predicted_labels,
    resampled_metrics,
)
from lrkd.metrics import Predicted, relevance_metrics

THREE = LabelSet("three", ("A", "B", "C"), (1.0, 0.5, 0.0))
HAND = fold_pairs([0, 1, 0, 1], ["EO".index(letter) for letter in GOLD])


def metrics_of(found, pairs, labels):
    values = QueryStatistics.of(found, pairs, labels).metrics(np.ones((1, pairs.queries)))[0]
    return dict(zip(resampled_metrics(labels), values, strict=True))


def test_by_hand():
    found = metrics_of(probabilities("EOOO"), HAND, TWO)
    assert found["accuracy"] == 0.75
    assert found["f1/Exact"] == pytest.approx(2 / 3)  # 1 hit, 1 named, 2 gold
    assert found["f1/Other"] == pytest.approx(4 / 5)  # 2 hits, 3 named, 2 gold
    assert found["macro_f1"] == pytest.approx(11 / 15)
    # The first query is ranked right; in the second both pairs are tied, and share the discounts 1 and 1 / log2(3).
    assert found["ndcg@10"] == pytest.approx((1 + (1 + 1 / math.log2(3)) / 2) / 2)
    # Of the four (Exact, Other) pairs two are in order and two are tied; the same seen from the other label.
    assert found["auroc"] == pytest.approx(0.75)


@pytest.mark.parametrize("seed", range(3))
def test_equal_to_the_metrics_that_runs_write(seed):  # traps 31, 32, 35
    pairs, found = random_fold(seed)
    found += np.random.default_rng(seed).uniform(0, 1e-3, found.shape)  # no ties: a softmax in float32 breaks them
    found /= found.sum(1, keepdims=True)
    predicted = Predicted(
        torch.arange(len(pairs)),
        torch.from_numpy(pairs.group),
        torch.from_numpy(pairs.label),
        torch.from_numpy(np.log(np.maximum(found, 1e-12))).float(),
    )
    theirs = relevance_metrics(predicted, THREE, 1.0, majority=1)
    ours = metrics_of(found, pairs, THREE) | {"ece": calibration_error(found, pairs.label)}
    for name, value in ours.items():
        assert value == pytest.approx(float(theirs[name]), abs=2e-6), name
    always = metrics_of(np.eye(3)[np.full(len(pairs), 1)], pairs, THREE)  # trap 34
    for name in ("accuracy", "macro_f1", "ndcg@10"):
        assert always[name] == pytest.approx(float(theirs[f"majority/{name}"]), abs=2e-6), name


def slow_metrics(found, pairs, weights):
    """Metrics over a resample written out pair by pair; a query that was drawn twice is two queries."""
    drawn = [
        rows for query, count in enumerate(weights) for rows in [np.flatnonzero(pairs.group == query)] * int(count)
    ]
    rows = np.concatenate(drawn)
    label, said, gains = pairs.label[rows], found[rows].argmax(1), np.array(THREE.gains)
    ranked = [
        ndcg_score([gains[pairs.label[query]]], [found[query] @ gains], k=10)
        for query in drawn
        if len(set(pairs.label[query])) > 1
    ]
    f1 = f1_score(label, said, labels=range(3), average=None, zero_division=0)
    auroc = np.mean([roc_auc_score(label == c, found[rows][:, c]) for c in range(3)])
    return [accuracy_score(label, said), f1.mean(), np.mean(ranked), auroc, *f1]


def test_resamples_are_those_of_a_slow_bootstrap():
    pairs, found = random_fold(4, queries=40)
    (weights,) = next(draws([40], 200, 0))
    ours = QueryStatistics.of(found, pairs, THREE).metrics(weights)
    slow = np.array([slow_metrics(found, pairs, own) for own in weights])
    exact = [0, 1, 2, 4, 5, 6]
    np.testing.assert_allclose(ours[:, exact], slow[:, exact], atol=1e-5)
    # AUROC is to first order: nearly the same resample by resample, the same spread.
    assert np.corrcoef(ours[:, 3], slow[:, 3])[0, 1] > 0.99
    np.testing.assert_allclose(
        np.quantile(ours[:, 3], [0.025, 0.975]), np.quantile(slow[:, 3], [0.025, 0.975]), atol=0.005
    )


def test_a_pair_without_a_verdict_names_no_label_and_is_wrong():
    assert predicted_labels(probabilities("E?O")).tolist() == [0, -1, 1]
    found = metrics_of(probabilities("E?OO"), HAND, TWO)
    assert found["accuracy"] == 0.75
    assert (found["f1/Exact"], found["f1/Other"]) == (pytest.approx(2 / 3), 1)  # nothing wrong was named Other


def test_what_is_not_defined_is_nan():
    found = metrics_of(probabilities("EE"), fold_pairs([0, 0], [0, 0]), TWO)
    assert math.isnan(found["ndcg@10"])  # no query of two labels
    assert math.isnan(found["auroc"])
    assert found["macro_f1"] == 0.5  # Other is absent and counts 0


def test_calibration_by_hand():
    # Three at 0.9, two of them right; one at 0.6, right: |2.7 - 2| + |0.6 - 1|, over four.
    found = np.array([[0.9, 0.1], [0.9, 0.1], [0.1, 0.9], [0.4, 0.6]])
    assert calibration_error(found, np.array([0, 1, 1, 1])) == pytest.approx((0.7 + 0.4) / 4)
