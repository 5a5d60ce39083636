"""Run folders written by hand, as fit and test would leave them."""

import csv
import hashlib
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lrkd.data.types import LabelSet
from lrkd.evaluate.compare.scored import FoldPairs

LABELS = ("Exact", "Other")
TWO = LabelSet("toy", LABELS, (1.0, 0.0))
GOLD = "EEOO"
QUERIES = ("red mug", "mug without handle", "red mug", "mug without handle")
"""Each query has a pair of either label, so it is ranked."""


def probabilities(answers, sure=0.9):
    """E and O as probabilities (N, 2) of Exact and Other; ? for a pair without any verdict."""
    said = {"E": (sure, 1 - sure), "O": (1 - sure, sure), "?": (0.5, 0.5)}
    return np.array([said[answer] for answer in answers])


def names(letters):
    return [{"E": "Exact", "O": "Other", "-": None}[letter] for letter in letters]


def write_run(
    folder,
    method,
    answers,
    *,
    gold=GOLD,
    queries=QUERIES,
    fold=None,
    seed=0,
    sure=0.9,
    fingerprint="ab12",
    root="no/such/root",
    labels=LABELS,
    majority="Exact",
    split="test",
    cut=(0, 0, 3, 0),
    curve=(0.2, 0.3),
    macro_f1=None,
    pair_ids=None,
):
    """A run whose predictions are letters: E for Exact, O for Other."""
    folder = Path(folder)
    folder.mkdir(parents=True)
    run = {
        "method": method,
        "seed": seed,
        "fold": fold,
        "data": {"root": str(root), "fingerprint": fingerprint, "pairs": {"train": 8, "val": 2, "test": len(gold)}},
        "label_set": {"name": "toy", "labels": list(labels), "gains": [1.0] + [0.0] * (len(labels) - 1)},
        "majority_label": majority,
        "parameters": {"encoder": 2_000_000, "extractor": 0, "head": 500_000, "total": 2_500_000},
        "seconds": 10.0 + seed,
        "epochs": len(curve),
        "best": {"metric": "val/macro_f1", "value": 0.4, "checkpoint": "checkpoints/best.ckpt"},
        "versions": {},
    }
    (folder / "run.json").write_text(json.dumps(run))
    table = {
        "pair_id": pair_ids or [f"f{fold}-{n}" for n in range(len(gold))],
        "query_id": list(queries),
        "query": list(queries),
        "label": names(gold),
        **{f"p/{label}": probabilities(answers, sure)[:, place] for place, label in enumerate(LABELS)},
        "tokens_cut": list(cut),
    }
    pq.write_table(pa.table(table), folder / f"{split}_predictions.parquet")
    known = [(n, g) for n, g in enumerate(gold) if g != "-"]
    if macro_f1 is None:
        macro_f1 = np.mean([f1(label, [answers[n] for n, _ in known], [g for _, g in known]) for label in "EO"])
    metrics = dict.fromkeys(
        ["accuracy", "auroc", "ece", "ece_uncalibrated", "ndcg@10", "f1/Exact", "f1/Other", "majority/accuracy",
         "majority/macro_f1", "majority/ndcg@10", "temperature"], 0.5,
    )  # fmt: skip
    metrics |= {"macro_f1": macro_f1, "pairs": len(gold)}
    (folder / f"{split}_metrics.json").write_text(json.dumps(metrics))
    with (folder / "metrics.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["epoch", "step", "val/macro_f1"])
        writer.writerows([epoch, epoch, value] for epoch, value in enumerate(curve))
    return folder


def f1(label, answers, gold):
    hits = sum(a == g == label for a, g in zip(answers, gold, strict=True))
    return 2 * hits / max(1, list(answers).count(label) + list(gold).count(label))


def write_root(folder, rows, rationales=()):
    """A data root of pairs with the fields given; returns its fingerprint."""
    from lrkd.data.pairs import write_table
    from lrkd.data.types import PAIRS_SCHEMA, RATIONALES_SCHEMA

    common = {"query_id": "q", "item_id": "i", "title": "a mug"}
    pairs = pa.Table.from_pylist([common | row for row in rows], PAIRS_SCHEMA)
    write_table(pairs, folder / "pairs.parquet", PAIRS_SCHEMA)
    if rationales:
        made = [
            {"pair_id": pair_id, "perspective": f"p{n}", "sample": 0, "rationale": "Because.", "verdict": verdict}
            for pair_id, verdicts in rationales
            for n, verdict in enumerate(verdicts)
        ]
        table = pa.Table.from_pylist(made, RATIONALES_SCHEMA)
        write_table(table, folder / "rationales.parquet", RATIONALES_SCHEMA)
    return hashlib.sha256((folder / "pairs.parquet").read_bytes()).hexdigest()


def fold_pairs(group, label, *, queries=None, cut=None):
    """The pairs of a fold from their query groups and labels."""
    group = np.asarray(group)
    return FoldPairs(
        pair_id=pa.array([str(n) for n in range(len(group))]),
        query=tuple(queries or [f"query {g}" for g in group]),
        group=group,
        label=np.asarray(label),
        cut=np.zeros(len(group), bool) if cut is None else np.asarray(cut),
    )


def random_fold(seed=0, queries=12, classes=3):
    """Pairs of queries of different sizes, one of them with a single label, and rounded random probabilities."""
    rng = np.random.default_rng(seed)
    group = np.repeat(np.arange(queries), rng.integers(1, 14, queries))
    label = rng.integers(classes, size=len(group))
    label[group == 0] = 1
    logits = rng.normal(size=(len(group), classes)) + 1.5 * np.eye(classes)[label]
    found = np.round(np.exp(logits) / np.exp(logits).sum(1, keepdims=True), 2)  # so that some scores are tied
    return fold_pairs(group, label), found / found.sum(1, keepdims=True)
