"""``data audit``: leaks, duplicates, label noise, text lengths, and what the rationales are worth."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lrkd.data.audit_report import print_report
from lrkd.data.pairs import read_pairs
from lrkd.data.rationales import rationales_path, read_rationales
from lrkd.data.split_rows import group_queries
from lrkd.data.types import SPLITS, ItemText, LabelSet
from lrkd.data.verdicts import EXAMPLES, distinct, judge_rationales, share
from lrkd.errors import UserError
from lrkd.pretrained import load_tokenizer

LengthCounter = Callable[[list[str], list[str] | None], np.ndarray]
"""Texts, and what stands beside them, to lengths (N,)."""


def audit_data(
    *,
    root: Path,
    out: Path | None = None,
    label_set: str = "esci",
    item_text: str = "{title}",
    tokenizer: str | None = None,
    max_length: int = 128,
    length_sample: int = 20_000,
    strict: bool = False,
) -> dict[str, Any]:
    """Look a data root over: leaks between splits, duplicates, label noise, lengths, rationales.

    Args:
        root: The data root.
        out: A JSON file for the report; by default it is only printed.
        label_set: The name of a shipped label set (esci, wands), or a YAML file with name, labels and gains.
        item_text: The template of the item's text over title, description, brand, color, bullets and category, as
            the student will get it.
        tokenizer: Whose tokens to count, by name, as an encoder is named; by default words are counted.
        max_length: The student's limit on tokens, special tokens among them.
        length_sample: How many pairs, drawn at random but always the same, the lengths are measured on.
        strict: Fail (status 2) if a query is in two splits.

    Returns:
        The report, as written to ``out``.

    Raises:
        UserError: A broken row, an unknown tokenizer, or a leak with ``strict``.
    """
    from rich.console import Console

    labels, template = LabelSet.load(label_set), ItemText(item_text)
    columns = dict.fromkeys(["pair_id", "query", "item_id", "label", "split", "fold", *template.fields])
    with Console(stderr=True).status("reading pairs") as status:
        pairs = read_pairs(root, columns=list(columns), labels=labels)
        gold = pc.index_in(pairs["label"], value_set=pa.array(labels.labels)).fill_null(-1).to_numpy()
        status.update("comparing")
        report = {"root": str(root)} | compare_pairs(pairs, gold, labels)
        status.update("measuring lengths")
        report["lengths"] = text_lengths(pairs, template, tokenizer, max_length, length_sample)
        status.update("judging rationales")
        report["rationales"] = None
        if rationales_path(root).is_file():
            rationales = read_rationales(root, labels=labels)
            report["rationales"] = judge_rationales(rationales, pairs["pair_id"], gold, labels)
    print_report(report)
    if out:
        out = Path(out)
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        print(f"wrote {out}")
    if strict and report["leaks"]["queries"]["count"]:
        raise UserError(
            f"{root}: {report['leaks']['queries']['count']} queries are in two splits, such as "
            f"{report['leaks']['queries']['examples'][0]!r}; `python -m lrkd data split` splits by query"
        )
    return report


def compare_pairs(pairs: pa.Table, gold: np.ndarray, labels: LabelSet) -> dict[str, Any]:
    """What pairs say about one another: balance, leaks, duplicates.

    Args:
        pairs: N pairs with pair_id, query, item_id, split and fold.
        gold: (N,) int: every pair's label, -1 for unknown.
        labels: The label set.

    Returns:
        The counts and the sections ``splits``, ``leaks`` and ``duplicates`` of the report.
    """
    queries, items = group_queries(pairs["query"]), _codes(pairs["item_id"])
    splits, names = _split_codes(pairs["split"])
    return {
        "pairs": len(pairs),
        "queries": distinct(queries),
        "items": distinct(items),
        "splits": split_balance(splits, names, queries, gold, labels),
        "leaks": {
            "queries": _leak(queries, splits, names, pairs["query"]),
            "queries_between_folds": _leak(queries, _fold_codes(pairs["fold"]), None, pairs["query"]),
            "items": _leak(items, splits, names, pairs["item_id"]),
        },
        "duplicates": duplicates(queries, items, gold, pairs["pair_id"]),
    }


def split_balance(
    splits: np.ndarray, names: list[str], queries: np.ndarray, gold: np.ndarray, labels: LabelSet
) -> dict[str, Any]:
    """The size and the label mix of every split.

    Args:
        splits: (N,) int: every pair's split, -1 for none.
        names: The splits' names.
        queries: (N,) int: every pair's query group.
        gold: (N,) int: every pair's label, -1 for unknown.
        labels: The label set.

    Returns:
        By split (``all`` and, if there are any, ``none`` among them): pairs, queries, labels, unlabelled, and the most
        frequent label with its share of the labelled pairs, which is what a constant answer scores.
    """
    masks = {name: splits == number for number, name in enumerate(names)}
    if (splits < 0).any():
        masks["none"] = splits < 0
    table = {}
    for name, mask in {"all": np.ones(len(splits), bool), **masks}.items():
        known = gold[mask & (gold >= 0)]
        counts = np.bincount(known, minlength=len(labels))
        table[name] = {
            "pairs": int(mask.sum()),
            "queries": distinct(queries[mask]),
            "labels": dict(zip(labels.labels, counts.tolist(), strict=True)),
            "unlabelled": int(mask.sum() - len(known)),
            "majority_label": labels.labels[int(counts.argmax())] if len(known) else None,
            "majority_share": share(int(counts.max()), len(known)),
        }
    return table


def duplicates(queries: np.ndarray, items: np.ndarray, gold: np.ndarray, pair_ids: pa.ChunkedArray) -> dict[str, Any]:
    """Pairs of the same normalised query and item.

    Args:
        queries: (N,) int: every pair's query group.
        items: (N,) int: every pair's item.
        gold: (N,) int: every pair's label, -1 for unknown.
        pair_ids: (N,) their names.

    Returns:
        How many pairs repeat an earlier one, how many query–item combinations stand there more than once, and how many
        of these bear two labels; the first such with their pair_ids.
    """
    _, group, size = np.unique(queries * (items.max(initial=0) + 1) + items, return_inverse=True, return_counts=True)
    known = gold >= 0
    pair_labels = np.unique(np.stack([group[known], gold[known]], axis=1), axis=0)[:, 0]
    contradictory = np.flatnonzero(np.bincount(pair_labels, minlength=len(size)) > 1)

    def examples(groups: np.ndarray) -> list[list[str]]:
        return [pair_ids.take(pa.array(np.flatnonzero(group == g))).to_pylist() for g in groups[:EXAMPLES]]

    return {
        "repeated_pairs": int((size - 1).sum()),
        "groups": int((size > 1).sum()),
        "contradictory_groups": len(contradictory),
        "examples": examples(np.flatnonzero(size > 1)),
        "contradictory_examples": examples(contradictory),
    }


def text_lengths(
    pairs: pa.Table, template: ItemText, tokenizer: str | None, max_length: int, sample: int
) -> dict[str, Any]:
    """How long queries, items and both together are.

    Args:
        pairs: N pairs.
        template: Makes the item's text.
        tokenizer: A tokenizer's name; None counts words.
        max_length: The limit on both together.
        sample: How many pairs to measure.

    Returns:
        Mean, median, 95th percentile and maximum of the query, the item and the pair; with a tokenizer the share of
        pairs over the limit.
    """
    rows = np.random.default_rng(0).permutation(len(pairs))[:sample]
    rows.sort()
    table = pairs.take(pa.array(rows))
    queries = table["query"].to_pylist()
    items = [template.render(item) for item in table.select(list(template.fields)).to_pylist()]
    count = _token_counter(tokenizer) if tokenizer else _count_words
    report: dict[str, Any] = {
        "unit": "tokens" if tokenizer else "words",
        "tokenizer": tokenizer,
        "measured": len(rows),
        "query": _summary(count(queries, None)),
        "item": _summary(count(items, None)),
    }
    lengths = count(queries, items)
    report["pair"] = _summary(lengths)
    if tokenizer:
        report["max_length"] = max_length
        report["over_max_length"] = share(int((lengths > max_length).sum()), len(lengths))
    return report


def _count_words(texts: list[str], seconds: list[str] | None) -> np.ndarray:
    lengths = np.array([len(text.split()) for text in texts], np.int64)
    return lengths if seconds is None else lengths + _count_words(seconds, None)


def _token_counter(name: str) -> LengthCounter:
    tokenizer = load_tokenizer(name)

    def count(texts: list[str], seconds: list[str] | None) -> np.ndarray:
        if not texts:
            return np.zeros(0, np.int64)
        # A single text is counted bare; a pair with the special tokens that the model sees.
        encoded = tokenizer(texts, seconds, add_special_tokens=seconds is not None, truncation=False, verbose=False)
        return np.array([len(ids) for ids in encoded["input_ids"]], np.int64)

    return count


def _summary(lengths: np.ndarray) -> dict[str, float]:
    if not len(lengths):
        return {}
    median, high = np.percentile(lengths, [50, 95])
    return {"mean": round(float(lengths.mean()), 2), "median": median, "p95": high, "max": int(lengths.max())}


def _leak(codes: np.ndarray, splits: np.ndarray, names: list[str] | None, texts: pa.ChunkedArray) -> dict[str, Any]:
    """Which values (N,) are in two splits (N,); -1 is no split."""
    base = splits.max(initial=0) + 1
    seen, split = np.divmod(np.unique((codes * base + splits)[splits >= 0]), base)
    values, start, count = np.unique(seen, return_index=True, return_counts=True)
    leaked = count > 1
    report: dict[str, Any] = {"count": int(leaked.sum())}
    if names:
        between: dict[str, int] = {}
        for begin, number in zip(start[leaked], count[leaked], strict=True):
            key = "+".join(names[i] for i in split[begin : begin + number])
            between[key] = between.get(key, 0) + 1
        report["between"] = between
    rows = [int(np.flatnonzero(codes == value)[0]) for value in values[leaked][:EXAMPLES]]
    report["examples"] = [texts[row].as_py() for row in rows]
    return report


def _codes(column: pa.ChunkedArray) -> np.ndarray:
    return np.asarray(column.combine_chunks().dictionary_encode().indices.to_numpy(), np.int64)


def _split_codes(column: pa.ChunkedArray) -> tuple[np.ndarray, list[str]]:
    """Every pair's split as a number (N,), -1 for none, and the names: train, val, test, then others."""
    present = [name for name in column.unique().to_pylist() if name is not None]
    names = [name for name in SPLITS if name in present] + sorted(set(present) - set(SPLITS))
    codes = pc.index_in(column, value_set=pa.array(names, pa.string()), skip_nulls=True).fill_null(-1)
    return codes.to_numpy(), names


def _fold_codes(column: pa.ChunkedArray) -> np.ndarray:
    return np.asarray(column.fill_null(-1).to_numpy())
