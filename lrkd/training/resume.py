"""Resume: a run that was killed and resumed equals the uninterrupted one, to the bit."""

from __future__ import annotations

import csv
import os
import random
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback

from lrkd.distributed import gather_objects


def generator_states(device: torch.device) -> dict[str, Any]:
    """The states of this process's global generators, in types that a weights-only checkpoint holds.

    Args:
        device: Where the model is; on a GPU its generator's state is among them.
    """
    numpy: Any = np.random.get_state()  # noqa: NPY002  # what libraries draw from is the legacy generator
    states = {
        "torch": torch.get_rng_state(),
        "numpy": (numpy[0], torch.from_numpy(numpy[1].astype(np.int64)), *numpy[2:]),
        "python": random.getstate(),
    }
    return states | ({"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})


def set_generator_states(states: dict[str, Any], device: torch.device) -> None:
    """The inverse of :func:`generator_states`."""
    torch.set_rng_state(states["torch"].cpu())
    name, key, *rest = states["numpy"]
    np.random.set_state((name, key.cpu().numpy().astype(np.uint32), *rest))  # noqa: NPY002
    random.setstate(states["python"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"].cpu(), device)


def drop_rows_from(path: Path, step: int) -> None:
    """Take out of a ``metrics.csv`` what was logged at ``step`` or later, or in part: it will be logged again."""
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        rows = [row for row in reader if None not in row.values() and int(row["step"]) < step]
    kept = path.with_name(f"{path.name}.new")
    with kept.open("w", encoding="utf-8", newline="") as file:
        if rows:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    os.replace(kept, path)


class Resume(Callback):
    """Keeps in every checkpoint what Lightning leaves out, and goes on from it.

    That is the state of each process's generators (torch, NumPy, Python); and when a run is resumed, the lines that it
    had written to ``metrics.csv`` after the checkpoint are taken out, since it writes them again. The place in the
    epoch's batches is the data module's (:class:`lrkd.data.loader.ResumableLoader`).

    Args:
        metrics: The run's ``metrics.csv``, if it has one.
    """

    def __init__(self, metrics: str | Path | None = None) -> None:
        self.metrics = Path(metrics) if metrics is not None else None
        self._states: list[dict[str, Any]] = []
        self._max_steps = -1

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add the states of all processes' generators."""
        checkpoint["generators"] = gather_objects(generator_states(pl_module.device))

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Remember them until training starts: what is set up before then draws numbers of its own."""
        self._states = checkpoint.get("generators", [])

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Hide ``max_steps`` while Lightning (2.6) restores its loops.

        It takes any run with ``max_steps`` for one that stopped within an epoch, and at an epoch's end miscounts.
        """
        self._max_steps = trainer.max_steps
        if trainer.ckpt_path is not None:
            trainer.fit_loop.epoch_loop.max_steps = -1

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Go on."""
        trainer.fit_loop.epoch_loop.max_steps = self._max_steps
        if trainer.ckpt_path is None:
            return
        if trainer.is_global_zero and self.metrics is not None and self.metrics.is_file():
            drop_rows_from(self.metrics, trainer.global_step)
        if trainer.global_rank < len(self._states):
            set_generator_states(self._states[trainer.global_rank], pl_module.device)
