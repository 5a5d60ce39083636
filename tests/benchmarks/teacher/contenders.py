"""One teacher training, timed: ``fit``, or TRL's SFTTrainer or DPOTrainer. Runs in a process of its own.

``prepare`` writes what all train on: the first steps of lrkd's own data module, as rationales or preference pairs for
``fit`` and as token ids for TRL, which so has the same sequences in the same steps. The others print one line of JSON:
after every step the wall-clock and CPU seconds; losses; and what the reference's log-probabilities took beforehand.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

RANK, ALPHA, WARMUP = 16, 32, 0.05
LR = {"sft": 2e-4, "dpo": 5e-6}


class Clock:
    """Wall-clock and CPU seconds at marks, and losses."""

    def __init__(self) -> None:
        self.marks: list[tuple[float, float]] = []
        self.losses: list[float] = []
        self.before = (0.0, 0.0)

    def mark(self) -> None:
        """Now."""
        self.marks.append((time.perf_counter(), time.process_time()))

    def timed(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """What is done before training."""

        def timed_call(*args: Any, **kwargs: Any) -> Any:
            wall, cpu = time.perf_counter(), time.process_time()
            result = call(*args, **kwargs)
            self.before = (time.perf_counter() - wall, time.process_time() - cpu)
            return result

        return timed_call

    def report(self) -> None:
        """The line of JSON."""
        print("\n" + json.dumps({"marks": self.marks, "losses": self.losses, "before": self.before}), flush=True)


def begin_alike(model: torch.nn.Module) -> None:
    """Give adapters values that follow from their layer's name: the same for all contenders."""
    for name, parameter in model.named_parameters():
        if ".lora_A." in name and parameter.requires_grad:
            layer = name[name.index("layers.") : name.index(".lora_A.")]
            generator = torch.Generator().manual_seed(zlib.crc32(layer.encode()))
            bound = parameter.shape[1] ** -0.5  # as peft's kaiming_uniform_(a=5 ** 0.5)
            with torch.no_grad():
                parameter.uniform_(-bound, bound, generator=generator)


# What is trained on


def data_module(args: argparse.Namespace, **settings: Any) -> Any:
    """lrkd's, of the method."""
    from lrkd.data.completions import CompletionDataModule
    from lrkd.data.preferences import PreferenceDataModule

    shared = {"fold": args.fold, "batch_size": args.batch, "seed": 0}
    if args.method == "sft":
        data: Any = CompletionDataModule(args.root, args.model, **shared, **settings)
    else:
        data = PreferenceDataModule(args.root, args.model, **shared, **settings)
    data.setup("fit")
    return data


def prepare(args: argparse.Namespace) -> None:
    """Write as many rationales or preference pairs as the steps need, and each step's sequences."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    from lrkd.data.rationales import rationales_path, read_rationales
    from lrkd.data.types import PREFERENCES_FILE

    folder, count = Path(args.folder), args.steps * args.batch
    if args.method == "sft":
        data = data_module(args)
        rows = np.random.default_rng(0).permutation(data._dataset["train"].rows)[:count]
        kept, table = data.pairs.table["pair_id"].take(pa.array(rows)), read_rationales(args.root)
        pq.write_table(table.filter(pc.is_in(table["pair_id"], kept.combine_chunks())), rationales_path(folder))
        few = data_module(args, rationales=str(folder))
    else:
        table = pq.read_table(Path(args.preferences) / PREFERENCES_FILE)
        numbers = np.random.default_rng(0).permutation(len(table))[:count]
        pq.write_table(table.take(pa.array(np.sort(numbers))), folder / PREFERENCES_FILE)
        few = data_module(args, preferences=str(folder))
    steps = [[_sequences(tree) for tree in batch.trees] for batch in few.train_dataloader()]
    if len(steps) < args.steps:
        raise SystemExit(f"{args.root} has {len(steps)} steps of {args.batch} only")
    tokens = [sum(len(prompt) + len(answer) for pair in step for prompt, answer in pair) for step in steps]
    packed = [sum(tree.length for tree in batch.trees) for batch in few.train_dataloader()]
    (folder / "steps.json").write_text(json.dumps(steps))
    print("\n" + json.dumps({"tokens": tokens, "packed": packed, "sequences": [sum(map(len, s)) for s in steps]}))


def _sequences(tree: Any) -> list[tuple[list[int], list[int]]]:
    """Prompt and completion ids of a tree's branches."""
    found = []
    for branch in tree.branches:
        ids = tree.prefix + branch.ids
        found.append((ids[: -branch.completion], ids[-branch.completion :]))
    return found


