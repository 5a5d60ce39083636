"""Draws, intervals, p-values and Holm's correction."""

import numpy as np
import pytest
from finished_runs import TWO, fold_pairs, probabilities

from lrkd.evaluate.compare.bootstrap import draws, holm, interval, p_value
from lrkd.evaluate.compare.query_statistics import QueryStatistics


def all_draws(sizes, resamples, seed):
    return [np.concatenate(parts) for parts in zip(*draws(sizes, resamples, seed), strict=True)]


def test_as_many_queries_are_drawn_as_there_are():
    first, second = all_draws([7, 50], 400, 0)
    assert first.shape == (400, 7)
    assert (first.sum(1) == 7).all()
    assert (second.sum(1) == 50).all()
    assert abs(second.mean(0) - 1).max() < 0.2  # every query is as likely
    assert 0.9 < second.var(0).mean() < 1.06  # of a multinomial with n = 50: 1 - 1 / 50


def test_draws_depend_on_sizes_and_seed_alone(monkeypatch):
    first, second = all_draws([7, 50], 30, 3)
    np.testing.assert_array_equal(all_draws([7], 30, 3)[0], first)
    assert (all_draws([50, 50], 30, 3)[0] != second).any(), "strata are drawn apart"
    assert (all_draws([7], 30, 4)[0] != first).any()
    monkeypatch.setattr("lrkd.evaluate.compare.bootstrap._CHUNK", 600)  # ten resamples at a time
    assert len(list(draws([7, 50], 30, 3))) == 3
    assert all_draws([7, 50], 30, 3)[1].shape == second.shape


def test_interval():
    values = np.arange(1001) / 1000
    assert interval(values) == pytest.approx((0.025, 0.975))
    assert interval(np.array([0.1, np.nan])) is None


def test_p_value_by_hand():
    assert p_value(np.zeros(99)) == 1, "no difference"
    assert p_value(np.full(99, 0.1)) == pytest.approx(2 / 100), "never 0"
    differences = np.concatenate([np.full(95, -0.1), np.full(4, 0.1)])
    assert p_value(differences) == pytest.approx(2 * 5 / 100)
    assert p_value(-differences) == pytest.approx(2 * 5 / 100), "two-sided"
    assert p_value(np.array([0.1, np.nan])) is None


def test_holm_by_hand():
    # Rising: 0.005 × 4, 0.01 × 3, 0.03 × 2; then 0.04 × 1, which may not be less than the 0.06 before it.
    corrected = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005, "e": None})
    assert corrected == {"a": pytest.approx(0.03), "b": 0.06, "c": 0.06, "d": 0.02, "e": None}
    assert holm({"a": 0.6, "b": 0.9}) == {"a": 1.0, "b": 1.0}


def test_intervals_cover_where_pairs_of_a_query_go_together():
    """Two hundred worlds: queries of ten pairs that are nearly all right or nearly all wrong, 70 % right in all."""
    rng = np.random.default_rng(0)
    label, by_query, by_pair = np.tile([0, 1], 250), np.repeat(np.arange(50), 10), np.arange(500)
    covered = {"query": 0, "pair": 0}
    for world in range(200):
        right = rng.random(500) < np.where(rng.random(50) < 0.75, 0.9, 0.1)[by_query]
        answers = probabilities(np.where(right == (label == 0), "E", "O"))
        for unit, group in (("query", by_query), ("pair", by_pair)):
            statistics = QueryStatistics.of(answers, fold_pairs(group, label), TWO)
            (weights,) = next(draws([len(statistics.gold)], 200, world))
            low, high = interval(statistics.metrics(weights)[:, 0])
            covered[unit] += low <= 0.7 <= high
    assert 0.90 <= covered["query"] / 200 <= 0.98
    assert covered["pair"] / 200 < 0.75, "drawing pairs would promise too much"
