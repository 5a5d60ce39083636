"""Attention over packed prefix trees, for CPU: only what sees each other is computed, and a faster backward pass.

``scaled_dot_product_attention`` on CPU computes a masked row in full, and its backward pass takes six times as long as
its forward pass. Here the prefix attends to itself, and each branch to its prefix and itself, so that most of the mask
is never computed; the backward pass is written as matrix products. Scores and their softmax are float32 in both passes,
as there.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NAME = "lrkd_packed_trees"
SCORES = 1 << 20
"""Scores of the backward pass that are in memory at a time."""
EXTRAS = ("softcap", "position_bias", "s_aux")
"""What some architectures add to attention."""


@dataclass
class Part:
    """Queries of some sequences that see some keys; S sequences, Q queries and K keys each, padded."""

    query: Tensor
    """(S, Q) int64: places, counted through all rows."""
    key: Tensor
    """(S, K) int64: places, counted through all rows."""
    bias: Tensor
    """(S, Q, K) float32: 0 where a query sees a key, else -inf."""


@dataclass
class Layout:
    """Who sees whom in B packed rows of L places."""

    parts: list[Part]
    """All prefixes, and all branches."""
    place: Tensor
    """(B · L,) int64: where, counted through the queries of all parts, a place's result stands."""


def layout(branch: Tensor) -> Layout:
    """How to compute the attention of packed rows.

    Args:
        branch: (B, L) int64, as in :class:`~lrkd.data.prefix_tree.TreeBatch`: 0 prefix, 1 and up branches, -1 padding.
    """
    rows, length = branch.shape
    prefix = (branch == 0).sum(1)
    # Branches lie one after the other, each in one piece.
    number = (branch + torch.arange(rows, device=branch.device).unsqueeze(1) * (length + 1)).flatten()
    places = torch.nonzero(branch.flatten() > 0).squeeze(1)
    names, sizes = torch.unique_consecutive(number[places], return_counts=True)
    row, first = names // (length + 1), places[sizes.cumsum(0) - sizes]
    place = torch.zeros(rows * length, dtype=torch.long, device=branch.device)
    parts, count = [], 0
    widest = int(prefix.max())
    steps = torch.arange(length, device=branch.device)
    if widest:
        own = torch.arange(rows, device=branch.device).unsqueeze(1) * length + steps[:widest]
        causal = steps[:widest].unsqueeze(1) >= steps[:widest]
        parts.append(Part(own, own, _bias(causal.expand(rows, -1, -1))))
        place[own] = torch.arange(own.numel(), device=branch.device).view_as(own)
        count = own.numel()
    if len(sizes):
        longest = int(sizes.max())
        inside = steps[:longest] < sizes.unsqueeze(1)
        own = first.unsqueeze(1) + torch.where(inside, steps[:longest], 0)
        shared = row.unsqueeze(1) * length + steps[:widest]
        seen_prefix = (steps[:widest] < prefix[row].unsqueeze(1)).unsqueeze(1).expand(-1, longest, -1)
        causal = (steps[:longest].unsqueeze(1) >= steps[:longest]).expand(len(sizes), -1, -1)
        parts.append(Part(own, torch.cat([shared, own], 1), _bias(torch.cat([seen_prefix, causal], 2))))
        numbers = count + torch.arange(own.numel(), device=branch.device).view_as(own)
        place[own[inside]] = numbers[inside]
    return Layout(parts, place)


def _bias(seen: Tensor) -> Tensor:
    return torch.zeros(seen.shape, device=seen.device).masked_fill_(~seen, float("-inf"))


