"""Causal language models, with or without adapters: the one place that loads them, to train and to generate."""

from __future__ import annotations

from typing import Any, Literal

import torch
from peft import PeftConfig, PeftModel
from peft.tuners.lora.layer import Linear
from transformers import AutoModelForCausalLM

from lrkd.errors import UserError
from lrkd.pretrained import is_adapter, resolve

DType = Literal["float32", "bfloat16"]


def load_causal_lm(name: str, dtype: DType = "float32", *, adapter: str | None = None, trainable: bool = False) -> Any:
    """A causal language model with sdpa attention, in eval mode.

    Args:
        name: A hub name, a path, or ``pkg:package/folder``. A folder of adapters (peft's ``adapter_config.json``) gives
            a ``PeftModel``: its base model with these adapters.
        dtype: Of the weights.
        adapter: A folder of adapters that are put on the model.
        trainable: Whether the adapters are to be trained: then they are float32, and else of ``dtype``.

    Raises:
        UserError: There is no such model or adapter, or it is none that transformers can load as a causal language
            model.
    """
    if adapter is not None and is_adapter(name):
        raise UserError(f"model {name!r}: is a folder of adapters itself; give its base model with adapter {adapter!r}")
    adapter = name if is_adapter(name) else adapter
    try:
        base = name if adapter != name else str(PeftConfig.from_pretrained(resolve(name)).base_model_name_or_path)
        model: Any = AutoModelForCausalLM.from_pretrained(
            resolve(base), dtype=getattr(torch, dtype), attn_implementation="sdpa"
        )
        if adapter is not None:
            model = PeftModel.from_pretrained(
                model, resolve(adapter), is_trainable=trainable, autocast_adapter_dtype=trainable
            )
            spare_casts(model)
    except UserError:
        raise
    except (OSError, ValueError) as error:
        what = f"model {name!r}" + (f" with adapter {adapter!r}" if adapter not in (None, name) else "")
        raise UserError(f"{what}: cannot be loaded as a causal language model with sdpa attention: {error}") from error
    return model.eval()


class _SpareLinear(Linear):
    """peft's linear layer, but under autocast its input is not cast to float32, which autocast would cast back."""

    def _cast_input_dtype(self, x: Any, dtype: torch.dtype) -> Any:
        if x is not None and torch.is_autocast_enabled(x.device.type):
            return x
        return super()._cast_input_dtype(x, dtype)


def spare_casts(model: PeftModel) -> None:
    """Let a model's adapters, which are LoRA's, leave their input to autocast."""
    for module in model.modules():
        if type(module) is Linear:
            module.__class__ = _SpareLinear
