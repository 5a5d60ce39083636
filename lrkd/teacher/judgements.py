"""What a teacher's answers are worth: its verdicts against gold, a perspective, the neutral prompt, and the vote."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np
from sklearn.metrics import accuracy_score, f1_score

from lrkd.data.types import LabelSet
from lrkd.prompts.verdict import Failure


@dataclass(frozen=True)
class Judgement:
    """A teacher's answer on one pair from one perspective."""

    split: str
    row: int
    perspective: str
    text: str
    verdict: str | None
    failure: Failure | None


def verdicts(
    judgements: Sequence[Judgement], perspectives: Sequence[str], labels: LabelSet
) -> tuple[np.ndarray, np.ndarray]:
    """The verdicts by pair and perspective.

    Args:
        judgements: Answers; of a pair and perspective that stand there twice the first one counts.
        perspectives: P names.
        labels: C labels.

    Returns:
        (N,) the pairs' rows, rising; (N, P) class indices, -1 where there is no verdict.
    """
    rows = np.unique([judgement.row for judgement in judgements]).astype(np.int64)
    found = np.full((len(rows), len(perspectives)), -1)
    index = {label: place for place, label in enumerate(labels.labels)}
    column = {name: place for place, name in enumerate(perspectives)}
    for judgement in reversed(judgements):
        if judgement.verdict is not None and judgement.perspective in column:
            found[np.searchsorted(rows, judgement.row), column[judgement.perspective]] = index[judgement.verdict]
    return rows, found


def shares(found: np.ndarray, classes: int) -> np.ndarray:
    """Each label's share (N, C) of a pair's verdicts (N, P), as a probability.

    One vote is spread evenly over all labels (Laplace), so that no label is impossible; a tie goes to the label that
    the first perspective among the tied named.
    """
    count = (found[:, :, None] == np.arange(classes)).astype(float)
    earlier = 1 + 1e-6 * np.arange(found.shape[1], 0, -1)
    votes = (count * earlier[None, :, None]).sum(1) + 1 / classes
    return np.asarray(votes / votes.sum(1, keepdims=True))


def vote(found: np.ndarray, classes: int) -> np.ndarray:
    """The majority (N,) of a pair's verdicts (N, P), -1 where there is none; ties as in :func:`shares`."""
    return np.where((found >= 0).any(1), shares(found, classes).argmax(1), -1)


def judgement_metrics(
    judgements: Sequence[Judgement], gold: np.ndarray, perspectives: Sequence[str], neutral: str, labels: LabelSet
) -> dict[str, float]:
    """Accuracy and macro-F1 of each perspective, the neutral prompt and the perspectives' vote.

    An answer without a verdict is wrong. Macro-F1 is the mean over all labels, as scikit-learn's with ``labels=``.

    Args:
        judgements: A split's answers.
        gold: (all rows,) class index of every pair.
        perspectives: The P perspectives that vote.
        neutral: The neutral prompt's name, which does not.
        labels: C labels.

    Returns:
        ``accuracy`` and ``macro_f1`` and ``f1/<label>`` of the vote, ``<perspective>/accuracy``,
        ``<perspective>/macro_f1``, and ``failed/<reason>``: the share of all answers.
    """
    rows, found = verdicts(judgements, [*perspectives, neutral], labels)
    voted = vote(found[:, :-1], len(labels))
    metrics = _scores(gold[rows], voted, len(labels))
    f1 = f1_score(gold[rows], voted, labels=range(len(labels)), average=None, zero_division=0)
    metrics |= {f"f1/{label}": float(value) for label, value in zip(labels.labels, f1, strict=True)}
    for name, predicted in zip([*perspectives, neutral], found.T, strict=True):
        metrics |= {f"{name}/{k}": v for k, v in _scores(gold[rows], predicted, len(labels)).items()}
    for reason in get_args(Failure):
        metrics[f"failed/{reason}"] = float(np.mean([judgement.failure == reason for judgement in judgements]))
    return metrics


def _scores(gold: np.ndarray, predicted: np.ndarray, classes: int) -> dict[str, float]:
    return {
        "accuracy": float(accuracy_score(gold, predicted)),
        "macro_f1": float(f1_score(gold, predicted, labels=range(classes), average="macro", zero_division=0)),
    }
