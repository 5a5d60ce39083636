"""Votes that are read by how far they were right."""

import numpy as np
import pytest

from lrkd.data.calibrated_votes import calibrated_votes
from lrkd.errors import UserError


def shares(verdicts, perspectives=1, classes=3):
    found = np.zeros((len(verdicts), perspectives, classes))
    for row, said in enumerate(verdicts):
        for place, verdict in enumerate(said):
            if verdict is not None:
                found[row, place, verdict] = 1
    return found


def test_a_teacher_that_calls_labels_by_other_names_is_understood():
    # It says 1 where gold is 0 and the other way round: its votes are all wrong, but tell the label.
    label = np.arange(200) % 2
    found = calibrated_votes(shares([(1 - y,) for y in label], classes=2), label, np.arange(200), np.arange(200))
    assert (found.argmax(1) == label).all()
    assert found[np.arange(200), label].min() > 0.9


def test_probabilities_are_the_frequencies_of_the_gold_labels_given_the_verdict():
    # Verdict 0: gold is 0 in three of four; verdict 1: gold is 2 in all.
    label = np.tile([0, 0, 0, 1, 2, 2, 2, 2], 500)
    said = [(0,) if y < 2 else (1,) for y in label]
    found = calibrated_votes(shares(said), label, np.arange(4000) // 8, np.arange(4000))
    np.testing.assert_allclose(found[:4], np.tile([0.75, 0.25, 0], (4, 1)), atol=0.01)
    np.testing.assert_allclose(found[4:8], np.tile([0, 0, 1], (4, 1)), atol=0.01)
    np.testing.assert_allclose(found.mean(0), [3 / 8, 1 / 8, 1 / 2], atol=1e-3)
    np.testing.assert_allclose(found.sum(1), 1, rtol=1e-6)


def test_of_two_perspectives_the_better_one_counts_more():
    rng = np.random.default_rng(0)
    label = rng.integers(2, size=400)
    good, bad = np.where(rng.random((2, 400)) < np.array([[0.9], [0.6]]), label, 1 - label)
    found = calibrated_votes(shares(list(zip(good, bad, strict=True)), 2, 2), label, np.arange(400), np.arange(400))
    differ = good != bad
    assert differ.sum() > 50
    np.testing.assert_array_equal(found[differ].argmax(1), good[differ])


def test_no_query_is_read_by_what_its_own_labels_say():
    # Verdict 2 is given in query 0 alone, where gold is 1: of that, the fit that judges query 0 knows nothing.
    label = np.array([1] * 40 + [0, 1, 2, 0] * 40)
    said = [(2,)] * 40 + [(0,)] * 160
    query = np.array([0] * 40 + list(range(1, 161)))
    found = calibrated_votes(shares(said), label, query, np.arange(200))
    assert found[0, 0] == pytest.approx(0.5, abs=0.05)  # as often as elsewhere
    changed = label.copy()
    changed[:40] = 2
    np.testing.assert_array_equal(calibrated_votes(shares(said), changed, query, np.arange(200))[:40], found[:40])


def test_gold_labels_that_do_not_train_are_not_looked_at():  # trap 36
    label = np.arange(60) % 3
    said, train = [(y,) for y in label], np.arange(40)
    found = calibrated_votes(shares(said), label, np.arange(60), train)
    other = label.copy()
    other[40:] = 0
    np.testing.assert_array_equal(calibrated_votes(shares(said), other, np.arange(60), train), found)
    assert (found[40:].argmax(1) == label[40:]).all()


def test_pairs_without_a_verdict_have_none_and_those_without_gold_are_read():
    label = np.append(np.arange(30) % 3, [-1, 0])
    found = calibrated_votes(shares([(y,) for y in label[:30]] + [(2,), (None,)]), label, np.arange(32), np.arange(32))
    assert found[30].argmax() == 2
    assert not found[31].any()


@pytest.mark.parametrize(("label", "query"), [([0, 1, 0], [0, 0, 0]), ([0, 0, 0], [0, 1, 2])])
def test_what_cannot_be_fitted_is_refused(label, query):
    with pytest.raises(UserError, match="two of each are needed; use votes"):
        calibrated_votes(shares([(0,)] * 3), np.array(label), np.array(query), np.arange(3))
