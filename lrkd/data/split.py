"""``data split``: train/val/test and folds by query, stratified by label."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lrkd.data.pairs import ParquetSink, iter_pairs, pairs_path, read_pairs
from lrkd.data.rationales import rationales_path
from lrkd.data.split_rows import group_queries
from lrkd.data.types import PAIRS_FILE, PAIRS_SCHEMA, RATIONALES_FILE, SPLITS
from lrkd.errors import UserError

NOWHERE = -1


def split_data(
    *,
    root: Path,
    out: Path | None = None,
    train: float = 0.8,
    val: float = 0.1,
    test: float = 0.1,
    folds: int = 5,
    seed: int = 0,
    keep_test: bool = False,
) -> None:
    """Split a data root into train, val and test, and into folds, with no query in two of them.

    Queries that differ only in case, white space or outer punctuation count as one. Labels are spread over splits and
    folds as evenly as whole queries allow. The same seed gives the same split.
    2.6 million pairs of 130,000 queries take about 10 seconds and 2 GB of memory.

    Args:
        root: The data root to split.
        out: Where to write the split data root; by default the same, in place. Rationales are copied along.
        train: The share of the pairs for training.
        val: The share for validation.
        test: The share for testing. The three sum to 1.
        folds: How many folds for cross-validation, over all pairs (with keep_test, over those outside test); 0 for
            none.
        seed: Shuffles queries of the same size.
        keep_test: Keep the pairs whose split is test already, such as ESCI's official ones, and split the others into
            train and val by the ratio of these shares. Others of the same query get no split: they would leak.

    Raises:
        UserError: Shares that do not sum to 1, no test split to keep, fewer queries than splits, or a folder that
            can't be written to.
    """
    shares = _shares(train, val, test, keep_test)
    if folds < 0 or folds == 1:
        raise UserError(f"folds: 0 for none or at least 2, got {folds}")
    from rich.console import Console

    target = Path(out) if out else Path(root)
    with Console(stderr=True).status("reading pairs") as status:
        pairs = read_pairs(root, columns=["query", "label", "split"])
        queries = group_queries(pairs["query"])
        labels, names = label_numbers(pairs["label"])
        was_test = pc.equal(pairs["split"], "test").fill_null(False).to_numpy()
        if keep_test and not was_test.any():
            raise UserError(f"{pairs_path(root)}: keep_test is on, but no pair's split is 'test'; run without it")
        status.update("assigning queries")
        free = ~np.isin(queries, queries[was_test]) if keep_test else np.ones(len(queries), bool)
        split = np.full(len(queries), NOWHERE)
        split[free] = assign_groups(queries[free], labels[free], shares, seed)
        if keep_test:
            split[was_test] = SPLITS.index("test")
        fold = np.full(len(queries), NOWHERE)
        if folds:
            fold[free] = assign_groups(queries[free], labels[free], [1 / folds] * folds, seed)
        _check_filled(split, fold, shares, folds)
        status.update("writing pairs")
        _write(Path(root), target, split, fold)
    _print(target, queries, labels, names, split, fold)


def assign_groups(groups: np.ndarray, labels: np.ndarray, shares: Sequence[float], seed: int = 0) -> np.ndarray:
    """Give whole groups of rows to S bins such that each bin gets its share of every label.

    Greedy, largest group first: each goes where the squared distance of the bins' label counts to what they should be,
    relative to the share, falls most. With equal shares this is the idea of scikit-learn's ``StratifiedGroupKFold``,
    which knows no other; it takes one pass over the groups.

    Args:
        groups: (N,) int: which rows belong together.
        labels: (N,) int from 0: the rows' classes.
        shares: S shares that sum to 1.
        seed: Orders groups of the same size.

    Returns:
        (N,) int: every row's bin.
    """
    _, group = np.unique(groups, return_inverse=True)
    counts = np.zeros((group.max(initial=-1) + 1, labels.max(initial=0) + 1))
    np.add.at(counts, (group, labels), 1)
    total = counts.sum(axis=0)
    counts = counts[:, total > 0] / total[total > 0]
    share = np.asarray(shares, float)[:, None]
    wanted = np.repeat(share, counts.shape[1], axis=1)
    order = np.random.default_rng(seed).permutation(len(counts))
    order = order[np.argsort(-counts.sum(axis=1)[order], kind="stable")]
    used = np.flatnonzero(share[:, 0])
    scale = 1 / share[used]
    lack = wanted[used]
    place = np.empty(len(counts), np.int64)
    for number in order:
        row = counts[number]
        # |lack - row|² - |lack|², a bin at a time.
        best = int(np.argmin(((row - 2 * lack) * row * scale).sum(axis=1)))
        lack[best] -= row
        place[number] = used[best]
    return place[group]


def label_numbers(labels: pa.ChunkedArray) -> tuple[np.ndarray, list[str]]:
    """Labels as numbers (N,) and the names by number, the most frequent first; ``unknown`` for null."""
    filled = labels.fill_null("unknown").combine_chunks().dictionary_encode()
    codes = filled.indices.to_numpy(zero_copy_only=False)
    order = np.argsort(-np.bincount(codes, minlength=len(filled.dictionary)), kind="stable")
    names = filled.dictionary.to_pylist()
    return np.argsort(order)[codes], [names[number] for number in order]


def _shares(train: float, val: float, test: float, keep_test: bool) -> list[float]:
    shares = {"train": train, "val": val, "test": test}
    if any(not 0 <= share <= 1 for share in shares.values()) or abs(sum(shares.values()) - 1) > 1e-6:
        raise UserError(f"train, val and test are shares that sum to 1, got {shares}")
    if train == 0:
        raise UserError("train: wants a share above 0")
    return [train / (train + val), val / (train + val), 0.0] if keep_test else [train, val, test]


def _check_filled(split: np.ndarray, fold: np.ndarray, shares: Sequence[float], folds: int) -> None:
    empty = [name for number, name in enumerate(SPLITS) if shares[number] and not (split == number).any()]
    empty += [f"fold {number}" for number in range(folds) if not (fold == number).any()]
    if empty:
        raise UserError(
            f"{', '.join(empty)} would be empty: there are fewer queries than splits or folds; ask for fewer"
        )


def _write(root: Path, target: Path, split: np.ndarray, fold: np.ndarray) -> None:
    """The pairs with their new split and fold, piece by piece."""
    names = pa.array([*SPLITS, None], pa.string())
    start = 0
    try:
        with ParquetSink(target / PAIRS_FILE, PAIRS_SCHEMA) as sink:
            for table in iter_pairs(root):
                rows = slice(start, start + table.num_rows)
                start = rows.stop
                # NOWHERE counts from the end: it takes the null.
                table = table.set_column(
                    table.column_names.index("split"), "split", names.take(split[rows] % len(names))
                )
                folds = pa.array(fold[rows], pa.int32(), mask=fold[rows] == NOWHERE)
                sink.write(table.set_column(table.column_names.index("fold"), "fold", folds))
        if rationales_path(root).is_file() and target.resolve() != root.resolve():
            partial = target / f".{RATIONALES_FILE}.partial"
            shutil.copyfile(rationales_path(root), partial)
            partial.replace(rationales_path(target))
    except PermissionError as error:
        raise UserError(f"{target}: can't be written to: {error}; give another folder as --out") from error


def _print(
    target: Path, queries: np.ndarray, labels: np.ndarray, names: list[str], split: np.ndarray, fold: np.ndarray
) -> None:
    from rich.console import Console
    from rich.table import Table

    parts = {name: split == number for number, name in enumerate(SPLITS)}
    if (split == NOWHERE).any():
        parts["none"] = split == NOWHERE
    console = Console()
    folds = {f"fold {number}": fold == number for number in range(fold.max(initial=NOWHERE) + 1)}
    for title, masks in (("data split", parts), ("folds", folds)):
        table = Table("", *masks, title=title)
        table.add_row("pairs", *(f"{mask.sum():,}" for mask in masks.values()))
        table.add_row("queries", *(f"{len(np.unique(queries[mask])):,}" for mask in masks.values()))
        for number, name in enumerate(names):
            table.add_row(name, *(f"{(labels[mask] == number).sum():,}" for mask in masks.values()))
        if masks:
            console.print(table)
    if "none" in parts:
        console.print("none: pairs of a query that is in the test split that was kept; no stage uses them")
    console.print(f"read {len(queries):,} pairs, wrote {len(queries):,} to {target / PAIRS_FILE}", soft_wrap=True)
