"""How far explanations fit, measured on a split that the student was not trained on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console

from lrkd.data.pair_targets import Targets
from lrkd.data.pairs import read_pairs
from lrkd.data.targets import normalise
from lrkd.errors import UserError
from lrkd.evaluate.explain.build import BuiltIndex, placed_rationales
from lrkd.evaluate.explain.explanations import explanation_table, write_explanations
from lrkd.evaluate.explain.index import Nearest
from lrkd.evaluate.explain.quality import Explained, measure, share_by_query
from lrkd.evaluate.explain.report import show_quality, write_quality
from lrkd.evaluate.explain.topics import Topics, query_words
from lrkd.evaluate.features import Features, student_features
from lrkd.evaluate.trained import TrainedStudent
from lrkd.runs import ScoredSplit


def measure_split(
    student: TrainedStudent,
    built: BuiltIndex,
    split: ScoredSplit,
    neighbours: int,
    folder: Path,
    console: Console,
    **how: Any,
) -> None:
    """Explain the labelled pairs of a split, measure how far that fits, and write both.

    Args:
        student: The student, its data set up.
        built: Its index.
        split: Which pairs.
        neighbours: Rationales a perspective in the table; only the nearest is measured.
        folder: Takes ``<split>_explanations.md``, ``.json`` and ``.parquet``.
        console: Where the report is shown.
        **how: Batch size and precision, see :func:`~lrkd.evaluate.features.student_features`.

    Raises:
        UserError: The split has no labelled pair.
    """
    data, targets, labels = student.data, student.data.training_targets, student.record.label_set.labels
    assert targets is not None
    rows = data.rows(split)
    rows = rows[pc.is_valid(data.pairs["label"].take(pa.array(rows))).to_numpy()]
    if not len(rows):
        raise UserError(f"{data.root}: no labelled pair in split {split!r}, so nothing to measure")
    pairs = read_pairs(data.root, columns=["pair_id", "query", "title", "label", "category"])
    given = pairs.take(pa.array(rows))
    made = student_features(student.model, data.tokens, rows, **how)
    assert made.latents is not None
    nearest = built.index.search(made.latents, neighbours)
    gold = pc.index_in(given["label"], value_set=pa.array(labels)).to_numpy()
    _, query = np.unique(targets.query[rows], return_inverse=True)
    explained = Explained(
        student=made.probabilities.argmax(1),
        gold=gold,
        query=query,
        by_latent=nearest.place[..., 0],
        by_state=_nearest_by_state(student, built, made, **how).place[..., 0],
        by_own=nearest_by_own(targets, built, rows),
        topics=_topics(given, pairs.take(pa.array(built.rows))),
    )
    report = {
        "split": split,
        "pairs": len(rows),
        "queries": int(query.max()) + 1,
        "student_agrees_with_gold": share_by_query((explained.student == gold).astype(float), query),
        "rows": measure(explained, built.index, labels),
        "index": {"rationales": len(built.rows), "left_out": built.left_out, **built.index.about},
    }
    state = "[CLS]" if student.model.hparams["pooling"] == "cls" else "mean state"
    show_quality(console, report, state)
    files = [*write_quality(report, state, folder), folder / f"{split}_explanations.parquet"]
    shown = given.select(["pair_id", "query", "title", "label"])
    write_explanations(explanation_table(shown, made.probabilities, labels, built.index, nearest), files[-1])
    console.print(f"Wrote {', '.join(map(str, files))}")


def _nearest_by_state(student: TrainedStudent, built: BuiltIndex, made: Features, **how: Any) -> Nearest:
    """For every perspective the rationale of the training pair whose state is nearest to a pair's.

    The states are compared as targets are with ``centring: global``: less the mean over the index's pairs, by cosine.
    """
    rows, pair = np.unique(built.rows, return_inverse=True)
    state = student_features(student.model, student.data.tokens, rows, **how).state
    mean = state.mean(0)
    index = replace(
        built.index,
        vectors=normalise(state - mean)[pair],
        perspectives=dict.fromkeys(built.index.perspectives, 0),
        latents=1,
    )
    return index.search((made.state - mean)[:, None])


def nearest_by_own(targets: Targets, built: BuiltIndex, rows: np.ndarray) -> np.ndarray:
    """For every perspective the nearest rationale in the index to what the teacher wrote of some pairs.

    Args:
        targets: What training drew the latents to.
        built: The index.
        rows: (N,) int64: the pairs' rows in ``pairs.parquet``.

    Returns:
        (N, K) int64 places in the index, by the first sample of each perspective; -1 where there is none.
    """
    names, joined = list(built.index.perspectives), targets.rationales
    number = np.array([names.index(name) if name in names else -1 for name in targets.perspectives])
    pair_of = np.full(len(targets.query), -1)
    pair_of[rows] = np.arange(len(rows))
    asked = np.flatnonzero((pair_of[joined.pair] >= 0) & (number[joined.perspective] >= 0))[::-1]  # the first is last
    vectors, there = placed_rationales(targets, joined.vector[asked], joined.pair[asked])
    own = np.zeros((len(rows), len(names), targets.store.width), np.float32)
    cell = pair_of[joined.pair[asked]], number[joined.perspective[asked]]
    own[cell] = vectors * there[:, None]
    index = replace(built.index, perspectives={name: n for n, name in enumerate(names)}, latents=len(names))
    return np.where(own.any(-1), index.search(own).place[..., 0], -1)


def _topics(pairs: pa.Table, of_rationales: pa.Table) -> dict[str, Topics]:
    """What makes two pairs alike in topic: a word of the query, and, where items have categories, the innermost one."""
    words = [[query_words(query) for query in table["query"].to_pylist()] for table in (pairs, of_rationales)]
    topics = {"same_topic": Topics(*words)}
    innermost = [
        [frozenset((path or [])[-1:]) for path in table["category"].to_pylist()] for table in (pairs, of_rationales)
    ]
    if all(any(keys) for keys in innermost):
        topics["same_category"] = Topics(*innermost)
    return topics
