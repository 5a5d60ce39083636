"""Decoding in process: many prompts at a time, with what a pair's prompts share computed and kept once.

Groups of prompts (a pair's) wait, longest first, until there is room; when a group is done, another takes its row, so
that the model always has a full batch. Only tokens that are still written go through the model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lrkd.generation.jobs import Sampling
from lrkd.generation.sampling import choose, job_draws
from lrkd.generation.tree_cache import NOBODY, Places, TreeCache, aligned, forward, tree_attention

if TYPE_CHECKING:
    from transformers import PreTrainedModel

BRANCHES = 16
"""Completions of a tree at most: a token's attention passes over the places of its tree's other branches."""
PREFILL = 4096
"""Prompt tokens of a step, unless one tree has more."""
ROOM = 8
"""New trees are fetched when this part of the token budget (an eighth) is free, not one at a time."""


@dataclass(frozen=True)
class Decoded:
    """A completion."""

    index: int
    """Which of the prompts."""
    ids: list[int]
    """Without the end token."""
    finished: bool
    """Whether the end token came, and not the token limit."""


@dataclass(eq=False)
class _Branch:
    """A completion that is being written."""

    index: int
    seed: int
    parent: int
    node: int
    position: int
    """Of the next token."""
    draws: list[int] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)


@dataclass(eq=False)
class _Tree:
    """The prompts of a group: distinct ones, packed behind what they share."""

    ids: list[int]
    nodes: list[int]
    positions: list[int]
    predictors: list[int]
    """The place of each branch's last prompt token."""
    branches: list[_Branch]
    row: int = NOBODY
    columns: int = 0
    """Columns of the row that are taken."""

    def most(self, sampling: Sampling) -> int:
        """Columns that it may need."""
        return len(self.ids) + len(self.branches) * sampling.max_new_tokens


def decode(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    *,
    groups: Sequence[int],
    end: int,
    sampling: Sampling,
    seeds: Sequence[int],
    token_budget: int = 32_768,
) -> Iterator[Decoded]:
    """Write a completion for every prompt.

    A completion is that which the prompt alone would get, up to rounding: it depends neither on the other prompts, nor
    on the order, the groups or the budget. torch's global generator is not used; between two completions the model is
    as it was before (attention, train or eval mode of every module).

    Args:
        model: A causal language model with sdpa attention, with or without adapters; autocast may be on.
        prompts: P prompts' ids, none empty.
        groups: (P,) prompts with the same number share the computation of what they all begin with.
        end: The id that ends a completion.
        sampling: How tokens are chosen.
        seeds: (P,) one a prompt: what is drawn.
        token_budget: Tokens whose keys and values may be kept at a time, reckoned with completions of full length; a
            single group may need more.

    Yields:
        A completion as soon as it is there, in any order; every prompt's exactly once.

    Raises:
        ValueError: A prompt is empty, or the model's attention is not sdpa's over keys and values.
    """
    if not all(prompts):
        raise ValueError(f"prompt {next(i for i, prompt in enumerate(prompts) if not prompt)} has no token")
    members: dict[int, list[int]] = {}
    for index, group in enumerate(groups):
        members.setdefault(group, []).append(index)
    parts = [part[i : i + BRANCHES] for part in members.values() for i in range(0, len(part), BRANCHES)]
    trees = [_grow(part, prompts, seeds) for part in parts]
    trees.sort(key=lambda tree: -tree.most(sampling))
    decoder = _Decoder(model, trees, end, sampling, token_budget)
    while decoder.waiting or decoder.trees:
        yield from decoder.step()


def _grow(part: list[int], prompts: Sequence[Sequence[int]], seeds: Sequence[int]) -> _Tree:
    """The tree of some prompts of a group; equal prompts are one node."""
    distinct = list(dict.fromkeys(tuple(prompts[i]) for i in part))
    shortest = min(map(len, distinct))
    shared = next((i for i in range(shortest) if len({prompt[i] for prompt in distinct}) > 1), shortest)
    tree = _Tree(list(distinct[0][:shared]), [0] * shared, list(range(shared)), [], [])
    node_of = {prompt: node for node, prompt in enumerate(distinct, 1)}
    last = {}
    for prompt, node in node_of.items():
        own = prompt[shared:]
        tree.ids += own
        tree.nodes += [node] * len(own)
        tree.positions += range(shared, len(prompt))
        last[prompt] = len(tree.ids) - 1 if own else shared - 1
    for number, index in enumerate(part, len(distinct) + 1):
        prompt = tuple(prompts[index])
        tree.predictors.append(last[prompt])
        tree.branches.append(_Branch(index, seeds[index], node_of[prompt], number, len(prompt)))
    return tree


