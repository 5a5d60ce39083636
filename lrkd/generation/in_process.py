"""Completions from a model in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from lrkd.generation.decoding import decode
from lrkd.generation.jobs import Completion, Job, Sampling, job_seed
from lrkd.prompts.encoding import PromptEncoder


def complete(
    model: Any, encoder: PromptEncoder, jobs: Sequence[Job], sampling: Sampling, token_budget: int
) -> Iterator[Completion]:
    """Write the completions of some jobs.

    Args:
        model: A causal language model with sdpa attention, with or without adapters.
        encoder: Its prompts' encoder.
        jobs: What to write; those of one pair share the computation of what their prompts begin with.
        sampling: How tokens are chosen.
        token_budget: Tokens whose keys and values may be kept at a time.

    Yields:
        Every job's completion, each as soon as it is there.
    """
    prompts = [encoder.prompt_ids(job.prompt) for job in jobs]
    numbers = {pair_id: number for number, pair_id in enumerate(dict.fromkeys(job.key.pair_id for job in jobs))}
    for done in decode(
        model,
        prompts,
        groups=[numbers[job.key.pair_id] for job in jobs],
        end=encoder.end,
        sampling=sampling,
        seeds=[job_seed(sampling.seed, job.key) for job in jobs],
        token_budget=token_budget,
    ):
        text = encoder.tokenizer.decode(done.ids, skip_special_tokens=True)
        key = jobs[done.index].key
        yield Completion(key, text, done.finished, len(prompts[done.index]), len(done.ids) + done.finished)
