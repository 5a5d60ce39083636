"""torch's attention as ONNX's, in the layout that needs no transposes."""

from __future__ import annotations

from typing import Any

from onnxscript import opset23

op: Any = opset23
"""Its stubs know the values of a traced graph only as tensors of any type."""


def scaled_dot_product_attention(
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    """``aten.scaled_dot_product_attention`` for torch.onnx.export's ``custom_translation_table``.

    ONNX's Attention takes (B, H, L, D), as torch does, or (B, L, H · D), as products with weights give it. torch's own
    translation is the first, with the four transposes that transformers puts around each attention. Here they are
    undone before and made again after; the exporter drops a transpose and its inverse, and nothing is left of them.

    Args:
        query: (B, H, L, D).
        key: (B, H', S, D).
        value: (B, H', S, D).
        attn_mask: To be broadcast to (B, H, L, S); bool, or float to be added.
        dropout_p: 0: a graph does not train.
        is_causal: Whether a place sees none after it.
        scale: Of the scores; 1/√D by default.
        enable_gqa: Whether H may be a multiple of H', which ONNX allows anyway.

    Raises:
        ValueError: Dropout, or arguments of other ranks; the export names it.
    """
    if dropout_p or any(len(x.shape) != 4 for x in (query, key, value)):
        raise ValueError("attention is exported with four dimensions (B, H, L, D) and without dropout")
    heads, shared = query.shape[1], key.shape[1]
    joined = _joined(query)
    out, *_ = op.Attention(
        joined,
        _joined(key),
        _joined(value),
        _for_every_place(attn_mask, joined),
        q_num_heads=heads,
        kv_num_heads=shared,
        scale=scale,
        is_causal=int(is_causal),
    )
    return op.Transpose(op.Reshape(out, op.Constant(value_ints=[0, 0, heads, -1])), perm=[0, 2, 1, 3])


def _joined(x: Any) -> Any:
    """(B, H, L, D) as (B, L, H · D)."""
    return op.Reshape(op.Transpose(x, perm=[0, 2, 1, 3]), op.Constant(value_ints=[0, 0, -1]))


def _for_every_place(mask: Any, joined: Any) -> Any:
    """A mask (..., 1, S) as (..., L, S): onnxruntime broadcasts batch and heads alone."""
    if mask is None or mask.shape[-2] != 1:
        return mask
    one = op.Constant(value_ints=[1])
    return op.Expand(mask, op.Concat(one, one, op.Shape(joined, start=1, end=2), one, axis=0))
