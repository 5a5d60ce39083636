import pytest
import torch

from lrkd.generation import sampling as module
from lrkd.generation.jobs import Key, Sampling
from lrkd.generation.sampling import choose, job_draws, job_seed

# Probabilities 0.4, 0.3, 0.2, 0.1 for the tokens 2, 0, 3, 1.
LOGITS = torch.tensor([0.3, 0.1, 0.4, 0.2]).log()


def shares(sampling, logits=LOGITS, draws=10_000):
    """How often each token is drawn, over evenly spaced draws: exact to 1 / draws."""
    even = (torch.arange(draws, dtype=torch.float64) + 0.5) / draws
    chosen = choose(logits.expand(draws, -1), even, sampling)
    return torch.bincount(chosen, minlength=logits.shape[-1]) / draws


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
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float32), atol=2e-4, rtol=0)


def test_the_search_for_top_p_widens_until_it_has_enough(monkeypatch):
    logits = torch.randn(500, generator=torch.Generator().manual_seed(0))
    settings = Sampling(temperature=1.0, top_p=0.99)
    whole = shares(settings, logits)
    monkeypatch.setattr(module, "FIRST", 3)
    torch.testing.assert_close(shares(settings, logits), whole, atol=2e-4, rtol=0)
    kept = logits.softmax(0).sort(descending=True).values.cumsum(0) < 0.99
    assert int((whole > 0).sum()) <= int(kept.sum()) + 1


def test_temperature_zero_takes_the_likeliest():
    assert choose(LOGITS.unsqueeze(0), None, Sampling()).tolist() == [2]


def test_a_draw_never_hits_a_token_without_probability():
    logits = torch.tensor([[float("-inf"), 0.0, float("-inf")]] * 2)
    draws = torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64)
    assert choose(logits, draws, Sampling(temperature=1.0)).tolist() == [1, 1]


def test_the_key_and_the_seed_decide_what_is_drawn():
    keys = [Key("p1", "user_intent", 0), Key("p1", "user_intent", 1), Key("p1", "neutral", 0), Key("p2", "neutral", 0)]
    seeds = [job_seed(seed, key) for seed in (0, 1) for key in keys]
    assert len(set(seeds)) == 8
    assert job_seed(0, keys[0]) == seeds[0] < 2**63
    sampling = Sampling(temperature=1.0, max_new_tokens=5)
    assert job_draws(seeds[0], sampling) == job_draws(seeds[0], sampling) != job_draws(seeds[1], sampling)
    assert job_draws(seeds[0], Sampling()) == []
