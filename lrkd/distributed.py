"""What the processes of a distributed run tell each other."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor


def _alone() -> bool:
    return not (dist.is_available() and dist.is_initialized())


def gather_rows(rows: Tensor) -> tuple[Tensor, int]:
    """The rows of all processes, without gradient; every process has to call it.

    Args:
        rows: (B, ...); B may differ between processes, the other dimensions may not.

    Returns:
        (N, ...): the rows of process 0, 1, ...; and where this process's own begin in it. With one process the rows
        themselves, and 0.
    """
    if _alone():
        return rows.detach(), 0
    sizes = [torch.zeros(1, dtype=torch.long, device=rows.device) for _ in range(dist.get_world_size())]
    dist.all_gather(sizes, torch.tensor([len(rows)], device=rows.device))
    count = [int(size) for size in sizes]
    padded = F.pad(rows.detach(), (0, 0) * (rows.dim() - 1) + (0, max(count) - len(rows))).contiguous()
    gathered = [torch.empty_like(padded) for _ in count]
    dist.all_gather(gathered, padded)
    kept = [part[:size] for part, size in zip(gathered, count, strict=True)]
    return torch.cat(kept), sum(count[: dist.get_rank()])


def gather_objects(value: Any) -> list[Any]:
    """Each process's value, in the order of the processes; every process has to call it."""
    if _alone():
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values
