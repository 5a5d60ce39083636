"""A target store's rationales, joined by key to the pairs that they judge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lrkd.errors import UserError


@dataclass(frozen=True)
class JoinedRationales:
    """M rationales of known pairs, from the perspectives in use."""

    perspectives: list[str]
    """The perspectives in use, by name."""
    vector: np.ndarray
    """(M,) int64: the rationale's place in the store."""
    pair: np.ndarray
    """(M,) int64: the pair's row in ``pairs.parquet``."""
    perspective: np.ndarray
    """(M,) int64: place among ``perspectives``."""
    right: np.ndarray
    """(M,) bool: the verdict is the pair's gold label."""
    wrong: np.ndarray
    """(M,) bool: the verdict is another label; neither right nor wrong where the gold label is unknown."""
    unknown: int
    """How many further ones belong to no pair."""


def join_rationales(
    index: pa.Table, pair_id: pa.Array, label: pa.Array, perspectives: Sequence[str] | None
) -> JoinedRationales:
    """Join by pair_id.

    Args:
        index: pair_id, perspective and verdict of each rationale, in the store's order.
        pair_id: (N,) the pairs' ids in the order of ``pairs.parquet``.
        label: (N,) gold label names, null where unknown.
        perspectives: Those to use; None: all.

    Raises:
        UserError: As :func:`used_perspectives`.
    """
    names = used_perspectives(index["perspective"], perspectives)
    perspective = pc.index_in(index["perspective"], value_set=pa.array(names, pa.string()))
    pair = pc.index_in(index["pair_id"], value_set=pair_id)
    used, known = pc.is_valid(perspective), pc.is_valid(pair)
    rows = np.flatnonzero(pc.and_(used, known).to_numpy())
    pair = pair.take(pa.array(rows)).to_numpy().astype(np.int64)
    gold, verdict = label.take(pa.array(pair)), index["verdict"].take(pa.array(rows)).combine_chunks()
    return JoinedRationales(
        perspectives=names,
        vector=rows,
        pair=pair,
        perspective=perspective.take(pa.array(rows)).to_numpy().astype(np.int64),
        right=pc.fill_null(pc.equal(gold, verdict), False).to_numpy(zero_copy_only=False),
        wrong=pc.fill_null(pc.not_equal(gold, verdict), False).to_numpy(zero_copy_only=False),
        unknown=int(np.sum(used.to_numpy() & ~known.to_numpy())),
    )


def used_perspectives(column: pa.ChunkedArray, chosen: Sequence[str] | None) -> list[str]:
    """The perspectives in use, each once, sorted by name.

    Args:
        column: The perspective of every rationale.
        chosen: Those to use; None: all.

    Raises:
        UserError: None is chosen, or one that no rationale has.
    """
    known = sorted(pc.unique(column).to_pylist())
    if chosen is None:
        return known
    if not chosen or not set(chosen) <= set(known):
        raise UserError(f"perspectives {list(chosen)}: choose from those that the rationales have, {known}")
    return sorted(set(chosen))
