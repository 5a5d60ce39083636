"""Several completions over one prefix in one sequence: the prefix is computed once, and nothing else changes.

A row is a tree of depth one: ``prefix | branch 1 | branch 2 | ...``. A branch sees the prefix and itself; its positions
go on where the prefix ends. So every branch has the loss and the gradients that it would have as a sequence of its own
(block mask and position ids; exact up to rounding).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

PAD_BRANCH = -1


@dataclass(frozen=True)
class Branch:
    """What follows a shared prefix: token ids, of which the last ``completion`` ones are learned."""

    ids: list[int]
    completion: int
    """How many of the ids, at the end, are the completion; 1 or more."""


@dataclass(frozen=True)
class PrefixTree:
    """A prefix and its branches."""

    prefix: list[int]
    branches: list[Branch]

    @property
    def length(self) -> int:
        """Tokens in the packed row."""
        return len(self.prefix) + sum(len(branch.ids) for branch in self.branches)

    @property
    def unpacked(self) -> int:
        """Tokens that the branches have as sequences of their own: what a user counts."""
        return sum(len(self.prefix) + len(branch.ids) for branch in self.branches)


@dataclass
class TreeBatch:
    """B packed rows of L places with T completion tokens in S completions."""

    ids: Tensor
    """(B, L) int64."""
    position: Tensor
    """(B, L) int64: a token's place in its own sequence."""
    branch: Tensor
    """(B, L) int64: 0 prefix, 1 and up branches, -1 padding."""
    predictor: Tensor
    """(T,) int64: the place, counted through all rows, whose state predicts the token."""
    target: Tensor
    """(T,) int64: the completion tokens' ids."""
    completion: Tensor
    """(T,) int64: which of the S completions a token belongs to, in the order of the trees and their branches."""

    @property
    def completions(self) -> int:
        """S."""
        return int(self.completion[-1]) + 1 if len(self.completion) else 0


def grow(sequences: Sequence[tuple[list[int], list[int]]], *, most: int | None = None) -> PrefixTree:
    """A tree of the sequences of one pair: what all prompts begin with becomes the prefix.

    Args:
        sequences: Prompt ids and completion ids each; no completion is empty.
        most: Longest prefix that is shared; by default as long as all prompts agree.
    """
    prompts = [prompt for prompt, _ in sequences]
    shortest = min(map(len, prompts)) if most is None else min(most, *map(len, prompts))
    shared = next((i for i in range(shortest) if len({prompt[i] for prompt in prompts}) > 1), shortest)
    branches = [Branch(prompt[shared:] + completion, len(completion)) for prompt, completion in sequences]
    return PrefixTree(prompts[0][:shared], branches)


def collate(trees: Sequence[PrefixTree]) -> TreeBatch:
    """Pack trees into a batch; padding is marked by its branch, never by its id.

    Raises:
        ValueError: A completion has no token, or nothing stands before one.
    """
    length = max(tree.length for tree in trees)
    ids = torch.zeros(len(trees), length, dtype=torch.long)
    position = torch.zeros_like(ids)
    branch = torch.full_like(ids, PAD_BRANCH)
    predictor: list[int] = []
    target: list[int] = []
    completion: list[int] = []
    number = 0
    for row, tree in enumerate(trees):
        start = len(tree.prefix)
        ids[row, :start] = torch.tensor(tree.prefix, dtype=torch.long)
        position[row, :start] = torch.arange(start)
        branch[row, :start] = 0
        place = start
        for count, part in enumerate(tree.branches, 1):
            if not 0 < part.completion <= len(part.ids) or start + len(part.ids) == part.completion:
                raise ValueError("a completion has no token, or no prompt")
            end = place + len(part.ids)
            ids[row, place:end] = torch.tensor(part.ids, dtype=torch.long)
            position[row, place:end] = start + torch.arange(len(part.ids))
            branch[row, place:end] = count
            first = end - part.completion
            before_first = first - 1 if first > place else start - 1
            predictor += [row * length + i for i in (before_first, *range(first, end - 1))]
            target += part.ids[-part.completion :]
            completion += [number] * part.completion
            number += 1
            place = end
    return TreeBatch(
        ids, position, branch, *(torch.tensor(x, dtype=torch.long) for x in (predictor, target, completion))
    )


def attention_mask(branch: Tensor) -> Tensor:
    """Who sees whom.

    Args:
        branch: (B, L) int64, as in :class:`TreeBatch`.

    Returns:
        (B, 1, L, L) bool, True where a query place (third axis) sees a key place. A padding place sees itself alone, so
        that no row of the softmax is empty.
    """
    query, key = branch.unsqueeze(2), branch.unsqueeze(1)
    place = torch.arange(branch.shape[1], device=branch.device)
    earlier = place.unsqueeze(1) >= place
    real = (query != PAD_BRANCH) & (key != PAD_BRANCH)
    seen = (real & earlier & ((key == 0) | (key == query))) | (place.unsqueeze(1) == place)
    return seen.unsqueeze(1)
