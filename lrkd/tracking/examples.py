"""A split's predictions as W&B shows them: a table of fixed example pairs, and the confusion matrix."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lrkd.data.pairs import pairs_path

if TYPE_CHECKING:
    from wandb import Table
    from wandb.plot.custom_chart import CustomChart

EXAMPLES = 64
RATIONALE = "rationale/"
"""Before a perspective's name: the column of its rationales."""


def examples(predictions: pa.Table, root: str, rationales: Sequence[Path], labels: tuple[str, ...]) -> Table:
    """At most 64 pairs with their rationales, right and wrong.

    The pairs are those whose ids have the smallest hashes: the same ones in every run on these pairs, whatever the
    seed, method or order, so that W&B can join the tables of several runs by pair_id.

    Args:
        predictions: The split's predictions (``predictions_table`` of the module); a teacher's have its own rationales.
        root: The data root, for titles.
        rationales: Of a student, the files of rationales that it learned from; those that are not there are left out.
        labels: The labels in order.

    Returns:
        A row a pair: pair_id, query, title, gold and predicted label, whether they agree, a probability a label, and
        a column a perspective with each rationale behind its verdict.
    """
    from wandb import Table

    order = np.argsort([hashlib.sha1(pair.encode()).digest() for pair in predictions["pair_id"].to_pylist()])
    chosen = predictions.take(order[:EXAMPLES]).sort_by([("query", "ascending"), ("pair_id", "ascending")])
    pair_ids = chosen["pair_id"].to_pylist()
    titles = _titles(root, pair_ids)
    own = [name.removeprefix(RATIONALE) for name in predictions.column_names if name.startswith(RATIONALE)]
    learned = _rationales(rationales, pair_ids) if not own else {}
    perspectives = own or sorted({perspective for _, perspective in learned})
    table = Table(
        columns=["pair_id", "query", "title", "gold", "predicted", "right", *(f"p/{label}" for label in labels),
                 *(RATIONALE + perspective for perspective in perspectives)]
    )  # fmt: skip
    for row in chosen.to_pylist():
        pair_id, gold, probabilities = row["pair_id"], row["label"], [row[f"p/{label}"] for label in labels]
        predicted = labels[int(np.argmax(probabilities))]
        texts = [row[RATIONALE + p] if own else "\n\n".join(learned[pair_id, p]) for p in perspectives]
        table.add_data(
            pair_id, row["query"], titles[pair_id], gold, predicted, predicted == gold, *probabilities, *texts
        )
    return table


def _titles(root: str, pair_ids: list[str]) -> dict[str, str]:
    found = pq.read_table(pairs_path(root), columns=["pair_id", "title"], filters=[("pair_id", "in", pair_ids)])
    return dict(zip(found["pair_id"].to_pylist(), found["title"].to_pylist(), strict=True))


def _rationales(files: Sequence[Path], pair_ids: list[str]) -> defaultdict[tuple[str, str], list[str]]:
    """The rationales of some pairs by pair and perspective, each behind its verdict. Only they are held in memory."""
    texts: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for file in filter(Path.is_file, files):
        found = pq.read_table(file, filters=[("pair_id", "in", pair_ids)]).sort_by("sample")
        for row in found.to_pylist():
            texts[row["pair_id"], row["perspective"]].append(f"[{row['verdict']}] {row['rationale']}")
    return texts


def confusion_matrix(predictions: pa.Table, labels: tuple[str, ...], title: str) -> CustomChart:
    """Gold against predicted labels.

    Args:
        predictions: The split's predictions (``predictions_table`` of the module), all with a gold label.
        labels: The labels in order.
        title: The chart's title.
    """
    from wandb.plot import confusion_matrix as chart

    probabilities = np.stack([predictions[f"p/{label}"].to_numpy() for label in labels], axis=1)
    gold = [labels.index(label) for label in predictions["label"].to_pylist()]
    return chart(y_true=gold, preds=probabilities.argmax(1).tolist(), class_names=list(labels), title=title)
