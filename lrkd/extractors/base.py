"""What every latent reasoning extractor is: token states in, latents out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor, nn


@dataclass
class TokenStates:
    """What the encoder says of B pairs, token by token. It grows by fields, so that users' extractors keep working.

    Shapes: B pairs, L tokens, H the encoder's hidden size.
    """

    states: Tensor
    """(B, L, H) float: the encoder's last hidden states."""
    mask: Tensor
    """(B, L) bool: True for a real token."""
    segments: Tensor
    """(B, L) int64: 0 query, 1 item, -1 special token or pad; not the tokenizer's token_type_ids."""
    ids: Tensor
    """(B, L) int64: token ids."""

    def mean(self) -> Tensor:
        """(B, H): the mean state of the real tokens."""
        weight = self.mask.unsqueeze(-1).to(self.states.dtype)
        return (self.states * weight).sum(1) / weight.sum(1).clamp_min(1)


class Extractor(nn.Module, ABC):
    """Token states to latents: the part of the student that learns to reason and stays at inference.

    A subclass takes the three sizes by name, passes them on to ``super().__init__``, and has whatever further arguments
    it needs. :class:`lrkd.testing.ExtractorContract` is the test suite that it should pass.

    Args:
        hidden_size: H, the width of the encoder's states.
        target_size: R, the width of the targets, and so of the latents.
        num_perspectives: P, how many latents a pair gets; 1 is the unified latent.
    """

    def __init__(self, hidden_size: int, target_size: int, num_perspectives: int = 1) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.target_size = target_size
        self.num_perspectives = num_perspectives

    @abstractmethod
    def forward(self, tokens: TokenStates) -> Tensor:
        """Latents (B, P, R) of B pairs. Padding and the other rows of the batch must not change them."""


class ExtractorFactory(Protocol):
    """What :class:`lrkd.student.StudentLRKD` takes: the hidden size is known only once the encoder is loaded."""

    def __call__(self, *, hidden_size: int, target_size: int, num_perspectives: int) -> Extractor:
        """An extractor of these sizes."""
        ...


@runtime_checkable
class AttentiveExtractor(Protocol):
    """An extractor that can say which tokens its latents look at."""

    def token_weights(self, tokens: TokenStates) -> Tensor:
        """(B, P, L): the weight of each token in each latent, at least 0, summing to at most 1 over a pair."""
        ...
