import pytest
import torch

from lrkd.generation import sampling as module
from lrkd.generation.jobs import Key, Sampling, job_seed
from lrkd.generation.sampling import choose, job_draws

# Probabilities 0.4, 0.3, 0.2, 0.1 for the tokens 2, 0, 3, 1.
LOGITS = torch.tensor([0.3, 0.1, 0.4, 0.2]).log()


DRAWS = 100_000
"""Draws of a test: a share's standard deviation is at most 0.0016; tests allow five of them."""


def shares(sampling, logits=LOGITS):
    """How often each token is drawn."""
    draws = torch.tensor(job_draws(7, Sampling(temperature=1.0, max_new_tokens=DRAWS)))
    pieces = [choose(logits.expand(len(part), -1), part, sampling) for part in draws.split(10_000)]
    return torch.bincount(torch.cat(pieces), minlength=logits.shape[-1]) / DRAWS


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [0.3, 0.1, 0.4, 0.2]),
        ({"top_k": 2}, [3 / 7, 0, 4 / 7, 0]),
        ({"top_k": 9}, [0.3, 0.1, 0.4, 0.2]),
        ({"top_p": 0.65}, [3 / 7, 0, 4 / 7, 0]),  # 0.4 and 0.3 reach it
        ({"top_p": 0.75}, [3 / 9, 0, 4 / 9, 2 / 9]),
        ({"top_p": 0.1}, [0, 0, 1, 0]),
        ({"top_k": 3, "top_p": 0.5}, [3 / 7, 0, 4 / 7, 0]),  # of top_k's 4/9, 3/9, 2/9 the first two
        ({"top_k": 3, "top_p": 0.42}, [0, 0, 1, 0]),  # 4/9 > 0.42: top_p counts within top_k
        # squared and normalised: 0.09, 0.01, 0.16, 0.04 over 0.3
        ({"temperature": 0.5}, [0.3, 0.1 / 3, 1.6 / 3, 0.4 / 3]),
    ],
)
def test_tokens_are_drawn_by_their_probabilities(settings, expected):
    found = shares(Sampling(**{"temperature": 1.0} | settings))
    expected = torch.tensor(expected, dtype=torch.float32)
    assert found[expected == 0].tolist() == [0] * int((expected == 0).sum())
    torch.testing.assert_close(found, expected, atol=0.008, rtol=0)


@pytest.mark.parametrize("top_p", [1.0, 0.99, 0.5])
def test_looking_at_a_few_tokens_first_changes_no_probability(monkeypatch, top_p):
    logits = torch.randn(40, generator=torch.Generator().manual_seed(0))
    probabilities, order = logits.softmax(0).sort(descending=True)
    kept = torch.where(probabilities.cumsum(0) - probabilities < top_p, probabilities, 0)
    expected = torch.empty(40).scatter(0, order, kept / kept.sum())
    for first in (3, 40):
        monkeypatch.setattr(module, "FIRST", first)
        torch.testing.assert_close(shares(Sampling(temperature=1.0, top_p=top_p), logits), expected, atol=0.008, rtol=0)


def test_temperature_zero_takes_the_likeliest():
    assert choose(LOGITS.unsqueeze(0), None, Sampling()).tolist() == [2]


def test_a_draw_never_hits_a_token_without_probability():
    logits = torch.tensor([[float("-inf"), 0.0, float("-inf")]] * 2)
    draws = torch.tensor([0, 2**63 - 1])
    assert choose(logits, draws, Sampling(temperature=1.0)).tolist() == [1, 1]


def test_the_key_and_the_seed_decide_what_is_drawn():
    keys = [Key("p1", "user_intent", 0), Key("p1", "user_intent", 1), Key("p1", "neutral", 0), Key("p2", "neutral", 0)]
    seeds = [job_seed(seed, key) for seed in (0, 1) for key in keys]
    assert len(set(seeds)) == 8
    assert job_seed(0, keys[0]) == seeds[0] < 2**63
    sampling = Sampling(temperature=1.0, max_new_tokens=5)
    assert job_draws(seeds[0], sampling) == job_draws(seeds[0], sampling) != job_draws(seeds[1], sampling)
    assert job_draws(seeds[0], Sampling()) == []


def test_uniform_numbers_are_those_of_splitmix64():
    # SplitMix64's first two outputs for seed 0, as java.util.SplittableRandom has them
    outputs = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4]
    seeds = torch.tensor([1, 2]) * module.GOLDEN
    expected = [((output >> 12) + 0.5) * 2**-52 for output in outputs]
    assert module._uniform(seeds).tolist() == expected


def test_last_digits_change_a_draw_only_where_tokens_all_but_tie():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2_000, 600, generator=generator)
    draws = torch.tensor(job_draws(1, Sampling(temperature=1.0, max_new_tokens=2_000)))
    for settings in (Sampling(temperature=1.0), Sampling(temperature=1.0, top_p=0.9)):
        nudged = logits + 1e-6 * torch.randn(logits.shape, generator=generator)
        assert torch.equal(choose(logits, draws, settings), choose(nudged, draws, settings))
