"""Whether two pairs are of the same topic, as far as words can tell."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from lrkd.evaluate.query_traits import words

Keys = frozenset[str]


def query_words(query: str) -> Keys:
    """A query's words but for English function words (scikit-learn's list), which say nothing of the topic.

    >>> sorted(query_words("The mug without a Handle"))
    ['handle', 'mug']
    """
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    return frozenset(words(query)).difference(ENGLISH_STOP_WORDS)


class Topics:
    """Which of N pairs and M rationales are alike in topic: those that share a key.

    Args:
        pairs: N sets of keys, such as the words of the query or the category of the item.
        rationales: M sets of keys.
    """

    def __init__(self, pairs: Sequence[Keys], rationales: Sequence[Keys]) -> None:
        self.pairs, self.rationales = pairs, rationales
        self.known = np.array([bool(keys) for keys in rationales])
        """(M,) bool: which rationales have a key at all."""

    def alike(self, place: np.ndarray) -> np.ndarray:
        """Whether pairs and rationales share a key.

        Args:
            place: (N, K) int: for each pair some of the M rationales.

        Returns:
            (N, K) 0 or 1; NaN where one of the two has no key.
        """
        found = np.full(place.shape, np.nan)
        for (pair, column), rationale in np.ndenumerate(place):
            keys = self.pairs[pair]
            if keys and self.known[rationale]:
                found[pair, column] = not keys.isdisjoint(self.rationales[rationale])
        return found

    def expected(self, parts: Sequence[slice]) -> np.ndarray:
        """The share of a part's rationales that are alike, for each pair: what one drawn at random is expected to be.

        Args:
            parts: K parts of the M rationales; those without a key do not count.

        Returns:
            (N, K); NaN where the pair, or the whole part, has no key.
        """
        shares = np.full((len(self.pairs), len(parts)), np.nan)
        pairs_of = defaultdict(list)
        for pair, keys in enumerate(self.pairs):
            pairs_of[keys].append(pair)
        for column, part in enumerate(parts):
            having: defaultdict[str, list[int]] = defaultdict(list)
            for place, keys in enumerate(self.rationales[part]):
                for key in keys:
                    having[key].append(place)
            total = int(self.known[part].sum())
            for keys, pairs in pairs_of.items():
                if keys and total:
                    shares[pairs, column] = len(set().union(*(having.get(key, ()) for key in keys))) / total
        return shares
