"""CSV, TSV and JSON-lines files as rows: a byte that is not UTF-8, or a line that is no row, is named by its line."""

from __future__ import annotations

import csv
import json
import math
from collections import deque
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa

from lrkd.data.row_files import PIECE_ROWS, RowFile
from lrkd.data.rows import RowErrors
from lrkd.errors import UserError

PIECE_BYTES = 1 << 24
PART_BYTES = 1 << 22
LONGEST_LINE = 1 << 24
FIRST_ROWS = 1000
"""How many lines of a JSON-lines file tell which columns it has."""


class _Lines:
    """A text file's lines, numbered; bytes that are not UTF-8 come as lone surrogates and lose nothing."""

    def __init__(self, file: IO[bytes], path: Path) -> None:
        self._file = file
        self._path = path
        self._again: deque[str] = deque()
        self.number = 0
        self.taken: list[str] = []

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        if self._again:
            line = self._again.popleft()
        else:
            raw = self._file.readline(LONGEST_LINE)
            if not raw:
                raise StopIteration
            if len(raw) == LONGEST_LINE:
                raise UserError(
                    f"{self._path}, line {self.number + 1}: over {LONGEST_LINE} bytes; is this a text file?"
                )
            line = raw.decode("utf-8", "surrogateescape")
            if self.number == 0:
                line = line.removeprefix("\ufeff")
        self.number += 1
        self.taken.append(line)
        return line

    def keep_first(self) -> str:
        """Give back all lines taken since the last row but the first, which is returned."""
        first, *rest = self.taken
        self._again.extendleft(reversed(rest))
        self.number -= len(rest)
        return first


class _TextRows(RowFile):
    """What the text formats share."""

    unit = "line"

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.size = path.stat().st_size

    @property
    def parts(self) -> int:
        """See :class:`RowFile`."""
        return max(1, math.ceil(self.size / PART_BYTES))


class DelimitedRows(_TextRows):
    """Rows of a CSV or TSV file with a header; fields may hold line ends if they are quoted."""

    def __init__(self, path: Path, delimiter: str, quote: str = '"') -> None:
        super().__init__(path)
        if len(delimiter) != 1 or len(quote) > 1:
            raise UserError(f"a delimiter is one character and a quote at most one, got {delimiter!r} and {quote!r}")
        self._delimiter = delimiter
        self._quote = quote
        with path.open("rb") as file:
            lines = _Lines(file, path)
            self.columns = self._header(self._reader(lines))

    def _reader(self, lines: _Lines) -> Iterator[list[str]]:
        if not self._quote:
            return csv.reader(lines, delimiter=self._delimiter, quoting=csv.QUOTE_NONE, strict=True)
        return csv.reader(lines, delimiter=self._delimiter, quotechar=self._quote, strict=True)

    def _header(self, reader: Iterator[list[str]]) -> list[str]:
        try:
            header = next(reader, [])
        except csv.Error as error:
            raise UserError(f"{self.path}, line 1: not a readable header: {error}") from error
        if not header:
            raise UserError(f"{self.path}: empty; the first line must name the columns")
        if not _is_clean("".join(header)):
            raise UserError(f"{self.path}, line 1: the header is not UTF-8; save the file as UTF-8")
        if len(set(header)) < len(header):
            raise UserError(f"{self.path}, line 1: a column name stands there twice: {', '.join(header)}")
        return header

    def pieces(
        self, errors: RowErrors, needed: Collection[str], optional: Collection[str] = ()
    ) -> Iterator[tuple[pa.Table, np.ndarray]]:
        """See :class:`RowFile`."""
        self.need(needed)
        with self.path.open("rb") as file:
            lines = _Lines(file, self.path)
            reader = self._reader(lines)
            next(reader)
            rows: list[list[str]] = []
            places: list[int] = []
            started = 0
            while (row := self._next(reader, lines, errors)) is not None:
                place, fields = row
                rows.append(fields)
                places.append(place)
                if len(rows) == PIECE_ROWS or file.tell() - started > PIECE_BYTES:
                    self.position = started = file.tell()
                    yield self._table(rows), np.array(places)
                    rows, places = [], []
            self.position = self.size
            if rows:
                yield self._table(rows), np.array(places)

    def _next(self, reader: Iterator[list[str]], lines: _Lines, errors: RowErrors) -> tuple[int, list[str]] | None:
        """The next row that has the right number of fields, with the line it starts on."""
        while True:
            lines.taken.clear()
            place = lines.number + 1
            try:
                fields = next(reader)
            except StopIteration:
                return None
            except csv.Error as error:
                # A quote that is never closed swallows the lines after it: these are read again, on their own.
                self.read += 1
                errors.report(self.path, place, "", f"not CSV: {error}", {"": lines.keep_first()}, unit=self.unit)
                continue
            if not fields:  # a blank line
                continue
            self.read += 1
            if len(fields) == len(self.columns):
                return place, fields
            problem = f"{len(fields)} fields where the header has {len(self.columns)}"
            errors.report(self.path, place, "", problem, {"": "".join(lines.taken)}, unit=self.unit)

    def _table(self, rows: list[list[str]]) -> pa.Table:
        columns = [_text_column([cell or None for cell in column]) for column in zip(*rows, strict=True)]
        return pa.table(columns, names=self.columns)


