"""The target store, and targets derived by hand in every mode and centring."""

from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import pyarrow as pa
import pytest

from lrkd.data.rationales import read_rationales
from lrkd.data.targets import FINGERPRINT, INDEX, VECTORS, Fingerprint, Targets, TargetStore, normalise
from lrkd.errors import UserError

HALF = np.sqrt(0.5)
FINGERPRINT_OF_TESTS = Fingerprint("made up", "w", "mean", True, 64, "float32", "{rationale}", "r")


def store_of(*rows):
    """A store in memory; a row is (pair_id, perspective, sample, verdict, vector)."""
    names = ("pair_id", "perspective", "sample", "verdict")
    index = pa.table({name: [row[i] for row in rows] for i, name in enumerate(names)})
    return TargetStore(np.array([row[4] for row in rows], np.float32), index, FINGERPRINT_OF_TESTS)


def targets_of(store, labels, query=None, fit=None, **settings):
    """Targets of the pairs a, b, c, ... with these labels; all of them train, each with a query of its own."""
    pairs = [chr(ord("a") + i) for i in range(len(labels))]
    every = np.arange(len(pairs))
    return Targets(
        store,
        pa.array(pairs),
        pa.array(labels, pa.string()),
        every if query is None else np.array(query),
        every if fit is None else np.array(fit),
        **{"mode": "unified", "consistent": True, "centring": "none"} | settings,
    )


LABELS = ["Exact", "Substitute", "Exact", None]  # of a, b, c, d
STORE = store_of(
    ("b", "rule", 0, "Substitute", (0.6, 0.8)),
    ("a", "intent", 0, "Exact", (1, 0)),
    ("a", "rule", 1, "Irrelevant", (-1, 0)),
    ("elsewhere", "rule", 0, "Exact", (1, 0)),
    ("d", "intent", 0, "Exact", (0, -1)),
    ("a", "rule", 0, "Exact", (0, 1)),
)


def test_unified_is_the_mean_of_the_consistent_rationales_at_unit_length():
    # a: (1, 0) and (0, 1), mean (½, ½). b: its one. c has none. d has no gold label that a verdict could agree with.
    found, mask = targets_of(STORE, LABELS).batch(np.arange(4))
    assert mask.tolist() == [[True], [True], [False], [False]]
    np.testing.assert_allclose(found[:, 0], [[HALF, HALF], [0.6, 0.8], [0, 0], [0, 0]], atol=1e-6)


def test_without_the_consistency_filter_every_rationale_counts():
    # a: (1, 0) + (0, 1) + (-1, 0) = (0, 1).
    found, mask = targets_of(STORE, LABELS, consistent=False).batch(np.arange(4))
    assert mask.tolist() == [[True], [True], [False], [True]]
    np.testing.assert_allclose(found[:, 0], [[0, 1], [0.6, 0.8], [0, 0], [0, -1]], atol=1e-6)


@pytest.mark.parametrize(("consistent", "rule_of_a"), [(True, (0, 1)), (False, (-HALF, HALF))])
def test_per_perspective_has_one_target_each_in_alphabetical_order(consistent, rule_of_a):
    # Without the filter a's rule is the mean of (0, 1) and (-1, 0).
    targets = targets_of(STORE, LABELS, mode="per_perspective", consistent=consistent)
    found, mask = targets.batch(np.array([1, 0]))
    assert targets.perspectives == ["intent", "rule"]
    assert mask.tolist() == [[False, True], [True, True]]
    np.testing.assert_allclose(found, [[(0, 0), (0.6, 0.8)], [(1, 0), rule_of_a]], atol=1e-6)


def test_the_summary_counts_what_was_used():
    assert targets_of(STORE, LABELS).summary() == {
        "rationales": 6,
        "used": 3,
        "of_unknown_pairs": 1,
        "training_pairs_with_target": 2,
        "perspectives": ["intent", "rule"],
    }


def test_a_pairs_target_does_not_depend_on_the_stores_order():  # joins go by key
    order = [3, 5, 0, 4, 1, 2]
    shuffled = TargetStore(STORE.vectors[order], STORE.index.take(order), FINGERPRINT_OF_TESTS)
    for mode in ("unified", "per_perspective"):
        found = [targets_of(s, LABELS, mode=mode).batch(np.arange(4))[0] for s in (STORE, shuffled)]
        np.testing.assert_allclose(*found, atol=1e-7)


# Centring. Three pairs with one rationale each: a (1, 0), b (0, 1), c (0, -1).

PLAIN = store_of(*(((p, "rule", 0, "Exact", v)) for p, v in zip("abc", [(1, 0), (0, 1), (0, -1)], strict=True)))


