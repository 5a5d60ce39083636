"""What a benchmark scores: pairs of exactly so many tokens, and the pairs of a data root."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lrkd.data.pairs import read_pairs
from lrkd.errors import UserError
from lrkd.serve.scorer import Scorer

QUERY_SHARE = 0.25
"""Of a pair's text; in ESCI's titles a query has about a fourth of the tokens."""
TRIES = 200

Pair = tuple[str, str]


def pairs_of_length(scorer: Scorer, length: int, number: int, words: Sequence[str], seed: int = 0) -> list[Pair]:
    """Different pairs of exactly ``length`` tokens, special ones included, none of which is cut.

    Args:
        scorer: Whose tokenizer counts.
        length: Tokens of a pair.
        number: How many pairs.
        words: What texts are drawn from.
        seed: Of the draw.

    Raises:
        UserError: There are no such pairs.
    """
    generator = np.random.default_rng([seed, length])
    special = scorer.special_tokens
    query = max(1, min(round(QUERY_SHARE * (length - special)), scorer.card.query_cap))
    if length > scorer.card.max_length or length - special - query < 1:
        raise UserError(
            f"--lengths {length}: a pair of this model has {special + 2} to {scorer.card.max_length} tokens"
        )
    return [
        (_text(scorer, query, words, generator), _text(scorer, length - special - query, words, generator))
        for _ in range(number)
    ]


def _text(scorer: Scorer, tokens: int, words: Sequence[str], generator: np.random.Generator) -> str:
    """Words of so many tokens together."""
    chosen: list[str] = []
    for _ in range(TRIES * tokens):
        tried = [*chosen, words[int(generator.integers(len(words)))]]
        count = scorer.count_tokens(" ".join(tried))
        if count == tokens:
            return " ".join(tried)
        if count < tokens:
            chosen = tried
    raise UserError(f"found no text of {tokens} tokens; give --root data in the language of the model's tokenizer")


def pairs_of_root(root: str, scorer: Scorer, limit: int) -> list[Pair]:
    """Queries and items' texts of a data root, drawn by a fixed seed."""
    fields = scorer.card.item_text.fields
    table = read_pairs(root, columns=list(dict.fromkeys(["query", *fields])))
    rows = np.random.default_rng(0).permutation(table.num_rows)[:limit]
    table = table.take(rows)
    return list(zip(table["query"].to_pylist(), scorer.card.item_text.render_table(table), strict=True))
