"""Uvicorn, with a shutdown that refuses politely before it closes."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from time import monotonic
from types import FrameType
from typing import Any

import uvicorn
from starlette.applications import Starlette

from lrkd.serve.service import Service

GRACE = 0.5
"""Seconds for which the server listens on after a signal even if nothing is left to do: clients and balancers hear 503
with ``Connection: close``, so hardly any sends a request into a connection that is just being closed. For as long
again, once it no longer listens, it waits for the requests of those who had connected by then."""

CLOSING = 5
"""Seconds for which answers may take to be written at the end."""


class DrainingServer(uvicorn.Server):
    """Ends in three steps: refuse what is new while answering what was accepted, stop listening, close.

    Uvicorn alone closes the listening socket at the signal, which resets those whom the kernel had let in, and
    afterwards ends the process by that same signal.

    Args:
        app: The application.
        service: Knows what is accepted and not answered yet.
        seconds: How long accepted requests may take after the signal; a little more goes by until all is closed.
        greeting: Printed once it listens and signals are handled.
    """

    def __init__(self, app: Starlette, service: Service, seconds: float, greeting: str) -> None:
        config = uvicorn.Config(
            app,
            http="h11",  # bounds the size of a request's head
            ws="none",
            lifespan="off",
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=service.limits.connections + 1,  # Uvicorn refuses from this number on
            timeout_graceful_shutdown=CLOSING,
        )
        super().__init__(config)
        self.service = service
        self.seconds = seconds
        self.greeting = greeting
        self._told = False
        self._signalled = 0.0
        self._deaf_since: float | None = None
        self._listening: list[socket.socket] = []

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to accept connections."""
        await super().startup(sockets)
        self._listening = list(sockets or [])
        print(self.greeting, flush=True)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to drain; at a second signal end at once."""
        if self.service.draining:
            self.force_exit = self.should_exit = True
        else:
            self._signalled = monotonic()
            self.service.draining = True

    async def on_tick(self, counter: int) -> bool:
        """Asked ten times a second whether to close."""
        if self.service.draining:
            self._tell()
            await self._drain(monotonic())
        return await super().on_tick(counter)

    async def _drain(self, now: float) -> None:
        idle = not self.service.accepted
        if idle and self._deaf_since is None and now - self._signalled >= GRACE:
            await self._stop_listening()
            self._deaf_since = now
        done = idle and self._deaf_since is not None and now - self._deaf_since >= GRACE
        self.should_exit = self.should_exit or done or now - self._signalled >= self.seconds

    async def _stop_listening(self) -> None:
        """Close the listening sockets, and let those in whom the kernel has connected: closing would reset them."""
        connected: list[socket.socket] = []
        for listening in self._listening:
            with suppress(BlockingIOError):
                while True:
                    connected.append(listening.accept()[0])
        for server in self.servers:
            server.close()
        for connection in connected:
            connection.setblocking(False)
            await asyncio.get_running_loop().connect_accepted_socket(self._protocol, connection)

    def _protocol(self) -> asyncio.Protocol:
        kind: type[Any] = self.config.http_protocol_class
        made: asyncio.Protocol = kind(self.config, self.server_state, self.lifespan.state)
        return made

    def _tell(self) -> None:
        if not self._told:  # not by the signal's handler, which may interrupt another print
            self._told = True
            print(f"told to end; answering {self.service.accepted} accepted requests first", flush=True)
