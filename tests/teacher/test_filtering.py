"""The consistency filter: the rows that stay and every count, by hand."""

from __future__ import annotations

import json

import pyarrow.parquet as pq
import pytest
from conflict_tables import write_pairs, write_rationales

from lrkd.__main__ import main
from lrkd.data.rationales import merge_rationales, read_rationales
from lrkd.errors import UserError
from lrkd.teacher.filtering import filter_rationales

PAIRS = {
    "p1": ("mug", "E", "train"),
    "p2": ("mug", "S", "val"),
    "p3": ("cup", "E", "train"),
    "p4": ("cup", None, "train"),
    "p5": ("cup", "C", "train"),
}
RATIONALES = [
    ("p1", "b", 0, "E"), ("p1", "s", 0, "S"), ("p1", "u", 0, "E"), ("p1", "u", 1, "E"),  # three stay
    ("p2", "b", 0, "S"), ("p2", "u", 0, "I"),  # one stays
    ("p3", "b", 0, "I"),  # none stays
    ("p4", "b", 0, "E"),  # no label
    ("p9", "u", 0, "E"),  # no such pair
]  # fmt: skip


@pytest.fixture
def root(tmp_path):
    write_pairs(tmp_path / "root", PAIRS)
    write_rationales(tmp_path / "root" / "rationales.parquet", RATIONALES)
    return tmp_path / "root"


def keys(folder):
    return [(r["pair_id"], r["perspective"], r["sample"]) for r in read_rationales(folder).to_pylist()]


def test_rationales_with_the_gold_verdict_stay(root, tmp_path):
    filter_rationales(root=root, out=tmp_path / "kept")
    assert keys(tmp_path / "kept") == [
        ("p1", "business_rule", 0),
        ("p1", "user_intent", 0),
        ("p1", "user_intent", 1),
        ("p2", "business_rule", 0),
    ]


def test_the_yield_by_reason_perspective_class_and_pair(root, tmp_path):
    report = filter_rationales(root=root, out=tmp_path / "kept.parquet")
    assert report == json.loads((tmp_path / "kept.json").read_text())
    assert (report["read"], report["kept"]) == (9, 4)
    assert report["dropped"] == {"verdict is not gold": 3, "pair without label": 1, "pair unknown": 1}
    assert report["unknown_pairs"] == ["p9"]
    assert report["perspectives"] == {
        "business_rule": {"judged": 3, "kept": 2, "share": round(2 / 3, 6)},
        "structured_analysis": {"judged": 1, "kept": 0, "share": 0.0},
        "user_intent": {"judged": 3, "kept": 2, "share": round(2 / 3, 6)},
    }
    assert report["classes"]["Exact"] == {
        "judged": 5,
        "kept": 3,
        "share": 0.6,
        "pairs": {"judged": 2, "with_at_least_one": 1, "share": 0.5},
    }
    assert report["classes"]["Complement"]["share"] is None
    assert report["pairs"] == {"judged": 3, "with_at_least_one": 2, "share": round(2 / 3, 6), "labelled": 4}


def test_the_order_of_the_rows_does_not_matter(root, tmp_path):
    first = filter_rationales(root=root, out=tmp_path / "a")
    write_pairs(root, dict(reversed(PAIRS.items())))
    write_rationales(root / "rationales.parquet", RATIONALES[::-1])
    second = filter_rationales(root=root, out=tmp_path / "b")
    assert pq.read_table(tmp_path / "a/rationales.parquet").equals(pq.read_table(tmp_path / "b/rationales.parquet"))
    assert {k: v for k, v in first.items() if k != "out"} == {k: v for k, v in second.items() if k != "out"}


def test_two_teachers_rationales_keep_keys_of_their_own(root, tmp_path):
    # The keys p1 u 0 and p1 u 1 are taken: the other teacher's samples are shifted by the highest sample, 1, plus one.
    write_rationales(tmp_path / "other.parquet", [("p1", "u", 0, "E"), ("p3", "s", 1, "E")], teacher="other")
    report = filter_rationales(root=root, out=tmp_path / "kept", rationales=[root, tmp_path / "other.parquet"])
    assert [source["samples_shifted_by"] for source in report["sources"]] == [0, 2]
    kept = {
        (r["pair_id"], r["perspective"], r["sample"]): r["teacher"]
        for r in read_rationales(tmp_path / "kept").to_pylist()
    }
    assert kept[("p1", "user_intent", 0)] is None
    assert kept[("p1", "user_intent", 2)] == kept[("p3", "structured_analysis", 3)] == "other"
    assert len(kept) == 6


def test_files_without_a_common_key_are_not_shifted(root, tmp_path):
    write_rationales(tmp_path / "other.parquet", [("p1", "u", 2, "E")])
    table, sources = merge_rationales([root / "rationales.parquet", tmp_path / "other.parquet"])
    assert [source.shift for source in sources] == [0, 0]
    assert table.num_rows == 10


def test_what_is_read_is_not_overwritten(root, tmp_path):
    for out in (root, root / "rationales.parquet", root / ".." / "root", root / "pairs.parquet"):
        with pytest.raises(UserError, match="is read from, and would be overwritten"):
            filter_rationales(root=root, out=out)
    assert len(keys(root)) == 9


def test_mistakes_are_named(root, tmp_path):
    with pytest.raises(UserError, match=r"rationales\.parquet: given twice"):
        filter_rationales(root=root, out=tmp_path / "kept", rationales=[root, root / "rationales.parquet"])
    with pytest.raises(UserError, match=r"none\.parquet: no such file"):
        filter_rationales(root=root, out=tmp_path / "kept", rationales=tmp_path / "none.parquet")
    write_rationales(tmp_path / "twice.parquet", [("p1", "u", 0, "E"), ("p1", "u", 0, "E")])
    with pytest.raises(UserError, match=r"twice\.parquet, row 2: the key .* stands there a second time"):  # trap 46
        filter_rationales(root=root, out=tmp_path / "kept", rationales=tmp_path / "twice.parquet")
    assert not (tmp_path / "kept").exists()


def test_the_command_takes_several_files(root, tmp_path, capsys):
    write_rationales(tmp_path / "other.parquet", [("p1", "u", 0, "E")])
    files = [str(root / "rationales.parquet"), str(tmp_path / "other.parquet")]
    main(["rationales", "filter", "--root", str(root), "--out", str(tmp_path / "kept"), "--rationales", *files])
    shown = capsys.readouterr().out
    assert "their samples count from 2" in shown
    assert "Dropped 5 of 10: 3 (verdict is not gold), 1 (pair without label), 1 (pair unknown)" in shown
    main(["rationales", "filter", "--root", str(root), "--out", str(tmp_path / "one"), "--rationales", files[1]])
    assert len(keys(tmp_path / "one")) == 1


def test_esci_mini_yields_what_its_readme_says(esci_mini, tmp_path):
    report = filter_rationales(root=esci_mini, out=tmp_path)
    shares = {name: round(row["share"], 3) for name, row in report["perspectives"].items()}
    assert shares == {"user_intent": 0.566, "structured_analysis": 0.577, "business_rule": 0.536}
    assert round(report["pairs"]["share"], 2) == 0.70
