"""Attention over packed prefix trees equals sdpa with the mask, with its gradients."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from lrkd.data.prefix_tree import PAD_BRANCH, attention_mask
from lrkd.teacher import tree_attention
from lrkd.teacher.tree_attention import Layout, TreeAttention, layout

ROWS = [[3, 4, 2], [5, 1], [0, 3, 3], [2]]
"""Each row's lengths: prefix, then branches."""


def packed(rows, pad=2):
    length = max(map(sum, rows)) + pad
    branch = torch.full((len(rows), length), PAD_BRANCH)
    for row, sizes in enumerate(rows):
        numbers = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
        branch[row, : len(numbers)] = numbers
    return branch


def heads(branch, count, seed, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(*branch.shape, count, 8, generator=generator)
    return x.to(dtype).transpose(1, 2).requires_grad_()


def outcome(function, branch, groups, dtype=torch.float32):
    """What real places get, and the gradients of queries, keys and values."""
    q, k, v = (heads(branch, count, seed, dtype) for seed, count in enumerate((4, groups, groups)))
    out = function(q, k, v) * (branch >= 0)[:, :, None, None]
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(9))
    (out * weights.to(dtype)).sum().backward()
    return [out.detach(), *((x.grad * (branch >= 0)[:, None, :, None]) for x in (q, k, v))]


def by_mask(branch, dtype=torch.float32):
    def function(q, k, v):
        mask = attention_mask(branch)
        out = scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=0.3, enable_gqa=True)
        return out.transpose(1, 2).to(dtype)

    return function


def by_tree(branch):
    return lambda q, k, v: TreeAttention.apply(q, k, v, layout(branch), 0.3)


def test_a_layout_by_hand():
    found = layout(torch.tensor([[0, 0, 1, 2, 2], [0, 1, -1, -1, -1]]))
    assert isinstance(found, Layout)
    prefixes, branches = found.parts
    assert prefixes.query.tolist() == prefixes.key.tolist() == [[0, 1], [5, 6]]
    assert branches.query.tolist() == [[2, 2], [3, 4], [6, 6]]
    assert branches.key.tolist() == [[0, 1, 2, 2], [0, 1, 3, 4], [5, 6, 6, 6]]
    assert (branches.bias == 0).int().tolist() == [
        [[1, 1, 1, 0], [1, 1, 1, 1]],
        [[1, 1, 1, 0], [1, 1, 1, 1]],
        [[1, 0, 1, 0], [1, 0, 1, 1]],
    ]
    # Four places of prefixes, then six of branches; the second row's second place is its branch's.
    assert found.place.tolist() == [0, 1, 4, 6, 7, 2, 8, 0, 0, 0]


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("rows", [ROWS, [[6, 3, 3]], [[0, 4]], [[5]]])
def test_equals_sdpa_with_its_gradients(rows, groups):
    branch = packed(rows)
    ours, theirs = (outcome(function(branch), branch, groups) for function in (by_tree, by_mask))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_pieces_of_the_backward_pass_change_nothing(monkeypatch):
    branch = packed(ROWS)
    whole = outcome(by_tree(branch), branch, 2)
    monkeypatch.setattr(tree_attention, "SCORES", 1)
    for one, other in zip(whole, outcome(by_tree(branch), branch, 2), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)


def test_in_bfloat16_it_is_as_near_to_float32_as_sdpa():
    branch = packed([[60, 40, 50], [70, 30]])
    exact = outcome(by_mask(branch), branch, 2)

    def errors(function):
        found = outcome(function, branch, 2, torch.bfloat16)
        return [float((one.float() - other).norm() / other.norm()) for one, other in zip(found, exact, strict=True)]

    for ours, theirs in zip(errors(by_tree(branch)), errors(by_mask(branch, torch.bfloat16)), strict=True):
        assert ours < 2 * theirs
