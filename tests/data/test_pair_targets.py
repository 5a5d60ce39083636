"""Targets derived by hand in every mode and centring."""

from __future__ import annotations

import numpy as np
import pytest
from target_tables import FINGERPRINT_OF_TESTS, store_of, targets_of

from lrkd.data.targets import TargetStore, normalise
from lrkd.errors import UserError

HALF = np.sqrt(0.5)


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


# Choosing perspectives


@pytest.mark.parametrize(
    ("chosen", "target"), [(["intent"], (1, 0)), (["rule"], (0, 1)), (["rule", "intent"], (HALF, HALF))]
)
def test_only_the_chosen_perspectives_rationales_are_used(chosen, target):
    targets = targets_of(STORE, LABELS, perspectives=chosen)
    np.testing.assert_allclose(targets.batch(np.array([0]))[0][0, 0], target, atol=1e-6)
    assert targets.perspectives == sorted(chosen)
    per_perspective = targets_of(STORE, LABELS, perspectives=chosen, mode="per_perspective")
    assert per_perspective.num_latents == len(chosen)
    assert per_perspective.summary()["perspectives"] == sorted(chosen)


def test_one_perspective_is_the_same_target_in_either_mode():
    found = [
        targets_of(STORE, LABELS, perspectives=["rule"], mode=mode, centring="global").batch(np.arange(4))
        for mode in ("unified", "per_perspective")
    ]
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


@pytest.mark.parametrize("chosen", [[], ["rules"], ["rule", "business"]])
def test_perspectives_that_no_rationale_has_are_refused(chosen):
    with pytest.raises(UserError, match=r"choose from those that the rationales have, \['intent', 'rule'\]"):
        targets_of(STORE, LABELS, perspectives=chosen)


# Whitening


def wide(pairs=400, **settings):
    """Pairs whose rationales spread ten times as far in one direction as in another, round a mean that is far off."""
    rng = np.random.default_rng(0)
    vectors = normalise(np.array([3.0, 0, 0, 0]) + rng.standard_normal((pairs, 4)) * [0.1, 1, 0.5, 0.1])
    rows = [(chr(ord("a") + i), "rule", 0, "Exact", vector) for i, vector in enumerate(vectors)]
    defaults = {"centring": "global", "fit": np.arange(300)}
    return targets_of(store_of(*rows), ["Exact"] * pairs, **defaults | settings)


def placed(targets, rows):
    """The centred, whitened vectors before they are brought to unit length."""
    centred = targets.means(targets.cells(rows).ravel()) - targets.centre[0, 0]
    return centred @ targets.whitening[0]


def test_whitened_training_targets_have_the_identity_as_covariance():
    targets = wide(whitening=1.0)
    white = placed(targets, np.arange(300))
    # The mean and the second moment are those of the training rows, so this is exact, but for float32.
    np.testing.assert_allclose(white.mean(0), 0, atol=1e-4)
    scale = np.diag(white.T @ white / 300)
    kept = np.linalg.eigvalsh(targets._second_moment()[0])
    assert (kept > 0.01 * kept.mean()).all(), "no direction is held back by the floor here"
    np.testing.assert_allclose(white.T @ white / 300, np.eye(4), atol=1e-3)
    np.testing.assert_allclose(scale, 1, atol=1e-3)
    found, mask = targets.batch(np.arange(400))
    assert mask.all()
    np.testing.assert_allclose(found[:300, 0], normalise(white), atol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(found, axis=-1), 1, atol=1e-5)


def test_a_held_out_row_does_not_move_the_whitening():  # trap 36
    matrices = []
    for change in (0, 5):
        targets = wide(whitening=1.0)
        store = targets.store
        store.vectors[300:] += change
        moved = targets_of(store, ["Exact"] * 400, fit=np.arange(300), centring="global", whitening=1.0)
        matrices.append(moved.whitening)
    np.testing.assert_array_equal(*matrices)
    inside = targets_of(store, ["Exact"] * 400, fit=np.arange(301), centring="global", whitening=1.0)
    assert np.abs(inside.whitening - matrices[0]).max() > 1e-2, "a training row does"


def test_half_whitening_lies_between():
    spread = {}
    for power in (0.0, 0.5, 1.0):
        targets = wide(whitening=power)
        white = placed(targets, np.arange(300)) if power else targets.means(np.arange(300)) - targets.centre[0, 0]
        values = np.linalg.eigvalsh(white.T @ white)
        spread[power] = values[-1] / values[0]
    assert spread[1.0] < 1.01
    np.testing.assert_allclose(spread[0.5], np.sqrt(spread[0.0]), rtol=1e-2)  # eigenvalues λ become λ^(1/2)


def test_perspectives_are_whitened_apart():
    targets = random_targets(mode="per_perspective", centring="global", whitening=1.0)
    for p in range(2):
        fit = np.flatnonzero(targets.present[:, p])
        white = (targets.means(targets.cells(fit)[:, p]) - targets.centre[0, p]) @ targets.whitening[p]
        np.testing.assert_allclose(white.T @ white / len(fit), np.eye(8), atol=0.02)


# Shuffled within the label


@pytest.mark.parametrize("mode", ["unified", "per_perspective"])
def test_shuffled_targets_are_another_training_pairs_own(mode):
    plain, shuffled = (random_targets(mode=mode, fit=np.arange(40), shuffle_seed=seed) for seed in (None, 3))
    before, mask = plain.batch(np.arange(60))
    after, same = shuffled.batch(np.arange(60))
    np.testing.assert_array_equal(mask, same)
    np.testing.assert_array_equal(before[40:], after[40:])  # outside training nothing moves
    source = shuffled.source
    np.testing.assert_array_equal(after, before[source])
    assert sorted(source[:40]) == list(range(40))
    moved = mask[:40].any(1)
    assert moved.sum() > 10
    assert (source[:40][~moved] == np.arange(40)[~moved]).all()
    np.testing.assert_array_equal(shuffled.weight_of(np.arange(60)).sum(), plain.weight_of(np.arange(60)).sum())


# Weights


def test_targets_of_perspectives_that_others_contradict_weigh_more():
    # a: intent right, rule right and rule wrong. Beside intent one of two is wrong: share ½. Beside rule there is
    # intent, right: share 0. So unified, the mean over a's kept rationales (intent, rule) is ¼.
    weights = {
        mode: targets_of(STORE, LABELS, mode=mode, conflict_weight=2.0) for mode in ("unified", "per_perspective")
    }
    np.testing.assert_allclose(weights["unified"].weight_of(np.arange(4)), [[1.5], [1], [0], [0]])
    np.testing.assert_allclose(weights["per_perspective"].weight_of(np.arange(2)), [[2, 1], [0, 1]])
    assert weights["unified"].weighted
    plain = targets_of(STORE, LABELS)
    assert not plain.weighted
    np.testing.assert_array_equal(plain.weight_of(np.arange(4)), [[1], [1], [0], [0]])
