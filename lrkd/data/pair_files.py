"""Pairs to be judged, from a file of the user's own: no ids are needed, and every row is checked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from lrkd.data.row_files import open_rows
from lrkd.data.rows import RowErrors, check_rows
from lrkd.data.types import PAIRS_SCHEMA, ItemText, LabelSet
from lrkd.errors import UserError

PLACE = "row"


def read_pair_file(path: Path, item_text: ItemText, labels: LabelSet, errors: RowErrors) -> pa.Table:
    """The pairs of a CSV, TSV, JSON-lines or Parquet file.

    Args:
        path: A file with the columns query, title and whatever else the item's text is made of; pair_id and label are
            taken along if they are there.
        item_text: The template of the item's text.
        labels: What labels may be.
        errors: Takes broken rows.

    Returns:
        N rows: their place in the file (``row``, int64, as messages count it), and those columns.

    Raises:
        UserError: No such file, a missing column, a broken row, or no pair is left.
    """
    file = open_rows(path)
    needed = list(dict.fromkeys(("query", "title", *item_text.fields)))
    known = [name for name in ("pair_id", "label") if name in file.columns]
    schema = pa.schema([PAIRS_SCHEMA.field(name) for name in (*needed, *known)])
    place = pa.field(PLACE, pa.int64(), nullable=False)
    tables = []
    for piece, places in file.pieces(errors, needed, known):
        good, kept = check_rows(piece, schema, path, errors, labels=labels.labels, places=places, unit=file.unit)
        tables.append(good.add_column(0, place, pa.array(np.asarray(places)[kept], pa.int64())))
    if not sum(table.num_rows for table in tables):
        raise UserError(f"{path}: holds no pair{f'; {errors.total} rows were set aside' if errors.total else ''}")
    return pa.concat_tables(tables).combine_chunks()
