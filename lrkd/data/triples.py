"""The student's data: pairs as token batches, with their targets joined by key."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch.utils.data import DataLoader, Dataset

from lrkd.data.inputs import Input
from lrkd.data.loader import ResumableDataModule
from lrkd.data.pairs import file_fingerprint, pairs_path, read_pairs
from lrkd.data.rationales import rationales_path, read_rationales
from lrkd.data.sampler import BatchRequest
from lrkd.data.split_rows import group_queries, split_rows
from lrkd.data.targets import FINGERPRINT, INDEX, VECTORS, Centring, TargetMode, Targets, TargetStore
from lrkd.data.tokens import PairLayout, TokenCache, build_token_cache, load_flat
from lrkd.data.types import SPLITS, ItemText, LabelSet, StepTotals, TripleBatch
from lrkd.errors import UserError
from lrkd.pretrained import resolve

Split = Literal["train", "val", "test", "all"]


class PairDataset(Dataset[TripleBatch]):
    """The pairs of one split. An index is a :class:`BatchRequest`; an element is a whole batch.

    Args:
        rows: (N,) the split's rows in ``pairs.parquet``.
        tokens: The root's tokens.
        label: (all rows,) class index or -1.
        query: (all rows,) query group.
        targets: The root's targets, if there are any.
        num_labels: C.
        seed: Decides which rationale is drawn where one is drawn an epoch.
    """

    def __init__(
        self,
        rows: np.ndarray,
        tokens: TokenCache,
        label: np.ndarray,
        query: np.ndarray,
        targets: Targets | None,
        num_labels: int,
        seed: int,
    ) -> None:
        self.rows, self.tokens, self.label, self.query, self.targets, self.num_labels, self.seed = (
            rows, tokens, label, query, targets, num_labels, seed,
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, request: BatchRequest) -> TripleBatch:
        rows = self.rows[request.rows]
        made = {name: torch.from_numpy(array) for name, array in self.tokens.batch(rows).items()}
        batch = TripleBatch(
            row=torch.from_numpy(rows),
            query=torch.from_numpy(self.query[rows]),
            label=torch.from_numpy(np.where(request.repeated, -1, self.label[rows])),
            step=self._totals(self.rows[request.step_rows], request.step_batches),
            **made,
        )
        if self.targets is not None:
            targets, mask = self.targets.batch(rows, request.epoch, self.seed)
            batch.targets, batch.target_mask = (
                torch.from_numpy(targets),
                torch.from_numpy(mask & (not request.repeated)),
            )
        return batch

    def _totals(self, rows: np.ndarray, batches: int) -> StepTotals:
        label = self.label[rows]
        return StepTotals(
            labels=torch.from_numpy(np.bincount(label[label >= 0], minlength=self.num_labels)),
            targets=torch.tensor(int(self.targets.present_of(rows).sum()) if self.targets is not None else 0),
            batches=torch.tensor(batches),
        )


class TripleDataModule(ResumableDataModule):
    """Pairs with their rationales' embeddings (a *triple* here is pair + rationale, not query–positive–negative).

    The query comes first and is cut at ``query_cap`` tokens of its own; the item's text fills what ``max_length``
    leaves. Pairs are tokenised once into a cache and batched by length. Targets are joined by pair_id; a pair without
    a rationale trains all the same. Outside ``fit`` neither rationales nor targets are looked at.

    Args:
        root: The data root: a folder with ``pairs.parquet``. May be read-only.
        encoder: The student's encoder, for its tokenizer; the command line sets it from the model.
        targets: The target store that ``rationales embed`` made; none: the student trains on labels alone.
        label_set: ``esci``, ``wands``, or a YAML file with name, labels and gains.
        fold: Test on this fold of the ``fold`` column and validate on a seeded part of the other queries; by default
            the ``split`` column decides.
        val_fraction: With ``fold``: the share of the other queries that validates.
        split_seed: With ``fold``: which queries these are.
        predict_split: Which pairs ``predict`` scores.
        item_text: Template of the item's text over title, description, brand, color, bullets, category.
        max_length: Tokens a pair at most.
        query_cap: Tokens a query at most; longer queries are cut there.
        target_mode: ``unified``: one target a pair, the mean of its rationales; ``sampled``: one rationale drawn an
            epoch; ``per_perspective``: one target (and one latent) a perspective.
        consistent: Use only rationales whose verdict is the gold label (the consistency filter).
        centring: Subtract from targets the mean of the training pairs (``global``) or of the query's pairs (``query``).
        batch_size: Pairs a process and step.
        eval_batch_size: The same outside training; twice ``batch_size`` by default.
        num_workers: Processes that make batches; making one is fast, so 0 usually serves.
        cache_dir: Where token caches go.
        seed: Of shuffling and of drawing rationales.

    Raises:
        UserError: An argument is out of range, or, in ``setup``, something is wrong with the files.
    """

    def __init__(
        self,
        root: str,
        encoder: str,
        *,
        targets: str | None = None,
        label_set: str = "esci",
        fold: int | None = None,
        val_fraction: float = 0.1,
        split_seed: int = 0,
        predict_split: Split = "all",
        item_text: str = "{title}",
        max_length: int = 128,
        query_cap: int = 32,
        target_mode: TargetMode = "unified",
        consistent: bool = True,
        centring: Centring = "none",
        batch_size: int = 32,
        eval_batch_size: int | None = None,
        num_workers: int = 0,
        cache_dir: str = "runs/cache",
        seed: int = 0,
    ) -> None:
        super().__init__(f"{root} and {targets}", seed, num_workers)
        if not 0 < val_fraction < 1:
            raise UserError(f"val_fraction is between 0 and 1, got {val_fraction}")
        if batch_size < 1 or (eval_batch_size is not None and eval_batch_size < 1):
            raise UserError(f"batch_size and eval_batch_size are at least 1, got {batch_size} and {eval_batch_size}")
        self.root, self.encoder, self.targets, self.fold, self.val_fraction = root, encoder, targets, fold, val_fraction
        self.split_seed, self.predict_split, self.cache_dir = split_seed, predict_split, cache_dir
        self.item_text, self.max_length, self.query_cap = ItemText(item_text), max_length, query_cap
        self.target_mode, self.consistent, self.centring = target_mode, consistent, centring
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size or 2 * batch_size
        self._labels = LabelSet.load(label_set)
        self._store = TargetStore.open(targets) if targets is not None and Path(targets).is_dir() else None
        self._dataset: dict[str, PairDataset] = {}

    # What the model is told (see lrkd.cli): links read these right after __init__, before any file of pairs is read.

    @property
    def label_set(self) -> dict[str, Any]:
        """The label set in plain types."""
        return self._labels.to_dict()

    @property
    def target_size(self) -> int | None:
        """R, the targets' width; None without a target store.

        Raises:
            UserError: ``targets`` names no store.
        """
        return TargetStore.open(self.targets).width if self.targets is not None else None

    @property
    def num_perspectives(self) -> int:
        """P, the targets (and latents) a pair."""
        if self.target_mode != "per_perspective" or self._store is None:
            return 1
        return len(pc.unique(self._store.index["perspective"]))

    @property
    def text(self) -> dict[str, Any]:
        """How a pair becomes text; a checkpoint keeps it."""
        return {"item_text": self.item_text.template, "max_length": self.max_length, "query_cap": self.query_cap}

    def prepare_data(self) -> None:
        """Tokenise into the cache, on one process."""
        build_token_cache(self.root, self._tokenizer(), self.item_text, self.cache_dir)

    def _tokenizer(self) -> Any:
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(resolve(self.encoder))

    def setup(self, stage: str) -> None:
        """Read the pairs, check them against the model, and lay out the splits that ``stage`` needs."""
        if self.trainer is not None and self.trainer.lightning_module is not None:
            check = getattr(self.trainer.lightning_module, "check_data", None)
            if check is not None:
                check(self, stage)
        splits: dict[str, list[Split]] = {
            "fit": ["train", "val"],
            "validate": ["val"],
            "test": ["test"],
            "predict": [self.predict_split],
        }
        self._read(stage, splits[stage])

    def _read(self, stage: str, splits: list[Split]) -> None:
        columns = ["pair_id", "query_id", "query", "label", "fold" if self.fold is not None else "split"]
        self.pairs = read_pairs(self.root, columns=columns, labels=self._labels)
        label = pc.index_in(self.pairs["label"], value_set=pa.array(self._labels.labels))
        label = label.fill_null(-1).to_numpy().astype(np.int64)
        query = group_queries(self.pairs["query"])
        self._rows = split_rows(
            self.pairs, query, self.root, fold=self.fold, val_fraction=self.val_fraction, seed=self.split_seed
        )
        self.tokens = self._token_cache()
        known = self._rows["train"][label[self._rows["train"]] >= 0]
        self.label_counts = np.bincount(label[known], minlength=len(self._labels))
        targets = self._join_targets(known, query) if stage == "fit" else None
        for split in splits:
            rows = self._rows[split]
            if split in ("train", "val", "test"):
                rows = rows[label[rows] >= 0]  # a pair without a label teaches and measures nothing here
            if not len(rows) and split != "all":
                raise UserError(
                    f"{pairs_path(self.root)}: no labelled pair in split {split!r} "
                    f"({'fold ' + str(self.fold) if self.fold is not None else 'column split'}); "
                    "see `python -m lrkd data split`"
                )
            self._dataset[split] = PairDataset(rows, self.tokens, label, query, targets, len(self._labels), self.seed)

    def _token_cache(self) -> TokenCache:
        tokenizer = self._tokenizer()
        if self.max_length > tokenizer.model_max_length:
            raise UserError(f"max_length {self.max_length}: {self.encoder} takes {tokenizer.model_max_length} tokens")
        folder = build_token_cache(self.root, tokenizer, self.item_text, self.cache_dir)
        return TokenCache(
            load_flat(folder, "query"),
            load_flat(folder, "item"),
            PairLayout.of(tokenizer),
            self.max_length,
            self.query_cap,
        )

    def _join_targets(self, fit_rows: np.ndarray, query: np.ndarray) -> Targets | None:
        if self.targets is None:
            return None
        store = self._store or TargetStore.open(self.targets)
        if rationales_path(self.root).is_file():
            store.check_rationales(read_rationales(self.root, labels=self._labels), self.targets)
        targets = Targets(
            store,
            self.pairs["pair_id"].combine_chunks(),
            self.pairs["label"].combine_chunks(),
            query,
            fit_rows,
            mode=self.target_mode,
            consistent=self.consistent,
            centring=self.centring,
        )
        if not targets.present[fit_rows].any():
            raise UserError(
                f"{self.targets}: none of its {store.index.num_rows} rationales belongs to a training pair of "
                f"{pairs_path(self.root)}{' with the verdict that is gold' if self.consistent else ''}"
            )
        return targets

    def rows(self, split: Split) -> np.ndarray:
        """The rows (N,) of a split in ``pairs.parquet``, labelled or not; after ``setup``."""
        return self._rows[split]

    @property
    def training_targets(self) -> Targets | None:
        """What training draws the latents to; after ``setup("fit")``."""
        return self._dataset["train"].targets

    def describe(self) -> dict[str, Any]:
        """What is known of the data after ``setup``: counts, truncation rates, targets. For records and logs."""
        cut_query, cut_item = self.tokens.cut
        used = np.concatenate([dataset.rows for dataset in self._dataset.values()])
        targets = next(iter(self._dataset.values())).targets
        return {
            "pairs": {split: len(self._rows[split]) for split in SPLITS},
            "query_cut_rate": float((cut_query[used] > 0).mean()) if len(used) else 0.0,
            "item_cut_rate": float((cut_item[used] > 0).mean()) if len(used) else 0.0,
            "targets": targets.summary() if targets else None,
        }

    def summary(self) -> list[str]:
        """A line on the targets, if there are any."""
        targets = self.describe()["targets"]
        if not targets:
            return []
        return [
            f"{targets['used']:,} of {targets['rationales']:,} rationales used "
            f"({', '.join(targets['perspectives'])}); {targets['training_pairs_with_target']:,} training pairs "
            "have a target, the others train on their label alone"
        ]

    def inputs(self) -> list[Input]:
        """The pairs; the rationales and the target store, where it learns from more than labels.

        Rationales that are no longer there are left out: the store's metadata has their digest all the same.
        """
        digest = self.fingerprint()["pairs"]
        pairs = {"sha256": digest, "rows": self.pairs.num_rows, "label_set": self._labels.name}
        inputs = [Input("pairs", [pairs_path(self.root)], pairs)]
        if self.targets is None:
            return inputs
        store = self._store or TargetStore.open(self.targets)
        if rationales_path(self.root).is_file():
            names = sorted(set(store.index["perspective"].to_pylist()))
            metadata = {"digest": store.fingerprint.rationales, "rows": store.index.num_rows, "perspectives": names}
            inputs.append(Input("rationales", [rationales_path(self.root)], metadata | {"made from pairs": digest}))
        files = [Path(self.targets) / name for name in (FINGERPRINT, INDEX, VECTORS)]
        fingerprint = asdict(store.fingerprint)
        made_from = {"made from rationales": fingerprint.pop("rationales"), "width": store.width}
        return [*inputs, Input("targets", files, made_from | fingerprint)]

    def fingerprint(self) -> dict[str, str]:
        """What a training depends on: the pairs' bytes and, if there are targets, the rationales' digest."""
        fingerprint = {"pairs": file_fingerprint(pairs_path(self.root))}
        if self.targets is not None:
            store = self._store or TargetStore.open(self.targets)
            made = store.fingerprint
            fingerprint |= {"rationales": made.rationales, "target_weights": made.weights}
            fingerprint |= {"target_settings": made.settings}
        return fingerprint

    def _loader(self, split: Split, *, train: bool = False) -> DataLoader[TripleBatch]:
        dataset = self._dataset[split]
        size = self.batch_size if train else self.eval_batch_size
        return self.loader(dataset, self.tokens.lengths[dataset.rows], size, train=train)

    def train_dataloader(self) -> DataLoader[TripleBatch]:
        """Shuffled batches of like length."""
        return self._loader("train", train=True)

    def val_dataloader(self) -> DataLoader[TripleBatch]:
        """Every validation pair once."""
        return self._loader("val")

    def test_dataloader(self) -> DataLoader[TripleBatch]:
        """Every test pair once."""
        return self._loader("test")

    def predict_dataloader(self) -> DataLoader[TripleBatch]:
        """Every pair of ``predict_split`` once, labelled or not."""
        return self._loader(self.predict_split)
