"""Batches of pairs of like length, the same on any number of processes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from torch.utils.data import DistributedSampler


class BatchRequest(NamedTuple):
    """What the sampler asks of the data set: these rows, in this epoch."""

    epoch: int
    rows: np.ndarray
    """(B,) int64: positions in the data set."""
    repeated: bool
    """Whether the row is another process's, given to a process that would be without: it must count nowhere."""
    step_rows: np.ndarray
    """(N,) int64: all rows of this optimiser step: of all processes and all accumulated batches."""
    step_batches: int
    """Processes × accumulated batches: by what DDP and Lightning divide the step's summed gradients."""


class LengthBucketSampler(DistributedSampler[BatchRequest]):
    """Yields whole batches of pairs of like length, shuffled, with every row once an epoch.

    The global batches (``batch_size`` × processes rows) depend on seed, epoch and the global batch size alone; each
    process takes every n-th row of each. So the number of steps is the same everywhere, and training on two processes
    sees the global batches that one process with twice the batch size sees. It goes to a ``DataLoader`` as ``sampler``
    with ``batch_size=None``; being a ``DistributedSampler``, Lightning leaves it in place and sets its epoch.

    Args:
        lengths: (N,) int: tokens of each row.
        batch_size: Rows a process and step, at most.
        shuffle: Shuffle rows and batches each epoch; else batches run from short to long.
        seed: Of the shuffle.
        num_replicas: Processes.
        rank: This process.
        accumulate: Global batches an optimiser step.
        pool: How many global batches are sorted by length together; fewer is more random, more has less padding.
    """

    def __init__(
        self,
        lengths: np.ndarray,
        batch_size: int,
        *,
        shuffle: bool,
        seed: int = 0,
        num_replicas: int = 1,
        rank: int = 0,
        accumulate: int = 1,
        pool: int = 50,
    ) -> None:
        super().__init__(lengths, num_replicas=num_replicas, rank=rank, shuffle=shuffle, seed=seed)  # type: ignore[arg-type]
        self.lengths = lengths
        self.batch_size = batch_size
        self.accumulate = accumulate
        self.pool = pool
        self.first = 0
        """How many of the epoch's batches are left out at its beginning."""

    @property
    def global_batch_size(self) -> int:
        """Rows a step of all processes together, at most."""
        return self.batch_size * self.num_replicas

    def __len__(self) -> int:
        return math.ceil(len(self.lengths) / self.global_batch_size)

    def global_batches(self) -> list[np.ndarray]:
        """The epoch's global batches, of nearly equal size, each an array of rows."""
        if not len(self.lengths):
            return []
        rng = np.random.default_rng([self.seed, self.epoch])
        order = rng.permutation(len(self.lengths)) if self.shuffle else np.arange(len(self.lengths))
        pools = max(1, round(len(self) / self.pool)) if self.shuffle else 1
        order = np.concatenate([p[np.argsort(self.lengths[p], kind="stable")] for p in np.array_split(order, pools)])
        batches = np.array_split(order, len(self))
        return [batches[i] for i in rng.permutation(len(batches))] if self.shuffle else batches

    def __iter__(self) -> Iterator[BatchRequest]:
        batches = self.global_batches()
        for number in range(self.first, len(batches)):
            begin = number - number % self.accumulate
            step = np.concatenate(batches[begin : begin + self.accumulate])
            # A process without a row would leave the others waiting: it repeats one.
            own = batches[number][self.rank :: self.num_replicas]
            rows = own if len(own) else batches[number][:1]
            yield BatchRequest(self.epoch, rows, not len(own), step, self.num_replicas * self.accumulate)
