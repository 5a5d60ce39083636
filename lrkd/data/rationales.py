"""Reading and writing ``rationales.parquet``."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from lrkd.data.pairs import open_parquet
from lrkd.data.rows import RowErrors, check_rows, repeated
from lrkd.data.types import RATIONALES_FILE, RATIONALES_SCHEMA, LabelSet
from lrkd.errors import UserError


def rationales_path(root: str | Path) -> Path:
    """Where a data root keeps its rationales, whether or not there are any."""
    return Path(root) / RATIONALES_FILE


def read_rationales(root: str | Path, *, labels: LabelSet | None = None) -> pa.Table:
    """A data root's rationales as one table, checked.

    Args:
        root: The data root.
        labels: If given, every verdict must be one of these.

    Returns:
        The table in :data:`RATIONALES_SCHEMA`.

    Raises:
        UserError: No such file, a missing column, a broken row, or a key that stands twice.
    """
    path = rationales_path(root)
    if not path.is_file():
        raise UserError(f"{path}: no such file; this data root has no rationales")
    table, _ = check_rows(
        open_parquet(path).read(),
        RATIONALES_SCHEMA,
        path,
        RowErrors(),
        labels=labels.labels if labels else None,
        label_column="verdict",
    )
    if len(twice := repeated([table["pair_id"], table["perspective"], table["sample"]])):
        row = table.slice(int(twice[0]), 1).to_pylist()[0]
        raise UserError(
            f"{path}, row {twice[0] + 1}: the key pair_id {row['pair_id']!r}, perspective {row['perspective']!r}, "
            f"sample {row['sample']} stands there a second time; every rationale needs a key of its own"
        )
    return table
