"""What a set of preference pairs is made of, and what gives its chosen sides away without being read."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lrkd.data.rows import repeated
from lrkd.data.types import LabelSet
from lrkd.data.verdicts import EXAMPLES, distinct, share
from lrkd.teacher.conflict_pairs import Conflicts
from lrkd.teacher.judged import Judged


def tally(found: Conflicts, labels: LabelSet) -> dict[str, Any]:
    """Preference pairs by kind, by class, and by ordered perspective pair with its classes.

    Args:
        found: N preference pairs.
        labels: The label set.

    Returns:
        Counts; under ``perspectives`` the keys are ``chosen's → rejected's``, for all that occur.
    """
    names, (chosen, rejected) = found.judged.perspectives, found.sides
    code = chosen * len(names) + rejected
    directions = {}
    for number in np.unique(code):
        of_class = np.bincount(found.label[code == number], minlength=len(labels)).tolist()
        key = f"{names[number // len(names)]} → {names[number % len(names)]}"
        directions[key] = dict(zip(labels.labels, of_class, strict=True))
    of_class = np.bincount(found.label, minlength=len(labels)).tolist()
    within = int(found.within.sum())
    return {
        "preference_pairs": len(found),
        "kinds": {"within": within, "across": len(found) - within},
        "classes": dict(zip(labels.labels, of_class, strict=True)),
        "perspectives": directions,
    }


def guess(chosen: np.ndarray, rejected: np.ndarray, given: np.ndarray | None = None) -> float | None:
    """How often one is right who sees only a trait of both sides, and always says of two traits the same one is chosen.

    Args:
        chosen: (N,) int: the trait of the chosen sides, such as their perspective.
        rejected: (N,) int: that of the rejected ones.
        given: (N,) int: what else is known, such as the class.

    Returns:
        The accuracy, from 0.5, over the pairs whose traits differ; None where there are none.
    """
    differ = chosen != rejected
    if not differ.any():
        return None
    size = int(max(chosen.max(), rejected.max())) + 1
    key = np.minimum(chosen, rejected).astype(np.int64) * size + np.maximum(chosen, rejected)
    if given is not None:
        key += given * size * size
    _, group = np.unique(key[differ], return_inverse=True)
    count, lower = np.bincount(group), np.bincount(group, weights=(chosen < rejected)[differ])
    return share(int(np.maximum(lower, count - lower).sum()), len(group))


def audit_preferences(found: Conflicts, held_out: np.ndarray) -> dict[str, Any]:
    """An audit of preference pairs as they are about to be written.

    Args:
        found: N preference pairs.
        held_out: Query groups that validate or test.

    Returns:
        ``distinct`` pairs and queries; ``checks``, which must be 0; ``lengths`` of both sides; and ``leaks``: how often
        one picks the chosen side who sees only both sides' perspectives (with the class, which balance brings to 0.5,
        and without), lengths, verdicts, or teachers, and always answers the same. None where both sides never differ.
    """
    chosen, rejected = found.sides
    verdict, teacher = found.judged.verdict, _teachers(found.judged.table)
    lengths, longer = _lengths(found, found.judged.table)
    asked = found.judged.query[found.chosen]
    key = [pa.array(column) for column in (found.pair, found.prompt, *found.texts)]
    return {
        "distinct": {"pairs": distinct(found.pair), "queries": distinct(asked)},
        "checks": {
            "chosen_not_gold": int((~found.judged.right[found.chosen]).sum()),
            "rejected_gold": int(found.judged.right[found.rejected].sum()),
            "repeated": len(repeated(key)),
            "of_held_out_queries": int(np.isin(asked, held_out).sum()),
        },
        "lengths": lengths,
        "leaks": {
            "perspectives_and_class": guess(chosen, rejected, found.label),
            "perspectives": guess(chosen, rejected),
            "longer_is_chosen": longer,
            "verdicts": guess(verdict[found.chosen], verdict[found.rejected]),
            "teachers": guess(teacher[found.chosen], teacher[found.rejected]),
        },
    }


def _teachers(rationales: pa.Table) -> np.ndarray:
    """Every rationale's teacher (M,) as a number."""
    names = sorted(pc.unique(rationales["teacher"].fill_null("")).to_pylist())
    return np.asarray(pc.index_in(rationales["teacher"].fill_null(""), value_set=pa.array(names, pa.string())))


