"""The first gate of an export: at any batch size and length the graph gives the numbers of the student in torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from lrkd.data.pair_tokens import TOKEN, FlatTokens, PairLayout, TokenCache
from lrkd.errors import UserError

BATCHES = (1, 2, 3, 5, 8)
"""The sizes that the lengths take turns with."""
WORDS = 64
"""How many different tokens a batch is drawn from: few, so that query and item have some in common."""

Run = Callable[[dict[str, np.ndarray]], list[np.ndarray]]


@dataclass
class Parity:
    """How far a graph is from the student in torch, over a sweep of shapes.

    Args:
        shapes: How many shapes were compared.
        longest: The length of the longest.
        logits: The largest difference of a logit.
        latents: The largest difference of a latent's element.
    """

    shapes: int = 0
    longest: int = 0
    logits: float = 0.0
    latents: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for the card."""
        return asdict(self)


def sweep(
    network: nn.Module, run: Run, layout: PairLayout, *, longest: int, vocabulary: int, tolerance: float
) -> Parity:
    """Compare at every length from 2 to the longest, with batches of 1 to 8 pairs of random tokens in turn.

    A shape fails only if a second draw of tokens fails, too: a graph of nearest tokens has other edges where two are
    equally near but for rounding, which no export can mend.

    Args:
        network: The student with tensors for arguments.
        run: The graph: inputs by name to outputs.
        layout: Where the tokenizer puts special tokens.
        longest: Tokens of a pair at most.
        vocabulary: How many token ids there are.
        tolerance: How far outputs may be apart.

    Raises:
        UserError: They are further apart, or not finite; names the shape and by how much.
    """
    parity = Parity(longest=longest)
    for number, length in enumerate(range(2, longest + 1)):
        rows = BATCHES[number % len(BATCHES)]
        for seed in range(2):
            batch = random_batch(layout, rows, length, vocabulary, np.random.default_rng([length, seed]))
            differences = _differences(network, run, batch)
            if max(differences) <= tolerance:
                break
        else:
            logits, latents = differences
            raise UserError(
                f"the exported graph differs from the student at batch {rows}, length {length}: by {logits:.2g} in "
                f"logits and {latents:.2g} in latents, where {tolerance:.0e} is allowed; nothing was written"
            )
        parity.shapes += 1
        parity.logits = max(parity.logits, differences[0])
        parity.latents = max(parity.latents, differences[1])
    return parity


def _differences(network: nn.Module, run: Run, batch: dict[str, np.ndarray]) -> tuple[float, float]:
    """The largest differences in logits and in latents; infinite where a number is not finite."""
    with torch.inference_mode():
        expected = network(**{name: torch.from_numpy(array) for name, array in batch.items()})
    found = run(batch)
    each = [
        float(np.abs(mine.numpy() - theirs).max()) if np.isfinite(theirs).all() else np.inf
        for mine, theirs in zip(expected, found, strict=True)
    ]
    return each[0], each[1] if len(each) > 1 else 0.0


def random_batch(
    layout: PairLayout, rows: int, length: int, vocabulary: int, generator: np.random.Generator
) -> dict[str, np.ndarray]:
    """B pairs of random tokens laid out as the tokenizer does, the first as long as the batch.

    Args:
        layout: Where the tokenizer puts special tokens.
        rows: B.
        length: L; pairs of a length that not even the special tokens fit into are cut off.
        vocabulary: How many token ids there are.
        generator: Of lengths and tokens.

    Returns:
        ``ids``, ``mask``, ``segments`` and ``type_ids`` (B, L).
    """
    text = generator.integers(0, max(1, length - layout.special + 1), rows)
    text[0] = max(0, length - layout.special)
    query = generator.integers(0, text + 1)
    words = generator.integers(0, vocabulary, WORDS)
    flat = [
        FlatTokens(generator.choice(words, int(some.sum())).astype(TOKEN), np.concatenate([[0], np.cumsum(some)]))
        for some in (query, text - query)
    ]
    room = length + layout.special
    tokens = TokenCache(flat[0], flat[1], layout, max_length=room + 2, query_cap=max(1, length - 1))
    return {name: array[:, :length] for name, array in tokens.batch(np.arange(rows)).items()}
