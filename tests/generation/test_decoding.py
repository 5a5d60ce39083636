import dataclasses

import pytest
import torch
from tiny_llms import make_model
from transformers import AutoConfig, AutoModelForCausalLM

from lrkd.generation.decoding import Decoded, decode
from lrkd.generation.jobs import Sampling

END = 1
VOCABULARY = 97
GREEDY = Sampling(max_new_tokens=12)
SAMPLED = Sampling(max_new_tokens=12, temperature=0.9, top_p=0.9, seed=3)


def random_ids(length, seed):
    return torch.randint(2, VOCABULARY, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def prompts_and_groups():
    """Seven groups of unlike lengths: three prompts behind a prefix, the first one once more, and the prefix itself."""
    prompts, groups = [], []
    for group in range(7):
        prefix = random_ids(4 + 5 * group, group)
        own = [random_ids(2 + n, 100 + 10 * group + n) for n in range(3)]
        for part in [*own, own[0], []]:
            prompts.append(prefix + part)
            groups.append(group)
    return prompts, groups


PROMPTS, GROUPS = prompts_and_groups()
SEEDS = [1000 + n for n in range(len(PROMPTS))]


def run(model, which=None, *, groups=GROUPS, sampling=GREEDY, budget=400, end=END, seeds=SEEDS):
    which = list(range(len(PROMPTS)) if which is None else which)
    found = list(
        decode(
            model,
            [PROMPTS[i] for i in which],
            groups=[groups[i] for i in which],
            end=end,
            sampling=sampling,
            seeds=[seeds[i] for i in which],
            token_budget=budget,
        )
    )
    assert sorted(d.index for d in found) == list(range(len(which)))  # each once
    return {which[d.index]: dataclasses.replace(d, index=which[d.index]) for d in found}


def reference(model, index):
    prompt = torch.tensor([PROMPTS[index]])
    settings = {"max_new_tokens": GREEDY.max_new_tokens, "do_sample": False, "eos_token_id": END, "pad_token_id": END}
    ids = model.generate(prompt, attention_mask=torch.ones_like(prompt), **settings)[0, len(PROMPTS[index]) :].tolist()
    finished = ids[-1] == END
    return Decoded(index, ids[:-1] if finished else ids, finished)


@pytest.fixture(scope="module")
def model():
    return make_model(VOCABULARY)


@pytest.mark.parametrize("key_heads", [1, 2, 4])
def test_greedy_is_what_generate_writes_for_each_prompt_alone(key_heads):
    model = make_model(VOCABULARY, key_heads)
    found = run(model)
    assert found == {i: reference(model, i) for i in range(len(PROMPTS))}


@pytest.mark.parametrize("kind", ["qwen3", "gemma3_text", "phi3", "gpt2"])
def test_other_architectures_too(kind):
    config = AutoConfig.for_model(
        kind, vocab_size=VOCABULARY, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, query_pre_attn_scalar=8, max_position_embeddings=1024, bos_token_id=0,
        eos_token_id=END, pad_token_id=END, initializer_range=0.3,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval()
    assert run(model) == {i: reference(model, i) for i in range(len(PROMPTS))}


def test_some_end_by_themselves_and_some_at_the_limit(model):
    # Whatever token a completion has third: with that as the end token, it has two and is finished.
    ids = run(model)[0].ids
    assert len(ids) == 12
    end = ids[2]
    found = run(model, end=end)
    assert found[0] == Decoded(0, ids[: ids.index(end)], True)
    assert {len(d.ids) == 12 for d in found.values() if not d.finished} <= {True}


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED])
@pytest.mark.parametrize("budget", [1, 150, 100_000])
def test_a_completion_does_not_depend_on_its_neighbours(model, sampling, budget):
    together = run(model, sampling=sampling)
    assert len({tuple(d.ids) for d in together.values()}) > len(PROMPTS) // 2
    assert run(model, reversed(range(len(PROMPTS))), sampling=sampling, budget=budget) == together
    unshared = list(range(len(PROMPTS)))  # every prompt a group of its own: nothing is shared
    assert run(model, groups=unshared, sampling=sampling, budget=budget) == together
    assert run(model, [5], sampling=sampling) == {5: together[5]}


def test_large_groups_are_cut(model):
    one_group = [0] * len(PROMPTS)
    assert run(model, groups=one_group, sampling=SAMPLED) == run(model, sampling=SAMPLED)


def test_another_seed_is_another_completion(model):
    other = run(model, sampling=SAMPLED, seeds=[seed + 1 for seed in SEEDS])
    same = run(model, sampling=SAMPLED)
    assert sum(other[i].ids != same[i].ids for i in same) > len(same) // 2
    # 0 and 3 have equal prompts: one computation, two draws
    assert same[0].ids != same[3].ids


def test_the_model_and_the_global_generator_are_left_as_they_were(model):
    model.train()
    model.model.layers[1].eval()
    before = [module.training for module in model.modules()]
    torch.manual_seed(5)
    state = torch.get_rng_state()
    for decoded in decode(model, PROMPTS[:5], groups=GROUPS[:5], end=END, sampling=SAMPLED, seeds=SEEDS[:5]):
        assert decoded.ids
        assert [module.training for module in model.modules()] == before  # between two completions, too
        assert model.config._attn_implementation == "sdpa"
        assert torch.is_grad_enabled()
    assert torch.equal(torch.get_rng_state(), state)
    model.eval()


def test_adapters_count_and_autocast_works():
    from peft import LoraConfig, get_peft_model

    model = make_model(VOCABULARY)
    plain = run(model)
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False))
    adapted.eval()
    found = run(adapted)
    assert found != plain
    assert found == {i: reference(adapted, i) for i in range(len(PROMPTS))}
    with adapted.disable_adapter():
        assert run(adapted) == plain
    with torch.autocast("cpu", torch.bfloat16):
        assert len(run(adapted.train())) == len(PROMPTS)


def test_what_cannot_be_decoded_is_refused(model):
    with pytest.raises(ValueError, match="prompt 1 has no token"):
        next(decode(model, [[3], []], groups=[0, 0], end=END, sampling=GREEDY, seeds=[0, 0]))
    model.set_attn_implementation("eager")
    with pytest.raises(ValueError, match="sdpa"):
        run(model)
    model.set_attn_implementation("sdpa")
    model.config.layer_types = ["linear_attention", "full_attention", "full_attention"]
    with pytest.raises(ValueError, match="linear_attention"):
        run(model)
    del model.config.layer_types


def test_no_prompt_is_no_completion(model):
    assert run(model, []) == {}
