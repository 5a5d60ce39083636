"""Accuracy and macro-F1 on slices of the pairs, with intervals over resampled queries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from lrkd.evaluate.compare.bootstrap import draws, interval
from lrkd.evaluate.compare.contenders import Contender
from lrkd.evaluate.compare.estimates import Estimate
from lrkd.evaluate.compare.query_statistics import f1_of_counts, predicted_labels
from lrkd.evaluate.compare.scored import Fold, FoldPairs
from lrkd.evaluate.compare.slices import Family

METRICS = ("accuracy", "macro_f1")
MOST_RESAMPLES = 2_000
"""Enough for intervals; p-values, which need more, are not given for slices."""
FEW_PAIRS = 30


class Slice(NamedTuple):
    """A slice's name and size."""

    name: str
    pairs: int
    queries: int

    @property
    def small(self) -> bool:
        """Whether it is too small to say much."""
        return self.pairs < FEW_PAIRS


class SliceTable(NamedTuple):
    """What contenders score on the slices of a family.

    Args:
        family: Which.
        slices: Its S slices.
        scores: Contender to metric to S estimates.
    """

    family: Family
    slices: tuple[Slice, ...]
    scores: dict[str, dict[str, list[Estimate]]]


def score_slices(
    family: Family,
    contenders: Sequence[Contender],
    folds: Mapping[Fold, FoldPairs],
    classes: int,
    resamples: int,
    seed: int,
) -> SliceTable:
    """Accuracy and macro-F1 of every contender on every slice of a family.

    The pairs of all runs of a contender are put together before F1 is computed: means over folds of F1 on few pairs are
    biased (Forman and Scholz 2010, "Apples-to-apples in cross-validation studies"). Macro-F1 is over all labels, so a
    label that a slice lacks counts 0: it compares contenders on one slice, not slices.

    Args:
        family: The slices.
        contenders: The rows.
        folds: The pairs of each fold.
        classes: C.
        resamples: How often queries are drawn, at most :data:`MOST_RESAMPLES`.
        seed: Seeds the draws.
    """
    places = {fold: _places(family, fold) for fold in folds}
    counts = {fold: _counts(fold, pairs, places[fold], contenders, len(family.order), classes)
              for fold, pairs in folds.items()}  # fmt: skip
    shape = (len(contenders), len(family.order), 3, classes)
    whole = _scores(np.sum([found.sum(0) for found in counts.values()], axis=0).reshape(1, *shape))[0]
    pieces = []
    for weights in draws([pairs.queries for pairs in folds.values()], min(resamples, MOST_RESAMPLES), seed):
        sums = sum(w @ found.astype(w.dtype) for w, found in zip(weights, counts.values(), strict=True))
        pieces.append(_scores(np.asarray(sums).reshape(-1, *shape)))
    resampled = np.concatenate(pieces)  # (B, contenders, slices, metrics)
    scores = {
        contender.name: {
            metric: [
                Estimate(float(whole[row, column, m]), None, interval(resampled[:, row, column, m]))
                for column in range(len(family.order))
            ]
            for m, metric in enumerate(METRICS)
        }
        for row, contender in enumerate(contenders)
    }
    return SliceTable(family, _sizes(family, folds, places), scores)


def _places(family: Family, fold: Fold) -> np.ndarray:
    """Each pair's slice (N,) as a number, -1 for none."""
    index: dict[str | None, int] = {name: place for place, name in enumerate(family.order)}
    return np.array([index.get(value, -1) for value in family.values[fold]])


def _sizes(family: Family, folds: Mapping[Fold, FoldPairs], places: Mapping[Fold, np.ndarray]) -> tuple[Slice, ...]:
    return tuple(
        Slice(
            name,
            sum(int((places[fold] == place).sum()) for fold in folds),
            sum(len(np.unique(pairs.group[places[fold] == place])) for fold, pairs in folds.items()),
        )
        for place, name in enumerate(family.order)
    )


def _counts(
    fold: Fold, pairs: FoldPairs, place: np.ndarray, contenders: Sequence[Contender], slices: int, classes: int
) -> np.ndarray:
    """Hits, named and gold (Q, contenders × slices × 3 × C), over all of a contender's runs on the fold."""
    counts = np.zeros((pairs.queries, len(contenders), slices, 3, classes))
    for row, contender in enumerate(contenders):
        for (of, _), scored in contender.runs.items():
            if of != fold:
                continue
            said = predicted_labels(scored.probabilities)
            for kind, (mask, label) in enumerate(
                ((said == pairs.label, pairs.label), (said >= 0, said), (said >= -1, pairs.label))
            ):
                chosen = mask & (place >= 0)
                np.add.at(counts, (pairs.group[chosen], row, place[chosen], kind, label[chosen]), 1)
    return counts.reshape(pairs.queries, -1)


def _scores(sums: np.ndarray) -> np.ndarray:
    """Accuracy and macro-F1 (B, contenders, slices, 2) of counts (B, contenders, slices, 3, C).

    NaN where a slice has no pair: a resample in which none of its queries was drawn.
    """
    hits, named, gold = np.moveaxis(sums, 3, 0)
    total = gold.sum(-1)
    with np.errstate(invalid="ignore"):
        accuracy = hits.sum(-1) / total
    macro_f1 = np.where(total > 0, f1_of_counts(hits, named, gold).mean(-1), np.nan)
    return np.stack([accuracy, macro_f1], axis=-1)
