"""The pairs of a data root as a teacher is asked about them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lrkd.data.pairs import read_pairs
from lrkd.data.split_rows import group_queries, split_rows
from lrkd.data.types import ItemText, LabelSet
from lrkd.prompts.book import Prompt, PromptBook
from lrkd.prompts.encoding import PromptEncoder


@dataclass(frozen=True)
class PairText:
    """How a pair becomes text for a teacher.

    Args:
        item_text: Template of the item's text.
        item_cap: Tokens of the item's text at most; the rest is cut.
    """

    item_text: ItemText
    item_cap: int

    def to_dict(self) -> dict[str, Any]:
        """Plain types, as kept in checkpoints."""
        return {"item_text": self.item_text.template, "item_cap": self.item_cap}


class PromptedPairs:
    """A data root's pairs with their prompts.

    Args:
        root: The data root.
        text: How a pair becomes text.
        book: The prompts.
        tokenizer: The teacher's, a fast one.
        labels: The label set.
        fold: As in :func:`~lrkd.data.split_rows.split_rows`, as are the next two.
        val_fraction: See there.
        split_seed: See there.

    Raises:
        UserError: Something is wrong with the files, or the book was written for other labels.
    """

    def __init__(
        self,
        root: str,
        text: PairText,
        book: PromptBook,
        tokenizer: Any,
        labels: LabelSet,
        *,
        fold: int | None,
        val_fraction: float,
        split_seed: int,
    ) -> None:
        book.check_labels(labels)
        self.text, self.book, self.tokenizer, self.labels = text, book, tokenizer, labels
        self.encoder = PromptEncoder(tokenizer)
        columns = ["pair_id", "query_id", "query", "label", "fold" if fold is not None else "split"]
        self.table = read_pairs(root, columns=list(dict.fromkeys([*columns, *text.item_text.fields])), labels=labels)
        label = pc.index_in(self.table["label"], value_set=pa.array(labels.labels))
        self.label = label.fill_null(-1).to_numpy().astype(np.int64)
        """(N,) class index, -1 where unknown."""
        self.query = group_queries(self.table["query"])
        """(N,) query group."""
        self.rows = split_rows(self.table, self.query, root, fold=fold, val_fraction=val_fraction, seed=split_seed)
        """The rows of train, val, test and all."""

    def texts(self, rows: Sequence[int] | np.ndarray) -> list[tuple[str, str]]:
        """Query and item text of some rows."""
        columns = ["query", *(field for field in self.text.item_text.fields)]
        pairs = self.table.select(columns).take(pa.array(rows)).to_pylist()
        items = [self.text.item_text.render(pair) for pair in pairs]
        offsets = self.tokenizer(items, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        cap = self.text.item_cap
        cut = [item if len(o) <= cap else item[: o[cap - 1][1]] for item, o in zip(items, offsets, strict=True)]
        return [(pair["query"], item) for pair, item in zip(pairs, cut, strict=True)]

    def tokens_cut(self, rows: np.ndarray) -> np.ndarray:
        """How many tokens (N,) of the item's text are cut from some rows."""
        items = [self.text.item_text.render(pair) for pair in self.table.take(pa.array(rows)).to_pylist()]
        lengths = [len(ids) for ids in self.tokenizer(items, add_special_tokens=False).input_ids] if items else []
        return np.maximum(np.array(lengths, np.int64) - self.text.item_cap, 0)

    def prompts(self, row: int, perspectives: Sequence[str]) -> list[Prompt]:
        """A row's prompts, one a perspective."""
        ((query, item),) = self.texts([row])
        return [self.book.render(query, item, perspective) for perspective in perspectives]