# lrkd


def fit(args: argparse.Namespace, folder: str) -> Clock:
    """``python -m lrkd fit`` with all that it does in training: logger, checkpoints, records; no validation."""
    import lightning as L

    from lrkd.cli import FitCLI
    from lrkd.teacher import TeacherDPO
    from lrkd.training.allocator import keep_freed_memory

    clock, expected = Clock(), json.loads((Path(args.folder) / "steps.json").read_text())

    class Marks(L.Callback):
        def on_fit_start(self, trainer: Any, model: Any) -> None:
            begin_alike(model)

        def on_train_epoch_start(self, trainer: Any, model: Any) -> None:
            clock.mark()

        def on_train_batch_end(self, trainer: Any, model: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            clock.mark()
            clock.losses.append(float(trainer.callback_metrics["train/loss"]))
            steps = [[[list(part) for part in one] for one in _sequences(tree)] for tree in batch.trees]
            assert steps == expected[batch_idx], "fit saw other sequences"

    class Timed(FitCLI):
        def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
            trainer = super().instantiate_trainer(**kwargs)
            trainer.callbacks.append(Marks())
            return trainer

    TeacherDPO._reference_logps = clock.timed(TeacherDPO._reference_logps)  # type: ignore[method-assign]
    options = {
        "model.init_args.model": args.model,
        "model.init_args.lr": LR[args.method],
        "model.init_args.dtype": args.dtype,
        "data.init_args.root": args.root,
        "data.init_args.fold": args.fold,
        "data.init_args.batch_size": args.batch,
        f"data.init_args.{'rationales' if args.method == 'sft' else 'preferences'}": args.folder,
        "trainer.accelerator": "cpu",
        "trainer.max_epochs": 1,
        "trainer.precision": "bf16-mixed",
        "trainer.num_sanity_val_steps": 0,
        "trainer.limit_val_batches": 0,
        "trainer.default_root_dir": folder,
    }
    if args.token_budget:
        options["model.init_args.token_budget"] = args.token_budget
    if args.method == "dpo":
        options["model.init_args.reference"] = "precomputed" if args.precompute else "adapter"
    keep_freed_memory()  # as `python -m lrkd` does
    Timed(["fit", "--config", f"configs/teacher/{args.method}.yaml", *(f"--{k}={v}" for k, v in options.items())])
    return clock


# TRL


def trl(args: argparse.Namespace, folder: str) -> Clock:
    """SFTTrainer or DPOTrainer on each step's sequences, in the order of the steps."""
    from datasets import Dataset
    from peft import LoraConfig
    from torch.utils.data import DataLoader
    from transformers import AutoTokenizer, TrainerCallback
    from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer
    from trl.trainer import utils

    from lrkd.training.allocator import keep_freed_memory

    if args.allocator:
        keep_freed_memory()
    if args.compact:
        utils._use_triton = lambda device: True  # asked in this module for where the head is applied only

    clock, steps = Clock(), json.loads((Path(args.folder) / "steps.json").read_text())
    rows, batches = trl_rows(args, steps)

    class Marks(TrainerCallback):
        def on_epoch_begin(self, *args: Any, **kwargs: Any) -> None:
            clock.mark()

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            clock.mark()

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **kwargs: Any) -> None:
            if "loss" in logs:
                clock.losses.append(logs["loss"])

    class Fed:
        """What a trainer is fed."""

        def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
            return dataset  # token ids already: DPOTrainer would tokenise

        def get_train_dataloader(self) -> Any:
            data = self._remove_unused_columns(self.train_dataset, description="training")  # type: ignore[attr-defined]
            loader = DataLoader(data, batch_sampler=batches, collate_fn=self.data_collator)  # type: ignore[attr-defined]
            return self.accelerator.prepare(loader)  # type: ignore[attr-defined]

    settings: dict[str, Any] = {
        "output_dir": folder,
        "per_device_train_batch_size": max(map(len, batches)),
        "gradient_accumulation_steps": len(batches) // args.steps,
        "max_steps": args.steps,
        "learning_rate": LR[args.method],
        "warmup_steps": round(WARMUP * args.steps),
        "logging_steps": 1,
        "use_cpu": True,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "model_init_kwargs": {"dtype": args.dtype},
        **({} if args.checkpointing else {"gradient_checkpointing": False}),
    }
    if args.method == "sft":
        kind, config = SFTTrainer, SFTConfig(padding_free=args.padding_free, max_length=None, **settings)
    else:
        kind, config = DPOTrainer, DPOConfig(precompute_ref_log_probs=args.precompute, **settings)
        kind._precompute_ref_logps = clock.timed(kind._precompute_ref_logps)
    trainer = type("Trainer", (Fed, kind), {})(
        model=args.model,
        args=config,
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(args.model),
        peft_config=LoraConfig(
            r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"
        ),
        callbacks=[Marks()],
    )
    begin_alike(trainer.model)
    trainer.train()
    return clock


