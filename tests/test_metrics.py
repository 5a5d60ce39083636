"""Metrics against scikit-learn and hand-derived numbers; what is dropped, left out and invariant."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score, ndcg_score, roc_auc_score

from lrkd.data.types import LABEL_SETS, LabelSet
from lrkd.metrics import (
    Predicted,
    Predictions,
    WithinQueryR2,
    classification_metrics,
    fit_temperature,
    ndcg_at_10,
    relevance_metrics,
    within_query_r2,
)

ESCI = LABEL_SETS["esci"]
GAINS = np.array(ESCI.gains)


def random_predictions(seed=0, rows=240, queries=20, labels=(0, 1, 2, 3), scale=2.0):
    rng = np.random.default_rng(seed)
    label = torch.from_numpy(rng.choice(labels, rows))
    logits = torch.from_numpy(rng.standard_normal((rows, 4)).astype(np.float32)) * scale
    logits[torch.arange(rows), label] += 1
    return Predicted(torch.arange(rows), torch.from_numpy(rng.integers(0, queries, rows)), label, logits)


def sklearn_ndcg(scores, labels, query, gains=GAINS):
    """The mean over queries of two or more labels; written apart from the code it checks."""
    values = []
    for q in query.unique():
        own = query == q
        if len(labels[own].unique()) >= 2:
            values.append(ndcg_score([gains[labels[own].numpy()]], [scores[own].numpy()], k=10))
    return np.mean(values)


# Gathering


def test_predictions_come_once_each_and_in_row_order():  # trap 30
    metric = Predictions()
    metric.update(torch.tensor([7, 2]), torch.tensor([70, 20]), torch.tensor([1, -1]), torch.tensor([[7.0], [2.0]]))
    metric.update(torch.tensor([5, 7]), torch.tensor([50, 70]), torch.tensor([0, 1]), torch.tensor([[5.0], [7.0]]))
    metric.update(torch.tensor([2]), torch.tensor([20]), torch.tensor([-1]), torch.tensor([[2.0]]))
    found = metric.compute()
    assert found.row.tolist() == [2, 5, 7]
    assert found.query.tolist() == [20, 50, 70]
    assert found.label.tolist() == [-1, 0, 1]
    assert found.logits.flatten().tolist() == [2.0, 5.0, 7.0]
    assert found.labelled().row.tolist() == [5, 7]


@pytest.mark.parametrize("batch_size", [1, 7, 240])
def test_metrics_do_not_depend_on_batches_or_repeated_rows(batch_size):  # traps 30, 31
    whole = random_predictions()
    metric = Predictions()
    order = torch.randperm(240, generator=torch.Generator().manual_seed(0))
    for rows in [*order.split(batch_size), order[:11]]:
        metric.update(rows, whole.query[rows], whole.label[rows], whole.logits[rows])
    expected, found = relevance_metrics(whole, ESCI, 1.3, 0), relevance_metrics(metric.compute(), ESCI, 1.3, 0)
    assert found == expected


# Classification


@pytest.mark.parametrize("labels", [(0, 1, 2, 3), (0, 1, 3), (0, 2)])
def test_classification_metrics_equal_scikit_learns(labels):  # trap 31
    predicted = random_predictions(labels=labels)
    predicted.logits[:, [c for c in range(4) if c not in labels]] = -9  # absent from labels and predictions
    probabilities, gold = predicted.logits.softmax(-1), predicted.label.numpy()
    guess = probabilities.argmax(-1).numpy()
    found = classification_metrics(probabilities, predicted.label, ESCI)
    each = f1_score(gold, guess, labels=range(4), average=None, zero_division=0)
    assert found["macro_f1"].item() == pytest.approx(
        f1_score(gold, guess, labels=range(4), average="macro", zero_division=0)
    )
    assert [found[f"f1/{name}"].item() for name in ESCI.labels] == pytest.approx(each.tolist())
    assert found["accuracy"].item() == pytest.approx(accuracy_score(gold, guess))
    one_against_rest = [roc_auc_score(gold == c, probabilities[:, c].numpy()) for c in labels]
    assert found["auroc"].item() == pytest.approx(np.mean(one_against_rest), abs=1e-6)


def test_macro_f1_counts_absent_labels_as_zero():  # trap 31
    # All right, but only two of four labels occur: (1 + 1 + 0 + 0) / 4.
    labels = torch.tensor([0, 1, 1])
    found = classification_metrics(torch.eye(4)[labels], labels, ESCI)
    assert (found["macro_f1"].item(), found["accuracy"].item()) == (0.5, 1.0)


def test_auroc_without_a_separable_label_is_nan():
    labels = torch.zeros(3, dtype=torch.long)
    assert classification_metrics(torch.eye(4)[labels], labels, ESCI)["auroc"].isnan()


def test_calibration_error_by_hand():
    # Confidence 0.9 with half right, 0.6 with all right, half of the rows each: (|0.9 - 0.5| + |0.6 - 1|) / 2 = 0.4.
    probabilities = torch.tensor([[0.9, 0.1, 0, 0], [0.9, 0.1, 0, 0], [0.6, 0.4, 0, 0], [0.6, 0.4, 0, 0]])
    found = classification_metrics(probabilities, torch.tensor([0, 1, 0, 0]), ESCI)
    assert found["ece"].item() == pytest.approx(0.4)


# Ranking


@pytest.mark.parametrize(("queries", "levels"), [(20, None), (3, None), (20, 3)])
def test_ndcg_equals_scikit_learns_with_the_label_sets_gains(queries, levels):  # trap 35
    predicted = random_predictions(queries=queries)
    scores = predicted.logits[:, 0]
    if levels:  # few values, many ties
        scores = (scores * levels / 10).round()
    found = ndcg_at_10(scores, predicted.label, predicted.query, ESCI)
    assert found.item() == pytest.approx(sklearn_ndcg(scores, predicted.label, predicted.query), abs=1e-6)


def test_ndcg_by_hand():  # trap 35
    # Gains 1, 0.1, 0.01 ranked as 0.1, 1, 0.01; the places weigh 1, 1/log2(3), 1/2.
    place = [1, 1 / math.log2(3), 0.5]
    expected = (0.1 * place[0] + 1 * place[1] + 0.01 * place[2]) / (1 * place[0] + 0.1 * place[1] + 0.01 * place[2])
    labels, query = torch.tensor([0, 1, 2]), torch.zeros(3, dtype=torch.long)
    found = ndcg_at_10(torch.tensor([0.5, 0.9, 0.1]), labels, query, ESCI)
    assert found.item() == pytest.approx(expected)


@pytest.mark.parametrize("constant", [-1000.0, -2.0, 3.0])
def test_ndcg_does_not_change_when_a_constant_is_added(constant):  # trap 32
    predicted = random_predictions()
    scores = (predicted.logits[:, 0] * 8).round() / 8  # eighths, with ties: adding a whole number is exact
    found = [ndcg_at_10(s, predicted.label, predicted.query, ESCI) for s in (scores, scores + constant)]
    assert found[0] == found[1]


def test_ties_are_broken_the_same_way_in_any_row_order():  # trap 32
    # All tied: every place holds the mean gain, 0.5, so DCG = 0.5 · (1 + 1/log2(3)) against the ideal 1.
    esci_pair = torch.tensor([0, 3]), torch.tensor([3, 0])
    for labels in esci_pair:
        found = ndcg_at_10(torch.zeros(2), labels, torch.zeros(2, dtype=torch.long), ESCI)
        assert found.item() == pytest.approx(0.5 * (1 + 1 / math.log2(3)))


def test_queries_of_one_label_are_left_out():  # trap 35
    predicted = random_predictions()
    one_label = torch.full((30,), 1), torch.full((30,), 99)
    labels, query = (torch.cat(both) for both in zip((predicted.label, predicted.query), one_label, strict=True))
    scores = torch.cat([predicted.logits[:, 0], torch.randn(30)])
    expected = ndcg_at_10(scores[:240], predicted.label, predicted.query, ESCI)
    assert ndcg_at_10(scores, labels, query, ESCI) == expected
    assert ndcg_at_10(scores[240:], labels[240:], query[240:], ESCI).isnan()


def test_a_query_of_two_labels_without_gain_counts_zero():  # trap 35
    # Query 0 is ranked ideally (1); query 1 has only the two labels that gain nothing (0): the mean is 0.5.
    label_set = LabelSet("grades", ("good", "bad", "worse"), (1, 0, 0))
    scores, query = torch.tensor([0.9, 0.1, 0.9, 0.1]), torch.tensor([0, 0, 1, 1])
    assert ndcg_at_10(scores, torch.tensor([0, 1, 1, 2]), query, label_set).item() == 0.5


def test_ndcg_without_rows_is_nan():
    empty = torch.zeros(0, dtype=torch.long)
    assert ndcg_at_10(torch.zeros(0), empty, empty, ESCI).isnan()


# The table of a split


def test_the_table_calibrates_ranks_by_expected_gain_and_leaves_unlabelled_rows_out():
    predicted = random_predictions()
    unlabelled = torch.arange(0, 240, 5)
    predicted.label[unlabelled] = -1
    known = predicted.labelled()
    found = relevance_metrics(predicted, ESCI, temperature=2.0, majority=0)
    probabilities = (known.logits / 2).softmax(-1)
    expected = classification_metrics(probabilities, known.label, ESCI)
    assert {name: found[name].item() for name in expected} == {name: v.item() for name, v in expected.items()}
    uncalibrated = classification_metrics(known.logits.softmax(-1), known.label, ESCI)
    assert found["ece_uncalibrated"] == uncalibrated["ece"]
    assert found["ece_uncalibrated"] != found["ece"]
    expected_gain = probabilities @ torch.tensor(ESCI.gains)
    ndcg = sklearn_ndcg(expected_gain, known.label, known.query)
    assert found["ndcg@10"].item() == pytest.approx(ndcg, abs=1e-6)


def test_the_majority_row_always_says_the_training_majority():  # trap 34
    # 3 of 5 labels are Exact. Precision 3/5, recall 1: F1 = 0.75, a quarter of it as macro-F1.
    # Ranking: all tied at the mean gain (3 · 1 + 0.1 + 0) / 5.
    labels, query = torch.tensor([0, 0, 0, 1, 3]), torch.zeros(5, dtype=torch.long)
    logits = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    found = relevance_metrics(Predicted(torch.arange(5), query, labels, logits), ESCI, 1.0, majority=0)
    assert found["majority/accuracy"].item() == pytest.approx(0.6)
    assert found["majority/macro_f1"].item() == pytest.approx(0.75 / 4)
    place = 1 / np.log2(np.arange(2, 7))
    ideal = (place * [1, 1, 1, 0.1, 0]).sum()
    assert found["majority/ndcg@10"].item() == pytest.approx(3.1 / 5 * place.sum() / ideal)
    other = relevance_metrics(Predicted(torch.arange(5), query, labels, logits), ESCI, 1.0, majority=3)
    assert other["majority/accuracy"].item() == pytest.approx(0.2)


# Within-query R²


def test_within_query_r2_by_hand():
    # Centred targets (-1, 1 | -1, 1), centred latents (-1, 1 | 0, 0): (Σ r̃·ẽ)² / (Σr̃² Σẽ²) = 2² / (2 · 4) = 0.5.
    query = torch.tensor([5, 5, 9, 9])
    targets, latents = torch.tensor([[0.0], [2], [10], [12]]), torch.tensor([[1.0], [3], [7], [7]])
    assert within_query_r2(latents, targets, query).item() == pytest.approx(0.5)
    assert within_query_r2(targets, targets, query).item() == pytest.approx(1)
    assert within_query_r2(-latents, targets, query).item() == 0  # the wrong way round explains nothing


def test_within_query_r2_is_that_of_the_best_common_scale():
    rng = np.random.default_rng(0)
    query = rng.integers(0, 6, 40)
    targets = rng.standard_normal((40, 5))
    latents = targets + rng.standard_normal((40, 5))
    centred = [v - np.stack([v[query == q].mean(0) for q in query]) for v in (latents, targets)]
    scale = np.linalg.lstsq(centred[0].reshape(-1, 1), centred[1].ravel())[0]
    expected = 1 - np.square(centred[1] - scale * centred[0]).sum() / np.square(centred[1]).sum()
    found = within_query_r2(*(torch.from_numpy(v) for v in (latents, targets, query)))
    assert found.item() == pytest.approx(expected)


def test_within_query_r2_ignores_query_means_and_the_latents_scale():
    generator = torch.Generator().manual_seed(0)
    query = torch.randint(0, 5, (30,), generator=generator)
    latents, targets, shift, topic = torch.randn(4, 30, 6, generator=generator, dtype=torch.double).unbind()
    latents += targets
    expected = within_query_r2(latents, targets, query)
    assert 0.1 < expected < 0.9
    torch.testing.assert_close(within_query_r2(7 * latents + shift[query], targets + topic[query], query), expected)


def test_within_query_r2_without_two_targets_in_a_query_is_nan():
    vectors = torch.randn(3, 4)
    assert within_query_r2(vectors, vectors, torch.arange(3)).isnan()


def test_the_metric_takes_each_existing_target_once_and_each_perspective_apart():  # traps 25, 30
    generator = torch.Generator().manual_seed(0)
    row, query = torch.arange(12), torch.arange(12) // 3
    latents, targets = torch.randn(2, 12, 2, 4, generator=generator).unbind()
    latents = latents + 2 * targets
    mask = torch.rand(12, 2, generator=generator) < 0.7
    expected = within_query_r2(latents[mask], targets[mask], torch.stack([query, 100 + query], 1)[mask])
    assert 0.1 < expected < 0.9
    latents, targets = latents.clone(), targets.clone()
    latents[~mask] = targets[~mask] = torch.nan
    metric = WithinQueryR2()
    for rows in (torch.arange(5), torch.arange(4, 12), torch.tensor([0, 11])):
        metric.update(row[rows], query[rows], latents[rows], targets[rows], mask[rows])
    torch.testing.assert_close(metric.compute(), expected)


def test_the_metric_without_any_target_is_nan():  # trap 25
    metric = WithinQueryR2()
    metric.update(torch.arange(2), torch.zeros(2), torch.ones(2, 1, 4), torch.zeros(2, 1, 4), torch.zeros(2, 1).bool())
    assert metric.compute().isnan()


# Temperature


@pytest.mark.parametrize("scale", [0.3, 1.0, 8.0])
@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_the_temperature_is_that_of_a_grid_search(scale, mode):
    with mode():
        predicted = random_predictions(scale=scale)
        found = fit_temperature(predicted.logits, predicted.label)
    grid = torch.logspace(math.log10(0.05), math.log10(20), 4001, dtype=torch.double)
    scaled = predicted.logits.double() / grid[:, None, None]
    losses = -scaled.log_softmax(-1)[:, torch.arange(240), predicted.label].mean(-1)
    assert found == pytest.approx(grid[losses.argmin()].item(), rel=2e-3)  # the grid's step is 0.15 %


def test_dividing_logits_by_the_temperature_leaves_one():
    predicted = random_predictions(scale=2)
    temperature = fit_temperature(predicted.logits, predicted.label)
    assert fit_temperature(predicted.logits / temperature, predicted.label) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(("sign", "bound"), [(1, 0.05), (-1, 20)])
def test_the_temperature_stays_in_bounds_where_the_best_is_at_infinity(sign, bound):
    logits = sign * torch.eye(4)  # all right, or all wrong
    assert fit_temperature(logits, torch.arange(4)) == pytest.approx(bound)


def test_without_labels_the_temperature_is_one():
    assert fit_temperature(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long)) == 1.0


def test_a_split_of_one_row_keeps_its_shapes():  # trap 30
    collected = Predictions()
    collected.update(torch.tensor([7]), torch.tensor([2]), torch.tensor([1]), torch.zeros(1, 4))
    found = collected.compute()
    assert (found.row.shape, found.label.shape, found.logits.shape) == ((1,), (1,), (1, 4))
    assert found.labelled().row.tolist() == [7]
