"""Negatives for contrastive guidance: what a latent is to be told apart from, beside the batch's targets."""

from __future__ import annotations

import numpy as np

from lrkd.data.groups import Groups
from lrkd.data.hashed import hashed_uniform
from lrkd.data.pair_targets import Targets

WRONG, NEIGHBOURS = 1, 2


class Negatives:
    """A pair's own wrong rationales, and the targets of other training pairs of its query.

    Wrong rationales (verdict ≠ gold) may be of any perspective in use. Neighbours' targets are of the same perspective
    as the latent's. Where there are more than asked for, other ones are drawn every epoch, none twice. They are placed
    as the targets are (centred, whitened, unit length).

    Args:
        targets: The pairs' targets. Only pairs that have a target get negatives for it.
        wrong: Wrong rationales a target, at most.
        neighbours: Targets of neighbours a target, at most.
    """

    def __init__(self, targets: Targets, wrong: int, neighbours: int) -> None:
        self.targets, self.wrong, self.neighbours = targets, wrong, neighbours
        rationales = targets.rationales
        self._wrong = Groups.of(
            rationales.pair[rationales.wrong], len(targets.query), rationales.vector[rationales.wrong]
        )
        # Of each query and perspective the training pairs' targets, and where each of these stands among its likes.
        rows, slot = np.nonzero(targets.present_of(targets.fit_rows))
        cells = targets.cells(targets.fit_rows)[rows, slot]
        number = (int(targets.query.max(initial=-1)) + 1) * targets.num_latents
        kin = targets.query[targets.fit_rows[rows]] * targets.num_latents + slot
        self._by_query = Groups.of(kin, number, cells)
        self._standing = np.full(len(targets.query) * targets.num_latents, -1)
        owner = np.repeat(np.arange(number), np.diff(self._by_query.offsets))
        self._standing[self._by_query.members] = np.arange(len(owner)) - self._by_query.offsets[owner]

    def batch(self, rows: np.ndarray, epoch: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """The negatives of some pairs.

        Args:
            rows: (B,) int: positions of the pairs.
            epoch: Decides, with the seed and the row, which ones are drawn.
            seed: See ``epoch``.

        Returns:
            Negatives (B, P, K, R) float32, 0 where there is none, and whether there is one (B, P, K) bool; K is
            ``wrong + neighbours``, in this order.
        """
        rows = self.targets.source[rows]
        parts = [self._wrong_of(rows, epoch, seed), self._neighbours_of(rows, epoch, seed)]
        vectors, mask = (np.concatenate(part, axis=2) for part in zip(*parts, strict=True))
        placed, there = self.targets.place(vectors, rows)
        mask = mask & there & self.targets.present_of(rows)[..., None]
        return placed * mask[..., None], mask

    def _wrong_of(self, rows: np.ndarray, epoch: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """(B, P, wrong, R) and (B, P, wrong), the same for all P."""
        place, mask = _ring(self._wrong.count(rows), self.wrong, hashed_uniform(rows, epoch, seed, WRONG))
        store = self.targets.store
        vectors = np.zeros((*place.shape, store.width), np.float32)
        vectors[mask] = store.vectors[self._wrong.members[(self._wrong.start(rows)[:, None] + place)[mask]]]
        latents = self.targets.num_latents
        return np.repeat(vectors[:, None], latents, axis=1), np.repeat(mask[:, None], latents, axis=1)

    def _neighbours_of(self, rows: np.ndarray, epoch: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """(B, P, neighbours, R) and (B, P, neighbours)."""
        cells = self.targets.cells(rows)
        kin = self.targets.query[rows][:, None] * self.targets.num_latents + np.arange(self.targets.num_latents)
        standing = self._standing[cells]
        others = np.where(standing >= 0, self._by_query.count(kin) - 1, 0)
        ring, mask = _ring(others, self.neighbours, hashed_uniform(cells, epoch, seed, NEIGHBOURS))
        place = (standing[..., None] + 1 + ring) % np.maximum(others + 1, 1)[..., None]  # the others, from the next one
        vectors = np.zeros((*ring.shape, self.targets.store.width), np.float32)
        vectors[mask] = self.targets.means(self._by_query.members[(self._by_query.start(kin)[..., None] + place)[mask]])
        return vectors, mask


def _ring(count: np.ndarray, wanted: int, draw: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which of ``count`` things are taken: up to ``wanted`` neighbours on a ring, from a drawn one on.

    Args:
        count: (...,) int.
        wanted: K.
        draw: (...,) in [0, 1).

    Returns:
        (..., K) int64 places below ``count``, and which of them there are: the first ``count``.
    """
    step = np.arange(wanted)
    size = np.maximum(count, 1)[..., None]
    return ((draw * count).astype(np.int64)[..., None] + step) % size, step < count[..., None]
