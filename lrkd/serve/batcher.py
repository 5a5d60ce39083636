"""Dynamic batching: the items of requests that wait at the same time are scored together."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from lrkd.errors import UserError
from lrkd.serve.asked import ItemError, item_error

if TYPE_CHECKING:
    from lrkd.serve.scorer import Scorer

log = logging.getLogger(__name__)

Pair = Mapping[str, Any]


@dataclass(frozen=True)
class Verdict:
    """One pair's score.

    Args:
        label: The most probable label.
        gain: The expected gain, by which items are ranked.
        probabilities: (C,) float32.
        tokens_cut: How many of the pair's tokens the model did not see.
        latents: (P, R) float32; None for a model without an extractor.
    """

    label: str
    gain: float
    probabilities: np.ndarray
    tokens_cut: int
    latents: np.ndarray | None


class Full(Exception):
    """More items wait than may."""


@dataclass(eq=False)
class _Job:
    pairs: Sequence[Pair]
    since: float = field(default_factory=perf_counter)
    future: Future[list[Verdict | ItemError]] = field(default_factory=Future)
    begun: int = 0
    found: list[Verdict | ItemError] = field(default_factory=list)


class Batcher:
    """Scores in a thread of its own; while one batch is scored, the next gathers.

    First come, first served. A job may span batches, and a batch jobs. Where a batch fails, its halves are tried, so
    that a pair which the model cannot bear fails alone.

    Args:
        scorer: Scores a batch.
        size: Pairs in a batch, at most.
        wait: Seconds that a pair waits for others while the scorer is idle.
        capacity: Pairs that wait, at most.
        observe: Told the pairs and seconds of every batch.
    """

    def __init__(
        self,
        scorer: Scorer,
        *,
        size: int = 64,
        wait: float = 0.0,
        capacity: int = 2048,
        observe: Callable[[int, float], None] = lambda pairs, seconds: None,
    ) -> None:
        if size < 1 or wait < 0:
            raise UserError(f"batches of {size} pairs after {wait:g} s: wants at least 1 pair and 0 s")
        self.scorer = scorer
        self.size = size
        self.wait = wait
        self.capacity = capacity
        self.observe = observe
        self._jobs: deque[_Job] = deque()
        self._waiting = 0
        self._closed = False
        self._changed = threading.Condition()
        # A daemon: a scorer that hangs must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name="batcher", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Pairs that are accepted and in no batch yet."""
        return self._waiting

    @property
    def alive(self) -> bool:
        """Whether its thread runs."""
        return self._thread.is_alive()

    def submit(self, pairs: Sequence[Pair]) -> Future[list[Verdict | ItemError]]:
        """Have pairs scored. Cancelling the future takes those out that are in no batch yet.

        Raises:
            Full: With these, more than ``capacity`` would wait.
        """
        job = _Job(pairs)
        if not pairs:
            job.future.set_result([])
            return job.future
        with self._changed:
            if self._closed or self._waiting + len(pairs) > self.capacity:
                raise Full
            self._jobs.append(job)
            self._waiting += len(pairs)
            self._changed.notify()
        return job.future

    def close(self, seconds: float = 5.0) -> None:
        """Take no more, and wait until all that was taken is scored, but not for ever."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(seconds)

    def _run(self) -> None:
        while batch := self._gather():
            pairs = [pair for job, start, end in batch for pair in job.pairs[start:end]]
            started = perf_counter()
            found = iter(self._verdicts(pairs))
            self.observe(len(pairs), perf_counter() - started)
            for job, start, end in batch:
                job.found += [next(found) for _ in range(start, end)]
                # False where its client gave up meanwhile
                if end == len(job.pairs) and job.future.set_running_or_notify_cancel():
                    job.future.set_result(job.found)

    def _gather(self) -> list[tuple[_Job, int, int]]:
        """The next batch: parts of jobs, from and to. Empty once closed and done."""
        with self._changed:
            while True:
                self._drop_cancelled()
                if not self._jobs:
                    if self._closed:
                        return []
                    self._changed.wait()
                    continue
                left = self._jobs[0].since + self.wait - perf_counter()
                if self._waiting >= self.size or self._closed or left <= 0:
                    return self._take()
                self._changed.wait(left)

    def _drop_cancelled(self) -> None:
        for job in [job for job in self._jobs if job.future.cancelled()]:
            self._jobs.remove(job)
            self._waiting -= len(job.pairs) - job.begun

    def _take(self) -> list[tuple[_Job, int, int]]:
        parts, room = [], self.size
        while self._jobs and room:
            job = self._jobs[0]
            start, end = job.begun, min(job.begun + room, len(job.pairs))
            parts.append((job, start, end))
            job.begun = end
            room -= end - start
            if end == len(job.pairs):
                self._jobs.popleft()
        self._waiting -= self.size - room
        return parts

    def _verdicts(self, pairs: list[Pair]) -> list[Verdict | ItemError]:
        try:
            return self._score(pairs)
        except Exception as error:
            if len(pairs) == 1:
                return [_failure(error)]
            half = len(pairs) // 2
            return self._verdicts(pairs[:half]) + self._verdicts(pairs[half:])

    def _score(self, pairs: list[Pair]) -> list[Verdict | ItemError]:
        scored = self.scorer.score(pairs)
        finite = np.isfinite(scored.probabilities).all(axis=1).tolist()
        latents = [None] * len(pairs) if scored.latents is None else scored.latents
        columns = (scored.labels, scored.gains.tolist(), scored.probabilities, scored.tokens_cut.tolist(), latents)
        rows = zip(pairs, finite, *columns, strict=True)
        return [Verdict(*row) if fine else _failure(None) for _, fine, *row in rows]


def _failure(error: Exception | None) -> ItemError:
    if isinstance(error, UserError):
        return item_error(error)
    log.error("the model failed on a pair", exc_info=error)
    return ItemError("the model failed on this pair; the server's log says how", ours=True)
