"""Means, intervals and paired differences of contenders."""

import math

import numpy as np
import pytest
from finished_runs import random_fold

from lrkd.data.types import LabelSet
from lrkd.evaluate.compare.bootstrap import draws, holm
from lrkd.evaluate.compare.contenders import Contender, with_ensembles
from lrkd.evaluate.compare.estimates import ascending, differences, estimate, measure
from lrkd.evaluate.compare.query_statistics import QueryStatistics
from lrkd.evaluate.compare.scored import FoldPairs, Scored

THREE = LabelSet("three", ("A", "B", "C"), (1.0, 0.5, 0.0))
FOLDS, GOOD = {}, {}
for fold in (0, 1):
    FOLDS[fold], GOOD[fold] = random_fold(fold, queries=30)


def contender(name, noise=0.0, seeds=(0,), folds=(0, 1)):
    """The answers of ``GOOD`` with that share of noise."""
    runs = {}
    for fold in folds:
        for seed in seeds:
            other = np.random.default_rng([fold, seed]).dirichlet(np.ones(3), len(FOLDS[fold]))
            runs[fold, seed] = Scored((1 - noise) * GOOD[fold] + noise * other, 1e6, 10.0)
    return Contender(name, runs)


def measured(*contenders, resamples=300, folds=FOLDS):
    return measure(contenders, folds, THREE, resamples, 0)


def test_estimate():
    assert estimate([1.0, 2.0, 3.0])[:2] == (2.0, 1.0)
    assert estimate([0.5])[:2] == (0.5, None)
    assert math.isnan(estimate([0.5, math.nan]).mean)


def test_an_interval_is_that_of_the_runs_mean_over_shared_draws():
    (found,) = measured(contender("a", 0.3))
    expected = np.zeros(300)
    (weights,) = draws([30, 30], 300, 0)
    for fold, own in zip((0, 1), weights, strict=True):
        run = QueryStatistics.of(found.contender.runs[fold, 0].probabilities, FOLDS[fold], THREE)
        expected += run.metrics(own)[:, 1] / 2
    macro_f1 = found.row().estimates["macro_f1"]
    assert macro_f1.interval == pytest.approx(tuple(np.quantile(expected, [0.025, 0.975])), abs=1e-6)
    assert macro_f1.interval.low < macro_f1.mean < macro_f1.interval.high
    assert found.row().estimates["ece"].interval is None
    assert found.row().estimates["parameters"].mean == 1e6


def test_a_further_method_changes_no_other_row():
    alone = measured(contender("a", 0.3))[0].row()
    assert measured(contender("b", 0.6), contender("a", 0.3))[1].row() == alone


def test_twice_the_pairs_a_query_narrow_nothing():
    """The same pairs twice in the same queries: no more queries, so no more certainty."""
    folds, runs = {}, {}
    for fold, pairs in FOLDS.items():
        twice = np.repeat(np.arange(len(pairs)), 2)
        folds[fold] = FoldPairs(
            pairs.pair_id.take(twice), tuple(np.repeat(pairs.query, 2)), pairs.group[twice], pairs.label[twice],
            pairs.cut[twice],
        )  # fmt: skip
        runs[fold, 0] = Scored(GOOD[fold][twice], 1e6, 10.0)
    (doubled,) = measured(Contender("a", runs), folds=folds)
    (once,) = measured(contender("a"))
    for name in ("accuracy", "macro_f1", "f1/A"):
        assert doubled.row().estimates[name].interval == pytest.approx(once.row().estimates[name].interval, abs=1e-6)


def test_a_method_does_not_differ_from_itself():
    base, copy = measured(contender("base", 0.4), contender("copy", 0.4))
    (row,) = differences([base, copy], base)
    assert (row.name, row.size) == ("copy", 2)
    for name in ("accuracy", "macro_f1", "ndcg@10", "auroc"):
        found = row.estimates[name]
        assert (found.mean, found.interval, found.p, found.p_holm) == (0, (0, 0), 1, 1)


def test_a_clear_difference_is_found_and_its_sign_is_that_of_the_method():
    base, better = measured(contender("base", 0.9), contender("better", 0.0))
    found = differences([base, better], base)[0].estimates["accuracy"]
    assert found.interval.low > 0
    assert found.p == pytest.approx(2 / 301)
    found = differences([base, better], better)[0].estimates["accuracy"]
    assert found.interval.high < 0


def test_pairing_is_narrower_than_two_intervals():
    base, near = measured(contender("base", 0.5), contender("near", 0.55))
    difference = differences([base, near], base)[0].estimates["accuracy"].interval
    alone = base.row().estimates["accuracy"].interval
    assert difference.high - difference.low < (alone.high - alone.low) / 2


def test_p_values_are_corrected_over_the_rows():
    rows = measured(*(contender(f"m{n}", n / 10) for n in range(5)))
    found = differences(rows, rows[2])
    for name in ("accuracy", "macro_f1"):
        expected = holm({row.name: row.estimates[name].p for row in found})
        assert {row.name: row.estimates[name].p_holm for row in found} == expected
        assert all(row.estimates[name].p_holm >= row.estimates[name].p for row in found)


def test_what_is_not_shared_is_left_out_of_the_difference():
    base, part, none = measured(
        contender("base", 0.5), contender("part", 0.2, folds=(1,)), contender("none", seeds=(7,))
    )
    rows = {row.name: row for row in differences([base, part, none], base)}
    assert rows["part"].size == 1
    shared = part.units[1, 0].values["accuracy"] - base.units[1, 0].values["accuracy"]
    assert rows["part"].estimates["accuracy"].mean == pytest.approx(shared)
    assert rows["part"].estimates["accuracy"].sd is None
    assert (rows["none"].size, rows["none"].estimates) == (0, {})


def test_an_ensemble_of_seeds_is_paired_with_the_means_over_seeds():
    contenders = with_ensembles([contender("one", 0.7, seeds=(0, 1))], {"both": ["one"]}, "probabilities")
    one, both = measured(*contenders)
    (row,) = differences([one, both], one)
    assert row.size == 2
    expected = [
        both.units[fold, None].values["macro_f1"] - np.mean([one.units[fold, s].values["macro_f1"] for s in (0, 1)])
        for fold in (0, 1)
    ]
    assert row.estimates["macro_f1"].mean == pytest.approx(np.mean(expected))


def test_order_is_by_macro_f1():
    found = ascending(
        measured(contender("good", 0.0), contender("bad", 0.95), contender("b", 0.5), contender("a", 0.5))
    )
    assert [m.contender.name for m in found] == ["bad", "a", "b", "good"]
