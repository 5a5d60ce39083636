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
from lrkd.errors import UserError
from lrkd.prompts.book import Prompt, PromptBook
from lrkd.prompts.encoding import PromptEncoder


@dataclass(frozen=True)
class PairText:
    """How a pair becomes text for a teacher.

    Args:
        item_text: Template of the item's text.
        item_chars: Characters of the item's text at most; the rest is cut. (Characters, because a server's tokenizer
            need not be at hand.)

    Raises:
        UserError: ``item_chars`` is below 1.
    """

    item_text: ItemText
    item_chars: int

    def __post_init__(self) -> None:
        if self.item_chars < 1:
            raise UserError(f"item_chars is at least 1, got {self.item_chars}")

    @property
    def columns(self) -> list[str]:
        """The columns of ``pairs.parquet`` that it needs."""
        return ["query", *self.item_text.fields]

    def render(self, pair: dict[str, Any]) -> tuple[str, str]:
        """A pair's query and its item's text."""
        return pair["query"], self.item_text.render(pair)[: self.item_chars].rstrip()

    def to_dict(self) -> dict[str, Any]:
        """Plain types, as kept in checkpoints."""
        return {"item_text": self.item_text.template, "item_chars": self.item_chars}


class PromptedPairs:
    """A data root's pairs with their prompts.

    Args:
        root: The data root.
        text: How a pair becomes text.
        book: The prompts.
        tokenizer: The teacher's.
        labels: The label set.
        fold: As in :func:`~lrkd.data.split_rows.split_rows`, as are the next two.
        val_fraction: See there.
        split_seed: See there.
        crossfit: (part, parts): of so many parts of the training queries, this one does not train: its rows are
            ``held_out``.

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
        crossfit: tuple[int, int] | None = None,
    ) -> None:
        book.check_labels(labels)
        self.text, self.book, self.tokenizer, self.labels = text, book, tokenizer, labels
        self.encoder = PromptEncoder(tokenizer)
        columns = ["pair_id", "query_id", "label", "fold" if fold is not None else "split", *text.columns]
        self.table = read_pairs(root, columns=list(dict.fromkeys(columns)), labels=labels)
        label = pc.index_in(self.table["label"], value_set=pa.array(labels.labels))
        self.label = label.fill_null(-1).to_numpy().astype(np.int64)
        """(N,) class index, -1 where unknown."""
        self.query = group_queries(self.table["query"])
        """(N,) query group."""
        self.rows = split_rows(self.table, self.query, root, fold=fold, val_fraction=val_fraction, seed=split_seed)
        """The rows of train, val, test and all, and of held_out in cross-fitting."""
        if crossfit is not None:
            (part, parts), train = crossfit, self.rows["train"]
            groups = np.random.default_rng(split_seed).permutation(np.unique(self.query[train]))
            held_out = np.isin(self.query[train], groups[part::parts])
            self.rows |= {"train": train[~held_out], "held_out": train[held_out]}

    def texts(self, rows: Sequence[int] | np.ndarray) -> list[tuple[str, str]]:
        """Query and item text of some rows."""
        return [self.text.render(pair) for pair in self._of(rows)]

    def tokens_cut(self, rows: np.ndarray) -> np.ndarray:
        """How many tokens (N,) of the item's text are cut from some rows."""
        cut = [self.text.item_text.render(pair)[self.text.item_chars :] for pair in self._of(rows)]
        ids = self.tokenizer(cut, add_special_tokens=False).input_ids if cut else []
        return np.array([len(one) for one in ids], np.int64)

    def _of(self, rows: Sequence[int] | np.ndarray) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.table.select(self.text.columns).take(pa.array(rows, pa.int64())).to_pylist()
        return found

    def prompts(self, row: int, perspectives: Sequence[str]) -> list[Prompt]:
        """A row's prompts, one a perspective."""
        ((query, item),) = self.texts([row])
        return [self.book.render(query, item, perspective) for perspective in perspectives]
