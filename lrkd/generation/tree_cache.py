"""Keys and values of many prompt trees at a time, and the attention that reads them.

A row of the cache is a tree: what all prompts of a pair begin with (node 0), each prompt's own part, and what is
written after each prompt, of which there may be several. Every place of a row belongs to a node; a token sees node 0,
its prompt's node and its own. So a prefix is kept, and read, once for all that follows it.

The tokens of a step are one packed sequence of N tokens, whatever rows they belong to: the model's linear layers see no
padding. Only the attention lays them out by rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from inspect import signature
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.cache_utils import Cache

from lrkd.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NAME = "lrkd_tree"
NOBODY = -1
COLUMNS = 16
"""Columns come in multiples of this: CUDA's kernels want aligned masks."""
ATTENTION = {"full_attention", "sliding_attention"}
"""Kinds of layers that a cache of keys and values serves (a window is wider than what is decoded here)."""


def aligned(columns: int) -> int:
    """The next multiple of :data:`COLUMNS`."""
    return -(-columns // COLUMNS) * COLUMNS


@dataclass
class Places:
    """Where the N tokens of a step stand, R rows of W query slots and C columns at most.

    Args:
        row: (N,) int64: the row in the cache's buffers.
        column: (N,) int64: where a token's key and value go.
        slot: (N,) int64: the token's place, counted through all R * W query slots.
        seen: (R, W, C) bool: which columns a query slot sees.
        rows: (R,) int64: the buffers' rows that are read; None: all of them.
    """

    row: Tensor
    column: Tensor
    slot: Tensor
    seen: Tensor
    rows: Tensor | None = None
    _masks: dict[tuple[int, torch.dtype], Tensor] = field(default_factory=dict)

    def mask(self, groups: int, dtype: torch.dtype) -> Tensor:
        """(R, 1, groups * W, C) added to the scores; made once a step, not once a layer."""
        if (groups, dtype) not in self._masks:
            hidden = torch.zeros(self.seen.shape, dtype=dtype, device=self.seen.device)
            hidden.masked_fill_(~self.seen, torch.finfo(dtype).min)
            self._masks[groups, dtype] = hidden.repeat(1, groups, 1).unsqueeze(1)
        return self._masks[groups, dtype]


class TreeCache(Cache):
    """The buffers of all layers, (rows, heads, columns, D) each for keys and values, and the places' nodes."""

    def __init__(self, device: torch.device) -> None:
        super().__init__(layers=[])
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []
        self.node = torch.full((0, 0), NOBODY, dtype=torch.int32, device=device)
        """(rows, columns): the node that a place belongs to; -1: none."""
        self._places: Places | None = None

    @property
    def rows(self) -> int:
        """How many rows there is room for."""
        return self.node.shape[0]

    def grow(self, rows: int, columns: int) -> None:
        """Make room for at least so many rows and columns; columns by a quarter at least."""
        old_rows, old_columns = self.node.shape
        if columns > old_columns:
            columns = aligned(max(columns, old_columns * 5 // 4))
        size = max(rows, old_rows), max(columns, old_columns)
        if size == (old_rows, old_columns):
            return
        node = self.node.new_full(size, NOBODY)
        node[:old_rows, :old_columns] = self.node
        self.node = node
        for buffers in (self.keys, self.values):
            for layer, old in enumerate(buffers):
                new = old.new_zeros(size[0], old.shape[1], size[1], old.shape[3])
                new[:old_rows, :, :old_columns] = old
                buffers[layer] = new

    def keep(self, rows: Tensor, columns: int) -> None:
        """Drop all rows (of which ``rows``, (R,) int64, stay, in that order) and columns but the first ones."""
        self.node = self.node[rows, :columns]
        for buffers in (self.keys, self.values):
            for layer, old in enumerate(buffers):
                buffers[layer] = old[:, :, :columns].index_select(0, rows)

    def free(self, row: int) -> None:
        """Nobody's places in that row from now on."""
        self.node[row] = NOBODY

    def at(self, places: Places) -> None:
        """Say where the next step's tokens stand, before the model is called."""
        self._places = places

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Keep the step's keys and values, (1, heads, N, D), and return those that it sees: (R, heads, C, D)."""
        assert self._places is not None
        if layer_idx == len(self.keys):
            for buffers, new in ((self.keys, key_states), (self.values, value_states)):
                buffers.append(new.new_zeros(self.rows, new.shape[1], self.node.shape[1], new.shape[3]))
        return (
            self._write(self.keys[layer_idx], key_states, self._places),
            self._write(self.values[layer_idx], value_states, self._places),
        )

    @staticmethod
    def _write(buffer: Tensor, new: Tensor, places: Places) -> Tensor:
        buffer[places.row, :, places.column] = new[0].transpose(0, 1).to(buffer.dtype)
        read = buffer[:, :, : places.seen.shape[2]]
        return read if places.rows is None else read.index_select(0, places.rows)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Nothing that a model should reckon with: places and positions are given."""
        return 0


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    *,
    tree_places: Places,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Packed queries against the rows' keys; the query heads that share a key head are laid side by side.

    Args:
        module: The attention layer.
        query: (1, heads, N, D).
        key: (R, key heads, C, D).
        value: (R, key heads, C, D).
        attention_mask: Unused: the places say who sees whom.
        scaling: Of the scores; 1/√D by default.
        tree_places: The step's places.
        **kwargs: What an architecture adds for sdpa.

    Returns:
        (1, N, heads, D), and None for the weights.
    """
    rows, width, _ = tree_places.seen.shape
    heads, shared = query.shape[1], key.shape[1]
    groups = heads // shared
    laid = query.new_zeros(rows * width, heads, query.shape[-1])
    laid[tree_places.slot] = query[0].transpose(0, 1)
    laid = laid.view(rows, width, shared, groups, -1).permute(0, 2, 3, 1, 4).reshape(rows, shared, groups * width, -1)
    mask = tree_places.mask(groups, query.dtype)
    out = nn.functional.scaled_dot_product_attention(
        laid, key.to(query.dtype), value.to(query.dtype), attn_mask=mask, scale=scaling
    )
    out = out.view(rows, shared, groups, width, -1).permute(0, 3, 1, 2, 4).reshape(rows * width, heads, -1)
    return out[tree_places.slot].unsqueeze(0), None


AttentionInterface.register(NAME, attention)


@contextmanager
def tree_attention(model: PreTrainedModel) -> Iterator[None]:
    """Within it a model attends to a :class:`TreeCache`, in eval mode; afterwards it is what it was before.

    Args:
        model: A causal language model, with or without adapters.

    Raises:
        UserError: Its attention is not sdpa, or it has layers of another kind (linear attention, state spaces).
    """
    config = model.get_decoder().config  # type: ignore[no-untyped-call]
    if other := set(getattr(config, "layer_types", None) or ()) - ATTENTION:
        raise UserError(f"model {config._name_or_path!r}: decoding needs layers of attention, it has {sorted(other)}")
    if (kind := config._attn_implementation) != "sdpa":
        raise UserError(f"model {config._name_or_path!r}: decoding needs sdpa attention, it has {kind!r}")
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    config._attn_implementation = NAME
    try:
        yield
    finally:
        config._attn_implementation = "sdpa"
        for module in training:
            module.training = True


def forward(
    model: PreTrainedModel, ids: Tensor, position: Tensor, cache: TreeCache, places: Places, predictors: Tensor
) -> Tensor:
    """A step of N tokens, within :func:`tree_attention`.

    Args:
        model: The model.
        ids: (N,) int64 token ids.
        position: (N,) int64: a token's place in its own sequence.
        cache: What was computed before; keeps the step's keys and values.
        places: Where the tokens stand.
        predictors: (M,) int64: which of the N tokens predict.

    Returns:
        (M, V) logits.
    """
    cache.at(places)
    whole: Any = model
    base = whole.get_base_model() if hasattr(whole, "get_base_model") else whole
    named = "cache" if "cache" in signature(base.forward).parameters else "past_key_values"  # before transformers 5.24
    logits: Tensor = model(
        input_ids=ids.unsqueeze(0),
        position_ids=position.unsqueeze(0),
        use_cache=True,
        logits_to_keep=predictors,
        tree_places=places,
        **{named: cache},
    ).logits
    return logits[0]
