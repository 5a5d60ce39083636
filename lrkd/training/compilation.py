"""CompileEncoder: the student's encoder through ``torch.compile``."""

from __future__ import annotations

import lightning as L
from lightning.pytorch.callbacks import Callback

from lrkd.errors import UserError
from lrkd.student import StudentLRKD


class CompileEncoder(Callback):
    """Compiles the encoder before it runs for the first time; give it in ``trainer.callbacks``.

    It is compiled in place (``nn.Module.compile``), so the names in checkpoints stay: what was trained compiled loads
    into a model that is not, and the other way round. Batches differ in size and length, hence dynamic shapes.

    Args:
        backend: A backend of ``torch.compile``.
        mode: ``default``, ``reduce-overhead`` or ``max-autotune``; only with the backend ``inductor``.

    Raises:
        UserError: The model is not a ``StudentLRKD``.
    """

    def __init__(self, backend: str = "inductor", mode: str | None = None) -> None:
        self.backend = backend
        self.mode = mode

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Compile; nothing is traced before the first batch."""
        if not isinstance(pl_module, StudentLRKD):
            raise UserError(f"CompileEncoder compiles the encoder of a StudentLRKD, not {type(pl_module).__name__}")
        pl_module.encoder.compile(dynamic=True, backend=self.backend, mode=self.mode)
