"""Requests from their body to their answer: who may ask, whether there is room, what is said."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from time import perf_counter
from typing import Any

from starlette.requests import ClientDisconnect, Request

from lrkd.serve.asked import Asked, ItemError, RequestReader
from lrkd.serve.batcher import Batcher, Full, Verdict
from lrkd.serve.limits import Limits
from lrkd.serve.model import Model
from lrkd.serve.monitoring import Metrics
from lrkd.serve.refusals import Refused, busy
from lrkd.serve.request_body import parse_json, read_body

log = logging.getLogger(__name__)

CLIENT_GONE = 499
"""Counted where the client went away before its answer; nobody receives it."""


class Service:
    """One model, behind limits.

    Args:
        model: The model.
        limits: How much is taken.
        batch_items: Items scored together, at most.
        wait_ms: Milliseconds that an item waits for others while the model is idle.
        api_key: What clients must send as ``Authorization: Bearer ...``; None: nothing.
    """

    def __init__(
        self,
        model: Model,
        limits: Limits,
        *,
        batch_items: int = 64,
        wait_ms: float = 0.0,
        api_key: str | None = None,
    ) -> None:
        self.model = model
        self.limits = limits
        self.needs_key = api_key is not None
        self._key = hashlib.sha256((api_key or "").encode()).digest()
        self.metrics = Metrics(model, lambda: self.batcher.waiting, lambda: self.unready() is None)
        self.batcher = Batcher(
            model.scorer,
            size=batch_items,
            wait=wait_ms / 1000,
            capacity=limits.waiting,
            observe=self.metrics.batch,
        )
        self.reader = RequestReader(limits, model.scorer.check, explains=model.index is not None)
        self.draining = False
        self.accepted = 0
        """Requests that were accepted and have no answer yet."""
        self.lost = 0
        """Requests that were accepted and whose answer a shutdown cut off."""

    def unready(self) -> str | None:
        """Why no request would be taken now; None: one would."""
        if self.draining:
            return "the server is shutting down"
        if not self.batcher.alive:
            return "the scorer has ended; restart the server"
        if self.batcher.waiting >= self.limits.waiting:
            return f"{self.batcher.waiting:,} items wait already"
        return None

    def check_key(self, request: Request) -> None:
        """Refuse who has not the key.

        Raises:
            Refused: 401.
        """
        if not self.needs_key:
            return
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        same = hmac.compare_digest(hashlib.sha256(given.strip().encode("latin-1")).digest(), self._key)
        if scheme.lower() != "bearer" or not same:
            raise Refused(401, "send the key as Authorization: Bearer KEY", headers={"WWW-Authenticate": "Bearer"})

    async def score(self, request: Request) -> tuple[int, dict[str, Any]]:
        """``/score``: every pair's verdict, in the order of the request."""
        asked, found, explained = await self._answer(request, self.reader.score)
        return _status(found), {"results": self._results(asked, found, explained)}

    async def rank(self, request: Request) -> tuple[int, dict[str, Any]]:
        """``/rank``: the items' verdicts, best first; those without one last."""
        asked, found, explained = await self._answer(request, self.reader.rank)
        results = self._results(asked, found, explained)
        ranked = sorted(zip(found, results, strict=True), key=lambda both: _from_best(both[0]))
        return _status(found), {"results": [result for _, result in ranked]}

    @contextmanager
    def counted(self, endpoint: str, status: Callable[[], int]) -> Iterator[None]:
        """Count a request, and hold a shutdown until it is answered."""
        started = perf_counter()
        self.accepted += 1
        try:
            yield
        except asyncio.CancelledError:
            self.lost += 1
            raise
        finally:
            self.accepted -= 1
            self.metrics.request(endpoint, status(), perf_counter() - started)

    async def _answer(
        self, request: Request, read: Callable[[Any], Asked]
    ) -> tuple[Asked, list[Verdict | ItemError], list[list[dict[str, Any]]] | None]:
        self.check_key(request)
        if reason := self.unready():  # before the body, which costs memory
            raise busy(f"{reason}; try again later")
        body = await read_body(request, self.limits.body_bytes, self.limits.seconds)
        asked = read(parse_json(body))
        try:
            future = asyncio.wrap_future(self.batcher.submit(asked.pairs))
        except Full:
            raise busy(f"more than {self.limits.waiting:,} items would wait; try again later") from None
        verdicts = iter(await self._scored(request, future))
        found = [item if isinstance(item, ItemError) else next(verdicts) for item in asked.items]
        self.metrics.found(found)
        scored = [item for item in found if isinstance(item, Verdict)]
        explained = None
        if asked.explain and scored:
            explained = await asyncio.to_thread(self.model.explain, scored, asked.explain)
        return asked, found, explained

    async def _scored(
        self, request: Request, future: asyncio.Future[list[Verdict | ItemError]]
    ) -> list[Verdict | ItemError]:
        """The batcher's answer. If it takes too long or the client goes away, its items leave the queue."""
        gone = asyncio.ensure_future(_disconnected(request))
        either: set[asyncio.Future[Any]] = {future, gone}
        try:
            await asyncio.wait(either, timeout=self.limits.seconds, return_when=asyncio.FIRST_COMPLETED)
            if future.done():
                return future.result()
            if gone.done():
                raise ClientDisconnect
            raise Refused(504, f"not scored within {self.limits.seconds:g} s; try again later, or fewer items")
        finally:
            future.cancel()
            gone.cancel()
            with suppress(asyncio.CancelledError):
                await gone

    def _results(
        self, asked: Asked, found: Sequence[Verdict | ItemError], explained: list[list[dict[str, Any]]] | None
    ) -> list[dict[str, Any]]:
        explanations = iter(explained or [])
        results: list[dict[str, Any]] = []
        for index, item in enumerate(found):
            if isinstance(item, ItemError):
                results.append({"index": index, "error": {"field": item.field, "message": item.message}})
                continue
            probabilities = zip(self.model.label_set.labels, item.probabilities.tolist(), strict=True)
            result = {
                "index": index,
                "label": item.label,
                "gain": round(item.gain, 6),
                "probabilities": {label: round(p, 6) for label, p in probabilities},
                "tokens_cut": item.tokens_cut,
            }
            results.append(result | ({"explanations": next(explanations)} if asked.explain else {}))
        return results


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _from_best(item: Verdict | ItemError) -> float:
    """By expected gain; what has none comes last."""
    return -item.gain if isinstance(item, Verdict) else 1.0


def _status(found: Sequence[Verdict | ItemError]) -> int:
    """200 if any item has a score; else whose fault it was."""
    errors = [item for item in found if isinstance(item, ItemError)]
    if len(errors) < len(found):
        return 200
    return 500 if any(error.ours for error in errors) else 422
