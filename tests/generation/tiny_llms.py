"""Tiny language models with tokenizers that encode anything."""

from pathlib import Path

from lrkd.prompts import PromptBook

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make_tokenizer(template):
    """A byte-level BPE trained on the prompt book's words; its pad token is its eos token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    special = ["<s>", "</s>", "<|im_start|>", "<|im_end|>"]
    book = PromptBook.load("esci")
    texts = [book.render("red shoes", "Red running shoes", perspective.name).user for perspective in book.every]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="<s>", eos_token="</s>", pad_token="</s>",
        additional_special_tokens=special[2:],
    )  # fmt: skip
    tokenizer.chat_template = template
    return tokenizer


def make_model(vocab_size, key_heads=2):
    """A random Llama of three layers, whose logits are far enough apart that rounding does not choose."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=vocab_size, hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=key_heads, max_position_embeddings=1024, bos_token_id=0, eos_token_id=1, pad_token_id=1,
        initializer_range=0.3, attn_implementation="sdpa",
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return LlamaForCausalLM(config).eval()


def save(folder: Path, template) -> str:
    """A folder with a model and its tokenizer, as AutoModelForCausalLM and AutoTokenizer load them."""
    tokenizer = make_tokenizer(template)
    tokenizer.save_pretrained(folder)
    make_model(len(tokenizer)).save_pretrained(folder)
    return str(folder)
