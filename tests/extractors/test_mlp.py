import functools

import torch

from lrkd.extractors import MLPExtractor, TokenStates
from lrkd.testing import ExtractorContract


class TestMLPExtractor(ExtractorContract):
    factory = MLPExtractor


class TestNarrowMLPExtractor(ExtractorContract):
    factory = staticmethod(functools.partial(MLPExtractor, intermediate_size=8, dropout=0.5))


def tokens(states):
    states = torch.tensor(states)
    shape = states.shape[:2]
    return TokenStates(states, torch.ones(shape, dtype=torch.bool), torch.zeros(shape), torch.zeros(shape))


def test_latent_by_hand():
    # H = 2, one intermediate unit, R = 1. LayerNorm of [0, 2] is [-1, 1] (mean 1, sd 1), of [4, 0] it is [1, -1].
    # W1 = [1, 3] gives 2 and -2; gelu(2) = 1.9545, gelu(-2) = -0.0455, mean 0.9545; W2 = 10, b2 = 0.5: 10.045.
    extractor = MLPExtractor(2, 1, intermediate_size=1, dropout=0.0)
    with torch.no_grad():
        extractor.inner[1].weight.copy_(torch.tensor([[1.0, 3.0]]))
        extractor.inner[1].bias.zero_()
        extractor.outer.weight.fill_(10.0)
        extractor.outer.bias.fill_(0.5)
    latent = extractor(tokens([[[0.0, 2.0], [4.0, 0.0]]]))
    torch.testing.assert_close(latent, torch.tensor([[[10.045]]]), atol=1e-3, rtol=0)


def test_dropout_acts_in_training_only():
    extractor = MLPExtractor(8, 4, dropout=0.5)
    states = tokens(torch.randn(2, 3, 8).tolist())
    assert not torch.equal(extractor(states), extractor(states))
    extractor.eval()
    assert torch.equal(extractor(states), extractor(states))


def test_intermediate_size_is_the_inner_width():
    assert MLPExtractor(8, 4, intermediate_size=5).inner[1].out_features == 5
    assert MLPExtractor(8, 4).inner[1].out_features == 8
