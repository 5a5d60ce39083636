"""Spilled rows come back whole, in order, and joined."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from lrkd.data.spill import Spill, key_of, look_up, parts_of

SCHEMA = pa.schema([("name", pa.string()), ("place", pa.int64())])


def test_rows_come_back_by_part_in_the_order_they_came(tmp_path):
    spill = Spill(tmp_path / "s", 3, SCHEMA)
    for start in (0, 4):
        places = np.arange(start, start + 4)
        spill.write(pa.table({"place": places, "name": [f"n{i}" for i in places]}), places % 2)
    assert spill.read(0)["place"].to_pylist() == [0, 2, 4, 6]
    assert spill.read(1)["name"].to_pylist() == ["n1", "n3", "n5", "n7"]
    assert spill.read(2).schema == SCHEMA
    assert spill.read(2).num_rows == 0
    assert [piece["place"].to_pylist() for piece in spill.read_pieces(0, rows=2)] == [[0, 2], [4, 6]]
    assert [piece["place"].to_pylist() for piece in spill.read_pieces(0, rows=3)] == [[0, 2, 4, 6]]
    spill.drop(0)
    spill.drop(0)
    assert spill.read(0).num_rows == 0


def test_a_key_of_several_columns_does_not_mix_them_up():
    left, right = pa.array(["a", "ab"]), pa.array(["bc", "c"])
    assert len(set(key_of([left, right]).to_pylist())) == 2
    assert key_of([pa.chunked_array([left, right])]).to_pylist() == ["a", "ab", "bc", "c"]


def test_a_key_always_has_the_same_part():
    keys = pa.array(["x", "y", "x", "z"])
    parts = parts_of(keys, 4)
    assert parts[0] == parts[2]
    # CRC-32 of "x", "y" and "z" is 8cdc1683, fbdb2615 and 62d277af: modulo 4 the last two bits.
    assert parts.tolist() == [3, 1, 3, 3]
    assert parts_of(keys.slice(0, 0), 4).tolist() == []


def test_look_up_keeps_order_and_leaves_null():
    rows = pa.table({"place": [1, 2, 3], "title": ["", "", ""]})
    table = pa.table({"title": ["A", "B"]})
    found = look_up(rows, pa.array(["b", "q", "a"]), table, pa.array(["a", "b"]))
    assert found["title"].to_pylist() == ["B", None, "A"]
    assert found["place"].to_pylist() == [1, 2, 3]
