"""What is compared: the majority, the methods, and ensembles of their runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from lrkd.errors import UserError
from lrkd.evaluate.compare.scored import Fold, FoldPairs, Scored
from lrkd.runs import RunRecord

Key = tuple[Fold, int | None]
"""Fold and seed: what two contenders' runs are paired by. Without a seed: an ensemble of the fold's seeds."""

Mean = Literal["probabilities", "logits"]


@dataclass(frozen=True)
class Contender:
    """A row of every table.

    Args:
        name: What it is called.
        runs: What it says of each fold's pairs, by fold and seed.
        kind: What it is. The majority has no costs, and neither AUROC nor ECE: its certainty means nothing.
        note: What a reader must know of it.
    """

    name: str
    runs: Mapping[Key, Scored]
    kind: Literal["majority", "method", "ensemble"] = "method"
    note: str = ""


def methods(records: Sequence[RunRecord], scored: Mapping[Path, Scored]) -> list[Contender]:
    """The runs by method.

    Raises:
        UserError: A method has two runs of one fold and seed.
    """
    runs: dict[str, dict[Key, Scored]] = {}
    paths: dict[tuple[str, Key], Path] = {}
    for run in records:
        key = (run.fold, run.seed)
        if (run.method, key) in paths:
            raise UserError(
                f"two runs of {run.method!r} with {key_name(key)}: {paths[run.method, key]} and {run.path}; "
                "leave one out of --runs, or give the runs different method names if they differ"
            )
        paths[run.method, key] = run.path
        runs.setdefault(run.method, {})[key] = scored[run.path]
    return [Contender(method, own) for method, own in runs.items()]


def majority(records: Sequence[RunRecord], folds: Mapping[Fold, FoldPairs]) -> Contender:
    """The classifier that always says its training split's most frequent label, once for every fold and seed.

    Without it no figure on unbalanced labels means anything (trap 34).
    """
    labels = records[0].label_set.labels
    runs: dict[Key, Scored] = {}
    for run in records:  # methods share it: more than once a fold and seed would be copies
        certain = np.zeros((len(folds[run.fold]), len(labels)))
        certain[:, labels.index(run.majority_label)] = 1
        runs[run.fold, run.seed] = Scored(certain, np.nan, np.nan)
    said = " or ".join(sorted({run.majority_label for run in records}, key=labels.index))
    note = "gives every pair the training split's most frequent label, over the same folds and seeds, each counted once"
    return Contender(f"majority (always {said})", runs, "majority", note)


def with_ensembles(
    contenders: Sequence[Contender], ensembles: Mapping[str, Sequence[str]], mean: Mean
) -> list[Contender]:
    """The contenders, and after them the ensembles of their runs.

    Several members are averaged run by run: those of the same fold and seed, where all members have one. A single
    member is averaged over its seeds, a fold at a time. A member may be an ensemble that stands before it.

    Args:
        contenders: The methods.
        ensembles: Name to its members' names.
        mean: ``probabilities``: the arithmetic mean. ``logits``: the softmax of the logits' mean, that is the geometric
            mean, normalised; one member that rules a label out rules it out for all (trap 27).

    Raises:
        UserError: A name is taken or unknown, a member stands there twice, or there is nothing to average.
    """
    known = {contender.name: contender for contender in contenders}
    for name, members in ensembles.items():
        if name in known:
            raise UserError(f"--ensembles {name!r}: that is the name of a method or an earlier ensemble; give another")
        if unknown := [member for member in members if member not in known]:
            raise UserError(f"--ensembles {name!r}: {unknown[0]!r} is none of {', '.join(known)}")
        if not members or len(set(members)) < len(members):
            raise UserError(f"--ensembles {name!r}: names {list(members)}; give one or more different methods")
        runs = _by_seed(known[members[0]]) if len(members) == 1 else _by_member([known[m] for m in members])
        if not runs:
            raise UserError(f"--ensembles {name!r}: {', '.join(members)} share no fold and seed")
        if len(members) == 1 and max(map(len, runs.values())) == 1:
            raise UserError(f"--ensembles {name!r}: {members[0]} has one seed a fold, so there is nothing to average")
        parts = f"the seeds of {members[0]}" if len(members) == 1 else ", ".join(members)
        note = f"the mean of the {mean} of {parts}; its parameters and seconds are the sums of its members'"
        known[name] = Contender(name, {k: _average(v, mean) for k, v in runs.items()}, "ensemble", note)
    return list(known.values())


def _by_member(members: Sequence[Contender]) -> dict[Key, list[Scored]]:
    return {key: [m.runs[key] for m in members] for key in members[0].runs if all(key in m.runs for m in members)}


def _by_seed(member: Contender) -> dict[Key, list[Scored]]:
    runs: dict[Key, list[Scored]] = {}
    for (fold, _), scored in member.runs.items():
        runs.setdefault((fold, None), []).append(scored)
    return runs


def _average(members: Sequence[Scored], mean: Mean) -> Scored:
    found = np.stack([member.probabilities for member in members])
    if mean == "probabilities":
        average = found.mean(0)
    else:  # the files hold probabilities: their logarithms are the logits up to a constant a pair, which cancels
        logits = np.log(np.maximum(found, np.finfo(np.float32).tiny)).mean(0)
        average = np.exp(logits - logits.max(1, keepdims=True))
        average /= average.sum(1, keepdims=True)
    costs = (sum(member.parameters for member in members), sum(member.seconds for member in members))
    return Scored(average, *costs)


def imbalance(contenders: Iterable[Contender]) -> str | None:
    """What to warn of where contenders do not cover the same folds and seeds, else None."""
    covered = {c.name: {key for key in c.runs if key[1] is not None} for c in contenders}
    covered = {name: keys for name, keys in covered.items() if keys}  # an ensemble of seeds has none of its own
    every = sorted(set().union(*covered.values()), key=lambda key: (key[0] or 0, key[1] or 0))
    gaps = []
    for name, keys in covered.items():
        missing = [key_name(key) for key in every if key not in keys]
        more = f" and {len(missing) - 4} more" if len(missing) > 4 else ""
        if missing:
            gaps.append(f"{name} lacks {'; '.join(missing[:4])}{more}")
    if not gaps:
        return None
    why = "the methods do not cover the same folds and seeds, so their means differ by more than the method"
    return f"{why}: {'. '.join(gaps)}."


def key_name(key: Key) -> str:
    """A fold and seed as text."""
    seed = "all seeds" if key[1] is None else f"seed {key[1]}"
    return seed if key[0] is None else f"fold {key[0]} {seed}"
