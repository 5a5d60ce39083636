"""The log-probabilities of completions under a causal language model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from lrkd.data.prefix_tree import TreeBatch, attention_mask
from lrkd.teacher.tree_attention import tree_attention

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CHUNK = 1024
"""Completion tokens whose logits are in memory at a time."""


def token_logps(model: PreTrainedModel, batch: TreeBatch) -> Tensor:
    """Log-probability of every completion token given what stands before it in its own sequence.

    The language-model head is applied to the places that predict a completion token only, and its logits are made
    anew in the backward pass: prompts are longer than completions, and vocabularies are large.

    Args:
        model: A causal language model, with or without adapters.
        batch: B rows, T completion tokens.

    Returns:
        (T,) float32.

    Raises:
        ValueError: The model's attention takes no mask of who sees whom.
    """
    if model.config._attn_implementation != "sdpa":
        raise ValueError(f"shared prefixes need sdpa attention, the model has {model.config._attn_implementation!r}")
    decoder: Any = model.get_decoder()  # type: ignore[no-untyped-call]
    with tree_attention(model, batch.branch) as settings:
        hidden: Tensor = decoder(
            input_ids=batch.ids,
            attention_mask=attention_mask(batch.branch),
            position_ids=batch.position,
            use_cache=False,
            **settings,
        ).last_hidden_state
    states = hidden.flatten(0, 1)[batch.predictor]
    head = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    pieces = zip(torch.split(states, CHUNK), torch.split(batch.target, CHUNK), strict=True)
    return torch.cat([checkpoint(_logps, head, *piece, use_reentrant=False) for piece in pieces])


def completion_logps(logps: Tensor, batch: TreeBatch) -> tuple[Tensor, Tensor]:
    """Sums (S,) of the token log-probabilities (T,) by completion, and the completions' lengths (S,)."""
    total = logps.new_zeros(batch.completions).index_add(0, batch.completion, logps)
    return total, torch.bincount(batch.completion, minlength=batch.completions)


def _logps(head: Any, states: Tensor, target: Tensor) -> Tensor:
    return -cross_entropy(head(states).float(), target, reduction="none")
