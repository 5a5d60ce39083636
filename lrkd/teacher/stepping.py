"""The optimiser step of a teacher: micro-batches by token budget, divided by what the whole step holds."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, ClassVar

import lightning as L
import torch
from lightning.fabric.utilities import move_data_to_device
from torch import Tensor
from transformers import get_scheduler

from lrkd.data.prefix_tree import PrefixTree, TreeBatch, collate
from lrkd.teacher.likelihood import token_logps
from lrkd.teacher.micro_batches import cut
from lrkd.teacher.sharding import is_sharded, most, whole

if TYPE_CHECKING:
    from lightning.pytorch.utilities.types import OptimizerLRScheduler


class SteppingModule(L.LightningModule):
    """A module whose batches are optimiser steps.

    A step's trees are cut into micro-batches by ``token_budget``; the loss divides by what the whole step holds, over
    all micro-batches and processes, so neither changes it (traps 1, 2).

    Its hyperparameters are ``token_budget``, ``lr``, ``weight_decay``, ``warmup``, ``schedule`` and ``max_grad_norm``:
    see :class:`~lrkd.teacher.base.Teacher`.
    """

    llm: Any
    """A causal language model, with or without adapters."""
    measures: ClassVar[dict[str, int]]
    """What :meth:`micro_sums` sums, and which of :meth:`totals` each is divided by."""

    # What subclasses say of their batches

    def trees(self, batch: Any) -> list[PrefixTree]:
        """The sequences of a batch, one tree a pair."""
        raise NotImplementedError

    def totals(self, batch: Any) -> Tensor:
        """What the step's means divide by: this process's part (K,)."""
        raise NotImplementedError

    def micro_sums(self, batch: Any, places: list[int]) -> dict[str, Tensor]:
        """The sums over a micro-batch of what :attr:`measures` names.

        Args:
            batch: The whole batch.
            places: Which of its trees are the micro-batch.
        """
        raise NotImplementedError

    def objective(self, means: dict[str, Tensor]) -> Tensor:
        """What is minimised, linear in the means."""
        return means["loss"]

    # The step

    def training_step(self, batch: Any, batch_idx: int) -> None:
        """One optimiser step, over as many micro-batches as the token budget asks for."""
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        totals = self._over_processes(self.totals(batch) * (not batch.repeated))
        parts = self.micro_batches(batch)
        logs: dict[str, Tensor] = {}
        for number, (places, counts) in enumerate(parts, 1):
            with nullcontext() if number == len(parts) else self._unsynchronised():
                means = self.means(self.micro_sums(batch, places), totals)
                # DDP takes the processes' mean, where the sum of their parts is wanted.
                self.manual_backward(self.objective(means) * (self.trainer.world_size * counts))
            logs = {name: logs.get(name, 0) + mean.detach() * counts for name, mean in means.items()}
        norm = self._clip()
        optimizer.step()
        self.lr_schedulers().step()  # type: ignore[union-attr]
        summed = self._over_processes(torch.stack(list(logs.values())))
        logs = dict(zip(logs, summed, strict=True))
        logs["loss"] = self.objective(logs)
        self.log_dict({f"train/{name}": value for name, value in logs.items()} | {"train/grad_norm": norm})
        self.log("loss", logs["loss"], prog_bar=True, logger=False)

    def micro_batches(self, batch: Any) -> list[tuple[list[int], bool]]:
        """The places of the trees in each micro-batch, and whether it counts: one that is repeated does not.

        Where the processes share out the weights they all make as many.
        """
        parts = cut(self.trees(batch), self.hparams["token_budget"])
        more = most(len(parts), self.device) - len(parts) if is_sharded(self.llm) else 0
        return [(places, not batch.repeated) for places in parts] + [(parts[-1], False)] * more

    def token_logps(self, trees: TreeBatch) -> Tensor:
        """Log-probability (T,) of every completion token: see :func:`lrkd.teacher.likelihood.token_logps`."""
        logps: Tensor = self.llm.token_logps(trees) if is_sharded(self.llm) else token_logps(self.llm, trees)
        return logps

    def means(self, sums: dict[str, Tensor], totals: Tensor) -> dict[str, Tensor]:
        """Sums divided by what each is a mean over."""
        return {name: value / totals[self.measures[name]].clamp_min(1) for name, value in sums.items()}

    def tree_batch(self, trees: list[PrefixTree]) -> TreeBatch:
        """Trees as tensors, where the model is."""
        batch: TreeBatch = move_data_to_device(collate(trees), self.device)
        return batch

    def _over_processes(self, values: Tensor) -> Tensor:
        """The sum over all processes."""
        summed: Tensor = self.trainer.strategy.reduce(values.clone(), reduce_op="sum")
        return summed

    def _unsynchronised(self) -> AbstractContextManager[None]:
        """Within it gradients stay on this process."""
        block = getattr(self.trainer.strategy, "block_backward_sync", None)
        return block() if block is not None else nullcontext()

    def _clip(self) -> Tensor:
        """Scale the gradients down to ``max_grad_norm``; returns the norm that they had."""
        learned = [parameter for parameter in self.parameters() if parameter.requires_grad]
        return whole(torch.nn.utils.clip_grad_norm_(learned, self.hparams["max_grad_norm"]))

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW, warm-up, then linear or cosine decay to 0."""
        learned = [parameter for parameter in self.parameters() if parameter.requires_grad]
        groups = [
            {"params": [p for p in learned if (p.ndim > 1) == decays], "weight_decay": decay}
            for decays, decay in ((True, self.hparams["weight_decay"]), (False, 0.0))
        ]
        optimizer = torch.optim.AdamW([g for g in groups if g["params"]], lr=self.hparams["lr"], fused=True)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = get_scheduler(self.hparams["schedule"], optimizer, round(self.hparams["warmup"] * steps), steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
