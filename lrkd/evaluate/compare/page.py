"""The report as one HTML page that needs no other file, no script and no network, in light and dark."""

from __future__ import annotations

import base64
import re
from html import escape
from pathlib import Path

from lrkd.evaluate.compare.blocks import Block, Picture, Points, Section, Table, Warn

STYLE = """
:root { color-scheme: light dark; --text: #1d1d1f; --quiet: #55555c; --page: #ffffff; --line: #d9d9de;
  --band: #f4f4f6; --warn: #fff3d6; --warn-edge: #b06a00; --link: #0057a3; }
@media (prefers-color-scheme: dark) {
  :root { --text: #ececf0; --quiet: #a9a9b2; --page: #17171a; --line: #3a3a42; --band: #212126; --warn: #33290f;
    --warn-edge: #e0a030; --link: #7ab8ff; } }
body { margin: 0 auto; max-width: 76rem; padding: 1.5rem; background: var(--page); color: var(--text);
  font: 16px/1.5 system-ui, sans-serif; }
h1, h2, h3 { line-height: 1.25; } h2 { margin-top: 2.5rem; border-bottom: 1px solid var(--line); }
a { color: var(--link); } nav a { margin-right: 1.2em; }
.scroll { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 0.9rem; }
caption { text-align: left; padding: 0.3rem 0; color: var(--quiet); }
th, td { padding: 0.3rem 0.7rem; text-align: right; vertical-align: top; border-bottom: 1px solid var(--line);
  white-space: nowrap; }
th:first-child, td:first-child { text-align: left; white-space: normal; min-width: 9rem; overflow-wrap: anywhere; }
tbody tr:nth-child(odd) { background: var(--band); }
small { color: var(--quiet); }
figure { margin: 1.2rem 0; } figcaption { color: var(--quiet); font-size: 0.9rem; }
img { max-width: 100%; height: auto; background: #ffffff; border-radius: 6px; }
.warn { background: var(--warn); border-left: 4px solid var(--warn-edge); padding: 0.6rem 1rem; }
"""


def page(report: Section, folder: Path) -> str:
    """The page.

    Args:
        report: What it holds.
        folder: Where the report's pictures are; they go into the page.
    """
    links = " ".join(f'<a href="#{_anchor(part.title)}">{escape(part.title)}</a>' for part in report.sections)
    first = "\n".join(_block(block, folder) for block in report.blocks)
    rest = "\n".join(_section(part, folder, 2) for part in report.sections)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(report.title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{escape(report.title)}</h1>\n<nav>{links}</nav>\n{first}\n{rest}\n</body>\n</html>\n"
    )


def _section(section: Section, folder: Path, level: int) -> str:
    heading = f'<h{level} id="{_anchor(section.title)}">{escape(section.title)}</h{level}>'
    inner = [_section(part, folder, level + 1) for part in section.sections]
    return "\n".join([heading, *(_block(block, folder) for block in section.blocks), *inner])


def _block(block: Block, folder: Path) -> str:
    if isinstance(block, Table):
        return _table(block)
    if isinstance(block, Picture):
        data = base64.b64encode((folder / block.file).read_bytes()).decode("ascii")
        image = f'<img alt="{escape(block.alt)}" src="data:image/png;base64,{data}">'
        return f"<figure>{image}<figcaption>{escape(block.caption)}</figcaption></figure>"
    if isinstance(block, Warn):
        return f'<p class="warn"><strong>Warning:</strong> {escape(block.text)}</p>'
    if isinstance(block, Points):
        return f"<ul>{''.join(f'<li>{escape(item)}</li>' for item in block.items)}</ul>"
    return f"<p>{escape(block)}</p>"


def _table(table: Table) -> str:
    caption = f"<caption>{escape(table.caption)}</caption>" if table.caption else ""
    head = "".join(f'<th scope="col">{_cell(name)}</th>' for name in table.header)
    rows = "".join(f"<tr>{''.join(f'<td>{_cell(cell)}</td>' for cell in line)}</tr>\n" for line in table.rows)
    return f'<div class="scroll"><table>{caption}<thead><tr>{head}</tr></thead>\n<tbody>{rows}</tbody></table></div>'


def _cell(cell: str) -> str:
    first, _, second = cell.partition("\n")
    return escape(first) + (f"<br><small>{escape(second)}</small>" if second else "")


def _anchor(title: str) -> str:
    return re.sub(r"\W+", "-", title.lower()).strip("-")
