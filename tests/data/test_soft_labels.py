"""Soft labels by hand: votes, and the two means of predictions."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lrkd.data.soft_labels import JudgedPairs, SoftLabelSource, averaged_predictions, vote_counts
from lrkd.data.types import LABEL_SETS, LabelSet
from lrkd.errors import UserError

LABELS = ("Good", "Bad")
PAIRS = pa.array(["a", "b", "c"])


def rationales(*rows):
    return pa.table({name: [row[i] for row in rows] for i, name in enumerate(("pair_id", "perspective", "verdict"))})


TABLE = rationales(
    ("b", "p", "Bad"),
    ("a", "p", "Good"),
    ("a", "q", "Bad"),
    ("a", "r", "Good"),
    ("elsewhere", "p", "Good"),
    ("a", "p", "Good"),
)


@pytest.fixture
def source(tmp_path):
    """A function that writes rationales and gives what reads them."""

    def make(given, table=TABLE):
        full = table.append_column("rationale", pa.array(["…"] * len(table)))
        full = full.append_column("sample", pa.array(range(len(table)), pa.int32()))
        pq.write_table(full, tmp_path / "rationales.parquet")
        return SoftLabelSource(given, "probabilities", [tmp_path / "rationales.parquet"])

    return make


def judged(pair_id, label=None, query=None, train=None):
    n = len(pair_id)
    return JudgedPairs(
        pair_id,
        np.full(n, -1) if label is None else np.array(label),
        np.arange(n) if query is None else np.array(query),
        np.arange(n) if train is None else np.array(train),
    )


TWO = LabelSet("two", LABELS, (1.0, 0.0))


def test_votes_are_the_shares_of_the_verdicts(source):
    # a: three of four say Good; b: its one says Bad; c has none. No verdict is compared with gold.
    found = source("votes").read(judged(PAIRS), TWO, None)
    np.testing.assert_allclose(found.probability, [[0.75, 0.25], [0, 1], [0, 0]])
    assert found.present_of(np.array([2, 0])).tolist() == [False, True]


def test_chosen_perspectives_vote_alone(source):
    np.testing.assert_allclose(source("votes").read(judged(PAIRS), TWO, ["q"]).probability, [[0, 1], [0, 0], [0, 0]])
    with pytest.raises(UserError, match="choose from those that the rationales have"):
        source("votes").read(judged(PAIRS), TWO, ["s"])


def test_calibrated_votes_are_read_perspective_by_perspective(source):
    # p always says Good and tells nothing; q says the gold label.
    rows = [(str(i), "p", "Good") for i in range(40)] + [(str(i), "q", LABELS[i % 2]) for i in range(40)]
    pairs = judged(pa.array([str(i) for i in range(40)]), np.arange(40) % 2)
    found = source("calibrated_votes", rationales(*rows)).read(pairs, TWO, None).probability
    assert (found.argmax(1) == pairs.label).all()
    alone = source("calibrated_votes", rationales(*rows)).read(pairs, TWO, ["p"]).probability
    np.testing.assert_allclose(alone, 0.5, atol=0.1)


def test_votes_are_counted_by_perspective():
    np.testing.assert_array_equal(
        vote_counts(TABLE, PAIRS, LABELS), [[[2, 0], [0, 1], [1, 0]], [[0, 1], [0, 0], [0, 0]], np.zeros((3, 2))]
    )


@pytest.fixture
def files(tmp_path):
    """Two teachers' predictions. Both know a, only the second knows b; neither knows c."""
    first, second = tmp_path / "first.parquet", tmp_path / "second.parquet"
    pq.write_table(pa.table({"p/Bad": [0.2], "p/Good": [0.8], "pair_id": ["a"]}), first)
    pq.write_table(pa.table({"pair_id": ["b", "a", "x"], "p/Good": [0.0, 0.5, 1], "p/Bad": [1.0, 0.5, 0]}), second)
    return [first, second]


def test_mean_of_probabilities_and_mean_of_logits(files):  # trap 27
    # a: (0.8 + 0.5) / 2 = 0.65. Logits: the geometric means √0.4 and √0.1 are as 2 to 1.
    for mean, a in (("probabilities", [0.65, 0.35]), ("logits", [2 / 3, 1 / 3])):
        found = averaged_predictions(files, PAIRS, LABELS, mean).probability
        np.testing.assert_allclose(found, [a, [0, 1], [0, 0]], atol=1e-6)
        assert np.isfinite(found).all()


def test_one_teacher_has_the_same_mean_either_way(files):
    one, other = (averaged_predictions(files[1:], PAIRS, LABELS, mean) for mean in ("probabilities", "logits"))
    np.testing.assert_allclose(one.probability, other.probability, atol=1e-6)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"pair_id": ["a"], "p/Good": [1.0]}, r"lacks the columns \['p/Bad'\]"),
        ({"pair_id": ["a", "a"], "p/Good": [1.0, 1], "p/Bad": [0.0, 0]}, "row 2: pair a stands there a second time"),
        ({"pair_id": ["b", "a"], "p/Good": [1.0, 0.7], "p/Bad": [0.0, 0.7]}, "row 2: .* are no probabilities"),
        ({"pair_id": ["a"], "p/Good": [1.5], "p/Bad": [-0.5]}, "row 1: .* are no probabilities"),
        ({"pair_id": ["a"], "p/Good": [float("nan")], "p/Bad": [0.5]}, "row 1: .* are no probabilities"),
    ],
)
def test_files_that_hold_no_predictions_are_refused(table, message, tmp_path):
    pq.write_table(pa.table(table), tmp_path / "bad.parquet")
    with pytest.raises(UserError, match=rf"bad\.parquet.*{message}"):
        averaged_predictions([tmp_path / "bad.parquet"], PAIRS, LABELS, "probabilities")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"none\.parquet: not a readable Parquet file"):
        averaged_predictions([tmp_path / "none.parquet"], PAIRS, LABELS, "logits")


def test_a_source_reads_votes_or_files_and_its_digest_follows_their_bytes(tiny_root, files, tmp_path):
    ids = pq.read_table(tiny_root / "pairs.parquet")["pair_id"].combine_chunks()
    source = SoftLabelSource("votes", "probabilities", [tiny_root / "rationales.parquet"])
    labels = LABEL_SETS["esci"]
    found = source.read(judged(ids), labels, ["user_intent"]).probability
    one = pq.read_table(tiny_root / "rationales.parquet").to_pylist()[0]
    assert one["perspective"] != "user_intent"
    assert set(np.unique(found)) <= {0, 0.5, 1}
    assert 0 < found.any(1).sum() < len(ids)
    digest = SoftLabelSource([str(file) for file in files], "logits", []).digest
    assert digest != SoftLabelSource([str(file) for file in files[::-1]], "logits", []).digest
    pq.write_table(pa.table({"pair_id": ["a"], "p/Good": [0.5], "p/Bad": [0.5]}), files[0])
    assert digest != SoftLabelSource([str(file) for file in files], "logits", []).digest
    assert str(SoftLabelSource("x.parquet", "logits", [])) == "x.parquet"
    as_votes, calibrated = (SoftLabelSource(given, "logits", files).digest for given in ("votes", "calibrated_votes"))
    assert as_votes != calibrated  # a run is not gone on with on the other's labels
