"""TeacherDPO's data: pairs of a right and a wrong answer to one prompt."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from torch.utils.data import DataLoader, Dataset

from lrkd.data.inputs import Input
from lrkd.data.pairs import file_fingerprint, table_file
from lrkd.data.preference_pairs import read_preferences, refuse_held_out
from lrkd.data.prefix_tree import PrefixTree, grow
from lrkd.data.prompted_pairs import PromptedPairs
from lrkd.data.sampler import BatchRequest
from lrkd.data.split_rows import training_mask
from lrkd.data.teacher_data import TeacherDataModule
from lrkd.data.types import PREFERENCES_FILE
from lrkd.errors import UserError


@dataclass
class PreferenceBatch:
    """B preference pairs."""

    numbers: list[int]
    """B places in :attr:`Preferences.table`."""
    trees: list[PrefixTree]
    """Each one's prompt, with two branches: chosen and rejected."""
    repeated: bool
    """Whether it stands in for a process without one: it must count nowhere."""
    reference: np.ndarray | None = None
    """(B, 2) the reference's log-probabilities of chosen and rejected, where they were precomputed."""


class Preferences:
    """A root's preference pairs as token sequences.

    Args:
        table: The preference pairs, in :data:`~lrkd.data.types.PREFERENCES_SCHEMA`.
        pairs: The root's pairs.
        max_length: Tokens of prompt and answer at most; preference pairs with a longer side are dropped, and counted.
    """

    def __init__(self, table: pa.Table, pairs: PromptedPairs, max_length: int) -> None:
        self.pairs, self.max_length = pairs, max_length
        row = pc.index_in(table["pair_id"], value_set=pairs.table["pair_id"].combine_chunks()).to_numpy()
        self.table, self.row = table, row.astype(np.int64)
        self.counts = {"preferences": table.num_rows}
        """What became of the preference pairs."""
        fits = np.array([self._fits(number) for number in range(len(self.row))], bool)
        self.counts["too_long"] = int((~fits).sum())
        self.table, self.row = self.table.filter(pa.array(fits)), self.row[fits]

    def sides(self, number: int) -> list[tuple[list[int], list[int]]]:
        """Prompt and completion ids of chosen and rejected; the prompt's are the same (trap 14)."""
        found = self.table.slice(number, 1).to_pylist()[0]
        (prompt,) = self.pairs.prompts(int(self.row[number]), [found["prompt"]])
        book, encoder = self.pairs.book, self.pairs.encoder
        answers = [book.completion(found[side], found[f"{side}_verdict"]) for side in ("chosen", "rejected")]
        return [encoder.encode(prompt, answer) for answer in answers]

    def tree(self, number: int) -> PrefixTree:
        """Chosen and rejected over their prompt."""
        return grow(self.sides(number))

    def _fits(self, number: int) -> bool:
        return all(len(prompt) + len(answer) <= self.max_length for prompt, answer in self.sides(number))

    def of(self, rows: np.ndarray) -> np.ndarray:
        """The places of the preference pairs on some rows of ``pairs.parquet``."""
        return np.flatnonzero(np.isin(self.row, rows))


class PreferenceDataset(Dataset[PreferenceBatch]):
    """Some preference pairs. An index is a :class:`BatchRequest`; an element is a whole batch.

    Args:
        numbers: (N,) places in the table.
        preferences: All preference pairs.
    """

    def __init__(self, numbers: np.ndarray, preferences: Preferences) -> None:
        self.numbers, self.preferences = numbers, preferences
        self.reference: np.ndarray | None = None
        """(all, 2) the reference's log-probabilities, where they were precomputed."""

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, request: BatchRequest) -> PreferenceBatch:
        numbers = self.numbers[request.rows].tolist()
        reference = self.reference[numbers] if self.reference is not None else None
        return PreferenceBatch(numbers, [self.preferences.tree(n) for n in numbers], request.repeated, reference)


class PreferenceDataModule(TeacherDataModule):
    """Preference pairs on training queries (arXiv 2601.21611, TeacherDPO).

    Validation judges pairs; preference pairs of queries that do not train are refused.

    Args:
        root: See :class:`~lrkd.data.teacher_data.TeacherDataModule`, as for all that is not here.
        model: See there.
        preferences: What ``rationales conflicts`` made: a folder with ``preferences.parquet``, or a file.
        max_length: Tokens of prompt and answer at most; preference pairs with a longer side are dropped, and counted.
        **settings: See :class:`~lrkd.data.teacher_data.TeacherDataModule`.

    Raises:
        UserError: See there; or something is wrong with the preference pairs.
    """

    def __init__(self, root: str, model: str, *, preferences: str, max_length: int = 1024, **settings: Any) -> None:
        super().__init__(root, model, **settings)
        self.path, self.max_length = table_file(Path(preferences), PREFERENCES_FILE), max_length
        """The preference pairs' file, and the most tokens of a side."""

    def setup(self, stage: str) -> None:
        """In ``fit``, read the preference pairs and check them against their pairs."""
        super().setup(stage)
        if stage != "fit":
            return
        prompts = [perspective.name for perspective in self.book.every]
        table = read_preferences(self.path, self.pairs.table, self._labels, prompts=prompts)
        rows = self.pairs.rows
        refuse_held_out(table, self.pairs.table, training_mask(rows, self.pairs.query), self.path)
        self.preferences = Preferences(table, self.pairs, self.max_length)
        self._dataset = {"train": PreferenceDataset(self.preferences.of(rows["train"]), self.preferences)}
        if not len(self._dataset["train"]):
            raise UserError(
                f"{self.path}: no preference pair on a training pair of {self.root}: {self.preferences.counts}"
            )

    def use_reference(self, logps: np.ndarray) -> None:
        """Hand out precomputed log-probabilities of the reference with every batch.

        Args:
            logps: (N, 2) of chosen and rejected of every preference pair, summed over tokens.
        """
        for dataset in self._dataset.values():
            dataset.reference = logps

    def describe(self) -> dict[str, Any]:
        """What became of the preference pairs, too."""
        preferences = {"preferences": self.preferences.counts} if hasattr(self, "preferences") else {}
        return super().describe() | preferences

    def summary(self) -> list[str]:
        """What became of the preference pairs, too."""
        c, train = self.preferences.counts, len(self._dataset["train"])
        left_out = f"left out: {c['too_long']:,} too long"
        return [*super().summary(), f"{train:,} of {c['preferences']:,} preference pairs are learned; {left_out}"]

    def inputs(self) -> list[Input]:
        """The preference pairs, too."""
        fingerprint = self.fingerprint()
        metadata = {"sha256": fingerprint["preferences"], "made from pairs": fingerprint["pairs"]}
        return [*super().inputs(), Input("preferences", [self.path], metadata | self.preferences.counts)]

    def fingerprint(self) -> dict[str, str]:
        """The preference pairs' bytes, too."""
        return super().fingerprint() | {"preferences": file_fingerprint(self.path)}

    def train_dataloader(self) -> DataLoader[PreferenceBatch]:
        """Shuffled preference pairs."""
        dataset = self._dataset["train"]
        # A step's pairs are drawn whatever their length: the model cuts a step into micro-batches of like length.
        return self.loader(dataset, np.zeros(len(dataset), np.int64), self.batch_size, train=True)
