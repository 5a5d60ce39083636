"""Slices of the test pairs: by query length, negation, brand, tokens cut, locale, source, rationales and verdicts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from lrkd.evaluate.compare.pair_fields import PairFields
from lrkd.evaluate.compare.scored import Fold, FoldPairs
from lrkd.evaluate.query_traits import NEGATIONS, negates, word_runs, words

MOST = 8
"""A field of more values than this is shown by its most frequent ones."""


@dataclass(frozen=True)
class Family:
    """Slices that divide the pairs by one trait.

    Args:
        name: What it divides by.
        meaning: How, in a sentence.
        values: By fold: the slice (N,) of each pair, None where it is in none.
        order: The slices' names.
    """

    name: str
    meaning: str
    values: Mapping[Fold, Sequence[str | None]]
    order: tuple[str, ...]


def families(
    folds: Mapping[Fold, FoldPairs], fields: PairFields | None, labels: Sequence[str]
) -> tuple[list[Family], list[str]]:
    """The families of slices that the pairs have.

    Args:
        folds: The pairs of each fold.
        fields: What the data root says of them, if it is there.
        labels: The label set's names.

    Returns:
        The families with two or more slices, and for each of the others why it is left out.
    """
    found = [
        _family("query length", "words of the query, by white space", folds, _each_query(query_length)),
        _family("negation", f"the query holds one of {', '.join(NEGATIONS)}, ...n't", folds, _each_query(negation)),
        _family(
            "tokens cut",
            "the length limit cut tokens off the pair in at least one of the runs",
            folds,
            lambda pairs: ["cut" if cut else "whole" for cut in pairs.cut],
        ),
    ]
    if fields is not None:
        found += _data_families(folds, fields, labels)
    kept = [family for family in found if len(family.order) > 1]
    left_out = [
        f"{family.name}: {f'all pairs are “{family.order[0]}”' if family.order else 'no pair has it'}"
        for family in found
        if len(family.order) < 2
    ]
    return kept, left_out


def _data_families(folds: Mapping[Fold, FoldPairs], fields: PairFields, labels: Sequence[str]) -> list[Family]:
    finder = BrandFinder(fields.brands)
    return [
        _family(
            "brand in the query",
            "the query's words hold the item's brand, another item's brand, or none that the data names; "
            "brands that are everyday words count too",
            folds,
            lambda p: (
                [finder(q, fields.brand.get(i)) for q, i in zip(p.query, p.pair_id.to_pylist(), strict=True)]
                if fields.brands
                else [None] * len(p)
            ),
        ),
        _family("locale", "the pair's locale", folds, _field(fields.locale)),
        _family("source", "the pair's source, as the data names it", folds, _field(fields.source)),
        _family(
            "rationale",
            "the data root holds a rationale of the pair",
            folds,
            lambda pairs: [_present(fields.verdicts, i) for i in pairs.pair_id.to_pylist()],
        ),
        _family(
            "teacher's verdicts",
            "of pairs with rationales: all verdicts are one label (agree) or not (conflict), and the gold label is "
            "among them (right) or not (wrong); made with the gold label, so it cannot be known of new pairs",
            folds,
            lambda pairs: [
                verdict_slice(fields.verdicts.get(i, ()), labels[label])
                for i, label in zip(pairs.pair_id.to_pylist(), pairs.label, strict=True)
            ],
        ),
    ]


def _family(
    name: str, meaning: str, folds: Mapping[Fold, FoldPairs], values: Callable[[FoldPairs], Sequence[str | None]]
) -> Family:
    found = {fold: list(values(pairs)) for fold, pairs in folds.items()}
    counts = Counter(value for slices in found.values() for value in slices if value is not None)
    if len(counts) > MOST:
        common = {value for value, _ in counts.most_common(MOST - 1)}
        rest = f"{len(counts) - len(common)} others"
        found = {f: [v if v is None or v in common else rest for v in slices] for f, slices in found.items()}
        return Family(name, meaning, found, (*sorted(common), rest))
    known = [value for value in ORDER if value in counts]
    return Family(name, meaning, found, (*known, *sorted(counts.keys() - set(known))))


def _each_query(slice_of: Callable[[str], str]) -> Callable[[FoldPairs], list[str | None]]:
    return lambda pairs: [slice_of(query) for query in pairs.query]


def _field(values: Mapping[str, str]) -> Callable[[FoldPairs], list[str | None]]:
    """A field's value; where some pairs have one, those without are a slice, too."""

    def find(pairs: FoldPairs) -> list[str | None]:
        return [values.get(i, "not given" if values else None) for i in pairs.pair_id.to_pylist()]

    return find


def _present(verdicts: Mapping[str, object], pair_id: str) -> str | None:
    if not verdicts:
        return None
    return "with a rationale" if pair_id in verdicts else "without"


def query_length(query: str) -> str:
    """A query's slice by its number of words.

    >>> query_length("red running shoes")
    '3–4 words'
    """
    length = len(query.split())
    return next((name for most, name in _LENGTHS if length <= most), _LONGEST)


def negation(query: str) -> str:
    """Whether a query holds a word that negates."""
    return "negated" if negates(query) else "not negated"


def verdict_slice(verdicts: Sequence[str], gold: str) -> str | None:
    """How the verdicts on one pair stand to each other and to its gold label; None without any."""
    if not verdicts:
        return None
    if len(verdicts) == 1:
        return "a single verdict"
    said = set(verdicts)
    return f"{'agree' if len(said) == 1 else 'conflict'}, {'right' if gold in said else 'wrong'}"


class BrandFinder:
    """Finds brands among the words of a query.

    Args:
        brands: All that the data names.
    """

    def __init__(self, brands: Iterable[str]) -> None:
        self._brands = {named for brand in brands if (named := words(brand))}

    def __call__(self, query: str, brand: str | None) -> str:
        """The slice of a pair of this query and an item of this brand, if it has one."""
        runs = word_runs(query)
        if brand and words(brand) in runs:
            return "the item's brand"
        return "another brand" if runs & self._brands else "no brand"


_LENGTHS = ((2, "1–2 words"), (4, "3–4 words"), (6, "5–6 words"))
_LONGEST = "7 words or more"
ORDER = (
    *(name for _, name in _LENGTHS),
    _LONGEST,
    *("negated", "not negated"),
    *("the item's brand", "another brand", "no brand"),
    *("cut", "whole"),
    *("with a rationale", "without"),
    *("agree, right", "agree, wrong", "conflict, right", "conflict, wrong", "a single verdict"),
)
"""How slices stand in their tables; what is not named here follows by name."""
