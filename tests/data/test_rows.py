"""Row checks: every kind of broken cell is named, or set aside with its record."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest

from lrkd.data.rows import RowErrors, check_rows, repeated
from lrkd.data.types import PAIRS_SCHEMA
from lrkd.errors import UserError

SCHEMA = pa.schema(
    [
        pa.field("query", pa.string(), nullable=False),
        pa.field("label", pa.string()),
        pa.field("fold", pa.int32()),
        pa.field("grade", pa.float64()),
        pa.field("category", pa.list_(pa.string())),
    ]
)


def table(**columns):
    return pa.table({"query": pa.array(["a", "b", "c"])} | columns)


def test_good_rows_are_cast_and_other_columns_dropped():
    rows = table(fold=pa.array(["1", "2", None]), other=pa.array([1, 2, 3]), label=pa.array(["x", None, "x"]))
    checked, good = check_rows(rows, SCHEMA, "f", RowErrors(), labels=("x",))
    assert checked.schema == SCHEMA
    assert checked["fold"].to_pylist() == [1, 2, None]
    assert checked["grade"].to_pylist() == [None] * 3
    assert good.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("column", "values", "problem"),
    [
        ("query", pa.array(["a", None, "c"]), "empty"),
        ("query", pa.array(["a", " \t", "c"]), "empty"),
        ("query", pa.array([b"a", b"caf\xe9", b"c"], pa.binary()), "not UTF-8"),
        ("query", pa.array([1.0, float("nan"), 2.0]), "NaN"),
        ("query", pa.array([["a"], ["b"], None]), "not text"),
        ("label", pa.array(["x", "z", None]), "unknown label; the label set has x, y"),
        ("fold", pa.array(["1", "one", "2"]), "not of type int32"),
        ("grade", pa.array(["1.5", "nan", None]), "NaN"),
        ("category", pa.array([None, b"\xff > b", b"c"], pa.binary()), "not UTF-8"),
        ("category", pa.array([[b"a"], [b"\xff"], None], pa.list_(pa.binary())), "not of type list<"),
    ],
)
def test_a_broken_cell_is_named_with_file_row_and_column(column, values, problem):  # trap 46
    rows = table(**{column: values})
    with pytest.raises(UserError) as caught:
        check_rows(rows, SCHEMA, "f.csv", RowErrors(), first_row=11, labels=("x", "y"))
    # "not text" is first wrong at row 11, all others at the second row.
    row = 11 if problem == "not text" else 12
    assert f"f.csv, row {row}, column {column!r}: {problem}" in str(caught.value)
    assert "--on_error skip" in str(caught.value)


def test_skip_sets_rows_aside_with_their_record(tmp_path):  # trap 46
    rows = pa.table({"query": pa.array([b"a", b"caf\xe9", b"", b"d"], pa.binary()), "fold": ["1", "2", "3", "x"]})
    rejects = tmp_path / "rejected.jsonl"
    with RowErrors("skip", rejects) as errors:
        checked, good = check_rows(rows, SCHEMA, "f.csv", errors)
    assert checked["query"].to_pylist() == ["a"]
    assert good.tolist() == [0]
    assert errors.total == 3
    assert errors.counts == {"query: not UTF-8": 1, "query: empty": 1, "fold: not of type int32": 1}
    assert errors.by_file == {"f.csv": 3}
    entries = [json.loads(line) for line in rejects.read_text().splitlines()]
    assert [(e["row"], e["column"]) for e in entries] == [(2, "query"), (3, "query"), (4, "fold")]
    assert entries[0]["record"] == {"query": "caf\\xe9", "fold": "2"}


def test_a_row_is_reported_once_for_its_first_column(tmp_path):
    rows = pa.table({"query": [""], "fold": ["x"], "label": ["z"]})
    with RowErrors("skip", tmp_path / "rejected.jsonl") as errors:
        check_rows(rows, SCHEMA, "f", errors, labels=("x",))
    assert errors.counts == {"query: empty": 1}


def test_text_becomes_a_list_at_the_separator():
    rows = table(category=pa.array(["Home > Rugs", None, "Toys"]))
    checked, _ = check_rows(rows, SCHEMA, "f", RowErrors())
    assert checked["category"].to_pylist() == [["Home", "Rugs"], None, ["Toys"]]


def test_names_places_and_unit_are_those_of_the_file():
    rows = pa.table({"q": ["a", ""]})
    with pytest.raises(UserError, match=r"f\.tsv, line 40, column 'q': empty"):
        check_rows(rows, SCHEMA, "f.tsv", RowErrors(), names={"query": "q"}, places=np.array([7, 40]), unit="line")


def test_choices_hold_for_other_columns():
    rows = table(label=pa.array(["train", "dev", None]))
    with pytest.raises(UserError, match="row 2, column 'label': unknown label; it may be train, test"):
        check_rows(rows, SCHEMA, "f", RowErrors(), label_column="none", choices={"label": ("train", "test")})


def test_a_missing_column_is_named():  # trap 46
    with pytest.raises(UserError, match=r"lacks the column\(s\) pair_id, query_id, item_id, title; it has query"):
        check_rows(pa.table({"query": ["a"]}), PAIRS_SCHEMA, "f", RowErrors())


def test_no_rows_are_fine():
    checked, good = check_rows(table().slice(0, 0), SCHEMA, "f", RowErrors())
    assert checked.num_rows == len(good) == 0


def test_repeated_finds_all_but_the_first():
    # Rows 2 and 5 repeat (a, 1); row 4 repeats (b, 1).
    keys = [pa.array(["a", "b", "a", "a", "b", "a"]), pa.array([1, 1, 1, 2, 1, 1])]
    assert repeated(keys).tolist() == [2, 4, 5]
    assert repeated([keys[0].slice(0, 2)]).tolist() == []


def test_skip_needs_a_file_and_the_option_a_known_value():
    with pytest.raises(UserError, match="needs a file"):
        RowErrors("skip")
    with pytest.raises(UserError, match="'raise' or 'skip'"):
        RowErrors("ignore")
