"""Methods, the majority and ensembles as rows, by hand."""

import numpy as np
import pytest
from finished_runs import GOLD, probabilities, write_run

from lrkd.errors import UserError
from lrkd.evaluate.compare.contenders import Contender, imbalance, majority, methods, with_ensembles
from lrkd.evaluate.compare.scored import Scored, read_scored
from lrkd.runs import read_run


def contender(name, runs):
    return Contender(name, {key: Scored(np.array(p, float), 10.0, 2.0 + key[1]) for key, p in runs.items()})


ONE = contender("one", {(0, 0): [[0.8, 0.2]], (1, 0): [[0.5, 0.5]]})
TWO_SEEDS = contender("two", {(0, 0): [[0.4, 0.6]], (0, 1): [[0.6, 0.4]], (1, 0): [[0.9, 0.1]]})


def test_means_of_probabilities_and_of_logits():  # trap 27
    (*_, both) = with_ensembles([ONE, TWO_SEEDS], {"both": ["one", "two"]}, "probabilities")
    assert list(both.runs) == [(0, 0), (1, 0)], "where both have a run"
    np.testing.assert_allclose(both.runs[0, 0].probabilities, [[0.6, 0.4]])
    (*_, both) = with_ensembles([ONE, TWO_SEEDS], {"both": ["one", "two"]}, "logits")
    exact, other = np.sqrt(0.8 * 0.4), np.sqrt(0.2 * 0.6)  # the geometric mean, normalised
    np.testing.assert_allclose(both.runs[0, 0].probabilities, [[exact / (exact + other), other / (exact + other)]])
    assert "the mean of the logits of one, two" in both.note


def test_the_two_means_may_say_different_labels():  # trap 27
    parts = [
        contender(name, {(0, 0): [p]}) for name, p in (("a", [0.999, 0.001]), ("b", [0.2, 0.8]), ("c", [0.2, 0.8]))
    ]
    said = {}
    for mean in ("probabilities", "logits"):
        ensemble = with_ensembles(parts, {"e": ["a", "b", "c"]}, mean)[-1]
        said[mean] = int(ensemble.runs[0, 0].probabilities.argmax())
    # 1.399 / 3 < 1 / 2; but 0.999 × 0.2 × 0.2 > 0.001 × 0.8 × 0.8.
    assert said == {"probabilities": 1, "logits": 0}


def test_a_zero_probability_stays_finite():
    parts = [contender("a", {(0, 0): [[1.0, 0.0]]}), contender("b", {(0, 0): [[0.5, 0.5]]})]
    found = with_ensembles(parts, {"e": ["a", "b"]}, "logits")[-1].runs[0, 0].probabilities
    np.testing.assert_allclose(found, [[1, 0]], atol=1e-12)


def test_costs_are_the_members_sums():
    ensemble = with_ensembles([ONE, TWO_SEEDS], {"both": ["one", "two"]}, "probabilities")[-1]
    assert (ensemble.runs[0, 0].parameters, ensemble.runs[0, 0].seconds) == (20, 4)
    ensemble = with_ensembles([TWO_SEEDS], {"seeds": ["two"]}, "probabilities")[-1]
    assert (ensemble.runs[0, None].parameters, ensemble.runs[0, None].seconds) == (20, 5)


def test_one_member_is_averaged_over_its_seeds_and_ensembles_nest():
    found = with_ensembles([ONE, TWO_SEEDS], {"seeds": ["two"]}, "probabilities")[-1]
    assert list(found.runs) == [(0, None), (1, None)]
    np.testing.assert_allclose(found.runs[0, None].probabilities, [[0.5, 0.5]])
    np.testing.assert_allclose(found.runs[1, None].probabilities, [[0.9, 0.1]])
    assert "the seeds of two" in found.note
    third = contender("three", {(0, 0): [[0.2, 0.8]], (0, 1): [[0.4, 0.6]]})
    nested = with_ensembles([TWO_SEEDS, third], {"pair": ["two", "three"], "all": ["pair"]}, "probabilities")[-1]
    np.testing.assert_allclose(nested.runs[0, None].probabilities, [[0.4, 0.6]])  # of 0.4, 0.6, 0.2 and 0.4


@pytest.mark.parametrize(
    ("ensembles", "message"),
    [
        ({"one": ["one", "two"]}, "'one': that is the name of a method"),
        ({"e": ["one", "six"]}, "'e': 'six' is none of one, two, three"),
        ({"e": ["one", "one"]}, "give one or more different methods"),
        ({"e": []}, "give one or more different methods"),
        ({"e": ["one"]}, "one has one seed a fold, so there is nothing to average"),
        ({"e": ["one", "three"]}, "one, three share no fold and seed"),
    ],
)
def test_ensembles_that_cannot_be(ensembles, message):
    three = contender("three", {(0, 9): [[0.5, 0.5]]})
    with pytest.raises(UserError, match=message):
        with_ensembles([ONE, TWO_SEEDS, three], ensembles, "probabilities")


def test_imbalance_leaves_ensembles_of_seeds_out():
    assert imbalance(with_ensembles([TWO_SEEDS], {"seeds": ["two"]}, "probabilities")) is None
    assert "one lacks fold 0 seed 1." in imbalance([ONE, TWO_SEEDS])


def test_the_majority_stands_once_for_each_fold_and_seed(tmp_path):  # trap 34
    for method in ("a", "b"):
        write_run(tmp_path / f"{method}0", method, GOLD, fold=0)
        write_run(tmp_path / f"{method}1", method, GOLD, fold=1, majority="Other")
    records = [read_run(folder) for folder in sorted(tmp_path.iterdir())]
    folds, scored = read_scored(records, "test")
    found = majority(records, folds)
    assert found.name == "majority (always Exact or Other)"
    assert {key: run.probabilities.argmax(1).tolist() for key, run in found.runs.items()} == {
        (0, 0): [0] * 4,
        (1, 0): [1] * 4,
    }
    assert [(m.name, list(m.runs)) for m in methods(records, scored)] == [
        ("a", [(0, 0), (1, 0)]),
        ("b", [(0, 0), (1, 0)]),
    ]


def test_runs_are_aligned_by_pair_id_not_by_order(tmp_path):
    write_run(tmp_path / "a", "a", "EOOO")
    order = [2, 0, 3, 1]
    write_run(
        tmp_path / "b", "b", "OEOO", gold="OEOE", queries=[("red mug", "mug without handle")[n % 2] for n in order],
        pair_ids=[f"fNone-{n}" for n in order], cut=(0, 0, 0, 9),
    )  # fmt: skip
    records = [read_run(tmp_path / name) for name in "ab"]
    folds, scored = read_scored(records, "test")
    np.testing.assert_array_equal(scored[tmp_path / "a"].probabilities, probabilities("EOOO"))
    np.testing.assert_array_equal(scored[tmp_path / "b"].probabilities, probabilities("EOOO"))
    assert folds[None].label.tolist() == [0, 0, 1, 1]
    assert folds[None].cut.tolist() == [False, True, True, False], "cut in either run"
    assert folds[None].group.tolist() in ([0, 1, 0, 1], [1, 0, 1, 0])
