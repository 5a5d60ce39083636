"""A request's body: read within limits, then parsed by stricter rules than JSON libraries have by default."""

from __future__ import annotations

import asyncio
import json
from typing import Any, NoReturn

from starlette.requests import Request

from lrkd.serve.refusals import Refused

DISCARDED = 64 << 20
"""Bytes beyond the limit that are read and thrown away, so that a client which sends before it listens still hears why
it was refused: closing a connection with unread bytes resets it."""

_CLOSE = {"Connection": "close"}


async def read_body(request: Request, limit: int, seconds: float) -> bytes:
    """A request's body of JSON text.

    Args:
        request: The request.
        limit: The most bytes to keep.
        seconds: The longest that the client may take to send it.

    Raises:
        Refused: Not declared as plain JSON (415), too large (413), or too slow (408).
        ClientDisconnect: The client went away.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise Refused(415, "send the body as Content-Type: application/json")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise Refused(415, "send the body as it is, without Content-Encoding")
    too_large = Refused(413, f"the body is larger than {limit:,} bytes; send fewer items a request", headers=_CLOSE)
    declared = request.headers.get("content-length", "")
    waits = "100-continue" in request.headers.get("expect", "").lower()
    if declared.isdecimal() and int(declared) > (limit if waits else limit + DISCARDED):
        raise too_large
    body, size = bytearray(), 0
    try:
        async with asyncio.timeout(seconds):
            async for chunk in request.stream():
                size += len(chunk)
                if size > limit + DISCARDED:
                    break
                if size <= limit:
                    body += chunk
    except TimeoutError as error:
        raise Refused(408, f"the body did not arrive within {seconds:g} s", headers=_CLOSE) from error
    if size > limit:
        raise too_large
    return bytes(body)


def parse_json(body: bytes) -> Any:
    """A body's value. Lone surrogates pass, since only who knows the field can say where they stand.

    Raises:
        Refused: 400: not UTF-8, not JSON, a key that stands twice, NaN or infinity, an endless number, or too deep.
    """
    try:
        return json.loads(body.decode("utf-8"), object_pairs_hook=_once, parse_constant=_no_number)
    except UnicodeDecodeError as error:
        raise Refused(400, f"the body is not UTF-8: byte {error.start} is {body[error.start]:#04x}") from error
    except RecursionError as error:
        raise Refused(400, "the body is not what this server reads: lists or objects nest too deep") from error
    except ValueError as error:
        raise Refused(400, f"the body is not JSON that this server reads: {error}") from error


def _once(members: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(members)
    if len(found) < len(members):
        names = [name for name, _ in members]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice[:100]!r} stands twice in one object")
    return found


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number in JSON")
