"""Preference pairs on disk: what is written is read, and every broken row is named."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lrkd.data.pairs import write_table
from lrkd.data.preference_pairs import read_preferences, refuse_held_out, write_preferences
from lrkd.data.types import LABEL_SETS, PREFERENCES_SCHEMA, RATIONALES_SCHEMA
from lrkd.errors import UserError

PAIRS = pa.table({"pair_id": ["p1", "p2", "p3"], "label": ["Exact", "Substitute", None]})
GOOD = {
    "pair_id": "p1",
    "prompt": "neutral",
    "chosen": "It is the mug.",
    "rejected": "It is no mug.",
    "chosen_perspective": "user_intent",
    "chosen_sample": 0,
    "rejected_perspective": "business_rule",
    "rejected_sample": 1,
    "chosen_verdict": "Exact",
    "rejected_verdict": "Irrelevant",
}
OTHER = GOOD | {"pair_id": "p2", "chosen_verdict": "Substitute", "rejected_verdict": "Exact"}


def write(path, *rows):
    pq.write_table(pa.Table.from_pylist(list(rows)), path)
    return path


def read(path):
    return read_preferences(path, PAIRS, LABEL_SETS["esci"], prompts=["neutral", "user_intent"])


def test_good_rows_come_in_the_schema(tmp_path):
    table = read(write(tmp_path / "p.parquet", GOOD, OTHER, GOOD | {"prompt": "user_intent"}))
    assert table.schema == PREFERENCES_SCHEMA
    assert table["pair_id"].to_pylist() == ["p1", "p2", "p1"]
    assert table["prompt_version"].null_count == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pair_id": "p9"}, "row 3, column 'pair_id': the data root has no such pair"),
        ({"pair_id": "p3"}, "row 3, column 'pair_id': the pair has no label"),
        ({"chosen_verdict": "Substitute"}, "column 'chosen_verdict': chosen's verdict is not the pair's label 'Exact'"),
        ({"rejected_verdict": "Exact"}, "column 'rejected_verdict': rejected's verdict is the pair's label 'Exact'"),
        ({"rejected": "It is the mug."}, "column 'rejected': chosen and rejected are the same text"),
        ({"chosen": " "}, "row 3, column 'chosen': empty"),
        ({"rejected": None}, "row 3, column 'rejected': empty"),
        ({"chosen_verdict": "exact"}, "row 3, column 'chosen_verdict': unknown chosen_verdict; it may be Exact"),
        ({"rejected_verdict": "None"}, "row 3, column 'rejected_verdict': unknown rejected_verdict"),
        ({"prompt": "gut_feeling"}, "row 3, column 'prompt': unknown prompt; it may be neutral, user_intent"),
        ({}, "row 3: the pair 'p1' has the same two rationales under the prompt 'neutral' a second time"),
    ],
)
def test_a_broken_row_is_named(tmp_path, change, message):  # trap 14, trap 46
    path = write(tmp_path / "p.parquet", GOOD, OTHER, GOOD | change)
    with pytest.raises(UserError) as error:
        read(path)
    assert f"{path}, " in str(error.value)
    assert message in str(error.value)
    assert "mine the pairs again" in str(error.value)


def test_a_missing_file_or_column_is_named(tmp_path):  # trap 46
    with pytest.raises(UserError, match="no such file; `python -m lrkd rationales conflicts` makes one"):
        read(tmp_path / "p.parquet")
    row = {key: value for key, value in GOOD.items() if key != "rejected"}
    with pytest.raises(UserError, match=r"lacks the column\(s\) rejected"):
        read(write(tmp_path / "p.parquet", row))


def test_rows_are_counted_across_pieces(tmp_path, monkeypatch):  # trap 46
    monkeypatch.setattr("lrkd.data.preference_pairs.BATCH_ROWS", 2)
    rows = [GOOD | {"rejected": f"No. {n}"} for n in range(5)]
    with pytest.raises(UserError, match="row 5, column 'chosen': empty"):
        read(write(tmp_path / "p.parquet", *rows[:4], rows[4] | {"chosen": ""}))
    with pytest.raises(UserError, match="row 4, column 'pair_id': the data root has no such pair"):
        read(write(tmp_path / "p.parquet", *rows[:3], rows[3] | {"pair_id": "p9"}))


def test_held_out_queries_are_refused(tmp_path):  # trap 14
    path = write(tmp_path / "p.parquet", GOOD, OTHER)
    refuse_held_out(read(path), PAIRS, np.array([True, True, False]), path)
    with pytest.raises(UserError, match="row 2, column 'pair_id': 'p2' is not of a training query; 1 of 2 rows are"):
        refuse_held_out(read(path), PAIRS, np.array([True, False, False]), path)


def test_written_pairs_join_their_rationales_in_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr("lrkd.data.preference_pairs.WRITE_ROWS", 2)
    columns = {
        "pair_id": ["p1"] * 4,
        "perspective": ["a", "b", "c", "d"],
        "sample": [0, 1, 2, 3],
        "rationale": [f"text {n}" for n in range(4)],
        "verdict": ["Exact", "Exact", "Irrelevant", "Irrelevant"],
        "teacher": ["t0", "t1", "t2", "t3"],
        "prompt_version": ["v1", "v1", "v1", None],
        "tokens": [None] * 4,
    }
    rationales = pa.table(columns, schema=RATIONALES_SCHEMA)
    chosen, rejected = np.array([0, 1, 0]), np.array([2, 2, 3])
    write_preferences(tmp_path / "p.parquet", rationales, chosen, rejected, pa.array(["neutral"] * 3))
    table = read(tmp_path / "p.parquet")
    assert table["chosen"].to_pylist() == ["text 0", "text 1", "text 0"]
    assert table["rejected_teacher"].to_pylist() == ["t2", "t2", "t3"]
    assert table["rejected_sample"].to_pylist() == [2, 2, 3]
    assert table["prompt_version"].to_pylist() == ["v1", "v1", None]
    write_table(table, tmp_path / "again.parquet", PREFERENCES_SCHEMA)
    assert read(tmp_path / "again.parquet").equals(table)