def _lengths(found: Conflicts, rationales: pa.Table) -> tuple[dict[str, Any], float | None]:
    """Mean lengths of both sides, and the share of pairs with the longer side chosen among those that differ."""
    measured = {
        "characters": pc.utf8_length(rationales["rationale"]).to_numpy(),
        "words": pc.count_substring_regex(rationales["rationale"], r"\S+").to_numpy(),
    }
    sides = {"chosen": found.chosen, "rejected": found.rejected}
    means = {
        side: {unit: round(float(length[rows].mean()), 2) if len(rows) else None for unit, length in measured.items()}
        for side, rows in sides.items()
    }
    more = measured["characters"][found.chosen] - measured["characters"][found.rejected]
    return means, share(int((more > 0).sum()), int((more != 0).sum()))


def describe_pairs(judged: Judged, kept: Conflicts) -> dict[str, Any]:
    """What the pairs give: on how many all, some or none of the rationales are right, and what further samples add.

    Args:
        judged: M rationales.
        kept: The preference pairs made of them.
    """
    first, right = ~judged.more, judged.right
    some, wrong = judged.pairs_with(first & right), judged.pairs_with(first & ~right)
    pairs = some | wrong
    supplied = pairs & judged.pairs_with(judged.more & right)
    return {
        "with_rationales": int(pairs.sum()),
        "all_right": int((some & ~wrong).sum()),
        "some_right": int((some & wrong).sum()),
        "none_right": int((pairs & ~some).sum()),
        "none_right_but_a_further_sample": int((~some & supplied).sum()),
        "with_preference_pairs": distinct(kept.pair),
    }


def find_suspects(judged: Judged, labels: LabelSet) -> dict[str, Any]:
    """Pairs whose gold label may be wrong: all rationales, of two or more perspectives, agree on another one.

    Args:
        judged: M rationales; further samples do not count.
        labels: The label set.

    Returns:
        How many, by ``gold → verdict``, and the first few: those with the most rationales first.
    """
    rows = np.flatnonzero(~judged.more)
    pair, start, size = np.unique(judged.pair[rows], return_index=True, return_counts=True)
    verdict, perspective = judged.verdict[rows], judged.perspective[rows]
    doubted = ~judged.right[rows[start]]
    for values, same in ((verdict, True), (perspective, False)):
        low, high = (ufunc.reduceat(values, start) if len(start) else values for ufunc in (np.minimum, np.maximum))
        doubted &= (low == high) if same else (low != high)
    suspect = np.flatnonzero(doubted)
    suspect = suspect[np.argsort(-size[suspect], kind="stable")]
    at = rows[start[suspect]]
    gold, said = judged.label[at], judged.verdict[at]
    code, count = np.unique(gold * len(labels) + said, return_counts=True)
    ids = judged.table["pair_id"].take(pa.array(at[:EXAMPLES])).to_pylist()
    return {
        "pairs": len(suspect),
        "share": share(len(suspect), len(pair)),
        "labels": {
            f"{labels.labels[number // len(labels)]} → {labels.labels[number % len(labels)]}": n
            for number, n in zip(code.tolist(), count.tolist(), strict=True)
        },
        "examples": [
            {"pair_id": name, "label": labels.labels[a], "verdict": labels.labels[b], "rationales": n}
            for name, a, b, n in zip(ids, gold.tolist(), said.tolist(), size[suspect].tolist(), strict=False)
        ],
    }
