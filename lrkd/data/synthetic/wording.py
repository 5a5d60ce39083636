"""Wording: the query of a wish and the title of a product, in many orders and spellings."""

from __future__ import annotations

import random

from lrkd.data.synthetic.catalogue import words
from lrkd.data.synthetic.gold import Article, Model, Product, Wish

PLURAL_COUNTS = ("{} pack", "pack of {}", "set of {}", "{} count")
PIECE_COUNTS = ("{} pieces", "{} piece", "set of {}", "{} pcs")
SMALL_WORDS = frozenset({"for", "and", "of"})
UNITS = frozenset({"inch", "oz", "fl", "lb", "cup", "person", "gallon"})
FROM_PIECES = 12
"""From this count on one speaks of pieces rather than of packs."""


def query_text(wish: Wish, rng: random.Random) -> str:
    """A query for a wish, as a shopper might type it."""
    noun = rng.choice(wish.article.queries)
    before, after = _audience(wish.audience, rng)
    brand = wish.model.brand if wish.model and wish.brand is None and rng.random() < 0.35 else wish.brand or ""
    model = _model(wish.model, rng) if wish.model else ""
    fit = _fit(wish.fit, rng)
    if fit and rng.random() < 0.4:
        model, fit = fit, ""  # "norvik arrow 7 phone case"
    head = [brand, model, before, wish.colour or "", noun]
    if wish.colour and rng.random() < 0.25:
        head = [brand, model, before, noun, wish.colour]
    tail = [f"for {fit}" if fit else "", after, wish.size or "", _count(wish.count, rng)]
    if wish.feature:
        tail.append(rng.choice(("with {}", "with {}", "that has {}", "{}")).format(wish.feature))
    if wish.exclusion:
        tail.append(rng.choice(("without {}", "without {}", "no {}", "w/o {}", "not with {}")).format(wish.exclusion))
    rng.shuffle(tail)
    if wish.size and rng.random() < 0.3:
        tail.remove(wish.size)
        head.insert(2, wish.size)
    return " ".join(" ".join([*head, *tail]).split()).lower()


def title_text(product: Product, rng: random.Random) -> str:
    """A title that states all of a product's attributes, as a seller might write it."""
    data = words("catalogue.yaml")
    phrases = (data if product.article.goes_with else data["families"][product.article.family])["phrases"]
    before, after = _audience(product.audience, rng, noun_first=0.5)
    noun = rng.choice(product.article.titles)
    adjective = rng.choice(data["adjectives"]) if rng.random() < 0.4 else ""
    model = _model(product.model, rng) if product.model else ""
    head = [product.brand, model, before.title().replace("'S", "'s"), adjective, noun]
    listed = [_capitals(feature) for feature in product.features]
    if listed:
        head.append("with " + " and ".join(listed))
    if product.fit:
        head.append(rng.choice(("for", "Compatible with", "Fits", "Designed for")) + f" {_fit(product.fit, rng)}")
    tail = [_capitals(after), _capitals(product.size or ""), _capitals(product.colour or "")]
    tail.append(_capitals(_count(None if product.count == "1" else product.count, rng)))
    tail.append(_lacks(product, rng))
    tail += [f"{rng.choice(('Bundle with', 'Includes', 'Plus Free'))} {rng.choice(e.titles)}" for e in product.extras]
    tail += rng.sample(phrases, rng.choice((0, 1, 1, 2)))
    tail = [part for part in tail if part]
    rng.shuffle(tail)
    separator = rng.choice((", ", ", ", " - ", " | "))
    return separator.join([" ".join(" ".join(head).split()), *tail])


def offered_noun(article: Article, title: str) -> str:
    """The seller's word for an article that a title uses."""
    return max((noun for noun in article.titles if noun in title), key=len, default=article.titles[0]).lower()


def asked_noun(article: Article, query: str) -> str:
    """The shopper's word for an article that a query uses."""
    return max((noun for noun in article.queries if noun in query), key=len, default=article.queries[0])


def _lacks(product: Product, rng: random.Random) -> str:
    """Now and then a title boasts of what is not there: the word alone does not tell."""
    absent = [feature for feature in product.article.choices("feature") if feature not in product.features]
    if not absent or rng.random() > 0.25:
        return ""
    return rng.choice(("No {}", "Without {}", "{}-Free")).format(_capitals(rng.choice(absent)))


def _model(model: Model, rng: random.Random) -> str:
    if model.generation and rng.random() < 0.15:
        return f"{model.line} Gen {model.generation}"
    return str(model)


def _fit(model: Model | None, rng: random.Random) -> str:
    if model is None:
        return ""
    return f"{model.brand} {model}" if rng.random() < 0.6 else str(model)


def _audience(audience: str | None, rng: random.Random, noun_first: float = 0.5) -> tuple[str, str]:
    """The audience as (what stands before the noun, what stands after it): one of the two is empty."""
    if audience is None:
        return "", ""
    before, after = words("catalogue.yaml")["audience_words"][audience]
    return (before, "") if rng.random() < noun_first else ("", after)


def _count(count: str | None, rng: random.Random) -> str:
    if count is None:
        return ""
    return rng.choice(PIECE_COUNTS if int(count) >= FROM_PIECES else PLURAL_COUNTS).format(count)


def _capitals(text: str) -> str:
    """Title case, but for small words and for units after a number."""
    parts = text.split()
    small = [w in SMALL_WORDS or (i > 0 and parts[0][0].isdigit() and w in UNITS) for i, w in enumerate(parts)]
    return " ".join(w if keep else w[:1].upper() + w[1:] for w, keep in zip(parts, small, strict=True))
