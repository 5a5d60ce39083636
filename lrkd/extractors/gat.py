"""The graph attention extractor on torch-geometric."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lrkd.errors import UserError
from lrkd.extractors.base import Extractor, TokenStates
from lrkd.extractors.token_graph import LexicalGraph, TokenGraph, UnionGraph, WindowGraph, make_graph


class GATExtractor(Extractor):
    """Graph attention over the rationale-token graph: the rationale tokens' final states are the latents.

    The nodes are the token states, reduced to the graph's width G, and P learned rationale tokens. Tokens hear tokens
    along the edges of ``graph``; a rationale token hears every token of its pair; every node hears itself. With x the
    nodes and N(i) whom i hears, a layer is ``x_i ← LayerNorm(x_i + ELU(Σ_{j ∈ N(i)} α_ij W_s x_j + b))`` with several
    heads, concatenated. For ``gatv2`` ``α_ij = softmax_j(aᵀ LeakyReLU(W_t x_i + W_s x_j))``, W_t and W_s with biases
    (Brody et al. 2022, arXiv 2105.14491, eq. 7); for ``gat`` ``α_ij = softmax_j(LeakyReLU(a_tᵀ W x_i + a_sᵀ W x_j))``,
    ``W_s = W`` (Veličković et al. 2018, arXiv 1710.10903, eq. 3). The last layer is only computed for the rationale
    tokens; ``r_p = W x_p + b``.

    It computes in float32 under autocast: sums over edges lose too much in 16 bits, and are a small part of the work.

    Args:
        hidden_size: H, the width of the encoder's states.
        target_size: R, the width of the latents.
        num_perspectives: P, rationale tokens and latents a pair.
        graph: Which tokens hear which; by default a window of two tokens and the words common to query and item.
        width: G, the graph's width; a multiple of ``heads``.
        num_layers: At least 2: with one, no token–token edge could reach the latents.
        heads: Attention heads a layer.
        layer: The attention's form.
        dropout: In training, the probability of dropping an attention weight, and a unit of a rationale token's final
            state.

    Shapes: token states (B, L, H) to latents (B, P, R).
    """

    def __init__(
        self,
        hidden_size: int,
        target_size: int,
        num_perspectives: int = 1,
        *,
        graph: TokenGraph | dict[str, Any] | None = None,
        width: int = 128,
        num_layers: int = 2,
        heads: int = 4,
        layer: Literal["gatv2", "gat"] = "gatv2",
        dropout: float = 0.1,
    ) -> None:
        super().__init__(hidden_size, target_size, num_perspectives)
        if num_layers < 2:
            raise UserError(f"num_layers is at least 2 (one layer's latents never see the edges), got {num_layers}")
        if width % heads:
            raise UserError(f"width {width} is not a multiple of heads {heads}")
        from torch_geometric.nn import GATConv, GATv2Conv

        kinds = {"gatv2": GATv2Conv, "gat": GATConv}
        if layer not in kinds:
            raise UserError(f"layer is 'gatv2' or 'gat', got {layer!r}")
        self.graph = make_graph(graph if graph is not None else UnionGraph([WindowGraph(), LexicalGraph()]))
        self.reduce = nn.Sequential(nn.LayerNorm(hidden_size), nn.Linear(hidden_size, width))
        self.rationale_tokens = nn.Parameter(torch.randn(num_perspectives, width))
        self.layers = nn.ModuleList(
            kinds[layer](width, width // heads, heads, dropout=dropout, add_self_loops=False) for _ in range(num_layers)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(num_layers))
        self.dropout = nn.Dropout(dropout)
        self.outer = nn.Linear(width, target_size)

    def forward(self, tokens: TokenStates) -> Tensor:
        """Latents (B, P, R)."""
        with torch.autocast(tokens.states.device.type, enabled=False):
            states, _ = self._propagate(tokens)
            latents: Tensor = self.outer(self.dropout(states))
        return latents

    def token_weights(self, tokens: TokenStates) -> Tensor:
        """(B, P, L): how much each rationale token attends to each token in the last layer, a mean over heads.

        What is missing to a sum of 1 is its attention to itself. Call it in eval mode: dropout falls on the weights.
        """
        with torch.autocast(tokens.states.device.type, enabled=False):
            _, attention = self._propagate(tokens)
        return attention

    def _propagate(self, tokens: TokenStates) -> tuple[Tensor, Tensor]:
        """The rationale tokens' final states (B, P, G), and their attention in the last layer (B, P, L)."""
        (batch, length), number = tokens.mask.shape, self.num_perspectives
        first = batch * length  # the number of the first rationale token's node
        nodes = torch.cat(
            [self.reduce(tokens.states.float()).flatten(0, 1), self.rationale_tokens.repeat(batch, 1)]
        )  # (B·L + B·P, G)
        to_tokens, to_rationales = self._edges(tokens)
        every = torch.cat([to_tokens, to_rationales], dim=1)
        for edges in (every, to_rationales):
            torch._check(edges.shape[1] > 0)  # type: ignore[no-untyped-call]  # there are self-loops; export cannot know
        for layer, norm in zip(self.layers[:-1], self.norms[:-1], strict=True):
            nodes = norm(nodes + F.elu(layer(nodes, every)))
        last = torch.stack([to_rationales[0], to_rationales[1] - first])
        heard, (_, weights) = self.layers[-1]((nodes, nodes[first:]), last, return_attention_weights=True)
        states = self.norms[-1](nodes[first:] + F.elu(heard)).unflatten(0, (batch, number))
        attention = weights.new_zeros(batch * number, length + 1)
        place = torch.where(last[0] < first, last[0] % length, length)
        attention = attention.index_put((last[1], place), weights.mean(-1))
        return states, attention[:, :-1].unflatten(0, (batch, number))

    def _edges(self, tokens: TokenStates) -> tuple[Tensor, Tensor]:
        """Edges (2, E), sources above targets, self-loops included: those into tokens, those into rationale tokens."""
        (batch, length), device = tokens.mask.shape, tokens.mask.device
        real = tokens.mask.unsqueeze(1) & tokens.mask.unsqueeze(2)
        itself = torch.eye(length, dtype=torch.bool, device=device)
        pair, target, source = ((self.graph.adjacency(tokens) & real) | itself).nonzero(as_tuple=True)
        to_tokens = torch.stack([pair * length + source, pair * length + target])
        # A rationale token's row: every real token of its pair, and, in the last place, itself.
        heard = F.pad(tokens.mask, (0, 1), value=True).repeat_interleave(self.num_perspectives, dim=0)
        rationale, source = heard.nonzero(as_tuple=True)
        node = batch * length + rationale
        source = torch.where(source < length, rationale // self.num_perspectives * length + source, node)
        return to_tokens, torch.stack([source, node])
