import pytest
import torch
from tiny_llms import CHATML, save

from lrkd.errors import UserError
from lrkd.generation.jobs import Completion, Job, Key, Sampling
from lrkd.generation.transformers_engine import TransformersEngine
from lrkd.prompts import PromptBook

SAMPLING = Sampling(max_new_tokens=8)
BOOK = PromptBook.load("esci")
JOBS = [
    Job(Key(f"p{n}", perspective.name, 0), BOOK.render(query, f"{query} of steel", perspective.name))
    for n, query in enumerate(("mug", "water bottle 1 l, 好"))
    for perspective in BOOK.every
]


@pytest.fixture(scope="module", params=[CHATML, None], ids=["chat", "plain"])
def folder(request, tmp_path_factory):
    return save(tmp_path_factory.mktemp("llm"), request.param)


def engine(folder, **settings):
    return TransformersEngine(folder, **{"sampling": SAMPLING, "precision": "float32", "device": "cpu"} | settings)


def by_key(completions):
    return {completion.key: completion for completion in completions}


def test_completions_are_what_generate_writes_for_the_rendered_prompt(folder):
    made = engine(folder)
    found = by_key(made.generate(JOBS))
    assert len(found) == len(JOBS)
    for job in JOBS:
        prompt = made.encoder.prompt_ids(job.prompt)
        end = made.encoder.end
        ids = made.model.generate(
            torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt)), max_new_tokens=8, do_sample=False,
            eos_token_id=end, pad_token_id=end,
        )[0, len(prompt) :].tolist()  # fmt: skip
        finished = ids[-1] == end
        text = made.encoder.tokenizer.decode(ids, skip_special_tokens=True)
        assert found[job.key] == Completion(job.key, text, finished, len(prompt), len(ids))


def test_what_tells_a_model_from_another(folder, tmp_path):
    made = engine(folder)
    assert made.teacher == folder
    assert made.weights == engine(folder).weights
    with torch.no_grad():
        made.model.lm_head.weight[0, 0] += 1
    made.model.save_pretrained(tmp_path)
    made.encoder.tokenizer.save_pretrained(tmp_path)
    assert engine(str(tmp_path)).weights != made.weights


def test_an_adapters_folder_is_a_model_and_an_adapter_goes_onto_one(folder, tmp_path):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(folder)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        adapted = get_peft_model(base, LoraConfig(r=4, target_modules=["v_proj"], init_lora_weights=False))
    adapted.save_pretrained(tmp_path)
    plain = by_key(engine(folder).generate(JOBS))
    as_model = engine(str(tmp_path))
    onto = engine(folder, adapter=str(tmp_path))
    found = by_key(as_model.generate(JOBS))
    assert found == by_key(onto.generate(JOBS))
    assert found != plain
    assert onto.teacher == f"{folder}+{tmp_path}"
    assert len({onto.weights, as_model.weights, engine(folder).weights}) == 3
    ids = torch.tensor([as_model.encoder.prompt_ids(JOBS[0].prompt)])
    torch.testing.assert_close(as_model.model(ids).logits, adapted.eval()(ids).logits, atol=1e-4, rtol=1e-4)


def test_bfloat16_is_another_model_dtype_and_close(folder):
    made = engine(folder, precision="bfloat16")
    assert made.model.dtype == torch.bfloat16
    assert len(list(made.generate(JOBS))) == len(JOBS)


def test_no_such_model_or_adapter_is_a_users_error(folder, tmp_path):
    with pytest.raises(UserError, match="cannot be loaded"):
        engine(str(tmp_path / "none"))
    with pytest.raises(UserError, match=r"with adapter '.*none': cannot be loaded as a causal language model"):
        engine(folder, adapter=str(tmp_path / "none"))


def test_a_prompt_that_is_too_long_is_named(folder):
    with pytest.raises(UserError, match=r"pair 'p0' has \d+ tokens; with max_new_tokens 1000 .* the 1024"):
        next(engine(folder, sampling=Sampling(max_new_tokens=1000)).generate(JOBS))
