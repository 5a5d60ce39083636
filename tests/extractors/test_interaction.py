import functools

import torch

from lrkd.extractors import InteractionExtractor, TokenStates
from lrkd.testing import ExtractorContract, example_tokens


class TestInteractionExtractor(ExtractorContract):
    factory = InteractionExtractor


class TestNarrowInteractionExtractor(ExtractorContract):
    factory = staticmethod(functools.partial(InteractionExtractor, intermediate_size=8, dropout=0.5))


def tokens(states, segments):
    segments = torch.tensor([segments])
    return TokenStates(torch.tensor([states]), torch.ones_like(segments, dtype=torch.bool), segments, segments)


def test_features_by_hand():
    # H = 1: the query's tokens 1 and 3 have the mean 2, the item's one is 5, and the special token's 100 is not seen:
    # u = 2, v = 5, |u - v| = 3, u v = 10.
    extractor = InteractionExtractor(1, 4)
    extractor.inner, extractor.outer = torch.nn.Identity(), torch.nn.Identity()
    extractor.eval()
    latent = extractor(tokens([[100.0], [1.0], [3.0], [5.0]], [-1, 0, 0, 1]))
    torch.testing.assert_close(latent, torch.tensor([[[2.0, 5.0, 3.0, 10.0]]]))


def test_a_text_without_a_token_is_the_zero_vector():
    extractor = InteractionExtractor(1, 4)
    extractor.inner, extractor.outer = torch.nn.Identity(), torch.nn.Identity()
    extractor.eval()
    torch.testing.assert_close(extractor(tokens([[100.0], [1.0]], [-1, 0])), torch.tensor([[[1.0, 0.0, 1.0, 0.0]]]))


def test_query_and_item_are_told_apart():
    extractor = InteractionExtractor(8, 4).eval()
    given = example_tokens(2, 9, 8)
    swapped = TokenStates(given.states, given.mask, torch.where(given.segments < 0, -1, 1 - given.segments), given.ids)
    assert not torch.allclose(extractor(given), extractor(swapped))


def test_intermediate_size_and_dropout():
    assert InteractionExtractor(8, 4, intermediate_size=5).inner[1].out_features == 5
    assert InteractionExtractor(8, 4).inner[1].out_features == 8
    extractor, given = InteractionExtractor(8, 4, dropout=0.5), example_tokens(2, 9, 8)
    assert not torch.equal(extractor(given), extractor(given))
    assert torch.equal(extractor.eval()(given), extractor(given))
