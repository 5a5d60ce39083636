"""Reading and writing ``rationales.parquet``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lrkd.data.pairs import ParquetSink, open_parquet, table_file
from lrkd.data.rows import RowErrors, check_rows, repeated
from lrkd.data.types import RATIONALES_FILE, RATIONALES_SCHEMA, LabelSet
from lrkd.errors import UserError

WRITE_ROWS = 65_536


def rationales_path(root: str | Path) -> Path:
    """Where a data root keeps its rationales, whether or not there are any."""
    return Path(root) / RATIONALES_FILE


def rationale_files(root: str | Path, given: str | Path | Sequence[str | Path] | None) -> list[Path]:
    """The files that an option for rationales means; None: the data root's.

    Args:
        root: The data root.
        given: Files, or folders with ``rationales.parquet``.
    """
    if given is None:
        return [rationales_path(root)]
    return [table_file(Path(path), RATIONALES_FILE) for path in ([given] if isinstance(given, str | Path) else given)]


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
    return read_rationales_file(path, labels=labels)


def read_rationales_file(path: Path, *, labels: LabelSet | None = None) -> pa.Table:
    """One file's rationales; see :func:`read_rationales`.

    Raises:
        UserError: No such file, a missing column, a broken row, or a key that stands twice.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; wanted are rationales in Parquet, or a folder with {RATIONALES_FILE}")
    table, _ = check_rows(
        open_parquet(path).read(),
        RATIONALES_SCHEMA,
        path,
        RowErrors(),
        labels=labels.labels if labels else None,
        label_column="verdict",
    )
    if len(twice := repeated(_key(table))):
        row = table.slice(int(twice[0]), 1).to_pylist()[0]
        raise UserError(
            f"{path}, row {twice[0] + 1}: the key pair_id {row['pair_id']!r}, perspective {row['perspective']!r}, "
            f"sample {row['sample']} stands there a second time; every rationale needs a key of its own"
        )
    return table


def _key(table: pa.Table) -> list[pa.ChunkedArray]:
    return [table[name] for name in ("pair_id", "perspective", "sample")]


@dataclass(frozen=True)
class Source:
    """A file that rationales were taken from.

    Args:
        path: The file.
        rows: How many it holds.
        shift: What was added to its sample numbers.
    """

    path: Path
    rows: int
    shift: int

    def to_dict(self) -> dict[str, Any]:
        """Plain types, as reports keep them."""
        return {"path": str(self.path), "rationales": self.rows, "samples_shifted_by": self.shift}


def merge_rationales(files: Sequence[Path], *, labels: LabelSet | None = None) -> tuple[pa.Table, list[Source]]:
    """The rationales of several files, such as those of two teachers, as one table.

    Two teachers' rationales have the same keys. A file with a key that an earlier file has gets its samples counted on:
    all are shifted by the highest sample so far plus one, so that every key is unique and can be traced to its file.

    Args:
        files: The files; their order matters where samples are shifted.
        labels: If given, every verdict must be one of these.

    Returns:
        The table in :data:`RATIONALES_SCHEMA`, file by file; and what was taken from where.

    Raises:
        UserError: A file stands there twice, or one can't be read: see :func:`read_rationales`.
    """
    merged = RATIONALES_SCHEMA.empty_table()
    sources: list[Source] = []
    for file in files:
        if any(file.resolve() == source.path.resolve() for source in sources):
            raise UserError(f"{file}: given twice; name every file of rationales once")
        table = read_rationales_file(file, labels=labels)
        both = pa.concat_tables([merged, table])
        shift = 0
        if len(repeated(_key(both))):
            shift = int(pc.max(merged["sample"]).as_py()) + 1
            place = table.column_names.index("sample")
            moved = pc.add(table["sample"], pa.scalar(shift, pa.int32()))
            both = pa.concat_tables([merged, table.set_column(place, RATIONALES_SCHEMA.field("sample"), moved)])
        merged = both
        sources.append(Source(file, table.num_rows, shift))
    return merged, sources


def key_order(rationales: pa.Table) -> np.ndarray:
    """The rows (M,) in the order of their keys: what is made in it does not depend on the files' order of rows."""
    keys = [(name, "ascending") for name in ("pair_id", "perspective", "sample")]
    return np.asarray(pc.sort_indices(rationales, sort_keys=keys).to_numpy(), np.int64)


def write_rationales(rationales: pa.Table, rows: np.ndarray, path: Path) -> None:
    """Write some rationales, atomically.

    Args:
        rationales: M rationales in :data:`RATIONALES_SCHEMA`.
        rows: (N,) which of them, in order.
        path: The file to write; an old one is replaced.
    """
    with ParquetSink(path, RATIONALES_SCHEMA) as sink:
        for start in range(0, len(rows), WRITE_ROWS):
            sink.write(rationales.take(pa.array(rows[start : start + WRITE_ROWS])))
