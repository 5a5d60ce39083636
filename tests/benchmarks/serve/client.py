"""One client process of load.py: asks a server for scores, and writes down what became of every request.

*Closed*: so many connections, each asking again as soon as it is answered. *Open*: requests come at random times (a
Poisson process) whether or not the server keeps up, and a request's time runs from when it should have been sent.
The last line that it prints is JSON. Nothing but the standard library is used: a client must cost little.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
from collections import Counter
from dataclasses import dataclass, field
from time import perf_counter, sleep, time
from urllib.parse import urlsplit

WORDS = (
    "red",
    "running",
    "shoes",
    "women",
    "coffee",
    "mug",
    "handle",
    "usb",
    "charger",
    "wool",
    "socks",
    "desk",
    "lamp",
)


@dataclass
class Connection:
    """A kept-alive connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter


@dataclass
class Client:
    """Counts what became of its requests.

    ``outcomes``: HTTP statuses; ``refused`` where no connection was to be had, so that nothing was sent; ``lost`` where
    a request was sent and no whole answer came. Where that happens on a connection that was used before, it is sent
    again on a new one, as every HTTP client does, since a server may close an idle connection at any time: ``resent``.
    """

    url: str
    items: int
    seed: int
    idle: list[Connection] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    wrong: int = 0

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        self.host, self.port = parts.hostname, parts.port
        self.random = random.Random(self.seed)

    def request(self) -> bytes:
        """The bytes of one request."""
        text = [" ".join(self.random.choices(WORDS, k=self.random.randint(3, 20))) for _ in range(self.items)]
        query = " ".join(self.random.sample(WORDS, 3))
        body = json.dumps({"pairs": [{"query": query, "title": title} for title in text]}).encode()
        head = f"POST /score HTTP/1.1\r\nHost: {self.host}:{self.port}\r\nContent-Type: application/json\r\n"
        return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body

    async def ask(self, since: float) -> None:
        """One request, from its sending to its answer."""
        message = self.request()
        while True:
            used = bool(self.idle)
            try:
                connection = self.idle.pop() if used else await self.connect()
            except OSError:
                self.outcomes["refused"] += 1
                return
            try:
                status, body, keep = await exchange(connection, message)
                break
            except (OSError, EOFError, ValueError):
                connection.writer.close()
                if not used:
                    self.outcomes["lost"] += 1
                    return
                self.outcomes["resent"] += 1
        if keep:
            self.idle.append(connection)
        else:
            connection.writer.close()
        self.outcomes[str(status)] += 1
        if status == 200:
            self.seconds.append(perf_counter() - since)
            self.wrong += len(json.loads(body)["results"]) != self.items

    async def connect(self) -> Connection:
        """A new connection."""
        return Connection(*await asyncio.open_connection(self.host, self.port))

    async def closed(self, connections: int, seconds: float, requests: int) -> None:
        """So many requests at a time, until so many seconds or requests are over."""
        begun, end = 0, perf_counter() + seconds

        async def one() -> None:
            nonlocal begun
            while perf_counter() < end and begun < requests:
                begun += 1
                before = self.outcomes["refused"] + self.outcomes["503"]
                await self.ask(perf_counter())
                if self.outcomes["refused"] + self.outcomes["503"] > before:
                    await asyncio.sleep(0.02)  # as a client that was told to come later

        await asyncio.gather(*(one() for _ in range(connections)))

    async def open(self, rate: float, seconds: float) -> None:
        """So many requests a second, whatever the server does."""
        started, due, running = perf_counter(), 0.0, set()
        while (due := due + self.random.expovariate(rate)) < seconds:
            await asyncio.sleep(max(0.0, started + due - perf_counter()))
            task = asyncio.create_task(self.ask(started + due))
            running.add(task)
            task.add_done_callback(running.discard)
        await asyncio.gather(*running)


async def exchange(connection: Connection, message: bytes) -> tuple[int, bytes, bool]:
    """Status, body, and whether the connection stays open."""
    connection.writer.write(message)
    head = (await connection.reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    length = int(head.partition("content-length:")[2].partition("\r")[0])
    body = await connection.reader.readexactly(length)
    return int(head.split()[1]), body, "connection: close" not in head


def main() -> None:
    """Run one client."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--items", type=int, default=1, help="pairs a request")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--requests", type=int, default=10**9)
    parser.add_argument("--start", type=float, default=0, help="when to begin, in seconds since 1970")
    way = parser.add_mutually_exclusive_group(required=True)
    way.add_argument("--connections", type=int, help="closed loop")
    way.add_argument("--rate", type=float, help="open loop, requests a second")
    args = parser.parse_args()
    client = Client(args.url, args.items, args.seed)
    sleep(max(0.0, args.start - time()))
    started = perf_counter()
    if args.rate is None:
        asyncio.run(client.closed(args.connections, args.seconds, args.requests))
    else:
        asyncio.run(client.open(args.rate, args.seconds))
    elapsed = perf_counter() - started
    print(
        json.dumps({"elapsed": elapsed, "outcomes": client.outcomes, "seconds": client.seconds, "wrong": client.wrong})
    )


if __name__ == "__main__":
    main()
