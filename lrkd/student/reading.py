"""Texts as a trained student reads them: tokenised, cut and laid out as in its training."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
import torch

from lrkd.data.tokens import TOKEN, FlatTokens, PairLayout, TokenCache
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
        encode = self.tokenizer.backend_tokenizer.encode_batch_fast
        ids = [[e.ids for e in encode(list(texts), add_special_tokens=False)] for texts in (queries, items)]
        return self.lay_out(*ids)

    def lay_out(self, queries: Sequence[list[int]], items: Sequence[list[int]]) -> TokenCache:
        """The same, given the token ids of queries and items without special tokens."""
        return TokenCache(_flat(queries), _flat(items), self._layout, self._max_length, self._query_cap)


def _flat(texts: Sequence[list[int]]) -> FlatTokens:
    offsets = np.cumsum([0, *map(len, texts)], dtype=np.int64)
    return FlatTokens(np.fromiter(chain.from_iterable(texts), TOKEN, int(offsets[-1])), offsets)


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
