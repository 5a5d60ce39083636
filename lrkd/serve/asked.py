"""What a request asks for: its items checked one by one, so that a bad one fails alone."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from lrkd.data.types import ITEM_FIELDS
from lrkd.errors import UserError
from lrkd.serve.limits import Limits
from lrkd.serve.refusals import Refused

_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f\x7f]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")


@dataclass(frozen=True)
class ItemError:
    """Why one item has no score.

    Args:
        message: What was wrong and how to mend it.
        field: In which of the item's fields; None: the item as a whole.
        ours: The server's fault, not the client's.
    """

    message: str
    field: str | None = None
    ours: bool = False


def item_error(error: UserError) -> ItemError:
    """What the scorer says of a pair: ``field: message``."""
    name, colon, message = str(error).partition(": ")
    return ItemError(message, field=name) if colon and name in ("query", *ITEM_FIELDS) else ItemError(str(error))


@dataclass(frozen=True)
class Asked:
    """A request's items.

    Args:
        items: For every item of the request, in its order, the pair to score or what is wrong with it.
        explain: Nearest rationales a perspective; 0: none are wanted.
    """

    items: tuple[dict[str, Any] | ItemError, ...]
    explain: int = 0

    @property
    def pairs(self) -> list[dict[str, Any]]:
        """Those that can be scored."""
        return [item for item in self.items if not isinstance(item, ItemError)]


class RequestReader:
    """Reads the bodies of ``/score`` and ``/rank``.

    Args:
        limits: How much is taken.
        check: Raises UserError for a pair that the model cannot score (``Scorer.check``).
        explains: Whether nearest rationales are to be had.
    """

    def __init__(self, limits: Limits, check: Callable[[Mapping[str, Any]], None], *, explains: bool) -> None:
        self.limits = limits
        self.check = check
        self.explains = explains

    def score(self, body: Any) -> Asked:
        """``{"pairs": [{"query", "title", ...}, ...], "explain": 0}``.

        Raises:
            Refused: The body as a whole is wrong (422), or has too many items (413).
        """
        pairs, explain = self._envelope(body, "pairs", ())
        return Asked(tuple(self._pair(pair, ("query", *ITEM_FIELDS)) for pair in pairs), explain)

    def rank(self, body: Any) -> Asked:
        """``{"query": "...", "items": [{"title", ...}, ...], "explain": 0}``.

        Raises:
            Refused: The body as a whole, or its query, is wrong (422), or has too many items (413).
        """
        items, explain = self._envelope(body, "items", ("query",))
        query: Any = body.get("query")
        if wrong := self._text(query) or (None if query.strip() else "is empty"):
            raise Refused(422, wrong, where="query")
        return Asked(tuple(self._pair(item, ITEM_FIELDS, query=query) for item in items), explain)

    def _envelope(self, body: Any, name: str, others: tuple[str, ...]) -> tuple[list[Any], int]:
        if not isinstance(body, dict):
            raise Refused(422, f"wants an object with {name!r}, got {_kind(body)}")
        known = (*others, name, "explain")
        if unknown := next((key for key in body if key not in known), None):
            raise Refused(422, f"unknown key {unknown[:100]!r}; known are {', '.join(known)}")
        items = body.get(name)
        if not isinstance(items, list) or not items:
            raise Refused(422, f"wants a list of at least one object, got {_kind(items)}", where=name)
        if len(items) > self.limits.items:
            raise Refused(413, f"{len(items):,} items; at most {self.limits.items:,} a request", where=name)
        explain = body.get("explain", 0)
        if type(explain) is not int or not 0 <= explain <= self.limits.neighbours:
            raise Refused(422, f"wants a whole number from 0 to {self.limits.neighbours}", where="explain")
        if explain and not self.explains:
            raise Refused(422, "this server has no rationales to explain with; leave it out", where="explain")
        return items, explain

    def _pair(self, item: Any, known: tuple[str, ...], **more: str) -> dict[str, Any] | ItemError:
        if not isinstance(item, dict):
            return ItemError(f"wants an object with a title, got {_kind(item)}")
        for name, value in item.items():
            if name not in known:
                return ItemError(f"unknown field {name[:100]!r}; known are {', '.join(known)}")
            if wrong := self._value(name, value):
                return ItemError(wrong, field=name)
        pair = {**item, **more}
        try:
            self.check(pair)
        except UserError as error:
            return item_error(error)
        return pair

    def _value(self, name: str, value: Any) -> str | None:
        """What is wrong with a field: a text or null; a category may be a list of texts, from wide to narrow."""
        if value is None and name != "query":
            return None
        if name == "category" and isinstance(value, list):
            return next((f"level {n}: {wrong}" for n, text in enumerate(value) if (wrong := self._text(text))), None)
        return self._text(value)

    def _text(self, value: Any) -> str | None:
        if not isinstance(value, str):
            return f"wants a text, got {_kind(value)}"
        if len(value) > self.limits.characters:
            return f"{len(value):,} characters; at most {self.limits.characters:,}"
        if found := _CONTROL.search(value):
            return f"the control character U+{ord(found[0]):04X} at character {found.start()}; take it out"
        if found := _SURROGATE.search(value):
            return f"half of a surrogate pair, U+{ord(found[0]):04X}, at character {found.start()} is no Unicode text"
        return None


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "nothing"}
    if value == []:
        return "an empty list"
    return names.get(type(value), "a number")
