"""One run of ``data import``: rows are checked, joined, put in order and freed of repeats, with constant memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lrkd.data.import_formats import Source
from lrkd.data.pairs import ParquetSink
from lrkd.data.row_files import PART_ROWS, RowFile
from lrkd.data.rows import RowErrors, check_rows, repeated
from lrkd.data.spill import Spill, key_of, look_up, parts_of
from lrkd.data.types import PAIRS_SCHEMA
from lrkd.errors import UserError

if TYPE_CHECKING:
    from rich.progress import Progress

PLACE = pa.field("place", pa.int64())
"""A row's place in its file, carried along until the rows are in order again."""

TWICE = "stands there a second time"


@dataclass
class ImportCounts:
    """What became of the main file's rows: ``read`` is the sum of the other three.

    Args:
        read: Rows in the file.
        written: Pairs in ``pairs.parquet``.
        set_aside: Broken rows, now in ``rejected.jsonl``.
        left_out: Rows that the options exclude (locale, version).
        labels: Pairs by label.
    """

    read: int = 0
    written: int = 0
    set_aside: int = 0
    left_out: int = 0
    labels: Counter[str] = field(default_factory=Counter)


class ImportRun:
    """One run: the main file's rows, joined with the other files, in order, without repeats.

    Args:
        folder: Where rows lie meanwhile.
        files: The main file, then those that it is joined with.
        sources: What each is.
        errors: Takes broken rows.
        progress: Shows how far it is.
    """

    def __init__(
        self,
        folder: Path,
        files: Sequence[RowFile],
        sources: Sequence[Source],
        errors: RowErrors,
        progress: Progress,
    ) -> None:
        self.files = files
        self.counts = ImportCounts()
        self.left_out: Counter[Path] = Counter()
        self.errors = errors
        self._folder = folder
        self._sources = sources
        self._progress = progress
        # One number of parts for all files: the two sides of a join must be spread alike.
        self._parts = max(file.parts for file in files)
        self._windows = 0

    def run(self, sink: ParquetSink) -> None:
        """Read all, write the pairs, and check that no row was lost.

        Raises:
            UserError: A broken row, or no pair is left.
        """
        keys = Spill(self._folder / "keys", self._parts, pa.schema([("pair_id", pa.string()), PLACE]))
        rows = self._main_rows(keys)
        for number, (file, source) in enumerate(zip(self.files[1:], self._sources[1:], strict=True), 1):
            rows = self._join(rows, file, source, number)
        ordered = Spill(self._folder / "ordered", 0, self._ordered_schema())
        for table in rows:
            window = (table["place"].to_numpy() - 1) // PART_ROWS
            self._windows = max(self._windows, int(window.max()) + 1 if len(window) else 0)
            ordered.write(table, window)
        repeats = self._repeats(keys)
        for window in self._tracked(range(self._windows), "writing pairs"):
            table = ordered.read(window)
            table = table.take(pc.sort_indices(table["place"]))
            table = self._without_absent(table)
            table = self._without_repeats(table, repeats.read(window))
            for entry in pc.value_counts(table["label"]).to_pylist():
                self.counts.labels[entry["values"] or "unknown"] += entry["counts"]
            sink.write(table)
            ordered.drop(window)
        self._settle(sink.rows)

    def _settle(self, written: int) -> None:
        path = self.files[0].path
        counts = self.counts
        counts.read, counts.written = self.files[0].read, written
        counts.set_aside, counts.left_out = self.errors.by_file[str(path)], self.left_out[path]
        if counts.read != counts.written + counts.set_aside + counts.left_out:
            raise RuntimeError(f"{path}: rows were lost: {counts}")
        if not written:
            raise UserError(
                f"{path}: no pair is left: {counts.read} rows read, {counts.left_out} left out by --locales or "
                f"--version, {counts.set_aside} set aside as broken"
            )

    def _ordered_schema(self) -> pa.Schema:
        # A row that found no partner has nulls until it is reported.
        return pa.schema([entry.with_nullable(True) for entry in PAIRS_SCHEMA] + [PLACE])

    def _main_rows(self, keys: Spill) -> Iterator[pa.Table]:
        for table in self._checked(self.files[0], self._sources[0]):
            keys.write(table, parts_of(key_of([table["pair_id"]]), keys.parts))
            yield _with_columns(table, self._ordered_schema())

    def _checked(self, file: RowFile, source: Source) -> Iterator[pa.Table]:
        """A file's good rows in our columns, each with its place."""
        called = {name: source.names[name] for name in source.names}
        needed = [called[name] for name in source.needed]
        optional = [name for name in called.values() if name not in needed]
        task = self._progress.add_task(f"reading {file.path.name}", total=file.size or 1)
        for table, places in file.pieces(self.errors, needed, optional):
            rows = source.select(table.append_column("_place", pa.array(places)))
            self.left_out[file.path] += len(places) - rows.num_rows
            places = rows["_place"].to_numpy()
            good, positions = check_rows(
                rows.drop_columns("_place"),
                source.schema,
                file.path,
                self.errors,
                choices=source.choices,
                names=called,
                places=places,
                unit=file.unit,
            )
            self._progress.update(task, completed=file.position)
            yield source.convert(good).append_column(PLACE, pa.array(places[positions], pa.int64()))

    def _join(self, rows: Iterator[pa.Table], file: RowFile, source: Source, number: int) -> Iterator[pa.Table]:
        """The rows with the columns of another file beside them, in no particular order."""
        fields = [PAIRS_SCHEMA.field(name).with_nullable(True) for name in source.names]
        right = Spill(self._folder / f"right{number}", self._parts, pa.schema([*fields, PLACE]))
        for table in self._checked(file, source):
            right.write(table, parts_of(self._key(table, source), self._parts))
        left = Spill(self._folder / f"left{number}", self._parts, self._ordered_schema())
        for table in rows:
            left.write(table, parts_of(self._key(table, source), self._parts))
        return self._joined(left, right, file, source)

    def _joined(self, left: Spill, right: Spill, file: RowFile, source: Source) -> Iterator[pa.Table]:
        for part in self._tracked(range(self._parts), f"joining {file.path.name}"):
            table = self._distinct(right.read(part), file, source)
            key = self._key(table, source)
            table = table.drop_columns([*source.key, "place"])
            for piece in left.read_pieces(part):
                yield look_up(piece, self._key(piece, source), table, key)
            left.drop(part)
            right.drop(part)

    def _key(self, table: pa.Table, source: Source) -> pa.Array:
        return key_of([table[name] for name in source.key])

    def _distinct(self, table: pa.Table, file: RowFile, source: Source) -> pa.Table:
        """The rows whose key stands for the first time; a later one is a broken row."""
        twice = repeated([table[name] for name in source.key])
        self._report(table, twice, file, source, source.names[source.key[0]], TWICE)
        return table.take(pa.array(np.setdiff1d(np.arange(table.num_rows), twice)))

    def _repeats(self, keys: Spill) -> Spill:
        """Where a pair_id stands that stood earlier already, by window."""
        repeats = Spill(self._folder / "repeats", 0, pa.schema([PLACE]))
        for part in self._tracked(range(keys.parts), "looking for repeated pairs"):
            table = keys.read(part)
            table = table.take(pa.array(repeated([table["pair_id"]])))
            repeats.write(table, (table["place"].to_numpy() - 1) // PART_ROWS)
            keys.drop(part)
        return repeats

    def _without_absent(self, table: pa.Table) -> pa.Table:
        for source in self._sources[1:]:
            # Every other file has a column of its own that must be filled: null means that there was no such row.
            column = next(name for name in source.needed if name not in source.key)
            name = self._sources[0].names[source.key[0]]
            table = self._without(table, pc.is_null(table[column]).to_numpy(), name, source.absent)
        return table

    def _without_repeats(self, table: pa.Table, repeats: pa.Table) -> pa.Table:
        mask = pc.is_in(table["place"], value_set=repeats["place"].combine_chunks()).to_numpy()
        return self._without(table, mask, "pair_id", TWICE)

    def _without(self, table: pa.Table, mask: np.ndarray, column: str, problem: str) -> pa.Table:
        """Report the rows under the mask and go on without them."""
        self._report(table, np.flatnonzero(mask), self.files[0], self._sources[0], column, problem)
        return table.filter(pa.array(~mask)) if mask.any() else table

    def _report(
        self, table: pa.Table, rows: np.ndarray, file: RowFile, source: Source, column: str, problem: str
    ) -> None:
        for row in table.take(pa.array(rows)).to_pylist():
            record = {source.names.get(name, name): value for name, value in row.items() if value is not None}
            place = int(record.pop("place"))
            self.errors.report(file.path, place, column, problem, record, unit=file.unit)

    def _tracked(self, values: range, what: str) -> Iterator[int]:
        yield from self._progress.track(values, description=what)


def _with_columns(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The table in the schema's columns; those that it lacks are null."""
    columns = {name: table[name] for name in table.column_names}
    return pa.table([columns.get(f.name, pa.nulls(table.num_rows, f.type)) for f in schema], names=schema.names)
