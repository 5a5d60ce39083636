"""The Poly-Encoder extractor."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from lrkd.errors import UserError
from lrkd.extractors.base import Extractor, TokenStates

Reduction = Literal["attention", "mean"]


class PolyEncoderExtractor(Extractor):
    """Learned codes attend over the tokens; what they gather is reduced to one vector a latent.

    With ``x_l = LayerNorm(h_l)``, M codes ``c_{p,m}`` a latent and the sums over the real tokens
    (Humeau et al. 2020, arXiv 1905.01969, section 4.4; the codes' scores are scaled by 1/√H here, for x is not short):

    ``y_{p,m} = Σ_l softmax_l(c_{p,m} · x_l / √H) x_l``; then ``attention``: ``y_p = Σ_m softmax_m(x_cls · y_{p,m} / √H)
    y_{p,m}``, where the pair's first token stands where the candidate does in the Poly-Encoder, or ``mean``:
    ``y_p = 1/M Σ_m y_{p,m}``; and ``r_p = W dropout(y_p) + b``.

    W is shared by the latents: P latents of M codes have as many parameters as one latent of P·M codes, which is the
    control for what a latent a perspective earns.

    Args:
        hidden_size: H, the width of the encoder's states.
        target_size: R, the width of the latents.
        num_perspectives: P, latents a pair.
        num_codes: M, codes a latent.
        reduction: Of the codes to the latent.
        dropout: Probability of dropping a unit of y in training.

    Shapes: token states (B, L, H) to latents (B, P, R).
    """

    def __init__(
        self,
        hidden_size: int,
        target_size: int,
        num_perspectives: int = 1,
        *,
        num_codes: int = 16,
        reduction: Reduction = "attention",
        dropout: float = 0.1,
    ) -> None:
        super().__init__(hidden_size, target_size, num_perspectives)
        if num_codes < 1:
            raise UserError(f"num_codes is at least 1, got {num_codes}")
        if reduction not in ("attention", "mean"):
            raise UserError(f"reduction is 'attention' or 'mean', got {reduction!r}")
        self.reduction = reduction
        self.norm = nn.LayerNorm(hidden_size)
        self.codes = nn.Parameter(torch.randn(num_perspectives, num_codes, hidden_size))
        self.dropout = nn.Dropout(dropout)
        self.outer = nn.Linear(hidden_size, target_size)

    def forward(self, tokens: TokenStates) -> Tensor:
        """Latents (B, P, R)."""
        gathered, _, _ = self._gather(tokens)
        latents: Tensor = self.outer(self.dropout(gathered))
        return latents

    def token_weights(self, tokens: TokenStates) -> Tensor:
        """(B, P, L): the weight of each token in each latent's y; sums to 1 over the real tokens."""
        _, over_tokens, over_codes = self._gather(tokens)
        return torch.einsum("bpm,bpml->bpl", over_codes, over_tokens)

    def _gather(self, tokens: TokenStates) -> tuple[Tensor, Tensor, Tensor]:
        """What is gathered (B, P, H), the codes' weights of tokens (B, P, M, L), the latents' of codes (B, P, M)."""
        states = self.norm(tokens.states)
        codes = self.codes * self.hidden_size**-0.5
        scores = (states @ codes.flatten(0, 1).T).mT.unflatten(1, codes.shape[:2])  # (B, P, M, L)
        over_tokens = scores.float().masked_fill(~tokens.mask[:, None, None], float("-inf")).softmax(-1)
        found = (over_tokens.flatten(1, 2).to(states.dtype) @ states).unflatten(1, codes.shape[:2])  # (B, P, M, H)
        if self.reduction == "mean":
            over_codes = over_tokens.new_full(found.shape[:3], 1 / found.shape[2])
        else:
            scores = torch.einsum("bh,bpmh->bpm", states[:, 0], found) * self.hidden_size**-0.5
            over_codes = scores.float().softmax(-1)
        return torch.einsum("bpm,bpmh->bph", over_codes.to(found.dtype), found), over_tokens, over_codes
