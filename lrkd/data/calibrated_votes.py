"""Votes that are read by how far they were right: the probability of the gold label, given a pair's verdicts."""

from __future__ import annotations

import numpy as np

from lrkd.errors import UserError

FITS = 5
"""The training queries are dealt into this many parts, and each part's probabilities come from a fit on the others."""


def calibrated_votes(shares: np.ndarray, label: np.ndarray, query: np.ndarray, train: np.ndarray) -> np.ndarray:
    """``P(y = c | the verdicts)`` by logistic regression on the shares of verdicts, perspective by perspective.

    A teacher has its own idea of the labels: one that says Substitute where the gold label is Exact teaches that, too.
    Fitted on gold labels, as Dawid and Skene (1979) weigh raters by their errors, its verdicts keep what they know, and
    their mean over the pairs is that of the gold labels. A training pair's probabilities come from a fit that has not
    seen its query.

    Args:
        shares: (N, P, C) the shares of each perspective's verdicts; all 0 where a pair has none from it.
        label: (N,) int64: gold labels; -1 where unknown.
        query: (N,) int: the pairs' query groups.
        train: (M,) int: rows of the training pairs; no other row's gold label is looked at.

    Returns:
        (N, C) float32: sums to 1, or 0 for a pair without a verdict.

    Raises:
        UserError: The training pairs with a gold label and a verdict are of a single query, or of a single label.
    """
    from sklearn.model_selection import GroupKFold  # slow to import, and few runs need it

    features = shares.reshape(len(shares), -1)
    voted = np.asarray(features.any(1))
    fitted = train[voted[train] & (label[train] >= 0)]
    groups = len(np.unique(query[fitted]))
    if groups < 2 or len(np.unique(label[fitted])) < 2:
        raise UserError(
            f"soft_labels calibrated_votes: the {len(fitted)} training pairs with a gold label and a verdict have "
            f"{groups} queries and {len(np.unique(label[fitted]))} labels, but two of each are needed; use votes"
        )
    result = np.zeros((len(shares), shares.shape[-1]))
    others = np.setdiff1d(np.flatnonzero(voted), fitted)
    if len(others):
        result[others] = _predicted(features[fitted], label[fitted], features[others], shares.shape[-1])
    for rest, part in GroupKFold(min(FITS, groups)).split(fitted, groups=query[fitted]):
        seen, unseen = fitted[rest], fitted[part]
        result[unseen] = _predicted(features[seen], label[seen], features[unseen], shares.shape[-1])
    return result.astype(np.float32)


def _predicted(features: np.ndarray, label: np.ndarray, asked: np.ndarray, classes: int) -> np.ndarray:
    from sklearn.linear_model import LogisticRegression

    known = np.unique(label)
    probability = np.zeros((len(asked), classes))
    if len(known) == 1:  # nothing to fit: all that was seen has this label
        probability[:, known] = 1
    else:
        probability[:, known] = LogisticRegression(max_iter=1000).fit(features, label).predict_proba(asked)
    return probability
