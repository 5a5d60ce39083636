"""``serve``: an exported student behind HTTP, from its start to a shutdown that finishes what was accepted."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from lrkd.errors import UserError
from lrkd.serve.limits import Limits

if TYPE_CHECKING:
    from lrkd.serve.service import Service

LIMITS = Limits()


def serve(
    *,
    model: Path,
    host: str = "127.0.0.1",
    port: int = 8080,
    api_key_file: Path | None = None,
    batch_items: int = 64,
    wait_ms: float = 0.0,
    threads: int | None = None,
    limits: Limits = LIMITS,
    drain_seconds: float = 30.0,
) -> None:
    """Serve an exported student over HTTP, with a page for people at /.

    Scores of requests that come at the same time are computed together. SIGTERM or Ctrl+C ends it once all accepted
    requests are answered; a second one ends it at once. See docs/server.md. For example:

        python -m lrkd serve --model runs/exported

    Args:
        model: The folder that `export` made. Where it holds explanations/ (made by `explain --save_index`), answers
            can be explained; examples.json in it replaces the examples on the page.
        host: The address to listen at; by default this machine alone reaches it. 0.0.0.0 is all addresses.
        port: The port; 0 is any free one.
        api_key_file: A file with the key that clients must send as "Authorization: Bearer KEY".
        batch_items: Items that are scored together, at most.
        wait_ms: Milliseconds that an item waits for others while the model is idle.
        threads: The model's threads; by default as many as there are cores.
        limits: How much is taken.
        drain_seconds: How long a shutdown may take; what is not answered by then is lost.

    Raises:
        UserError: There is no such model, or it cannot listen at that address.
    """
    from lrkd.serve.model import open_model
    from lrkd.serve.service import Service

    api_key = _read_key(api_key_file)
    opened = open_model(Path(model), threads)
    print(f"read {model} ({opened.scorer.card.method}; {', '.join(opened.label_set.labels)})")
    if opened.index is not None:
        print(f"read {len(opened.index.vectors):,} rationales to explain scores with")
    service = Service(opened, limits, batch_items=batch_items, wait_ms=wait_ms, api_key=api_key)
    run(service, host, port, drain_seconds)


def run(service: Service, host: str = "127.0.0.1", port: int = 8080, drain_seconds: float = 30.0) -> None:
    """Listen until a signal, then finish; see :func:`serve`.

    Raises:
        UserError: It cannot listen at that address.
        SystemExit: Requests were left without an answer when ``drain_seconds`` were over.
    """
    from lrkd.serve.app import create_app
    from lrkd.serve.draining import DrainingServer

    with _listen(host, port) as listening:
        if host not in ("127.0.0.1", "::1", "localhost") and not service.needs_key:
            print("note: other machines may reach it, and nothing asks for a key (--api_key_file)", file=sys.stderr)
        name, number = f"[{host}]" if ":" in host else host, listening.getsockname()[1]
        greeting = f"serving at http://{name}:{number} (Ctrl+C ends it)"
        DrainingServer(create_app(service), service, drain_seconds, greeting).run(sockets=[listening])
    print(f"ended; {service.lost} accepted requests got no answer", flush=True)
    if service.lost:
        sys.stderr.flush()
        os._exit(1)  # a scorer that hangs would hold up an ordinary exit
    service.batcher.close()


def _read_key(file: Path | None) -> str | None:
    if file is None:
        return None
    try:
        key = Path(file).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--api_key_file {file}: not a readable text file ({error})") from error
    if not key.isascii() or not key.isprintable() or len(key) < 16:
        raise UserError(f"--api_key_file {file}: wants a key of at least 16 printable ASCII characters")
    return key


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family, backlog=1024)
    except (OSError, OverflowError) as error:
        raise UserError(f"cannot listen at --host {host} --port {port}: {error}") from error
    # Connections take it over. asyncio sets it only on sockets that name their protocol, which create_server's do not;
    # without, an answer's body waits 40 ms until the client has acknowledged its head.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening
