"""The next token: the most likely one, or one drawn.

What is drawn for a job is decided by its key and the seed alone. A token's noise is a hash of the job's number for the
step and of the token's id, and the token with the largest log-probability plus Gumbel noise is taken: a draw from the
softmax. A logit's last digits depend on the batch; here they matter only where two tokens all but tie. (With one number
and a cumulative distribution they would move every boundary.)
"""

from __future__ import annotations

import torch
from torch import Tensor

from lrkd.generation.jobs import Sampling

FIRST = 256
"""Most likely tokens that are looked at first: sorting a whole vocabulary takes longer than the model."""
GOLDEN, MIX_1, MIX_2 = -0x61C8864680B583EB, -0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15
"""SplitMix64's constants (Steele, Lea and Flood 2014) as signed numbers."""


def job_draws(seed: int, sampling: Sampling) -> list[int]:
    """A number for every token that a job may write; none where nothing is drawn."""
    if not sampling.temperature:
        return []
    generator = torch.Generator().manual_seed(seed)
    draws: list[int] = torch.randint(2**63 - 1, (sampling.max_new_tokens,), generator=generator).tolist()
    return draws


def choose(logits: Tensor, draws: Tensor | None, sampling: Sampling) -> Tensor:
    """The next tokens.

    Temperature comes first, then top_k, then top_p within what top_k left (as in transformers).

    Args:
        logits: (N, V) float.
        draws: (N,) int64, of :func:`job_draws`; unused at temperature 0.
        sampling: How.

    Returns:
        (N,) int64 token ids.
    """
    if draws is None or not sampling.temperature:
        return logits.argmax(-1)
    logits = logits.float() / sampling.temperature
    if sampling.top_k is None and sampling.top_p == 1:
        return _draw_from_all(logits, draws)
    logps, ids = _likeliest(logits, sampling)
    probabilities = logps.double().exp()
    before = probabilities.cumsum(-1) - probabilities
    return _draw(logps.masked_fill(before >= sampling.top_p, float("-inf")), ids, draws)


def _likeliest(logits: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """Falling log-probabilities (N, K) and their ids (N, K): top_k's, else enough to hold top_p."""
    vocabulary = logits.shape[-1]
    if sampling.top_k is not None:
        values, ids = logits.topk(min(sampling.top_k, vocabulary), -1)
        return values.log_softmax(-1), ids
    total = logits.logsumexp(-1, keepdim=True)
    count = min(FIRST, vocabulary)
    while True:
        values, ids = logits.topk(count, -1)
        logps = values - total
        if count == vocabulary or bool((logps.exp().sum(-1) >= sampling.top_p).all()):
            return logps, ids
        count = min(8 * count, vocabulary)


def _draw_from_all(logits: Tensor, draws: Tensor) -> Tensor:
    """First whether the token is one of the most likely ones, then which of them; the others are seldom looked at."""
    values, ids = logits.topk(min(FIRST, logits.shape[-1]), -1)
    chosen = _draw(values, ids, draws)
    mass = (values.logsumexp(-1) - logits.logsumexp(-1)).exp()
    rare = (_uniform(draws) >= mass).nonzero().squeeze(-1)
    if len(rare) and ids.shape[-1] < logits.shape[-1]:
        rest = logits[rare].scatter(-1, ids[rare], float("-inf"))
        every = torch.arange(logits.shape[-1], device=logits.device).expand_as(rest)
        chosen[rare] = _draw(rest, every, draws[rare])
    return chosen


def _draw(logps: Tensor, ids: Tensor, draws: Tensor) -> Tensor:
    """(N,) ids of (N, K), drawn by their log-probabilities, which need no norm."""
    noise = -(-_uniform(draws.unsqueeze(-1) + (ids + 1) * GOLDEN).log()).log()
    return ids.gather(-1, (logps + noise).argmax(-1, keepdim=True)).squeeze(-1)


def _uniform(numbers: Tensor) -> Tensor:
    """Float64 in (0, 1) of int64, any shape: SplitMix64's finaliser."""
    x = (numbers ^ _shifted(numbers, 30)) * MIX_1
    x = (x ^ _shifted(x, 27)) * MIX_2
    return (_shifted(x ^ _shifted(x, 31), 12).double() + 0.5) * 2**-52


def _shifted(x: Tensor, by: int) -> Tensor:
    """A logical shift to the right; torch's is arithmetic."""
    return (x >> by) & ((1 << (64 - by)) - 1)
