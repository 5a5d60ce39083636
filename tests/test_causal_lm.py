"""Loading causal language models: what a name gives, to train and to generate, and what is refused."""

import pytest
import torch
from peft import PeftModel

from lrkd.causal_lm import load_causal_lm
from lrkd.errors import UserError
from lrkd.pretrained import load_tokenizer
from lrkd.teacher.policy import add_lora


@pytest.fixture(scope="module")
def adapters(tmp_path_factory, tiny_teacher):
    """A folder of adapters on the tiny teacher, saved without a tokenizer."""
    folder = tmp_path_factory.mktemp("adapters")
    model = add_lora(load_causal_lm(tiny_teacher), rank=2, alpha=4, dropout=0.0, targets="all-linear")
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(0))
    model.save_pretrained(folder)
    return str(folder)


def test_adapters_are_the_same_alone_and_on_their_base_and_are_trained_when_asked(tiny_teacher, adapters):
    ids = torch.arange(12).view(1, 12) + 5
    plain, alone, onto = (
        load_causal_lm(tiny_teacher),
        load_causal_lm(adapters),
        load_causal_lm(tiny_teacher, adapter=adapters),
    )
    trained = load_causal_lm(adapters, "bfloat16", trainable=True)
    generating = load_causal_lm(adapters, "bfloat16")
    assert [isinstance(model, PeftModel) for model in (plain, alone, onto)] == [False, True, True]
    assert not any(model.training for model in (plain, alone, onto, trained))
    with torch.no_grad():
        torch.testing.assert_close(alone(ids).logits, onto(ids).logits)
        assert not torch.allclose(alone(ids).logits, plain(ids).logits, atol=1e-3)

    def learned(model):
        return {str(parameter.dtype) for parameter in model.parameters() if parameter.requires_grad}

    assert (learned(trained), learned(generating)) == ({"torch.float32"}, set())
    assert {parameter.dtype for parameter in generating.parameters()} == {torch.bfloat16}


def test_adapters_without_a_tokenizer_have_their_bases(tiny_teacher, adapters):
    text = "red running shoes"
    assert load_tokenizer(adapters)(text).input_ids == load_tokenizer(tiny_teacher)(text).input_ids


def test_what_is_no_model_is_named(tiny_teacher, adapters, tmp_path):
    with pytest.raises(UserError, match=r"model '.*none': cannot be loaded as a causal language model"):
        load_causal_lm(str(tmp_path / "none"))
    with pytest.raises(UserError, match=r"llama' with adapter '.*none': cannot be loaded"):
        load_causal_lm(tiny_teacher, adapter=str(tmp_path / "none"))
    with pytest.raises(UserError, match="is a folder of adapters itself; give its base model"):
        load_causal_lm(adapters, adapter=adapters)
    with pytest.raises(UserError, match=r"model '.*none': its tokenizer cannot be loaded"):
        load_tokenizer(str(tmp_path / "none"))
