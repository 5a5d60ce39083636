"""The wording of a rationale: what a perspective saw, in plain English, without the verdict."""

from __future__ import annotations

import random
from typing import Any

from lrkd.data.synthetic.catalogue import words
from lrkd.data.synthetic.gold import Aspect, Comparison

MIN_WORDS, MAX_WORDS = 15, 40
MET_SHARE = 0.7
"""How many of the aspects that are met get a clause; all that are missed do, as far as there is room."""


def rationale_text(perspective: str, seen: Comparison, slots: dict[str, str], rng: random.Random) -> str:
    """A rationale of 15 to 40 words.

    Args:
        perspective: Whose wording to use: a key of ``rationales.yaml``.
        seen: What the perspective saw; nothing else is mentioned.
        slots: The pair's words: query, asked, offered, brand.
        rng: The source of chance.
    """
    style = words("rationales.yaml")[perspective]
    clauses = [_fill(rng.choice(style["relation"][seen.relation]), slots)]
    missed = rng.sample(seen.missed, len(seen.missed))
    met = [aspect for aspect in seen.aspects if aspect.met and rng.random() < MET_SHARE]
    rng.shuffle(met)
    spoken = [_clause(style, aspect, slots, rng) for aspect in [*missed, *met]]
    closing = [_fill(text, slots) for text in rng.sample(style["closing"], len(style["closing"]))]
    for clause in spoken:
        if _length([*clauses, clause]) <= MAX_WORDS:
            clauses.append(clause)
    for clause in closing:
        if _length(clauses) < MIN_WORDS and _length([*clauses, clause]) <= MAX_WORDS:
            clauses.append(clause)
    return " ".join(clauses)


def _clause(style: dict[str, Any], aspect: Aspect, slots: dict[str, str], rng: random.Random) -> str:
    templates = style["met" if aspect.met else "missed"]
    own = {"name": aspect.name, "wanted": _value(aspect, aspect.wanted), "found": _value(aspect, aspect.found)}
    return _fill(rng.choice(templates.get(aspect.name, templates["any"])), slots | own)


def _value(aspect: Aspect, text: str) -> str:
    return f"a set of {text}" if aspect.name == "count" and text.isdigit() else text


def _fill(template: str, slots: dict[str, str]) -> str:
    text = template.format(**slots)
    return text[:1].upper() + text[1:]


def _length(clauses: list[str]) -> int:
    return sum(len(clause.split()) for clause in clauses)
