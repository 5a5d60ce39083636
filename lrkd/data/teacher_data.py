"""What the teacher's data modules share: pairs as prompts, for judging and for writing rationales."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from lightning.pytorch.utilities.types import EVAL_DATALOADERS
from torch.utils.data import DataLoader, Dataset

from lrkd.data.inputs import Input
from lrkd.data.loader import ResumableDataModule
from lrkd.data.pairs import file_fingerprint, pairs_path
from lrkd.data.prompted_pairs import PairText, PromptedPairs
from lrkd.data.sampler import BatchRequest
from lrkd.data.types import SPLITS, ItemText, LabelSet
from lrkd.errors import UserError
from lrkd.generation.jobs import Job, Key, Sampling
from lrkd.pretrained import load_tokenizer
from lrkd.prompts.book import PromptBook

Split = Literal["train", "val", "test", "all", "held_out"]


@dataclass
class PromptBatch:
    """Pairs to ask a teacher about."""

    split: str
    """Whose pairs they are."""
    rows: dict[str, int]
    """B rows of ``pairs.parquet`` by pair_id; none where they are another process's."""
    jobs: list[Job]
    """Every prompt of every row."""
    sampling: Sampling
    """How to answer."""


class PromptDataset(Dataset[PromptBatch]):
    """Some rows' prompts. An index is a :class:`BatchRequest`; an element is a whole batch.

    Args:
        split: What the rows are called.
        rows: (N,) rows of ``pairs.parquet``.
        pairs: The root's pairs.
        perspectives: From which each is judged.
        samples: Completions a prompt.
        sampling: How to answer.
    """

    def __init__(
        self,
        split: str,
        rows: np.ndarray,
        pairs: PromptedPairs,
        perspectives: Sequence[str],
        samples: int,
        sampling: Sampling,
    ) -> None:
        self.split, self.rows, self.pairs = split, rows, pairs
        self.perspectives, self.samples, self.sampling = perspectives, samples, sampling

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, request: BatchRequest) -> PromptBatch:
        rows = [] if request.repeated else self.rows[request.rows].tolist()
        pair_ids = self.pairs.table["pair_id"].take(pa.array(rows, pa.int64())).to_pylist()
        jobs = [job for row, pair_id in zip(rows, pair_ids, strict=True) for job in self._jobs(row, pair_id)]
        return PromptBatch(self.split, dict(zip(pair_ids, rows, strict=True)), jobs, self.sampling)

    def _jobs(self, row: int, pair_id: str) -> list[Job]:
        prompts = zip(self.perspectives, self.pairs.prompts(row, self.perspectives), strict=True)
        return [Job(Key(pair_id, name, n), prompt) for name, prompt in prompts for n in range(self.samples)]


