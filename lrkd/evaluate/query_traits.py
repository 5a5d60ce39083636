"""What can be read off a query: whether it negates, and whether it names a brand or a kind of item."""

from __future__ import annotations

import re
from collections.abc import Sequence

NEGATIONS = ("without", "w/o", "no", "not", "non", "never", "except", "excluding")
_NEGATED = re.compile(rf"(?<![\w/])(?:{'|'.join(NEGATIONS)})(?![\w/])|\w+n['’]t\b", re.IGNORECASE)
_WORD = re.compile(r"\w+")


def negates(query: str) -> bool:
    """Whether a query holds one of :data:`NEGATIONS` as a whole word, or ...n't (with either apostrophe).

    >>> negates("mug w/o handle"), negates("nonstick pan")
    (True, False)
    """
    return _NEGATED.search(query) is not None


def names(query: str, phrase: str) -> bool:
    """Whether a phrase, such as a brand, stands in a query word for word.

    >>> names("Acme-Co. running shoe", "acme co"), names("acme shoe", "acme co")
    (True, False)
    """
    return words(phrase) in word_runs(query)


def word_runs(text: str) -> set[tuple[str, ...]]:
    """All runs of one or more words that stand next to each other in a text.

    >>> sorted(word_runs("Red shoes"))
    [('red',), ('red', 'shoes'), ('shoes',)]
    """
    found = words(text)
    return {found[start:end] for start in range(len(found)) for end in range(start + 1, len(found) + 1)}


def words(text: str) -> tuple[str, ...]:
    """The words of a text, case-folded.

    >>> words("Red, SHOES")
    ('red', 'shoes')
    """
    return tuple(_WORD.findall(text.casefold()))


def names_category(query: str, path: Sequence[str]) -> bool:
    """Whether a query has a word of the innermost category's name, singular or plural.

    >>> names_category("red running shoe", ["Clothing", "Running Shoes"])
    True
    """
    inside = {_singular(word) for word in words(query)}
    return any(_singular(word) in inside for word in words(path[-1]) if len(word) > 2)


def _singular(word: str) -> str:
    """A word without its plural s, which tells enough to compare two words."""
    return word[:-1] if word.endswith("s") and not word.endswith("ss") else word
