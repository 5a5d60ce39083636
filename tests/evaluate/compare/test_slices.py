"""Slices by hand, and what is scored on them against scikit-learn."""

import numpy as np
import pyarrow as pa
import pytest
from finished_runs import fold_pairs, probabilities, random_fold, write_root, write_run
from sklearn.metrics import accuracy_score, f1_score

from lrkd.data.types import LabelSet
from lrkd.errors import UserError
from lrkd.evaluate.compare.contenders import Contender
from lrkd.evaluate.compare.pair_fields import PairFields, find_fields
from lrkd.evaluate.compare.scored import FoldPairs, Scored
from lrkd.evaluate.compare.slice_scores import score_slices
from lrkd.evaluate.compare.slices import BrandFinder, Family, families, negation, query_length, verdict_slice
from lrkd.runs import read_run

LABELS = ("Exact", "Other")


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ("mug", "1–2 words"),
        ("red  mug", "1–2 words"),
        ("red mug set", "3–4 words"),
        ("a b c d e f", "5–6 words"),
        ("a b c d e f g", "7 words or more"),
    ],
)
def test_query_length(query, name):
    assert query_length(query) == name


@pytest.mark.parametrize(
    ("query", "negated"),
    [
        ("mug without handle", True),
        ("mug WITHOUT handle", True),
        ("mug w/o handle", True),
        ("no-sugar gum", True),
        ("shoes that don't slip", True),
        ("shoes that don’t slip", True),
        ("not too hot", True),
        ("notebook", False),
        ("nonstick pan", False),
        ("knot", False),
        ("casino", False),
    ],
)
def test_negation(query, negated):
    assert negation(query) == ("negated" if negated else "not negated")


@pytest.mark.parametrize(
    ("query", "brand", "name"),
    [
        ("nike shoes", "Nike", "the item's brand"),
        ("NIKE shoes", "nike", "the item's brand"),
        ("adidas shoes", "Nike", "another brand"),
        ("the north face jacket", "The North Face", "the item's brand"),
        ("north face jacket", "The North Face", "no brand"),
        ("snikers", "Nike", "no brand"),
        ("nike shoes", None, "another brand"),
        ("l'oreal shampoo", "L'Oreal", "the item's brand"),
    ],
)
def test_brand_in_the_query(query, brand, name):
    finder = BrandFinder(["Nike", "Adidas", "The North Face", "L'Oreal", "™"])
    assert finder(query, brand) == name


@pytest.mark.parametrize(
    ("verdicts", "name"),
    [
        ((), None),
        (("Exact",), "a single verdict"),
        (("Exact", "Exact"), "agree, right"),
        (("Other", "Other"), "agree, wrong"),
        (("Other", "Exact", "Other"), "conflict, right"),
        (("Other", "Third"), "conflict, wrong"),
    ],
)
def test_verdicts(verdicts, name):
    assert verdict_slice(verdicts, "Exact") == name


def fields(**changes):
    nothing = {"brand": {}, "locale": {}, "source": {}, "verdicts": {}, "brands": frozenset()}
    return PairFields(root="data", **nothing | changes)


PAIRS = fold_pairs(
    [0, 1, 0, 1], [0, 0, 1, 1], queries=("red mug", "cup no lid", "red mug", "cup no lid"), cut=[0, 1, 0, 0]
)


def test_families_divide_the_pairs():
    made, left_out = families(
        {None: PAIRS},
        fields(
            locale={"0": "us", "1": "us", "2": "es"},
            source=dict.fromkeys("0123", "deep"),
            verdicts={"0": ["Exact", "Other"], "1": ["Other", "Other"]},
        ),
        LABELS,
    )
    found = {family.name: (family.order, family.values[None]) for family in made}
    assert found == {
        "query length": (("1–2 words", "3–4 words"), ["1–2 words", "3–4 words"] * 2),
        "negation": (("negated", "not negated"), ["not negated", "negated"] * 2),
        "tokens cut": (("cut", "whole"), ["whole", "cut", "whole", "whole"]),
        "locale": (("es", "not given", "us"), ["us", "us", "es", "not given"]),
        "rationale": (("with a rationale", "without"), ["with a rationale"] * 2 + ["without"] * 2),
        "teacher's verdicts": (("agree, wrong", "conflict, right"), ["conflict, right", "agree, wrong", None, None]),
    }
    assert left_out == ["brand in the query: no pair has it", "source: all pairs are “deep”"]


def test_a_field_of_many_values_keeps_the_frequent_ones():
    pairs = fold_pairs(np.arange(30), np.zeros(30, int))
    sources = {str(n): f"s{n if n < 10 else n % 3}" for n in range(30)}
    made, _ = families({None: pairs}, fields(source=sources), LABELS)
    (family,) = [family for family in made if family.name == "source"]
    assert len(family.order) == 8
    assert family.order[-1] == "3 others"
    assert {"s0", "s1", "s2"} < set(family.order)
    assert family.values[None].count("3 others") == 3


