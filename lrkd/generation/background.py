"""An asyncio producer in a thread of its own, read as a plain iterator."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

T = TypeVar("T")


def iterate_in_thread(produce: Callable[[Outlet[T]], Coroutine[Any, Any, None]], capacity: int) -> Iterator[T]:
    """What a coroutine puts into its outlet, as it comes.

    The coroutine runs in an event loop of its own, so that the reader may take its time, or have a running loop itself,
    as a notebook has. Where the reader stops early, the coroutine is cancelled; when the iterator is closed, its thread
    has ended.

    Args:
        produce: Called with the outlet.
        capacity: Items that are in the making or wait to be read, at most.

    Raises:
        Exception: What ``produce`` raised, once all that it had put is read.
    """
    producer = _Producer(produce, Outlet(capacity))
    producer.thread.start()
    try:
        yield from producer.items()
    finally:
        producer.stop()


class Outlet(Generic[T]):
    """Where a producer puts its items.

    Room is reserved before an item is made, not when it is there: so a finished item never waits for room, and is not
    lost when the producer fails meanwhile.
    """

    def __init__(self, capacity: int) -> None:
        self._items: SimpleQueue[T | _End] = SimpleQueue()
        self._room = asyncio.Semaphore(capacity)

    async def reserve(self) -> None:
        """Wait until there is room for one more item."""
        await self._room.acquire()

    def put(self, item: T) -> None:
        """Hand an item over, for which room was reserved."""
        self._items.put(item)


@dataclass(frozen=True)
class _End:
    """After the last item: what the producer failed of, if it did."""

    error: BaseException | None


class _Producer(Generic[T]):
    def __init__(self, produce: Callable[[Outlet[T]], Coroutine[Any, Any, None]], outlet: Outlet[T]) -> None:
        self.produce = produce
        self.outlet = outlet
        self.thread = threading.Thread(target=self._run, name="lrkd-producer", daemon=True)
        self._begun = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[Any] | None = None

    def items(self) -> Iterator[T]:
        while not isinstance(item := self.outlet._items.get(), _End):
            self._in_loop(self.outlet._room.release)
            yield item
        if item.error is not None:
            raise item.error

    def stop(self) -> None:
        self._begun.wait()
        if self._task is not None:
            self._in_loop(self._task.cancel)
        self.thread.join()

    def _in_loop(self, call: Callable[[], object]) -> None:
        """Call it in the producer's thread; nobody needs it any more where the loop has ended."""
        with suppress(RuntimeError):
            if self._loop is not None:
                self._loop.call_soon_threadsafe(call)

    def _run(self) -> None:
        error: BaseException | None = None
        try:
            asyncio.run(self._main())
        except BaseException as raised:  # whatever it was, the reader must not wait for ever
            error = raised
        self._begun.set()
        self.outlet._items.put(_End(error))

    async def _main(self) -> None:
        self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
        self._begun.set()
        await self.produce(self.outlet)
