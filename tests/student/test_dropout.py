import pytest
import torch
from torch import nn

from lrkd.student.dropout import Dropout, fast_dropout, replace_dropout


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_drops_the_share_that_is_asked_for_and_scales_the_rest(dtype, p):
    torch.manual_seed(0)
    x = torch.ones(501, 403, dtype=dtype)
    y = fast_dropout(x, p)
    kept = y != 0
    spread = (p * (1 - p) / x.numel()) ** 0.5
    assert abs(float(kept.double().mean()) - (1 - p)) < 5 * spread + 2**-16
    assert y.dtype == dtype
    # p is rounded to 2^-15, so the scale is 1/(1-p) to that precision, and then to the type's.
    expected = torch.full_like(y[kept], 1 / (1 - p))
    torch.testing.assert_close(y[kept], expected, rtol=max(1e-3, torch.finfo(dtype).eps), atol=0)


def test_elements_are_dropped_independently():
    # Correlations of n independent pairs have a standard deviation of 1/sqrt(n): 1e-3 here.
    torch.manual_seed(0)
    kept = (fast_dropout(torch.ones(1000, 1000), 0.3) != 0).float()
    kept -= kept.mean()
    again = (fast_dropout(torch.ones(1000, 1000), 0.3) != 0).float()
    again -= again.mean()
    for other in (kept.roll(1, 1), kept.roll(2, 1), kept.roll(4, 1), kept.roll(1, 0), again):
        assert abs(float((kept * other).mean() / kept.var())) < 5e-3


def test_the_gradient_passes_where_the_value_did():
    x = torch.randn(30, 7, requires_grad=True)
    y = fast_dropout(x, 0.4)
    y.backward(torch.full_like(y, 3.0))
    torch.testing.assert_close(x.grad, torch.where(y == 0, 0.0, 3.0 / 0.6), rtol=1e-4, atol=0)
    torch.testing.assert_close(y, torch.where(y == 0, 0.0, x / 0.6), rtol=1e-4, atol=0)


def test_a_transposed_tensor_is_dropped_too():
    y = fast_dropout(torch.ones(64, 32).T, 0.5)
    assert y.shape == (32, 64)
    assert 0.3 < float((y != 0).float().mean()) < 0.7


def test_torchs_seed_decides():
    x = torch.ones(100)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    one, two = fast_dropout(x, 0.5), fast_dropout(x, 0.5)
    torch.set_rng_state(state)
    assert torch.equal(fast_dropout(x, 0.5), one)
    assert not torch.equal(one, two)


def test_the_ends_of_the_range():
    x = torch.randn(1000)
    assert torch.equal(fast_dropout(x, 0.0), x)
    assert not fast_dropout(x, 1.0).any()
    assert (fast_dropout(x.double(), 0.5) == 0).any()


def test_every_dropout_inside_is_replaced_and_evaluation_is_the_identity():
    module = nn.ModuleDict({"a": nn.Dropout(0.2), "b": nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.3))})
    replace_dropout(module)
    found = [child for child in module.modules() if isinstance(child, nn.Dropout)]
    assert [(type(child), child.p) for child in found] == [(Dropout, 0.2), (Dropout, 0.3)]
    x = torch.randn(100)
    assert (found[0](x) == 0).any()
    assert torch.equal(found[0].eval()(x), x)
