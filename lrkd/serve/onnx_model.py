"""A trained student as an ONNX graph: token batches in, logits and latents out, batch and length dynamic."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from lrkd.data.types import TripleBatch
from lrkd.errors import UserError
from lrkd.serve.card import WEIGHTS_FILE
from lrkd.serve.onnx_attention import scaled_dot_product_attention as attention
from lrkd.student import StudentLRKD

INPUTS = ("ids", "mask", "segments", "type_ids")
OPSET = 23
"""The first with operators for attention and GELU, which onnxruntime computes in one pass each."""
ONE_FILE_BYTES = 1_900_000_000
"""Protobuf takes 2 GB at most: a larger model keeps its weights in a file of their own."""


class TensorStudent(nn.Module):
    """A student with tensors for arguments and results, as exporters want it.

    Args:
        student: The student.
    """

    def __init__(self, student: StudentLRKD) -> None:
        super().__init__()
        self.student = student

    def forward(self, ids: Tensor, mask: Tensor, segments: Tensor, type_ids: Tensor) -> tuple[Tensor, ...]:
        """Logits (B, C) before temperature and, with an extractor, latents (B, P, R); arguments are (B, L)."""
        none = ids[:, 0]  # of no meaning: outside training nothing reads it
        output = self.student(TripleBatch(none, none, ids, mask, segments, type_ids, none))
        return (output.logits,) if output.latents is None else (output.logits, output.latents)


def traced(
    module: nn.Module, arguments: tuple[Tensor, ...], inputs: Sequence[str], outputs: Sequence[str] | None = None
) -> torch.onnx.ONNXProgram:
    """``torch.onnx.export(dynamo=True)`` of a module whose arguments all begin with batch and length, both dynamic.

    Args:
        module: Is put into eval mode.
        arguments: An example; at least two rows, so that the batch is not taken for a constant.
        inputs: The arguments' names.
        outputs: The results' names.
    """
    dynamic = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    program = torch.onnx.export(
        module.eval(),
        arguments,
        dynamo=True,
        opset_version=OPSET,
        input_names=inputs,
        output_names=outputs,
        custom_translation_table={torch.ops.aten.scaled_dot_product_attention.default: attention},
        dynamic_shapes=(dynamic,) * len(arguments),
        verbose=False,
    )
    assert program is not None
    return program


def write_onnx(network: TensorStudent, file: Path) -> None:
    """Trace a student (:func:`traced`).

    Args:
        network: Is put into eval mode.
        file: Where the graph goes; weights beyond 2 GB go to a file beside it.

    Raises:
        UserError: The student cannot be traced, as may happen with an extractor of one's own; says where.
    """
    student = network.student
    try:
        with _quiet():
            program = traced(
                network, example(student), INPUTS, ("logits", "latents")[: 1 + (student.extractor is not None)]
            )
    except Exception as error:  # the exporter raises what it comes across
        what = type(student.extractor).__name__ if student.extractor is not None else type(student.encoder).__name__
        reason = str(error.__cause__ or error).strip().partition("\n")[0]
        raise UserError(
            f"the student with {what} cannot be exported: {reason}. Its forward must be traceable by torch.export with "
            "any batch and length (no Python branch on values, no .item()); lrkd.testing.ExtractorContract's "
            "test_onnx_export checks an extractor alone"
        ) from error
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()  # stack traces: most of a small file, with paths of this machine
    size = sum(p.numel() * p.element_size() for p in student.parameters())
    program.save(file, external_data=size > ONE_FILE_BYTES)
    assert size <= ONE_FILE_BYTES or (file.parent / WEIGHTS_FILE).is_file()


def example(student: StudentLRKD, rows: int = 3, length: int = 11) -> tuple[Tensor, ...]:
    """A small batch to trace on: rows of different lengths, query and item."""
    place = torch.arange(length).expand(rows, length)
    ends = torch.arange(length, length - rows, -1).unsqueeze(1)
    mask = place < ends
    special = (place == 0) | (place == 4) | (place == ends - 1) | ~mask
    segments = torch.where(place < 4, 0, 1).masked_fill(special, -1)
    ids = (place + ends).masked_fill(~mask, 0) % int(student.encoder.config.vocab_size)  # type: ignore[union-attr, arg-type]
    return ids, mask, segments, torch.zeros_like(ids)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's remarks on libraries that are not needed, and on its own deprecated calls."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
