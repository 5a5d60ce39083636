"""The measures of explanations, on an example that is small enough to be worked out by hand."""

import math

import numpy as np
import pyarrow as pa
import pytest

from lrkd.evaluate.explain.index import RATIONALES_COLUMNS, ExplanationIndex
from lrkd.evaluate.explain.quality import Explained, measure, share_by_query
from lrkd.evaluate.explain.topics import Topics, query_words

LABELS = ("Exact", "Substitute")
E, S = 0, 1
VERDICTS = (("a", "Exact"), ("a", "Exact"), ("a", "Substitute"), ("b", "Substitute"), ("b", "Exact"))
KEYS = [{"mug"}, {"lamp"}, set(), {"red", "lamp"}, {"mug"}]
"""Of the five rationales."""


@pytest.fixture(scope="module")
def rows():
    made = [
        {
            "pair_id": "p", "query": "q", "title": "t", "label": None, "perspective": perspective,
            "sample": n, "rationale": "r", "verdict": verdict,
        }
        for n, (perspective, verdict) in enumerate(VERDICTS)
    ]  # fmt: skip
    table = pa.Table.from_pylist(made, RATIONALES_COLUMNS)
    index = ExplanationIndex(np.eye(5, dtype=np.float32), table, {"a": 0, "b": 0}, 1)
    pairs = [{"mug", "red"}, {"mug"}, set(), {"lamp"}]
    explained = Explained(
        student=np.array([E, S, E, S]),
        gold=np.array([E, E, S, S]),
        query=np.array([0, 0, 1, 1]),
        by_latent=np.array([[0, 3], [2, 3], [1, 4], [0, 3]]),  # E S, S S, E E, E S
        by_state=np.array([[2, 4]] * 4),  # S E
        by_own=np.array([[2, -1], [1, -1], [-1, 3], [-1, -1]]),  # S, E, S and none
        topics={"same_topic": Topics(*([frozenset(keys) for keys in some] for some in (pairs, KEYS)))},
    )
    return {(row["by"], row["perspective"]): row for row in measure(explained, index, LABELS)}


def means(rows, by, name):
    return [rows[by, perspective][name] and rows[by, perspective][name].mean for perspective in ("a", "b", "all")]


def test_there_is_a_row_a_way_and_perspective(rows):
    ways = (
        "latent", "[CLS]", "own rationale", "latent − [CLS]", "latent − own rationale", "random", "most frequent",
    )  # fmt: skip
    assert list(rows) == [(by, perspective) for by in ways for perspective in ("a", "b", "all")]


def test_agreement_of_what_was_found(rows):
    # With the student (E S E S): a says E S E E, b says S S E S: each is right three times.
    assert means(rows, "latent", "agrees_with_student") == [0.75, 0.75, 0.75]
    # With gold (E E S S): a only on the first pair, b only on the last.
    assert means(rows, "latent", "agrees_with_gold") == [0.25, 0.25, 0.25]
    assert means(rows, "[CLS]", "agrees_with_student") == [0.5, 0.5, 0.5]
    assert means(rows, "latent − [CLS]", "agrees_with_student") == [0.25, 0.25, 0.25]
    assert means(rows, "latent − [CLS]", "agrees_with_gold") == [-0.25, -0.25, -0.25]


def test_by_the_own_rationale_only_pairs_that_have_one_count(rows):
    # The student says E S E, the found S E S. Gold is E E S: a finds S and E, b finds S.
    assert means(rows, "own rationale", "agrees_with_student") == [0, 0, 0]
    assert means(rows, "own rationale", "agrees_with_gold") == pytest.approx([1 / 2, 1, 2 / 3])
    assert [rows["own rationale", p]["agrees_with_gold"].pairs for p in ("a", "b", "all")] == [2, 1, 3]
    # On the same pairs the latent agrees with gold on the first (a: E), not on the second (a: S) or third (b: E).
    assert means(rows, "latent − own rationale", "agrees_with_gold") == pytest.approx([0, -1, -1 / 3])


def test_random_is_the_expected_agreement_in_closed_form(rows):
    # a: ⅔ of the verdicts are E, and the student says E and S twice each: (2·⅔ + 2·⅓) / 4. b: one half each.
    assert means(rows, "random", "agrees_with_student") == pytest.approx([0.5, 0.5, 0.5])
    assert rows["random", "a"]["agrees_with_gold"].mean == pytest.approx(0.5)
    # E E S S by queries: in the first ⅔ each, in the second ⅓: the two sums are ±⅓, and √(2 · 2/9) / 4 = ⅙.
    assert rows["random", "a"]["agrees_with_gold"].error == pytest.approx(1 / 6)


def test_the_most_frequent_verdict_is_the_majority_row(rows):  # trap 34
    # Both say E (b's tie goes to the first label): right on two of four, of the student's and of gold.
    assert means(rows, "most frequent", "agrees_with_student") == [0.5, 0.5, 0.5]
    assert means(rows, "most frequent", "agrees_with_gold") == [0.5, 0.5, 0.5]
    assert means(rows, "most frequent", "same_topic") == [None] * 3, "it is a verdict, not a rationale"


def test_topics_leave_out_what_has_none(rows):
    # a: mug–mug shares, lamp–mug does not, the second's rationale and the third pair have no key.
    # b: {mug, red}–{red, lamp} and lamp–{red, lamp} share, mug–{red, lamp} does not.
    assert means(rows, "latent", "same_topic") == pytest.approx([0.5, 2 / 3, 0.5])
    assert [rows["latent", p]["same_topic"].pairs for p in ("a", "b", "all")] == [2, 3, 3]


def test_a_random_rationale_s_topic_is_expected_over_those_that_have_one(rows):
    # a has {mug} and {lamp}: each of the three pairs shares with one. b has {red, lamp} and {mug}: 1, ½, ½.
    assert means(rows, "random", "same_topic") == pytest.approx([0.5, 2 / 3, 7 / 12])


@pytest.mark.filterwarnings("ignore:Mean of empty slice")
def test_expected_topic_is_the_mean_over_all_draws():
    rng = np.random.default_rng(0)
    pairs, rationales = (
        [frozenset(rng.choice(list("abcdef"), rng.integers(0, 4)).tolist()) for _ in range(size)] for size in (12, 30)
    )
    topics, parts = Topics(pairs, rationales), [slice(0, 11), slice(11, 30)]
    drawn = [np.nanmean(topics.alike(np.tile(np.arange(30)[part], (12, 1))), axis=1) for part in parts]
    np.testing.assert_allclose(topics.expected(parts), np.stack(drawn, 1))


def test_query_words_are_content_words():
    assert query_words("Mugs for the kitchen, without a handle!") == {"mugs", "kitchen", "handle"}
    assert query_words("a") == frozenset()


def test_the_error_counts_a_query_once():
    # Two queries that are wholly right and wholly wrong: as two observations 1 and 0, whatever their pairs' number:
    # s² of the sums 5·½ and -5·½ … √(2 · 12.5) / 10 = ½, the standard error of two draws.
    values, query = np.repeat([1.0, 0.0], 5), np.repeat([7, 3], 5)
    assert share_by_query(values, query) == (0.5, pytest.approx(0.5), 10)
    assert share_by_query(values, np.arange(10)).error == pytest.approx(values.std(ddof=1) / math.sqrt(10))
    assert math.isnan(share_by_query(values, np.zeros(10)).error)
    assert share_by_query(np.full(3, np.nan), np.arange(3)) is None
