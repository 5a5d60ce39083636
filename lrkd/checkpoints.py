"""LastCheckpoint: ``last.ckpt``, from which a run that was killed goes on."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Checkpoint

from lrkd.errors import UserError


class LastCheckpoint(Checkpoint):
    """Writes ``last.ckpt`` after every epoch and, if asked for, every N optimiser steps within it.

    In place of ``ModelCheckpoint(save_last=True)``, which (Lightning 2.6) writes it only with a new best checkpoint,
    and through a file elsewhere, so that a kill can leave a half-written one. Here a file beside it replaces it in one
    move, and within an epoch only once the step's metrics are logged, so that neither is ahead of the other.

    Args:
        folder: The folder of checkpoints.
        every_n_steps: Optimiser steps between two writes within an epoch; None: only after epochs.

    Raises:
        UserError: ``every_n_steps`` is below 1.
    """

    def __init__(self, folder: str | Path, every_n_steps: int | None = None) -> None:
        if every_n_steps is not None and every_n_steps < 1:
            raise UserError(f"checkpoint_every_n_steps is at least 1, got {every_n_steps}")
        self.path = Path(folder) / "last.ckpt"
        self.every_n_steps = every_n_steps
        self._new = self.path.with_suffix(".new")
        self._step = 0
        self._waiting = False

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write the new file every N steps, except after an epoch's last batch, which :meth:`on_train_epoch_end` does."""
        stepped, self._step = trainer.global_step != self._step, trainer.global_step
        last = batch_idx + 1 >= trainer.num_training_batches
        if self.every_n_steps and stepped and not last and trainer.global_step % self.every_n_steps == 0:
            self._write(trainer)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """The step before is logged by now."""
        self._step = trainer.global_step
        self._replace(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """A validation followed the step: write again what it changed (temperature, best score)."""
        if self._waiting:
            self._write(trainer)
            self._replace(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """After validation and after the best checkpoint."""
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            self._write(trainer)
            self._replace(trainer)

    def _write(self, trainer: L.Trainer) -> None:
        trainer.save_checkpoint(self._new)
        self._waiting = True

    def _replace(self, trainer: L.Trainer) -> None:
        if self._waiting and trainer.is_global_zero:
            os.replace(self._new, self.path)
        self._waiting = False