def test_scores_are_those_of_all_runs_together():
    """Two folds, two seeds in one of them: one F1 over everything that the method said on the slice."""
    folds, runs, values = {}, {}, {}
    for fold in (0, 1):
        folds[fold], found = random_fold(fold, queries=30)
        runs[fold, 0] = Scored(found, 1.0, 1.0)
        values[fold] = ["low" if group % 3 else "high" for group in folds[fold].group]
    runs[1, 1] = Scored(np.roll(runs[1, 0].probabilities, 1, axis=1), 1.0, 1.0)
    family = Family("made up", "how", values, ("high", "low"))
    table = score_slices(family, [Contender("a", runs)], folds, 3, 400, 0)
    for place, name in enumerate(family.order):
        gold, said = [], []
        for (fold, _), scored in runs.items():
            rows = np.array(values[fold]) == name
            gold += folds[fold].label[rows].tolist()
            said += scored.probabilities.argmax(1)[rows].tolist()
        f1 = f1_score(gold, said, labels=range(3), average="macro", zero_division=0)
        assert table.scores["a"]["macro_f1"][place].mean == pytest.approx(f1)
        accuracy = table.scores["a"]["accuracy"][place]
        assert accuracy.mean == pytest.approx(accuracy_score(gold, said))
        assert accuracy.interval.low < accuracy.mean < accuracy.interval.high
    sizes = [sum(values[fold].count(name) for fold in folds) for name in family.order]
    assert [part.pairs for part in table.slices] == sizes, "pairs, however many seeds"
    assert [part.queries for part in table.slices] == [20, 40]


def test_small_slices_are_flagged_and_those_that_a_resample_misses_have_no_interval():
    pairs, found = random_fold(0, queries=40)
    values = {None: ["rare" if group == 1 else "common" for group in pairs.group]}
    family = Family("made up", "how", values, ("common", "rare"))
    runs = {(None, 0): Scored(found, 1.0, 1.0)}
    table = score_slices(family, [Contender("a", runs)], {None: pairs}, 3, 300, 0)
    assert [part.small for part in table.slices] == [False, True]
    common, rare = table.scores["a"]["accuracy"]
    assert common.interval is not None
    assert rare.interval is None
    assert 0 <= rare.mean <= 1


ROWS = [
    {"pair_id": "a", "query": "red mug", "label": "Exact", "brand": "Acme", "locale": "us", "source": "deep"},
    {"pair_id": "b", "query": "red mug", "label": "Other", "locale": "us"},
]


def test_fields_come_from_the_root_that_the_runs_name(tmp_path):
    digest = write_root(tmp_path / "data", ROWS, [("a", ["Exact", "Other"])])
    run = read_run(write_run(tmp_path / "run", "a", "EOOO", root=tmp_path / "data", fingerprint=digest))
    found, missing = find_fields([run], None, LabelSet("toy", LABELS, (1, 0)))
    assert missing is None
    assert (found.brand, found.locale, found.source) == ({"a": "Acme"}, {"a": "us", "b": "us"}, {"a": "deep"})
    assert found.verdicts == {"a": ["Exact", "Other"]}
    assert found.brands == {"Acme"}


def test_a_root_that_is_gone_or_another_gives_no_fields(tmp_path):
    labels = LabelSet("toy", LABELS, (1, 0))
    run = read_run(write_run(tmp_path / "run", "a", "EOOO", root=tmp_path / "data"))
    found, missing = find_fields([run], None, labels)
    assert found is None
    assert f"the data root {tmp_path / 'data'} is not there" in missing
    write_root(tmp_path / "data", ROWS)
    found, missing = find_fields([run], None, labels)
    assert found is None
    assert "are no longer those that the runs were fitted on" in missing
    with pytest.raises(UserError, match=r"--root .*: its pairs are not those"):
        find_fields([run], tmp_path / "data", labels)
    with pytest.raises(UserError, match="no such file"):
        find_fields([run], tmp_path / "nowhere", labels)


def test_a_pair_without_a_slice_counts_in_none():
    pairs = FoldPairs(pa.array(["a", "b"]), ("q", "q"), np.array([0, 0]), np.array([0, 1]), np.zeros(2, bool))
    family = Family("made up", "how", {None: ["in", None]}, ("in", "out"))
    runs = {(None, 0): Scored(probabilities("EE"), 1.0, 1.0)}
    table = score_slices(family, [Contender("a", runs)], {None: pairs}, 2, 100, 0)
    assert [(part.pairs, part.queries) for part in table.slices] == [(1, 1), (0, 0)]
    assert table.scores["a"]["accuracy"][0].mean == 1
    assert np.isnan(table.scores["a"]["accuracy"][1].mean)
