"""The pairs of one split as token batches with labels and whatever else they are taught by."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import Dataset

from lrkd.data.negatives import Negatives
from lrkd.data.pair_targets import Targets
from lrkd.data.pair_tokens import TokenCache
from lrkd.data.sampler import BatchRequest
from lrkd.data.soft_labels import SoftLabels
from lrkd.data.types import StepTotals, TripleBatch


@dataclass(frozen=True)
class Teaching:
    """What pairs learn from beside their labels; each may be missing.

    Args:
        targets: Their targets.
        negatives: What contrastive guidance tells them apart from.
        soft_labels: A teacher's probabilities.
    """

    targets: Targets | None = None
    negatives: Negatives | None = None
    soft_labels: SoftLabels | None = None


class PairDataset(Dataset[TripleBatch]):
    """The pairs of one split. An index is a :class:`BatchRequest`; an element is a whole batch.

    Args:
        rows: (N,) the split's rows in ``pairs.parquet``.
        tokens: The root's tokens.
        label: (all rows,) class index or -1.
        query: (all rows,) query group.
        teaching: What else the root's pairs learn from.
        num_labels: C.
        seed: Decides which rationales are drawn where some are drawn an epoch.
    """

    def __init__(
        self,
        rows: np.ndarray,
        tokens: TokenCache,
        label: np.ndarray,
        query: np.ndarray,
        teaching: Teaching,
        num_labels: int,
        seed: int,
    ) -> None:
        self.rows, self.tokens, self.label, self.query, self.teaching, self.num_labels, self.seed = (
            rows, tokens, label, query, teaching, num_labels, seed,
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, request: BatchRequest) -> TripleBatch:
        rows = self.rows[request.rows]
        made = self.tokens.batch(rows) | self._taught(rows, request)
        return TripleBatch(
            row=torch.from_numpy(rows),
            query=torch.from_numpy(self.query[rows]),
            label=torch.from_numpy(np.where(request.repeated, -1, self.label[rows])),
            step=self._totals(self.rows[request.step_rows], request.step_batches),
            **{name: torch.from_numpy(array) for name, array in made.items()},
        )

    def _taught(self, rows: np.ndarray, request: BatchRequest) -> dict[str, np.ndarray]:
        """The batch's fields beyond tokens and labels; a repeated row has none of what they hold."""
        fields: dict[str, np.ndarray] = {}
        teaching, counts = self.teaching, not request.repeated
        if teaching.targets is not None:
            fields["targets"], mask = teaching.targets.batch(rows, request.epoch, self.seed)
            fields["target_mask"] = mask & counts
            if teaching.targets.weighted:
                fields["target_weight"] = teaching.targets.weight_of(rows) * fields["target_mask"]
        if teaching.negatives is not None:
            fields["negatives"], fields["negative_mask"] = teaching.negatives.batch(rows, request.epoch, self.seed)
        if teaching.soft_labels is not None:
            fields["soft_label"] = teaching.soft_labels.probability[rows]
            fields["soft_mask"] = teaching.soft_labels.present_of(rows) & counts
        return fields

    def _totals(self, rows: np.ndarray, batches: int) -> StepTotals:
        label, teaching = self.label[rows], self.teaching
        targets = teaching.targets.weight_of(rows).sum() if teaching.targets is not None else 0
        soft = teaching.soft_labels
        return StepTotals(
            labels=torch.from_numpy(np.bincount(label[label >= 0], minlength=self.num_labels)),
            targets=torch.tensor(float(targets)),
            batches=torch.tensor(batches),
            soft_labels=torch.tensor(int(soft.present_of(rows).sum())) if soft is not None else None,
        )
