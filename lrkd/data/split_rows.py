"""Which rows of a data root train, validate and test."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lrkd.data.pairs import pairs_path
from lrkd.data.types import SPLITS, normalise_query
from lrkd.errors import UserError


def group_queries(queries: pa.ChunkedArray) -> np.ndarray:
    """The number (N,) of every query's group: queries that are the same under :func:`normalise_query` share one."""
    distinct = queries.combine_chunks().dictionary_encode()
    if isinstance(distinct, pa.ChunkedArray):
        distinct = distinct.combine_chunks()
    normal = pa.array([normalise_query(query) for query in distinct.dictionary.to_pylist()], pa.string())
    group = normal.dictionary_encode().indices.to_numpy(zero_copy_only=False)
    return np.asarray(group[distinct.indices.to_numpy(zero_copy_only=False)], np.int64)


def split_rows(
    pairs: pa.Table, query: np.ndarray, root: str | Path, *, fold: int | None, val_fraction: float, seed: int
) -> dict[str, np.ndarray]:
    """The rows of ``train``, ``val``, ``test`` and ``all``.

    Args:
        pairs: N pairs with the column ``split``, or ``fold`` where a fold is given.
        query: (N,) int64: the pairs' query groups.
        root: The data root, for messages.
        fold: Test on this fold and validate on a seeded part of the other queries; None: the ``split`` column decides.
        val_fraction: With ``fold``: the share of the other queries that validates.
        seed: With ``fold``: which queries these are.

    Raises:
        UserError: There is no such fold.
    """
    every = np.arange(pairs.num_rows)
    if fold is None:
        chosen = {split: pc.fill_null(pc.equal(pairs["split"], split), False) for split in SPLITS}
        return {**{split: np.flatnonzero(mask.to_numpy()) for split, mask in chosen.items()}, "all": every}
    folds = pairs["fold"].fill_null(-1).to_numpy()
    if fold not in folds:
        known = sorted(set(folds[folds >= 0].tolist()))
        raise UserError(f"{pairs_path(root)}: no fold {fold}; the folds are {known or 'none: run data split'}")
    test, rest = every[folds == fold], every[(folds != fold) & (folds >= 0)]
    groups = np.unique(query[rest])
    order = np.random.default_rng(seed).permutation(groups)
    in_val = np.isin(query[rest], order[: max(1, round(val_fraction * len(groups)))])
    return {"train": rest[~in_val], "val": rest[in_val], "test": test, "all": every}


def training_mask(rows: dict[str, np.ndarray], query: np.ndarray) -> np.ndarray:
    """Which pairs (N,) train and are of a query that neither validates nor tests (trap 33).

    Args:
        rows: What :func:`split_rows` gave.
        query: (N,) int64: the pairs' query groups.
    """
    mask = np.zeros(len(query), bool)
    mask[rows["train"]] = True
    return mask & ~np.isin(query, query[np.concatenate([rows["val"], rows["test"]])])
