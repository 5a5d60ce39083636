"""Methods side by side: run folders in; a table, a CSV file and a picture out, with the majority row always first."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from lrkd.errors import UserError
from lrkd.evaluate.compare_report import COLUMNS, QUALITY, Estimate, Report, Row
from lrkd.runs import RunRecord, ScoredSplit, find_runs

Key = tuple[int | None, int]
"""Fold and seed: what two methods' runs are paired by."""

Scores = dict[str, dict[Key, dict[str, float]]]
"""Method → (fold, seed) → metric → value; the methods in the order of the tables."""


def compare(
    *,
    runs: str | list[str],
    split: ScoredSplit = "test",
    out: Path = Path("runs/compare"),
    baseline: str | None = None,
) -> None:
    """Compare methods over their runs: the mean and standard deviation of every metric, beside the majority's.

    Writes compare.md, compare.csv and compare.png. For example:

        python -m lrkd compare --runs runs/encoder-seed0 runs/lrkd_mlp-seed0
        python -m lrkd compare --runs 'runs/esci/*' --baseline encoder --out runs/esci/compare

    Args:
        runs: Run folders, or patterns in quotes, one or several behind one --runs (a second --runs replaces the first).
        split: The split whose metrics are compared.
        out: The folder that takes the report.
        baseline: A method; the others' differences to it, paired by fold and seed, are added.

    Raises:
        UserError: A run is missing or broken, runs cannot be compared, or the baseline is none of the methods.
    """
    records, passed = find_runs(runs)
    scores = collect(records, split)
    if baseline is not None and baseline not in scores:
        raise UserError(f"--baseline {baseline!r}: no run of that method; the methods are {', '.join(scores)}")
    labels = records[0].label_set.labels
    majority = " or ".join(sorted({record.majority_label for record in records}, key=labels.index))
    report = Report(
        split=split,
        runs=records,
        rows=[majority_row(scores, f"majority (always {majority})"), *method_rows(scores)],
        points={method: [values["macro_f1"] for values in own.values()] for method, own in scores.items()},
        baseline=baseline,
        differences=[] if baseline is None else paired_rows(scores, baseline),
        warning=imbalance(scores),
    )
    print(f"read {report.source}")
    if passed:
        shown = ", ".join(map(str, passed[:4])) + ", ..." * (len(passed) > 4)
        print(f"passed over what --runs matched without a run.json: {shown}")
    report.show()
    print(f"wrote {', '.join(map(str, report.write(out)))}")


def collect(records: Sequence[RunRecord], split: ScoredSplit) -> Scores:
    """The runs' values by method, fold and seed, after checking that they can be compared.

    Args:
        records: The runs.
        split: The split whose metrics are read.

    Returns:
        The scores, methods by ascending mean macro-F1 (undefined ones first), then by name.

    Raises:
        UserError: Label sets, data or scored pairs differ, or a method has two runs of one fold and seed.
    """
    _check_same(records, "label sets", lambda run: str(run.label_set.to_dict()))
    _check_same(records, "data", lambda run: f"fingerprint {run.fingerprint}")
    metrics = {run.path: run.metrics(split) for run in records}
    for fold in {run.fold for run in records}:  # the same fingerprint, yet a run may have been scored on a part
        peers = [run for run in records if run.fold == fold]
        _check_same(peers, f"{split} pairs", lambda run: f"{metrics[run.path]['pairs']:.0f} pairs scored")
        _check_same(peers, "majority labels in one fold", lambda run: run.majority_label)
    scores: Scores = {}
    paths: dict[tuple[str, Key], Path] = {}
    for run in records:
        key = (run.fold, run.seed)
        if (run.method, key) in paths:
            raise UserError(
                f"two runs of {run.method!r} with {_name(key)}: {paths[run.method, key]} and {run.path}; "
                "leave one out of --runs, or give the runs different method names if they differ"
            )
        paths[run.method, key] = run.path
        costs = {"parameters": float(run.parameters["total"]), "seconds": run.seconds}
        scores.setdefault(run.method, {})[key] = metrics[run.path] | costs
    means = {method: estimate(v["macro_f1"] for v in values.values()).mean for method, values in scores.items()}
    order = sorted(scores, key=lambda m: (-1.0 if math.isnan(means[m]) else means[m], m))
    return {method: scores[method] for method in order}


def estimate(values: Iterable[float]) -> Estimate:
    """Mean and sample standard deviation (n − 1) of at least one value; NaN where one of them is not defined.

    >>> estimate([1.0, 2.0, 3.0])
    Estimate(mean=2.0, sd=1.0)
    >>> estimate([0.5])
    Estimate(mean=0.5, sd=None)
    """
    values = list(values)
    if not all(map(math.isfinite, values)):
        return Estimate(math.nan, None)  # a mean over the defined runs alone would pass for one over all
    return Estimate(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)


def method_rows(scores: Scores) -> list[Row]:
    """One row a method: every metric, F1 by label included, over its runs."""
    rows = []
    for method, runs in scores.items():
        values = list(runs.values())
        names = [*COLUMNS, *(name for name in values[0] if name.startswith("f1/"))]
        rows.append(Row(method, len(runs), {name: estimate(v[name] for v in values) for name in names}))
    return rows


def majority_row(scores: Scores, name: str) -> Row:
    """The majority classifier over the same folds and seeds, each once: methods share it, so more would be copies."""
    values = {key: value for runs in scores.values() for key, value in runs.items()}.values()
    names = ("accuracy", "macro_f1", "ndcg@10")
    return Row(name, len(values), {name: estimate(v[f"majority/{name}"] for v in values) for name in names})


def paired_rows(scores: Scores, baseline: str) -> list[Row]:
    """For every other method, its difference to the baseline over the folds and seeds that both have."""
    base = scores[baseline]
    rows = []
    for method, runs in scores.items():
        shared = [key for key in runs if key in base]
        if method != baseline:
            differences = {name: [runs[key][name] - base[key][name] for key in shared] for name in QUALITY}
            rows.append(Row(method, len(shared), {n: estimate(d) for n, d in differences.items() if d}))
    return rows


def imbalance(scores: Scores) -> str | None:
    """What to warn of where methods do not cover the same folds and seeds, else None."""
    every = sorted({key for runs in scores.values() for key in runs}, key=lambda key: (key[0] or 0, key[1]))
    gaps = []
    for method, runs in scores.items():
        missing = [_name(key) for key in every if key not in runs]
        more = f" and {len(missing) - 4} more" if len(missing) > 4 else ""
        if missing:
            gaps.append(f"{method} lacks {'; '.join(missing[:4])}{more}")
    if not gaps:
        return None
    why = "the methods do not cover the same folds and seeds, so their means differ by more than the method"
    return f"{why}: {'. '.join(gaps)}."


def _check_same(records: Sequence[RunRecord], what: str, trait: Callable[[RunRecord], str]) -> None:
    """Refuse runs that differ in a trait, naming which have which."""
    groups: dict[str, list[str]] = {}
    for run in records:
        groups.setdefault(trait(run), []).append(str(run.path))
    if len(groups) > 1:
        lines = [f"\n  {value}: {', '.join(paths[:4])}{', ...' * (len(paths) > 4)}" for value, paths in groups.items()]
        raise UserError(f"--runs mixes different {what}; compare these apart:{''.join(lines)}")


def _name(key: Key) -> str:
    return f"seed {key[1]}" if key[0] is None else f"fold {key[0]} seed {key[1]}"
