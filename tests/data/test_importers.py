"""``data import``: what each official layout becomes, and that no broken row vanishes."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lrkd.data.importers import import_data
from lrkd.data.pairs import file_fingerprint, read_pairs
from lrkd.data.types import PAIRS_SCHEMA
from lrkd.errors import UserError

EXAMPLES = {
    "example_id": [0, 1, 2, 3, 4],
    "query": ["red shoes", "red shoes", "zapato", "red shoes", "靴"],
    "query_id": [7, 7, 8, 7, 9],
    "product_id": ["B1", "B2", "B1", "B3", "B4"],
    "product_locale": ["us", "us", "es", "us", "jp"],
    "esci_label": ["E", "Substitute", "C", "I", "E"],
    "small_version": [1, 0, 1, 1, 1],
    "large_version": [1, 1, 1, 1, 1],
    "split": ["train", "train", "test", "train", "test"],
}

PRODUCTS = {
    "product_id": ["B4", "B3", "B2", "B1", "B1"],
    "product_title": ["Kutsu", "Sock", "Boot", "Zapato", "Shoe"],
    "product_description": [None, "warm", "high", None, "low"],
    "product_bullet_point": ["x\ny", None, None, None, "a"],
    "product_brand": ["K", "S", None, "Z", "A"],
    "product_color": [None, None, "black", None, "red"],
    "product_locale": ["jp", "us", "us", "es", "us"],
}


def write_esci(folder, examples=(), products=()):
    folder.mkdir(exist_ok=True)
    for name, base, change in (("examples", EXAMPLES, examples), ("products", PRODUCTS, products)):
        columns = {k: v for k, v in (base | dict(change)).items() if v is not None}
        pq.write_table(pa.table(columns), folder / f"shopping_queries_dataset_{name}.parquet")
    return folder


def changed(base, column, row, value):
    values = list(base[column])
    values[row] = value
    return {column: values}


def import_esci(tmp_path, examples=(), products=(), **options):
    folder = write_esci(tmp_path / "esci", examples, products)
    counts = import_data(format="esci", input=folder, out=tmp_path / "root", **options)
    return counts, read_pairs(tmp_path / "root").to_pylist()


def rejected(tmp_path):
    path = tmp_path / "root" / "rejected.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def test_esci_joins_by_product_and_locale_in_the_order_of_the_examples(tmp_path, capsys):
    counts, rows = import_esci(tmp_path)
    assert [row["pair_id"] for row in rows] == ["7-B1", "7-B2", "8-B1", "7-B3", "9-B4"]
    # B1 is a shoe in the us and a zapato in es.
    assert [row["title"] for row in rows] == ["Shoe", "Boot", "Zapato", "Sock", "Kutsu"]
    assert [row["label"] for row in rows] == ["Exact", "Substitute", "Complement", "Irrelevant", "Exact"]
    assert rows[4] == dict.fromkeys(PAIRS_SCHEMA.names) | {
        "pair_id": "9-B4", "query_id": "9", "query": "靴", "item_id": "B4", "title": "Kutsu", "label": "Exact",
        "bullets": "x\ny", "brand": "K", "locale": "jp", "source": "esci", "split": "test",
    }  # fmt: skip
    assert (counts.read, counts.written, counts.set_aside, counts.left_out) == (5, 5, 0, 0)
    assert counts.labels == {"Exact": 2, "Substitute": 1, "Complement": 1, "Irrelevant": 1}
    assert "5 rows read = 5 written + 0 set aside\n" in capsys.readouterr().out
    assert [path.name for path in (tmp_path / "root").iterdir()] == ["pairs.parquet"]


def test_esci_locales_and_version_leave_rows_out_by_count(tmp_path, capsys):
    counts, rows = import_esci(tmp_path, locales=["us", "es"], version="small")
    # Row 1 is not in the small version, row 4 is Japanese.
    assert [row["pair_id"] for row in rows] == ["7-B1", "8-B1", "7-B3"]
    assert (counts.read, counts.written, counts.left_out) == (5, 3, 2)
    assert "5 rows read = 3 written + 0 set aside + 2 left out" in capsys.readouterr().out


def test_a_left_out_row_may_be_broken(tmp_path):
    _, rows = import_esci(tmp_path, changed(EXAMPLES, "esci_label", 4, "?"), locales=["us"])
    assert len(rows) == 3


BROKEN_EXAMPLES = [
    (changed(EXAMPLES, "query", 2, ""), 3, "query", "empty"),
    (changed(EXAMPLES, "query", 2, None), 3, "query", "empty"),
    ({"query": pa.array([b"a", b"b", b"caf\xe9", b"d", b"e"], pa.binary())}, 3, "query", "not UTF-8"),
    ({"query": [1.0, 2.0, float("nan"), 3.0, 4.0]}, 3, "query", "NaN"),
    (changed(EXAMPLES, "esci_label", 1, "X"), 2, "esci_label", "unknown label; the label set has Exact, Substitute"),
    (changed(EXAMPLES, "esci_label", 1, None), 2, "esci_label", "empty"),
    (changed(EXAMPLES, "split", 0, "dev"), 1, "split", "unknown split; it may be train, val, test"),
    (changed(EXAMPLES, "product_locale", 3, None), 4, "product_locale", "empty"),
    (changed(EXAMPLES, "large_version", 3, None), 4, "large_version", "empty"),
    (changed(EXAMPLES, "product_id", 4, "B9"), 5, "product_id", "no such product"),
    (changed(EXAMPLES, "product_id", 3, "B1"), 4, "pair_id", "stands there a second time"),
]


@pytest.mark.parametrize(("change", "row", "column", "problem"), BROKEN_EXAMPLES)
def test_a_broken_example_is_named_or_set_aside(tmp_path, change, row, column, problem):  # trap 46
    with pytest.raises(UserError) as caught:
        import_esci(tmp_path, change)
    assert f"shopping_queries_dataset_examples.parquet, row {row}, column {column!r}: {problem}" in str(caught.value)
    assert "--on_error skip" in str(caught.value)
    assert list((tmp_path / "root").iterdir()) == []

    counts, rows = import_esci(tmp_path, change, on_error="skip")
    assert (counts.read, counts.written, counts.set_aside) == (5, 4, 1)
    assert len(rows) == 4
    [entry] = rejected(tmp_path)
    assert (entry["row"], entry["column"]) == (row, column)
    assert entry["problem"].startswith(problem)
    assert "product_id" in entry["record"]


BROKEN_PRODUCTS = [
    (changed(PRODUCTS, "product_title", 1, " "), 2, "product_title", "empty"),
    (changed(PRODUCTS, "product_title", 1, None), 2, "product_title", "empty"),
    ({"product_title": pa.array([b"a", b"\xff", b"b", b"c", b"d"], pa.binary())}, 2, "product_title", "not UTF-8"),
    ({"product_title": [1.0, float("nan"), 1.0, 2.0, 3.0]}, 2, "product_title", "NaN"),
]


@pytest.mark.parametrize(("change", "row", "column", "problem"), BROKEN_PRODUCTS)
def test_a_broken_product_takes_its_examples_with_it(tmp_path, change, row, column, problem):  # trap 46
    with pytest.raises(UserError) as caught:
        import_esci(tmp_path, (), change)
    assert f"products.parquet, row {row}, column {column!r}: {problem}" in str(caught.value)

    counts, _ = import_esci(tmp_path, (), change, on_error="skip")
    # B3 of the us is gone, and example 4 with it: one row of each file is set aside.
    assert (counts.read, counts.written, counts.set_aside) == (5, 4, 1)
    assert [(e["file"].split("_")[-1], e["row"]) for e in rejected(tmp_path)] == [
        ("products.parquet", row),
        ("examples.parquet", 4),
    ]


def test_a_product_that_stands_twice_does_not_multiply_rows(tmp_path):  # trap 46
    change = changed(PRODUCTS, "product_id", 1, "B2")
    with pytest.raises(UserError, match="row 3, column 'product_id': stands there a second time"):
        import_esci(tmp_path, (), change)
    counts, rows = import_esci(tmp_path, (), change, on_error="skip")
    assert {row["pair_id"]: row["title"] for row in rows}["7-B2"] == "Sock"  # the first one
    # Product row 3 is the repeat; example 4 now lacks its B3.
    assert (counts.written, counts.set_aside) == (4, 1)
    assert len(rejected(tmp_path)) == 2


@pytest.mark.parametrize(("file", "column"), [("examples", "esci_label"), ("products", "product_title")])
def test_a_missing_column_is_named(tmp_path, file, column):  # trap 46
    with pytest.raises(UserError, match=rf"{file}\.parquet: lacks the column\(s\) {column}; it has "):
        import_esci(tmp_path, **{file: {column: None}}, on_error="skip")


def test_optional_product_columns_may_be_missing(tmp_path):
    _, rows = import_esci(tmp_path, (), {"product_color": None})
    assert [row["color"] for row in rows] == [None] * 5


def test_a_second_import_replaces_pairs_and_rejects(tmp_path):
    import_esci(tmp_path, changed(EXAMPLES, "query", 2, ""), on_error="skip")
    assert len(rejected(tmp_path)) == 1
    first = file_fingerprint(tmp_path / "root" / "pairs.parquet")
    import_esci(tmp_path)
    assert rejected(tmp_path) == []
    second = file_fingerprint(tmp_path / "root" / "pairs.parquet")
    assert first != second
    with pytest.raises(UserError):
        import_esci(tmp_path, changed(EXAMPLES, "query", 2, ""))
    assert file_fingerprint(tmp_path / "root" / "pairs.parquet") == second


def test_nothing_left_is_an_error(tmp_path):
    with pytest.raises(UserError, match="no pair is left: 5 rows read, 5 left out"):
        import_esci(tmp_path, {"small_version": [0] * 5}, version="small")
    assert not (tmp_path / "root" / "pairs.parquet").exists()


def test_many_parts_and_windows_keep_the_order(tmp_path, monkeypatch):
    """Rows beyond one part and one window: order, joins and repeats are those of a small table."""
    monkeypatch.setattr("lrkd.data.row_files.PART_ROWS", 50)
    monkeypatch.setattr("lrkd.data.row_files.PIECE_ROWS", 64)
    monkeypatch.setattr("lrkd.data.import_run.PART_ROWS", 50)
    count = 1000
    products = np.random.default_rng(0).permutation(300)
    of_row = np.arange(count) * 7 % 310  # products 300 to 309 do not exist
    examples = {
        "example_id": np.arange(count),
        "query": [f"query {i // 20}" for i in range(count)],
        "query_id": np.arange(count) // 20,
        "product_id": [f"B{i}" for i in of_row],
        "product_locale": ["us"] * count,
        "esci_label": ["E"] * count,
        "small_version": [1] * count,
        "large_version": [1] * count,
        "split": ["train"] * count,
    }
    # Rows 110 and 915 repeat the pair of row 101 and of row 914.
    examples["product_id"][110], examples["product_id"][915] = examples["product_id"][101], examples["product_id"][914]
    change = {
        "product_id": [f"B{i}" for i in products],
        "product_title": [f"Title {i}" for i in products],
        "product_locale": ["us"] * 300,
    }
    rest = dict.fromkeys(["product_description", "product_bullet_point", "product_brand", "product_color"])
    counts, rows = import_esci(tmp_path, examples, change | rest, on_error="skip")
    expected = [
        f"{i // 20}-{name}"
        for i, name in enumerate(examples["product_id"])
        if int(name[1:]) < 300 and i not in (110, 915)
    ]
    assert [row["pair_id"] for row in rows] == expected
    assert all(row["title"] == f"Title {row['item_id'][1:]}" for row in rows)
    assert counts.read == 1000 == counts.written + counts.set_aside
    places = [entry["row"] for entry in rejected(tmp_path) if entry["column"] == "pair_id"]
    assert places == [111, 916]


WANDS = {
    "query.csv": [["query_id", "query", "query_class"], ["0", "salon chair", "Chairs"], ["1", '5"" lamp"', ""]],
    "product.csv": [
        ["product_id", "product_name", "product_class", "category hierarchy", "product_description",
         "product_features", "rating_count", "average_rating", "review_count"],
        ["10", "solid bed", "Beds", "Furniture / Beds", "good , deep sleep", "width:6|color : red", "15.0", "4.5", "1"],
        ["11", "lamp", "", "", "", "", "", "", ""],
    ],
    "label.csv": [["id", "query_id", "product_id", "label"], ["0", "1", "11", "Exact"], ["1", "0", "10", "Partial"],
                  ["2", "0", "11", "Irrelevant"]],
}  # fmt: skip


def import_wands(tmp_path, file=None, row=0, fields=None, **options):
    folder = tmp_path / "wands"
    folder.mkdir(exist_ok=True)
    for name, rows in WANDS.items():
        lines = ["\t".join(cells) for cells in rows]
        lines[2] = lines[2].replace('5""', '"5""')
        if name == file:
            lines[row] = fields
        (folder / name).write_bytes(b"".join(line.encode("utf-8", "surrogateescape") + b"\n" for line in lines))
    counts = import_data(format="wands", input=folder, out=tmp_path / "root", **options)
    return counts, read_pairs(tmp_path / "root").to_pylist()


def test_wands_joins_three_files(tmp_path):
    counts, rows = import_wands(tmp_path)
    assert [row["pair_id"] for row in rows] == ["1-11", "0-10", "0-11"]
    assert [row["label"] for row in rows] == ["Exact", "Partial", "Irrelevant"]
    assert [row["query"] for row in rows] == ['5" lamp', "salon chair", "salon chair"]
    assert rows[1] == dict.fromkeys(PAIRS_SCHEMA.names) | {
        "pair_id": "0-10", "query_id": "0", "query": "salon chair", "item_id": "10", "title": "solid bed",
        "label": "Partial", "description": "good , deep sleep", "bullets": "width:6\ncolor : red",
        "category": ["Furniture", "Beds"], "source": "wands",
    }  # fmt: skip
    assert rows[0]["category"] is None
    assert (counts.read, counts.written) == (3, 3)


@pytest.mark.parametrize(
    ("file", "row", "fields", "column", "problem"),
    [
        ("label.csv", 2, "1\t0\t10\tGood", "label", "unknown label; the label set has Exact, Partial, Irrelevant"),
        ("label.csv", 2, "1\t0\t10", "", "3 fields where the header has 4"),
        ("label.csv", 2, "1\t0\t12\tExact", "product_id", "no such product in product.csv"),
        ("label.csv", 2, "1\t5\t10\tExact", "query_id", "no such query in query.csv"),
        ("label.csv", 2, "1\t\t10\tExact", "query_id", "empty"),
        ("label.csv", 2, "1\t1\t11\tExact", "pair_id", "stands there a second time"),
        ("label.csv", 2, "1\t0\t1\udcff\tExact", "product_id", "not UTF-8"),
    ],
)
def test_a_broken_wands_label_is_named_or_set_aside(tmp_path, file, row, fields, column, problem):  # trap 46
    where = f"{file}, line {row + 1}" + (f", column {column!r}" if column else "")
    with pytest.raises(UserError) as caught:
        import_wands(tmp_path, file, row, fields)
    assert f"{where}: {problem}" in str(caught.value)
    counts, rows = import_wands(tmp_path, file, row, fields, on_error="skip")
    assert (counts.read, counts.written, counts.set_aside) == (3, 2, 1)
    assert len(rows) == 2
    [entry] = rejected(tmp_path)
    assert (entry["line"], entry["column"]) == (row + 1, column)


@pytest.mark.parametrize(
    ("file", "row", "fields", "column", "problem"),
    [
        ("query.csv", 1, "0\t \tChairs", "query", "empty"),
        ("query.csv", 1, "0\tcaf\udce9\tChairs", "query", "not UTF-8"),
        ("query.csv", 2, "0\tagain\t", "query_id", "stands there a second time"),
        ("product.csv", 1, "10\tbed", "", "2 fields where the header has 9"),
        ("product.csv", 1, "10\t\t\t\t\t\t\t\t", "product_name", "empty"),
    ],
)
def test_a_broken_wands_query_or_product_takes_its_labels_with_it(
    tmp_path, file, row, fields, column, problem
):  # trap 46
    where = f"{file}, line {row + 1}" + (f", column {column!r}" if column else "")
    with pytest.raises(UserError) as caught:
        import_wands(tmp_path, file, row, fields)
    assert f"{where}: {problem}" in str(caught.value)
    counts, rows = import_wands(tmp_path, file, row, fields, on_error="skip")
    assert counts.read == 3 == counts.written + counts.set_aside
    assert len(rows) == counts.written < 3
    assert {entry["file"].split("/")[-1] for entry in rejected(tmp_path)} == {file, "label.csv"}


def test_wands_names_a_missing_file_or_column(tmp_path):  # trap 46
    with pytest.raises(UserError, match=r"label\.csv: lacks the column\(s\) label"):
        import_wands(tmp_path, "label.csv", 0, "id\tquery_id\tproduct_id\tgrade", on_error="skip")
    (tmp_path / "wands" / "query.csv").unlink()
    with pytest.raises(UserError, match=r"query\.csv: no such file"):
        import_data(format="wands", input=tmp_path / "wands", out=tmp_path / "root")
    with pytest.raises(UserError, match="names the folder with the official wands files"):
        import_data(format="wands", input=tmp_path / "wands" / "label.csv", out=tmp_path / "root")


ROWS = [
    {"search": "Red Shoes", "name": "Shoe", "grade": 3.0, "path": ["A", "B"]},
    {"search": "red  shoes!", "name": "Boot", "grade": 1.0, "path": None},
    {"search": "mug", "name": "Shoe", "grade": 0.5, "path": ["C"]},
]
COLUMNS = {"query": "search", "title": "name", "label": "grade", "category": "path"}
BINS = {"Exact": 2.5, "Partial": 1.0}
SUFFIXES = ["csv", "tsv", "jsonl", "parquet"]


def write_table(path, rows):
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        mark = {".csv": ",", ".tsv": "\t"}[path.suffix]
        cells = [
            [" > ".join(v) if isinstance(v, list) else "" if v is None else str(v) for v in r.values()] for r in rows
        ]
        path.write_text("".join(mark.join(line) + "\n" for line in [list(rows[0]), *cells]))
    return path


def import_table(tmp_path, path, **options):
    options = {"columns": COLUMNS, "label_set": "wands", "grade_bins": BINS} | options
    counts = import_data(format="table", input=path, out=tmp_path / "root", **options)
    return counts, read_pairs(tmp_path / "root").to_pylist()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_table_is_the_same_in_every_format(tmp_path, suffix):
    counts, rows = import_table(tmp_path, write_table(tmp_path / f"a.{suffix}", ROWS))
    # 3.0 and 1.0 reach a bin, 0.5 falls below the lowest.
    assert [row["label"] for row in rows] == ["Exact", "Partial", "Irrelevant"]
    assert [row["category"] for row in rows] == [["A", "B"], None, ["C"]]
    shoes, mug = rows[0]["query_id"], rows[2]["query_id"]
    assert rows[1]["query_id"] == shoes != mug
    assert rows[0]["item_id"] == rows[2]["item_id"] != rows[1]["item_id"]
    assert [row["pair_id"] for row in rows] == [f"{row['query_id']}-{row['item_id']}" for row in rows]
    # The first 16 digits of `printf mug | sha256sum`.
    assert mug == "a19ee2577879b76a"
    assert (counts.read, counts.written) == (3, 3)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    ("change", "column", "problem"),
    [
        ({"search": ""}, "search", "empty"),
        ({"name": " "}, "name", "empty"),
        ({"grade": float("nan")}, "grade", "NaN"),
        ({"search": "RED SHOES", "name": "Shoe"}, "pair_id", "stands there a second time"),
    ],
)
def test_a_broken_row_of_a_table_is_named_or_set_aside(tmp_path, suffix, change, column, problem):  # trap 46
    path = write_table(tmp_path / f"a.{suffix}", [ROWS[0], ROWS[1], ROWS[2] | change])
    place = {"csv": "line 4", "tsv": "line 4", "jsonl": "line 3", "parquet": "row 3"}[suffix]
    with pytest.raises(UserError) as caught:
        import_table(tmp_path, path)
    assert f"a.{suffix}, {place}, column {column!r}: {problem}" in str(caught.value)
    counts, rows = import_table(tmp_path, path, on_error="skip")
    assert (counts.read, counts.written, counts.set_aside) == (3, 2, 1)
    assert [row["title"] for row in rows] == ["Shoe", "Boot"]
    [entry] = rejected(tmp_path)
    unit, number = place.split()
    assert (entry[unit], entry["column"]) == (int(number), column)


@pytest.mark.parametrize(
    ("name", "content", "line", "column", "problem"),
    [
        ("a.csv", b"query,title\na,caf\xe9\nb,c\n", 2, "title", "not UTF-8"),
        ("a.csv", b"query,title\na,b,c\nb,c\n", 2, "", "3 fields where the header has 2"),
        ("a.csv", b'query,title\na,"b\nb,c\n', 2, "", "not CSV"),
        ("a.jsonl", b'{"query": "a", "title": "caf\xe9"}\n{"query": "b", "title": "c"}\n', 1, "title", "not UTF-8"),
        ("a.jsonl", b'{"query": "a", "title": \n{"query": "b", "title": "c"}\n', 1, "", "broken JSON"),
        ("a.jsonl", b'{"query": "a"}\n{"query": "b", "title": "c"}\n', 1, "title", "missing column"),
        ("a.jsonl", b'{"query": NaN, "title": "x"}\n{"query": "b", "title": "c"}\n', 1, "query", "NaN"),
        ("a.jsonl", b'{"query": {"x": 1}, "title": null}\n{"query": "b", "title": "c"}\n', 1, "title", "empty"),
        ("a.csv", b"query,title,label\na,b,Good\nb,c,Exact\n", 2, "label", "unknown label"),
        ("a.csv", b"query,title,split\na,b,dev\nb,c,val\n", 2, "split", "unknown split"),
        ("a.csv", b"query,title,fold\na,b,x\nb,c,1\n", 2, "fold", "not of type int32"),
        ("a.csv", b"query,title,pair_id\na,b,\nb,c,1\n", 2, "pair_id", "empty"),
        ("a.csv", b"query,title,pair_id\nb,c,1\na,b,1\n", 3, "pair_id", "stands there a second time"),
    ],
)
def test_a_broken_line_of_a_text_file(tmp_path, name, content, line, column, problem):  # trap 46
    path = tmp_path / name
    path.write_bytes(content)
    options = {"columns": None, "label_set": "esci", "grade_bins": None}
    where = f"{name}, line {line}" + (f", column {column!r}" if column else "")
    with pytest.raises(UserError) as caught:
        import_table(tmp_path, path, **options)
    assert f"{where}: {problem}" in str(caught.value)
    counts, rows = import_table(tmp_path, path, **options, on_error="skip")
    assert (counts.read, counts.written, counts.set_aside) == (2, 1, 1)
    assert (rows[0]["query"], rows[0]["title"]) == ("b", "c")
    [entry] = rejected(tmp_path)
    assert (entry["line"], entry["column"]) == (line, column)


def test_a_table_with_our_own_names_needs_no_mapping_and_keeps_its_ids(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("query,title,query_id,item_id,label,split,fold,extra\na,b,1,2,Exact,val,3,x\nc,d,4,5,,,,\n")
    counts, rows = import_table(tmp_path, path, columns=None, label_set="esci", grade_bins=None)
    assert [row["pair_id"] for row in rows] == ["1-2", "4-5"]
    assert [(row["label"], row["split"], row["fold"]) for row in rows] == [("Exact", "val", 3), (None, None, None)]
    assert counts.labels == {"Exact": 1, "unknown": 1}


def test_labels_are_renamed(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("query,title,label\na,b,2\nc,d,1\ne,f,Irrelevant\n")
    names = {"2": "Exact", "1": "Partial"}
    _, rows = import_table(tmp_path, path, columns=None, grade_bins=None, label_names=names)
    assert [row["label"] for row in rows] == ["Exact", "Partial", "Irrelevant"]


def test_a_label_set_of_the_users_own(tmp_path):
    (tmp_path / "binary.yaml").write_text("name: binary\nlabels: [good, bad]\ngains: [1, 0]\n")
    path = write_table(tmp_path / "a.csv", ROWS)
    _, rows = import_table(tmp_path, path, label_set=str(tmp_path / "binary.yaml"), grade_bins={"good": 1})
    assert [row["label"] for row in rows] == ["good", "good", "bad"]


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"columns": {"name": "name"}}, "columns: no column name; the columns are pair_id"),
        ({"columns": {"query": "search"}}, r"lacks the column\(s\) title; it has search, name"),
        ({"columns": COLUMNS | {"brand": "maker"}}, r"lacks the column\(s\) maker"),
        ({"grade_bins": {"Exact": 1.0, "Partial": 2.5}}, "falling in this order"),
        ({"grade_bins": {"Exact": 1.0}}, "give the lowest grade of Exact, Partial"),
        ({"label_names": {"1": "Good"}, "grade_bins": None}, "label_names: Good not in label set 'wands'"),
        ({"label_names": {"1": "Exact"}}, "give one of them"),
        ({"label_set": "nope"}, "label set 'nope'"),
        ({"locales": ["us"]}, "locales: only for --format esci"),
    ],
)
@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_options_that_do_not_fit_are_named(tmp_path, options, problem, suffix):
    with pytest.raises(UserError, match=problem):
        import_table(tmp_path, write_table(tmp_path / f"a.{suffix}", ROWS), **options)


def test_table_options_are_refused_for_official_formats(tmp_path):
    with pytest.raises(UserError, match="columns: only for --format table"):
        import_data(format="esci", input=tmp_path, out=tmp_path, columns={"query": "q"})


def test_esci_mini_round_trips_as_a_table(esci_mini, tmp_path):
    counts = import_data(format="table", input=esci_mini / "pairs.parquet", out=tmp_path)
    assert counts.written == 7799
    assert read_pairs(tmp_path).equals(read_pairs(esci_mini))
