"""TeacherDPO: a teacher learns to prefer its right rationales to its wrong ones."""

from __future__ import annotations

import hashlib
import json
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from lrkd.data.preferences import PreferenceBatch, PreferenceDataModule
from lrkd.data.prefix_tree import PrefixTree, TreeBatch
from lrkd.distributed import gather_objects
from lrkd.errors import UserError
from lrkd.losses import LossType, dpo_loss
from lrkd.teacher.base import Teacher
from lrkd.teacher.likelihood import completion_logps
from lrkd.teacher.policy import frozen_reference, keep_reference, tokenizer_digest, weights_digest
from lrkd.teacher.sharding import is_sharded

Reference = Literal["adapter", "precomputed"]


class TeacherDPO(Teacher):
    """Direct preference optimisation on conflicts (arXiv 2601.21611, TeacherDPO; arXiv 2305.18290).

    ``loss = mean over preference pairs of dpo_loss + sft_weight · mean negative log-likelihood of a chosen token``.
    Chosen and rejected share their prompt, which is computed once (:mod:`lrkd.data.prefix_tree`).

    The reference is the policy that ``model`` names, which should be what TeacherSFT made: as a frozen second adapter
    (switching adapters off would give the *base* model, which knows nothing of the SFT), or as log-probabilities
    computed before the first step. Both are taken in eval mode, without dropout (traps 8 to 12).

    Logged as ``train/...``: ``dpo``, ``nll``, ``loss``, and as in TRL ``rewards/chosen``, ``rewards/rejected``,
    ``rewards/margins``, ``rewards/accuracies``, ``logps/chosen``, ``logps/rejected``; as ``val/...`` and ``seen/...``
    the judgements, as in TeacherSFT.

    Args:
        model: The SFT policy: a folder that ``teacher export`` wrote, merged or of adapters.
        beta: β: how dear it is to leave the reference.
        label_smoothing: The probability that a preference is the wrong way round.
        loss_type: ``sigmoid`` (DPO) or ``ipo``.
        sft_weight: Weight of the chosen answers' likelihood, which alone DPO may let fall.
        reference: ``adapter``, or ``precomputed``: the same numbers without a second forward pass; also without LoRA.
        **settings: See :class:`~lrkd.teacher.base.Teacher`; ``lr`` is 5e-6 here, as in the paper.

    Raises:
        UserError: See there; or an argument is out of range.
    """

    measures: ClassVar = {
        "dpo": 0,
        "rewards/chosen": 0,
        "rewards/rejected": 0,
        "rewards/margins": 0,
        "rewards/accuracies": 0,
        "logps/chosen": 0,
        "logps/rejected": 0,
        "nll": 1,
    }

    def __init__(
        self,
        model: str,
        *,
        beta: float = 0.1,
        label_smoothing: float = 0.0,
        loss_type: LossType = "sigmoid",
        sft_weight: float = 0.0,
        reference: Reference = "adapter",
        lr: float = 5e-6,
        **settings: Any,
    ) -> None:
        super().__init__(model, lr=lr, **settings)
        if sft_weight < 0:
            raise UserError(f"sft_weight must be at least 0, got {sft_weight}")
        zero = torch.zeros(1)
        try:
            dpo_loss(zero, zero, zero, zero, beta=beta, label_smoothing=label_smoothing, loss_type=loss_type)
        except ValueError as error:
            raise UserError(str(error)) from error
        if reference == "adapter":
            if not self.adapted:
                raise UserError("reference 'adapter' needs LoRA; without it give reference: precomputed")
            keep_reference(self.llm)
        self._reference: dict[str, Any] | None = None
        self._weights: str | None = None

    # The reference

    def on_fit_start(self) -> None:
        """Compute the reference's log-probabilities, where they are wanted beforehand and not in the checkpoint."""
        super().on_fit_start()
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if not isinstance(data, PreferenceDataModule):
            raise UserError(f"TeacherDPO trains on a PreferenceDataModule, not on {type(data).__name__}")
        if self.hparams["reference"] != "precomputed":
            return
        if self._reference is None:
            logps = self._reference_logps(data)
            self._reference = {"fingerprint": self.reference_fingerprint(data), "logps": torch.from_numpy(logps)}
        data.use_reference(self._reference["logps"].numpy())

    def configure_model(self) -> None:
        """Look at the whole weights before they are shared out, and before a checkpoint's take their place."""
        if self.device_mesh is not None and self.hparams["reference"] == "precomputed":
            self._weights = weights_digest(self.llm.named_parameters())
        super().configure_model()

    def reference_fingerprint(self, data: PreferenceDataModule) -> str:
        """What precomputed log-probabilities depend on: weights, tokenizer, data, prompts, lengths (trap 12)."""
        parts = {
            "weights": self._weights or weights_digest(self.llm.named_parameters()),
            "tokenizer": tokenizer_digest(self.tokenizer),
            "max_length": data.max_length,
            "text": data.text,
            **data.fingerprint(),
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def _reference_logps(self, data: PreferenceDataModule) -> np.ndarray:
        """(N, 2): of every preference pair, computed by all processes together."""
        count = len(data.preferences.row)
        mine = list(range(self.global_rank, count, self.trainer.world_size))
        some = mine or [0]  # a process without any runs along
        batch = PreferenceBatch(some, [data.preferences.tree(number) for number in some], repeated=not mine)
        found = np.zeros((count, 2), np.float32)
        training = [module for module in self.modules() if module.training]
        self.eval()
        with torch.no_grad(), self.trainer.precision_plugin.forward_context():
            for places, counts in self.micro_batches(batch):
                logps, _ = self._completion_logps(self.tree_batch([batch.trees[place] for place in places]))
                if counts:
                    found[[mine[place] for place in places]] = logps.cpu().numpy()
        if is_sharded(self.llm):
            self.llm.reshard()  # where weights are shared out, a run's checkpoint is loaded after this, into the parts
        for module in training:
            module.training = True
        return np.asarray(np.sum(gather_objects(found), axis=0))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep precomputed log-probabilities, too: later, the weights are no longer the reference's."""
        super().on_save_checkpoint(checkpoint)
        if self._reference is not None:
            checkpoint["reference"] = self._reference

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """See :meth:`on_save_checkpoint`.

        Raises:
            UserError: The log-probabilities are those of another reference than ``model`` names now.
        """
        super().on_load_checkpoint(checkpoint)
        self._reference = checkpoint.get("reference")
        data = getattr(self._trainer, "datamodule", None)
        fits = self._reference is None or not isinstance(data, PreferenceDataModule)
        # The weights are still those that `model` names: the checkpoint's come after this.
        if not fits and self._reference["fingerprint"] != self.reference_fingerprint(data):  # type: ignore[index,arg-type]
            raise UserError(
                f"cannot resume: the reference's log-probabilities in the checkpoint are not those of "
                f"{self.hparams['model']} on {data.path} as they are now; start a new run without --ckpt_path"  # type: ignore[union-attr]
            )

    # The step

    def trees(self, batch: PreferenceBatch) -> list[PrefixTree]:
        """One a preference pair: chosen and rejected over their prompt."""
        return batch.trees

    def totals(self, batch: PreferenceBatch) -> Tensor:
        """(2,): preference pairs, and tokens of their chosen answers."""
        tokens = sum(tree.branches[0].completion for tree in batch.trees)
        return torch.tensor([float(len(batch.trees)), float(tokens)], device=self.device)

    def objective(self, means: dict[str, Tensor]) -> Tensor:
        """DPO, and the likelihood of what was chosen."""
        loss: Tensor = means["dpo"] + self.hparams["sft_weight"] * means["nll"]
        return loss

    def micro_sums(self, batch: PreferenceBatch, places: list[int]) -> dict[str, Tensor]:
        """Losses, rewards and log-probabilities."""
        trees = self.tree_batch([batch.trees[place] for place in places])
        policy, lengths = self._completion_logps(trees)
        reference = self._reference_of(batch, places, trees)
        scale = lengths if self.hparams["loss_type"] == "ipo" else torch.ones_like(lengths)
        losses, _, _ = dpo_loss(
            *(policy / scale).unbind(1),
            *(reference / scale).unbind(1),
            beta=self.hparams["beta"],
            label_smoothing=self.hparams["label_smoothing"],
            loss_type=self.hparams["loss_type"],
        )
        chosen, rejected = (self.hparams["beta"] * (policy - reference).detach()).unbind(1)  # of sums, as TRL logs them
        return {
            "dpo": losses.sum(),
            "rewards/chosen": chosen.sum(),
            "rewards/rejected": rejected.sum(),
            "rewards/margins": (chosen - rejected).sum(),
            "rewards/accuracies": (chosen > rejected).float().sum(),
            "logps/chosen": policy[:, 0].detach().sum(),
            "logps/rejected": policy[:, 1].detach().sum(),
            "nll": -policy[:, 0].sum(),
        }

    def _completion_logps(self, trees: TreeBatch) -> tuple[Tensor, Tensor]:
        """Summed log-probabilities (B, 2) of chosen and rejected, and their lengths (B, 2)."""
        sums, lengths = completion_logps(self.token_logps(trees), trees)
        return sums.view(-1, 2), lengths.view(-1, 2)

    def _reference_of(self, batch: PreferenceBatch, places: list[int], trees: TreeBatch) -> Tensor:
        """The reference's (B, 2), without gradient."""
        if self.hparams["reference"] == "precomputed":
            assert batch.reference is not None
            return torch.from_numpy(batch.reference[places]).to(self.device)
        with frozen_reference(self.llm):
            reference, _ = self._completion_logps(trees)
        return reference
