"""Drawing wishes and products at random; the gold rule, and never the draw, says what label a pair has."""

from __future__ import annotations

import random
from dataclasses import fields, replace
from typing import Any

from lrkd.data.synthetic.catalogue import Catalogue
from lrkd.data.synthetic.gold import Article, Model, Product, Wish, agrees, gold_label

LABEL_MIX = {"Exact": 0.40, "Substitute": 0.25, "Complement": 0.12, "Irrelevant": 0.23}
TRIES = 60

MAIN_SHARE = 0.6
"""Queries for main articles; the others ask for accessories, so that no title gives its label away."""
BUNDLE_SHARE = 0.12
SISTER_SHARE = 0.6
"""How many wrong models are another generation of the right line."""
ASPECTS = tuple(field.name for field in fields(Wish) if field.name != "article")


def stated(wish: Wish) -> list[str]:
    """The names of the aspects that a wish states."""
    return [name for name in ASPECTS if getattr(wish, name) is not None]


def draw_wish(catalogue: Catalogue, rng: random.Random) -> Wish:
    """A wish for one article that states up to four of its aspects; they come from a product, so they go together."""
    main = rng.random() < MAIN_SHARE
    article = rng.choice([a for a in catalogue.articles.values() if (not a.goes_with) == main])
    product = draw_product(catalogue, article, rng)
    open_to: dict[str, Any] = {name: getattr(product, name) for name in ("size", "colour", "count", "fit", "brand")}
    open_to["audience"] = None if product.audience == "unisex" else product.audience
    open_to["count"] = None if product.count == "1" else product.count
    if product.model:
        open_to["model"] = product.model if rng.random() < 0.7 else replace(product.model, generation=0)
    if choices := article.choices("feature"):
        open_to["feature" if rng.random() < 0.45 else "exclusion"] = rng.choice(choices)
    names = [name for name, value in open_to.items() if value is not None]
    likely = {"fit": 5.0, "exclusion": 2.5, "feature": 1.5, "audience": 2.0, "model": 2.0}
    chosen: dict[str, Any] = {}
    for _ in range(min(len(names), rng.choices((0, 1, 2, 3, 4), (2, 24, 40, 26, 8))[0])):
        name = rng.choices(names, [likely.get(n, 1.0) for n in names])[0]
        names.remove(name)
        chosen[name] = open_to[name]
    return Wish(article, **chosen)


def draw_product(catalogue: Catalogue, article: Article, rng: random.Random) -> Product:
    """Any product of an article."""
    brand = rng.choice(catalogue.brands[article.family])
    models = catalogue.models.get(article.family, ())
    model = rng.choice([m for m in models if m.brand == brand]) if article.models else None
    values = {name: rng.choice(v) for name in ("size", "colour", "audience", "count") if (v := article.choices(name))}
    features = article.choices("feature")
    listed = rng.sample(features, min(len(features) - 1, rng.choices((0, 1, 2), (25, 50, 25))[0])) if features else []
    extras = [a for a in catalogue.related(article, "together") if not article.goes_with]
    bundle = bool(extras) and rng.random() < BUNDLE_SHARE
    return Product(
        article,
        brand,
        model=model,
        fit=rng.choice(models) if article.fits else None,
        features=tuple(listed),
        extras=(rng.choice(extras),) if bundle else (),
        **values,
    )


def draw_product_for(catalogue: Catalogue, wish: Wish, label: str, rng: random.Random) -> Product | None:
    """A product to which the gold rule gives a label for a wish.

    Args:
        catalogue: What there is.
        wish: What is asked for.
        label: The label wanted.
        rng: The source of chance.

    Returns:
        The product, or None where no draw had that label (a wish without stated aspects has few Substitutes).
    """
    for _ in range(TRIES):
        product = _propose(catalogue, wish, label, rng)
        if gold_label(wish, product) == label:
            return product
    return None


def _propose(catalogue: Catalogue, wish: Wish, label: str, rng: random.Random) -> Product:
    """A product that is likely, but not sure, to have the label."""
    same, kin = wish.article, catalogue.related
    names = stated(wish)
    if label == "Exact":
        article, change = same, 0
    elif label == "Substitute":
        alternatives = kin(same, "alternative")
        hosts = kin(same, "together") if same.goes_with else []
        article = rng.choices(
            (same, rng.choice(alternatives or [same]), rng.choice(hosts or [same])), (65, 25, 10 if hosts else 0)
        )[0]
        change = rng.choice((1, 1, 2)) if article is same else rng.choice((0, 0, 1))
    elif label == "Complement":
        article, change = rng.choice(kin(same, "together")), 0
    else:
        near = [same, same, same, *kin(same, "together"), *kin(same, "apart")]
        article = rng.choice(near) if rng.random() < 0.7 else rng.choice(list(catalogue.articles.values()))
        change = rng.choice((1, 1, 3)) if article is same else rng.choice((0, 0, 1))
    product = draw_product(catalogue, article, rng)
    if label == "Substitute" and article.name in same.goes_with:
        product = replace(product, extras=(same,))
    changed = set(rng.sample(names, min(change, len(names))))
    for name in names:
        product = _set(catalogue, product, wish, name, keep=name not in changed, rng=rng)
    return product


def _set(catalogue: Catalogue, product: Product, wish: Wish, name: str, *, keep: bool, rng: random.Random) -> Product:
    """Make a product meet, or miss, one aspect of a wish, where its article has that attribute."""
    if name in ("model", "fit", "brand"):
        return _set_model(catalogue, product, wish, name, keep=keep, rng=rng)
    wanted = getattr(wish, name)
    if name in ("feature", "exclusion"):
        if wanted not in product.article.choices("feature"):
            return product
        others = tuple(f for f in product.features if f != wanted)
        return replace(product, features=(wanted, *others) if keep == (name == "feature") else others)
    choices = product.article.choices(name)
    if keep:
        unisex = name == "audience" and product.audience == "unisex" and wanted in ("men", "women")
        return _with(product, name, wanted) if wanted in choices and not unisex else product
    others = tuple(value for value in choices if value != wanted)
    return _with(product, name, rng.choice(others)) if others else product


def _with(product: Product, name: str, value: str) -> Product:
    changes: dict[str, Any] = {name: value}
    return replace(product, **changes)


def _set_model(
    catalogue: Catalogue, product: Product, wish: Wish, name: str, *, keep: bool, rng: random.Random
) -> Product:
    """The same for brand, model line and generation, and for the model that an accessory fits."""
    article, brands = product.article, catalogue.brands[product.article.family]
    wanted = wish.model or wish.fit or Model(wish.brand or "", "")
    if name == "brand":
        wanted = Model(wish.brand or "", "")
    maker_only = not article.models and (not article.fits or (name == "brand" and bool(wish.article.goes_with)))
    if maker_only:
        choices = [brand for brand in brands if (brand == wanted.brand) == keep]
        return replace(product, brand=rng.choice(choices)) if choices else product
    models = [model for model in catalogue.models[article.family] if agrees(wanted, model) == keep]
    sisters = [model for model in models if (model.brand, model.line) == (wanted.brand, wanted.line)]
    if not models:
        return product
    model = rng.choice(sisters if sisters and rng.random() < SISTER_SHARE else models)
    return replace(product, brand=model.brand, model=model) if article.models else replace(product, fit=model)
