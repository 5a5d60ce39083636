"""Which rationales make preference pairs: right against wrong ones of one pair, capped and balanced."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa

from lrkd.data.rows import repeated
from lrkd.errors import UserError
from lrkd.teacher.judged import Judged

Kind = Literal["within", "across"]
KINDS: tuple[Kind, ...] = ("within", "across")


@dataclass(frozen=True)
class Conflicts:
    """N preference pairs: places of rationales.

    Args:
        judged: The M rationales.
        chosen: (N,) int: a right rationale each.
        rejected: (N,) int: a wrong one of the same pair each.
    """

    judged: Judged
    chosen: np.ndarray
    rejected: np.ndarray

    def __len__(self) -> int:
        return len(self.chosen)

    def take(self, mask: np.ndarray) -> Conflicts:
        """The preference pairs under a mask (N,)."""
        return Conflicts(self.judged, self.chosen[mask], self.rejected[mask])

    @property
    def pair(self) -> np.ndarray:
        """(N,) the pairs."""
        return np.asarray(self.judged.pair[self.chosen])

    @property
    def label(self) -> np.ndarray:
        """(N,) the pairs' gold classes."""
        return np.asarray(self.judged.label[self.chosen])

    @property
    def sides(self) -> tuple[np.ndarray, np.ndarray]:
        """The perspectives of chosen and of rejected, each (N,)."""
        return self.judged.perspective[self.chosen], self.judged.perspective[self.rejected]

    @property
    def within(self) -> np.ndarray:
        """(N,) bool: both sides are of one perspective."""
        chosen, rejected = self.sides
        return np.asarray(chosen == rejected)

    @property
    def texts(self) -> tuple[np.ndarray, np.ndarray]:
        """The texts of chosen and of rejected as numbers, each (N,)."""
        return self.judged.text[self.chosen], self.judged.text[self.rejected]

    @property
    def prompt(self) -> np.ndarray:
        """(N,) int: the perspective whose prompt both sides answer."""
        return np.where(self.within, self.sides[0], self.judged.neutral)

    def directions(self) -> tuple[np.ndarray, np.ndarray]:
        """(N,) the class with the ordered perspective pair as one number; and that of the opposite order."""
        (chosen, rejected), size = self.sides, len(self.judged.perspectives)
        base = self.label * size * size
        return base + chosen * size + rejected, base + rejected * size + chosen


@dataclass(frozen=True)
class Selection:
    """How preference pairs are chosen from all that there are.

    Args:
        kinds: Whether the sides may be of one perspective, of two, or either.
        balanced: Whether to balance ordered perspective pairs: :func:`balance`.
        max_per_pair: Preference pairs a pair at most: :func:`cap`.
        seed: Of what is dropped.

    Raises:
        UserError: No or an unknown kind, or a cap below 1.
    """

    kinds: tuple[Kind, ...] = KINDS
    balanced: bool = True
    max_per_pair: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.kinds or not set(self.kinds) <= set(KINDS):
            raise UserError(f"--kinds is one or both of {', '.join(KINDS)}, got {list(self.kinds)}")
        if self.max_per_pair < 1:
            raise UserError(f"--max_per_pair is at least 1, got {self.max_per_pair}")


def select_conflicts(judged: Judged, how: Selection) -> tuple[dict[str, Conflicts], dict[str, int]]:
    """Preference pairs in three stages, each a part of the one before, and what was dropped on the way.

    Args:
        judged: The rationales.
        how: Which to keep.

    Returns:
        All that were ``found``, those left by the cap (``capped``), and those that are ``kept``; counts by reason.
    """
    found, dropped = find_conflicts(judged, how.kinds)
    capped = cap(found, how.max_per_pair, balanced=how.balanced, seed=how.seed)
    kept = balance(capped, seed=how.seed) if how.balanced else capped
    dropped |= {"over_max_per_pair": len(found) - len(capped), "unbalanced": len(capped) - len(kept)}
    return {"found": found, "capped": capped, "kept": kept}, dropped


