"""The most that the machine's matrix products give: what a model's own are measured against."""

from __future__ import annotations

from time import perf_counter

import numpy as np

from lrkd.serve.scorer import session

SIDE = 1024
SECONDS = 2.0
"""How long it is looked for: on a machine that others share, a single product tells little."""


def peak_operations(precision: str, threads: int) -> float:
    """Operations a second (a multiplication and an addition are two) of a large product in onnxruntime.

    Args:
        precision: ``float32``; or ``int8``: unsigned by signed, as in :mod:`lrkd.serve.int8`.
        threads: Threads.
    """
    import onnx
    from onnx import TensorProto, helper

    generator = np.random.default_rng(0)
    dtype: type[np.generic]
    if precision == "int8":
        kind, dtype, out = TensorProto.UINT8, np.uint8, TensorProto.INT32
        weight = onnx.numpy_helper.from_array(generator.integers(-127, 128, (SIDE, SIDE), dtype=np.int8), "w")
        node = helper.make_node("MatMulInteger", ["x", "w"], ["y"])
    else:
        kind, dtype, out = TensorProto.FLOAT, np.float32, TensorProto.FLOAT
        weight = onnx.numpy_helper.from_array(generator.standard_normal((SIDE, SIDE), dtype=np.float32), "w")
        node = helper.make_node("MatMul", ["x", "w"], ["y"])
    shape = [SIDE, SIDE]
    made = [helper.make_tensor_value_info(name, k, shape) for name, k in (("x", kind), ("y", out))]
    graph = helper.make_graph([node], "product", made[:1], made[1:], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    run = session(model.SerializeToString(), threads)
    x = generator.integers(0, 100, shape).astype(dtype)
    begun, best = perf_counter(), float("inf")
    while (started := perf_counter()) - begun < SECONDS:
        run.run(None, {"x": x})
        best = min(best, perf_counter() - started)
    return 2 * SIDE**3 / best
