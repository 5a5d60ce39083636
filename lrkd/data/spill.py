"""Joining and ordering tables larger than memory: rows go to disk, spread over parts that are small.

A hash join over partitions (Kitsuregawa et al. 1983, "Application of hash to data base machine and its architecture"):
both sides are spread by the hash of the key, then joined part by part. The same spreading by a row's place brings
rows back in order. What is held in memory is one part at a time, however many there are.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from zlib import crc32

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

JOIN_ROWS = 8192


class Spill:
    """Rows on disk, spread over numbered parts.

    Args:
        folder: An empty or new folder of its own.
        parts: How many parts there are.
        schema: The rows' columns.
    """

    def __init__(self, folder: Path, parts: int, schema: pa.Schema) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.parts = parts
        self.schema = schema

    def _path(self, part: int) -> Path:
        return self.folder / f"{part}.arrows"

    def write(self, table: pa.Table, part: np.ndarray) -> None:
        """Append N rows, each to its part (N,); within a part, rows keep the order they came in."""
        if not table.num_rows:
            return
        order = np.argsort(part, kind="stable")
        table = table.select(self.schema.names).cast(self.schema).take(pa.array(order)).combine_chunks()
        edges = np.flatnonzero(np.diff(part[order])) + 1
        starts = np.concatenate([[0], edges])
        options = pa.ipc.IpcWriteOptions(compression="lz4", use_threads=False)
        for start, end in zip(starts, [*edges, table.num_rows], strict=True):
            # A piece is a stream of its own and no file stays open: there may be more parts than file handles.
            with (
                self._path(int(part[order[start]])).open("ab") as file,
                pa.ipc.new_stream(file, table.schema, options=options) as stream,
            ):
                stream.write_table(table.slice(start, end - start))

    def read(self, part: int) -> pa.Table:
        """All rows of one part in the order they came in."""
        return pa.concat_tables([self.schema.empty_table(), *self._pieces(part)]).combine_chunks()

    def read_pieces(self, part: int, rows: int = JOIN_ROWS) -> Iterator[pa.Table]:
        """The rows of one part in the order they came in, ``rows`` or a few more at a time."""
        pieces: list[pa.Table] = []
        count = 0
        for piece in self._pieces(part):
            pieces.append(piece)
            count += piece.num_rows
            if count >= rows:
                yield pa.concat_tables(pieces).combine_chunks()
                pieces, count = [], 0
        if pieces:
            yield pa.concat_tables(pieces).combine_chunks()

    def _pieces(self, part: int) -> Iterator[pa.Table]:
        path = self._path(part)
        if not path.is_file():
            return
        with pa.OSFile(str(path)) as file:
            size = file.size()
            while file.tell() < size:
                yield pa.ipc.open_stream(file).read_all()

    def drop(self, part: int) -> None:
        """Free one part's disk space."""
        self._path(part).unlink(missing_ok=True)


def key_of(columns: list[pa.Array | pa.ChunkedArray]) -> pa.Array:
    """Several text columns (N,) as one key column (N,)."""
    key = columns[0] if len(columns) == 1 else pc.binary_join_element_wise(*columns, "\0")
    return key.combine_chunks() if isinstance(key, pa.ChunkedArray) else key


def parts_of(key: pa.Array, parts: int) -> np.ndarray:
    """The part (N,) to which each key (N,) belongs: the same in every process."""
    distinct = key.dictionary_encode()
    hashes = np.fromiter((crc32(k.encode()) % parts for k in distinct.dictionary.to_pylist()), np.int64)
    return np.asarray(hashes[distinct.indices.to_numpy(zero_copy_only=False)])


def look_up(rows: pa.Table, key: pa.Array, table: pa.Table, table_key: pa.Array) -> pa.Table:
    """Put the columns of a table beside the rows that name its keys; null where it has no such key.

    Args:
        rows: N rows.
        key: (N,) what each looks up.
        table: M rows to look up in.
        table_key: (M,) their keys, no two alike.

    Returns:
        N rows with the columns of both; a column of the same name is the table's.
    """
    found = table.take(pc.index_in(key, value_set=table_key))
    rows = rows.drop_columns([name for name in rows.column_names if name in found.column_names])
    for name in found.column_names:
        rows = rows.append_column(name, found[name])
    return rows
