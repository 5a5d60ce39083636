"""Losses: pure functions first, then the guidance losses as modules that a config can name.

Every guidance loss gives one value for each latent that has a target; the student averages them over the pairs (and
over all processes), so that a pair without a rationale weighs nothing (trap 25).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lrkd.distributed import gather_rows

Reduction = Literal["mean", "sum"]


def squared_error(latents: Tensor, targets: Tensor, reduction: Reduction = "mean") -> Tensor:
    """Squared distance of latents and targets.

    ``mean``: 1/R Σ_d (r_d - e_d)²;  ``sum``: Σ_d (r_d - e_d)² = ‖r - e‖², which is R times larger (arXiv 2601.21611,
    guidance loss; the paper leaves the reduction open).

    Args:
        latents: (..., R).
        targets: (..., R).
        reduction: Over the R dimensions.

    Returns:
        (...,): one value a latent.
    """
    error = (latents - targets).square()
    return error.mean(-1) if reduction == "mean" else error.sum(-1)


def cosine_distance(latents: Tensor, targets: Tensor) -> Tensor:
    """``1 - cos(r, e)``, between 0 and 2.

    Args:
        latents: (..., R).
        targets: (..., R).

    Returns:
        (...,): one value a latent.
    """
    return 1 - F.cosine_similarity(latents, targets, dim=-1)


def info_nce(
    latents: Tensor,
    targets: Tensor,
    mask: Tensor,
    temperature: float = 0.05,
    first: int = 0,
    negatives: Tensor | None = None,
    negative_mask: Tensor | None = None,
) -> Tensor:
    """``-log softmax_j( cos(r_i, e_j) / τ )_i``: a latent must find its own target among N, and K negatives of its own.

    Contrast is within a perspective: negatives of ``r_{i,p}`` are the targets ``e_{j,p}`` (van den Oord et al. 2018,
    arXiv 1807.03748, eq. 4), and, where given, ``n_{i,p,k}``, which no other latent sees.

    Args:
        latents: (B, P, R).
        targets: (N, P, R), N ≥ B: own targets and further negatives.
        mask: (N, P) bool; only True entries serve as negatives.
        temperature: τ > 0.
        first: Where the own targets begin: that of latent ``i`` is target ``first + i``.
        negatives: (B, P, K, R).
        negative_mask: (B, P, K) bool: which of them there are.

    Returns:
        (B, P): one value a latent; 0 where there is no target.
    """
    latents = F.normalize(latents, dim=-1)
    similarity = torch.einsum("ipr,jpr->pij", latents, F.normalize(targets, dim=-1)) / temperature
    lowest = torch.finfo(similarity.dtype).min
    similarity = similarity.masked_fill(~mask.T.unsqueeze(1), lowest)
    if negatives is not None and negative_mask is not None:
        hard = torch.einsum("ipr,ipkr->pik", latents, F.normalize(negatives, dim=-1)) / temperature
        similarity = torch.cat([similarity, hard.masked_fill(~negative_mask.transpose(0, 1), lowest)], -1)
    own = torch.log_softmax(similarity, dim=-1).diagonal(first, dim1=1, dim2=2)  # (P, B)
    return torch.where(mask[first : first + len(latents)], -own.T, 0)


class Guidance(nn.Module, ABC):
    """A loss that draws latents to their targets."""

    contrastive: ClassVar[bool] = False
    """Whether ``forward`` also takes each latent's own ``negatives`` (B, P, K, R) and ``negative_mask`` (B, P, K)."""

    @abstractmethod
    def forward(self, latents: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
        """One value a latent.

        Args:
            latents: (B, P, R).
            targets: (B, P, R), without gradient.
            mask: (B, P) bool: which targets there are.

        Returns:
            (B, P); what stands where ``mask`` is False is ignored, but must be finite.
        """


class MSEGuidance(Guidance):
    """:func:`squared_error` as guidance, the paper's choice.

    Args:
        reduction: Over the R dimensions: ``mean`` is R times weaker than ``sum`` (with unit-length targets it is about
            0.002 and adds nothing at the paper's weight of 0.1).
    """

    def __init__(self, reduction: Reduction = "sum") -> None:
        super().__init__()
        if reduction not in ("mean", "sum"):
            raise ValueError(f"reduction is 'mean' or 'sum', got {reduction!r}")
        self.reduction: Reduction = reduction

    def forward(self, latents: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
        """(B, P)."""
        return squared_error(latents, targets, self.reduction)


class CosineGuidance(Guidance):
    """:func:`cosine_distance` as guidance: the latent's length is free."""

    def forward(self, latents: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
        """(B, P)."""
        return cosine_distance(latents, targets)


class InfoNCEGuidance(Guidance):
    """:func:`info_nce` as guidance: the other pairs of the batch, on all processes, are the negatives.

    Args:
        temperature: τ of the softmax, above 0.
    """

    contrastive = True

    def __init__(self, temperature: float = 0.05) -> None:
        super().__init__()
        if temperature <= 0:
            raise ValueError(f"temperature must be above 0, got {temperature}")
        self.temperature = temperature

    def forward(
        self,
        latents: Tensor,
        targets: Tensor,
        mask: Tensor,
        negatives: Tensor | None = None,
        negative_mask: Tensor | None = None,
    ) -> Tensor:
        """(B, P)."""
        every, first = gather_rows(torch.cat([targets, mask.unsqueeze(-1).to(targets.dtype)], -1))
        return info_nce(latents, every[..., :-1], every[..., -1] > 0, self.temperature, first, negatives, negative_mask)


def linear_weight(start: float, end: float, progress: float) -> float:
    """The guidance weight λ on the straight line from ``start`` to ``end``; ``progress`` runs from 0 to 1."""
    return start + (end - start) * min(max(progress, 0.0), 1.0)


def soft_label_divergence(logits: Tensor, soft_labels: Tensor, temperature: float = 1.0) -> Tensor:
    """``T² · KL(q_T ‖ softmax(z / T))`` with ``q_T ∝ q^(1/T)``: label distillation.

    The factor T² keeps the gradient's size when T changes (Hinton et al. 2015, arXiv 1503.02531, section 2). A label
    that the teacher gives no probability stays at 0 for any T.

    Args:
        logits: (B, C) z, the student's.
        soft_labels: (B, C) q, probabilities, without gradient (trap 27); a row of zeros gives 0.
        temperature: T > 0.

    Returns:
        (B,): one value a pair, at least 0.
    """
    softened = soft_labels.detach().pow(1 / temperature)
    softened = softened / softened.sum(-1, keepdim=True).clamp_min(torch.finfo(softened.dtype).tiny)
    student = F.log_softmax(logits / temperature, -1)
    return temperature**2 * (torch.xlogy(softened, softened) - softened * student).sum(-1)


LossType = Literal["sigmoid", "ipo"]


def dpo_loss(
    policy_chosen_logps: Tensor,
    policy_rejected_logps: Tensor,
    reference_chosen_logps: Tensor,
    reference_rejected_logps: Tensor,
    *,
    beta: float = 0.1,
    label_smoothing: float = 0.0,
    loss_type: LossType = "sigmoid",
) -> tuple[Tensor, Tensor, Tensor]:
    """Direct preference optimisation.

    With ``h = (log π(y_w) - log π_ref(y_w)) - (log π(y_l) - log π_ref(y_l))``:

    - ``sigmoid``: ``-(1 - ε) log σ(β h) - ε log σ(-β h)``, on log-probabilities summed over a completion (Rafailov et
      al. 2023, arXiv 2305.18290, eq. 7; ε is conservative DPO's, Mitchell 2023);
    - ``ipo``: ``(h - 1/(2β))²``, on log-probabilities averaged over a completion (Azar et al. 2024, arXiv 2310.12036,
      eq. 17; the mean as in TRL).

    Args:
        policy_chosen_logps: (B,) log π(y_w | x), summed or averaged over tokens as the loss wants it.
        policy_rejected_logps: (B,) log π(y_l | x).
        reference_chosen_logps: (B,) log π_ref(y_w | x).
        reference_rejected_logps: (B,) log π_ref(y_l | x).
        beta: β > 0: how dear it is to leave the reference.
        label_smoothing: ε, the probability that a preference is the wrong way round, 0 to below 1/2; 0 for ``ipo``.
        loss_type: ``sigmoid`` or ``ipo``.

    Returns:
        Losses, and the implicit rewards ``β (log π - log π_ref)`` of chosen and rejected, detached; (B,) each.

    Raises:
        ValueError: An argument is out of range, or label smoothing is given with ``ipo``.
    """
    if beta <= 0:
        raise ValueError(f"beta must be above 0, got {beta}")
    if not 0 <= label_smoothing < 0.5:
        raise ValueError(f"label_smoothing must be at least 0 and below 0.5, got {label_smoothing}")
    chosen = policy_chosen_logps - reference_chosen_logps
    rejected = policy_rejected_logps - reference_rejected_logps
    margin = chosen - rejected
    if loss_type == "sigmoid":
        right, wrong = F.logsigmoid(beta * margin), F.logsigmoid(-beta * margin)
        losses = -(1 - label_smoothing) * right - label_smoothing * wrong
    elif loss_type == "ipo":
        if label_smoothing:
            raise ValueError("label_smoothing belongs to loss_type 'sigmoid', not to 'ipo'")
        losses = (margin - 1 / (2 * beta)).square()
    else:
        raise ValueError(f"loss_type is 'sigmoid' or 'ipo', got {loss_type!r}")
    return losses, (beta * chosen).detach(), (beta * rejected).detach()
