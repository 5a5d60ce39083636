"""Row checks: every table that comes in is validated here, and a broken row is named or set aside, never lost."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lrkd.errors import UserError

OnError = Literal["raise", "skip"]

MEND = "Mend the row, or run `python -m lrkd data import ... --on_error skip`, which sets such rows aside in a file."

LIST_SEPARATOR = " > "
"""Between the entries of a list that a file holds as text, such as a category path."""


class RowErrors:
    """Where broken rows go: the first one raises, or all are set aside in a JSON-lines file and counted.

    Args:
        on_error: ``raise`` or ``skip``.
        rejects: The file that takes the rows set aside (needed for ``skip``); written only if there are any.
        mend: What messages tell the user to do about a broken row; by default, to import with ``skip``.

    Raises:
        UserError: ``skip`` without a file to set rows aside in.
    """

    def __init__(self, on_error: OnError = "raise", rejects: Path | None = None, *, mend: str = MEND) -> None:
        if on_error not in ("raise", "skip"):
            raise UserError(f"on_error is 'raise' or 'skip', got {on_error!r}")
        if on_error == "skip" and rejects is None:
            raise UserError("on_error 'skip' needs a file to set the broken rows aside in")
        self.on_error = on_error
        self.rejects = rejects
        self.mend = mend
        self.counts: Counter[str] = Counter()
        self.by_file: Counter[str] = Counter()
        self._file: IO[str] | None = None

    def report(
        self, file: str | Path, row: int, column: str, problem: str, record: dict[str, Any], *, unit: str = "row"
    ) -> None:
        """Raise for, or set aside, one broken row.

        Args:
            file: The file it stands in.
            row: Its place there, counted from 1.
            column: The column that is wrong; empty where the row as a whole is.
            problem: What is wrong, in a few words that do not depend on the row (they are counted).
            record: The row as read, for the file of rejects; under the key "" what has no columns.
            unit: What ``row`` counts: ``row``, or ``line`` in a text file, where a row may span several.

        Raises:
            UserError: ``on_error`` is ``raise``.
        """
        if self.on_error == "raise":
            where = f", column {column!r}" if column else ""
            raise UserError(f"{file}, {unit} {row}{where}: {problem} (value: {record.get(column)!r:.80}). {self.mend}")
        self.counts[f"{column}: {problem}" if column else problem] += 1
        self.by_file[str(file)] += 1
        if self._file is None:
            assert self.rejects is not None
            self.rejects.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.rejects.open("w", encoding="utf-8")
        entry = {"file": str(file), unit: row, "column": column, "problem": problem, "record": record}
        self._file.write(json.dumps(entry, ensure_ascii=True, default=_as_text) + "\n")

    @property
    def total(self) -> int:
        """How many rows were set aside."""
        return self.counts.total()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def _as_text(value: object) -> str:
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)


def check_rows(
    table: pa.Table,
    schema: pa.Schema,
    file: str | Path,
    errors: RowErrors,
    *,
    first_row: int = 1,
    labels: tuple[str, ...] | None = None,
    label_column: str = "label",
    choices: Mapping[str, tuple[str, ...]] | None = None,
    names: Mapping[str, str] | None = None,
    places: np.ndarray | None = None,
    unit: str = "row",
) -> tuple[pa.Table, np.ndarray]:
    """Cast a piece of a table to a schema and take out the rows that break it.

    Args:
        table: N rows as read; columns that the schema lacks are dropped, optional ones that it lacks are null.
        schema: What the columns must be; a field that is not nullable must be filled and, if text, not blank.
        file: Named in messages.
        errors: Takes the broken rows.
        first_row: The place of the first row in its file, counted from 1.
        labels: If given, ``label_column`` must be null (where the schema allows it) or one of these.
        label_column: The column that holds labels.
        choices: The same for other text columns, by the schema's name: what their values may be.
        names: What the file calls a column of the schema, where that differs; messages name it so.
        places: (N,) every row's place in its file, where the rows do not follow one another.
        unit: What a place counts: ``row`` or ``line``.

    Returns:
        The M <= N good rows in the schema's columns, and their positions in ``table`` (M,).

    Raises:
        UserError: A required column is missing, or a row is broken and ``errors`` raises.
    """
    called = {field.name: (names or {}).get(field.name, field.name) for field in schema}
    missing = [called[field.name] for field in schema if not field.nullable]
    missing = [name for name in missing if name not in table.column_names]
    if missing:
        raise UserError(f"{file}: lacks the column(s) {', '.join(missing)}; it has {', '.join(table.column_names)}")
    allowed = dict(choices or {}) | ({label_column: labels} if labels is not None else {})
    bad: dict[int, tuple[str, str]] = {}
    columns = []
    for field in schema:
        if called[field.name] not in table.column_names:
            columns.append(pa.nulls(table.num_rows, field.type))
            continue
        column, problems = _cast(table[called[field.name]].combine_chunks(), field)
        if field.name in allowed:
            problems = _unknown(column, field.name, field.name == label_column, allowed[field.name]) | problems
        columns.append(column)
        for row, problem in problems.items():
            bad.setdefault(row, (called[field.name], problem))
    for row in sorted(bad):
        place = int(first_row + row if places is None else places[row])
        errors.report(file, place, *bad[row], _record(table, row), unit=unit)
    whole = np.ones(table.num_rows, bool)
    whole[np.fromiter(bad, int, len(bad))] = False
    good = np.flatnonzero(whole)
    # The schema is set at the end: a column may hold nulls until the broken rows are gone.
    kept = pa.table(columns, names=schema.names).take(pa.array(good))
    return kept.cast(schema), good


def _unknown(column: pa.Array, name: str, is_label: bool, allowed: tuple[str, ...]) -> dict[int, str]:
    """The rows whose value is none of the allowed ones."""
    known = pc.or_(pc.is_null(column), pc.is_in(column, value_set=pa.array(allowed, pa.string())))
    what = "unknown label; the label set has" if is_label else f"unknown {name}; it may be"
    return dict.fromkeys(_where(pc.invert(known)), f"{what} {', '.join(allowed)}")


def _where(mask: pa.Array) -> np.ndarray:
    return np.flatnonzero(np.asarray(mask.fill_null(False).to_numpy(zero_copy_only=False), dtype=bool))


def _cast(column: pa.Array, field: pa.Field) -> tuple[pa.Array, dict[int, str]]:
    """One column in the field's type, and what is wrong with which row."""
    problems: dict[int, str] = {}
    if pa.types.is_floating(column.type):
        column, problems = _without_nan(column)
    if pa.types.is_string(field.type):
        if pa.types.is_nested(column.type):
            problems |= dict.fromkeys(_where(pc.is_valid(column)), "not text")
            column = pa.nulls(len(column), pa.string())
        column, broken = _as_utf8(column)
        problems |= dict.fromkeys(broken, "not UTF-8")
    else:
        if pa.types.is_list(field.type) and _is_text(column.type):
            column, broken = _as_utf8(column)
            problems |= dict.fromkeys(broken, "not UTF-8")
            column = pc.split_pattern(column, LIST_SEPARATOR)
        column, broken = _cast_each(column, field.type)
        problems |= dict.fromkeys(broken, f"not of type {field.type}")
        if pa.types.is_floating(field.type):
            column, not_numbers = _without_nan(column)
            problems |= not_numbers
    if not field.nullable:
        empty = pc.is_null(column)
        if pa.types.is_string(column.type):
            empty = pc.or_(empty, pc.equal(pc.utf8_length(pc.utf8_trim_whitespace(column.fill_null(""))), 0))
        problems = dict.fromkeys(_where(empty), "empty") | problems
    return column, problems


