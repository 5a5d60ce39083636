"""Metrics of a run, taken apart by query, so that any weighting of the queries gives them at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

from lrkd.data.types import LabelSet
from lrkd.evaluate.compare.scored import FoldPairs

ECE_BINS = 15
CUTOFF = 10
_QUALITY = ("accuracy", "macro_f1", "ndcg@10", "auroc")


def resampled_metrics(labels: LabelSet) -> tuple[str, ...]:
    """The names of the metrics that :meth:`QueryStatistics.metrics` gives, in order."""
    return (*_QUALITY, *(f"f1/{label}" for label in labels.labels))


@dataclass(frozen=True)
class QueryStatistics:
    """What a run's metrics are made of: sums over each of Q queries.

    The definitions are those of :mod:`lrkd.metrics`. All but AUROC's are exact under any weights. AUROC is a ratio of
    sums over pairs of pairs; under weights it is taken to first order round the run's own value (its influence function
    summed by query, as in Obuchowski 1997, "Nonparametric analysis of clustered ROC curve data"): exact for equal
    weights, and off by terms of order 1/Q else.

    Args:
        hits: (Q, C) right predictions by label.
        named: (Q, C) predictions by label.
        gold: (Q, C) pairs by gold label.
        ndcg: (Q,) NDCG@10, 0 where the query is not ranked.
        ranked: (Q,) 1 for a query with pairs of two labels or more, else 0: only these are ranked.
        auroc: The run's AUROC; NaN where no label tells pairs apart.
        slope: (Q,) by how much AUROC changes with the query's weight.
    """

    hits: np.ndarray
    named: np.ndarray
    gold: np.ndarray
    ndcg: np.ndarray
    ranked: np.ndarray
    auroc: float
    slope: np.ndarray

    @classmethod
    def of(cls, probabilities: np.ndarray, pairs: FoldPairs, labels: LabelSet) -> Self:
        """A run's statistics.

        Args:
            probabilities: (N, C).
            pairs: N pairs of Q queries.
            labels: C labels with their gains.
        """
        group, size = pairs.group, (pairs.queries, len(labels))
        said, gains = predicted_labels(probabilities), np.array(labels.gains)
        gold = _count(group, pairs.label, size)
        ranked = ((gold > 0).sum(1) >= 2).astype(float)
        auroc, slope = _auroc(probabilities, pairs.label, group)
        right, named = said == pairs.label, said >= 0
        return cls(
            hits=_count(group[right], pairs.label[right], size),
            named=_count(group[named], said[named], size),
            gold=gold,
            ndcg=ranked * ndcg_by_query(probabilities @ gains, gains[pairs.label], group),
            ranked=ranked,
            auroc=auroc,
            slope=slope,
        )

    def metrics(self, weights: np.ndarray) -> np.ndarray:
        """The metrics under B weightings of the queries.

        Args:
            weights: (B, Q), how often each query counts.

        Returns:
            (B, M) in the order of :func:`resampled_metrics`; NaN where a metric is not defined.
        """
        classes = self.gold.shape[1]
        columns = np.column_stack([self.hits, self.named, self.gold, self.ndcg, self.ranked, self.slope])
        sums = weights @ columns.astype(weights.dtype)
        hits, named, gold = (sums[:, start : start + classes] for start in range(0, 3 * classes, classes))
        ndcg, ranked, slope = sums[:, 3 * classes :].T
        f1 = f1_of_counts(hits, named, gold)
        with np.errstate(invalid="ignore"):  # 0 / 0 is a metric that is not defined
            scores = [hits.sum(1) / gold.sum(1), f1.mean(1), ndcg / ranked, self.auroc + slope]
        return np.column_stack([*scores, f1])


def predicted_labels(probabilities: np.ndarray) -> np.ndarray:
    """The most probable label (N,) of each row (N, C); -1 where all are equally probable.

    Such a row names no label, and counts as wrong: a teacher none of whose answers held a verdict writes even shares.
    """
    named = probabilities.max(1) > probabilities.min(1)
    return np.where(named, probabilities.argmax(1), -1)


def f1_of_counts(hits: np.ndarray, named: np.ndarray, gold: np.ndarray) -> np.ndarray:
    """F1 = 2 hits / (named + gold) of each count (..., C); 0 for a label that is neither named nor gold."""
    total = named + gold
    return np.asarray(np.divide(2 * hits, total, out=np.zeros_like(total), where=total > 0))


def calibration_error(probabilities: np.ndarray, label: np.ndarray) -> float:
    """ECE of the most probable label over 15 equal bins of confidence; lower is better.

    Args:
        probabilities: (N, C).
        label: (N,) gold.
    """
    confidence, right = probabilities.max(1), probabilities.argmax(1) == label
    sums = [np.bincount(confidence_bin(confidence), values, minlength=ECE_BINS) for values in (confidence, right)]
    return float(np.abs(sums[0] - sums[1]).sum() / len(label))


def confidence_bin(confidence: np.ndarray) -> np.ndarray:
    """The bin (N,) of each confidence (N,), 0 to 14."""
    edges = np.linspace(0, 1, ECE_BINS + 1, dtype=np.float32)[1:-1]
    return np.digitize(confidence.astype(np.float32), edges)


def ndcg_by_query(scores: np.ndarray, gains: np.ndarray, group: np.ndarray) -> np.ndarray:
    """NDCG@10 of each query (Q,); tied scores share their gains, and a query without gain has 0.

    Args:
        scores: (N,) what the pairs are ranked by.
        gains: (N,) what each is worth.
        group: (N,) int: its query, 0 to Q - 1.
    """
    best = _dcg(gains, gains, group)
    return np.asarray(np.divide(_dcg(scores, gains, group), best, out=np.zeros_like(best), where=best > 0))


def _dcg(scores: np.ndarray, gains: np.ndarray, group: np.ndarray) -> np.ndarray:
    order = np.lexsort((-scores, group))
    scores, gains, group = scores[order], gains[order], group[order]
    rank = np.arange(len(group)) - np.searchsorted(group, group)
    discount = np.where(rank < CUTOFF, 1 / np.log2(rank + 2.0), 0)
    new = np.ones(len(group), bool)
    new[1:] = (group[1:] != group[:-1]) | (scores[1:] != scores[:-1])
    tie = np.cumsum(new) - 1
    shared = np.bincount(tie, discount) / np.bincount(tie)
    return np.bincount(group, gains * shared[tie])


def _auroc(probabilities: np.ndarray, label: np.ndarray, group: np.ndarray) -> tuple[float, np.ndarray]:
    """One label against the rest, the mean over the labels with both kinds of pairs; and its slope by query (Q,)."""
    values, slopes = [], []
    queries = int(group.max()) + 1
    for place in range(probabilities.shape[1]):
        positive, score = label == place, probabilities[:, place]
        if positive.all() or not positive.any():
            continue
        above = _share_below(score[positive], score[~positive])
        below = 1 - _share_below(score[~positive], score[positive])
        value = float(above.mean())
        slopes.append(
            np.bincount(group[positive], (above - value) / len(above), minlength=queries)
            + np.bincount(group[~positive], (below - value) / len(below), minlength=queries)
        )
        values.append(value)
    if not values:
        return float("nan"), np.zeros(queries)
    return float(np.mean(values)), np.asarray(np.mean(slopes, axis=0))


def _share_below(scores: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The share of the others that each score is above; a tie counts half."""
    others = np.sort(others)
    both = np.searchsorted(others, scores, "left") + np.searchsorted(others, scores, "right")
    return np.asarray(both / (2 * len(others)))


def _count(group: np.ndarray, label: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """How many pairs of each query have each label (Q, C)."""
    return np.bincount(group * size[1] + label, minlength=size[0] * size[1]).reshape(size).astype(float)
