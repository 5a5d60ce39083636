"""The language model that a teacher trains: its adapters, what of it is kept, exporting."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from torch import Tensor, nn

from lrkd.causal_lm import spare_casts
from lrkd.errors import UserError
from lrkd.teacher.sharding import whole

ADAPTER = "default"
REFERENCE = "reference"


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
    spare_casts(adapted)
    return adapted


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
        digest.update(whole(tensor.detach()).float().cpu().contiguous().numpy().tobytes())
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
