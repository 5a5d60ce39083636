"""The vocabulary: label sets, the schemas on disk, the item's text, and the typed batch that reaches the model.

This module imports neither torch nor lightning, so that the data commands start at once. What serving needs of it lies
in modules of their own, which do without pyarrow, too.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa

from lrkd.data.item_text import ITEM_FIELDS, ItemText
from lrkd.data.label_set import LABEL_SETS, LabelSet

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "ITEM_FIELDS",
    "LABEL_SETS",
    "PAIRS_FILE",
    "PAIRS_SCHEMA",
    "PREFERENCES_FILE",
    "PREFERENCES_SCHEMA",
    "RATIONALES_FILE",
    "RATIONALES_SCHEMA",
    "SPLITS",
    "ItemText",
    "LabelSet",
    "StepTotals",
    "TripleBatch",
    "normalise_query",
]

PAIRS_FILE = "pairs.parquet"
RATIONALES_FILE = "rationales.parquet"
PREFERENCES_FILE = "preferences.parquet"

PAIRS_SCHEMA = pa.schema(
    [
        pa.field("pair_id", pa.string(), nullable=False),
        pa.field("query_id", pa.string(), nullable=False),
        pa.field("query", pa.string(), nullable=False),
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("title", pa.string(), nullable=False),
        pa.field("label", pa.string()),
        pa.field("description", pa.string()),
        pa.field("brand", pa.string()),
        pa.field("color", pa.string()),
        pa.field("bullets", pa.string()),
        pa.field("category", pa.list_(pa.string())),
        pa.field("locale", pa.string()),
        pa.field("source", pa.string()),
        pa.field("split", pa.string()),
        pa.field("fold", pa.int32()),
    ]
)
"""``pairs.parquet``: the first five columns are required and never empty; ``label`` may be null (unknown)."""

RATIONALES_SCHEMA = pa.schema(
    [
        pa.field("pair_id", pa.string(), nullable=False),
        pa.field("perspective", pa.string(), nullable=False),
        pa.field("sample", pa.int32(), nullable=False),
        pa.field("rationale", pa.string(), nullable=False),
        pa.field("verdict", pa.string(), nullable=False),
        pa.field("teacher", pa.string()),
        pa.field("prompt_version", pa.string()),
        pa.field("tokens", pa.int32()),
    ]
)
"""``rationales.parquet``: (pair_id, perspective, sample) is the key."""

PREFERENCES_SCHEMA = pa.schema(
    [
        pa.field("pair_id", pa.string(), nullable=False),
        pa.field("prompt", pa.string(), nullable=False),
        pa.field("chosen", pa.string(), nullable=False),
        pa.field("rejected", pa.string(), nullable=False),
        pa.field("chosen_perspective", pa.string(), nullable=False),
        pa.field("chosen_sample", pa.int32(), nullable=False),
        pa.field("rejected_perspective", pa.string(), nullable=False),
        pa.field("rejected_sample", pa.int32(), nullable=False),
        pa.field("chosen_verdict", pa.string(), nullable=False),
        pa.field("rejected_verdict", pa.string(), nullable=False),
        pa.field("chosen_teacher", pa.string()),
        pa.field("rejected_teacher", pa.string()),
        pa.field("prompt_version", pa.string()),
    ]
)
"""``preferences.parquet``: two rationales of one pair as answers to one prompt, chosen with the gold verdict, rejected
with another. ``prompt`` is the name of a perspective, or of the prompt book's neutral one: the text is rendered from
pair and book when it is used, so both sides have the same prompt. ``prompt_version`` is that of the rationales, null
where they differ."""

SPLITS = ("train", "val", "test")


def normalise_query(query: str) -> str:
    """The form under which two queries count as the same: NFKC, case-folded, white space folded, no outer punctuation.

    >>> normalise_query("  Red  SHOES! ")
    'red shoes'
    """
    folded = " ".join(unicodedata.normalize("NFKC", query).casefold().split())
    return re.sub(r"^\W+|\W+$", "", folded) or folded


@dataclass
class StepTotals:
    """What an optimiser step sees in all its batches together: those of every process, and those accumulated.

    The losses are means over the step, so they divide by these totals, which every process knows beforehand.
    """

    labels: Tensor
    """(C,) int64: how many pairs of each label."""
    targets: Tensor
    """() float32: how many targets, each counted with its weight."""
    batches: Tensor
    """() int64: how many batches: processes × accumulated batches."""
    soft_labels: Tensor | None = None
    """() int64: how many pairs with soft labels; None: the data has none."""


@dataclass
class TripleBatch:
    """What the student sees of B pairs: token ids, labels and, where there are any, targets.

    Shapes: B pairs, L tokens (the longest pair of the batch), P targets a pair, R the targets' width.
    """

    row: Tensor
    """(B,) int64: the pair's row in ``pairs.parquet``; identifies it across processes."""
    query: Tensor
    """(B,) int64: the pair's query group, counted by normalised query."""
    ids: Tensor
    """(B, L) int64: token ids."""
    mask: Tensor
    """(B, L) bool: True for a real token."""
    segments: Tensor
    """(B, L) int64: 0 query, 1 item, -1 special token or pad."""
    type_ids: Tensor
    """(B, L) int64: the tokenizer's token type ids (all 0 for encoders that have none)."""
    label: Tensor
    """(B,) int64: class index, -1 where the label is unknown or the pair stands in for a process without one."""
    targets: Tensor | None = None
    """(B, P, R) float: unit-length targets; 0 where there is none."""
    target_mask: Tensor | None = None
    """(B, P) bool: True where the pair has that target."""
    target_weight: Tensor | None = None
    """(B, P) float: how much each target counts in the guidance's mean, 0 where there is none; None: all alike."""
    negatives: Tensor | None = None
    """(B, P, K, R) float: what each latent is to be told apart from beside the batch's targets; 0 where none is."""
    negative_mask: Tensor | None = None
    """(B, P, K) bool: True where there is that negative."""
    soft_label: Tensor | None = None
    """(B, C) float: a teacher's probability of each label; 0 where there is none."""
    soft_mask: Tensor | None = None
    """(B,) bool: True where the pair has soft labels."""
    step: StepTotals | None = None
    """The optimiser step that this batch is a part of; None: the batch is all of it."""
