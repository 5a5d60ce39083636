"""Matrix products of 8-bit integers whose scales are fixed beforehand, so that batches do not change scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ACTIVATION_LEVELS = 255
"""8 bits, from the smallest input to the largest."""
WEIGHT_LEVELS = 127
"""8 bits, symmetric about 0."""
SMALLEST = 1e-10
"""Of a scale: an output whose weights are all zero stays one."""
EXTREME = 10.0
"""Where the largest input is over so many times the median one, the inputs get a scale each."""
QUIET = 0.01
"""An input that is hardly ever active has this share of the largest one's scale at least."""


class Int8Linear(nn.Module):
    """``y = x Wᵀ + b`` on 8-bit integers, with one fixed scale ``s`` and zero ``z`` for inputs and a scale an output.

    With the inputs between l and h over calibration pairs, ``s = (h - l) / 255``, ``z = round(-l / s)`` and
    ``t_n = max_k |W_nk| / 127``, ``y_n = s · t_n · Σ_k (round(x_k / s + z) - z) · round(W_nk / t_n) + b_n``;
    ``round(x_k / s + z)`` is held within 0 and 255.

    A few inputs of a transformer's feed-forward layers are far larger than the others, which one scale would coarsen.
    There ``x_k`` is divided by its own largest magnitude before, and ``W_nk`` multiplied with it, which weights, having
    no such extremes, take well (SmoothQuant, Xiao et al. 2023, arXiv 2211.10438, with all of it moved: α = 1). It costs
    a pass over the inputs, so only layers with such inputs do it.

    onnxruntime's own dynamic quantisation looks for the scale in the batch that it computes, with which a pair's score
    depends on its neighbours.

    Args:
        linear: The layer in float.
        low: (K,) the smallest value of each input that calibration saw (:func:`input_ranges`).
        high: (K,) the largest.

    Shapes: (..., K) to (..., N).
    """

    inverse: Tensor | None
    step: Tensor
    zero: Tensor
    matrix: Tensor
    scale: Tensor

    def __init__(self, linear: nn.Linear, low: Tensor, high: Tensor) -> None:
        super().__init__()
        weight = linear.weight.detach()
        largest = torch.maximum(-low, high)
        inverse = None
        if largest.max() > EXTREME * largest.median():
            largest = largest.clamp_min(QUIET * float(largest.max()))
            inverse, weight = 1 / largest, weight * largest
            low, high = low * inverse, high * inverse
        bottom, top = min(float(low.min()), 0.0), max(float(high.max()), 0.0)
        step = max((top - bottom) / ACTIVATION_LEVELS, SMALLEST)
        scale = (weight.abs().amax(1) / WEIGHT_LEVELS).clamp_min(SMALLEST)
        self.register_buffer("inverse", inverse)
        self.register_buffer("step", torch.tensor(step))
        self.register_buffer("zero", torch.tensor(round(-bottom / step), dtype=torch.uint8))
        self.register_buffer("matrix", (weight / scale.unsqueeze(1)).round().to(torch.int8).T.contiguous())  # (K, N)
        self.register_buffer("scale", scale)
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        """In torch, with floats that hold the integers; in an ONNX export, with onnxruntime's operators."""
        if self.inverse is not None:
            x = x * self.inverse
        if torch.onnx.is_in_onnx_export():
            return self._onnx_product(x)
        zero = self.zero.float()
        integers = ((x / self.step).round() + zero).clamp(0, ACTIVATION_LEVELS) - zero
        y = F.linear(integers, self.matrix.T.float()) * (self.step * self.scale)
        return y if self.bias is None else y + self.bias

    def _onnx_product(self, x: Tensor) -> Tensor:
        symbolic = torch.onnx.ops.symbolic
        given = (x, self.step, self.zero)
        integers = symbolic("::QuantizeLinear", given, {}, dtype=torch.uint8, shape=x.shape)
        return symbolic(
            "com.microsoft::MatMulIntegerToFloat",
            (integers, self.matrix, self.step, self.scale, self.zero, None, self.bias),
            dtype=torch.float32,
            shape=(*x.shape[:-1], self.matrix.shape[1]),
            version=1,
        )


def input_ranges(module: nn.Module, run: Callable[[], object]) -> dict[str, tuple[Tensor, Tensor]]:
    """The smallest and the largest value of each input of every linear layer inside a module, while something is run.

    Args:
        module: Its linear layers are watched.
        run: Calls the module, with the pairs to calibrate on.

    Returns:
        (K,) and (K,) by the layer's name; a layer that was not called is not in it.
    """
    found: dict[str, tuple[Tensor, Tensor]] = {}

    def watch(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def see(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            low, high = inputs[0].detach().reshape(-1, inputs[0].shape[-1]).aminmax(dim=0)
            if name in found:
                low, high = torch.minimum(low, found[name][0]), torch.maximum(high, found[name][1])
            found[name] = low, high

        return see

    linear = {name: layer for name, layer in module.named_modules() if type(layer) is nn.Linear}
    handles = [layer.register_forward_pre_hook(watch(name)) for name, layer in linear.items()]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    return found


def to_int8(module: nn.Module, ranges: Mapping[str, tuple[Tensor, Tensor]]) -> None:
    """Put :class:`Int8Linear` in the place of linear layers.

    Args:
        module: Holds them.
        ranges: What :func:`input_ranges` found; other layers stay as they are.
    """
    for name, (low, high) in ranges.items():
        parent, _, own = name.rpartition(".")
        linear = module.get_submodule(name)
        assert isinstance(linear, nn.Linear)
        setattr(module.get_submodule(parent), own, Int8Linear(linear, low, high))
