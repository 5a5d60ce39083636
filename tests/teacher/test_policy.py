"""Adapters under autocast: the casts that are spared change no bit."""

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from lrkd.teacher.policy import add_lora


def test_spared_casts_change_no_bit(tiny_teacher):
    def outcome(adapted):
        for number, (_, parameter) in enumerate(sorted(adapted.named_parameters())):
            if parameter.requires_grad:
                generator = torch.Generator().manual_seed(number)
                parameter.data.normal_(0.0, 0.1, generator=generator)
        casts = sum("ToCopyBackward" in name for name in recorded(adapted))
        gradients = [p.grad for _, p in sorted(adapted.named_parameters()) if p.requires_grad]
        return casts, gradients

    def recorded(adapted):
        ids = torch.arange(24).view(2, 12) + 5
        with torch.autocast("cpu", torch.bfloat16):
            loss = adapted(ids, labels=ids).loss
        names, stack, seen = [], [loss.grad_fn], set()
        while stack:
            node = stack.pop()
            if node is not None and node not in seen:
                seen.add(node)
                names.append(node.name())
                stack += [parent for parent, _ in node.next_functions]
        loss.backward()
        return names

    def base():
        return AutoModelForCausalLM.from_pretrained(tiny_teacher, dtype=torch.float32).train()

    config = LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8, lora_dropout=0.0, target_modules="all-linear")
    plain_casts, plain = outcome(get_peft_model(base(), config))
    spared_casts, spared = outcome(add_lora(base(), rank=4, alpha=8, dropout=0.0, targets="all-linear"))
    assert spared_casts < plain_casts
    assert all(torch.equal(one, other) for one, other in zip(plain, spared, strict=True))
    assert float(sum(gradient.abs().sum() for gradient in spared)) > 0
