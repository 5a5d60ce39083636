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

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """The step before is logged by now."""
        self._replace(trainer)
        self._step = trainer.global_step

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write every N steps, but leave an epoch's last batch to :meth:`on_train_epoch_end`, after validation."""
        stepped = trainer.global_step > self._step  # not where gradients are still accumulated
        within = batch_idx + 1 < trainer.num_training_batches
        if self.every_n_steps and within and stepped and trainer.global_step % self.every_n_steps == 0:
            self._write(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Where a validation followed the step, write anew: it changed the temperature and the best score."""
        if self._waiting:
            self._write(trainer)
            self._replace(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """After validation and the best checkpoint."""
        self._write(trainer)
        self._replace(trainer)

    def _write(self, trainer: L.Trainer) -> None:
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            trainer.save_checkpoint(self._new, weights_only=False)  # all of it, not the weights alone
            self._waiting = True

    def _replace(self, trainer: L.Trainer) -> None:
        if self._waiting and trainer.is_global_zero:
            os.replace(self._new, self.path)
        self._waiting = False
