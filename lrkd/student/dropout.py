"""Dropout whose random numbers do not take a fifth of a training step on CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

KEEP_STEPS = 1 << 15  # the keep probability is a multiple of 2^-15


def fast_dropout(x: Tensor, p: float) -> Tensor:
    """Inverted dropout as :func:`torch.nn.functional.dropout` in training, with a faster generator on CPU.

    There, torch draws one Mersenne-Twister number an element, one by one. Here NumPy's SFC64 draws four elements
    at once, and bit masks drop them. The generator is seeded from torch's at every call, so a seed, or a checkpoint
    that holds torch's generator state, decides everything. Other devices, double precision and compiled code use
    torch's own.

    Args:
        x: Any shape, float.
        p: Probability of dropping an element, 0 to 1; on CPU rounded to 2⁻¹⁵.

    Returns:
        ``x / (1 - p)`` where kept, 0 where dropped.
    """
    keep = round((1 - p) * KEEP_STEPS)
    if x.device.type != "cpu" or x.element_size() > 4 or keep == 0 or torch.compiler.is_compiling():
        return F.dropout(x, p, training=True)
    dropped: Tensor = _BitMaskDropout.apply(x, keep)  # type: ignore[no-untyped-call]
    return dropped


class Dropout(nn.Dropout):
    """:class:`torch.nn.Dropout` by :func:`fast_dropout`."""

    def forward(self, x: Tensor) -> Tensor:
        """``x`` in evaluation; in training, with some elements dropped and the others scaled up."""
        return fast_dropout(x, self.p) if self.training and self.p > 0 else x


def replace_dropout(module: nn.Module) -> None:
    """Put :class:`Dropout` in the place of every :class:`torch.nn.Dropout` inside ``module``."""
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.Dropout:
                setattr(parent, name, Dropout(child.p).train(child.training))


class _BitMaskDropout(torch.autograd.Function):
    """Scales, then keeps or clears all bits of an element; the mask is saved for the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, keep: int) -> Tensor:
        mask = _keep_mask(x.shape, keep).to(torch.int16 if x.element_size() == 2 else torch.int32)
        ctx.save_for_backward(mask)
        ctx.scale = KEEP_STEPS / keep
        return _scaled_and_masked(x, ctx.scale, mask)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (mask,) = ctx.saved_tensors
        return _scaled_and_masked(gradient, ctx.scale, mask), None


def _scaled_and_masked(x: Tensor, scale: float, mask: Tensor) -> Tensor:
    scaled = (x * scale).contiguous()
    scaled.view(mask.dtype).bitwise_and_(mask)
    return scaled


def _keep_mask(shape: torch.Size, keep: int) -> Tensor:
    """int16: -1 (all bits set) with probability ``keep / KEEP_STEPS``, else 0."""
    size = shape.numel()
    generator = np.random.SFC64(int(torch.randint(2**62, ())))
    bits = torch.from_numpy(generator.random_raw(-(-size // 4)).view(np.int16))[:size].view(shape)
    # Uniform on [-2^14, 2^14) after the shift; the difference's sign bit, spread over the word, is the decision.
    return bits.bitwise_right_shift_(1).sub_(keep - KEEP_STEPS // 2).bitwise_right_shift_(15)