def trl_rows(args: argparse.Namespace, steps: list[Any]) -> tuple[list[dict[str, Any]], list[list[int]]]:
    """The data set's rows, and the rows of every micro-batch: each step is cut into as many."""
    rows: list[dict[str, Any]] = []
    batches: list[list[int]] = []
    for step in steps:
        first = len(rows)
        for pair in step:
            if args.method == "sft":
                rows += [
                    {"input_ids": prompt + answer, "labels": [-100] * len(prompt) + answer} for prompt, answer in pair
                ]
            else:
                (prompt, chosen), (_, rejected) = pair
                rows.append({"prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": rejected})
        own = np.arange(first, len(rows))
        if args.grouped:
            lengths = [sum(len(value) for name, value in rows[i].items() if name != "labels") for i in own]
            own = own[np.argsort(lengths, kind="stable")[::-1]]
        batches += [part.tolist() for part in np.array_split(own, args.parts)]
    return rows, batches


def main() -> None:
    """Train once and print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("which", choices=["prepare", "fit", "trl"])
    parser.add_argument("--method", choices=["sft", "dpo"], required=True)
    parser.add_argument("--folder", required=True, help="where `prepare` writes and the others read")
    for name in ("root", "model", "preferences"):
        parser.add_argument(f"--{name}")
    parser.add_argument("--fold", type=int, default=0)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--batch", type=int, default=8, help="pairs, or preference pairs, a step")
    parser.add_argument("--dtype", default="float32", help="of the frozen weights")
    parser.add_argument("--precompute", action="store_true", help="the reference's log-probabilities")
    parser.add_argument("--token_budget", type=int, help="lrkd's")
    parser.add_argument("--parts", type=int, default=4, help="TRL's micro-batches a step")
    parser.add_argument("--checkpointing", action="store_true", help="TRL with gradient checkpointing, its default")
    parser.add_argument("--grouped", action="store_true", help="TRL's micro-batches are of like length")
    parser.add_argument("--padding_free", action="store_true", help="TRL's padding_free")
    parser.add_argument("--allocator", action="store_true", help="TRL with the allocator's settings that lrkd has")
    parser.add_argument("--compact", action="store_true", help="TRL patched: its head at learned tokens only")
    args = parser.parse_args()
    if args.which == "prepare":
        return prepare(args)
    with tempfile.TemporaryDirectory() as folder:
        (fit if args.which == "fit" else trl)(args, folder).report()
    return None


if __name__ == "__main__":
    sys.exit(main())
