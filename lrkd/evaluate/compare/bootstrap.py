"""The bootstrap over queries: draws, intervals, p-values, and Holm's correction."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

LEVEL = 0.95
_ROUNDING = 1e-6
"""Differences of float32 metrics that are this near to 0 are 0."""
_CHUNK = 4_000_000
"""Weights drawn at a time: 16 MB."""


class Interval(NamedTuple):
    """The ends of a 95 % interval."""

    low: float
    high: float


def draws(queries: Sequence[int], resamples: int, seed: int) -> Iterator[list[np.ndarray]]:
    """How often each query is drawn, resample by resample.

    In every stratum (a fold) as many queries are drawn, with replacement, as it has. The pairs of a query share one
    item list and one intent, so they are no independent observations: they come and go together. The draws depend on
    the sizes and the seed alone, so every method sees the same ones, and a further method changes no other's figures.

    Args:
        queries: The number Q_s of queries of each of S strata.
        resamples: How many resamples in all.
        seed: Seeds the draws.

    Yields:
        S arrays (B, Q_s) float32 for the next B resamples.
    """
    generators = [np.random.default_rng([seed, stratum]) for stratum in range(len(queries))]
    step = max(1, _CHUNK // sum(queries))
    for start in range(0, resamples, step):
        count = min(step, resamples - start)
        yield [_weights(generator, count, size) for generator, size in zip(generators, queries, strict=True)]


def _weights(generator: np.random.Generator, count: int, size: int) -> np.ndarray:
    drawn = generator.integers(size, size=(count, size))
    flat = (drawn + size * np.arange(count)[:, None]).ravel()
    return np.bincount(flat, minlength=count * size).reshape(count, size).astype(np.float32)


def interval(values: np.ndarray) -> Interval | None:
    """The percentile interval of resampled values (B,); None where the metric is not defined in one of them."""
    if not np.isfinite(values).all():
        return None
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(low), float(high))


def p_value(differences: np.ndarray) -> float | None:
    """The two-sided p-value of the hypothesis that a difference is 0, from its resampled values (B,).

    Twice the share of resamples on the far side of 0 (or on it), both counts plus one, so that it is never 0; at most
    1. It is below 0.05 where the 95 % percentile interval leaves 0 out (Efron and Tibshirani 1993, chapter 15).

    Returns:
        None where the difference is not defined in one of the resamples.
    """
    if not np.isfinite(differences).all():
        return None
    side = min(int((differences <= _ROUNDING).sum()), int((differences >= -_ROUNDING).sum()))
    return min(1.0, 2 * (side + 1) / (len(differences) + 1))


def holm(p_values: Mapping[str, float | None]) -> dict[str, float | None]:
    """Holm's step-down correction (1979): holds the chance of one or more false finds among all, whatever their ties.

    With the m values in rising order, the k-th is multiplied by m - k + 1, made no smaller than the one before, and at
    most 1. Unlike Benjamini and Hochberg's it bounds the chance of *any* false find, which is what a table of methods
    against one baseline is read for; unlike Bonferroni's it costs nothing for that.

    Args:
        p_values: By name; None is left out and stays None.

    >>> holm({"a": 0.01, "b": 0.04, "c": 0.03})
    {'a': 0.03, 'b': 0.06, 'c': 0.06}
    """
    known = sorted((p, name) for name, p in p_values.items() if p is not None)
    corrected: dict[str, float | None] = dict.fromkeys(p_values)
    highest = 0.0
    for place, (p, name) in enumerate(known):
        highest = max(highest, min(1.0, p * (len(known) - place)))
        corrected[name] = highest
    return corrected
