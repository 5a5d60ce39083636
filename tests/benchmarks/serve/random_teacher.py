"""A teacher of a real one's size with random weights: how long it writes depends on sizes and tokens, not on weights.

python tests/benchmarks/serve/random_teacher.py --like $TEACHER --size 1.5b --out runs/teacher_1.5b
python -m lrkd bench --model runs/quickstart/export --root $ROOT --teacher runs/teacher_1.5b --teacher_tokens 49

It never ends a rationale by itself: --teacher_tokens says how long all of them are.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2Config

SIZES = {
    "0.5b": (896, 24, 14, 2, 4864),
    "1.5b": (1536, 28, 12, 2, 8960),
    "3b": (2048, 36, 16, 2, 11008),
    "7b": (3584, 28, 28, 4, 18944),
}
"""Width, layers, heads, key heads and feed-forward width of Qwen2.5; the vocabulary is that of the model it is like."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--like", type=Path, required=True, help="a teacher whose tokenizer and prompts it gets")
    parser.add_argument("--size", choices=SIZES, required=True)
    parser.add_argument("--out", type=Path, required=True, help="the folder to make")
    given = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(given.like)
    width, layers, heads, shared, inner = SIZES[given.size]
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=shared,
        intermediate_size=inner,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    given.out.mkdir(parents=True)
    model.save_pretrained(given.out)
    tokenizer.save_pretrained(given.out)
    for file in ("prompts.yaml", "lrkd.json"):
        if (given.like / file).is_file():
            shutil.copy(given.like / file, given.out)
    print(f"wrote {given.out}: {sum(p.numel() for p in model.parameters()) / 1e6:,.0f} million parameters")


if __name__ == "__main__":
    main()
