"""What a student makes of pairs: the state that stands for a pair in its head, the latents, the probabilities."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from rich.progress import track

from lrkd.data.pair_tokens import TokenCache
from lrkd.sentence_encoder import Precision
from lrkd.student import StudentLRKD
from lrkd.student.encoder import pool
from lrkd.student.reading import token_batch


@dataclass(frozen=True)
class Features:
    """Of N pairs, float32.

    Args:
        state: (N, H) the encoder's state as the head sees it: [CLS], or the mean over the real tokens.
        latents: (N, P, R); None without an extractor.
        probabilities: (N, C) calibrated, in the label set's order.
    """

    state: np.ndarray
    latents: np.ndarray | None
    probabilities: np.ndarray


@torch.inference_mode()
def student_features(
    model: StudentLRKD,
    tokens: TokenCache,
    rows: np.ndarray,
    *,
    batch_size: int = 64,
    precision: Precision = "float32",
) -> Features:
    """Run a student over some pairs.

    Args:
        model: In eval mode; where it is, it is computed.
        tokens: The pairs' tokens.
        rows: (N,) which of them; at least one.
        batch_size: Pairs a forward pass; those of like length go together.
        precision: In which to compute: bfloat16 is autocast's.

    Returns:
        The features in the order of ``rows``.
    """
    rows = np.asarray(rows, np.int64)
    order = np.argsort(-tokens.lengths[rows], kind="stable")
    pieces: list[tuple[np.ndarray | None, ...]] = []
    for start in track(range(0, len(rows), batch_size), description="Running the student", transient=True):
        batch = token_batch(tokens, rows[order[start : start + batch_size]], model.device)
        with torch.autocast(model.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            output = model(batch)
            state = pool(output.tokens, model.hparams["pooling"])
        probabilities = torch.softmax(output.logits.float() / model.temperature, -1)
        made = (state, output.latents, probabilities)
        pieces.append(tuple(None if part is None else part.float().cpu().numpy() for part in made))
    states, latents, every_probability = (_restored(parts, order) for parts in zip(*pieces, strict=True))
    assert states is not None
    assert every_probability is not None
    return Features(states, latents, every_probability)


def _restored(parts: tuple[np.ndarray | None, ...], order: np.ndarray) -> np.ndarray | None:
    """Batches as one array, in the order that the rows had before they were sorted."""
    there = [part for part in parts if part is not None]
    if not there:
        return None
    joined = np.concatenate(there)
    restored = np.empty_like(joined)
    restored[order] = joined
    return restored
