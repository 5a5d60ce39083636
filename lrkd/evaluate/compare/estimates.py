"""From contenders to estimates: means over runs, intervals over queries, differences to a baseline with their tests."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from lrkd.data.types import LabelSet
from lrkd.evaluate.compare.bootstrap import Interval, draws, holm, interval, p_value
from lrkd.evaluate.compare.contenders import Contender, Key
from lrkd.evaluate.compare.query_statistics import QueryStatistics, calibration_error, resampled_metrics
from lrkd.evaluate.compare.scored import Fold, FoldPairs

QUALITY = ("accuracy", "macro_f1", "ndcg@10", "auroc", "ece")
COSTS = ("parameters", "seconds")


class Estimate(NamedTuple):
    """A metric, or a difference of one.

    Args:
        mean: The mean over runs; NaN where one of them leaves the metric undefined.
        sd: The sample standard deviation over runs (n - 1), which one run does not have.
        interval: 95 % over resampled queries, where there is one.
        p: Of a difference: the two-sided p-value.
        p_holm: The same, corrected over all contenders.
    """

    mean: float
    sd: float | None
    interval: Interval | None = None
    p: float | None = None
    p_holm: float | None = None


class Row(NamedTuple):
    """A line of a table: a name, how many runs (or paired differences) it stands on, and its estimates by metric."""

    name: str
    size: int
    estimates: dict[str, Estimate]


class Unit(NamedTuple):
    """What means are taken over: a run, or the mean of a fold's runs.

    Args:
        values: Metric to value.
        resampled: (B, M), the value of each of the M resampled metrics in each of B resamples.
    """

    values: dict[str, float]
    resampled: np.ndarray


@dataclass(frozen=True)
class Measured:
    """A contender with its metrics.

    Args:
        contender: Which.
        units: Its runs, by fold and seed.
        names: The M resampled metrics.
    """

    contender: Contender
    units: Mapping[Key, Unit]
    names: tuple[str, ...]

    def row(self) -> Row:
        """Its line in the tables: every metric that it has, over its runs."""
        return Row(self.contender.name, len(self.units), _estimates(list(self.units.values()), self.names))

    def by_fold(self) -> dict[Key, Unit]:
        """The means of its runs a fold."""
        folds: dict[Key, list[Unit]] = {}
        for (fold, _), unit in self.units.items():
            folds.setdefault((fold, None), []).append(unit)
        return {key: _mean(units) for key, units in folds.items()}


def measure(
    contenders: Sequence[Contender], folds: Mapping[Fold, FoldPairs], labels: LabelSet, resamples: int, seed: int
) -> list[Measured]:
    """The metrics of every run of every contender, on the split and on resampled queries.

    Queries are drawn within each fold; all runs of a fold see the same draws.

    Args:
        contenders: The rows.
        folds: The pairs of each fold.
        labels: The label set.
        resamples: How many times to draw.
        seed: Seeds the draws.
    """
    runs = [
        (place, key, QueryStatistics.of(scored.probabilities, folds[key[0]], labels))
        for place, contender in enumerate(contenders)
        for key, scored in contender.runs.items()
    ]
    names, strata = resampled_metrics(labels), {fold: place for place, fold in enumerate(folds)}
    pieces: list[list[np.ndarray]] = [[] for _ in runs]
    for weights in draws([pairs.queries for pairs in folds.values()], resamples, seed):
        for piece, (_, key, found) in zip(pieces, runs, strict=True):
            piece.append(found.metrics(weights[strata[key[0]]]))
    units: list[dict[Key, Unit]] = [{} for _ in contenders]
    for piece, (place, key, found) in zip(pieces, runs, strict=True):
        whole = found.metrics(np.ones((1, len(found.gold))))[0]
        values = dict(zip(names, whole.tolist(), strict=True))
        units[place][key] = Unit(_complete(contenders[place], key, values, folds[key[0]]), np.concatenate(piece))
    return [Measured(contender, own, names) for contender, own in zip(contenders, units, strict=True)]


def _complete(contender: Contender, key: Key, values: dict[str, float], pairs: FoldPairs) -> dict[str, float]:
    """A run's metrics, with those that are not resampled, without those that the contender does not have."""
    scored = contender.runs[key]
    if contender.kind == "majority":
        return {name: value for name, value in values.items() if name != "auroc"}
    costs = {"parameters": scored.parameters, "seconds": scored.seconds}
    return values | {"ece": calibration_error(scored.probabilities, pairs.label)} | costs


def ascending(measured: Iterable[Measured]) -> list[Measured]:
    """By mean macro-F1, then by name."""
    return sorted(measured, key=lambda m: (m.row().estimates["macro_f1"].mean, m.contender.name))


def differences(measured: Sequence[Measured], baseline: Measured) -> list[Row]:
    """Every other contender's difference to the baseline.

    Paired by fold and seed; by fold, with the means over its runs, where either is an ensemble of seeds. The p-values
    are corrected over the rows, one metric at a time.

    Args:
        measured: The contenders.
        baseline: One of them.

    Returns:
        One row a contender but the baseline; without estimates where the two share no fold and seed.
    """
    rows = []
    for other in measured:
        if other is baseline:
            continue
        seedless = any(seed is None for m in (other, baseline) for _, seed in m.units)
        mine, theirs = (m.by_fold() if seedless else m.units for m in (other, baseline))
        shared = [_difference(unit, theirs[key]) for key, unit in mine.items() if key in theirs]
        found = _estimates(shared, other.names, tested=True) if shared else {}
        rows.append(Row(other.contender.name, len(shared), found))
    for name in baseline.names:
        corrected = holm({row.name: row.estimates[name].p for row in rows if name in row.estimates})
        for row in rows:
            if name in row.estimates:
                row.estimates[name] = row.estimates[name]._replace(p_holm=corrected[row.name])
    return rows


def _difference(one: Unit, other: Unit) -> Unit:
    values = {n: one.values[n] - other.values[n] for n in one.values if n in other.values and n not in COSTS}
    return Unit(values, one.resampled - other.resampled)


def _mean(units: Sequence[Unit]) -> Unit:
    values = {name: statistics.fmean(unit.values[name] for unit in units) for name in units[0].values}
    return Unit(values, np.asarray(np.mean([unit.resampled for unit in units], axis=0)))


def _estimates(units: Sequence[Unit], names: tuple[str, ...], *, tested: bool = False) -> dict[str, Estimate]:
    """Mean and deviation over units; interval (and p-value) of the mean, resample by resample."""
    resampled = dict(zip(names, _mean(units).resampled.T, strict=True))
    found = {}
    for name in units[0].values:
        mean, sd, *_ = estimate(unit.values[name] for unit in units)
        known = name in resampled and math.isfinite(mean)
        found[name] = Estimate(
            mean,
            sd,
            interval(resampled[name]) if known else None,
            p_value(resampled[name]) if known and tested else None,
        )
    return found


def estimate(values: Iterable[float]) -> Estimate:
    """Mean and sample standard deviation (n - 1) of at least one value; NaN where one of them is not defined.

    >>> estimate([1.0, 2.0, 3.0])[:2]
    (2.0, 1.0)
    >>> estimate([0.5])[:2]
    (0.5, None)
    """
    values = list(values)
    if not all(map(math.isfinite, values)):
        return Estimate(math.nan, None)  # a mean over the defined runs alone would pass for one over all
    return Estimate(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)
