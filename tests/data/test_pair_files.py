"""Pairs from a file of the user's own."""

import json

import pyarrow.parquet as pq
import pytest

from lrkd.data.pair_files import read_pair_file
from lrkd.data.rows import RowErrors
from lrkd.data.types import LABEL_SETS, ItemText
from lrkd.errors import UserError

ESCI = LABEL_SETS["esci"]
ROWS = [
    {"query": "red mug", "title": "Mug", "brand": None, "category": ["Home", "Mugs"], "pair_id": "a", "other": 1},
    {"query": "lamp", "title": "Lamp", "brand": "Acme", "category": None, "pair_id": "b", "other": 2},
]


def write(path, rows):
    if path.suffix == ".parquet":
        import pyarrow as pa

        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, rows)))
    else:
        lines = [",".join(" > ".join(v) if isinstance(v, list) else str(v or "") for v in r.values()) for r in rows]
        path.write_text("\n".join([",".join(rows[0]), *lines]))
    return path


@pytest.mark.parametrize(("name", "first"), [("a.csv", 2), ("a.jsonl", 1), ("a.parquet", 1)])
def test_every_format_gives_the_same_pairs_with_their_places(name, first, tmp_path):
    table = read_pair_file(write(tmp_path / name, ROWS), ItemText("{title} {brand} {category}"), ESCI, RowErrors())
    expected = [{k: v for k, v in row.items() if k != "other"} for row in ROWS]
    assert table.to_pylist() == [{"row": first + n} | row for n, row in enumerate(expected)]


def test_only_what_the_item_s_text_is_made_of_is_needed(tmp_path):
    rows = [{"query": row["query"], "title": row["title"]} for row in ROWS]
    file = write(tmp_path / "a.csv", rows)
    assert read_pair_file(file, ItemText("{title}"), ESCI, RowErrors()).column_names == ["row", "query", "title"]
    with pytest.raises(UserError, match=r"lacks the column\(s\) brand"):
        read_pair_file(file, ItemText("{title} {brand}"), ESCI, RowErrors())


def test_broken_rows_are_set_aside_and_an_empty_file_is_refused(tmp_path):  # trap 46
    rows = [ROWS[0] | {"title": " "}, *ROWS, ROWS[0] | {"query": None}]
    file = write(tmp_path / "a.jsonl", rows)
    with RowErrors("skip", tmp_path / "rejected.jsonl") as errors:
        table = read_pair_file(file, ItemText("{title}"), ESCI, errors)
    assert table["row"].to_pylist() == [2, 3]
    assert errors.counts == {"title: empty": 1, "query: empty": 1}
    with (
        RowErrors("skip", tmp_path / "rejected.jsonl") as errors,
        pytest.raises(UserError, match="2 rows were set aside"),
    ):
        read_pair_file(write(file, [rows[0], rows[-1]]), ItemText("{title}"), ESCI, errors)
