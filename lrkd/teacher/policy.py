"""The language model that a teacher trains: loading, adapters, what of it is kept, exporting."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from peft import LoraConfig, PeftConfig, PeftModel, TaskType, get_peft_model
from peft.tuners.lora.layer import Linear
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from lrkd.errors import UserError
from lrkd.pretrained import resolve

DType = Literal["float32", "bfloat16"]

ADAPTER = "default"
REFERENCE = "reference"


def load_causal_lm(name: str, dtype: DType = "float32") -> Any:
    """A causal language model with sdpa attention, in eval mode.

    Args:
        name: A hub name, a path, or ``pkg:package/folder``. A folder of adapters (peft's ``adapter_config.json``) gives
            a ``PeftModel``: its base model with these adapters, which can be trained on.
        dtype: Of the weights; adapters are float32.

    Raises:
        UserError: There is no such model, or it is none that transformers can load as a causal language model.
    """
    place = resolve(name)
    is_adapter = (Path(place) / "adapter_config.json").is_file()
    base = PeftConfig.from_pretrained(place).base_model_name_or_path if is_adapter else place
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=getattr(torch, dtype), attn_implementation="sdpa")
        if is_adapter:
            model = _spare_casts(PeftModel.from_pretrained(model, place, is_trainable=True))
        return model.eval()
    except (OSError, ValueError) as error:
        raise UserError(f"model {name!r}: not a causal language model that transformers loads: {error}") from error


def load_tokenizer(name: str) -> Any:
    """The tokenizer of a model.

    Raises:
        UserError: There is none.
    """
    try:
        return AutoTokenizer.from_pretrained(resolve(name))
    except (OSError, ValueError) as error:
        raise UserError(f"model {name!r}: has no tokenizer that transformers loads: {error}") from error


def add_lora(model: Any, *, rank: int, alpha: int, dropout: float, targets: str | list[str]) -> PeftModel:
    """The model with LoRA adapters in float32; all that was there is frozen.

    Args:
        model: A causal language model.
        rank: r.
        alpha: The adapters' output is scaled by alpha / r.
        dropout: Of the adapters' input, in training.
        targets: ``all-linear``, or the ends of names of linear layers.

    Raises:
        UserError: No layer has such a name.
    """
    config = LoraConfig(
        task_type=TaskType.CAUSAL_LM, r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=targets
    )
    try:
        adapted = get_peft_model(model, config)
    except ValueError as error:
        raise UserError(f"lora_targets {targets}: {error}") from error
    return _spare_casts(adapted)


class _SpareLinear(Linear):
    """peft's linear layer, but under autocast its input is not cast to float32, which autocast would cast back."""

    def _cast_input_dtype(self, x: Any, dtype: torch.dtype) -> Any:
        if x is not None and torch.is_autocast_enabled(x.device.type):
            return x
        return super()._cast_input_dtype(x, dtype)


def _spare_casts(model: PeftModel) -> PeftModel:
    for module in model.modules():
        if type(module) is Linear:
            module.__class__ = _SpareLinear
    return model


def keep_reference(model: PeftModel) -> None:
    """Freeze a copy of the adapter as it is now: the reference policy (traps 8, 9)."""
    model.add_adapter(REFERENCE, model.peft_config[ADAPTER])
    with torch.no_grad():
        for mine, copy in zip(_adapter(model, ADAPTER), _adapter(model, REFERENCE), strict=True):
            copy.copy_(mine)
    model.set_adapter(ADAPTER)
    model.set_requires_grad(REFERENCE, requires_grad=False)


def _adapter(model: PeftModel, name: str) -> Iterator[nn.Parameter]:
    return (parameter for path, parameter in model.named_parameters() if f".{name}." in path)


@contextmanager
def frozen_reference(model: PeftModel) -> Iterator[None]:
    """Within it the model is the reference: its adapter, in eval mode, without gradients."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    model.set_adapter(REFERENCE, inference_mode=True)
    try:
        with torch.no_grad():
            yield
    finally:
        model.set_adapter(ADAPTER)
        for module in training:
            module.training = True


def trainable(state: dict[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
    """Of a state dict, what is trained and every buffer: with LoRA, the adapters alone."""
    parameters = module.named_parameters(remove_duplicate=False)  # tied weights go by several names
    frozen = {name for name, parameter in parameters if not parameter.requires_grad}
    return {name: tensor for name, tensor in state.items() if name not in frozen}


def weights_digest(parameters: Iterable[tuple[str, Tensor]]) -> str:
    """SHA-256 over names, shapes and values, in hex."""
    digest = hashlib.sha256()
    for name, tensor in sorted(parameters, key=lambda entry: entry[0]):
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def tokenizer_digest(tokenizer: Any) -> str:
    """SHA-256 over what a tokenizer does and its chat template, in hex."""
    content = tokenizer.backend_tokenizer.to_str() + str(tokenizer.chat_template)
    return hashlib.sha256(content.encode()).hexdigest()


def export(model: Any, tokenizer: Any, folder: Path, *, merge: bool) -> None:
    """Write a folder that ``AutoModelForCausalLM.from_pretrained`` loads.

    Args:
        model: A model, with or without adapters; merging leaves it changed.
        tokenizer: Its tokenizer.
        folder: Where to.
        merge: Whether adapters become part of the weights; else the folder holds them alone.
    """
    if isinstance(model, PeftModel) and merge:
        model = model.merge_and_unload()
    kept = {"selected_adapters": [ADAPTER]} if isinstance(model, PeftModel) else {}
    model.save_pretrained(folder, **kept)
    tokenizer.save_pretrained(folder)