def test_global_centring_takes_off_the_mean_of_the_training_pairs():  # trap 36
    # Only a and b train: the mean is (½, ½). a: (½, -½). b: (-½, ½). c: (-½, -1½), of length √2.5.
    found, _ = targets_of(PLAIN, ["Exact"] * 3, fit=[0, 1], centring="global").batch(np.arange(3))
    np.testing.assert_allclose(
        found[:, 0], [[HALF, -HALF], [-HALF, HALF], np.array([-0.5, -1.5]) / np.sqrt(2.5)], atol=1e-6
    )


@pytest.mark.parametrize("centring", ["global", "query"])
def test_pairs_outside_training_do_not_move_training_targets(centring):  # trap 36
    other = store_of(*(((p, "rule", 0, "Exact", v)) for p, v in zip("abc", [(1, 0), (0, 1), (0.6, 0.8)], strict=True)))
    found = [
        targets_of(s, ["Exact"] * 3, query=[0, 0, 1], fit=[0, 1], centring=centring).batch(np.arange(2))[0]
        for s in (PLAIN, other)
    ]
    np.testing.assert_array_equal(*found)


def test_query_centring_shrinks_the_querys_mean_towards_the_global_one():
    # All train: the global mean g is (⅓, 0). Query 0 (a, b): ((1, 1) + g) / 3 = (4/9, 3/9).
    # a: (5, -3) / 9; b: (-4, 6) / 9. Query 1 (c alone): ((0, -1) + g) / 2 = (1/6, -1/2); c: (-1/6, -1/2).
    found, _ = targets_of(PLAIN, ["Exact"] * 3, query=[0, 0, 1], centring="query").batch(np.arange(3))
    expected = normalise(np.array([[5.0, -3], [-4, 6], [-1, -3]]))
    np.testing.assert_allclose(found[:, 0], expected, atol=1e-6)
    alone, _ = targets_of(PLAIN, ["Exact"] * 3, centring="global").batch(np.array([2]))
    np.testing.assert_allclose(found[2:], alone, atol=1e-6)  # a query of one pair: as if centred globally


def test_perspectives_are_centred_apart():
    # Of intent only a has a target, so its centre is that target; of rule the mean of b's and a's.
    targets = targets_of(STORE, LABELS, mode="per_perspective", centring="global")
    np.testing.assert_allclose(targets.centre[0], [(1, 0), (0.3, 0.9)], atol=1e-6)


def test_a_pair_without_target_does_not_move_the_mean():
    # c has no rationale: the mean is of two targets, not of three.
    centre = targets_of(STORE, LABELS, centring="global").centre[0, 0]
    np.testing.assert_allclose(centre, [(HALF + 0.6) / 2, (HALF + 0.8) / 2], atol=1e-6)


def random_targets(pairs=60, **settings):
    rng = np.random.default_rng(0)
    rows = [
        (chr(ord("a") + i), perspective, sample, str(rng.choice(["Exact", "Irrelevant"])), vector)
        for i in range(pairs)
        for perspective in ("intent", "rule")
        for sample in range(rng.integers(0, 3))
        for vector in [rng.standard_normal(8)]
    ]
    return targets_of(store_of(*rows), ["Exact"] * pairs, query=rng.integers(0, 9, pairs), **settings)


@pytest.mark.parametrize("mode", ["unified", "sampled", "per_perspective"])
@pytest.mark.parametrize("centring", ["none", "global", "query"])
@pytest.mark.parametrize("consistent", [True, False])
def test_targets_have_unit_length_and_missing_ones_are_zero_and_masked(mode, centring, consistent):  # trap 25
    targets = random_targets(mode=mode, centring=centring, consistent=consistent)
    found, mask = targets.batch(np.arange(60))
    assert found.dtype == np.float32
    assert found.shape == (60, targets.num_latents, 8)
    np.testing.assert_allclose(np.linalg.norm(found, axis=-1), mask.astype(float), atol=1e-5)
    assert 0 < mask.sum() < mask.size
    np.testing.assert_array_equal(mask, targets.present)


@pytest.mark.parametrize("mode", ["unified", "sampled", "per_perspective"])
def test_a_rows_target_is_the_same_in_any_batch(mode):  # trap 20
    targets = random_targets(mode=mode, centring="query")
    whole, _ = targets.batch(np.arange(60), epoch=3, seed=1)
    order = np.random.default_rng(1).permutation(60)
    for rows in np.split(order, [1, 8, 30]):
        np.testing.assert_array_equal(targets.batch(rows, epoch=3, seed=1)[0], whole[rows])


