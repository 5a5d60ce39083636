"""Reading and writing ``pairs.parquet``."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Self

import pyarrow as pa
import pyarrow.parquet as pq

from lrkd.data.rows import RowErrors, check_rows, repeated
from lrkd.data.types import PAIRS_FILE, PAIRS_SCHEMA, LabelSet
from lrkd.errors import UserError

BATCH_ROWS = 16_384
READ_BUFFER = 1 << 16


def pairs_path(root: str | Path) -> Path:
    """The data root's ``pairs.parquet``.

    Raises:
        UserError: There is none.
    """
    return _existing(Path(root) / PAIRS_FILE, "a data root is a folder that holds it: see `python -m lrkd data import`")


def _existing(path: Path, hint: str) -> Path:
    if not path.is_file():
        raise UserError(f"{path}: no such file; {hint}")
    return path


def open_parquet(path: Path) -> pq.ParquetFile:
    """A Parquet file, opened.

    Raises:
        UserError: The file is not readable Parquet.
    """
    try:
        # Without a buffer, reading starts by loading whole column chunks: a gigabyte of descriptions at a time.
        return pq.ParquetFile(path, buffer_size=READ_BUFFER, pre_buffer=False)
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{path}: not a readable Parquet file: {error}") from error


def iter_pairs(
    root: str | Path,
    *,
    columns: Sequence[str] | None = None,
    labels: LabelSet | None = None,
    errors: RowErrors | None = None,
    batch_rows: int = BATCH_ROWS,
) -> Iterator[pa.Table]:
    """A data root's pairs in pieces, checked, with memory that does not grow with the file.

    Args:
        root: The data root.
        columns: Which columns of :data:`PAIRS_SCHEMA` to read; all by default.
        labels: If given, every label must be null or one of these.
        errors: Takes broken rows; by default the first one raises.
        batch_rows: Rows read at a time.

    Yields:
        Tables of at most ``batch_rows`` rows in the schema's types.

    Raises:
        UserError: No such file, a missing column, or a broken row.
    """
    path = pairs_path(root)
    schema = pa.schema([PAIRS_SCHEMA.field(name) for name in columns or PAIRS_SCHEMA.names])
    file = open_parquet(path)
    present = [name for name in schema.names if name in file.schema_arrow.names]
    first_row = 1
    for batch in file.iter_batches(batch_rows, columns=present):
        table, _ = check_rows(
            pa.Table.from_batches([batch]),
            schema,
            path,
            errors or RowErrors(),
            first_row=first_row,
            labels=labels.labels if labels else None,
        )
        first_row += batch.num_rows
        yield table


def read_pairs(root: str | Path, *, columns: Sequence[str] | None = None, labels: LabelSet | None = None) -> pa.Table:
    """A data root's pairs as one table, checked; see :func:`iter_pairs`.

    Raises:
        UserError: No such file, a missing column, a broken row, or a pair_id that stands twice.
    """
    names = list(columns or PAIRS_SCHEMA.names)
    schema = pa.schema([PAIRS_SCHEMA.field(name) for name in names])
    table = pa.concat_tables([schema.empty_table(), *iter_pairs(root, columns=names, labels=labels)])
    if "pair_id" in names and len(twice := repeated([table["pair_id"]])):
        row = int(twice[0])
        raise UserError(
            f"{pairs_path(root)}, row {row + 1}, column 'pair_id': {table['pair_id'][row].as_py()!r} stands there a "
            "second time. Mend the row, or run `python -m lrkd data import ... --on_error skip`."
        )
    return table


class ParquetSink:
    """Writes a Parquet file piece by piece; it appears under its name only when it is whole.

    Args:
        path: The file to write; an old one is replaced.
        schema: Its columns; pieces are cast to it.
    """

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.path = path
        self.rows = 0
        self._schema = schema
        self._partial = path.with_name(f".{path.name}.{os.getpid()}.partial")

    def __enter__(self) -> Self:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._writer = pq.ParquetWriter(self._partial, self._schema, compression="zstd")
        return self

    def write(self, table: pa.Table) -> None:
        """Append rows that have the schema's columns."""
        if table.num_rows:
            self._writer.write_table(table.select(self._schema.names).cast(self._schema))
            self.rows += table.num_rows

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()
        if kind is None:
            self._partial.replace(self.path)
        else:
            self._partial.unlink(missing_ok=True)


def write_table(table: pa.Table, path: Path, schema: pa.Schema) -> None:
    """Write one whole table as Parquet, atomically; optional columns of the schema that it lacks are null."""
    for field in schema:
        if field.name not in table.column_names:
            table = table.append_column(field, pa.nulls(table.num_rows, field.type))
    with ParquetSink(path, schema) as sink:
        sink.write(table)


def table_file(path: Path, name: str) -> Path:
    """The table that an option means: the path itself if it ends in ``.parquet``, else the file ``name`` in it."""
    return path if path.suffix == ".parquet" else path / name


def refuse_overwriting(target: Path, sources: Sequence[Path]) -> None:
    """Refuse to write where something is read.

    Args:
        target: The file to be written.
        sources: The files read.

    Raises:
        UserError: ``target`` is one of the ``sources``.
    """
    if target.resolve() in {source.resolve() for source in sources}:
        raise UserError(f"--out {target}: is read from, and would be overwritten; give another file or folder")


def file_fingerprint(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hex; read again only if the file has changed: every checkpoint asks for it."""
    found = path.stat()
    return _digest(path.resolve(), found.st_mtime_ns, found.st_size)


@lru_cache
def _digest(path: Path, modified: int, size: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
