"""Tables of pairs and rationales for the tests of filtering and mining, written down briefly."""

from __future__ import annotations

import pyarrow as pa

from lrkd.data.pairs import write_table
from lrkd.data.types import PAIRS_SCHEMA, RATIONALES_SCHEMA

LETTERS = {"E": "Exact", "S": "Substitute", "C": "Complement", "I": "Irrelevant"}
BRIEF = {"b": "business_rule", "s": "structured_analysis", "u": "user_intent", "n": "neutral"}


def write_pairs(root, pairs):
    """``pairs``: pair_id to (query, label's letter or None, split)."""
    rows = [
        {
            "pair_id": name,
            "query_id": query,
            "query": query,
            "item_id": name,
            "title": f"item {name}",
            "label": LETTERS.get(label),
            "split": split,
            "fold": {"train": 0, "val": 1, "test": 2}.get(split),
        }
        for name, (query, label, split) in pairs.items()
    ]
    root.mkdir(exist_ok=True, parents=True)
    write_table(pa.Table.from_pylist(rows, PAIRS_SCHEMA), root / "pairs.parquet", PAIRS_SCHEMA)


def write_rationales(path, verdicts, **common):
    """``verdicts``: (pair_id, perspective's letter, sample, verdict's letter), and a text that is not the key's."""
    rows = [
        {
            "pair_id": pair,
            "perspective": BRIEF[letter],
            "sample": sample,
            "rationale": text[0] if text else f"{pair} {letter}{sample}",
            "verdict": LETTERS[verdict],
            **common,
        }
        for pair, letter, sample, verdict, *text in verdicts
    ]
    path.parent.mkdir(exist_ok=True, parents=True)
    write_table(pa.Table.from_pylist(rows, RATIONALES_SCHEMA), path, RATIONALES_SCHEMA)
