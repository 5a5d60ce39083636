"""A request that gets no scores, as the client is told of it."""

from __future__ import annotations

from collections.abc import Mapping


class Refused(Exception):
    """Ends a request with an HTTP status and a body that says what was wrong, and where.

    Args:
        status: The HTTP status, 400 or more.
        message: What was wrong and how to mend it.
        where: The place in the body, e.g. ``pairs[3].title``.
        headers: Further headers of the answer.
    """

    def __init__(
        self, status: int, message: str, *, where: str | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.where = where
        self.headers = dict(headers or {})

    def body(self) -> dict[str, dict[str, str | None]]:
        """``{"error": {"where", "message"}}``."""
        return {"error": {"where": self.where, "message": self.message}}


def busy(message: str, seconds: int = 1) -> Refused:
    """503 with ``Retry-After``: the same request may be taken a little later, or by another server."""
    return Refused(503, message, headers={"Retry-After": str(seconds)})
