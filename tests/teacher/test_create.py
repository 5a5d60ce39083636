"""A teacher made from a config."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from lrkd.errors import UserError
from lrkd.teacher.create import create_teacher


def test_any_text_is_encoded_and_the_weights_follow_the_seed(tiny_root, tiny_teacher, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(tiny_teacher)
    for text in ("Verdict: Exact", "naïve 13″ — 漢字 🧦", "  two spaces\n\nand lines "):
        assert tokenizer.decode(tokenizer(text).input_ids) == text
    assert tokenizer.eos_token_id != tokenizer.pad_token_id
    settings = {"root": tiny_root, "vocabulary": 600, "hidden_size": 32, "layers": 2, "heads": 4}
    create_teacher(out=tmp_path / "same", **settings)
    create_teacher(out=tmp_path / "other", **settings, seed=1)
    first, same, other = (
        AutoModelForCausalLM.from_pretrained(folder).get_input_embeddings().weight
        for folder in (tiny_teacher, tmp_path / "same", tmp_path / "other")
    )
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_what_is_there_is_not_overwritten(tiny_root, tiny_teacher):
    with pytest.raises(UserError, match="is there already"):
        create_teacher(root=tiny_root, out=Path(tiny_teacher))
