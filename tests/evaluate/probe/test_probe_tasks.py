"""The tasks, read off small tables."""

import numpy as np
import pyarrow as pa

from lrkd.data.types import LABEL_SETS
from lrkd.evaluate.probe.tasks import find_tasks

LABELS = LABEL_SETS["esci"].labels
TYPES = {"pair_id": pa.string(), "query": pa.string(), "label": pa.string(), "brand": pa.string()}
SCHEMA = pa.schema([*TYPES.items(), ("category", pa.list_(pa.string()))])


def tasks_of(pairs, rationales=None, least=1, query=None):
    """Pairs are (query, label, brand, category), named a, b, c ...; rationales (pair, perspective, sample, verdict)."""
    rows = [dict(zip(SCHEMA.names, (chr(97 + n), *pair), strict=True)) for n, pair in enumerate(pairs)]
    table = pa.Table.from_pylist(rows, SCHEMA)
    names = ("pair_id", "perspective", "sample", "verdict")
    given = rationales and pa.Table.from_pylist([dict(zip(names, row, strict=True)) for row in rationales])
    found = find_tasks(table, np.arange(len(pairs)) if query is None else np.array(query), given, LABELS, least)
    return {task.name: task for task in found.tasks}, found.left_out


def said(task):
    return {chr(97 + row): task.classes[label] for row, label in zip(task.rows, task.label, strict=True)}


PAIRS = [
    ("acme mug without handle", "Exact", "Acme", ["Home", "Coffee Mugs"]),
    ("mug", "Substitute", "Acme", ["Home", "Lamps"]),
    ("lamp", None, None, None),
]


def test_queries_are_held_against_the_items_fields():
    tasks, left_out = tasks_of(PAIRS)
    assert said(tasks["negation"]) == {"a": "yes", "b": "no", "c": "no"}
    assert said(tasks["brand match"]) == {"a": "yes", "b": "no"}, "c's brand is not known"
    assert said(tasks["category match"]) == {"a": "yes", "b": "no"}
    assert said(tasks["gold label"]) == {"a": "Exact", "b": "Substitute"}
    assert left_out == ["verdicts and conflict: there are no rationales"]


def test_verdicts_are_the_first_samples_and_conflict_is_among_all():
    rationales = [
        ("b", "rule", 1, "Exact"), ("b", "rule", 0, "Substitute"), ("a", "rule", 0, "Exact"),
        ("a", "intent", 0, "Exact"), ("c", "intent", 0, "Complement"), ("elsewhere", "intent", 0, "Exact"),
    ]  # fmt: skip
    tasks, _ = tasks_of(PAIRS, rationales)
    assert said(tasks["verdict: rule"]) == {"a": "Exact", "b": "Substitute"}
    assert said(tasks["verdict: intent"]) == {"a": "Exact", "c": "Complement"}
    assert said(tasks["conflict"]) == {"a": "no", "b": "yes"}, "c has a single verdict"
    assert tasks["verdict: intent"].classes == ("Exact", "Complement"), "in the label set's order"


def test_what_the_data_lacks_is_said():
    _, left_out = tasks_of([("mug", "Exact", None, None), ("lamp", "Exact", None, None)], [("a", "rule", 0, "Exact")])
    assert left_out == [
        "verdict: rule: only Exact has 1 queries",
        "conflict: no pair has it",
        "gold label: only Exact has 1 queries",
        "negation: only no has 1 queries",
        "brand match: no pair has it",
        "category match: no pair has it",
    ]


def test_classes_of_too_few_queries_are_left_out():
    labels = ["Exact", "Exact", "Irrelevant", "Irrelevant", "Complement", "Complement"]
    pairs = [("mug", label, None, None) for label in labels]
    tasks, left_out = tasks_of(pairs, query=[0, 1, 0, 2, 3, 3], least=2)  # Complement: two pairs of one query
    assert said(tasks["gold label"]) == {"a": "Exact", "b": "Exact", "c": "Irrelevant", "d": "Irrelevant"}
    assert "gold label: without the class of fewer than 2 queries: Complement (1)" in left_out
