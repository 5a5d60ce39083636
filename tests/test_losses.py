"""Guidance losses: hand-derived values, torch as a reference, and what stays finite."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from lrkd.losses import (
    CosineGuidance,
    InfoNCEGuidance,
    MSEGuidance,
    cosine_distance,
    info_nce,
    linear_weight,
    soft_label_divergence,
    squared_error,
)

GUIDANCES = [MSEGuidance("mean"), MSEGuidance("sum"), CosineGuidance(), InfoNCEGuidance()]


@pytest.fixture
def random_batch():
    generator = torch.Generator().manual_seed(0)
    latents, targets = torch.randn(2, 5, 3, 8, generator=generator).unbind()
    return latents, F.normalize(targets, dim=-1)


def test_squared_error_in_both_reductions():  # trap 19
    # r - e = (1, -2, 0, 3): squares 1 + 4 + 0 + 9 = 14, over R = 4 dimensions 3.5; a latent on its target: 0.
    latents = torch.tensor([[[2.0, 0.0, 1.0, 3.0]], [[0.0, 1.0, 0.0, 0.0]]])
    targets = torch.tensor([[[1.0, 2.0, 1.0, 0.0]], [[0.0, 1.0, 0.0, 0.0]]])
    assert squared_error(latents, targets, "sum").tolist() == [[14.0], [0.0]]
    assert squared_error(latents, targets, "mean").tolist() == [[3.5], [0.0]]
    mask = torch.ones(2, 1, dtype=torch.bool)
    assert MSEGuidance("sum")(latents, targets, mask).tolist() == [[14.0], [0.0]]
    assert MSEGuidance("mean")(latents, targets, mask).tolist() == [[3.5], [0.0]]


def test_the_gradient_of_sum_is_width_times_that_of_mean(random_batch):  # trap 19
    latents, targets = random_batch
    gradients = []
    for reduction in ("mean", "sum"):
        leaf = latents.clone().requires_grad_()
        MSEGuidance(reduction)(leaf, targets, torch.ones(5, 3, dtype=torch.bool)).sum().backward()
        gradients.append(leaf.grad)
    torch.testing.assert_close(gradients[1], 8 * gradients[0])
    torch.testing.assert_close(gradients[1], 2 * (latents - targets))


def test_cosine_distance_by_hand():
    # Angles of 0, 90, 180 and 60 degrees; lengths do not count.
    latents = torch.tensor([[2.0, 0.0], [0.0, 5.0], [-1.0, 0.0], [0.5, math.sqrt(0.75)]])
    targets = torch.tensor([[1.0, 0.0]]).expand(4, 2)
    torch.testing.assert_close(cosine_distance(latents, targets), torch.tensor([0.0, 1.0, 2.0, 0.5]))


def test_info_nce_by_hand():
    # Two orthogonal targets, each latent on its own: similarities 1 and 0, at τ = 0.5 the logits 2 and 0:
    # -log(e² / (e² + 1)) = log(1 + e⁻²). Swapped, log(1 + e²).
    targets = torch.eye(2).unsqueeze(1)
    mask = torch.ones(2, 1, dtype=torch.bool)
    torch.testing.assert_close(info_nce(3 * targets, targets, mask, 0.5), torch.full((2, 1), math.log1p(math.exp(-2))))
    torch.testing.assert_close(
        info_nce(targets.flip(0), targets, mask, 0.5), torch.full((2, 1), math.log1p(math.exp(2)))
    )


def test_info_nce_with_negatives_of_other_processes_by_hand():  # trap 20
    # One latent along the second axis. Its own target, the third of four, is along it: similarity 1. The others are
    # at 0 and -1; the last is no target. At τ = 1: -log(e / (1 + 1/e + e)).
    every = torch.tensor([[[1.0, 0.0]], [[0.0, -1.0]], [[0.0, 1.0]], [[0.0, 1.0]]])
    mask = torch.tensor([[True], [True], [True], [False]])
    loss = info_nce(torch.tensor([[[0.0, 3.0]]]), every, mask, 1.0, first=2)
    torch.testing.assert_close(loss, torch.tensor([[math.log(1 + math.exp(-1) + math.exp(1)) - 1]]))


def test_info_nce_of_a_part_is_that_part_of_the_whole(random_batch):  # trap 20
    latents, targets = random_batch
    mask = torch.ones(5, 3, dtype=torch.bool)
    mask[1, 0] = mask[4, 2] = False
    whole = info_nce(latents, targets, mask)
    for first, last in ((0, 2), (2, 5)):
        torch.testing.assert_close(info_nce(latents[first:last], targets, mask, first=first), whole[first:last])


def test_info_nce_is_cross_entropy_within_each_perspective(random_batch):
    latents, targets = random_batch
    loss = info_nce(latents, targets, torch.ones(5, 3, dtype=torch.bool), 0.1)
    for p in range(3):
        logits = F.normalize(latents[:, p], dim=-1) @ targets[:, p].T / 0.1
        torch.testing.assert_close(loss[:, p], F.cross_entropy(logits, torch.arange(5), reduction="none"))


def test_masked_targets_are_no_negatives(random_batch):  # trap 25
    latents, targets = random_batch
    mask = torch.ones(5, 3, dtype=torch.bool)
    mask[1, 0] = mask[4, 0] = mask[2, 1] = False
    kept = [0, 2, 3]
    alone = info_nce(latents[kept, :1], targets[kept, :1], mask[kept, :1])
    loss = info_nce(latents, targets, mask)
    torch.testing.assert_close(loss[kept, :1], alone)
    assert (loss[~mask] == 0).all()


def test_info_nce_with_negatives_of_its_own_by_hand():
    # Two latents, each on its own target of two orthogonal ones; τ = 1, logits 1 and 0. The first has two negatives of
    # its own, at cosine ½ and -1, of which only the first one counts: log(e + 1 + e^½) - 1. The second has none that
    # counts: log(e + 1) - 1. Lengths do not matter.
    targets, mask = torch.eye(2).unsqueeze(1), torch.ones(2, 1, dtype=torch.bool)
    negatives = torch.tensor([[[[0.5, 0.75**0.5], [-1.0, 0.0]]], [[[0.0, 1.0], [0.0, 1.0]]]])
    there = torch.tensor([[[True, False]], [[False, False]]])
    expected = [[math.log(math.e + 1 + math.exp(0.5)) - 1], [math.log(math.e + 1) - 1]]
    for scale in (1, 3):
        loss = info_nce(scale * targets, targets, mask, 1.0, negatives=scale * negatives, negative_mask=there)
        torch.testing.assert_close(loss, torch.tensor(expected))
    guidance = InfoNCEGuidance(1.0)
    assert guidance.contrastive
    assert not MSEGuidance().contrastive
    torch.testing.assert_close(guidance(targets, targets, mask, negatives, there), torch.tensor(expected))


def test_negatives_that_are_not_there_change_nothing(random_batch):
    latents, targets = random_batch
    mask = torch.ones(5, 3, dtype=torch.bool)
    none = torch.zeros(5, 3, 4, dtype=torch.bool)
    leaf = latents.clone().requires_grad_()
    loss = info_nce(leaf, targets, mask, negatives=torch.zeros(5, 3, 4, 8), negative_mask=none)
    torch.testing.assert_close(loss, info_nce(latents, targets, mask))
    loss.sum().backward()
    assert leaf.grad.isfinite().all()


def test_negatives_of_each_perspective_are_seen_by_it_alone(random_batch):
    latents, targets = random_batch
    mask, there = torch.ones(5, 3, dtype=torch.bool), torch.zeros(5, 3, 1, dtype=torch.bool)
    there[2, 1] = True
    loss = info_nce(latents, targets, mask, negatives=targets.unsqueeze(2), negative_mask=there)
    changed = (loss - info_nce(latents, targets, mask)).abs() > 1e-6
    assert changed.nonzero().tolist() == [[2, 1]]


def test_soft_label_divergence_by_hand():  # trap 27
    # q = (¾, ¼), student (½, ½): ¾ ln 1.5 + ¼ ln 0.5. At T = 2, q^(1/2) is as √3 to 1; times T² = 4.
    logits, soft = torch.zeros(1, 2), torch.tensor([[0.75, 0.25]])
    torch.testing.assert_close(
        soft_label_divergence(logits, soft), torch.tensor([0.75 * math.log(1.5) + 0.25 * math.log(0.5)])
    )
    a = math.sqrt(3) / (1 + math.sqrt(3))
    expected = 4 * (a * math.log(2 * a) + (1 - a) * math.log(2 * (1 - a)))
    torch.testing.assert_close(soft_label_divergence(logits, soft, 2.0), torch.tensor([expected]))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_soft_label_divergence_is_torch_s(temperature):
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 6, 4, generator=generator).unbind()
    expected = F.kl_div(
        F.log_softmax(student / temperature, -1), F.softmax(teacher / temperature, -1), reduction="none"
    ).sum(-1)
    value = soft_label_divergence(student, F.softmax(teacher, -1), temperature)
    torch.testing.assert_close(value, temperature**2 * expected)
    torch.testing.assert_close(soft_label_divergence(teacher, F.softmax(teacher, -1), temperature), torch.zeros(6))


def test_one_hot_soft_labels_are_cross_entropy_and_none_is_nothing():
    student = torch.randn(3, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    soft = F.one_hot(torch.tensor([2, 0, 1]), 4).float()
    torch.testing.assert_close(soft_label_divergence(student, soft), F.cross_entropy(student, soft, reduction="none"))
    soft[1] = 0
    value = soft_label_divergence(student, soft, 2.0)
    assert value[1] == 0
    value.sum().backward()
    assert student.grad.isfinite().all()
    assert (student.grad[1] == 0).all()
    teacher = soft.clone().requires_grad_()
    assert not soft_label_divergence(student.detach(), teacher).requires_grad, "teachers are detached"


@pytest.mark.parametrize("guidance", GUIDANCES, ids=repr)
@pytest.mark.parametrize("present", [0, 1, 3])
@pytest.mark.parametrize("latent_scale", [0.0, 1.0])
def test_missing_targets_leave_values_and_gradients_finite(guidance, present, latent_scale, random_batch):  # trap 25
    latents, targets = random_batch
    mask = torch.zeros(5, 3, dtype=torch.bool)
    mask[:present] = True
    targets = targets * mask.unsqueeze(-1)  # as the data module gives them
    leaf = (latent_scale * latents).requires_grad_()
    loss = guidance(leaf, targets, mask)
    assert loss.shape == mask.shape
    assert loss.isfinite().all()
    torch.where(mask, loss, 0).sum().backward()
    assert leaf.grad.isfinite().all()
    assert (leaf.grad[~mask] == 0).all()


@pytest.mark.parametrize("guidance", GUIDANCES, ids=repr)
def test_a_latent_on_its_target_is_a_minimum(guidance, random_batch):
    _, targets = random_batch
    mask = torch.ones(5, 3, dtype=torch.bool)
    shifted = F.normalize(
        targets + 0.1 * torch.randn(targets.shape, generator=torch.Generator().manual_seed(1)), dim=-1
    )
    at, near = guidance(targets, targets, mask).mean(), guidance(shifted, targets, mask).mean()
    assert at < near


@pytest.mark.parametrize(("progress", "weight"), [(0.0, 0.5), (0.25, 0.4), (1.0, 0.1), (-1.0, 0.5), (2.0, 0.1)])
def test_the_weight_runs_on_a_line_and_stays_on_it(progress, weight):
    # From 0.5 to 0.1: a quarter of the way is 0.5 - 0.1.
    assert linear_weight(0.5, 0.1, progress) == pytest.approx(weight)


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="reduction is 'mean' or 'sum', got 'max'"):
        MSEGuidance("max")
    with pytest.raises(ValueError, match="temperature must be above 0, got 0"):
        InfoNCEGuidance(0)
