"""The vocabulary: label sets, the schemas on disk, the item's text, and the typed batch that reaches the model.

This module imports neither torch nor lightning, so that the data commands start at once.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from string import Formatter
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import yaml

from lrkd.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

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

ITEM_FIELDS = ("title", "description", "brand", "color", "bullets", "category")
"""The columns that an item-text template may name."""

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class LabelSet:
    """The relevance labels of a data set, best first, with the gain that each is worth in NDCG.

    Args:
        name: What the set is called, e.g. ``esci``.
        labels: The C label names in order; a label's place is its class index.
        gains: One gain a label (C), at least 0.

    Raises:
        UserError: Fewer than two labels, a repeated name, or gains that do not match the labels.
    """

    name: str
    labels: tuple[str, ...]
    gains: tuple[float, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "labels", tuple(self.labels))
        object.__setattr__(self, "gains", tuple(float(gain) for gain in self.gains))
        if len(self.labels) < 2 or len(set(self.labels)) != len(self.labels):
            raise UserError(f"label set {self.name!r}: wants two or more different labels, has {list(self.labels)}")
        if len(self.gains) != len(self.labels):
            raise UserError(f"label set {self.name!r}: {len(self.labels)} labels but {len(self.gains)} gains")
        if not all(0 <= gain < float("inf") for gain in self.gains):
            raise UserError(f"label set {self.name!r}: gains must be finite and at least 0, got {list(self.gains)}")

    def __len__(self) -> int:
        return len(self.labels)

    def to_dict(self) -> dict[str, Any]:
        """Plain types, as kept in checkpoints and ``run.json``."""
        return {"name": self.name, "labels": list(self.labels), "gains": list(self.gains)}

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> LabelSet:
        """The inverse of :meth:`to_dict`.

        Raises:
            UserError: A key is missing or unknown.
        """
        if not isinstance(value, dict) or set(value) != {"name", "labels", "gains"}:
            raise UserError(f"a label set has the keys name, labels and gains, got {value!r}")
        return cls(value["name"], tuple(value["labels"]), tuple(value["gains"]))

    @classmethod
    def load(cls, name: str) -> LabelSet:
        """A shipped label set by name, or a user's own from a YAML file with the keys name, labels, gains.

        Raises:
            UserError: Neither a shipped name nor a readable file.
        """
        if name in LABEL_SETS:
            return LABEL_SETS[name]
        if not Path(name).is_file():
            raise UserError(f"label set {name!r} is neither one of {sorted(LABEL_SETS)} nor a YAML file")
        try:
            return cls.from_dict(yaml.safe_load(Path(name).read_text(encoding="utf-8")))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise UserError(f"{name}: not a readable YAML file: {error}") from error


LABEL_SETS = {
    "esci": LabelSet("esci", ("Exact", "Substitute", "Complement", "Irrelevant"), (1.0, 0.1, 0.01, 0.0)),
    "wands": LabelSet("wands", ("Exact", "Partial", "Irrelevant"), (1.0, 0.5, 0.0)),
}
"""Shipped label sets. ESCI's gains are those of its ranking task (Reddy et al. 2022, arXiv 2206.06588, section 4);
WANDS gives no gains with its three grades: 1, 0.5, 0 are ours."""


@dataclass(frozen=True)
class ItemText:
    """The template that makes an item's text from its fields, e.g. ``"{title} {brand}"``.

    Args:
        template: A format string over the columns of :data:`ITEM_FIELDS`. Missing fields are empty; white space is
            folded afterwards.

    Raises:
        UserError: The template names no field or an unknown one.
    """

    template: str = "{title}"

    def __post_init__(self) -> None:
        try:
            fields = set(self.fields)
        except ValueError as error:
            raise UserError(f"item text template {self.template!r}: {error}") from error
        if not fields or not fields <= set(ITEM_FIELDS):
            raise UserError(
                f"item text template {self.template!r}: names {sorted(fields - set(ITEM_FIELDS)) or 'no field'}; "
                f"the fields are {', '.join(ITEM_FIELDS)}"
            )

    @property
    def fields(self) -> tuple[str, ...]:
        """The columns that the template names, each once, in order."""
        return tuple(dict.fromkeys(name for _, name, _, _ in Formatter().parse(self.template) if name is not None))

    def render(self, item: dict[str, Any]) -> str:
        """One item's text."""
        values = {name: item.get(name) for name in self.fields}
        text = {name: " > ".join(v) if isinstance(v, list | tuple) else str(v or "") for name, v in values.items()}
        return " ".join(self.template.format(**text).split())


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
