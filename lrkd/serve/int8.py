"""Matrix products of 8-bit integers whose scales are fixed beforehand, so that batches do not change scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEVELS = 127
"""8 bits, symmetric about 0."""
ZERO = 128
"""What stands for 0: onnxruntime's fast products take unsigned activations and signed weights."""
SMALLEST = 1e-10
"""Of a scale: an output whose weights are all zero stays one."""
QUIET = 0.01
"""An input that is hardly ever active has this share of the loudest one's range at least."""


class Int8Linear(nn.Module):
    """``y = x Wᵀ + b`` on 8-bit integers: a fixed scale an input, which the weights take over, and one an output.

    With ``s_k = max |x_k| / 127`` over calibration pairs, ``V_nk = s_k W_nk`` and ``t_n = max_k |V_nk| / 127``,
    ``y_n = t_n · Σ_k round(x_k / s_k) · round(V_nk / t_n) + b_n``; ``round(x_k / s_k)`` is held within 8 bits. A few
    inputs of a transformer are far larger than the others, which one scale for all would coarsen; weights have no such
    extremes, and take the difference well (SmoothQuant, Xiao et al. 2023, arXiv 2211.10438, with all of it moved:
    α = 1). onnxruntime's own dynamic quantisation has one scale for the whole batch instead, with which a pair's score
    depends on its neighbours; a scale a row, found while scoring, takes several passes over the activations.

    Args:
        linear: The layer in float.
        largest: (K,) the largest magnitude of each input that calibration saw (:func:`largest_inputs`).

    Shapes: (..., K) to (..., N).
    """

    matrix: Tensor
    inverse: Tensor
    scale: Tensor
    zero: Tensor
    one: Tensor

    def __init__(self, linear: nn.Linear, largest: Tensor) -> None:
        super().__init__()
        step = largest.clamp_min(max(SMALLEST, QUIET * float(largest.max()))) / LEVELS
        weight = linear.weight.detach() * step
        scale = (weight.abs().amax(1) / LEVELS).clamp_min(SMALLEST)
        self.register_buffer("matrix", (weight / scale.unsqueeze(1)).round().to(torch.int8).T.contiguous())  # (K, N)
        self.register_buffer("inverse", 1 / step)
        self.register_buffer("scale", scale)
        self.register_buffer("zero", torch.tensor(ZERO, dtype=torch.uint8))
        self.register_buffer("one", torch.ones(()))
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        """In torch, with floats that hold the integers; in an ONNX export, with onnxruntime's operators."""
        scaled = x * self.inverse
        if torch.onnx.is_in_onnx_export():
            return self._onnx_product(scaled)
        integers = scaled.round().clamp(-ZERO, ZERO - 1)
        y = F.linear(integers, self.matrix.T.float()) * self.scale
        return y if self.bias is None else y + self.bias

    def _onnx_product(self, scaled: Tensor) -> Tensor:
        symbolic = torch.onnx.ops.symbolic
        given = (scaled, self.one, self.zero)
        integers = symbolic("::QuantizeLinear", given, {}, dtype=torch.uint8, shape=scaled.shape)
        return symbolic(
            "com.microsoft::MatMulIntegerToFloat",
            (integers, self.matrix, self.one, self.scale, self.zero, None, self.bias),
            dtype=torch.float32,
            shape=(*scaled.shape[:-1], self.matrix.shape[1]),
            version=1,
        )


def largest_inputs(module: nn.Module, run: Callable[[], object]) -> dict[str, Tensor]:
    """The largest magnitude of each input of every linear layer inside a module, while something is run.

    Args:
        module: Its linear layers are watched.
        run: Calls the module, with the pairs to calibrate on.

    Returns:
        (K,) by the layer's name; a layer that was not called is not in it.
    """
    found: dict[str, Tensor] = {}

    def watch(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def see(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            largest = inputs[0].detach().abs().reshape(-1, inputs[0].shape[-1]).amax(0)
            found[name] = torch.maximum(found[name], largest) if name in found else largest

        return see

    linear = {name: layer for name, layer in module.named_modules() if type(layer) is nn.Linear}
    handles = [layer.register_forward_pre_hook(watch(name)) for name, layer in linear.items()]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    return found


def to_int8(module: nn.Module, largest: Mapping[str, Tensor]) -> None:
    """Put :class:`Int8Linear` in the place of linear layers.

    Args:
        module: Holds them.
        largest: What :func:`largest_inputs` found; other layers stay as they are.
    """
    for name, values in largest.items():
        parent, _, own = name.rpartition(".")
        linear = module.get_submodule(name)
        assert isinstance(linear, nn.Linear)
        setattr(module.get_submodule(parent), own, Int8Linear(linear, values))
