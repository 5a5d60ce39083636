"""Which tokens of a pair hear which: the token–token edges of the rationale-token graph."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lrkd.errors import UserError
from lrkd.extractors.base import TokenStates
from lrkd.hparams import component_factory


class TokenGraph(ABC):
    """The edges between a pair's tokens. Subclass it for a graph of your own and name it by ``class_path``.

    Keep degrees bounded: the cost of a graph layer grows with the number of edges.
    """

    @abstractmethod
    def adjacency(self, tokens: TokenStates) -> Tensor:
        """Edges of B pairs as (B, L, L) bool: ``[b, t, s]`` is True where token t hears token s.

        Self-loops and pads need no care: :class:`~lrkd.extractors.GATExtractor` adds the ones and drops the others.
        """


def make_graph(spec: TokenGraph | dict[str, Any]) -> TokenGraph:
    """A graph from its specification (``class_path``, ``init_args``), as checkpoints keep it; a graph as it is."""
    if isinstance(spec, dict):
        return component_factory(spec, TokenGraph, "graph")()  # type: ignore[type-abstract]
    return spec


class WindowGraph(TokenGraph):
    """Tokens hear their neighbours inside their own segment, query or item.

    Args:
        radius: How many tokens to each side.
    """

    def __init__(self, radius: int = 2) -> None:
        if radius < 1:
            raise UserError(f"radius is at least 1, got {radius}")
        self.radius = radius

    def adjacency(self, tokens: TokenStates) -> Tensor:
        """(B, L, L) bool."""
        length, device = tokens.mask.shape[1], tokens.mask.device
        make = _band.__wrapped__ if torch.compiler.is_compiling() else _band
        segments = tokens.segments
        same = (segments.unsqueeze(1) == segments.unsqueeze(2)) & (segments >= 0).unsqueeze(1)
        return same & make(length, self.radius, device)


@lru_cache(maxsize=256)
def _band(length: int, radius: int, device: torch.device) -> Tensor:
    """(L, L) bool: True up to ``radius`` from the diagonal."""
    place = torch.arange(length, device=device)
    return (place - place.unsqueeze(1)).abs() <= radius


class LexicalGraph(TokenGraph):
    """Query and item tokens of the same id hear each other: the words that the item has in common with the query.

    Args:
        max_links: How many tokens a token hears at most: the first ones.
    """

    def __init__(self, max_links: int = 4) -> None:
        if max_links < 1:
            raise UserError(f"max_links is at least 1, got {max_links}")
        self.max_links = max_links

    def adjacency(self, tokens: TokenStates) -> Tensor:
        """(B, L, L) bool."""
        links = _across(tokens) & (tokens.ids.unsqueeze(1) == tokens.ids.unsqueeze(2))
        return links & (links.cumsum(-1) <= self.max_links)


class SimilarityGraph(TokenGraph):
    """Query and item tokens hear those of the other side whose states are the most similar (cosine).

    Args:
        neighbours: How many tokens a token hears, where there are as many.
    """

    def __init__(self, neighbours: int = 2) -> None:
        if neighbours < 1:
            raise UserError(f"neighbours is at least 1, got {neighbours}")
        self.neighbours = neighbours

    def adjacency(self, tokens: TokenStates) -> Tensor:
        """(B, L, L) bool."""
        across = _across(tokens)
        with torch.autocast(tokens.states.device.type, enabled=False):
            states = F.normalize(tokens.states.detach().float(), dim=-1)
            similarity = (states @ states.mT).masked_fill(~across, -2.0)
        room = (0, self.neighbours)  # so that there are always as many to choose from, also in a shorter pair
        nearest = F.pad(similarity, room, value=-2.0).topk(self.neighbours, dim=-1).indices
        return F.pad(torch.zeros_like(across), room).scatter(-1, nearest, True)[..., : across.shape[-1]] & across


class FullGraph(TokenGraph):
    """Every token hears every token: for comparison, since its cost grows with the square of the length."""

    def adjacency(self, tokens: TokenStates) -> Tensor:
        """(B, L, L) bool."""
        return (tokens.mask.unsqueeze(1) & tokens.mask.unsqueeze(2)).clone()


class UnionGraph(TokenGraph):
    """The edges of several graphs, each once.

    Args:
        graphs: At least one.
    """

    def __init__(self, graphs: list[TokenGraph]) -> None:
        if not graphs:
            raise UserError("graphs is empty; give at least one")
        self.graphs = [make_graph(graph) for graph in graphs]

    def adjacency(self, tokens: TokenStates) -> Tensor:
        """(B, L, L) bool."""
        return torch.stack([graph.adjacency(tokens) for graph in self.graphs]).any(0)


def _across(tokens: TokenStates) -> Tensor:
    """(B, L, L) bool: True between a query token and an item token."""
    query, item = tokens.segments == 0, tokens.segments == 1
    return (query.unsqueeze(2) & item.unsqueeze(1)) | (item.unsqueeze(2) & query.unsqueeze(1))