class JsonRows(_TextRows):
    """Rows of a JSON-lines file, one object a line."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        seen: dict[str, None] = {}
        with path.open("rb") as file:
            for line, _ in zip(_Lines(file, path), range(FIRST_ROWS), strict=False):
                row = _parse(line)
                seen |= dict.fromkeys(row) if isinstance(row, dict) else {}
        self.columns = list(seen)

    def pieces(
        self, errors: RowErrors, needed: Collection[str], optional: Collection[str] = ()
    ) -> Iterator[tuple[pa.Table, np.ndarray]]:
        """See :class:`RowFile`."""
        self.need(needed)
        with self.path.open("rb") as file:
            lines = _Lines(file, self.path)
            rows: list[dict[str, Any]] = []
            places: list[int] = []
            started = 0
            for line in lines:
                lines.taken.clear()
                if not line.strip():
                    continue
                self.read += 1
                if (row := self._checked(line, lines.number, errors, needed, optional)) is None:
                    continue
                rows.append(row)
                places.append(lines.number)
                if len(rows) == PIECE_ROWS or file.tell() - started > PIECE_BYTES:
                    self.position = started = file.tell()
                    yield self._table(rows), np.array(places)
                    rows, places = [], []
            self.position = self.size
            if rows:
                yield self._table(rows), np.array(places)

    def _checked(
        self, line: str, place: int, errors: RowErrors, needed: Collection[str], optional: Collection[str]
    ) -> dict[str, Any] | None:
        row = _parse(line)
        if isinstance(row, str):
            errors.report(self.path, place, "", row, {"": line}, unit=self.unit)
            return None
        for name in (*needed, *optional):
            value = row.get(name)
            if name in needed and name not in row:
                problem = "missing column"
            elif isinstance(value, float) and not math.isfinite(value):
                problem = "NaN" if math.isnan(value) else "not a finite number"
            else:
                continue
            errors.report(self.path, place, name, problem, row, unit=self.unit)
            return None
        return row

    def _table(self, rows: list[dict[str, Any]]) -> pa.Table:
        names = dict.fromkeys(name for row in rows for name in row)
        return pa.table([_column([row.get(name) for row in rows]) for name in names], names=list(names))


def _parse(line: str) -> dict[str, Any] | str:
    """A line's JSON object, or what is wrong with it."""
    try:
        row = json.loads(line)
    except (json.JSONDecodeError, RecursionError):
        return "broken JSON"
    return row if isinstance(row, dict) else "not a JSON object"


def _column(values: list[Any]) -> pa.Array:
    """JSON values as one column: of their own type if they share one, else as text."""
    if all(isinstance(value, str | None) for value in values):
        return _text_column(values)
    if not any(isinstance(value, dict) for value in values):
        try:
            return pa.array(values)
        except (pa.ArrowException, UnicodeEncodeError, OverflowError):
            pass
    return _text_column([v if isinstance(v, str | None) else json.dumps(v, ensure_ascii=False) for v in values])


def _text_column(values: list[str | None]) -> pa.Array:
    """Text as ``string``, or as ``binary`` with the original bytes where some of it is not UTF-8."""
    try:
        return pa.array(values, pa.string())
    except UnicodeEncodeError:
        return pa.array([None if value is None else _bytes(value) for value in values], pa.binary())


def _bytes(text: str) -> bytes:
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # a lone surrogate that JSON spelled out as an escape
        return text.encode("utf-8", "surrogatepass")


def _is_clean(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
