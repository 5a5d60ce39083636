"""The command: run folders in; tables, plots and one page out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from lrkd.errors import UserError
from lrkd.evaluate.compare.contenders import Contender, Mean, imbalance, majority, methods, with_ensembles
from lrkd.evaluate.compare.costs import parameters, read_latency
from lrkd.evaluate.compare.curves import read_curves
from lrkd.evaluate.compare.estimates import Measured, ascending, differences, measure
from lrkd.evaluate.compare.pair_fields import find_fields
from lrkd.evaluate.compare.report import Report
from lrkd.evaluate.compare.scored import Fold, FoldPairs, read_scored
from lrkd.evaluate.compare.slice_scores import SliceTable, score_slices
from lrkd.evaluate.compare.slices import families
from lrkd.runs import RunRecord, ScoredSplit, find_runs

FEWEST_RESAMPLES = 100
MOST_FOCUS = 4


def compare(
    *,
    runs: str | list[str],
    split: ScoredSplit = "test",
    out: Path = Path("runs/compare"),
    baseline: str | None = None,
    ensembles: dict[str, list[str]] | None = None,
    ensemble_mean: Mean = "probabilities",
    focus: list[str] | None = None,
    root: Path | None = None,
    latency: Path | None = None,
    resamples: int = 10_000,
    seed: int = 0,
) -> None:
    """Compare methods over their runs, beside the majority: means, intervals, tests, slices, plots.

    Writes compare.html (all of it on one page), compare.md, compare.csv, compare.png and plots/. Intervals and p-values
    are from a bootstrap by query: what they mean is in the report and in docs/compare.md. For example:

        python -m lrkd compare --runs runs/encoder-seed0 runs/lrkd_mlp-seed0
        python -m lrkd compare --runs 'runs/esci/*' --baseline encoder --out runs/esci/compare
        python -m lrkd compare --runs 'runs/esci/*' --ensembles '{"three": ["intent", "structure", "rule"]}'

    Args:
        runs: Run folders, or patterns in quotes, one or several behind one --runs (a second --runs replaces the first).
        split: The split whose predictions are compared.
        out: The folder that takes the report.
        baseline: A method or an ensemble; the others' differences to it are added, paired by fold and seed, and tested.
        ensembles: Name to methods whose predictions are averaged, those of the same fold and seed; a single method is
            averaged over its seeds, fold by fold. An ensemble may name an earlier one.
        ensemble_mean: What ensembles average: probabilities, or logits.
        focus: Up to four whose reliability and confusion are drawn; by default the baseline and the best.
        root: The data root, for the slices by brand, locale, source and rationales; by default the runs' own.
        latency: A CSV file to draw macro-F1 against: a column method and one whose name says what was measured; without
            it, parameters.
        resamples: How often the bootstrap draws.
        seed: Seeds the draws.

    Raises:
        UserError: A run is missing or broken, runs cannot be compared, or an option names what there is not.
    """
    from rich.console import Console

    if resamples < FEWEST_RESAMPLES:
        raise UserError(f"--resamples {resamples}: fewer than {FEWEST_RESAMPLES} say nothing of a 95 % interval")
    records, passed = find_runs(runs)
    with Console(stderr=True).status("reading predictions") as status:
        labels = records[0].label_set
        folds, scored = read_scored(records, split)
        contenders = with_ensembles(methods(records, scored), ensembles or {}, ensemble_mean)
        _check_names(contenders, baseline, focus)
        status.update("drawing queries")
        always, *rest = measure([majority(records, folds), *contenders], folds, labels, resamples, seed)
        ranked = [always, *ascending(rest)]
        status.update("slicing")
        slices, left_out = _slices(ranked, records, folds, root, resamples, seed)
        base = next((found for found in ranked if found.contender.name == baseline), None)
        rows = [found.row() for found in ranked[1:]]
        curves, without = read_curves(records)
        report = Report(
            split=split,
            records=records,
            label_set=labels,
            folds=folds,
            measured=ranked,
            baseline=baseline,
            differences=[] if base is None else differences(ranked, base),
            slices=slices,
            left_out=left_out,
            focus=_focus(ranked[1:], focus, baseline),
            cost=parameters(rows) if latency is None else read_latency(latency, [row.name for row in rows]),
            curves={row.name: curves[row.name] for row in rows if row.name in curves},
            resamples=resamples,
            seed=seed,
            warnings=_warnings(ranked, records, split),
        )
        status.update("drawing")
        files = report.write(out)
    print(f"read {report.source}")
    if passed:
        print(f"passed over what --runs matched without a run.json: {_some(passed)}")
    if without:
        print(f"no learning curve of {_some(without)}: no metrics.csv with val/macro_f1")
    report.show()
    print(f"wrote {', '.join(map(str, files))} and the plots in {out / 'plots'}")


def _slices(
    measured: Sequence[Measured],
    records: Sequence[RunRecord],
    folds: Mapping[Fold, FoldPairs],
    root: Path | None,
    resamples: int,
    seed: int,
) -> tuple[list[SliceTable], list[str]]:
    """The slices' tables, and what is left out."""
    labels = records[0].label_set
    fields, missing = find_fields(records, root, labels)
    found, left_out = families(folds, fields, labels.labels)
    if missing is not None:
        left_out.append(f"brand, locale, source, rationale and teacher's verdicts: {missing}")
    contenders = [m.contender for m in measured]
    return [score_slices(family, contenders, folds, len(labels), resamples, seed) for family in found], left_out


def _focus(ranked: Sequence[Measured], names: Sequence[str] | None, baseline: str | None) -> list[Measured]:
    """Those named; by default the baseline and the best other."""
    if names:
        return [found for name in names for found in ranked if found.contender.name == name]
    best = [found for found in ranked if found.contender.name != baseline][-1:]
    return [*(found for found in ranked if found.contender.name == baseline), *best]


def _check_names(contenders: Sequence[Contender], baseline: str | None, focus: Sequence[str] | None) -> None:
    known = sorted(contender.name for contender in contenders)
    asked = [("--baseline", name) for name in [baseline] if name is not None] + [("--focus", n) for n in focus or []]
    for option, name in asked:
        if name not in known:
            raise UserError(f"{option} {name!r}: no run of that method; the methods are {', '.join(known)}")
    if focus and len(focus) > MOST_FOCUS:
        raise UserError(f"--focus: names {len(focus)} methods; more than {MOST_FOCUS} matrices are not read: choose")


def _warnings(measured: Sequence[Measured], records: Sequence[RunRecord], split: ScoredSplit) -> list[str]:
    """What the reader must know before trusting the figures."""
    found = []
    if unbalanced := imbalance(m.contender for m in measured[1:]):
        found.append(unbalanced)
    values = {m.contender.name: m.units for m in measured}
    for run in records:
        written = run.metrics(split)["macro_f1"]
        computed = values[run.method][run.fold, run.seed].values["macro_f1"]
        if not abs(written - computed) < 1e-3:
            found.append(
                f"{run.path}: {split}_metrics.json has macro-F1 {written:.3f}, its predictions give {computed:.3f}; "
                "they are not of one test: test the run again"
            )
    return found


def _some(paths: Sequence[Path]) -> str:
    return ", ".join(map(str, paths[:4])) + ", ..." * (len(paths) > 4)
