"""Text files as rows: each keeps its line, and what is no row is named and not lost."""

from __future__ import annotations

import json

import pytest

from lrkd.data.row_files import PIECE_ROWS, open_rows
from lrkd.data.rows import RowErrors
from lrkd.errors import UserError


def read(path, tmp_path, needed=(), **options):
    """All rows as dicts, their lines, and the rejects."""
    file = open_rows(path, **options)
    rows, places = [], []
    with RowErrors("skip", tmp_path / "rejected.jsonl") as errors:
        for table, piece_places in file.pieces(errors, needed, file.columns):
            rows += table.to_pylist()
            places += piece_places.tolist()
    rejects = []
    if errors.total:
        rejects = [json.loads(line) for line in (tmp_path / "rejected.jsonl").read_text().splitlines()]
    assert file.read == len(rows) + len(rejects)
    assert file.position == file.size
    return rows, places, rejects


def test_csv_rows_keep_the_line_they_start_on(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b'\xef\xbb\xbfq,t\r\na,"two\nlines"\r\n\r\nb,\r\n"c ""x""",d')
    rows, places, rejects = read(path, tmp_path)
    # The row on line 2 spans lines 2 and 3, line 4 is blank, and the last line has no end.
    assert rows == [{"q": "a", "t": "two\nlines"}, {"q": "b", "t": None}, {"q": 'c "x"', "t": "d"}]
    assert places == [2, 5, 6]
    assert rejects == []


def test_csv_rows_that_are_no_rows_are_set_aside(tmp_path):  # trap 46
    path = tmp_path / "a.csv"
    path.write_text('q,t\na,b,c\nd\ne,"f"g\nh,i\n')
    rows, places, rejects = read(path, tmp_path)
    assert rows == [{"q": "h", "t": "i"}]
    assert places == [5]
    assert [(r["line"], r["problem"]) for r in rejects] == [
        (2, "3 fields where the header has 2"),
        (3, "1 fields where the header has 2"),
        (4, "not CSV: ',' expected after '\"'"),
    ]
    assert rejects[0]["record"] == {"": "a,b,c\n"}


@pytest.mark.parametrize("after", ["c,d\ne,f\n", 'c,"d"\ne,f\n', "c,d\n" + "e,f\n" * 50_000])
def test_a_quote_that_is_never_closed_costs_its_own_line_only(tmp_path, after):  # trap 46
    path = tmp_path / "a.csv"
    path.write_text('q,t\na,"b\n' + after)
    rows, places, rejects = read(path, tmp_path)
    assert rows[:2] == [{"q": "c", "t": "d"}, {"q": "e", "t": "f"}]
    assert places == list(range(3, 3 + after.count("\n")))
    assert [(r["line"], r["record"]) for r in rejects] == [(2, {"": 'a,"b\n'})]


def test_without_quotes_a_quote_is_a_character(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text('q\tt\n5" pipe\t"b\n')
    rows, _, _ = read(path, tmp_path, quote="")
    assert rows == [{"q": '5" pipe', "t": '"b'}]


def test_bytes_that_are_not_utf8_stay_what_they_are(tmp_path):  # trap 46
    path = tmp_path / "a.csv"
    path.write_bytes(b"q,t\ncaf\xe9,b\nc,d\n")
    rows, _, _ = read(path, tmp_path)
    assert rows == [{"q": b"caf\xe9", "t": "b"}, {"q": b"c", "t": "d"}]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "empty; the first line must name the columns"),
        (b"q\xff,t\n", "line 1: the header is not UTF-8"),
        (b"q,q\n", "line 1: a column name stands there twice"),
    ],
)
def test_a_header_that_is_none_is_named(tmp_path, content, problem):  # trap 46
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    with pytest.raises(UserError, match=problem):
        open_rows(path)


def test_json_rows_that_are_no_rows_are_set_aside(tmp_path):  # trap 46
    path = tmp_path / "a.jsonl"
    path.write_bytes(
        b'{"q": "a", "n": 1}\n\n{"q": "b", "n": NaN}\n{"q": "c"\n[1]\n{"n": 2}\n'
        b'{"q": "caf\xe9", "n": 3}\n{"q": "d", "n": Infinity}'
    )
    rows, places, rejects = read(path, tmp_path, needed=["q"])
    assert rows == [{"q": b"a", "n": 1}, {"q": b"caf\xe9", "n": 3}]
    assert places == [1, 7]
    assert [(r["line"], r["column"], r["problem"]) for r in rejects] == [
        (3, "n", "NaN"),
        (4, "", "broken JSON"),
        (5, "", "not a JSON object"),
        (6, "q", "missing column"),
        (8, "n", "not a finite number"),
    ]
    assert rejects[1]["record"] == {"": '{"q": "c"\n'}


def test_json_values_of_mixed_types_become_text(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"q": "a", "l": ["x"]}\n{"q": 2, "l": null, "o": {"k": 1}}\n{"q": "\\ud800", "l": ["y"]}\n')
    rows, _, _ = read(path, tmp_path)
    assert rows == [
        {"q": b"a", "l": ["x"], "o": None},
        {"q": b"2", "l": None, "o": '{"k": 1}'},
        {"q": b"\xed\xa0\x80", "l": ["y"], "o": None},  # a lone surrogate is no UTF-8
    ]


def test_order_holds_over_pieces(tmp_path):
    path = tmp_path / "a.csv"
    count = 2 * PIECE_ROWS + 1
    path.write_text("q\n" + "".join(f"{i}\n" for i in range(count)))
    rows, places, _ = read(path, tmp_path)
    assert [row["q"] for row in rows] == [str(i) for i in range(count)]
    assert places == list(range(2, count + 2))


def test_a_file_of_an_unknown_kind_wants_a_delimiter(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("q|t\na|b\n")
    with pytest.raises(UserError, match="the suffix says no format"):
        open_rows(path)
    rows, _, _ = read(path, tmp_path, delimiter="|")
    assert rows == [{"q": "a", "t": "b"}]
    with pytest.raises(UserError, match="one character"):
        open_rows(path, delimiter="||")
    with pytest.raises(UserError, match="no such file"):
        open_rows(tmp_path / "b.csv")


def test_a_line_without_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("lrkd.data.text_files.LONGEST_LINE", 100)
    path = tmp_path / "a.csv"
    path.write_text("q\n" + "x" * 200)
    with pytest.raises(UserError, match="line 2: over 100 bytes"):
        read(path, tmp_path)


def test_needed_columns_are_named(tmp_path):  # trap 46
    for name, content in (("a.csv", "q\nx\n"), ("a.jsonl", '{"q": "x"}\n')):
        path = tmp_path / name
        path.write_text(content)
        with pytest.raises(UserError, match=r"lacks the column\(s\) t; it has q"):
            list(open_rows(path).pieces(RowErrors(), ["q", "t"]))


def test_a_parquet_file_cut_short_is_named(tmp_path):  # trap 46
    path = tmp_path / "a.parquet"
    path.write_bytes(b"PAR1")
    with pytest.raises(UserError, match="not a readable Parquet file"):
        open_rows(path)
