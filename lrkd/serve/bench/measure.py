"""The measurements of a benchmark: warm, contenders in turn, tokenisation included."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from lrkd.serve.bench.contender import Worker
from lrkd.serve.bench.pairs import Pair

SIZES = (16, 32, 64, 128, 256)
"""Sizes of a batch among which the best is taken for a contender that takes one."""
MIN_REPEAT, MAX_REPEAT = 5, 1000


@dataclass(frozen=True)
class Cell:
    """What is measured: requests of ``batch`` pairs of ``length`` tokens, with so many threads."""

    batch: int
    length: int
    threads: int


@dataclass
class Timing:
    """A contender's requests in one cell, or its passes over a stream.

    Args:
        pairs: Pairs a request.
        seconds: Of each request, over all rounds.
        size: The size of batch that it was asked to score them in.
    """

    pairs: int
    seconds: list[float] = field(default_factory=list)
    size: int = 0

    def percentile(self, q: float) -> float:
        """Milliseconds within which ``q`` per cent of the requests were answered."""
        return float(np.percentile(self.seconds, q)) * 1000

    @property
    def rate(self) -> float:
        """Pairs a second: of the median request."""
        return self.pairs / float(np.median(self.seconds))


def requests(
    workers: Sequence[Worker],
    cells: dict[Cell, list[Pair]],
    rounds: int,
    seconds: float,
    tell: Callable[[str], None] = lambda _: None,
) -> dict[Cell, dict[str, Timing]]:
    """Time requests.

    Every worker first answers each cell's requests once or twice, unmeasured. Then, round by round, all answer the same
    requests of a cell in turn, every other round backwards, so that what drifts, drifts for all.

    Args:
        workers: All with the cells' number of threads.
        cells: What is asked in each.
        rounds: How often.
        seconds: How long a worker answers a cell's requests in a round, about.
        tell: Told what is going on.

    Returns:
        Timings by cell and contender's name.
    """
    found = {cell: {w.contender.name: Timing(cell.batch, size=cell.batch) for w in workers} for cell in cells}
    repeats: dict[tuple[Cell, str], int] = {}
    for cell, pairs in cells.items():
        for worker in workers:
            once = min(worker.seconds(pairs, repeat=2, size=cell.batch))
            repeats[cell, worker.contender.name] = min(max(MIN_REPEAT, round(seconds / once)), MAX_REPEAT)
    for number in range(rounds):
        tell(f"round {number + 1} of {rounds}")
        for cell, pairs in cells.items():
            for worker in list(workers)[:: -1 if number % 2 else 1]:
                name = worker.contender.name
                found[cell][name].seconds += worker.seconds(pairs, repeat=repeats[cell, name], size=cell.batch)
    return found


def stream(
    workers: Sequence[Worker], pairs: Sequence[Pair], rounds: int, tell: Callable[[str], None] = lambda _: None
) -> dict[str, Timing]:
    """Time passes over many pairs of mixed lengths, each contender with the batch size that suits it best.

    Args:
        workers: All with the same number of threads.
        pairs: What they score.
        rounds: How often, in turn.
        tell: Told what is going on.
    """
    found = {}
    for worker in workers:
        tell(f"batch size of {worker.contender.name}")
        sizes = SIZES[:1] if worker.contender.kind == "export" else SIZES  # an export has a budget of tokens
        trial = {size: min(worker.seconds(pairs, repeat=2, size=size)) for size in sizes}
        found[worker.contender.name] = Timing(len(pairs), size=min(trial, key=trial.__getitem__))
    for number in range(rounds):
        tell(f"stream, round {number + 1} of {rounds}")
        for worker in list(workers)[:: -1 if number % 2 else 1]:
            timing = found[worker.contender.name]
            timing.seconds += worker.seconds(pairs, repeat=1, size=timing.size)
    return found
