"""TeacherSFT's data: rationales as completions of their prompts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from lightning.pytorch.utilities.types import EVAL_DATALOADERS
from torch.utils.data import DataLoader, Dataset

from lrkd.data.inputs import Input
from lrkd.data.pairs import file_fingerprint, table_file
from lrkd.data.prefix_tree import PrefixTree, grow
from lrkd.data.prompted_pairs import PromptedPairs
from lrkd.data.rationales import read_rationales_file
from lrkd.data.sampler import BatchRequest
from lrkd.data.teacher_data import TeacherDataModule
from lrkd.data.types import RATIONALES_FILE
from lrkd.errors import UserError


@dataclass
class CompletionBatch:
    """B pairs with their completions."""

    rows: list[int]
    """B rows of ``pairs.parquet``."""
    trees: list[PrefixTree]
    """Each pair's completions over the prefix that their prompts share."""
    repeated: bool
    """Whether the pair stands in for a process without one: it must count nowhere."""


TokenSequence = tuple[list[int], list[int]]
"""Prompt ids and completion ids."""


class Completions:
    """What is learned of each pair: its rationales under their own prompts, and one under the neutral prompt.

    Args:
        rationales: The rationales, in :data:`~lrkd.data.types.RATIONALES_SCHEMA`.
        pairs: The root's pairs.
        perspectives: Whose rationales are used; None: all of the book's.
        consistent: Use only rationales whose verdict is the gold label.
        neutral: Whether a pair has a completion of the neutral prompt, too.
        max_length: Tokens of prompt and completion at most; a rationale that has more is dropped, and counted.
    """

    def __init__(
        self,
        rationales: pa.Table,
        pairs: PromptedPairs,
        *,
        perspectives: Sequence[str] | None,
        consistent: bool,
        neutral: bool,
        max_length: int,
    ) -> None:
        self.pairs, self.neutral, self.max_length = pairs, neutral, max_length
        names = list(perspectives) if perspectives is not None else [p.name for p in pairs.book.perspectives]
        self.counts = {"rationales": rationales.num_rows}
        """What became of the rationales."""
        row = pc.index_in(rationales["pair_id"], value_set=pairs.table["pair_id"].combine_chunks())
        row = row.fill_null(-1).to_numpy()
        wanted = pc.is_in(rationales["perspective"], value_set=pa.array(names)).to_numpy()
        verdict = pc.index_in(rationales["verdict"], value_set=pa.array(pairs.labels.labels)).to_numpy()
        right = (verdict == pairs.label[row]) | (not consistent)
        kept = (row >= 0) & wanted & right
        self.counts |= {
            "pair_unknown": int((row < 0).sum()),
            "other_perspective": int(((row >= 0) & ~wanted).sum()),
            "verdict_not_gold": int(((row >= 0) & wanted & ~right).sum()),
        }
        order = np.lexsort(
            (rationales["sample"].to_numpy(), pc.rank(rationales["perspective"], tiebreaker="dense"), row)
        )
        order = order[kept[order]]
        versions = Counter(rationales["prompt_version"].take(pa.array(order)).to_pylist())
        self.prompt_versions = {version or "unknown": count for version, count in versions.most_common()}
        """From which prompt version those were written that are kept, whatever split their pairs are in."""
        self._table = rationales.select(["perspective", "rationale", "verdict"]).take(pa.array(order))
        self._first = np.searchsorted(row[order], np.arange(pairs.table.num_rows + 1))

    def of(self, row: int) -> list[tuple[str, str]]:
        """A pair's rationales: the perspective, and the text with the verdict's line; by perspective and sample."""
        first, end = self._first[row], self._first[row + 1]
        found = self._table.slice(first, end - first).to_pylist()
        return [(r["perspective"], self.pairs.book.completion(r["rationale"], r["verdict"])) for r in found]

    def usable(self, rows: np.ndarray) -> np.ndarray:
        """Those of some rows that have a completion which fits; what was too long is counted (trap 6).

        Raises:
            UserError: The tokenizer joins prompt and completion (trap 4).
        """
        having = rows[self._first[rows + 1] > self._first[rows]]
        found = (self._first[having + 1] - self._first[having]).sum()
        fitting = [self._encoded(int(row))[0] for row in having]
        used = sum(map(len, fitting))
        tokens = sum(len(completion) for own in fitting for _, completion in own)
        for name, count in {"too_long": int(found) - used, "used": used, "tokens": tokens}.items():
            self.counts[name] = self.counts.get(name, 0) + count
        return np.asarray(having[[bool(own) for own in fitting]])

    def tree(self, row: int, epoch: int) -> PrefixTree:
        """What is learned of a pair in an epoch.

        Under the neutral prompt that is one of the pair's rationales, another one each epoch in turn.
        """
        own, neutral = self._encoded(row)
        return grow([*own, neutral[(row + epoch) % len(neutral)]] if neutral else own)

    def _encoded(self, row: int) -> tuple[list[TokenSequence], list[TokenSequence]]:
        """Prompt and completion ids of a pair's rationales, under their own and under the neutral prompt."""
        found, ((query, item),) = self.of(row), self.pairs.texts([row])
        own = [self._sequence(query, item, perspective, text) for perspective, text in found]
        name = self.pairs.book.neutral.name
        neutral = [self._sequence(query, item, name, text) for _, text in found] if self.neutral else []
        return [s for s in own if s is not None], [s for s in neutral if s is not None]

    def _sequence(self, query: str, item: str, perspective: str, text: str) -> TokenSequence | None:
        prompt = self.pairs.book.render(query, item, perspective)
        ids, completion = self.pairs.encoder.encode(prompt, text)
        return (ids, completion) if len(ids) + len(completion) <= self.max_length else None


