"""What a report is made of: sections of sentences, tables and pictures; as Markdown, and on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text


@dataclass(frozen=True)
class Table:
    """A table as text.

    Args:
        header: One name a column.
        rows: The lines. A cell may have a second part, behind a line break: its interval.
        caption: What stands above it, if anything.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""


@dataclass(frozen=True)
class Picture:
    """A picture in the report's folder.

    Args:
        file: Its path from there.
        alt: What it shows, for those who do not see it.
        caption: How to read it.
    """

    file: str
    alt: str
    caption: str


@dataclass(frozen=True)
class Warn:
    """What a reader must know before trusting what follows."""

    text: str


@dataclass(frozen=True)
class Points:
    """A list of sentences."""

    items: Sequence[str]


Block = str | Table | Picture | Warn | Points


@dataclass(frozen=True)
class Section:
    """A part of the report.

    Args:
        title: Its heading.
        blocks: What it holds, in order.
        sections: Its own parts.
    """

    title: str
    blocks: Sequence[Block]
    sections: Sequence[Section] = field(default=())


def markdown(section: Section, level: int = 1) -> str:
    """A section and its parts as Markdown."""
    parts = [f"{'#' * level} {section.title}", *map(_markdown_block, section.blocks)]
    return "\n\n".join([*parts, *(markdown(inner, level + 1).rstrip("\n") for inner in section.sections)]) + "\n"


def _markdown_block(block: Block) -> str:
    if isinstance(block, Table):
        lines = [block.header, ["---"] + ["---:"] * (len(block.header) - 1), *block.rows]
        table = "\n".join(f"| {' | '.join(map(_markdown_cell, line))} |" for line in lines)
        return f"{block.caption}\n\n{table}" if block.caption else table
    if isinstance(block, Picture):
        return f"![{block.alt}]({block.file})\n\n{block.caption}"
    if isinstance(block, Warn):
        return f"> **Warning:** {block.text}"
    return "\n".join(f"- {item}" for item in block.items) if isinstance(block, Points) else block


def _markdown_cell(cell: str) -> str:
    return cell.replace("\n", " ").replace("|", "\\|")


def show(blocks: Sequence[Block], console: Console) -> None:
    """Print sentences, tables and warnings; pictures are left out."""
    for block in blocks:
        if isinstance(block, Table):
            if block.caption:
                console.print(Text(f"\n{block.caption}"))
            _show_table(block, console)
        elif isinstance(block, Warn):
            console.print(Text(f"WARNING: {block.text}", style="bold yellow"))
        elif isinstance(block, str):
            console.print(Text(block, style="dim"))


def _show_table(block: Table, console: Console) -> None:
    table = RichTable(box=None, pad_edge=False, padding=(0, 1))
    narrow = console.width < 140
    for place, name in enumerate(block.header):
        title = Text(name.replace(" ", "\n") if narrow else name)
        table.add_column(title, justify="right" if place else "left", overflow="fold")
    for line in block.rows:
        table.add_row(*(Text(cell.replace(" ± ", "\n± ") if narrow else cell) for cell in line))
    console.print(table)
