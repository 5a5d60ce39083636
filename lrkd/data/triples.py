"""The student's data: pairs as token batches, with their targets joined by key."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from torch.utils.data import DataLoader

from lrkd.data.inputs import Input
from lrkd.data.joined_rationales import used_perspectives
from lrkd.data.loader import ResumableDataModule
from lrkd.data.negatives import Negatives
from lrkd.data.pair_dataset import PairDataset, Teaching
from lrkd.data.pair_targets import Centring, TargetMode, Targets
from lrkd.data.pair_tokens import PairLayout, TokenCache
from lrkd.data.pairs import file_fingerprint, pairs_path, read_pairs
from lrkd.data.rationales import merge_rationales, rationale_files
from lrkd.data.soft_labels import JudgedPairs, SoftLabelMean, SoftLabelSource
from lrkd.data.split_rows import group_queries, split_rows
from lrkd.data.targets import FINGERPRINT, INDEX, VECTORS, TargetStore
from lrkd.data.tokens import build_token_cache, load_flat
from lrkd.data.types import SPLITS, ItemText, LabelSet, TripleBatch
from lrkd.errors import UserError
from lrkd.pretrained import resolve

Split = Literal["train", "val", "test", "all"]


class TripleDataModule(ResumableDataModule):
    """Pairs with their rationales' embeddings (a *triple* here is pair + rationale, not query–positive–negative).

    The query comes first and is cut at ``query_cap`` tokens of its own; the item's text fills what ``max_length``
    leaves. Pairs are tokenised once into a cache and batched by length. Targets and soft labels are joined by pair_id;
    a pair without them trains all the same, and a pair without a label does if it has soft labels. Outside ``fit``
    neither rationales nor targets nor soft labels are looked at.

    Args:
        root: The data root: a folder with ``pairs.parquet``. May be read-only.
        encoder: The student's encoder, for its tokenizer; the command line sets it from the model.
        targets: The target store that ``rationales embed`` made; none: the student trains on labels alone.
        rationales: What the targets were made from, as given to ``rationales embed``: folders with
            ``rationales.parquet``, or files; by default ``root``'s, if it has any.
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
        perspectives: Use these perspectives' rationales, in targets and votes; all by default.
        consistent: Use only rationales whose verdict is the gold label (the consistency filter), in targets.
        centring: Subtract from targets the mean of the training pairs (``global``) or of the query's pairs (``query``).
        whitening: How far centred targets are made to spread alike in all directions, 0 (not) to 1; fitted on the
            training pairs.
        shuffled: Give every training pair the targets of another one of its label, drawn by the seed: a control that
            shows whether what a rationale says of its pair matters.
        conflict_weight: How much more a target counts the more its rationales, being right, are contradicted by wrong
            ones from other perspectives; 0: not.
        wrong_negatives: For contrastive guidance: this many of a pair's own wrong rationales as negatives, at most.
        neighbour_negatives: The same with the targets of other training pairs of the query.
        soft_labels: ``votes``: the shares of the verdicts among a pair's rationales, right or not;
            ``calibrated_votes``: the probability of the gold label given these verdicts, fitted on the training pairs;
            or prediction files of other models (as ``predict`` writes them), averaged. None: labels alone.
        soft_label_mean: How prediction files are averaged: their ``probabilities``, or their ``logits``.
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
        rationales: list[str] | str | None = None,
        label_set: str = "esci",
        fold: int | None = None,
        val_fraction: float = 0.1,
        split_seed: int = 0,
        predict_split: Split = "all",
        item_text: str = "{title}",
        max_length: int = 128,
        query_cap: int = 32,
        target_mode: TargetMode = "unified",
        perspectives: list[str] | None = None,
        consistent: bool = True,
        centring: Centring = "none",
        whitening: float = 0.0,
        shuffled: bool = False,
        conflict_weight: float = 0.0,
        wrong_negatives: int = 0,
        neighbour_negatives: int = 0,
        soft_labels: list[str] | str | None = None,
        soft_label_mean: SoftLabelMean = "probabilities",
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
        _check_teaching(whitening, centring, conflict_weight, wrong_negatives, neighbour_negatives)
        self.root, self.encoder, self.targets, self.fold, self.val_fraction = root, encoder, targets, fold, val_fraction
        self.split_seed, self.predict_split, self.cache_dir = split_seed, predict_split, cache_dir
        self.rationales, self.rationale_files = rationales, rationale_files(root, rationales)
        self.item_text, self.max_length, self.query_cap = ItemText(item_text), max_length, query_cap
        self.target_mode, self.perspectives, self.consistent, self.centring = (
            target_mode, perspectives, consistent, centring,
        )  # fmt: skip
        self.whitening, self.shuffled, self.conflict_weight = whitening, shuffled, conflict_weight
        self.wrong_negatives, self.neighbour_negatives = wrong_negatives, neighbour_negatives
        self._soft = None
        if soft_labels is not None:
            self._soft = SoftLabelSource(soft_labels, soft_label_mean, self.rationale_files)
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
        return len(used_perspectives(self._store.index["perspective"], self.perspectives))

    @property
    def has_negatives(self) -> bool:
        """Whether targets come with negatives, for a guidance that takes them."""
        return self.wrong_negatives + self.neighbour_negatives > 0

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
        train = label[self._rows["train"]]
        self.label_counts = np.bincount(train[train >= 0], minlength=len(self._labels))
        teaching = self._teaching(label, query) if stage == "fit" else Teaching()
        for split in splits:
            rows = self._rows["taught" if stage == "fit" and split == "train" else split]
            if stage in ("validate", "test") or split == "val":
                rows = rows[label[rows] >= 0]  # what has no label measures nothing
            if not len(rows) and split != "all":
                raise UserError(
                    f"{pairs_path(self.root)}: no {'' if stage == 'predict' else 'labelled '}pair in split {split!r} "
                    f"({'fold ' + str(self.fold) if self.fold is not None else 'column split'}); "
                    "see `python -m lrkd data split`"
                )
            own = teaching if split == "train" else Teaching(teaching.targets)
            self._dataset[split] = PairDataset(rows, self.tokens, label, query, own, len(self._labels), self.seed)

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

    def _teaching(self, label: np.ndarray, query: np.ndarray) -> Teaching:
        """What the training pairs learn from, once it is settled which rows these are: ``self._rows["taught"]``."""
        train, soft, negatives = self._rows["train"], None, None
        taught = label[train] >= 0
        if self._soft is not None:
            pairs = JudgedPairs(self.pairs["pair_id"].combine_chunks(), label, query, train)
            soft = self._soft.read(pairs, self._labels, self.perspectives)
            taught = taught | soft.present_of(train)
            if not soft.present_of(train).any():
                raise UserError(f"soft_labels {self._soft}: of no training pair of {pairs_path(self.root)}")
        self._rows["taught"] = train[taught]
        targets = self._join_targets(self._rows["taught"], query)
        if self.has_negatives:
            if targets is None:
                raise UserError("wrong_negatives and neighbour_negatives need targets: give data.init_args.targets")
            negatives = Negatives(targets, self.wrong_negatives, self.neighbour_negatives)
        return Teaching(targets, negatives, soft)

    def _join_targets(self, fit_rows: np.ndarray, query: np.ndarray) -> Targets | None:
        if self.targets is None:
            return None
        store = self._store or TargetStore.open(self.targets)
        if self.rationales is not None or self.rationale_files[0].is_file():
            store.check_rationales(merge_rationales(self.rationale_files, labels=self._labels)[0], self.targets)
        targets = Targets(
            store,
            self.pairs["pair_id"].combine_chunks(),
            self.pairs["label"].combine_chunks(),
            query,
            fit_rows,
            mode=self.target_mode,
            consistent=self.consistent,
            centring=self.centring,
            perspectives=self.perspectives,
            whitening=self.whitening,
            conflict_weight=self.conflict_weight,
            shuffle_seed=self.seed if self.shuffled else None,
        )
        if not targets.present_of(fit_rows).any():
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
        return self._dataset["train"].teaching.targets

    def describe(self) -> dict[str, Any]:
        """What is known of the data after ``setup``: counts, truncation rates, targets. For records and logs."""
        cut_query, cut_item = self.tokens.cut
        used = np.concatenate([dataset.rows for dataset in self._dataset.values()])
        teaching = next(iter(self._dataset.values())).teaching
        targets, soft, train = teaching.targets, teaching.soft_labels, self._rows["train"]
        return {
            "pairs": {split: len(self._rows[split]) for split in SPLITS},
            "query_cut_rate": float((cut_query[used] > 0).mean()) if len(used) else 0.0,
            "item_cut_rate": float((cut_item[used] > 0).mean()) if len(used) else 0.0,
            "rationales": self.rationales,
            "targets": targets.summary() if targets else None,
            "training_pairs_with_soft_labels": int(soft.present_of(train).sum()) if soft else 0,
        }

    def summary(self) -> list[str]:
        """A line on the targets and one on the soft labels, if there are any."""
        facts, lines = self.describe(), []
        if targets := facts["targets"]:
            lines.append(
                f"{targets['used']:,} of {targets['rationales']:,} rationales used "
                f"({', '.join(targets['perspectives'])}); {targets['training_pairs_with_target']:,} training pairs "
                "have a target, the others train on their label alone"
            )
        if soft := facts["training_pairs_with_soft_labels"]:
            lines.append(f"{soft:,} training pairs have soft labels ({self._soft})")
        return lines

    def inputs(self) -> list[Input]:
        """The pairs; the rationales and the target store, where it learns from more than labels.

        Rationales and soft labels that are no longer there are left out; the store's metadata has the rationales'
        digest all the same.
        """
        digest = file_fingerprint(pairs_path(self.root))
        pairs = {"sha256": digest, "rows": self.pairs.num_rows, "label_set": self._labels.name}
        inputs = [Input("pairs", [pairs_path(self.root)], pairs)]
        if self._soft is not None and all(file.is_file() for file in self._soft.files):
            given = {"digest": self._soft.digest, "mean": self._soft.mean, "made from pairs": digest}
            inputs.append(Input("soft_labels", self._soft.files, given))
        if self.targets is None:
            return inputs
        store = self._store or TargetStore.open(self.targets)
        if all(file.is_file() for file in self.rationale_files):
            names = sorted(set(store.index["perspective"].to_pylist()))
            metadata = {"digest": store.fingerprint.rationales, "rows": store.index.num_rows, "perspectives": names}
            inputs.append(Input("rationales", self.rationale_files, metadata | {"made from pairs": digest}))
        files = [Path(self.targets) / name for name in (FINGERPRINT, INDEX, VECTORS)]
        fingerprint = asdict(store.fingerprint)
        made_from = {"made from rationales": fingerprint.pop("rationales"), "width": store.width}
        return [*inputs, Input("targets", files, made_from | fingerprint)]

    def fingerprint(self) -> dict[str, str]:
        """What a training depends on: the pairs' bytes; if there are any, digests of rationales and soft labels."""
        fingerprint = {"pairs": file_fingerprint(pairs_path(self.root))}
        if self.targets is not None:
            store = self._store or TargetStore.open(self.targets)
            made = store.fingerprint
            fingerprint |= {"rationales": made.rationales, "target_weights": made.weights}
            fingerprint |= {"target_settings": made.settings}
        if self._soft is not None:
            fingerprint["soft_labels"] = self._soft.digest
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


def _check_teaching(whitening: float, centring: Centring, conflict_weight: float, wrong: int, neighbours: int) -> None:
    if not 0 <= whitening <= 1:
        raise UserError(f"whitening is between 0 and 1, got {whitening}")
    if whitening and centring == "none":
        raise UserError("whitening is of centred targets; give centring global or query")
    if not 0 <= conflict_weight < float("inf"):
        raise UserError(f"conflict_weight must be at least 0, got {conflict_weight}")
    if min(wrong, neighbours) < 0:
        raise UserError(f"wrong_negatives and neighbour_negatives are at least 0, got {wrong} and {neighbours}")
