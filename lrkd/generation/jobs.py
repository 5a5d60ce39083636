"""What engines are asked and what they answer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from lrkd.prompts.book import Prompt


class Key(NamedTuple):
    """What names a rationale; everything is joined by it, never by order (trap 17)."""

    pair_id: str
    perspective: str
    sample: int


def job_seed(seed: int, key: Key, bits: int = 63) -> int:
    """The seed of what is drawn for a rationale, by its key alone: neither order nor batch nor process changes it."""
    digest = hashlib.sha256(json.dumps([seed, *key]).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> (64 - bits)


@dataclass(frozen=True)
class Job:
    """A rationale to write."""

    key: Key
    prompt: Prompt


@dataclass(frozen=True)
class Completion:
    """What a model wrote for a job."""

    key: Key
    text: str
    finished: bool
    """Whether it ended by itself, and not at the token limit."""
    prompt_tokens: int
    tokens: int
    """Tokens written, the end token among them."""


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen.

    Args:
        max_new_tokens: Tokens of a completion at most.
        temperature: 0: the most likely token always (greedy), else the softmax's temperature.
        top_p: Sample from the most likely tokens that together have this probability; 1: from all.
        top_k: Sample from this many most likely tokens; None: from all.
        seed: With a job's key it decides what is drawn, so that neither order nor batch changes a completion's draws.

    Raises:
        ValueError: An argument is out of range.
    """

    max_new_tokens: int = 192
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens is at least 1, got {self.max_new_tokens}")
        if self.temperature < 0 or not 0 < self.top_p <= 1 or (self.top_k is not None and self.top_k < 1):
            raise ValueError(
                "temperature is at least 0, top_p above 0 and at most 1, top_k at least 1, got "
                f"{self.temperature}, {self.top_p} and {self.top_k}"
            )


class Engine(Protocol):
    """Something that writes completions."""

    @property
    def teacher(self) -> str:
        """The model's name, as rationales keep it."""

    def generate(self, jobs: Sequence[Job]) -> Iterator[Completion]:
        """The jobs' completions, in any order, each as soon as it is there; every job has one exactly.

        Raises:
            UserError: The model cannot be reached or refuses the prompts, with how to mend it.
        """
