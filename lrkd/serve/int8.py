"""Matrix products of 8-bit integers whose rows do not depend on each other, so that batches do not change scores."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEVELS = 127
"""8 bits, symmetric about 0."""
ZERO = 128
"""What stands for 0: onnxruntime's fast products take unsigned activations and signed weights."""
SMALLEST = 1e-10
"""Of a scale: a row or column of zeros stays one."""


class Int8Linear(nn.Module):
    """``y = x Wᵀ + b`` on 8-bit integers: weights with a scale an output, activations with a scale a token.

    With ``s = max_k |x_k| / 127`` of each row and ``t = max_k |W_nk| / 127`` of each output,
    ``y_n = s · t_n · Σ_k round(x_k / s) · round(W_nk / t_n) + b_n``. onnxruntime's own dynamic quantisation has one
    scale for the whole batch instead, with which a pair's score depends on its neighbours, and one large activation
    coarsens all others (Xiao et al. 2023, arXiv 2211.10438, section 3).

    Args:
        linear: The layer in float.

    Shapes: (..., K) to (..., N).
    """

    matrix: Tensor
    scale: Tensor
    zero: Tensor
    one: Tensor

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight = linear.weight.detach()
        scale = (weight.abs().amax(1) / LEVELS).clamp_min(SMALLEST)
        self.register_buffer("matrix", (weight / scale.unsqueeze(1)).round().to(torch.int8).T.contiguous())  # (K, N)
        self.register_buffer("scale", scale)
        self.register_buffer("zero", torch.tensor(ZERO, dtype=torch.uint8))
        self.register_buffer("one", torch.ones(()))
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        """In torch, with floats that hold the integers; in an ONNX export, with onnxruntime's operators."""
        rows = x.reshape(-1, x.shape[-1])
        step = (rows.abs().amax(1) / LEVELS).clamp_min(SMALLEST)
        product = self._onnx_product(rows, step) if torch.onnx.is_in_onnx_export() else self._product(rows, step)
        y = product * step.unsqueeze(1)
        if self.bias is not None:
            y = y + self.bias
        return y.reshape(*x.shape[:-1], y.shape[-1])

    def _product(self, rows: Tensor, step: Tensor) -> Tensor:
        integers = (rows / step.unsqueeze(1)).round()
        return F.linear(integers, self.matrix.T.float()) * self.scale

    def _onnx_product(self, rows: Tensor, step: Tensor) -> Tensor:
        symbolic = torch.onnx.ops.symbolic
        zeros = self.zero.expand(rows.shape[0])
        integers = symbolic("::QuantizeLinear", (rows, step, zeros), {"axis": 0}, dtype=torch.uint8, shape=rows.shape)
        return symbolic(
            "com.microsoft::MatMulIntegerToFloat",
            (integers, self.matrix, self.one, self.scale, self.zero),
            dtype=torch.float32,
            shape=(rows.shape[0], self.matrix.shape[1]),
            version=1,
        )


def to_int8(module: nn.Module) -> int:
    """Put :class:`Int8Linear` in the place of every linear layer inside a module.

    Returns:
        How many were replaced.
    """
    found = [
        (parent, name)
        for parent in module.modules()
        for name, child in parent.named_children()
        if type(child) is nn.Linear
    ]
    for parent, name in found:
        setattr(parent, name, Int8Linear(getattr(parent, name)))
    return len(found)
