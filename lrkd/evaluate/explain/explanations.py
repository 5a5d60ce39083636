"""Explained pairs as a table: written to a file, and shown in the terminal."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.text import Text

from lrkd.data.row_files import PIECE_ROWS
from lrkd.errors import UserError
from lrkd.evaluate.explain.index import ExplanationIndex, Nearest

SUFFIXES = (".parquet", ".jsonl")
SHOWN = 5
"""Pairs shown in the terminal."""


def explanation_table(
    pairs: pa.Table, probabilities: np.ndarray, labels: Sequence[str], index: ExplanationIndex, nearest: Nearest
) -> pa.Table:
    """One row a pair, perspective and rank.

    Args:
        pairs: N pairs, with whatever columns are to stand first.
        probabilities: (N, C).
        labels: The C labels.
        index: Where the rationales were found.
        nearest: What was found for the pairs.

    Returns:
        (N · K · k) rows: the pairs' columns; ``p/<Label>``; perspective, rank from 1, similarity, rationale,
        verdict; and whose rationale it is: ``of_pair_id``, ``of_query``, ``of_title``, ``of_label``.
    """
    number, perspectives, neighbours = nearest.place.shape
    repeated = np.repeat(np.arange(number), perspectives * neighbours)
    table = pairs.take(pa.array(repeated))
    for place, label in enumerate(labels):
        table = table.append_column(f"p/{label}", pa.array(probabilities[repeated, place]))
    found = index.rationales.take(pa.array(nearest.place.ravel()))
    rank = np.tile(np.arange(1, neighbours + 1), number * perspectives)
    new = {
        "perspective": found["perspective"],
        "rank": pa.array(rank, pa.int32()),
        "similarity": pa.array(nearest.similarity.ravel()),
        "rationale": found["rationale"],
        "verdict": found["verdict"],
        **{f"of_{name}": found[name] for name in ("pair_id", "query", "title", "label")},
    }
    for name, column in new.items():
        table = table.append_column(name, column)
    return table


def check_suffix(out: Path) -> None:
    """Refuse a file that no format is known for.

    Raises:
        UserError: Its suffix is neither .parquet nor .jsonl.
    """
    if out.suffix not in SUFFIXES:
        raise UserError(f"--out {out}: the suffix says the format, which may be {' or '.join(SUFFIXES)}")


def write_explanations(table: pa.Table, out: Path) -> None:
    """Write a table as Parquet or JSON lines, as the suffix says."""
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.suffix == ".parquet":
        pq.write_table(table, out, compression="zstd")
    else:
        with out.open("w", encoding="utf-8") as file:
            for batch in table.to_batches(PIECE_ROWS):
                file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in batch.to_pylist())


def show_explanations(console: Console, table: pa.Table, labels: Sequence[str], rows_a_pair: int) -> None:
    """Print the first pairs with their probabilities and the nearest rationales.

    Args:
        console: Where to.
        table: As :func:`explanation_table` made it.
        labels: The C labels.
        rows_a_pair: K · k.
    """
    rows = table.slice(0, SHOWN * rows_a_pair).to_pylist()
    for start in range(0, len(rows), rows_a_pair):
        first = rows[start]
        said = sorted(labels, key=lambda label: -first[f"p/{label}"])
        gold = f"   (gold: {first['label']})" if first.get("label") else ""
        console.print(Text(f"\n{first['query']} → {first['title']}", style="bold"))
        console.print("  " + "  ".join(f"{label} {first[f'p/{label}']:.0%}" for label in said) + gold)
        for row in rows[start : start + rows_a_pair]:
            name = row["perspective"].replace("_", " ")
            console.print(f"  {name}: {row['verdict']} (cosine {row['similarity']:.2f})")
            console.print(f"    {row['rationale']}")
            about = f"    written about {row['of_query']} → {row['of_title']} ({row['of_label']})"
            console.print(Text(about, style="dim"))
    more = table.num_rows // rows_a_pair - SHOWN
    if more > 0:
        console.print(f"\n... and {more:,} more pairs")
