"""Tables in files of several formats, read in pieces, each row with its place in the file."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from lrkd.data.pairs import open_parquet
from lrkd.data.rows import RowErrors
from lrkd.errors import UserError

PIECE_ROWS = 8192
PART_ROWS = 32_768


class RowFile(ABC):
    """One file of rows, read in pieces of a bounded size.

    Attributes:
        path: The file.
        columns: The columns that it has.
        unit: What a row's place counts: ``row``, or ``line`` in a text file, where a row may span several.
        size: The file's size, in rows or bytes.
        position: How much of ``size`` was read so far.
        read: How many rows were read so far, the broken ones among them.
    """

    unit = "row"

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise UserError(f"{path}: no such file")
        self.path = path
        self.columns: list[str] = []
        self.size = 0
        self.position = 0
        self.read = 0

    @property
    @abstractmethod
    def parts(self) -> int:
        """Into how many parts the file's rows are to be spread, so that each is small."""

    @abstractmethod
    def pieces(
        self, errors: RowErrors, needed: Collection[str], optional: Collection[str] = ()
    ) -> Iterator[tuple[pa.Table, np.ndarray]]:
        """The rows in order.

        Args:
            errors: Takes the rows that are no rows of the format.
            needed: Columns that must be there.
            optional: Further columns that are wanted; others may be there too, unchecked.

        Yields:
            N rows with the file's own column names (text may be binary: it is checked later), and their places (N,).

        Raises:
            UserError: A column is missing, the file is not readable, or a row is broken and ``errors`` raises.
        """

    def need(self, names: Collection[str]) -> None:
        """Check that columns are there.

        Raises:
            UserError: Some are not.
        """
        if missing := [name for name in names if name not in self.columns]:
            raise UserError(
                f"{self.path}: lacks the column(s) {', '.join(missing)}; it has {', '.join(self.columns)}. Is it the "
                "right file? For a table of your own, `--columns` says which of its columns is which."
            )


def open_rows(path: Path, *, delimiter: str | None = None, quote: str = '"') -> RowFile:
    """A file of rows; the suffix says which format it has.

    Args:
        path: A file that ends in .parquet, .csv, .tsv, .jsonl or .ndjson; any other with ``delimiter``.
        delimiter: What stands between two fields; by the suffix unless given.
        quote: The mark around fields that hold a delimiter; empty where the file quotes nothing.

    Raises:
        UserError: No such file, an unknown suffix, or not readable as that format.
    """
    from lrkd.data.text_files import DelimitedRows, JsonRows  # they are subclasses of what stands here

    suffix = path.suffix.lower()
    if delimiter is None and suffix == ".parquet":
        return ParquetRows(path)
    if delimiter is None and suffix in (".jsonl", ".ndjson"):
        return JsonRows(path)
    delimiter = delimiter or {".csv": ",", ".tsv": "\t"}.get(suffix)
    if delimiter is None:
        raise UserError(
            f"{path}: the suffix says no format; it may be .parquet, .csv, .tsv, .jsonl or .ndjson, or give --delimiter"
        )
    return DelimitedRows(path, delimiter, quote)


class ParquetRows(RowFile):
    """Rows of a Parquet file."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._file = open_parquet(path)
        self.columns = list(self._file.schema_arrow.names)
        self.size = self._file.metadata.num_rows

    @property
    def parts(self) -> int:
        """See :class:`RowFile`."""
        return max(1, math.ceil(self.size / PART_ROWS))

    def pieces(
        self, errors: RowErrors, needed: Collection[str], optional: Collection[str] = ()
    ) -> Iterator[tuple[pa.Table, np.ndarray]]:
        """See :class:`RowFile`; only the columns that are wanted are read."""
        self.need(needed)
        columns = [name for name in self.columns if name in needed or name in optional]
        try:
            # One thread: several decode a column each ahead of time, and hold more.
            for batch in self._file.iter_batches(PIECE_ROWS, columns=columns, use_threads=False):
                places = self.read + 1 + np.arange(batch.num_rows)
                self.read += batch.num_rows
                self.position = self.read
                yield pa.Table.from_batches([batch]), places
        except (pa.ArrowException, OSError) as error:
            raise UserError(f"{self.path}, after row {self.read}: not readable as Parquet: {error}") from error
