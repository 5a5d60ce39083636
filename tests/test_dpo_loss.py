"""dpo_loss by hand; its equality with TRL's is tested with the teacher."""

import math

import pytest
import torch

from lrkd.losses import dpo_loss


def logps(*values):
    return [torch.tensor([value], dtype=torch.float64, requires_grad=True) for value in values]


def test_sigmoid_by_hand():  # trap 10
    # chosen gains 1, rejected loses 2, so h = 3; beta 0.5: -log sigmoid(1.5) = log(1 + e^-1.5) = 0.201413.
    losses, chosen, rejected = dpo_loss(*logps(-9.0, -12.0, -10.0, -10.0), beta=0.5)
    assert losses.item() == pytest.approx(0.201413, abs=1e-6)
    assert (chosen.item(), rejected.item()) == (0.5, -1.0)


def test_label_smoothing_by_hand():
    # As above with eps 0.1: 0.9 * 0.201413 + 0.1 * (0.201413 + 1.5), for -log sigmoid(-x) = -log sigmoid(x) + x.
    losses, _, _ = dpo_loss(*logps(-9.0, -12.0, -10.0, -10.0), beta=0.5, label_smoothing=0.1)
    assert losses.item() == pytest.approx(0.201413 + 0.15, abs=1e-6)


def test_ipo_by_hand():  # trap 10: on means over tokens
    # h = 0.25 - (-0.5) = 0.75, 1 / (2 beta) = 1: (0.75 - 1)^2 = 0.0625.
    losses, chosen, rejected = dpo_loss(*logps(-0.75, -1.5, -1.0, -1.0), beta=0.5, loss_type="ipo")
    assert losses.item() == pytest.approx(0.0625)
    assert (chosen.item(), rejected.item()) == (0.125, -0.25)


def test_the_first_step():  # trap 7: the policy is the reference
    policy = logps(-9.0, -12.0)
    losses, chosen, rejected = dpo_loss(*policy, *[p.detach() for p in policy], beta=0.1)
    assert losses.item() == pytest.approx(math.log(2), abs=1e-6)
    assert chosen.item() == rejected.item() == 0
    losses.sum().backward()
    # d/dh -log sigmoid(beta h) = -beta / 2 at h = 0.
    assert policy[0].grad.item() == pytest.approx(-0.05)
    assert policy[1].grad.item() == pytest.approx(0.05)


def test_rewards_carry_no_gradient():
    _, chosen, rejected = dpo_loss(*logps(-9.0, -12.0, -10.0, -10.0))
    assert not chosen.requires_grad
    assert not rejected.requires_grad


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"beta": 0.0}, "beta"),
        ({"label_smoothing": 0.5}, "label_smoothing"),
        ({"label_smoothing": 0.1, "loss_type": "ipo"}, "belongs"),
        ({"loss_type": "hinge"}, "hinge"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        dpo_loss(*logps(-1.0, -1.0, -1.0, -1.0), **arguments)