class TreeAttention(torch.autograd.Function):
    """``softmax(scaling · Q Kᵀ + bias) V`` of every part of a layout."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, tree: Layout, scaling: float) -> Tensor:
        """Query (B, H, L, D), key and value (B, G, L, D); H is a multiple of G. Gives (B, L, H, D)."""
        ctx.tree, ctx.scaling, ctx.shape = tree, scaling, query.shape
        query, key, value = (_by_place(x) for x in (query, key, value))
        outs, saved = [], []
        for part in tree.parts:
            q, k, v = _laid(query[part.query], key.shape[1]), _heads(key[part.key]), _heads(value[part.key])
            bias = part.bias.to(q.dtype).repeat(1, q.shape[2] // part.query.shape[1], 1).unsqueeze(1)
            out, logsum = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
                q, k, v, attn_mask=bias, scale=scaling
            )
            saved += [out, logsum]
            outs.append(_unlaid(out, part.query.shape[1]).flatten(0, 1))
        ctx.save_for_backward(query, key, value, *saved)
        batch, heads, length, size = ctx.shape
        return torch.cat(outs)[tree.place].view(batch, length, heads, size)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """The scores are made anew from queries and keys; gradients of shared places are summed in float32."""
        query, key, value, *saved = ctx.saved_tensors
        batch, heads, length, size = ctx.shape
        grad = grad.reshape(batch * length, heads, size)
        ends = torch.cat([part.query.flatten() for part in ctx.tree.parts])
        # A place's result is taken once: padded queries, which repeat a place, get no gradient.
        taken = torch.zeros(len(ends), dtype=torch.bool).index_fill_(0, ctx.tree.place, True)
        grads = [torch.zeros(x.shape, dtype=torch.float32) for x in (query, key, value)]
        start = 0
        for part, out, logsum in zip(ctx.tree.parts, saved[::2], saved[1::2], strict=True):
            sequences, queries = part.query.shape
            used = taken[start : start + part.query.numel()].view(sequences, queries)
            start += part.query.numel()
            step = max(1, SCORES // (heads * queries * part.key.shape[1]))
            for some in (slice(i, i + step) for i in range(0, sequences, step)):
                places, seen = part.query[some], part.key[some]
                upstream = grad[places] * used[some, :, None, None]
                q, k, v = _laid(query[places], key.shape[1]), _heads(key[seen]), _heads(value[seen])
                found = _gradients(
                    q, k, v, out[some], logsum[some], _laid(upstream, key.shape[1]), part.bias[some], ctx.scaling
                )
                grads[0].index_add_(0, places.flatten(), _unlaid(found[0], queries).flatten(0, 1).float())
                for total, one in zip(grads[1:], found[1:], strict=True):
                    total.index_add_(0, seen.flatten(), one.transpose(1, 2).flatten(0, 1).float())
        back = [
            x.to(y.dtype).view(batch, length, -1, size).transpose(1, 2)
            for x, y in zip(grads, (query, key, value), strict=True)
        ]
        return *back, None, None


def _gradients(
    q: Tensor, k: Tensor, v: Tensor, out: Tensor, logsum: Tensor, grad: Tensor, bias: Tensor, scaling: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Of queries, keys and values: (S, G, H/G · Q, D), keys and values (S, G, K, D)."""
    sequences, shared, rows, _ = q.shape
    dtype, shape = q.dtype, (sequences, shared, rows // bias.shape[1], *bias.shape[1:])
    # A column more subtracts the logarithm of each row's sum: the product is the weights' logarithm but for the bias.
    left = torch.cat([q.float() * scaling, logsum.reshape(sequences, shared, rows, 1).neg()], -1)
    right = torch.cat([k.float(), torch.ones_like(k[..., :1], dtype=torch.float32)], -1)
    weight = torch.matmul(left, right.transpose(2, 3))
    weight.view(shape).add_(bias[:, None, None])
    weight.exp_()
    delta = (grad.float() * out.float()).sum(-1, keepdim=True)
    score = torch.matmul(grad, v.transpose(2, 3)).sub(delta).mul_(weight).to(dtype)
    weight = weight.to(dtype)
    return (score @ k) * scaling, (score.transpose(2, 3) @ q) * scaling, weight.transpose(2, 3) @ grad


def _by_place(x: Tensor) -> Tensor:
    """(B, H, L, D) as (B · L, H, D)."""
    return x.transpose(1, 2).reshape(-1, x.shape[1], x.shape[3])


def _heads(x: Tensor) -> Tensor:
    """(S, K, G, D) as (S, G, K, D)."""
    return x.transpose(1, 2).contiguous()


def _laid(x: Tensor, shared: int) -> Tensor:
    """(S, Q, H, D) as (S, G, H/G · Q, D): the query heads that share a key head, one after the other."""
    sequences, queries, heads, size = x.shape
    return (
        x.view(sequences, queries, shared, heads // shared, size)
        .permute(0, 2, 3, 1, 4)
        .reshape(sequences, shared, -1, size)
    )


def _unlaid(x: Tensor, queries: int) -> Tensor:
    """The way back from :func:`_laid`: (S, Q, H, D)."""
    sequences, shared, rows, size = x.shape
    return x.view(sequences, shared, rows // queries, queries, size).permute(0, 3, 1, 2, 4).flatten(2, 3)


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    *,
    tree_layout: Layout | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """:class:`TreeAttention`; or sdpa with the mask, where an architecture adds to attention.

    Args:
        module: The attention layer.
        query: (B, heads, L, D).
        key: (B, key heads, L, D).
        value: (B, key heads, L, D).
        attention_mask: (B, 1, L, L) bool.
        dropout: Probability of dropping an attention weight.
        scaling: Of the scores; 1/√D by default.
        tree_layout: The rows' layout, where the architecture hands it on.
        **kwargs: What an architecture adds for sdpa.

    Returns:
        (B, L, heads, D), and None for the weights.
    """
    if torch.is_autocast_enabled("cpu"):  # as it does before sdpa
        dtype = torch.get_autocast_dtype("cpu")
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    plain = dropout == 0 and query.dtype == key.dtype == value.dtype and value.shape == key.shape
    if tree_layout is None or not plain or any(kwargs.get(name) is not None for name in EXTRAS):
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    with torch.autocast("cpu", enabled=False):
        out: Tensor = TreeAttention.apply(query, key, value, tree_layout, scaling or query.shape[-1] ** -0.5)  # type: ignore[no-untyped-call]
    return out, None


AttentionInterface.register(NAME, attention)
AttentionMaskInterface.register(NAME, sdpa_mask)


@contextmanager
def tree_attention(model: PreTrainedModel, branch: Tensor) -> Iterator[dict[str, Any]]:
    """Within it a model on CPU attends by :func:`attention`; the keyword arguments that it gives are for its decoder.

    With gradient checkpointing, which runs layers again later, nothing changes.

    Args:
        model: A causal language model with sdpa attention, with or without adapters.
        branch: (B, L) int64, as in :class:`~lrkd.data.prefix_tree.TreeBatch`.
    """
    config = model.get_decoder().config  # type: ignore[no-untyped-call]
    if branch.device.type != "cpu" or any(getattr(m, "gradient_checkpointing", False) for m in model.modules()):
        yield {}
        return
    config._attn_implementation = NAME
    try:
        yield {"tree_layout": layout(branch)}
    finally:
        config._attn_implementation = "sdpa"
