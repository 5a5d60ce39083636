"""The next token: the most likely one, or one drawn."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from lrkd.generation.jobs import Key, Sampling

FIRST = 256
"""Tokens that the search for top_p's set looks at first: sorting a whole vocabulary takes longer than the model."""


def job_seed(seed: int, key: Key) -> int:
    """The seed of a job's draws, by its key alone (63 bits)."""
    text = "\0".join((str(seed), key.pair_id, key.perspective, str(key.sample)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def job_draws(seed: int, sampling: Sampling) -> list[float]:
    """A number in [0, 1) for every token that a job may write; none where nothing is drawn."""
    if not sampling.temperature:
        return []
    generator = torch.Generator().manual_seed(seed)
    draws: list[float] = torch.rand(sampling.max_new_tokens, generator=generator, dtype=torch.float64).tolist()
    return draws


def choose(logits: Tensor, draws: Tensor | None, sampling: Sampling) -> Tensor:
    """The next tokens.

    A token is drawn by the inverse of the cumulative distribution, so that one number decides it, whatever else is in
    the batch. Temperature comes first, then top_k, then top_p within what top_k left (as in transformers).

    Args:
        logits: (N, V) float.
        draws: (N,) float64 in [0, 1); unused at temperature 0.
        sampling: How.

    Returns:
        (N,) int64 token ids.
    """
    if draws is None or not sampling.temperature:
        return logits.argmax(-1)
    logits = logits.float() / sampling.temperature
    if sampling.top_k is None and sampling.top_p == 1:
        return _draw(logits.softmax(-1), draws)
    probabilities, ids = _likeliest(logits, sampling)
    before = probabilities.cumsum(-1) - probabilities
    kept = torch.where(before < sampling.top_p, probabilities, 0)
    return ids.gather(-1, _draw(kept, draws).unsqueeze(-1)).squeeze(-1)


def _likeliest(logits: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """Falling probabilities (N, K) in float64 and their ids (N, K): top_k's, else enough to hold top_p."""
    vocabulary = logits.shape[-1]
    if sampling.top_k is not None:
        values, ids = logits.topk(min(sampling.top_k, vocabulary), -1)
        return values.double().softmax(-1), ids
    total = logits.logsumexp(-1, keepdim=True)
    count = min(FIRST, vocabulary)
    while True:
        values, ids = logits.topk(count, -1)
        probabilities = (values - total).double().exp()
        if count == vocabulary or bool((probabilities.sum(-1) >= sampling.top_p).all()):
            return probabilities, ids
        count = min(8 * count, vocabulary)


def _draw(weights: Tensor, draws: Tensor) -> Tensor:
    """(N,) places in (N, K) weights, at least 0, of any sum."""
    cumulative = weights.double().cumsum(-1)
    total = cumulative[:, -1:].contiguous()
    place = torch.searchsorted(cumulative, draws.unsqueeze(-1) * total, right=True)
    last = torch.searchsorted(cumulative, total)  # never a place of no weight, however the product was rounded
    return torch.minimum(place, last).squeeze(-1)