# Sampling. Each pair has three rationales, the unit vectors of three axes: the target tells which was drawn.

AXES = store_of(*((chr(ord("a") + i), "rule", s, "Exact", np.eye(3)[s]) for i in range(200) for s in range(3)))


def drawn(epoch, seed=0):
    found, _ = targets_of(AXES, ["Exact"] * 200, mode="sampled").batch(np.arange(200), epoch, seed)
    assert (found.max(-1) == 1).all()
    return found[:, 0].argmax(-1)


def test_draws_are_uniform_over_a_pairs_rationales():
    # 6000 draws: each share has a standard deviation of √(2/9 / 6000) = 0.006.
    shares = np.bincount(np.concatenate([drawn(epoch) for epoch in range(30)]), minlength=3) / 6000
    np.testing.assert_allclose(shares, 1 / 3, atol=0.025)


def test_draws_of_different_epochs_and_seeds_are_independent():
    # Two independent draws agree in a third of the cases; over 200 pairs with a standard deviation of 0.033.
    base = drawn(0)
    for other in (drawn(1), drawn(2), drawn(0, seed=1), drawn(1, seed=1)):
        assert (base == other).mean() == pytest.approx(1 / 3, abs=0.12)
    np.testing.assert_array_equal(base, drawn(0))


def test_only_consistent_rationales_are_drawn():
    targets = targets_of(STORE, LABELS, mode="sampled")
    seen = {tuple(targets.batch(np.array([0]), epoch)[0][0, 0].tolist()) for epoch in range(40)}
    assert seen == {(1, 0), (0, 1)}


# The store on disk


def test_a_store_opens_with_what_it_holds(tiny_targets, tiny_root):
    store = TargetStore.open(tiny_targets)
    rationales = read_rationales(tiny_root)
    assert (store.width, len(store.vectors)) == (8, rationales.num_rows)
    assert isinstance(store.vectors, np.memmap)
    store.check_rationales(rationales, tiny_targets)


@pytest.mark.parametrize("missing", [FINGERPRINT, INDEX, VECTORS])
def test_an_unfinished_store_is_refused(missing, tiny_targets, tmp_path):  # trap 45
    shutil.copytree(tiny_targets, tmp_path / "targets")
    (tmp_path / "targets" / missing).unlink()
    with pytest.raises(UserError, match=r"no target store|unfinished"):
        TargetStore.open(tmp_path / "targets")


@pytest.mark.parametrize("vectors", [np.zeros((3, 8), np.float32), np.zeros((52, 8), np.float16), np.zeros(52, "f4")])
def test_vectors_that_do_not_fit_index_and_fingerprint_are_refused(vectors, tiny_targets, tmp_path):  # trap 45
    shutil.copytree(tiny_targets, tmp_path / "targets")
    np.save(tmp_path / "targets" / VECTORS, vectors)
    with pytest.raises(UserError, match=r"index.parquet has 52 rows and fingerprint.json says float32"):
        TargetStore.open(tmp_path / "targets")


@pytest.mark.parametrize("content", ["{", '{"encoder": "x"}', "[]"])
def test_a_broken_fingerprint_is_named(content, tiny_targets, tmp_path):
    shutil.copytree(tiny_targets, tmp_path / "targets")
    (tmp_path / "targets" / FINGERPRINT).write_text(content)
    with pytest.raises(UserError, match="not a target store's fingerprint"):
        TargetStore.open(tmp_path / "targets")


def changed_text(table):
    return table.set_column(table.column_names.index("rationale"), "rationale", pa.array(["x"] * table.num_rows))


@pytest.mark.parametrize(
    "change",
    [changed_text, lambda table: table.slice(1), lambda table: table.take(list(reversed(range(table.num_rows))))],
    ids=["text", "one less", "order"],
)
def test_other_rationales_are_refused(change, tiny_targets, tiny_root):  # trap 45
    with pytest.raises(UserError, match="made from other rationales"):
        TargetStore.open(tiny_targets).check_rationales(change(read_rationales(tiny_root)), tiny_targets)


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Fingerprint)])
def test_fingerprints_differ_by_every_field_but_the_encoders_name(field):  # trap 45
    settings = json.loads(json.dumps(dataclasses.asdict(FINGERPRINT_OF_TESTS)))
    other = Fingerprint(**settings | {field: "other"})
    assert bool(FINGERPRINT_OF_TESTS.differences(other)) == (field != "encoder")
    assert FINGERPRINT_OF_TESTS.differences(Fingerprint(**settings)) == []
