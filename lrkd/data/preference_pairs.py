"""Reading, checking and writing ``preferences.parquet``."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lrkd.data.pairs import BATCH_ROWS, ParquetSink, open_parquet
from lrkd.data.rationales import WRITE_ROWS
from lrkd.data.rows import RowErrors, check_rows, repeated
from lrkd.data.types import PREFERENCES_SCHEMA, LabelSet
from lrkd.errors import UserError

MEND = "Mend the row, or mine the pairs again with `python -m lrkd rationales conflicts`."


def read_preferences(
    path: Path, pairs: pa.Table, labels: LabelSet, *, prompts: Collection[str] | None = None
) -> pa.Table:
    """Preference pairs as one table, checked against the pairs that they are about (trap 14).

    That they are of training queries only depends on the split in use: :func:`refuse_held_out` checks it.

    Args:
        path: The file.
        pairs: The data root's pairs, with pair_id and label.
        labels: The label set.
        prompts: If given, the names that ``prompt`` may be: those of the prompt book.

    Returns:
        The table in :data:`~lrkd.data.types.PREFERENCES_SCHEMA`.

    Raises:
        UserError: No such file, a missing column, or a row that is broken: an unknown pair or one without a label,
            chosen's verdict is not gold or rejected's is, both sides are the same text, a side is empty, an unknown
            prompt, or the same two texts stand there a second time.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; `python -m lrkd rationales conflicts` makes one")
    choices = {"chosen_verdict": labels.labels, "rejected_verdict": labels.labels}
    if prompts is not None:
        choices["prompt"] = tuple(prompts)
    file = open_parquet(path)
    present = [name for name in PREFERENCES_SCHEMA.names if name in file.schema_arrow.names]
    pieces, start = [PREFERENCES_SCHEMA.empty_table()], 0
    for batch in file.iter_batches(BATCH_ROWS, columns=present):
        piece, _ = check_rows(
            pa.Table.from_batches([batch]),
            PREFERENCES_SCHEMA,
            path,
            RowErrors(mend=MEND),
            first_row=start + 1,
            choices=choices,
        )
        pieces.append(piece)
        start += piece.num_rows
    table = pa.concat_tables(pieces)
    _check_sides(table, pairs, path)
    if len(twice := repeated([table[name] for name in ("pair_id", "prompt", "chosen", "rejected")])):
        row = int(twice[0])
        raise UserError(
            f"{path}, row {row + 1}: the pair {table['pair_id'][row].as_py()!r} has the same two rationales under the "
            f"prompt {table['prompt'][row].as_py()!r} a second time. {MEND}"
        )
    return table


def _check_sides(table: pa.Table, pairs: pa.Table, path: Path) -> None:
    """Raise for the first row whose sides are not what they must be."""
    pair = pc.index_in(table["pair_id"], value_set=pairs["pair_id"].combine_chunks())
    gold = pairs["label"].take(pair.combine_chunks())
    problems = (
        ("pair_id", pc.is_null(pair), "the data root has no such pair"),
        ("pair_id", pc.is_null(gold), "the pair has no label"),
        ("chosen_verdict", pc.not_equal(table["chosen_verdict"], gold), "chosen's verdict is not the pair's label {}"),
        ("rejected_verdict", pc.equal(table["rejected_verdict"], gold), "rejected's verdict is the pair's label {}"),
        ("rejected", pc.equal(table["chosen"], table["rejected"]), "chosen and rejected are the same text"),
    )
    broken = [np.flatnonzero(mask.fill_null(False).to_numpy()) for _, mask, _ in problems]
    first, number = min(((int(rows[0]), i) for i, rows in enumerate(broken) if len(rows)), default=(-1, -1))
    if number >= 0:
        column, _, problem = problems[number]
        raise UserError(
            f"{path}, row {first + 1}, column {column!r}: {problem.format(repr(gold[first].as_py()))} "
            f"(value: {table[column][first].as_py()!r:.80}). {MEND}"
        )


def refuse_held_out(preferences: pa.Table, pairs: pa.Table, train: np.ndarray, path: Path) -> None:
    """Refuse preference pairs of queries that do not train (trap 14).

    Args:
        preferences: Preference pairs, of ``pairs``.
        pairs: The data root's N pairs, with pair_id.
        train: (N,) bool: which pairs train (:func:`~lrkd.data.split_rows.training_mask`).
        path: Where the preference pairs are from, for messages.

    Raises:
        UserError: A preference pair is of a pair that does not train.
    """
    pair = pc.index_in(preferences["pair_id"], value_set=pairs["pair_id"].combine_chunks()).to_numpy()
    held_out = np.flatnonzero(~train[pair])
    if len(held_out):
        raise UserError(
            f"{path}, row {held_out[0] + 1}, column 'pair_id': {preferences['pair_id'][int(held_out[0])].as_py()!r} is "
            f"not of a training query; {len(held_out)} of {len(pair)} rows are not. Mine with the fold, val_fraction "
            "and split_seed that you train with."
        )


def write_preferences(
    path: Path, rationales: pa.Table, chosen: np.ndarray, rejected: np.ndarray, prompt: pa.Array
) -> None:
    """Write preference pairs, atomically.

    Args:
        path: The file to write; an old one is replaced.
        rationales: M rationales.
        chosen: (N,) int: their places in ``rationales``.
        rejected: (N,) int: the same.
        prompt: (N,) the prompts' names.
    """
    with ParquetSink(path, PREFERENCES_SCHEMA) as sink:
        for start in range(0, len(chosen), WRITE_ROWS):
            rows = slice(start, start + WRITE_ROWS)
            sink.write(_joined(rationales, chosen[rows], rejected[rows], prompt[rows]))


def _joined(rationales: pa.Table, chosen: np.ndarray, rejected: np.ndarray, prompt: pa.Array) -> pa.Table:
    sides = {"chosen": rationales.take(pa.array(chosen)), "rejected": rationales.take(pa.array(rejected))}
    versions = [side["prompt_version"].combine_chunks() for side in sides.values()]
    agree = pc.equal(*versions).fill_null(False)
    columns = {
        "pair_id": sides["chosen"]["pair_id"],
        "prompt": prompt,
        "prompt_version": pc.if_else(agree, versions[0], pa.scalar(None, pa.string())),
    }
    for name, side in sides.items():
        columns[name] = side["rationale"]
        columns |= {f"{name}_{column}": side[column] for column in ("perspective", "sample", "verdict", "teacher")}
    return pa.table(columns)
