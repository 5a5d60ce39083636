"""The command ``data synthesize``: draw, judge, word, write and report."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from lrkd.data.pairs import open_parquet, write_table
from lrkd.data.rationales import rationales_path
from lrkd.data.synthetic.catalogue import Catalogue, deal_catalogue, words
from lrkd.data.synthetic.drawing import LABEL_MIX, draw_product_for, draw_wish
from lrkd.data.synthetic.gold import Product, Wish, compare
from lrkd.data.synthetic.perspectives import PERSPECTIVES, SHARED_SLIP, glance, judge
from lrkd.data.synthetic.rationales import rationale_text
from lrkd.data.synthetic.report import print_report
from lrkd.data.synthetic.wording import asked_noun, offered_noun, query_text, title_text
from lrkd.data.types import PAIRS_FILE, PAIRS_SCHEMA, RATIONALES_SCHEMA, normalise_query
from lrkd.errors import UserError

TEACHER = "synthetic"
PROMPT_VERSION = "synthetic-1"
MARK = b"lrkd.synthetic"
"""The key in the Parquet metadata of both files that says that they are synthetic, and how they were made."""
DRAWS = 50
"""Draws for each query or item that is wanted, before it is an error that there are not so many different ones."""


@dataclass
class SyntheticData:
    """The rows of both files, in the columns of their schemas (those that are filled)."""

    pairs: list[dict[str, Any]] = field(default_factory=list)
    rationales: list[dict[str, Any]] = field(default_factory=list)


def synthesize_data(
    *,
    out: Path,
    queries: int = 400,
    items_per_query: int = 8,
    seed: int = 0,
    rationale_share: float = 0.8,
    samples: int = 1,
) -> None:
    """Write a synthetic data root: invented queries and products, gold labels by rule, rationales that err.

    It is for the quickstart and for tests. Results on it say nothing about real shoppers.

    Args:
        out: The data root to write: a folder that gets pairs.parquet and rationales.parquet. An earlier synthetic
            data root there is replaced; any other is left alone, with an error.
        queries: How many different queries.
        items_per_query: How many items a query has.
        seed: Deals the brands and models, and draws everything else. The same seed writes the same data.
        rationale_share: The share of pairs that get rationales, from 0 to 1; students must do without for the rest.
        samples: Rationales per pair and perspective.

    Raises:
        UserError: A number is out of range, `out` holds a data root that is not synthetic, or there are not so many
            different queries or items.
    """
    _check_numbers(queries, items_per_query, rationale_share, samples)
    made_by = f"synthetic data, seed {seed}: {queries} queries, {items_per_query} items a query, {samples} sample(s)"
    files = {out / PAIRS_FILE: PAIRS_SCHEMA, rationales_path(out): RATIONALES_SCHEMA}
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: is a file; give a folder as --out")
    for path in files:
        _refuse_foreign(path)
    data = synthesize(
        queries, items_per_query, seed=seed, rationale_share=rationale_share, samples=samples, progress=True
    )
    for path in files:
        path.unlink(missing_ok=True)
    for (path, schema), rows in zip(files.items(), (data.pairs, data.rationales), strict=True):
        if rows:
            marked = schema.with_metadata({MARK: made_by.encode()})
            write_table(pa.Table.from_pylist(rows, schema=schema), path, marked)
    print_report(data, out, seed)


def _check_numbers(queries: int, items_per_query: int, rationale_share: float, samples: int) -> None:
    for name, value in (("queries", queries), ("items_per_query", items_per_query), ("samples", samples)):
        if value < 1:
            raise UserError(f"{name} must be at least 1, got {value}: give --{name} a positive number")
    if not 0 <= rationale_share <= 1:
        raise UserError(f"rationale_share must lie between 0 and 1, got {rationale_share}: mend --rationale_share")


def _refuse_foreign(path: Path) -> None:
    """Real data that someone collected must not be lost to a slip in ``--out``."""
    if path.exists() and MARK not in (open_parquet(path).schema_arrow.metadata or {}):
        raise UserError(f"{path}: exists and is not synthetic, so it is not overwritten; give another folder as --out")


def synthesize(
    queries: int,
    items_per_query: int,
    *,
    seed: int = 0,
    rationale_share: float = 0.8,
    samples: int = 1,
    progress: bool = False,
) -> SyntheticData:
    """The rows of a synthetic data root; the arguments are those of :func:`synthesize_data`.

    Raises:
        UserError: There are not so many different queries or items.
    """
    catalogue, data, items = deal_catalogue(seed), SyntheticData(), dict[str, str]()
    for number, (wish, query, rng) in enumerate(_track(_wishes(catalogue, queries, seed), queries, progress), 1):
        query_id = f"syn-q{number:06d}"
        for title, (product, label) in _items(catalogue, wish, items_per_query, rng).items():
            item_id = items.setdefault(title, f"syn-i{len(items) + 1:07d}")
            pair_id = f"{query_id}-{item_id.removeprefix('syn-')}"
            data.pairs.append(
                {"pair_id": pair_id, "query_id": query_id, "query": query, "item_id": item_id, "title": title}
                | {"label": label, "brand": product.brand, "color": product.colour, "locale": "us"}
                | {"category": _category(product), "source": TEACHER}
            )
            if random.Random(f"share {seed} {pair_id}").random() < rationale_share:
                data.rationales += _rationales(data.pairs[-1], wish, product, samples, seed)
    return data


def _items(catalogue: Catalogue, wish: Wish, number: int, rng: random.Random) -> dict[str, tuple[Product, str]]:
    """So many products for a wish, with their labels, by title."""
    items: dict[str, tuple[Product, str]] = {}
    for _ in range(number * DRAWS):
        label = rng.choices(list(LABEL_MIX), list(LABEL_MIX.values()))[0]
        if product := draw_product_for(catalogue, wish, label, rng):
            items.setdefault(title_text(product, rng), (product, label))
        if len(items) == number:
            return items
    raise UserError(f"found only {len(items)} different items of {number}: give a smaller number as --items_per_query")


def _wishes(catalogue: Catalogue, queries: int, seed: int) -> Iterator[tuple[Wish, str, random.Random]]:
    """Different wishes, each with its query and its own source of chance: more queries leave the first as they are."""
    known: set[str] = set()
    for draw in range(queries * DRAWS):
        rng = random.Random(f"query {seed} {draw}")
        wish = draw_wish(catalogue, rng)
        query = query_text(wish, rng)
        if normalise_query(query) not in known:
            known.add(normalise_query(query))
            yield wish, query, rng
        if len(known) == queries:
            return
    raise UserError(f"found only {len(known)} different queries of {queries}: give a smaller number as --queries")


def _track(wishes: Iterator[tuple[Wish, str, random.Random]], total: int, progress: bool) -> Any:
    if not progress:
        return wishes
    from rich.progress import track

    return track(wishes, description="synthetic queries", total=total, transient=True)


def _category(product: Product) -> list[str]:
    return [*words("catalogue.yaml")["families"][product.article.family]["category"], product.article.name]


def _rationales(
    pair: dict[str, Any], wish: Wish, product: Product, samples: int, seed: int
) -> Iterator[dict[str, Any]]:
    """One rationale a perspective and sample; all of them read the same part of the pair.

    Each has its own source of chance: more samples, or rationales for more pairs, leave the others as they are.
    """
    key = f"{seed} {pair['pair_id']}"
    read = glance(compare(wish, product), SHARED_SLIP, random.Random(f"read {key}"))
    asked, offered = asked_noun(wish.article, pair["query"]), offered_noun(product.article, pair["title"])
    slots = {"query": pair["query"], "asked": asked, "offered": offered, "brand": product.brand}
    for perspective in PERSPECTIVES:
        for sample in range(samples):
            rng = random.Random(f"rationale {key} {perspective} {sample}")
            judgement = judge(perspective, read, asked, offered, rng)
            yield {
                "pair_id": pair["pair_id"],
                "perspective": perspective,
                "sample": sample,
                "rationale": rationale_text(perspective, judgement.seen, slots, rng),
                "verdict": judgement.verdict,
                "teacher": TEACHER,
                "prompt_version": PROMPT_VERSION,
            }