class TeacherDataModule(ResumableDataModule):
    """Pairs with the prompts of a book. Its subclasses add what a teacher learns from.

    In ``fit``, a capped sample of validation pairs, and as many training pairs (so that memorisation shows), are judged
    from every perspective and by the neutral prompt, with greedy decoding; in ``validate`` and ``test`` the whole
    split is. ``predict`` writes ``samples`` rationales a prompt with ``sampling``.

    Args:
        root: The data root: a folder with ``pairs.parquet``. May be read-only.
        model: The teacher, for its tokenizer; the command line sets it from the model.
        prompts: A shipped prompt book's name, or a YAML file.
        label_set: ``esci``, ``wands``, or a YAML file with name, labels and gains.
        fold: Test on this fold of the ``fold`` column and validate on a seeded part of the other queries; by default
            the ``split`` column decides.
        val_fraction: With ``fold``: the share of the other queries that validates.
        split_seed: With ``fold``: which queries these are.
        crossfit_part: In cross-fitting: which part of the training queries does not train, from 0; the split
            ``held_out`` is its pairs.
        crossfit_parts: In cross-fitting: how many parts there are.
        item_text: Template of the item's text over title, description, brand, color, bullets, category.
        item_chars: Characters of the item's text at most.
        judged_pairs: How many validation and how many training pairs are judged in ``fit``.
        judged_tokens: Tokens of a judgement at most; one that needs more has no verdict.
        predict_split: Which pairs ``predict`` writes rationales for.
        predict_perspectives: From which perspectives; all of the book's, without the neutral one, by default.
        samples: In ``predict``: rationales a prompt.
        sampling: In ``predict``: how tokens are chosen.
        predict_out: Where ``predict`` writes; by default ``rationales`` in the run's folder.
        batch_size: Pairs a process and optimiser step.
        eval_batch_size: Pairs a process whose prompts are answered together.
        num_workers: Processes that make batches.
        seed: Of shuffling and sampling.

    Raises:
        UserError: An argument is out of range, or, in ``setup``, something is wrong with the files.
    """

    def __init__(
        self,
        root: str,
        model: str,
        *,
        prompts: str = "esci",
        label_set: str = "esci",
        fold: int | None = None,
        val_fraction: float = 0.1,
        split_seed: int = 0,
        crossfit_part: int | None = None,
        crossfit_parts: int = 3,
        item_text: str = "{title}",
        item_chars: int = 1000,
        judged_pairs: int = 64,
        judged_tokens: int = 192,
        predict_split: Split = "all",
        predict_perspectives: list[str] | None = None,
        samples: int = 1,
        sampling: Sampling | None = None,
        predict_out: str | None = None,
        batch_size: int = 8,
        eval_batch_size: int = 32,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(root, seed, num_workers)
        if not 0 < val_fraction < 1:
            raise UserError(f"val_fraction is between 0 and 1, got {val_fraction}")
        for name, value in (
            ("batch_size", batch_size),
            ("eval_batch_size", eval_batch_size),
            ("judged_pairs", judged_pairs),
            ("samples", samples),
        ):
            if value < 1:
                raise UserError(f"{name} is at least 1, got {value}")
        self.root, self.model, self.fold, self.val_fraction, self.split_seed = (
            root, model, fold, val_fraction, split_seed,
        )  # fmt: skip
        if crossfit_part is not None and not 0 <= crossfit_part < crossfit_parts:
            raise UserError(
                f"crossfit_part is 0 to {crossfit_parts - 1} of crossfit_parts {crossfit_parts}, got {crossfit_part}"
            )
        if predict_split == "held_out" and crossfit_part is None:
            raise UserError("predict_split held_out is the pairs of crossfit_part, which is not given")
        self._crossfit = (crossfit_part, crossfit_parts) if crossfit_part is not None else None
        self._pair_text = PairText(ItemText(item_text), item_chars)
        self.judged_pairs, self.judging = judged_pairs, Sampling(max_new_tokens=judged_tokens)
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        self._labels, self.book = LabelSet.load(label_set), PromptBook.load(prompts)
        self.predict_split, self.samples, self.sampling = predict_split, samples, sampling or Sampling(seed=seed)
        self.predict_out = predict_out
        self.predict_perspectives = predict_perspectives or [p.name for p in self.book.perspectives]
        for name in self.predict_perspectives:
            self.book.perspective(name)
        if samples > 1 and self.sampling.temperature == 0:
            raise UserError("samples: greedy decoding gives the same sample again; set sampling.temperature above 0")

    # What the model is told (see lrkd.cli): links read these right after __init__.

    @property
    def label_set(self) -> dict[str, Any]:
        """The label set in plain types."""
        return self._labels.to_dict()

    @property
    def prompts(self) -> str:
        """The prompt book as JSON; a checkpoint keeps it."""
        return self.book.to_json()

    @property
    def text(self) -> dict[str, Any]:
        """How a pair becomes text; a checkpoint keeps it."""
        return self._pair_text.to_dict()

    def setup(self, stage: str) -> None:
        """Read the pairs, check them against the model, and lay out what ``stage`` needs."""
        if self.trainer is not None and self.trainer.lightning_module is not None:
            check = getattr(self.trainer.lightning_module, "check_data", None)
            if check is not None:
                check(self, stage)
        self.pairs = PromptedPairs(
            self.root,
            self._pair_text,
            self.book,
            load_tokenizer(self.model),
            self._labels,
            fold=self.fold,
            val_fraction=self.val_fraction,
            split_seed=self.split_seed,
            crossfit=self._crossfit,
        )
        label = self.pairs.label[self.pairs.rows["train"]]
        self.label_counts = np.bincount(label[label >= 0], minlength=len(self._labels))
        """(C,) training pairs of each label."""

    def labelled(self, split: str) -> np.ndarray:
        """The labelled rows of a split.

        Raises:
            UserError: There are none.
        """
        rows = self.pairs.rows[split]
        rows = rows[self.pairs.label[rows] >= 0]
        if not len(rows):
            raise UserError(
                f"{pairs_path(self.root)}: no labelled pair in split {split!r} "
                f"({'fold ' + str(self.fold) if self.fold is not None else 'column split'}); "
                "see `python -m lrkd data split`"
            )
        return np.asarray(rows)

    def describe(self) -> dict[str, Any]:
        """What is known of the data after ``setup``: for records and logs."""
        rows = self.pairs.rows
        some = rows["all"][:: max(1, len(rows["all"]) // 1000)]
        return {
            "pairs": {split: len(rows[split]) for split in SPLITS},
            "query_cut_rate": 0.0,  # a teacher's query is never cut
            "item_cut_rate": float((self.pairs.tokens_cut(some) > 0).mean()),
            "prompt_version": self.book.version,
        }

    def summary(self) -> list[str]:
        """A line on the prompts."""
        names = ", ".join(perspective.name for perspective in self.book.perspectives)
        return [f"prompts {self.book.version}: {names}, and {self.book.neutral.name}"]

    def inputs(self) -> list[Input]:
        """The pairs."""
        metadata = {"sha256": self.fingerprint()["pairs"], "rows": self.pairs.table.num_rows}
        return [Input("pairs", [pairs_path(self.root)], metadata | {"label_set": self._labels.name})]

    def fingerprint(self) -> dict[str, str]:
        """The pairs' bytes, and the prompts' version."""
        return {"pairs": file_fingerprint(pairs_path(self.root)), "prompts": self.book.version}

    def transfer_batch_to_device(self, batch: Any, device: Any, dataloader_idx: int) -> Any:
        """Batches hold ids of any number of micro-batches: the model makes tensors of them where it is."""
        return batch

    # Judging and writing

    def judged(self, split: str) -> np.ndarray:
        """Which rows of a split can be judged in ``fit``."""
        return self.labelled(split)

    def _sampled(self, rows: np.ndarray) -> np.ndarray:
        """At most ``judged_pairs`` of some rows, by seed alone."""
        order = np.random.default_rng(self.split_seed).permutation(len(rows))[: self.judged_pairs]
        return np.asarray(rows[np.sort(order)])

    def _judging(self, split: str, rows: np.ndarray) -> DataLoader[PromptBatch]:
        every = [perspective.name for perspective in self.book.every]
        return self._prompting(PromptDataset(split, rows, self.pairs, every, 1, self.judging))

    def _prompting(self, dataset: PromptDataset) -> DataLoader[PromptBatch]:
        size = np.array([len(text) for _, text in self.pairs.texts(dataset.rows)] if len(dataset) else [], np.int64)
        return self.loader(dataset, size, self.eval_batch_size, train=False)

    def val_dataloader(self) -> EVAL_DATALOADERS:
        """Pairs to judge: in ``fit`` a sample of validation and training pairs, else the whole validation split."""
        if self.trainer is not None and self.trainer.state.fn == "fit":
            return [self._judging(split, self._sampled(self.judged(split))) for split in ("val", "train")]
        return [self._judging("val", self.labelled("val"))]

    def test_dataloader(self) -> EVAL_DATALOADERS:
        """The test pairs, to judge."""
        return [self._judging("test", self.labelled("test"))]

    def predict_dataloader(self) -> DataLoader[PromptBatch]:
        """The pairs of ``predict_split``, to write rationales for."""
        rows = self.pairs.rows[self.predict_split]
        names = self.predict_perspectives
        return self._prompting(PromptDataset("predict", rows, self.pairs, names, self.samples, self.sampling))