def find_conflicts(judged: Judged, kinds: Collection[Kind] = KINDS) -> tuple[Conflicts, dict[str, int]]:
    """Every wrong rationale with every right one of the same pair.

    A further sample is a chosen side only where none of the pair's other rationales is right, and never a rejected one.

    Args:
        judged: The rationales.
        kinds: Whether the sides may be of one perspective, of two, or either.

    Returns:
        The preference pairs, ordered by their sides' keys; and what was dropped: pairs whose sides are one text, and
        repetitions of the same two texts under one prompt.
    """
    right, first = judged.right, ~judged.more
    solved = judged.pairs_with(right & first)[judged.pair]
    found = _cross(judged, right & (first | ~solved), ~right & first)
    found = found.take(np.where(found.within, "within" in kinds, "across" in kinds))
    chosen, rejected = found.texts
    different = found.take(chosen != rejected)
    unique = np.ones(len(different), bool)
    unique[repeated([pa.array(key) for key in (different.pair, different.prompt, *different.texts)])] = False
    dropped = {"same_text": len(found) - len(different), "repeated": int((~unique).sum())}
    return different.take(unique), dropped


def _cross(judged: Judged, right: np.ndarray, wrong: np.ndarray) -> Conflicts:
    """All combinations of the rationales under two masks (M,), pair by pair."""
    good, bad = np.flatnonzero(right), np.flatnonzero(wrong)
    begin, end = (np.searchsorted(judged.pair[good], judged.pair[bad], side) for side in ("left", "right"))
    count = end - begin
    number = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    chosen, rejected = good[np.repeat(begin, count) + number], np.repeat(bad, count)
    order = np.lexsort((rejected, chosen))
    return Conflicts(judged, chosen[order], rejected[order])


def cap(found: Conflicts, most: int, *, balanced: bool, seed: int) -> Conflicts:
    """At most ``most`` preference pairs a pair, of as many directions as there are.

    A pair's first of every direction (ordered perspective pair) comes before the second of any. Among those, where the
    directions are to be balanced afterwards, the one that is scarce against its opposite in the class comes first: what
    there is too much of would be dropped anyway. Otherwise the seed draws.

    Args:
        found: N preference pairs.
        most: How many a pair.
        balanced: Whether :func:`balance` follows.
        seed: Of the draw.
    """
    cell, opposite = found.directions()
    draw = np.random.default_rng(seed).random(len(found))
    surplus = np.zeros(len(found))
    if balanced:
        size = _sizes(cell, opposite)
        surplus = size[cell] / np.maximum(size[opposite], 1e-9)
    turn = _places(np.lexsort((draw, cell, found.pair)), found.pair, cell)
    return found.take(_places(np.lexsort((draw, surplus, turn, found.pair)), found.pair) < most)


def balance(found: Conflicts, *, seed: int) -> Conflicts:
    """As many preference pairs a → b as b → a (chosen's perspective → rejected's), within every gold class.

    For each class and each two different perspectives, the direction with more loses the surplus, so that nobody who
    knows class and perspectives can tell which side was chosen. The seed draws what stays; a pair's first of a
    direction comes before the second of any pair. Preference pairs within one perspective all stay: the perspective
    says nothing about them.

    Args:
        found: N preference pairs.
        seed: Of the draw.
    """
    cell, opposite = found.directions()
    draw = np.random.default_rng([seed, 1]).random(len(found))
    size = _sizes(cell, opposite)
    turn = _places(np.lexsort((draw, cell, found.pair)), found.pair, cell)
    return found.take(_places(np.lexsort((draw, turn, cell)), cell) < np.minimum(size[cell], size[opposite]))


def _sizes(cell: np.ndarray, opposite: np.ndarray) -> np.ndarray:
    """How often each number stands in ``cell`` (N,), also those that stand in ``opposite`` (N,) only."""
    return np.bincount(cell, minlength=max(cell.max(initial=0), opposite.max(initial=0)) + 1)


def _places(order: np.ndarray, *group: np.ndarray) -> np.ndarray:
    """Every row's place (N,) among those of its group, in an order (N,) in which groups are contiguous."""
    place = np.arange(len(order))
    changes = np.zeros(len(order), bool)
    changes[:1] = True
    for column in group:
        changes[1:] |= column[order][1:] != column[order][:-1]
    start = np.flatnonzero(changes)
    result = np.empty(len(order), np.int64)
    result[order] = place - np.repeat(start, np.diff(np.append(start, len(order))))
    return result
