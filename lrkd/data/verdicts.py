"""What rationales' verdicts are worth: accuracy by perspective, majority vote, conflicts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lrkd.data.types import LabelSet

EXAMPLES = 10
"""How many offenders of each kind a report names."""


def judge_rationales(
    rationales: pa.Table, pair_ids: pa.ChunkedArray, gold: np.ndarray, labels: LabelSet
) -> dict[str, Any]:
    """What the rationales' verdicts are worth against the gold labels.

    Args:
        rationales: M rationales.
        pair_ids: (N,) the pairs' names.
        gold: (N,) int: their labels, -1 for unknown.
        labels: The label set.

    Returns:
        Counts; rationales whose pair is unknown; accuracy by perspective and of the majority vote (a tie goes to the
        verdict that the first perspective in alphabetical order gave); and the shares of labelled pairs on which all
        verdicts agree, and on which all, some or none are right. *Some right* is what conflict mining feeds on; what
        is not *none right* survives the consistency filter.
    """
    pair = pc.index_in(rationales["pair_id"], value_set=pair_ids.combine_chunks()).fill_null(-1).to_numpy()
    unknown = np.flatnonzero(pair < 0)
    perspective = rationales["perspective"].combine_chunks().dictionary_encode()
    code = perspective.indices.to_numpy()
    verdict = pc.index_in(rationales["verdict"], value_set=pa.array(labels.labels)).to_numpy()
    of_pair = np.append(gold, -1)[pair]  # the last entry is for unknown pairs
    judged = of_pair >= 0
    right = verdict == of_pair
    by_perspective = {}
    for number, name in sorted(enumerate(perspective.dictionary.to_pylist()), key=lambda entry: entry[1]):
        mask = judged & (code == number)
        by_perspective[name] = {
            "rationales": int((code == number).sum()),
            "judged": int(mask.sum()),
            "right": int(right[mask].sum()),
            "accuracy": share(int(right[mask].sum()), int(mask.sum())),
        }
    order = np.lexsort((rationales["sample"].to_numpy(), pc.rank(rationales["perspective"], tiebreaker="dense")))
    order = order[judged[order]]
    return {
        "rationales": len(pair),
        "pairs_with_rationales": distinct(pair[pair >= 0]),
        "coverage": share(distinct(pair[pair >= 0]), len(gold)),
        "unknown_pairs": {
            "rationales": len(unknown),
            "examples": list(dict.fromkeys(rationales["pair_id"].take(pa.array(unknown)).to_pylist()))[:EXAMPLES],
        },
        "perspectives": by_perspective,
        **_votes(pair[order], verdict[order], gold, len(labels)),
    }


def _votes(pair: np.ndarray, verdict: np.ndarray, gold: np.ndarray, classes: int) -> dict[str, Any]:
    """What the verdicts (M,) on the pairs (M,) say together; the earlier one wins a tie."""
    voted, pair = np.unique(pair, return_inverse=True)
    gold = gold[voted]
    count = np.zeros((len(voted), classes), np.int64)
    np.add.at(count, (pair, verdict), 1)
    first = np.full((len(voted), classes), len(pair))
    np.minimum.at(first, (pair, verdict), np.arange(len(pair)))
    majority = (count * (len(pair) + 1) - first).argmax(axis=1) if len(voted) else np.zeros(0, np.int64)
    right = count[np.arange(len(voted)), gold]
    total = count.sum(axis=1)
    return {
        "majority_vote": {
            "pairs": len(voted),
            "accuracy": share(int((majority == gold).sum()), len(voted)),
            "macro_f1": macro_f1(gold, majority, classes),
        },
        "agreement": {
            "all_agree": share(int((count.max(axis=1, initial=0) == total).sum()), len(voted)),
            "all_right": share(int((right == total).sum()), len(voted)),
            "some_right": share(int(((right > 0) & (right < total)).sum()), len(voted)),
            "none_right": share(int((right == 0).sum()), len(voted)),
        },
    }


def macro_f1(gold: np.ndarray, predicted: np.ndarray, classes: int) -> float | None:
    """The mean F1 of all classes; a class that neither side names counts as 0.

    Args:
        gold: (N,) int: the true classes.
        predicted: (N,) int: the predicted ones.
        classes: How many there are.

    Returns:
        A number from 0 to 1, higher is better; None for no pairs.
    """
    if not len(gold):
        return None
    hits = np.bincount(gold[gold == predicted], minlength=classes)
    named = np.bincount(gold, minlength=classes) + np.bincount(predicted, minlength=classes)
    return round(float((2 * hits / np.maximum(named, 1)).mean()), 6)


def distinct(codes: np.ndarray) -> int:
    """How many different values (N,) there are."""
    return len(np.unique(codes))


def share(part: int, whole: int) -> float | None:
    """A share from 0 to 1, rounded to six digits; None of nothing."""
    return round(part / whole, 6) if whole else None
