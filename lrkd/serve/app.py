"""The HTTP application: routes, headers and errors, on Starlette."""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from lrkd.serve.openapi import openapi
from lrkd.serve.refusals import Refused
from lrkd.serve.service import CLIENT_GONE, Service

log = logging.getLogger(__name__)

PAGE = Path(__file__).with_name("page")
FILES = {
    "/": ("index.html", "text/html"),
    "/docs": ("api.html", "text/html"),
    "/style.css": ("style.css", "text/css"),
    "/rank.js": ("rank.js", "text/javascript"),
    "/api.js": ("api.js", "text/javascript"),
    "/make.js": ("make.js", "text/javascript"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
SECURITY = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}

Answer = Callable[[Request], Awaitable[tuple[int, dict[str, Any]]]]
Endpoint = Callable[[Request], Awaitable[Response]]


def create_app(service: Service) -> Starlette:
    """The application over a service."""

    async def health(request: Request) -> tuple[int, dict[str, Any]]:
        return (200, {"status": "alive"}) if service.batcher.alive else (500, {"status": "the scorer has ended"})

    async def ready(request: Request) -> tuple[int, dict[str, Any]]:
        reason = service.unready()
        return (503, {"status": reason}) if reason else (200, {"status": "ready"})

    async def about(request: Request) -> tuple[int, dict[str, Any]]:
        service.check_key(request)
        limits = service.limits
        taken = {"items": limits.items, "characters": limits.characters, "neighbours": limits.neighbours}
        return 200, service.model.about() | {"limits": taken}

    async def document(request: Request) -> tuple[int, dict[str, Any]]:
        return 200, openapi(service)

    async def metrics(request: Request) -> Response:
        try:
            service.check_key(request)
        except Refused as refused:
            return _refusal(refused)
        return Response(service.metrics.render(), media_type=CONTENT_TYPE_LATEST)

    routes = [
        Route("/score", _counted(service, "score", service.score), methods=["POST"]),
        Route("/rank", _counted(service, "rank", service.rank), methods=["POST"]),
        Route("/health", _answering(health)),
        Route("/ready", _answering(ready)),
        Route("/about", _answering(about)),
        Route("/openapi.json", _answering(document)),
        Route("/metrics", metrics),
        *(Route(path, _file(name, media_type)) for path, (name, media_type) in FILES.items()),
    ]
    return Starlette(routes=routes, exception_handlers={HTTPException: _http_error})


def _answering(answer: Answer) -> Endpoint:
    async def endpoint(request: Request) -> Response:
        try:
            return _json(*await answer(request))
        except Refused as refused:
            return _refusal(refused)

    return endpoint


def _counted(service: Service, name: str, answer: Answer) -> Endpoint:
    async def endpoint(request: Request) -> Response:
        response = Response(status_code=CLIENT_GONE)
        with service.counted(name, lambda: response.status_code):
            try:
                response = _json(*await answer(request))
            except Refused as refused:
                response = _refusal(refused)
            except ClientDisconnect:
                pass
            except Exception:
                log.exception("a request to /%s failed", name)
                response = _refusal(Refused(500, "the server failed on this request; its log says how"))
        if service.draining:
            response.headers["Connection"] = "close"
        return response

    return endpoint


def _file(name: str, media_type: str) -> Endpoint:
    content = (PAGE / name).read_bytes()

    async def endpoint(request: Request) -> Response:
        return Response(content, media_type=media_type, headers=SECURITY | {"Cache-Control": "no-cache"})

    return endpoint


def _json(status: int, body: dict[str, Any], headers: dict[str, str] | None = None) -> Response:
    text = json.dumps(body, allow_nan=False, separators=(",", ":"))
    headers = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"} | (headers or {})
    return Response(text, status, headers, media_type="application/json")


def _refusal(refused: Refused) -> Response:
    return _json(refused.status, refused.body(), refused.headers)


async def _http_error(request: Request, error: Exception) -> Response:
    """404 and 405 in the form of all other errors."""
    assert isinstance(error, HTTPException)
    return _json(error.status_code, Refused(error.status_code, error.detail).body(), dict(error.headers or {}))
