"""What the student's training step sums: each a mean over the optimiser step, of which the batch may be a part."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lrkd.data.types import TripleBatch
from lrkd.losses import Guidance, soft_label_divergence


def label_loss(logits: Tensor, batch: TripleBatch, weight: Tensor, smoothing: float) -> Tensor:
    """Cross-entropy over the pairs whose label is known; 0 where the step has none.

    Args:
        logits: (B, C).
        batch: B pairs.
        weight: (C,) of the labels.
        smoothing: ε, 0 to 1.
    """
    label = batch.label
    each = F.cross_entropy(logits.float(), label, weight, reduction="none", ignore_index=-1, label_smoothing=smoothing)
    labels = batch.step.labels if batch.step else torch.bincount(label[label >= 0], minlength=len(weight))
    return step_mean(each, (weight * labels).sum(), batch)


def soft_label_loss(logits: Tensor, batch: TripleBatch, temperature: float) -> Tensor | None:
    """:func:`~lrkd.losses.soft_label_divergence` over the pairs that have soft labels; 0 where the step has none.

    Args:
        logits: (B, C).
        batch: B pairs.
        temperature: T > 0.

    Returns:
        A scalar, or None where the data has no soft labels at all.
    """
    if batch.soft_label is None or batch.soft_mask is None:
        return None
    each = soft_label_divergence(logits.float(), batch.soft_label, temperature)
    total = batch.step.soft_labels if batch.step and batch.step.soft_labels is not None else batch.soft_mask.sum()
    return step_mean(torch.where(batch.soft_mask, each, 0), total.float(), batch)


def guidance_loss(guidance: Guidance | None, latents: Tensor | None, batch: TripleBatch) -> Tensor | None:
    """The weighted mean guidance over the targets there are; 0 where the step has none.

    Args:
        guidance: The loss.
        latents: (B, P, R).
        batch: B pairs.

    Returns:
        A scalar, or None where there is nothing to guide, or nothing to guide it by.
    """
    if guidance is None or latents is None or batch.targets is None or batch.target_mask is None:
        return None
    given = [batch.targets, batch.target_mask]
    if batch.negatives is not None and batch.negative_mask is not None:
        given += [batch.negatives, batch.negative_mask]
    each = guidance(latents.float(), *given)
    weight = batch.target_mask.float() if batch.target_weight is None else batch.target_weight
    total = batch.step.targets if batch.step else weight.sum()
    return step_mean(torch.where(batch.target_mask, weight * each, 0), total.float(), batch)


def step_mean(values: Tensor, total: Tensor, batch: TripleBatch) -> Tensor:
    """This batch's part of Σ values / total over the optimiser step, times the batches by which the trainer divides."""
    batches = batch.step.batches if batch.step else 1
    return values.sum() * batches / total.clamp_min(torch.finfo(total.dtype).tiny)


def gradient_ratio(guidance: Tensor, ce: Tensor, states: Tensor) -> Tensor:
    """‖∂guidance/∂H‖ / ‖∂CE/∂H‖ at the encoder's last states H (B, L, H)."""
    (pull,) = torch.autograd.grad(guidance, states, retain_graph=True, allow_unused=True)
    (push,) = torch.autograd.grad(ce, states, retain_graph=True)
    ratio: Tensor = (torch.zeros_like(push) if pull is None else pull).norm() / push.norm().clamp_min(1e-12)
    return ratio
