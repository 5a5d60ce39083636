"""Reading and writing pairs: in pieces, checked, atomically."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lrkd.data.pairs import ParquetSink, file_fingerprint, iter_pairs, pairs_path, read_pairs, write_table
from lrkd.data.types import LABEL_SETS, PAIRS_SCHEMA
from lrkd.errors import UserError


def write(root, **columns):
    rows = {
        "pair_id": ["1-a", "1-b", "2-a"],
        "query_id": ["1", "1", "2"],
        "query": ["red shoes", "red shoes", "mug"],
        "item_id": ["a", "b", "a"],
        "title": ["Shoe", "Boot", "Shoe"],
        "label": ["Exact", "Substitute", None],
    }
    root.mkdir(exist_ok=True)
    pq.write_table(pa.table(rows | columns), root / "pairs.parquet")
    return root


def test_optional_columns_are_null_and_types_are_the_schemas(tmp_path):
    table = read_pairs(write(tmp_path, fold=pa.array([0, 1, None], pa.int8())), labels=LABEL_SETS["esci"])
    assert table.schema == PAIRS_SCHEMA
    assert table["fold"].to_pylist() == [0, 1, None]
    assert table["brand"].to_pylist() == [None] * 3


def test_pieces_follow_the_file_and_count_rows_across_pieces(tmp_path):
    root = write(tmp_path, label=["Exact", "Exact", "exact"])
    pieces = [piece["pair_id"].to_pylist() for piece in iter_pairs(root, columns=["pair_id"], batch_rows=2)]
    assert pieces == [["1-a", "1-b"], ["2-a"]]
    with pytest.raises(UserError, match="row 3, column 'label': unknown label"):  # trap 46
        list(iter_pairs(root, labels=LABEL_SETS["esci"], batch_rows=2))


def test_a_repeated_pair_id_is_named(tmp_path):  # trap 46
    root = write(tmp_path, pair_id=["x", "y", "x"])
    with pytest.raises(UserError, match="row 3, column 'pair_id': 'x' stands there a second time"):
        read_pairs(root)


def test_no_file_and_no_parquet_are_named(tmp_path):  # trap 46
    with pytest.raises(UserError, match="no such file"):
        pairs_path(tmp_path)
    (tmp_path / "pairs.parquet").write_bytes(b"PAR1 this is not one")
    with pytest.raises(UserError, match="not a readable Parquet file"):
        read_pairs(tmp_path)


def test_an_empty_root_reads_as_no_rows(tmp_path):
    write_table(PAIRS_SCHEMA.empty_table(), tmp_path / "pairs.parquet", PAIRS_SCHEMA)
    assert read_pairs(tmp_path).num_rows == 0


def test_a_sink_that_fails_leaves_the_old_file(tmp_path):
    root = write(tmp_path)
    path = root / "pairs.parquet"
    before = file_fingerprint(path)

    def fail():
        with ParquetSink(path, PAIRS_SCHEMA) as sink:
            sink.write(PAIRS_SCHEMA.empty_table())
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError):
        fail()
    assert file_fingerprint(path) == before
    assert [entry.name for entry in root.iterdir()] == ["pairs.parquet"]


def test_esci_mini_reads_whole(esci_mini):
    table = read_pairs(esci_mini, labels=LABEL_SETS["esci"])
    assert table.num_rows == 7799
