import pytest
import torch
from torch import nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from lrkd.student.attention_kernel import NAME, attention
from lrkd.student.encoder import load_encoder

MASKS = {
    "none": lambda: None,
    "bool": lambda: (torch.arange(6) < torch.tensor([6, 4, 1])[:, None])[:, None, None].expand(3, 1, 6, 6),
    "float": lambda: torch.randn(3, 1, 6, 6),
}


class Layer(nn.Module):
    is_causal = False


def qkv(**kwargs):
    torch.manual_seed(0)
    return [torch.randn(3, 2, 6, 8, **kwargs) for _ in range(3)]


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("scaling", [None, 0.7])
def test_equals_sdpa_with_its_gradients(mask, scaling):
    ours, theirs = qkv(requires_grad=True), qkv(requires_grad=True)
    mask = MASKS[mask]()
    one, _ = attention(Layer(), *ours, mask, scaling=scaling)
    other, _ = sdpa_attention_forward(Layer(), *theirs, mask, scaling=scaling)
    torch.testing.assert_close(one, other)
    weight = torch.randn_like(one)
    (one * weight).sum().backward()
    (other * weight).sum().backward()
    for mine, reference in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.grad, reference.grad)


def test_a_causal_layer_stays_causal():
    q, k, v = qkv(requires_grad=True)
    causal = Layer()
    causal.is_causal = True
    first = attention(causal, q, k, v, None)[0][:, 0]
    torch.testing.assert_close(first, v[:, :, 0])  # the first token sees itself alone


def test_dropout_keeps_the_expectation():
    q, k, v = qkv(requires_grad=True)
    with torch.no_grad():
        expected, _ = attention(Layer(), q, k, v, None)
    draws = torch.stack([attention(Layer(), q, k, v, None, dropout=0.2)[0] for _ in range(2000)]).detach()
    error = (draws.mean(0) - expected) / (draws.std(0) / 2000**0.5)
    assert float(error.abs().max()) < 5


def test_a_row_that_sees_nothing_is_finite():
    q, k, v = qkv(requires_grad=True)
    out, _ = attention(Layer(), q, k, v, torch.zeros(3, 1, 6, 6, dtype=torch.bool))
    out.sum().backward()
    assert torch.isfinite(out).all()
    assert torch.isfinite(q.grad).all()


@pytest.mark.parametrize("which", ["tiny_encoder", "tiny_roberta"])
def test_the_encoder_uses_it_and_says_what_it_said_with_sdpa(which, request):
    encoder = load_encoder(request.getfixturevalue(which))
    assert encoder.config._attn_implementation == NAME
    ids = torch.randint(5, 100, (3, 12))
    mask = (torch.arange(12) < torch.tensor([12, 7, 3])[:, None]).long()
    for module in encoder.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    ours = encoder(ids, attention_mask=mask).last_hidden_state
    encoder.set_attn_implementation("sdpa")
    theirs = encoder(ids, attention_mask=mask).last_hidden_state
    torch.testing.assert_close(ours[mask.bool()], theirs[mask.bool()])
    assert NAME not in str(encoder.config.to_diff_dict())
