"""The two-layer MLP extractor."""

from __future__ import annotations

from torch import Tensor, nn

from lrkd.extractors.base import Extractor, TokenStates


class MLPExtractor(Extractor):
    """Two linear layers on every token's state, then the mean over the real tokens.

    ``r_p = mean_l  W2_p · dropout(gelu(W1 · LayerNorm(h_l) + b1)) + b2_p``  (arXiv 2601.21611, the MLP variant). The
    second layer is linear, so it is applied once to the mean instead of L times: the result is the same.

    Args:
        hidden_size: H, the width of the encoder's states.
        target_size: R, the width of the latents.
        num_perspectives: P, latents a pair.
        intermediate_size: Width between the layers; H by default.
        dropout: Probability of dropping an intermediate unit in training.

    Shapes: token states (B, L, H) to latents (B, P, R).
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
        self.inner = nn.Sequential(nn.LayerNorm(hidden_size), nn.Linear(hidden_size, width), nn.GELU())
        self.dropout = nn.Dropout(dropout)
        self.outer = nn.Linear(width, num_perspectives * target_size)

    def forward(self, tokens: TokenStates) -> Tensor:
        """Latents (B, P, R)."""
        weight = tokens.mask.unsqueeze(-1)
        inner = self.dropout(self.inner(tokens.states)).masked_fill(~weight, 0)
        mean = inner.sum(1) / weight.sum(1).clamp_min(1)
        latents: Tensor = self.outer(mean)
        return latents.reshape(-1, self.num_perspectives, self.target_size)
