"""What probes are asked to read from a student's vectors."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lrkd.evaluate.query_traits import names, names_category, negates


@dataclass(frozen=True)
class Task:
    """One thing to be told of a pair.

    Args:
        name: What it is called.
        meaning: What it is, in a sentence.
        classes: Its C classes.
        rows: (M,) int64: places of the pairs for which it is known.
        label: (M,) int64: their classes.
    """

    name: str
    meaning: str
    classes: tuple[str, ...]
    rows: np.ndarray
    label: np.ndarray


@dataclass(frozen=True)
class Tasks:
    """The tasks that some pairs allow, and what was left out of them.

    Args:
        tasks: The tasks.
        left_out: Sentences on tasks, and on classes, that too few queries have.
    """

    tasks: list[Task]
    left_out: list[str]


def find_tasks(
    pairs: pa.Table, query: np.ndarray, rationales: pa.Table | None, labels: Sequence[str], least_queries: int
) -> Tasks:
    """The tasks that pairs allow.

    Args:
        pairs: N pairs: pair_id, query, label, brand, category.
        query: (N,) int: their query groups.
        rationales: pair_id, perspective, sample and verdict, of these and other pairs; None: there are none.
        labels: The label set's names, in order.
        least_queries: A class that fewer queries have is left out of its task.
    """
    found = Tasks([], [])
    queries, gold, brands, paths = (pairs[name].to_pylist() for name in ("query", "label", "brand", "category"))
    asked: list[tuple[str, str, Sequence[str | None]]] = [
        *_verdict_tasks(pairs, rationales, found),
        ("gold label", "the pair's gold label, for comparison", gold),
        ("negation", "the query holds a word that negates", [_said(negates(text)) for text in queries]),
        (
            "brand match",
            "the item's brand stands in the query",
            [_said(names(q, b)) if b else None for q, b in zip(queries, brands, strict=True)],
        ),
        (
            "category match",
            "a word of the item's innermost category stands in the query",
            [_said(names_category(q, c)) if c else None for q, c in zip(queries, paths, strict=True)],
        ),
    ]
    for name, meaning, values in asked:
        _add(found, name, meaning, values, query, labels, least_queries)
    return found


def _said(value: bool) -> str:
    return "yes" if value else "no"


def _verdict_tasks(
    pairs: pa.Table, rationales: pa.Table | None, found: Tasks
) -> list[tuple[str, str, Sequence[str | None]]]:
    """A task for each perspective's verdict, and one for whether the verdicts on a pair differ."""
    if rationales is None:
        found.left_out.append("verdicts and conflict: there are no rationales")
        return []
    ids = pairs["pair_id"].to_pylist()
    rationales = rationales.filter(pc.is_in(rationales["pair_id"], value_set=pairs["pair_id"].combine_chunks()))
    verdicts: defaultdict[str, list[str]] = defaultdict(list)
    first: defaultdict[str, dict[str, str]] = defaultdict(dict)
    for row in rationales.sort_by([("sample", "ascending")]).to_pylist():
        verdicts[row["pair_id"]].append(row["verdict"])
        first[row["perspective"]].setdefault(row["pair_id"], row["verdict"])
    tasks: list[tuple[str, str, Sequence[str | None]]] = [
        (
            f"verdict: {perspective.replace('_', ' ')}",
            "the teacher's verdict from this perspective, of its first sample",
            [of_pair.get(pair_id) for pair_id in ids],
        )
        for perspective, of_pair in sorted(first.items())
    ]
    differ = [_said(len(set(verdicts[i])) > 1) if len(verdicts.get(i, ())) > 1 else None for i in ids]
    return [*tasks, ("conflict", "the teacher's verdicts on the pair differ", differ)]


def _add(
    found: Tasks,
    name: str,
    meaning: str,
    values: Sequence[str | None],
    query: np.ndarray,
    labels: Sequence[str],
    least_queries: int,
) -> None:
    """Add a task, or why it is none: classes that too few queries have are left out, and two must be left."""
    queries = {
        value: len({int(group) for group, other in zip(query, values, strict=True) if other == value})
        for value in Counter(value for value in values if value is not None)
    }
    order = [value for value in (*labels, "no", "yes") if value in queries]
    kept = [value for value in order if queries[value] >= least_queries]
    rare = ", ".join(f"{value} ({queries[value]})" for value in order if value not in kept)
    if len(kept) < 2:
        why = f"only {kept[0]} has {least_queries} queries" if kept else f"no class has {least_queries} queries"
        found.left_out.append(f"{name}: {'no pair has it' if not order else why}{f'; {rare}' if rare else ''}")
        return
    if rare:
        found.left_out.append(f"{name}: without the class of fewer than {least_queries} queries: {rare}")
    rows = np.array([row for row, value in enumerate(values) if value in kept], np.int64)
    label = np.array([kept.index(values[row] or "") for row in rows], np.int64)
    found.tasks.append(Task(name, meaning, tuple(kept), rows, label))