class CompletionDataset(Dataset[CompletionBatch]):
    """Some rows' completions. An index is a :class:`BatchRequest`; an element is a whole batch.

    Args:
        rows: (N,) rows of ``pairs.parquet``.
        completions: What is learned of them.
    """

    def __init__(self, rows: np.ndarray, completions: Completions) -> None:
        self.rows, self.completions = rows, completions

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, request: BatchRequest) -> CompletionBatch:
        rows = self.rows[request.rows].tolist()
        return CompletionBatch(rows, [self.completions.tree(row, request.epoch) for row in rows], request.repeated)


class CompletionDataModule(TeacherDataModule):
    """Rationales as completions of their prompts, all perspectives together (arXiv 2601.21611, TeacherSFT).

    Args:
        root: See :class:`~lrkd.data.teacher_data.TeacherDataModule`, as for all that is not here.
        model: See there.
        rationales: The rationales to learn: a folder with ``rationales.parquet``, or a file; by default ``root``'s.
        perspectives: Whose rationales are learned; all of the book's by default.
        consistent: Learn only rationales whose verdict is the gold label (the consistency filter).
        neutral: Whether a pair's rationales are learned under the neutral prompt, too: one of them, in turn, an epoch.
        max_length: Tokens of prompt and completion at most; rationales that have more are dropped, and counted.
        **settings: See :class:`~lrkd.data.teacher_data.TeacherDataModule`.

    Raises:
        UserError: See there; or no rationale is left to learn.
    """

    def __init__(
        self,
        root: str,
        model: str,
        *,
        rationales: str | None = None,
        perspectives: list[str] | None = None,
        consistent: bool = True,
        neutral: bool = True,
        max_length: int = 1024,
        **settings: Any,
    ) -> None:
        super().__init__(root, model, **settings)
        for name in perspectives or []:
            self.book.perspective(name)
        self.rationales = table_file(Path(rationales or root), RATIONALES_FILE)
        self.perspectives, self.consistent, self.neutral, self.max_length = (
            perspectives,
            consistent,
            neutral,
            max_length,
        )

    def setup(self, stage: str) -> None:
        """In ``fit``, join rationales to their pairs."""
        super().setup(stage)
        if stage != "fit":
            return
        self.completions = Completions(
            read_rationales_file(self.rationales, labels=self._labels),
            self.pairs,
            perspectives=self.perspectives,
            consistent=self.consistent,
            neutral=self.neutral,
            max_length=self.max_length,
        )
        self._dataset = {
            split: CompletionDataset(self.completions.usable(self.labelled(split)), self.completions)
            for split in ("train", "val")
        }
        if not len(self._dataset["train"]):
            raise UserError(
                f"{self.rationales}: no rationale to learn for the training pairs of {self.root}: "
                f"{self.completions.counts}"
            )

    def describe(self) -> dict[str, Any]:
        """What became of the rationales, too."""
        if not hasattr(self, "completions"):
            return super().describe()
        learned = {"completions": self.completions.counts, "written_from": self.completions.prompt_versions}
        return super().describe() | learned

    def summary(self) -> list[str]:
        """What became of the rationales, too."""
        c, pairs = self.completions.counts, {split: len(dataset) for split, dataset in self._dataset.items()}
        return [
            *super().summary(),
            f"{c['used']:,} of {c['rationales']:,} rationales learned or measured, on {pairs['train']:,} train and "
            f"{pairs['val']:,} val pairs ({c['tokens']:,} tokens); left out: {c['verdict_not_gold']:,} whose verdict "
            f"is not gold, {c['too_long']:,} too long, {c['other_perspective']:,} of other perspectives, "
            f"{c['pair_unknown']:,} of unknown pairs; the rest are of other splits",
            f"they were written from the prompts {self._written_from()}",
        ]

    def _written_from(self) -> str:
        own = self.book.version
        return ", ".join(
            f"{version} ({count:,}{', as learned' if version == own else ''})"
            for version, count in self.completions.prompt_versions.items()
        )

    def inputs(self) -> list[Input]:
        """The rationales, too."""
        fingerprint = self.fingerprint()
        metadata = {
            "sha256": fingerprint["rationales"],
            "made from pairs": fingerprint["pairs"],
        } | self.completions.counts
        return [*super().inputs(), Input("rationales", [self.rationales], metadata)]

    def fingerprint(self) -> dict[str, str]:
        """The rationales' bytes, too."""
        return super().fingerprint() | {"rationales": file_fingerprint(self.rationales)}

    def judged(self, split: str) -> np.ndarray:
        """Of the training pairs only those that are learned, so that memorisation shows."""
        return self._dataset["train"].rows if split == "train" else super().judged(split)

    def _learning(self, split: str) -> DataLoader[CompletionBatch]:
        dataset = self._dataset[split]
        size = self.batch_size if split == "train" else self.eval_batch_size
        # A step's pairs are drawn whatever their length: the model cuts a step into micro-batches of like length.
        return self.loader(dataset, np.zeros(len(dataset), np.int64), size, train=split == "train")

    def train_dataloader(self) -> DataLoader[CompletionBatch]:
        """Shuffled pairs with their completions."""
        return self._learning("train")

    def val_dataloader(self) -> EVAL_DATALOADERS:
        """In ``fit`` the validation completions, and pairs to judge; else the pairs to judge alone."""
        judged = super().val_dataloader()
        fit = self.trainer is not None and self.trainer.state.fn == "fit"
        return [self._learning("val"), *judged] if fit and len(self._dataset["val"]) else judged
