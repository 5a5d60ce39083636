"""How much a server takes."""

from __future__ import annotations

from dataclasses import dataclass, fields

from lrkd.errors import UserError


@dataclass(frozen=True)
class Limits:
    """Beyond these a request is refused, and told so.

    Args:
        body_bytes: Bytes of a request's body.
        items: Items of one request.
        characters: Characters of one text of an item.
        neighbours: Nearest rationales a perspective that a request may ask for.
        waiting: Items that are accepted and not yet scored, of all requests together; beyond, requests get 503.
        connections: Open connections; beyond, requests get 503.
        seconds: Seconds that a body may take to arrive, and that an accepted request may take to be scored.

    Raises:
        UserError: One of them is not positive, or a request of ``items`` could never be accepted.
    """

    body_bytes: int = 1 << 20
    items: int = 256
    characters: int = 10_000
    neighbours: int = 5
    waiting: int = 2048
    connections: int = 512
    seconds: float = 30.0

    def __post_init__(self) -> None:
        for field in fields(self):
            if not getattr(self, field.name) > 0:
                raise UserError(f"--limits.{field.name} {getattr(self, field.name)}: wants a positive number")
        if self.waiting < self.items:
            raise UserError(
                f"--limits.waiting {self.waiting} is less than --limits.items {self.items}: "
                "a request of that many items could never be accepted"
            )
