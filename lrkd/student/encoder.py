"""The student's encoder: any transformers encoder, from pretrained weights or from a configuration alone."""

from __future__ import annotations

import inspect
from typing import Any, Literal

from torch import Tensor, nn

from lrkd.data.types import TripleBatch
from lrkd.extractors import TokenStates
from lrkd.pretrained import resolve
from lrkd.student.attention_kernel import use_fast_attention
from lrkd.student.dropout import replace_dropout

Pooling = Literal["cls", "mean"]


def load_encoder(name: str, config: dict[str, Any] | None = None) -> nn.Module:
    """An encoder in train mode, without the pooler that nothing here would train.

    Args:
        name: Hub name, path or ``pkg:`` name of pretrained weights.
        config: If given, the encoder is built from it with random weights and ``name`` is not looked at: so a
            checkpoint reloads without the pretrained weights.
    """
    from transformers import AutoConfig, AutoModel

    if config is None:
        encoder = AutoModel.from_pretrained(resolve(name))
    else:
        settings = dict(config)
        made = AutoConfig.for_model(settings.pop("model_type"), **settings)
        encoder = AutoModel.from_config(made)  # type: ignore[no-untyped-call]
    if getattr(encoder, "pooler", None) is not None:
        encoder.pooler = None
    replace_dropout(encoder)
    use_fast_attention(encoder)
    return encoder.train()  # type: ignore[no-any-return]  # from_pretrained gives eval mode (trap 23)


def encode(encoder: nn.Module, batch: TripleBatch) -> TokenStates:
    """Run the encoder on a batch.

    Args:
        encoder: From :func:`load_encoder`.
        batch: B pairs, L tokens.

    Returns:
        Token states (B, L, H) with mask, segments and ids.
    """
    inputs = {"input_ids": batch.ids, "attention_mask": batch.mask.long()}
    if "token_type_ids" in inspect.signature(encoder.forward).parameters:
        inputs["token_type_ids"] = batch.type_ids
    return TokenStates(encoder(**inputs).last_hidden_state, batch.mask, batch.segments, batch.ids)


def pool(tokens: TokenStates, pooling: Pooling) -> Tensor:
    """(B, H): the first token's state, or the mean state of the real tokens."""
    return tokens.states[:, 0] if pooling == "cls" else tokens.mean()
