"""TeacherSFT: a language model learns to write rationales and verdicts from several perspectives."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from lrkd.data.completions import CompletionBatch
from lrkd.data.prefix_tree import PrefixTree
from lrkd.teacher.base import Teacher


class TeacherSFT(Teacher):
    """Supervised fine-tuning on rationales and their verdicts (arXiv 2601.21611, TeacherSFT).

    ``loss = -1/T Σ_t log π(y_t | x, y_<t)`` over the T completion tokens of an optimiser step, all perspectives
    together: prompts carry no loss, and every token weighs the same, whatever the micro-batch, the process and the
    length of its rationale (traps 1, 2). A pair's completions share the prefix of their prompts
    (:mod:`lrkd.data.prefix_tree`): exact, and computed once.

    Logged: ``train/loss``, ``train/grad_norm``; ``val/loss`` (mean over all tokens of the split); and of the judged
    pairs ``val/...`` and, of training pairs, ``seen/...``: :func:`lrkd.teacher.judgements.judgement_metrics` and
    :func:`lrkd.metrics.relevance_metrics` of the votes' shares.

    Args:
        model: See :class:`~lrkd.teacher.base.Teacher`, as for all settings.
        **settings: See there.
    """

    measures: ClassVar = {"loss": 0}

    def __init__(self, model: str, **settings: Any) -> None:
        super().__init__(model, **settings)

    def trees(self, batch: CompletionBatch) -> list[PrefixTree]:
        """One a pair."""
        return batch.trees

    def totals(self, batch: CompletionBatch) -> Tensor:
        """(1,): completion tokens."""
        tokens = sum(branch.completion for tree in batch.trees for branch in tree.branches)
        return torch.tensor([float(tokens)], device=self.device)

    def micro_sums(self, batch: CompletionBatch, places: list[int]) -> dict[str, Tensor]:
        """The negative log-likelihood of the micro-batch's completions."""
        logps = self.token_logps(self.tree_batch([batch.trees[place] for place in places]))
        return {"loss": -logps.sum()}
