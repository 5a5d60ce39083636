"""A teacher judges pairs: what it answered, on all processes, what that is worth, and as a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import torch

from lrkd.data.teacher_data import PromptBatch, TeacherDataModule
from lrkd.data.types import LabelSet
from lrkd.distributed import gather_objects
from lrkd.generation.jobs import Completion
from lrkd.metrics import Predicted, relevance_metrics
from lrkd.prompts.book import PromptBook
from lrkd.prompts.verdict import parse_answer
from lrkd.teacher.judgements import Judgement, judgement_metrics, shares, verdicts

PREFIXES = {"val": "val", "test": "test", "train": "seen"}
"""What the metrics of a split's judgements begin with."""


@dataclass
class Judging:
    """Collects a teacher's answers until an epoch ends.

    Args:
        book: The prompt book.
        labels: The label set.
    """

    book: PromptBook
    labels: LabelSet
    judgements: list[Judgement] = field(default_factory=list)
    """Of the last epoch that ended, on every process: those of all."""
    _answers: list[Judgement] = field(default_factory=list)

    @property
    def voting(self) -> list[str]:
        """The perspectives whose verdicts are votes: all but the neutral one."""
        return [perspective.name for perspective in self.book.perspectives]

    def add(self, batch: PromptBatch, done: Completion) -> None:
        """Read an answer to one of a batch's prompts."""
        answer = parse_answer(done.text, self.labels.labels, self.book.answer, finished=done.finished)
        row, perspective = batch.rows[done.key.pair_id], done.key.perspective
        self._answers.append(Judgement(batch.split, row, perspective, done.text, answer.verdict, answer.failure))

    def end(self, data: TeacherDataModule, majority: int) -> dict[str, float]:
        """End an epoch: gather the answers of all processes.

        Args:
            data: Where the pairs are from.
            majority: The most frequent training label's place.

        Returns:
            The metrics of each split that was judged, by name with the split's prefix.
        """
        self.judgements = [judgement for part in gather_objects(self._answers) for judgement in part]
        self._answers = []
        metrics: dict[str, float] = {}
        for split, prefix in PREFIXES.items():
            judged = [judgement for judgement in self.judgements if judgement.split == split]
            if judged:
                metrics |= {f"{prefix}/{k}": v for k, v in self._metrics(judged, data, majority).items()}
        return metrics

    def _metrics(self, judged: Sequence[Judgement], data: TeacherDataModule, majority: int) -> dict[str, float]:
        rows, found = verdicts(judged, self.voting, self.labels)
        logits = torch.from_numpy(np.log(shares(found, len(self.labels)))).float()
        gold, query = torch.from_numpy(data.pairs.label[rows]), torch.from_numpy(data.pairs.query[rows])
        predicted = Predicted(torch.from_numpy(rows), query, gold, logits)
        of_shares = relevance_metrics(predicted, self.labels, 1.0, majority)
        # Last, so that accuracy and F1 count an answer without a verdict as wrong, whatever its even shares say.
        strict = judgement_metrics(judged, data.pairs.label, self.voting, self.book.neutral.name, self.labels)
        return {**{name: float(value) for name, value in of_shares.items()}, **strict, "temperature": 1.0}

    def table(self, data: TeacherDataModule) -> pa.Table:
        """One row a judged pair, the training pairs left out.

        The columns are pair_id, query_id, query, label, each label's share of the votes, the tokens cut, and a column
        a perspective (and the neutral prompt) with what was written.
        """
        judged = [judgement for judgement in self.judgements if judgement.split != "train"]
        rows, found = verdicts(judged, self.voting, self.labels)
        table = data.pairs.table.select(["pair_id", "query_id", "query", "label"]).take(pa.array(rows))
        for name, share in zip(self.labels.labels, shares(found, len(self.labels)).T, strict=True):
            table = table.append_column(f"p/{name}", pa.array(share, pa.float32()))
        table = table.append_column("tokens_cut", pa.array(data.pairs.tokens_cut(rows)))
        written = {(judgement.row, judgement.perspective): judgement.text for judgement in judged}
        for perspective in self.book.every:
            texts = pa.array([written.get((row, perspective.name)) for row in rows.tolist()], pa.string())
            table = table.append_column(f"rationale/{perspective.name}", texts)
        return table
