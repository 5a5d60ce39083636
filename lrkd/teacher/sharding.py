"""A teacher whose weights are shared out among the processes (PyTorch's FSDP2).

Every forward pass is then collective: all processes gather a layer's weights together. So all of them must make as many
passes, whatever each has to compute.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import MethodType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor

from lrkd.teacher.likelihood import token_logps


def shard(llm: Any, mesh: Any) -> None:
    """Share out a language model's weights, layer by layer, with the rest (embeddings, head) as one more part.

    Args:
        llm: A causal language model, with or without adapters; its weights are on any device, the same everywhere.
        mesh: The processes, as a one-dimensional device mesh.
    """
    kinds = set(llm._no_split_modules)  # transformers' name for a model's layers
    for layer in [module for module in llm.modules() if type(module).__name__ in kinds]:
        fully_shard(layer, mesh=mesh)
    fully_shard(llm, mesh=mesh)
    # Not a call of the model: FSDP must be told that it gathers the weights there, too.
    llm.token_logps = MethodType(token_logps, llm)
    register_fsdp_forward_method(llm, "token_logps")


def is_sharded(llm: Any) -> bool:
    """Whether :func:`shard` was called on a model."""
    return isinstance(llm, FSDPModule)


def most(count: int, device: torch.device) -> int:
    """The largest of the processes' counts."""
    counts = torch.tensor(count, device=device)
    dist.all_reduce(counts, dist.ReduceOp.MAX)
    return int(counts)


@contextmanager
def in_step(llm: Any) -> Iterator[None]:
    """Within it processes may run a sharded model as often as each likes: who is done runs along till all are.

    Without gradients. Where the model is not sharded this does nothing.
    """
    if not is_sharded(llm):
        yield
        return
    device = llm.device

    def announce(*_: Any) -> None:
        most(1, device)

    announcing = llm.register_forward_pre_hook(announce, prepend=True)
    yield  # on an error the others are not waited for: the whole run ends
    announcing.remove()
    token = torch.zeros(1, 1, dtype=torch.long, device=device)
    with torch.no_grad():
        while most(0, device):
            llm(input_ids=token, use_cache=False)


def whole(tensor: Tensor) -> Tensor:
    """A tensor in full, of which each process may have a part; every process has to call it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
