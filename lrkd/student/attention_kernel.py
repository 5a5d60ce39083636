"""The attention kernel of the student's encoder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lrkd.student.dropout import fast_dropout

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NAME = "lrkd"


def use_fast_attention(encoder: PreTrainedModel) -> None:
    """Let an encoder attend by :func:`attention`, if its architecture takes attention kernels by name."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    if encoder._supports_sdpa and encoder.config._attn_implementation == "sdpa":
        AttentionInterface.register(NAME, attention)
        AttentionMaskInterface.register(NAME, sdpa_mask)
        encoder.set_attn_implementation(NAME)


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """The sdpa attention of transformers, but for training on CPU, where torch has no fused kernel with dropout.

    There it is ``dropout(softmax(scaling · Q Kᵀ + mask)) V`` in the precision of Q with :func:`fast_dropout`.

    Args:
        module: The attention layer.
        query: (B, heads, L, D).
        key: (B, heads, L, D).
        value: (B, heads, L, D).
        attention_mask: (B or 1, 1, L, L) bool, True where a token is seen, or float, added to the scores; None: all.
        dropout: Probability of dropping an attention weight.
        scaling: Of the scores; 1/√D by default.
        **kwargs: What an architecture adds for sdpa.

    Returns:
        (B, L, heads, D), and None for the weights.
    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    plain = query.shape == key.shape and not any(kwargs.get(k) is not None for k in ("position_bias", "softcap"))
    is_causal = kwargs.get("is_causal")
    causal = attention_mask is None and (getattr(module, "is_causal", True) if is_causal is None else is_causal)
    training_on_cpu = query.device.type == "cpu" and torch.is_grad_enabled() and not torch.compiler.is_compiling()
    if not plain or causal or not training_on_cpu:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    with torch.autocast("cpu", enabled=False):  # softmax in the precision of Q, as the fused kernels do
        scores = (query * (scaling or query.shape[-1] ** -0.5)) @ key.transpose(2, 3)
        if attention_mask is not None and attention_mask.dtype == torch.bool:
            scores = scores.masked_fill_(~attention_mask, torch.finfo(scores.dtype).min)
        elif attention_mask is not None:
            scores = scores + attention_mask
        weights = scores.softmax(-1)
        if dropout > 0:
            weights = fast_dropout(weights, dropout)
        return (weights @ value).transpose(1, 2).contiguous(), None