def _without_nan(column: pa.Array) -> tuple[pa.Array, dict[int, str]]:
    """A float column with null for NaN, and the rows that held one."""
    nan = pc.is_nan(column)
    return pc.if_else(nan, pa.scalar(None, column.type), column), dict.fromkeys(_where(nan), "NaN")


def _as_utf8(column: pa.Array) -> tuple[pa.Array, list[int]]:
    """Text of any storage type as ``string``; rows that are not UTF-8 become null and are listed."""
    if isinstance(column, pa.DictionaryArray):
        column = column.dictionary_decode()
    if not _is_text(column.type):
        return column.cast(pa.string()), []
    raw = column if _is_binary(column.type) else column.cast(pa.large_binary())
    try:
        text = raw.cast(pa.string())  # checks every byte
    except pa.ArrowInvalid:
        values = raw.to_pylist()
        broken = [i for i, value in enumerate(values) if value is not None and not _is_utf8(value)]
        gone = set(broken)
        return pa.array([None if i in gone else v for i, v in enumerate(values)], pa.binary()).cast(pa.string()), broken
    return text, []


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or _is_binary(kind))


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _cast_each(column: pa.Array, kind: pa.DataType) -> tuple[pa.Array, list[int]]:
    """Cast a column; where that fails, cell by cell, with the cells that do not fit null and listed."""
    try:
        whole = column.cast(kind)
        whole.validate(full=True)  # a cast does not look at the bytes of text inside a list
        return whole, []
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        cells, broken = [], []
        for i, cell in enumerate(column):
            try:
                cells.append(cell.cast(kind).as_py())
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError, UnicodeDecodeError):
                cells.append(None)
                broken.append(i)
        return pa.array(cells, kind), broken


def _record(table: pa.Table, row: int) -> dict[str, Any]:
    """One row as Python values; text that is not UTF-8 comes as bytes."""
    record = {}
    for name in table.column_names:
        cell = table[name][row]
        try:
            record[name] = cell.as_py()
        except UnicodeDecodeError:
            record[name] = cell.cast(pa.large_binary()).as_py()
    return record


def repeated(keys: list[pa.Array | pa.ChunkedArray]) -> np.ndarray:
    """The positions at which a key (one or several columns of N rows) stands that stood earlier already."""
    names = [f"k{i}" for i in range(len(keys))]
    table = pa.table([*keys, pa.array(np.arange(len(keys[0])))], names=[*names, "row"])
    # One thread: several would each keep memory of their own, and more of it the longer they run.
    first = table.group_by(names, use_threads=False).aggregate([("row", "min")])["row_min"].to_numpy()
    later = np.ones(len(keys[0]), bool)
    later[first] = False
    return np.flatnonzero(later)
