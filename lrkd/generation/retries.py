"""Asking again: exponential backoff for one request, and a pause of all where the server asks for it."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TypeVar

T = TypeVar("T")

LONGEST_BACKOFF = 60.0
LONGEST_PAUSE = 3600.0


class Unanswered(Exception):
    """A request that failed in a way that may pass.

    Args:
        reason: What happened, for people to read.
        rate_limited: Whether the server is asked too much.
        wait: Seconds that the server wants nothing, at least.
    """

    def __init__(self, reason: str, *, rate_limited: bool = False, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.rate_limited = rate_limited
        self.wait = wait


@dataclass
class Retries:
    """Repeats requests that run side by side until each is answered.

    The k-th failure of a request in a row makes it wait ``backoff · 2^(k-1)`` seconds, a minute at most, ±25 % by
    chance, and as long as the server says at least. A rate limit, or a time that the server says, holds back all
    requests. Rate limits are counted only while nobody gets through: on a server that takes five requests a minute,
    one that is always sixth has not failed.

    Args:
        max_retries: Repetitions of a request at most.
        backoff: Seconds before the first one.
    """

    max_retries: int
    backoff: float
    answered: int = 0
    _until: float = field(default=0.0, init=False)
    _chance: random.Random = field(default_factory=random.Random, init=False)  # the user's own draws stay as they are

    async def until_answered(self, ask: Callable[[], Awaitable[T]]) -> T:
        """The answer of ``ask``, called again after each :class:`Unanswered`.

        Raises:
            Unanswered: The retries are used up, or the server wants nothing for more than an hour; says so, and the
                last failure.
        """
        failures = 0
        seen = self.answered
        while True:
            await self._pause()
            try:
                answer = await ask()
            except Unanswered as failure:
                if failure.rate_limited and self.answered > seen:
                    failures = 0
                seen = self.answered
                failures += 1
                if failures > self.max_retries or failure.wait > LONGEST_PAUSE:
                    asked = f" (it asks to wait {failure.wait:,.0f} s)" if failure.wait else ""
                    raise Unanswered(f"after {failures - 1} retries: {failure}{asked}") from failure
                await self._wait_after(failure, failures)
            else:
                self.answered += 1
                return answer

    async def _wait_after(self, failure: Unanswered, failures: int) -> None:
        own = min(self.backoff * 2 ** (failures - 1), LONGEST_BACKOFF) * self._chance.uniform(0.75, 1.25)
        seconds = max(own, failure.wait)
        if failure.rate_limited or failure.wait:
            self._until = max(self._until, time.monotonic() + seconds)
        else:
            await asyncio.sleep(seconds)

    async def _pause(self) -> None:
        while (left := self._until - time.monotonic()) > 0:
            await asyncio.sleep(left * self._chance.uniform(1, 1.25))  # not all at the same moment


def retry_after(headers: Mapping[str, str]) -> float:
    """Seconds that a response's Retry-After asks for: a number or a date (RFC 9110, 10.2.3); 0 where it asks for none.

    Args:
        headers: The response's, by lower-case names.
    """
    value = headers.get("retry-after", "").strip()
    try:
        seconds = float(value)
    except ValueError:
        try:
            date = parsedate_to_datetime(value)
        except ValueError:
            return 0.0
        now = datetime.now(UTC)
        seconds = (date.replace(tzinfo=date.tzinfo or UTC) - now).total_seconds()
    return max(seconds, 0.0) if seconds == seconds else 0.0  # not NaN
