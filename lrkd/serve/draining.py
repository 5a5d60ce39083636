"""Uvicorn, with a shutdown that refuses politely before it closes."""

from __future__ import annotations

import socket
from time import monotonic
from types import FrameType

import uvicorn
from starlette.applications import Starlette

from lrkd.serve.service import Service

GRACE = 0.5
"""Seconds for which the server listens on after a signal even if nothing is left to do: clients and balancers hear 503
with ``Connection: close``, so hardly any sends a request into a connection that is just being closed."""

CLOSING = 5
"""Seconds for which answers may take to be written at the end."""


class DrainingServer(uvicorn.Server):
    """Ends in three steps: refuse what is new, answer what was accepted, close.

    Uvicorn alone closes the listening socket at the signal, and afterwards ends the process by that same signal.

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

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to accept connections."""
        await super().startup(sockets)
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
            waited = monotonic() - self._signalled
            done = not self.service.accepted and waited >= GRACE
            self.should_exit = self.should_exit or done or waited >= self.seconds
        return await super().on_tick(counter)

    def _tell(self) -> None:
        if not self._told:  # not by the signal's handler, which may interrupt another print
            self._told = True
            print(f"told to end; answering {self.service.accepted} accepted requests first", flush=True)
