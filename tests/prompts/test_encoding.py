import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from lrkd.errors import UserError
from lrkd.prompts.book import Prompt
from lrkd.prompts.encoding import PromptEncoder

PROMPT = Prompt("Be brief.", "Query: mug\nProduct: cup", "Judge. 好的")
COMPLETION = "It fits, 好.\nVerdict: Exact"
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
THINKING = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' %}<think>\n\n</think>\n\n{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
OPENS = CHATML.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}")  # no switch, as DeepSeek-R1's
OPENS_BARE = OPENS.replace("<think>\n", "<think>")
BOS_IN_TEMPLATE = "{{ bos_token }}{% for m in messages %}{{ m.content }}</s>{% endfor %}"
SPECIAL = ["<s>", "</s>", "<|im_start|>", "<|im_end|>", "<think>", "</think>"]


def tokenizer(template=None, *, adds_bos=False, merges=False):
    from tokenizers.processors import TemplateProcessing

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = None if merges else pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = None if merges else decoders.ByteLevel()
    texts = [PROMPT.user, COMPLETION, "Answer:\n", "\nI"]
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=SPECIAL, show_progress=False,
        initial_alphabet=[] if merges else pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    made.train_from_iterator(texts * 3, trainer)
    if adds_bos:
        made.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", made.token_to_id("<s>"))])
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=made,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="</s>",
        additional_special_tokens=SPECIAL[2:],
    )
    wrapped.chat_template = template
    return wrapped


def texts(encoder):
    before, after = encoder.encode(PROMPT, COMPLETION)
    return encoder.tokenizer.decode(before), encoder.tokenizer.decode(after), before, after


@pytest.mark.parametrize(
    ("template", "begins", "ends", "end"),
    [
        (None, "Be brief.\n\nQuery: mug", "好的\n\nAnswer:\n", "</s>"),
        (CHATML, "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user", "<|im_start|>assistant\n", "<|im_end|>"),
        (THINKING, "<|im_start|>system\nBe brief.", "<|im_start|>assistant\n<think>\n\n</think>\n\n", "<|im_end|>"),
        (OPENS, "<|im_start|>system\nBe brief.", "<|im_start|>assistant\n<think>\n\n</think>\n\n", "<|im_end|>"),
        (OPENS_BARE, "<|im_start|>system\nBe brief.", "<|im_start|>assistant\n<think>\n\n</think>\n\n", "<|im_end|>"),
        (BOS_IN_TEMPLATE, "<s>Be brief.</s>Query", "好的</s>", "</s>"),
    ],
)  # fmt: skip
def test_decoded_ids_are_the_prompt_and_the_completion_with_one_end_token(template, begins, ends, end):  # traps 3 and 5
    encoder = PromptEncoder(tokenizer(template))
    before, after, ids, _ = texts(encoder)
    assert before.startswith(begins)
    assert before.endswith(ends)
    assert after == COMPLETION + end
    assert before.count("<think>") == before.count("</think>") <= 1
    assert encoder.prompt_ids(PROMPT) == ids


@pytest.mark.parametrize("template", [None, CHATML, THINKING, OPENS])
def test_the_prompts_ids_are_a_prefix_of_the_whole_texts(template):  # trap 4
    encoder = PromptEncoder(tokenizer(template))
    before, after = encoder.encode(PROMPT, COMPLETION)
    whole = encoder.tokenizer(encoder.prompt_text(PROMPT) + COMPLETION, add_special_tokens=False).input_ids
    assert before + after[:-1] == whole


@pytest.mark.parametrize("template", [None, BOS_IN_TEMPLATE])
def test_there_is_never_a_second_bos(template):  # trap 5
    encoder = PromptEncoder(tokenizer(template, adds_bos=True))
    bos = encoder.tokenizer.bos_token_id
    before, after = encoder.encode(PROMPT, COMPLETION)
    assert before[0] == bos
    assert (before + after).count(bos) == 1


def test_models_with_and_without_a_switch_are_asked_alike():  # trap 5
    closed, switched = PromptEncoder(tokenizer(OPENS)), PromptEncoder(tokenizer(THINKING))
    assert closed.encode(PROMPT, COMPLETION) == switched.encode(PROMPT, COMPLETION)
    ends_in_a_tag = Prompt("", "Query: mug", "Write no <think>")
    assert PromptEncoder(tokenizer(CHATML)).prompt_text(ends_in_a_tag).endswith("<|im_start|>assistant\n")


def test_a_tokenizer_that_merges_across_the_border_is_refused():  # trap 4
    merging = tokenizer(merges=True)
    with pytest.raises(UserError, match="last token changes"):
        PromptEncoder(merging).encode(PROMPT, COMPLETION)


def test_no_end_token_is_an_error():
    bare = tokenizer()
    bare.eos_token = None
    with pytest.raises(UserError, match="eos"):
        PromptEncoder(bare).encode(PROMPT, COMPLETION)
