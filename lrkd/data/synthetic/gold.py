"""The gold rule of the synthetic catalogue: structured wish and product in, ESCI label out.

A pair is first compared (:func:`compare`): how the two articles relate, and for every aspect that the query states
whether the product meets it. The label then follows (:func:`decide`):

1. The articles have nothing to do with each other, or are two accessories of one thing: **Irrelevant**.
2. A *central* aspect is not met: **Irrelevant**. Central are the audience (men, women, kids, dogs, ...), an exclusion
   ("without X", and the product has X) and the fit of an accessory (made for another model).
3. One article is an accessory of the other, whichever way round: **Complement**.
4. Otherwise the misses are counted: one for every other stated aspect that is not met (brand, model line, generation,
   size, colour, count, "with X"), one if the article is only an alternative (windbreaker for rain jacket), one if it
   is only the extra of a bundle (a phone with a free case, for "phone case"). No miss: **Exact**. One or two:
   **Substitute**. Three or more: **Irrelevant**.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Relation = Literal["same", "alternative", "contained", "together", "apart"]

CENTRAL = frozenset({"audience", "exclusion", "fit"})
PATIENCE = 2
"""How many misses still make a Substitute."""


@dataclass(frozen=True)
class Model:
    """A model line of a brand and its generation; a wish may leave the generation open (0)."""

    brand: str
    line: str
    generation: int = 0

    def __str__(self) -> str:
        return f"{self.line} {self.generation}" if self.generation else self.line


@dataclass(frozen=True)
class Article:
    """A kind of thing that is sold.

    Args:
        name: What it is called here, e.g. ``phone case``.
        family: The family that it belongs to.
        goes_with: The articles that it is an accessory of; empty for a main article.
        fits: Whether it is made for one model of the main article.
        models: Whether it has model lines of its own.
        values: The values that each of its attributes (size, colour, audience, count, feature) can take.
        queries: What shoppers call it.
        titles: What sellers call it.
    """

    name: str
    family: str
    goes_with: tuple[str, ...] = ()
    fits: bool = False
    models: bool = False
    values: tuple[tuple[str, tuple[str, ...]], ...] = ()
    queries: tuple[str, ...] = ()
    titles: tuple[str, ...] = ()

    def choices(self, attribute: str) -> tuple[str, ...]:
        """The values that an attribute can take; none if the article lacks it."""
        return dict(self.values).get(attribute, ())


@dataclass(frozen=True)
class Wish:
    """What a query states; an aspect that it leaves open is None."""

    article: Article
    brand: str | None = None
    model: Model | None = None
    fit: Model | None = None
    size: str | None = None
    colour: str | None = None
    audience: str | None = None
    count: str | None = None
    feature: str | None = None
    exclusion: str | None = None


@dataclass(frozen=True)
class Product:
    """What is sold; an attribute that its article lacks is None. ``extras`` come with it in a bundle."""

    article: Article
    brand: str
    model: Model | None = None
    fit: Model | None = None
    size: str | None = None
    colour: str | None = None
    audience: str | None = None
    count: str | None = None
    features: tuple[str, ...] = ()
    extras: tuple[Article, ...] = ()


@dataclass(frozen=True)
class Aspect:
    """One thing that the query states, what the product has there, and whether that will do."""

    name: str
    wanted: str
    found: str
    met: bool


@dataclass(frozen=True)
class Comparison:
    """How the articles relate, and the stated aspects one by one."""

    relation: Relation
    aspects: tuple[Aspect, ...] = ()

    @property
    def missed(self) -> tuple[Aspect, ...]:
        """The stated aspects that are not met."""
        return tuple(aspect for aspect in self.aspects if not aspect.met)


def relate(wished: Article, sold: Article, extras: tuple[Article, ...] = ()) -> Relation:
    """How the article that is sold relates to the one that is wished for."""
    if wished.name == sold.name:
        return "same"
    if wished.name in {extra.name for extra in extras}:
        return "contained"
    if wished.name in sold.goes_with or sold.name in wished.goes_with:
        return "together"
    if wished.family == sold.family and not wished.goes_with and not sold.goes_with:
        return "alternative"
    return "apart"


def compare(wish: Wish, product: Product) -> Comparison:
    """Set what a query states against what a product has.

    Of two articles that go together, or one of which is only an extra, no more than audience and fit can be compared.
    """
    relation = relate(wish.article, product.article, product.extras)
    fit = _compare_fit(wish, product)
    audience = _compare_audience(wish, product)
    rest = () if relation in ("together", "contained") else _compare_rest(wish, product, relation)
    aspects = [aspect for aspect in (fit, audience, *rest) if aspect is not None]
    return Comparison(relation, tuple(aspects))


def decide(comparison: Comparison, *, central: frozenset[str] = CENTRAL, patience: float = PATIENCE) -> str:
    """The label that follows from a comparison; see the module's docstring.

    Args:
        comparison: A pair's comparison, or what a perspective sees of it.
        central: The aspects that rule the product out when they are not met.
        patience: How many misses still make a Substitute.
    """
    if comparison.relation == "apart" or any(aspect.name in central for aspect in comparison.missed):
        return "Irrelevant"
    if comparison.relation == "together":
        return "Complement"
    misses = len(comparison.missed) + (comparison.relation != "same")
    if misses == 0:
        return "Exact"
    return "Substitute" if misses <= patience else "Irrelevant"


def gold_label(wish: Wish, product: Product) -> str:
    """The gold label of a pair: :func:`compare`, then :func:`decide`."""
    return decide(compare(wish, product))


def agrees(wanted: Model, found: Model) -> bool:
    """Whether a model is the wanted one, as far as that is stated (line and generation may be open)."""
    return (
        wanted.brand == found.brand and wanted.line in ("", found.line) and wanted.generation in (0, found.generation)
    )


def _compare_fit(wish: Wish, product: Product) -> Aspect | None:
    """Whether the accessory's model is the main article's, whichever of the two is the accessory.

    An accessory that names no model fits them all.
    """
    if wish.fit:  # an accessory is asked for
        found = product.fit or product.model
        return Aspect("fit", str(wish.fit), str(found), agrees(wish.fit, found)) if found else None
    if product.fit and not wish.article.goes_with:  # a main article is asked for, an accessory is sold
        wanted = wish.model or (Model(wish.brand, "") if wish.brand else None)
        if wanted:
            text = str(wanted) if wanted.line else wanted.brand
            return Aspect("fit", text, f"{product.fit.brand} {product.fit}", agrees(wanted, product.fit))
    return None


def _compare_audience(wish: Wish, product: Product) -> Aspect | None:
    if not wish.audience or not product.audience:
        return None
    met = product.audience == wish.audience or (product.audience == "unisex" and wish.audience in ("men", "women"))
    return Aspect("audience", wish.audience, product.audience, met)


def _compare_rest(wish: Wish, product: Product, relation: Relation) -> tuple[Aspect, ...]:
    """The other stated aspects; articles that are apart have few attributes in common, and only those are compared."""
    aspects, apart = [], relation == "apart"
    if wish.brand:
        aspects.append(Aspect("brand", wish.brand, product.brand, wish.brand == product.brand))
    if wish.model and not (apart and product.model is None):
        aspects.append(_compare_model(wish.model, product.model))
    for name in ("size", "colour", "count"):
        wanted, found = getattr(wish, name), getattr(product, name)
        if wanted and not (apart and found is None):
            aspects.append(Aspect(name, wanted, found or f"no {name} stated", wanted == found))
    if wish.feature and not apart:
        met = wish.feature in product.features
        aspects.append(Aspect("feature", wish.feature, wish.feature if met else "not listed", met))
    if wish.exclusion and not apart:
        there = wish.exclusion in product.features
        aspects.append(Aspect("exclusion", wish.exclusion, "included" if there else "absent", not there))
    return tuple(aspects)


def _compare_model(wanted: Model, found: Model | None) -> Aspect:
    """Line and generation are one aspect, named after the part that differs: it is one miss."""
    text = str(found) if found else "no model named"
    same_line = found is not None and (found.brand, found.line) == (wanted.brand, wanted.line)
    if same_line and found is not None and wanted.generation:
        return Aspect("generation", str(wanted), text, wanted.generation == found.generation)
    return Aspect("model", str(wanted), text, same_line)
