"""Linear probes: what can be read from vectors of pairs whose queries were not probed on."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score, make_scorer, recall_score
from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1)
"""C, the inverse strength of the L2 penalty, that the inner folds choose from."""
INNER_FOLDS = 3


class Scores(NamedTuple):
    """Of one probe, fold by fold, over the classes that the fold's pairs have. Higher is better."""

    macro_f1: np.ndarray
    """(F,)."""
    balanced_accuracy: np.ndarray
    """(F,) the mean recall; 1/C by chance."""


Split = tuple[np.ndarray, np.ndarray]
"""Places of the pairs that a probe is fitted on, and of those that it is tested on."""


def query_folds(label: np.ndarray, query: np.ndarray, folds: int, seed: int) -> list[Split]:
    """Folds of M pairs by query, with like shares of the classes: no query is on both sides (trap 36)."""
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    return list(splitter.split(np.zeros(len(label)), label, query))


def probe_scores(vectors: np.ndarray, label: np.ndarray, query: np.ndarray, splits: list[Split]) -> Scores:
    """Fit a probe on each fold's other pairs, and score it on the fold's.

    The probe is a logistic regression on standardised vectors, classes weighted alike. Its penalty is chosen on the
    pairs that it is fitted on, by inner folds of queries.

    Args:
        vectors: (M, D).
        label: (M,) int.
        query: (M,) int: the query groups.
        splits: F folds, see :func:`query_folds`.
    """
    predicted = []
    for train, test in splits:
        search = GridSearchCV(
            make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=2000, tol=1e-3)),
            {"logisticregression__C": STRENGTHS},
            scoring=make_scorer(_balanced_accuracy),
            cv=StratifiedGroupKFold(INNER_FOLDS),
        )
        search.fit(vectors[train], label[train], groups=query[train])
        predicted.append(search.predict(vectors[test]))
    return _scored(label, predicted, splits)


def majority_scores(label: np.ndarray, splits: list[Split]) -> Scores:
    """What always saying the most frequent class of a fold's other pairs scores (trap 34)."""
    predicted = [np.full(len(test), np.bincount(label[train]).argmax()) for train, test in splits]
    return _scored(label, predicted, splits)


def shuffled_by_query(label: np.ndarray, query: np.ndarray, seed: int) -> np.ndarray:
    """Labels dealt out anew, those of a query staying together as far as the queries' sizes allow.

    A probe that sees a query on both sides can learn these by heart, so they also test the folds; over queries there is
    nothing to learn (trap 36).

    Args:
        label: (M,) int.
        query: (M,) int.
        seed: Of the new order of the queries.
    """
    _, group = np.unique(query, return_inverse=True)
    turn = np.random.default_rng(seed).permutation(int(group.max()) + 1)
    shuffled = np.empty_like(label)
    shuffled[np.argsort(group, kind="stable")] = label[np.argsort(turn[group], kind="stable")]
    return shuffled


def _scored(label: np.ndarray, predicted: list[np.ndarray], splits: list[Split]) -> Scores:
    gold = [label[test] for _, test in splits]
    each = [(_macro_f1(g, p), _balanced_accuracy(g, p)) for g, p in zip(gold, predicted, strict=True)]
    return Scores(*(np.array(values) for values in zip(*each, strict=True)))


def _macro_f1(gold: np.ndarray, predicted: np.ndarray) -> float:
    return float(f1_score(gold, predicted, labels=np.unique(gold), average="macro", zero_division=0))


def _balanced_accuracy(gold: Any, predicted: Any) -> float:
    return float(recall_score(gold, predicted, labels=np.unique(gold), average="macro", zero_division=0))