class _Decoder:
    """The trees that are being written, the cache's rows that they hold, and those that wait."""

    def __init__(
        self, model: PreTrainedModel, trees: list[_Tree], end: int, sampling: Sampling, token_budget: int
    ) -> None:
        self.model, self.end, self.sampling, self.budget = model, end, sampling, token_budget
        self.device = model.device
        self.waiting = trees[::-1]
        self.trees: list[_Tree] = []
        self.cache = TreeCache(self.device)

    @torch.no_grad()
    def step(self) -> list[Decoded]:
        """A token for every branch; returns the completions that it ended."""
        with tree_attention(self.model):
            done = [found for chunk in self._admit() for found in self._prefill(chunk)]
            if self.trees:
                self._compact()
                done += self._write()
        return done

    def _admit(self) -> Iterator[list[_Tree]]:
        """The waiting trees that there is room for, in chunks."""
        if not self.waiting:
            return
        most = max(tree.most(self.sampling) for tree in [*self.trees, self.waiting[-1]])
        room = max(1, self.budget // most)  # trees; those that wait need no more than the longest here
        free = room - len(self.trees)
        if free <= 0 or (self.trees and free * ROOM < room and len(self.waiting) > free):
            return
        admitted = iter([self.waiting.pop() for _ in range(min(free, len(self.waiting)))])
        chunk: list[_Tree] = []
        for tree in admitted:
            if chunk and sum(len(other.ids) for other in chunk) + len(tree.ids) > PREFILL:
                yield chunk
                chunk = []
            chunk.append(tree)
        yield chunk

    def _prefill(self, chunk: list[_Tree]) -> list[Decoded]:
        """Compute the prompts of new trees, and their branches' first tokens."""
        taken = {tree.row for tree in self.trees}
        free = (row for row in range(self.cache.rows + len(chunk)) if row not in taken)
        for tree, row in zip(chunk, islice(free, len(chunk)), strict=True):
            tree.row, tree.columns = row, len(tree.ids)
        width = aligned(max(tree.columns for tree in chunk))
        self.cache.grow(max(tree.row for tree in chunk) + 1, width)
        lengths = [tree.columns for tree in chunk]
        place = self._tensor([[n * width + c for n, length in enumerate(lengths) for c in range(length)]])[0]
        ids, node, position = self._tensor([[x for t in chunk for x in getattr(t, f)] for f in _PACKED])
        rows = self._tensor([[tree.row for tree in chunk]])[0]
        self.cache.node[rows] = NOBODY
        self.cache.node[rows[place // width], place % width] = node.int()
        nodes = torch.full((len(chunk), width), NOBODY, device=self.device)
        positions = torch.zeros_like(nodes)
        nodes.view(-1)[place], positions.view(-1)[place] = node, position
        same = (nodes.unsqueeze(1) == 0) | (nodes.unsqueeze(1) == nodes.unsqueeze(2))
        seen = same & (positions.unsqueeze(1) <= positions.unsqueeze(2))
        starts = [sum(lengths[:n]) for n in range(len(chunk))]
        predictors = [start + p for start, tree in zip(starts, chunk, strict=True) for p in tree.predictors]
        distinct = list(dict.fromkeys(predictors))
        places = Places(rows[place // width], place % width, place, seen, rows)
        logits = forward(self.model, ids, position, self.cache, places, self._tensor([distinct])[0])
        number = {predictor: n for n, predictor in enumerate(distinct)}
        self.trees += chunk
        branches = [(tree, branch) for tree in chunk for branch in tree.branches]
        for _, branch in branches:
            branch.draws = job_draws(branch.seed, self.sampling)
        return self._take(logits, branches, self._tensor([[number[p] for p in predictors]])[0])

    def _write(self) -> list[Decoded]:
        """The next token of every branch."""
        branches = [(tree, branch) for tree in self.trees for branch in tree.branches]
        width = max(len(tree.branches) for tree in self.trees)
        table = []
        for tree in self.trees:
            for number, branch in enumerate(tree.branches):
                slot = tree.row * width + number
                table.append(
                    (branch.ids[-1], branch.position, tree.row, tree.columns, slot, branch.parent, branch.node)
                )
                tree.columns += 1
                branch.position += 1
        columns = aligned(max(tree.columns for tree in self.trees))
        self.cache.grow(0, columns)
        ids, position, row, column, slot, parent, node = self._tensor(table).T.contiguous()
        self.cache.node[row, column] = node.int()
        query = torch.full((2, self.cache.rows * width), NOBODY - 1, dtype=torch.int32, device=self.device)
        query[0, slot], query[1, slot] = parent.int(), node.int()
        query = query.view(2, self.cache.rows, width, 1)
        key = self.cache.node[:, :columns].unsqueeze(1)
        places = Places(row, column, slot, (key == 0) | (key == query[0]) | (key == query[1]))
        all_of_them = torch.arange(len(ids), device=self.device)
        return self._take(forward(self.model, ids, position, self.cache, places, all_of_them), branches, all_of_them)

    def _take(self, logits: Tensor, branches: list[tuple[_Tree, _Branch]], which: Tensor) -> list[Decoded]:
        """Choose each branch's next token by its row of the logits; ended branches leave their trees."""
        draws = None
        if self.sampling.temperature:
            numbers = [branch.draws[len(branch.ids)] for _, branch in branches]
            draws = self._tensor([numbers])[0]
            logits = logits[which]
        chosen = choose(logits, draws, self.sampling)
        done = []
        tokens = (chosen[which] if draws is None else chosen).tolist()
        for (tree, branch), token in zip(branches, tokens, strict=True):
            if token != self.end:
                branch.ids.append(token)
            if token == self.end or len(branch.ids) == self.sampling.max_new_tokens:
                done.append(Decoded(branch.index, branch.ids, token == self.end))
                tree.branches.remove(branch)
                if not tree.branches:
                    self.trees.remove(tree)
                    self.cache.free(tree.row)
        return done

    def _compact(self) -> None:
        """When no tree waits and a quarter of the rows is free, drop those."""
        if self.waiting or 4 * len(self.trees) > 3 * self.cache.rows:
            return
        self.cache.keep(
            self._tensor([[tree.row for tree in self.trees]])[0], aligned(max(t.columns for t in self.trees))
        )
        for row, tree in enumerate(self.trees):
            tree.row = row

    def _tensor(self, values: Sequence[Sequence[int]]) -> Tensor:
        return torch.tensor(values, dtype=torch.long).to(self.device)


_PACKED = ("ids", "nodes", "positions")
