"""How far the nearest rationales fit the pairs that they are to explain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lrkd.evaluate.explain.index import ExplanationIndex
from lrkd.evaluate.explain.topics import Topics

LATENT, STATE, OWN, RANDOM, FREQUENT = "latent", "[CLS]", "own rationale", "random", "most frequent"
"""The ways to come by a rationale."""

DIFFERENCES = {f"{LATENT} − {STATE}": (LATENT, STATE), f"{LATENT} − {OWN}": (LATENT, OWN)}
"""Pair by pair."""

STUDENT, GOLD = "agrees_with_student", "agrees_with_gold"

ALL = "all"
"""In place of a perspective: the mean over all."""


class Share(NamedTuple):
    """A share of pairs (or a difference of two), and its standard error with the pairs of a query taken together."""

    mean: float
    error: float
    pairs: int


@dataclass(frozen=True)
class Explained:
    """N labelled pairs and the rationales that were found for them.

    Args:
        student: (N,) the class that the student finds most probable.
        gold: (N,) the gold class.
        query: (N,) the query group.
        by_latent: (N, K) places in the index: the nearest rationale to the latent, of each perspective.
        by_state: (N, K) the same by the encoder's state.
        by_own: (N, K) the same by what the teacher wrote of the pair; -1 where it wrote nothing.
        topics: By name: what makes two pairs alike in topic.
    """

    student: np.ndarray
    gold: np.ndarray
    query: np.ndarray
    by_latent: np.ndarray
    by_state: np.ndarray
    by_own: np.ndarray
    topics: dict[str, Topics]


def measure(explained: Explained, index: ExplanationIndex, labels: Sequence[str]) -> list[dict[str, Any]]:
    """How often a rationale's verdict is the student's label and the gold label, and its topic the pair's.

    Beside the rationales that were found stand those nearest to the teacher's own rationale of the pair (a perfect
    latent of one rationale would find these), one drawn at random from the same perspective, whose expected shares are
    exact, and the perspective's most frequent verdict (trap 34).

    Args:
        explained: N pairs.
        index: M rationales of K perspectives.
        labels: The C labels.

    Returns:
        One row a way and perspective, ``all`` last: ``by``, ``perspective``, and a :class:`Share` (None where there is
        none) for ``agrees_with_student``, ``agrees_with_gold`` and each of the topics.
    """
    verdict = pc.index_in(index.rationales["verdict"], value_set=pa.array(labels)).to_numpy()
    parts = [slice(int(a), int(b)) for a, b in zip(index.bounds[:-1], index.bounds[1:], strict=True)]
    counts = np.stack([np.bincount(verdict[part], minlength=len(labels)) for part in parts])
    frequency = counts / counts.sum(1, keepdims=True)
    common, topics = frequency.argmax(1), explained.topics
    classes = {STUDENT: explained.student, GOLD: explained.gold}
    values = {  # by way and measure: (N, K)
        by: {
            name: np.where(place < 0, np.nan, alike)
            for name, alike in (
                *((name, verdict[place] == label[:, None]) for name, label in classes.items()),
                *((name, topic.alike(place)) for name, topic in topics.items()),
            )
        }
        for by, place in ((LATENT, explained.by_latent), (STATE, explained.by_state), (OWN, explained.by_own))
    }
    for difference, (one, other) in DIFFERENCES.items():
        values[difference] = {name: values[one][name] - values[other][name] for name in values[one]}
    values[RANDOM] = {name: frequency[:, label].T for name, label in classes.items()}
    values[RANDOM] |= {name: topic.expected(parts) for name, topic in topics.items()}
    values[FREQUENT] = {name: (common == label[:, None]).astype(float) for name, label in classes.items()}
    return [
        {"by": by, "perspective": perspective}
        | {name: _share(measures.get(name), number, explained.query) for name in (*classes, *topics)}
        for by, measures in values.items()
        for number, perspective in enumerate([*index.perspectives, ALL])
    ]


def _share(values: np.ndarray | None, perspective: int, query: np.ndarray) -> Share | None:
    if values is None:
        return None
    return share_by_query(values[:, perspective] if perspective < values.shape[1] else _mean_of_known(values), query)


def _mean_of_known(values: np.ndarray) -> np.ndarray:
    """The rows' means over what is not NaN (N,); NaN where nothing is."""
    with np.errstate(invalid="ignore"):
        return np.asarray(np.nansum(values, axis=1) / (~np.isnan(values)).sum(1))


def share_by_query(values: np.ndarray, query: np.ndarray) -> Share | None:
    """The mean of some values and its standard error, clustered by query.

    The error is that of a ratio of sums over G independent queries:
    ``sqrt(G / (G - 1) · Σ_g (Σ_{i in g} (v_i - v̄))²) / N`` (Cochran 1977, chapter 9A).

    Args:
        values: (N,), NaN where undefined: those are left out.
        query: (N,) int.

    Returns:
        None where no value is defined. The error of a single query is NaN.
    """
    known = ~np.isnan(values)
    if not known.any():
        return None
    values, (_, group) = values[known], np.unique(query[known], return_inverse=True)
    mean = float(values.mean())
    sums = np.bincount(group, values - mean)
    if len(sums) < 2:
        return Share(mean, float("nan"), len(values))
    error = float(np.sqrt(len(sums) / (len(sums) - 1) * np.square(sums).sum()) / len(values))
    return Share(mean, error, len(values))
