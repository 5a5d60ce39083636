"""The graphs' edges on pairs that are small enough to write out."""

import pytest
import torch

from lrkd.errors import UserError
from lrkd.extractors import FullGraph, LexicalGraph, SimilarityGraph, TokenGraph, TokenStates, UnionGraph, WindowGraph
from lrkd.testing import example_tokens, select

# "[CLS] red mug [SEP] blue mug red mug [SEP]" and one pad. Query tokens stand at 1 and 2, item tokens at 4 to 7.
#          place:   0  1  2   3  4  5  6  7   8   9
IDS = torch.tensor([[2, 7, 8, 3, 9, 8, 7, 8, 3, 0]])
SEGMENTS = torch.tensor([[-1, 0, 0, -1, 1, 1, 1, 1, -1, -1]])


def pair(states=None):
    return TokenStates(torch.zeros(1, 10, 2) if states is None else states, IDS > 0, SEGMENTS, IDS)


def edges(graph, tokens=None):
    """Who hears whom, by place: {target: its sources}."""
    adjacency = graph.adjacency(pair() if tokens is None else tokens)
    assert adjacency.dtype == torch.bool
    assert adjacency.shape == (1, 10, 10)
    return {t: row.nonzero()[:, 0].tolist() for t, row in enumerate(adjacency[0]) if row.any()}


def without_loops(found):
    return {t: [s for s in sources if s != t] for t, sources in found.items()}


def test_window_stays_inside_the_segment():
    # Special tokens (0, 3, 8) and the pad (9) neither hear nor are heard; 2 and 4 are two apart, but in two segments.
    assert without_loops(edges(WindowGraph(radius=1))) == {1: [2], 2: [1], 4: [5], 5: [4, 6], 6: [5, 7], 7: [6]}
    assert without_loops(edges(WindowGraph(radius=2))) == {
        1: [2], 2: [1], 4: [5, 6], 5: [4, 6, 7], 6: [4, 5, 7], 7: [5, 6],
    }  # fmt: skip


def test_window_s_default_radius_is_two():
    assert edges(WindowGraph()) == edges(WindowGraph(2)) != edges(WindowGraph(3))


def test_common_words_hear_each_other_across_the_segments_only():
    # "red" (7) stands at 1 and 6, "mug" (8) at 2, 5 and 7; 5 and 7 are both of the item. The separators (3) at 3 and 8
    # are of no segment.
    assert edges(LexicalGraph()) == {1: [6], 2: [5, 7], 5: [2], 6: [1], 7: [2]}


def test_a_token_hears_the_first_of_too_many_equal_words():
    assert edges(LexicalGraph(max_links=1)) == {1: [6], 2: [5], 5: [2], 6: [1], 7: [2]}


def test_pairs_without_a_common_word_have_no_lexical_edge():
    tokens = pair()
    tokens.ids = torch.arange(10)[None]
    assert edges(LexicalGraph(), tokens) == {}


# Directions in degrees; the cosine of two states is that of the angle between them, and lengths play no part.
ANGLES = {1: 0, 2: 100, 4: 10, 5: 40, 6: 80, 7: 200}


def pointing():
    states = torch.zeros(1, 10, 2)
    for place, degrees in ANGLES.items():
        angle = torch.deg2rad(torch.tensor(float(degrees)))
        states[0, place] = (1 + place) * torch.stack([angle.cos(), angle.sin()])
    return pair(states)


def test_similar_tokens_of_the_other_side_are_heard():
    # Angles to 1 (0°): 10, 40, 80, 160 for 4, 5, 6, 7. To 2 (100°): 90, 60, 20, 100.
    assert edges(SimilarityGraph(neighbours=1), pointing()) == {1: [4], 2: [6], 4: [1], 5: [1], 6: [2], 7: [2]}
    # An item token has two query tokens to choose from, so it hears both.
    assert edges(SimilarityGraph(neighbours=2), pointing()) == {
        1: [4, 5], 2: [5, 6], 4: [1, 2], 5: [1, 2], 6: [1, 2], 7: [1, 2],
    }  # fmt: skip


def test_more_neighbours_than_tokens_are_all_of_the_other_side():
    every = {1: [4, 5, 6, 7], 2: [4, 5, 6, 7], 4: [1, 2], 5: [1, 2], 6: [1, 2], 7: [1, 2]}
    assert edges(SimilarityGraph(neighbours=50), pointing()) == every


def test_similarity_carries_no_gradient():
    tokens = pointing()
    tokens.states.requires_grad_()
    assert not SimilarityGraph().adjacency(tokens).requires_grad


def test_full_graph_is_every_real_token():
    assert edges(FullGraph()) == {t: list(range(9)) for t in range(9)}


def test_union_has_the_edges_of_its_parts_each_once():
    assert without_loops(edges(UnionGraph([WindowGraph(radius=1), LexicalGraph()]))) == {
        1: [2, 6], 2: [1, 5, 7], 4: [5], 5: [2, 4, 6], 6: [1, 5, 7], 7: [2, 6],
    }  # fmt: skip


def test_union_takes_the_form_that_checkpoints_keep():
    plain = [
        {"class_path": "lrkd.extractors.WindowGraph", "init_args": {"radius": 1}},
        {"class_path": "lrkd.extractors.LexicalGraph"},
    ]
    assert edges(UnionGraph(plain)) == edges(UnionGraph([WindowGraph(radius=1), LexicalGraph()]))
    nested = {"class_path": "lrkd.extractors.UnionGraph", "init_args": {"graphs": plain}}
    assert edges(UnionGraph([nested])) == edges(UnionGraph(plain))


@pytest.mark.parametrize("graph", [WindowGraph(), LexicalGraph(), SimilarityGraph(), FullGraph()])
def test_padding_and_other_pairs_change_no_edge(graph):  # trap 21
    tokens = example_tokens(4, 15, 8)
    tokens.ids %= 9  # so that query and item have words in common
    together = graph.adjacency(tokens)
    padded = graph.adjacency(select(tokens, slice(None), pads=20))
    real = tokens.mask[:, None] & tokens.mask[:, :, None]
    assert torch.equal(padded[:, :15, :15] & real, together & real)
    for row in range(4):
        alone = graph.adjacency(select(tokens, slice(row, row + 1)))
        assert torch.equal(alone & real[row], together[row : row + 1] & real[row])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: WindowGraph(radius=0), "radius is at least 1, got 0"),
        (lambda: LexicalGraph(max_links=0), "max_links is at least 1, got 0"),
        (lambda: SimilarityGraph(neighbours=0), "neighbours is at least 1, got 0"),
        (lambda: UnionGraph([]), "graphs is empty"),
        (lambda: UnionGraph([{"class_path": "lrkd.extractors.MLPExtractor"}]), "not a subclass of .*TokenGraph"),
        (lambda: UnionGraph([{"class_path": "lrkd.extractors.NoSuchGraph"}]), "cannot import"),
        (lambda: UnionGraph([{"radius": 2}]), "expected {'class_path'"),
    ],
)
def test_mistakes_are_named(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_a_graph_of_one_s_own_needs_an_adjacency():
    class Empty(TokenGraph):
        pass

    with pytest.raises(TypeError, match="adjacency"):
        Empty()
