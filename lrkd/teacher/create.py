"""``teacher create``: a small language model from a config, for trying the whole method without downloads."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from lrkd.data.pairs import read_pairs
from lrkd.data.rationales import rationales_path, read_rationales
from lrkd.data.types import ItemText, LabelSet
from lrkd.errors import UserError
from lrkd.prompts.book import PromptBook

END, PAD = "<|end|>", "<|pad|>"


def create_teacher(
    *,
    root: Path,
    out: Path,
    prompts: str = "esci",
    label_set: str = "esci",
    item_text: str = "{title}",
    vocabulary: int = 2048,
    hidden_size: int = 192,
    layers: int = 4,
    heads: int = 4,
    seed: int = 0,
) -> None:
    """Make an untrained Llama with a tokenizer of its own, and save both as transformers does.

    The tokenizer (byte-level BPE) learns from the training pairs' prompts and rationales, so that they take few tokens.
    It is no pretrained model: it knows nothing but what TeacherSFT will teach it.

    Args:
        root: The data root whose words the tokenizer learns.
        out: The folder to make.
        prompts: A shipped prompt book's name, or a YAML file.
        label_set: esci, wands, or a YAML file.
        item_text: Template of the item's text.
        vocabulary: Tokens.
        hidden_size: Width.
        layers: Transformer layers.
        heads: Attention heads.
        seed: Of the weights.

    Raises:
        UserError: The folder is there already, or the root has no rationales.
    """
    if out.exists():
        raise UserError(f"{out}: is there already; give another --out, or delete it")
    book = PromptBook.load(prompts)
    texts = _texts(root, book, LabelSet.load(label_set), ItemText(item_text))
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=_tokenizer(texts, vocabulary), eos_token=END, pad_token=PAD, model_max_length=2048
    )
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        intermediate_size=4 * hidden_size,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    Console(highlight=False, soft_wrap=True).print(
        f"Wrote an untrained Llama of {model.num_parameters():,} parameters to {out}; its {len(tokenizer):,} tokens "
        f"were learned from {len(texts):,} texts of {root}"
    )


def _texts(root: Path, book: PromptBook, labels: LabelSet, item_text: ItemText) -> list[str]:
    """The training pairs' prompts and rationales."""
    columns = ["pair_id", "query", "split", *item_text.fields]
    train = {
        pair["pair_id"]: pair for pair in read_pairs(root, columns=columns).to_pylist() if pair["split"] == "train"
    }
    names = {perspective.name for perspective in book.perspectives}
    texts: list[str] = []
    for row in read_rationales(root, labels=labels).to_pylist():
        if row["pair_id"] in train and row["perspective"] in names:
            pair = train[row["pair_id"]]
            prompt = book.render(pair["query"], item_text.render(pair), row["perspective"])
            texts += [prompt.system, prompt.user, book.completion(row["rationale"], row["verdict"])]
    if not texts:
        raise UserError(f"{rationales_path(root)}: no rationale of a training pair, so there is nothing to learn from")
    return texts


def _tokenizer(texts: list[str], vocabulary: int) -> object:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer
