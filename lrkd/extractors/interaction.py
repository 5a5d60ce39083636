"""The interaction extractor: query against item, each as the mean of its tokens' states."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from lrkd.extractors.base import Extractor, TokenStates


class InteractionExtractor(Extractor):
    """A two-layer MLP on what query and item have in common and what tells them apart.

    ``u``, ``v``: the means of the states of the query's and of the item's tokens;
    ``r = W2 · dropout(gelu(W1 · LayerNorm([u ; v ; |u - v| ; u ⊙ v]) + b1)) + b2``. The features are those of heuristic
    matching (Mou et al. 2016, arXiv 1512.08422, section 3.3), which suit encoders trained as bi-encoders: mean-pooled
    states are what those compare. Not in arXiv 2601.21611.

    Args:
        hidden_size: H, the width of the encoder's states.
        target_size: R, the width of the latents.
        num_perspectives: P, latents a pair.
        intermediate_size: Width between the layers; H by default.
        dropout: Probability of dropping an intermediate unit in training.

    Shapes: token states (B, L, H) to latents (B, P, R). A text without a token counts as the zero vector.
    """

    def __init__(
        self,
        hidden_size: int,
        target_size: int,
        num_perspectives: int = 1,
        *,
        intermediate_size: int | None = None,
        dropout: float = 0.1,
    ) -> None:
        super().__init__(hidden_size, target_size, num_perspectives)
        width = intermediate_size or hidden_size
        self.inner = nn.Sequential(nn.LayerNorm(4 * hidden_size), nn.Linear(4 * hidden_size, width), nn.GELU())
        self.dropout = nn.Dropout(dropout)
        self.outer = nn.Linear(width, num_perspectives * target_size)

    def forward(self, tokens: TokenStates) -> Tensor:
        """Latents (B, P, R)."""
        query, item = (replace(tokens, mask=tokens.segments == segment).mean() for segment in (0, 1))
        features = torch.cat([query, item, (query - item).abs(), query * item], -1)
        latents: Tensor = self.outer(self.dropout(self.inner(features)))
        return latents.reshape(-1, self.num_perspectives, self.target_size)
