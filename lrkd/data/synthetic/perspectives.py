"""The three perspectives of the synthetic teacher: each sees a part of a pair, and errs in its own way.

Every perspective has *habits*, which turn a true comparison into what it makes of it:

- **user intent** overlooks the small print (model generation, size, count, brand) and has endless patience: an
  exclusion that is not met is a miss like any other, and many misses will still do.
- **structured analysis** compares words and attributes and knows nothing of use. Articles whose words overlap (phone,
  phone case) are taken for alternatives, also where one is an accessory; where no word is shared (coffee maker, paper
  filters) they have nothing to do with each other, and two names of one article (kibble, dry food) look like
  alternatives. A feature that is not listed is unknown, not missed; a wrong audience or fit is a miss like any other.
- **business rule** is strict: another brand or model line than the one named rules a product out, and so does an
  alternative article; but a bundle counts as the article itself even if that is only its extra.

Habits are not laws: at random a perspective judges with its habits or without. And all three read only part of a pair
(:func:`glance`): at times the same aspect escapes all of them (then none may be right), at times only one of them.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

from lrkd.data.synthetic.gold import CENTRAL, Aspect, Comparison, Relation, decide

HABIT_RATE = 0.7
"""How often a perspective judges with its habits."""
SHARED_SLIP = 0.4
"""How often one aspect of a pair escapes all perspectives."""
OWN_SLIP = 0.1
"""How often one aspect escapes one perspective."""
SMALL_PRINT = frozenset({"generation", "size", "count", "brand"})
DOUBTED = frozenset({"size", "colour", "count", "feature"})
"""Aspects that count as missed where they are met but were not read."""


@dataclass(frozen=True)
class Judgement:
    """What a perspective saw of a pair, and the label that it concluded."""

    seen: Comparison
    verdict: str


def user_intent(read: Comparison, asked: str, offered: str) -> Judgement:
    """Judge as the shopper: what gets the job done will do."""
    seen = replace(read, aspects=tuple(a for a in read.aspects if a.met or a.name not in SMALL_PRINT))
    return Judgement(seen, decide(seen, central=CENTRAL - {"exclusion"}, patience=float("inf")))


def structured_analysis(read: Comparison, asked: str, offered: str) -> Judgement:
    """Judge word by word: articles by their names, and no attribute weighs more than another."""
    aspects = tuple(a for a in read.aspects if a.met or a.name != "feature")
    relation: Relation = read.relation
    if relation in ("together", "alternative"):
        relation = "alternative" if share_a_word(asked, offered) else "apart"
    elif relation == "same" and not share_a_word(asked, offered):
        relation = "alternative"
    seen = Comparison(relation, aspects)
    return Judgement(seen, decide(seen, central=frozenset({"exclusion"})))


def business_rule(read: Comparison, asked: str, offered: str) -> Judgement:
    """Judge by the catalogue's rules: article, brand and model are locks, and a bundle counts."""
    seen = replace(read, relation="same") if read.relation == "contained" else read
    if seen.relation == "alternative":
        return Judgement(seen, "Irrelevant")
    return Judgement(seen, decide(seen, central=CENTRAL | {"brand", "model"}))


PERSPECTIVES: dict[str, Callable[[Comparison, str, str], Judgement]] = {
    "user_intent": user_intent,
    "structured_analysis": structured_analysis,
    "business_rule": business_rule,
}


def share_a_word(asked: str, offered: str) -> bool:
    """Whether the shopper's and the seller's name of an article have a word in common, singular or plural."""
    first, second = ({word.removesuffix("s") for word in name.lower().split()} for name in (asked, offered))
    return bool(first & second)


def glance(comparison: Comparison, rate: float, rng: random.Random) -> Comparison:
    """What is left of a comparison when, at the given rate, one aspect escapes the reader.

    A miss that escapes is gone. Of what is met, some readers take for missing what they did not read.
    """
    if not comparison.aspects or rng.random() >= rate:
        return comparison
    escaped = rng.choice(comparison.aspects)
    others = tuple(aspect for aspect in comparison.aspects if aspect is not escaped)
    if escaped.met and escaped.name in DOUBTED and comparison.relation in ("same", "alternative"):
        doubted = Aspect(escaped.name, escaped.wanted, f"an unclear {escaped.name}", False)
        return replace(comparison, aspects=(*others, doubted))
    return replace(comparison, aspects=others)


def judge(perspective: str, read: Comparison, asked: str, offered: str, rng: random.Random) -> Judgement:
    """One judgement of a pair.

    Args:
        perspective: A key of :data:`PERSPECTIVES`.
        read: What all perspectives read of the pair.
        asked: The shopper's word for the article.
        offered: The seller's word for the article.
        rng: The source of chance.
    """
    seen = glance(read, OWN_SLIP, rng)
    if rng.random() < HABIT_RATE:
        return PERSPECTIVES[perspective](seen, asked, offered)
    return Judgement(seen, decide(seen))
