"""Texts as a trained student reads them: tokenised, cut and laid out as in its training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from lrkd.data.pair_tokens import FlatTokens, PairLayout, TokenCache, encode
from lrkd.data.types import ItemText, TripleBatch
from lrkd.pretrained import resolve
from lrkd.student.lrkd import StudentLRKD


class PairReader:
    """Reads pairs for one student.

    Args:
        model: Its checkpoint keeps how pairs become text; one that does not (made from Python) reads titles.

    Raises:
        UserError: Its tokenizer is not one that lrkd can use.
    """

    def __init__(self, model: StudentLRKD) -> None:
        from transformers import AutoTokenizer

        text = {"item_text": "{title}", "max_length": 128, "query_cap": 32} | (model.hparams["text"] or {})
        self.item_text = ItemText(text["item_text"])
        self.tokenizer: Any = AutoTokenizer.from_pretrained(resolve(model.hparams["encoder"]))
        self._layout = PairLayout.of(self.tokenizer)
        self._max_length, self._query_cap = text["max_length"], text["query_cap"]

    def tokens(self, queries: Sequence[str], items: Sequence[str]) -> TokenCache:
        """The tokens of N pairs, given the texts of their queries and items."""
        backend = self.tokenizer.backend_tokenizer
        return self.lay_out(*([ids for piece in encode(backend, texts) for ids in piece] for texts in (queries, items)))

    def lay_out(self, queries: Sequence[list[int]], items: Sequence[list[int]]) -> TokenCache:
        """The same, given the token ids of queries and items without special tokens."""
        flat = FlatTokens.of(queries), FlatTokens.of(items)
        return TokenCache(*flat, self._layout, self._max_length, self._query_cap)


def token_batch(tokens: TokenCache, rows: np.ndarray, device: torch.device) -> TripleBatch:
    """Some pairs as a student takes them, without label or query group.

    Args:
        tokens: The tokens of N pairs.
        rows: (B,) int64: which of them.
        device: Where to.
    """
    tensors = {name: torch.from_numpy(array).to(device) for name, array in tokens.batch(rows).items()}
    none = torch.full((len(rows),), -1, device=device)
    return TripleBatch(row=torch.from_numpy(rows).to(device), query=none, label=none, step=None, **tensors)
