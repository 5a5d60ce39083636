"""The item's text: one template, shared by teacher and student."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from string import Formatter
from typing import TYPE_CHECKING, Any

from lrkd.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa

ITEM_FIELDS = ("title", "description", "brand", "color", "bullets", "category")
"""The columns that an item-text template may name."""


@dataclass(frozen=True)
class ItemText:
    """The template that makes an item's text from its fields, e.g. ``"{title} {brand}"``.

    Args:
        template: A format string over the columns of :data:`ITEM_FIELDS`. Missing fields are empty; white space is
            folded afterwards.

    Raises:
        UserError: The template names no field or an unknown one.
    """

    template: str = "{title}"

    def __post_init__(self) -> None:
        try:
            fields = set(self.fields)
        except ValueError as error:
            raise UserError(f"item text template {self.template!r}: {error}") from error
        if not fields or not fields <= set(ITEM_FIELDS):
            raise UserError(
                f"item text template {self.template!r}: names {sorted(fields - set(ITEM_FIELDS)) or 'no field'}; "
                f"the fields are {', '.join(ITEM_FIELDS)}"
            )

    @property
    def fields(self) -> tuple[str, ...]:
        """The columns that the template names, each once, in order."""
        return tuple(dict.fromkeys(name for _, name, _, _ in Formatter().parse(self.template) if name is not None))

    def render(self, item: Mapping[str, Any]) -> str:
        """One item's text."""
        values = {name: item.get(name) for name in self.fields}
        text = {name: " > ".join(v) if isinstance(v, list | tuple) else str(v or "") for name, v in values.items()}
        return " ".join(self.template.format(**text).split())

    def render_table(self, table: pa.Table) -> list[str]:
        """The texts of N items, given a table with the columns that the template names."""
        if self.template == "{title}":  # the usual one, without a dict a row
            return [" ".join((title or "").split()) for title in table["title"].to_pylist()]
        return [self.render(item) for item in table.select(self.fields).to_pylist()]
