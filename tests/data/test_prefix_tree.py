import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from lrkd.data.prefix_tree import Branch, PrefixTree, attention_mask, collate, grow
from lrkd.teacher.likelihood import completion_logps, token_logps


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    settings = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
    return LlamaForCausalLM(LlamaConfig(vocab_size=97, num_key_value_heads=2, pad_token_id=0, **settings)).eval()


def random_ids(length, seed):
    return torch.randint(1, 97, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


PREFIX = random_ids(11, 0)
PAIR = [(PREFIX + random_ids(3, 1), random_ids(7, 2)), (PREFIX + random_ids(2, 3), random_ids(5, 4))]
PREFERENCE = [(random_ids(6, 5), random_ids(4, 6)), (random_ids(6, 5), random_ids(1, 7))]


def test_a_tree_by_hand():
    tree = grow([([1, 2, 3], [7, 8]), ([1, 2, 4, 5], [9])])
    assert tree == PrefixTree([1, 2], [Branch([3, 7, 8], 2), Branch([4, 5, 9], 1)])
    assert (tree.length, tree.unpacked) == (8, 10)
    batch = collate([tree, PrefixTree([6], [Branch([5], 1)])])
    assert batch.ids.tolist() == [[1, 2, 3, 7, 8, 4, 5, 9], [6, 5, 0, 0, 0, 0, 0, 0]]
    assert batch.position.tolist() == [[0, 1, 2, 3, 4, 2, 3, 4], [0, 1, 0, 0, 0, 0, 0, 0]]
    assert batch.branch.tolist() == [[0, 0, 1, 1, 1, 2, 2, 2], [0, 1, -1, -1, -1, -1, -1, -1]]
    # 7 is predicted where 3 stands, 8 where 7 does, 9 where 5 does; in the second row (8 places on) 5 by the prefix.
    assert batch.predictor.tolist() == [2, 3, 6, 8]
    assert batch.target.tolist() == [7, 8, 9, 5]
    assert batch.completion.tolist() == [0, 0, 1, 2]
    assert batch.completions == 3


def test_who_sees_whom_by_hand():
    seen = attention_mask(torch.tensor([[0, 0, 1, 1, 2, -1]]))[0, 0].int().tolist()
    assert seen == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 0, 0, 1, 0],
        [0, 0, 0, 0, 0, 1],
    ]


def test_equal_prompts_share_all_of_themselves():
    assert grow(PREFERENCE).prefix == PREFERENCE[0][0]
    assert grow(PREFERENCE, most=2).prefix == PREFERENCE[0][0][:2]


def test_log_probabilities_and_gradients_are_those_of_separate_sequences(model):
    model.zero_grad()
    batch = collate([grow(PAIR), grow(PREFERENCE)])
    logps = token_logps(model, batch)
    sums, lengths = completion_logps(logps, batch)
    (-logps.sum()).backward()
    packed = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    losses = []
    for prompt, completion in PAIR + PREFERENCE:
        labels = torch.tensor([[-100] * len(prompt) + completion])
        losses.append(model(torch.tensor([prompt + completion]), labels=labels).loss * len(completion))
    sum(losses).backward()
    assert lengths.tolist() == [7, 5, 4, 1]
    torch.testing.assert_close(sums, -torch.stack(losses), rtol=1e-5, atol=1e-5)
    for one, parameter in zip(packed, model.parameters(), strict=True):
        torch.testing.assert_close(one, parameter.grad, rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("others", [[], [PREFERENCE], [[(random_ids(60, 8), random_ids(5, 9))]]])
def test_padding_and_neighbours_change_nothing(model, others):  # trap 13
    alone, _ = completion_logps(token_logps(model, one := collate([grow(PAIR)])), one)
    batch = collate([grow(PAIR), *map(grow, others)])
    together, _ = completion_logps(token_logps(model, batch), batch)
    torch.testing.assert_close(together[:2], alone, rtol=1e-5, atol=1e-5)


def test_an_empty_completion_and_an_empty_prompt_are_refused():
    for branch in (Branch([1, 2], 0), Branch([1], 1)):
        with pytest.raises(ValueError, match="completion"):
            collate([PrefixTree([], [branch])])


def test_other_attention_is_refused(model):
    model.set_attn_implementation("eager")
    with pytest.raises(ValueError, match="sdpa"):
        token_logps(model, collate([grow(PAIR)]))
    model.set_attn_implementation("sdpa")
