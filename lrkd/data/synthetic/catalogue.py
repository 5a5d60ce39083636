"""The articles, brands and models of one synthetic catalogue: the words are in ``catalogue.yaml``, the seed deals."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

from lrkd.data.synthetic.gold import Article, Model, relate

BRANDS_PER_FAMILY = 5
LINES_PER_BRAND = 2
GENERATIONS = 4


@dataclass(frozen=True)
class Catalogue:
    """What can be asked for and sold under one seed.

    Args:
        articles: Every article by name.
        brands: The brands of each family.
        models: The models of each family that has any.
    """

    articles: dict[str, Article]
    brands: dict[str, tuple[str, ...]]
    models: dict[str, tuple[Model, ...]]

    def related(self, article: Article, kind: str) -> list[Article]:
        """The other articles that are ``together`` with, an ``alternative`` to, or ``apart`` from this one.

        Articles of other families are left out: they are always apart.
        """
        kin = [other for other in self.articles.values() if other.family == article.family]
        return [other for other in kin if relate(article, other) == kind]


@cache
def words(name: str) -> Any:
    """One of this package's YAML files."""
    return yaml.safe_load(files("lrkd.data.synthetic").joinpath(name).read_text(encoding="utf-8"))


def deal_catalogue(seed: int) -> Catalogue:
    """The catalogue of a seed: brands are dealt to families, model lines and their generations to brands."""
    data, rng = words("catalogue.yaml"), random.Random(f"catalogue {seed}")
    articles: dict[str, Article] = {}
    brands: dict[str, tuple[str, ...]] = {}
    models: dict[str, tuple[Model, ...]] = {}
    for family, entry in data["families"].items():
        brands[family] = tuple(rng.sample(data["brands"], BRANDS_PER_FAMILY))
        if entry.get("models"):
            models[family] = _deal_models(brands[family], data["lines"], rng)
        shared = {"attributes": entry["attributes"], "models": bool(entry.get("models"))}
        for name, article in (entry["articles"] | entry["accessories"]).items():
            articles[name] = _article(name, family, article if "goes_with" in article else shared | article)
    return Catalogue(articles, brands, models)


def _deal_models(brands: tuple[str, ...], lines: list[str], rng: random.Random) -> tuple[Model, ...]:
    dealt = iter(rng.sample(lines, len(brands) * LINES_PER_BRAND))
    models = []
    for brand in brands:
        for _ in range(LINES_PER_BRAND):
            line, first = next(dealt), rng.randint(2, 9)
            models += [Model(brand, line, first + step) for step in range(GENERATIONS)]
    return tuple(models)


def _article(name: str, family: str, entry: dict[str, Any]) -> Article:
    return Article(
        name=name,
        family=family,
        goes_with=tuple(entry.get("goes_with", ())),
        fits=entry.get("fits", False),
        models=entry.get("models", False),
        values=tuple((key, tuple(values)) for key, values in entry.get("attributes", {}).items()),
        queries=tuple(entry["query"]),
        titles=tuple(entry["title"]),
    )
