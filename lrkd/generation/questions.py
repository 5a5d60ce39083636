"""What a model is asked: pairs × perspectives × samples, and the prompt of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from lrkd.data.pairs import pairs_path, read_pairs
from lrkd.data.prompted_pairs import PairText
from lrkd.data.rationales import rationales_path, read_rationales
from lrkd.errors import UserError
from lrkd.generation.jobs import Job, Key
from lrkd.prompts import PromptBook


@dataclass(frozen=True)
class Questions:
    """Makes keys, and jobs of keys, from query and item alone (trap 16).

    Args:
        pairs: N pairs: pair_id, and what ``text`` needs.
        book: The prompt book.
        text: How a pair becomes text.
        perspectives: From which each pair is judged.
        samples: Completions for each pair and perspective.
        skipped: Pairs and perspectives that are left out.
    """

    pairs: pa.Table
    book: PromptBook
    text: PairText
    perspectives: Sequence[str]
    samples: int
    skipped: set[tuple[str, str]] = field(default_factory=set)

    def keys(self) -> list[Key]:
        """All keys, pair by pair."""
        return [
            Key(pair, name, sample)
            for pair in self.pairs["pair_id"].to_pylist()
            for name in self.perspectives
            if (pair, name) not in self.skipped
            for sample in range(self.samples)
        ]

    def jobs(self, keys: Sequence[Key]) -> list[Job]:
        """The keys' jobs."""
        distinct = pa.array(list(dict.fromkeys(key.pair_id for key in keys)), pa.string())
        rows = self.pairs.take(pc.index_in(distinct, value_set=self.pairs["pair_id"].combine_chunks())).to_pylist()
        text = {row["pair_id"]: self.text.render(row) for row in rows}
        return [Job(key, self.book.render(*text[key.pair_id], key.perspective)) for key in keys]


def pairs_to_ask(root: Path, text: PairText, split: str | None, limit: int | None, part: int, parts: int) -> pa.Table:
    """The pairs to write for: pair_id, query and what the item's text needs.

    Args:
        root: The data root.
        text: How a pair becomes text.
        split: Only the pairs of this split; None: all.
        limit: So many pairs at most, the first ones.
        part: Which part of them, from 0.
        parts: How many parts.

    Raises:
        UserError: There are none, or no such part.
    """
    if not 0 <= part < parts:
        raise UserError(f"part {part}: is 0 to {parts - 1} where parts is {parts}")
    columns = ["pair_id", *text.columns]
    pairs = read_pairs(root, columns=columns if split is None else [*columns, "split"])
    if split is not None:
        pairs = pairs.filter(pc.equal(pairs["split"], split)).drop_columns(["split"])
    pairs = pairs.slice(0, limit)
    pairs = pairs.take(pa.array(range(part, pairs.num_rows, parts), pa.int64()))
    if not pairs.num_rows:
        raise UserError(
            f"{pairs_path(root)}: no pair to write for (split {split}, limit {limit}, part {part} of {parts}); "
            "see `python -m lrkd data split`"
        )
    return pairs


def having_rationales(root: Path) -> set[tuple[str, str]]:
    """Pairs and perspectives that the data root has a rationale for."""
    if not rationales_path(root).is_file():
        return set()
    found = read_rationales(root)
    return set(zip(found["pair_id"].to_pylist(), found["perspective"].to_pylist(), strict=True))
