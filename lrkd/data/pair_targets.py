"""The targets of pairs, made of a target store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from lrkd.data.conflict_weights import conflict_weights
from lrkd.data.groups import Groups
from lrkd.data.hashed import hashed_uniform
from lrkd.data.joined_rationales import join_rationales
from lrkd.data.shuffled_targets import shuffled_within_label
from lrkd.data.targets import TargetStore, normalise
from lrkd.data.whitening import whitening_matrix

TargetMode = Literal["unified", "sampled", "per_perspective"]
Centring = Literal["none", "global", "query"]


class Targets:
    """The targets of N pairs, joined to the store by key and made when a batch asks for them.

    A pair's target is the mean of its rationales' vectors (all perspectives for ``unified``, one perspective's samples
    for ``per_perspective``, one drawn rationale for ``sampled``), at unit length; less a mean if centred, whitened if
    asked for, and then at unit length again, so that a target's length never says how far perspectives agree.

    Args:
        store: The vectors.
        pair_id: (N,) the pairs' ids in the order of ``pairs.parquet``.
        label: (N,) gold label names, null where unknown.
        query: (N,) int64: the pairs' query groups, 0 to Q-1.
        fit_rows: (M,) the training rows: only they make the global mean and the whitening (trap 36).
        mode: ``unified`` or ``sampled`` (P = 1), or ``per_perspective`` (P = the perspectives, sorted by name).
        consistent: Use only rationales whose verdict is the pair's gold label.
        centring: ``none``; ``global``: less the mean target of the training pairs; ``query``: less the mean target of
            the pair's query group, shrunk towards the global mean as by one more pair, so that a query of one pair gets
            the globally centred target and a query of many its own mean.
        perspectives: Use these perspectives' rationales; None: all.
        whitening: The power of :func:`~lrkd.data.whitening.whitening_matrix`, 0 to 1, for centred targets; 0: none.
        conflict_weight: See :func:`~lrkd.data.conflict_weights.conflict_weights`.
        shuffle_seed: Give every training pair the targets of another one of its label
            (:func:`~lrkd.data.shuffled_targets.shuffled_within_label`); None: its own.

    Raises:
        UserError: As :func:`~lrkd.data.joined_rationales.used_perspectives`.
    """

    def __init__(
        self,
        store: TargetStore,
        pair_id: pa.Array,
        label: pa.Array,
        query: np.ndarray,
        fit_rows: np.ndarray,
        *,
        mode: TargetMode,
        consistent: bool,
        centring: Centring,
        perspectives: Sequence[str] | None = None,
        whitening: float = 0.0,
        conflict_weight: float = 0.0,
        shuffle_seed: int | None = None,
    ) -> None:
        self.store, self.mode, self.query, self.fit_rows = store, mode, query, np.asarray(fit_rows)
        self.rationales = join_rationales(store.index, pair_id, label, perspectives)
        self.perspectives = self.rationales.perspectives
        self.num_latents = len(self.perspectives) if mode == "per_perspective" else 1
        # A cell is a pair and one of its P targets, in this order.
        slot = self.rationales.perspective if mode == "per_perspective" else 0
        cell, cells = self.rationales.pair * self.num_latents + slot, len(pair_id) * self.num_latents
        kept = self.rationales.right if consistent else np.ones(len(cell), bool)
        self._cells = Groups.of(cell[kept], cells, self.rationales.vector[kept])
        self._weight: np.ndarray | None = None
        if conflict_weight:
            self._weight = conflict_weights(self.rationales, cell, kept, cells, conflict_weight)
        self.centre, self._group = self._centres(centring)
        self.whitening = whitening_matrix(self._second_moment(), whitening) if whitening else None
        self.source = np.arange(len(pair_id))
        if shuffle_seed is not None:
            code = label.dictionary_encode().indices.fill_null(-1).to_numpy(zero_copy_only=False)
            self.source = shuffled_within_label(code, self.present, self.fit_rows, shuffle_seed)

    @property
    def present(self) -> np.ndarray:
        """(N, P) bool: which pairs have which target."""
        return (np.diff(self._cells.offsets) > 0).reshape(-1, self.num_latents)

    @property
    def weighted(self) -> bool:
        """Whether targets weigh differently."""
        return self._weight is not None

    def cells(self, rows: np.ndarray) -> np.ndarray:
        """(B, P) int64: the P targets of some pairs among all pairs' targets."""
        return np.asarray(rows[:, None] * self.num_latents + np.arange(self.num_latents))

    def present_of(self, rows: np.ndarray) -> np.ndarray:
        """(B, P) bool: which of some pairs have which target, before centring."""
        return self._cells.count(self.cells(rows)) > 0

    def weight_of(self, rows: np.ndarray) -> np.ndarray:
        """(B, P) float32: how much each target of some pairs weighs in the guidance's mean; 0 where there is none."""
        cells = self.cells(self.source[rows])
        present = (self._cells.count(cells) > 0).astype(np.float32)
        return present if self._weight is None else present * self._weight[cells]

    def means(self, cells: np.ndarray, draw: np.ndarray | None = None) -> np.ndarray:
        """Mean rationale vectors of some targets at unit length, before centring.

        Args:
            cells: (M,) int64, see :meth:`cells`.
            draw: (M,) in [0, 1): take the one rationale at this place; None: the mean of all.

        Returns:
            (M, R) float32; 0 where there is no rationale.
        """
        start, count = self._cells.start(cells), self._cells.count(cells)
        if draw is not None:
            start = start + np.minimum((draw * count).astype(np.int64), np.maximum(count - 1, 0))
            count = np.minimum(count, 1)
        owner = np.repeat(np.arange(len(cells)), count)
        within = np.arange(len(owner)) - np.repeat(np.cumsum(count) - count, count)
        vectors = np.asarray(self.store.vectors[self._cells.members[start[owner] + within]], np.float32)
        total = np.zeros((len(cells), self.store.width), np.float32)
        np.add.at(total, owner, vectors)
        return normalise(total)

    def _means_of(self, rows: np.ndarray, draw: np.ndarray | None = None) -> np.ndarray:
        """:meth:`means` of some pairs (B, P, R)."""
        draw = None if draw is None else np.repeat(draw, self.num_latents)
        return self.means(self.cells(rows).ravel(), draw).reshape(len(rows), self.num_latents, -1)

    def place(self, vectors: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rationale vectors where the latents are to meet them: centred, whitened, at unit length.

        Args:
            vectors: (B, P, R) or (B, P, K, R): as :meth:`means` gives them.
            rows: (B,) int: the pairs that they belong to.

        Returns:
            The vectors, float32, and whether each is one (B, P) or (B, P, K): the zero vector points nowhere.
        """
        if self.centre is not None:
            centre = self.centre[self._group[rows]]
            vectors = vectors - (centre if vectors.ndim == 3 else centre[:, :, None])
        there = np.linalg.norm(vectors, axis=-1) > 1e-6
        if self.whitening is not None:
            flat = np.moveaxis(vectors, 1, 0).reshape(self.num_latents, -1, self.store.width)
            shape = (self.num_latents, len(rows), *vectors.shape[2:])
            vectors = np.moveaxis((flat @ self.whitening).reshape(shape), 0, 1)
        return normalise(vectors) * there[..., None], there

    def _centres(self, centring: Centring) -> tuple[np.ndarray | None, np.ndarray]:
        """What is subtracted: (G, P, R) centres, and each pair's place among them (N,)."""
        group = np.zeros(len(self.query), np.int64)
        if centring == "none":
            return None, group
        mean, count = self._group_sums(self.fit_rows, np.zeros(len(self.fit_rows), np.int64), 1)
        mean = (mean / np.maximum(count, 1)[..., None]).astype(np.float32)
        if centring == "global":
            return mean, group
        group = self.query
        total, count = self._group_sums(np.arange(len(group)), group, int(group.max(initial=-1)) + 1)
        return ((total + mean) / (count[..., None] + 1)).astype(np.float32), group

    def _group_sums(self, rows: np.ndarray, group: np.ndarray, groups: int) -> tuple[np.ndarray, np.ndarray]:
        """Sums (G, P, R) and counts (G, P) of the targets of some rows, by group."""
        total = np.zeros((groups, self.num_latents, self.store.width), np.float32)
        count = np.zeros((groups, self.num_latents), np.int64)
        for piece in _pieces(len(rows)):
            np.add.at(total, group[piece], self._means_of(rows[piece]))
            np.add.at(count, group[piece], self.present_of(rows[piece]))
        return total, count

    def _second_moment(self) -> np.ndarray:
        """(P, R, R): the mean of e eᵀ over the training pairs' centred targets, before they are at unit length."""
        total = np.zeros((self.num_latents, self.store.width, self.store.width))
        for piece in _pieces(len(self.fit_rows)):
            rows = self.fit_rows[piece]
            vectors = self._means_of(rows) - (self.centre[self._group[rows]] if self.centre is not None else 0)
            vectors = np.moveaxis(vectors * self.present_of(rows)[..., None], 1, 0)
            total += np.swapaxes(vectors, 1, 2) @ vectors
        return np.asarray(total / np.maximum(self.present_of(self.fit_rows).sum(0), 1)[:, None, None])

    def batch(self, rows: np.ndarray, epoch: int = 0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """The targets of some pairs.

        Args:
            rows: (B,) int: positions of the pairs.
            epoch: Decides, with the seed and the row, which rationale ``sampled`` draws.
            seed: See ``epoch``.

        Returns:
            Targets (B, P, R) float32, 0 where there is none, and whether there is one (B, P) bool.
        """
        rows = self.source[rows]
        draw = hashed_uniform(rows, epoch, seed) if self.mode == "sampled" else None
        targets, there = self.place(self._means_of(rows, draw), rows)
        mask = self.present_of(rows) & there
        return targets * mask[..., None], mask

    def summary(self) -> dict[str, Any]:
        """Counts for the run's record and the terminal."""
        return {
            "rationales": int(self.store.index.num_rows),
            "used": len(self._cells.members),
            "of_unknown_pairs": self.rationales.unknown,
            "training_pairs_with_target": int(self.present_of(self.fit_rows).any(1).sum()),
            "perspectives": self.perspectives,
        }


def _pieces(rows: int) -> list[np.ndarray]:
    """The numbers 0 to rows - 1 in pieces whose vectors fit into memory."""
    return np.array_split(np.arange(rows), max(1, rows // 16_384))
