"""``data split``: by normalised query, stratified, and the same every time."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from lrkd.data.pairs import file_fingerprint, read_pairs, write_table
from lrkd.data.split import assign_groups, label_numbers, split_data
from lrkd.data.split_rows import group_queries
from lrkd.data.types import PAIRS_SCHEMA, normalise_query
from lrkd.errors import UserError


def write_root(root, queries, labels, splits=None):
    count = len(queries)
    columns = {
        "pair_id": [str(i) for i in range(count)],
        "query_id": [str(i) for i in range(count)],
        "query": queries,
        "item_id": [str(i) for i in range(count)],
        "title": ["t"] * count,
        "label": labels,
        "split": splits or [None] * count,
    }
    columns["label"] = pa.array(columns["label"], pa.string())
    columns["split"] = pa.array(columns["split"], pa.string())
    write_table(pa.table(columns), root / "pairs.parquet", PAIRS_SCHEMA)
    return root


def hundred_queries(root):
    """100 queries with 3 pairs each, every third spelled in another way; 200 Exact, 100 Irrelevant."""
    spelling = ["query {}", "Query  {}", "QUERY {}!"]
    queries = [spelling[i % 3].format(i // 3) for i in range(300)]
    return write_root(root, queries, ["Irrelevant" if i % 3 == 0 else "Exact" for i in range(300)])


def splits_of_queries(root, column="split"):
    found = {}
    for row in read_pairs(root).to_pylist():
        found.setdefault(normalise_query(row["query"]), set()).add(row[column])
    return found


def test_no_query_is_in_two_splits_or_folds_and_shares_are_kept(tmp_path):  # trap 33
    root = hundred_queries(tmp_path)
    split_data(root=root)
    for column in ("split", "fold"):
        assert all(len(places) == 1 for places in splits_of_queries(root, column).values())
    table = read_pairs(root)
    counts = {(e["split"], e["label"]): e["pair_id_count"] for e in grouped(table, ["split", "label"])}
    # All queries are alike, so the shares come out exactly: 80, 10 and 10 queries of 2 Exact and 1 Irrelevant.
    assert counts == {
        ("train", "Exact"): 160, ("train", "Irrelevant"): 80, ("val", "Exact"): 20, ("val", "Irrelevant"): 10,
        ("test", "Exact"): 20, ("test", "Irrelevant"): 10,
    }  # fmt: skip
    assert [e["pair_id_count"] for e in grouped(table, ["fold"])] == [60] * 5
    assert table["pair_id"].to_pylist() == [str(i) for i in range(300)]


def grouped(table, keys):
    return table.group_by(keys).aggregate([("pair_id", "count")]).to_pylist()


def test_the_seed_decides(tmp_path):
    root = hundred_queries(tmp_path)
    split_data(root=root, out=tmp_path / "a", seed=1)
    split_data(root=root, out=tmp_path / "b", seed=1)
    split_data(root=root, out=tmp_path / "c", seed=2)
    a, b, c = (file_fingerprint(tmp_path / name / "pairs.parquet") for name in "abc")
    assert a == b != c


def test_out_leaves_the_root_alone_and_takes_rationales_along(tmp_path):
    root = hundred_queries(tmp_path / "root")
    (root / "rationales.parquet").write_bytes(b"copied as it is")
    before = file_fingerprint(root / "pairs.parquet")
    split_data(root=root, out=tmp_path / "out", folds=0)
    assert file_fingerprint(root / "pairs.parquet") == before
    assert (tmp_path / "out" / "rationales.parquet").read_bytes() == b"copied as it is"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["pairs.parquet", "rationales.parquet"]
    assert read_pairs(tmp_path / "out")["fold"].null_count == 300


def test_an_official_test_split_is_kept_and_its_queries_leak_nowhere(tmp_path, capsys):  # trap 33
    queries = [f"q{i // 2}" for i in range(40)]
    splits = ["train"] * 30 + ["test"] * 10
    queries[0] = "Q19!"  # the last test query, spelled otherwise, stands in train
    root = write_root(tmp_path, queries, ["Exact"] * 40, splits)
    split_data(root=root, keep_test=True, folds=2)
    rows = read_pairs(root).to_pylist()
    assert [row["split"] for row in rows[30:]] == ["test"] * 10
    assert rows[0]["split"] is None
    assert {row["fold"] for row in rows[30:]} == {None}
    assert {row["split"] for row in rows[1:30]} == {"train", "val"}
    # 29 pairs in the ratio 8 to 1, whole queries of 2: 26 and 3, or 25 and 4.
    assert sum(row["split"] == "val" for row in rows) in (2, 3, 4)
    assert all(len(places - {None}) == 1 for places in splits_of_queries(root).values())
    assert "none: pairs of a query that is in the test split" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"train": 0.5}, "sum to 1"),
        ({"train": 1.2, "test": -0.3}, "sum to 1"),
        ({"train": 0.0, "val": 0.5, "test": 0.5}, "train: wants a share above 0"),
        ({"folds": 1}, "folds: 0 for none or at least 2"),
        ({"keep_test": True}, "no pair's split is 'test'"),
    ],
)
def test_options_that_do_not_fit_are_named(tmp_path, options, problem):
    with pytest.raises(UserError, match=problem):
        split_data(root=hundred_queries(tmp_path), **options)


def test_too_few_queries_are_named(tmp_path):
    root = write_root(tmp_path, ["a", "A", "b"], ["Exact"] * 3)
    with pytest.raises(UserError, match="would be empty: there are fewer queries than splits"):
        split_data(root=root, folds=2)


def test_a_split_without_share_stays_empty(tmp_path):
    root = hundred_queries(tmp_path)
    split_data(root=root, train=0.5, val=0.5, test=0.0, folds=0)
    assert sorted(set(read_pairs(root)["split"].to_pylist())) == ["train", "val"]


def test_a_root_that_cant_be_written_asks_for_out(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError("read-only file system")

    root = hundred_queries(tmp_path)
    monkeypatch.setattr("pyarrow.parquet.ParquetWriter", refuse)
    with pytest.raises(UserError, match="give another folder as --out"):
        split_data(root=root)


def test_groups_go_where_they_fill_what_is_lacking():
    # By hand: totals are 4 of class 0 and 2 of class 1, so rows count 1/4 and 1/2. Group 0 is (3/4, 0): into an empty
    # bin of share 1/2 it changes |lack|² by 9/16 - 2·(1/2)(3/4) = -3/16 in both, and takes the first. Group 1 is
    # (0, 1/2), group 2 too: in bin 0 and 1 alike for the first (bin 0), then bin 1. Group 3 is (1/4, 0): bin 1.
    groups = np.array([0, 0, 0, 1, 2, 3])
    labels = np.array([0, 0, 0, 1, 1, 0])
    bins = assign_groups(groups, labels, [0.5, 0.5])
    assert len(set(bins[:3])) == 1
    assert bins[5] == 1 - bins[0]
    assert sorted([bins[3], bins[4]]) == [0, 1]


def test_folds_are_as_even_as_scikit_learns():
    from sklearn.model_selection import StratifiedGroupKFold

    rng = np.random.default_rng(0)
    groups = rng.integers(0, 200, 2000) ** 2 // 200  # groups of very different sizes
    labels = rng.choice(4, 2000, p=[0.65, 0.22, 0.03, 0.1])

    def unevenness(bins):
        counts = np.array([[np.sum((bins == b) & (labels == c)) for c in range(4)] for b in range(5)])
        return (counts / counts.sum(axis=0)).std(axis=0).mean()

    reference = np.zeros(2000, int)
    folds = StratifiedGroupKFold(5, shuffle=True, random_state=0).split(labels, labels, groups)
    for number, (_, rows) in enumerate(folds):
        reference[rows] = number
    ours = assign_groups(groups, labels, [0.2] * 5)
    assert all(len(set(ours[groups == group])) == 1 for group in set(groups))
    assert unevenness(ours) <= 1.05 * unevenness(reference)


def test_queries_are_grouped_by_their_normal_form():
    queries = pa.chunked_array([["Red shoes", "mug"], ["red  SHOES!", "MUG", "mugs"]])
    first, second, third, fourth, fifth = group_queries(queries)
    assert first == third
    assert second == fourth
    assert len({first, second, fifth}) == 3
    assert group_queries(queries.slice(0, 0)).tolist() == []


def test_labels_are_numbered_by_frequency():
    numbers, names = label_numbers(pa.chunked_array([["b", "a", None, "a"]]))
    assert names == ["a", "b", "unknown"]
    assert numbers.tolist() == [1, 0, 2, 0]


def test_esci_mini_keeps_its_test_split(esci_mini, tmp_path):  # trap 33
    before = read_pairs(esci_mini)
    split_data(root=esci_mini, out=tmp_path, keep_test=True)
    after = read_pairs(tmp_path)
    was = [split == "test" for split in before["split"].to_pylist()]
    assert [split == "test" for split in after["split"].to_pylist()] == was
    assert sum(was) == 1481
    assert all(len(places) == 1 for places in splits_of_queries(tmp_path).values())
    assert after.drop_columns(["split", "fold"]).equals(before.drop_columns(["split", "fold"]))
    assert (tmp_path / "rationales.parquet").is_file()
