"""The second gate of an export: on real pairs, from their texts on, it loses next to no macro-F1."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from lrkd.data.item_text import ItemText
from lrkd.data.pair_tokens import TokenCache
from lrkd.data.pairs import iter_pairs
from lrkd.data.triples import TripleDataModule
from lrkd.errors import UserError
from lrkd.metrics import classification_metrics
from lrkd.serve.onnx_model import TensorStudent
from lrkd.serve.scorer import Scorer, token_batches
from lrkd.student import StudentLRKD

BATCH_TOKENS = 4096

GateSplit = Literal["val", "test"]


@dataclass(frozen=True)
class SplitCheck:
    """An exported student beside the student in torch, on the same labelled pairs.

    Args:
        split: Which pairs.
        pairs: How many.
        macro_f1: Of the exported student.
        macro_f1_torch: Of the student in torch.
        labels_changed: How many pairs got another label.
        probability: The largest difference of a probability.
    """

    split: str
    pairs: int
    macro_f1: float
    macro_f1_torch: float
    labels_changed: int
    probability: float

    @property
    def drop(self) -> float:
        """How much macro-F1 the export lost; below 0 where it gained."""
        return self.macro_f1_torch - self.macro_f1

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for the card."""
        return asdict(self)

    def require(self, max_drop: float) -> None:
        """Refuse an export that lost more than is allowed.

        Raises:
            UserError: It did; says by how much.
        """
        if not self.drop <= max_drop:
            raise UserError(
                f"the exported student's macro-F1 on {self.pairs:,} pairs of {self.split} is {self.macro_f1:.4f}, the "
                f"student's in torch {self.macro_f1_torch:.4f}: {100 * self.drop:.2f} points less, where "
                f"{100 * max_drop:.2f} are allowed (--max_drop); {self.labels_changed:,} labels changed. Nothing was "
                "written"
            )


def labelled_rows(student: StudentLRKD, data: TripleDataModule, split: GateSplit, limit: int) -> np.ndarray:
    """Rows (N,) of a split's labelled pairs in ``pairs.parquet``, in ascending order.

    Args:
        student: Whose data it must be.
        data: The data; is set up here.
        split: Which pairs.
        limit: At most so many, drawn by a fixed seed.

    Raises:
        UserError: The split has no labelled pair, or the data are not the student's.
    """
    data.prepare_data()
    student.check_data(data, "test")
    data.setup("validate" if split == "val" else "test")
    loader: Any = data.val_dataloader() if split == "val" else data.test_dataloader()
    rows: np.ndarray = loader.dataset.rows
    if len(rows) > limit:
        rows = np.sort(np.random.default_rng(0).choice(rows, limit, replace=False))
    return rows


def compare_on_split(
    student: StudentLRKD, scorer: Scorer, data: TripleDataModule, split: GateSplit, rows: np.ndarray
) -> SplitCheck:
    """Score a split's labelled pairs with both.

    Args:
        student: In eval mode.
        scorer: Its export; it gets texts, so that its tokenizer and its truncation are compared, too.
        data: The student's data.
        split: Which pairs.
        rows: (N,) what :func:`labelled_rows` gave.
    """
    probabilities = torch.softmax(student_logits(student, data.tokens, rows) / student.temperature, -1)
    scored = torch.from_numpy(scorer.score_texts(*_texts(data, rows)).probabilities)
    gold = pc.index_in(data.pairs["label"].take(pa.array(rows)), value_set=pa.array(student.label_set.labels))
    labels = torch.from_numpy(gold.to_numpy().astype(np.int64))
    exported, in_torch = (
        float(classification_metrics(each, labels, student.label_set)["macro_f1"]) for each in (scored, probabilities)
    )
    changed = int((scored.argmax(1) != probabilities.argmax(1)).sum())
    difference = float((scored - probabilities).abs().max())
    return SplitCheck(split, len(rows), exported, in_torch, changed, difference)


def student_logits(student: StudentLRKD, tokens: TokenCache, rows: np.ndarray) -> Tensor:
    """Logits (N, C) of some pairs of a data root, from the student in torch."""
    network = TensorStudent(student).eval()
    logits = torch.empty(len(rows), len(student.label_set))
    with torch.inference_mode():
        for some, _ in token_batches(tokens.lengths[rows], BATCH_TOKENS, tokens.max_length):
            batch = tokens.batch(rows[some])
            logits[some] = network(**{name: torch.from_numpy(array) for name, array in batch.items()})[0]
    return logits


def _texts(data: TripleDataModule, rows: np.ndarray) -> tuple[list[str], list[str]]:
    """The queries and the items' texts of some rows (in ascending order), as ``pairs.parquet`` has them."""
    queries: list[str] = []
    items: list[str] = []
    for table in _rows_of(data.root, rows, data.item_text):
        queries += table["query"].to_pylist()
        items += data.item_text.render_table(table)
    return queries, items


def _rows_of(root: str, rows: np.ndarray, item_text: ItemText) -> Iterator[pa.Table]:
    first = 0
    for table in iter_pairs(root, columns=list(dict.fromkeys(["query", *item_text.fields]))):
        here = rows[(rows >= first) & (rows < first + table.num_rows)] - first
        if len(here):
            yield table.take(pa.array(here))
        first += table.num_rows
