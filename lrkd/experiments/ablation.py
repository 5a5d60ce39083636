"""``ablation``: methods by folds and seeds from one file, into one table."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from lrkd.errors import UserError
from lrkd.experiments.ablation_file import AblationFile, Row, as_option, read_ablation_file
from lrkd.experiments.execute import execute
from lrkd.experiments.fits import PlannedRun, check_settings, lrkd
from lrkd.experiments.jobs import slots
from lrkd.runs import is_run, read_run, run_name

Repeat = tuple[int | None, int]
"""Fold and seed."""


def ablation(
    *,
    file: Path,
    rows: str | list[str] | None = None,
    folds: int | list[int] | None = None,
    seeds: int | list[int] | None = None,
    data: str | None = None,
    jobs: int | None = None,
    devices: str | list[str] | None = None,
    loggers: bool = False,
    dry_run: bool = False,
) -> None:
    """Run the rows of an ablation on every fold and seed, and compare them.

    Each run is a fit and a test in processes of their own. Every row is parsed before the first run starts. Finished
    runs are skipped, interrupted ones resumed, and a failed one does not keep the others from running: the same command
    again does what is missing. For example:

        python -m lrkd ablation --file configs/ablations/quickstart.yaml
        python -m lrkd ablation --file my.yaml --rows encoder lrkd_mlp --folds 0 1 --devices 0 1 2 3

    Args:
        file: The ablation's file: docs/ablations.md says what it holds.
        rows: Only these rows (and those that they need).
        folds: These folds in place of the file's.
        seeds: These seeds in place of the file's.
        data: The data root in place of the file's.
        jobs: How many runs go on side by side; one, or one a device, by default.
        devices: GPUs that runs are dealt to, e.g. 0 1: values of CUDA_VISIBLE_DEVICES.
        loggers: Keep the configs' loggers, such as W&B; by default none.
        dry_run: Only say what there is to do.

    Raises:
        UserError: Something is wrong with the file, a run has other settings than its row, or runs failed.
    """
    plan = read_ablation_file(file)
    plan = plan if data is None else replace(plan, data=data)
    chosen = with_needed(plan, _listed(rows) or list(plan.rows))
    repeats = list(itertools.product(_listed(folds) or plan.folds, _listed(seeds) or plan.seeds))
    places, before = slots(jobs, _listed(devices)), plan.steps(plan.before, _names(plan))
    runs = planned_runs(plan, chosen, repeats, loggers)
    if dry_run:
        for run in runs:
            print(f"{'finished' if run.finished else 'begun' if run.folder.exists() else 'to do':<9} {run.folder}")
        return
    try:
        execute(runs, Path(plan.runs), places, before)
    except UserError:
        compare_finished(plan, runs)
        raise
    if not compare_finished(plan, runs):
        raise UserError("compare failed: what it said stands above; the runs are finished")


def with_needed(plan: AblationFile, names: Iterable[str]) -> list[Row]:
    """Rows and those that they refer to, needed ones first, else in the file's order.

    Raises:
        UserError: A row is not in the file, or rows need each other in a circle.
    """
    found: dict[str, Row] = {}

    def add(name: str, above: tuple[str, ...]) -> None:
        if name not in plan.rows:
            raise UserError(f"{plan.path}: has no row {name!r}; the rows are {', '.join(plan.rows)}")
        if name in above:
            raise UserError(f"{plan.path}: rows need each other in a circle: {' → '.join([*above, name])}")
        for needed in sorted(plan.rows[name].mentions() & plan.rows.keys(), key=list(plan.rows).index):
            add(needed, (*above, name))
        found.setdefault(name, plan.rows[name])

    names = set(names)
    for name in [*(row for row in plan.rows if row in names), *(names - plan.rows.keys())]:
        add(name, ())
    return list(found.values())


def planned_runs(
    plan: AblationFile, rows: Iterable[Row], repeats: Iterable[Repeat], loggers: bool = False
) -> list[PlannedRun]:
    """The runs of some rows: all rows of one fold and seed, then of the next, so that half an ablation can be compared.

    Args:
        plan: The file.
        rows: The rows.
        repeats: The folds and seeds.
        loggers: Keep the configs' loggers.

    Raises:
        UserError: A ``${name}`` is not known, or a run was begun with other settings than its row has. An option that
            ``fit`` does not know ends the program with its message.
    """
    from lrkd.cli import PlannedFit

    runs, parsed = [], set()
    for fold, seed in repeats:
        for row in rows:
            run = _run(plan, row, fold, seed, loggers)
            # Parsing takes a while: a row is parsed once, and its further runs only where there is something to check.
            if row.name not in parsed or run.folder.exists():
                check_settings(PlannedFit(["fit", *run.options]), run.folder)
                parsed.add(row.name)
            runs.append(run)
    return runs


def _run(plan: AblationFile, row: Row, fold: int | None, seed: int, loggers: bool) -> PlannedRun:
    names = _names(plan, fold, seed)
    options = [
        *plan.fit_options(row, names),
        *([f"--data.init_args.root={plan.data}"] if plan.data is not None else []),
        *([f"--data.init_args.fold={fold}"] if fold is not None else []),
        f"--seed_everything={seed}",
        f"--method={row.name}",
        f"--trainer.default_root_dir={plan.runs}",
        *([] if loggers else ["--trainer.logger=false"]),
    ]
    return PlannedRun(
        title=f"{row.name}{'' if fold is None else f'  fold {fold}'}  seed {seed}",
        options=options,
        folder=Path(plan.runs) / run_name(row.name, fold, seed),
        split=plan.split,
        before=plan.steps(row.before, names),
        needs=frozenset(run_name(name, fold, seed) for name in row.mentions() & plan.rows.keys()),
    )


def _names(plan: AblationFile, fold: int | None = None, seed: int | None = None) -> dict[str, str]:
    """What ``${...}`` stands for: in the runs of a fold and seed, a row's name is that row's run's folder."""
    names = {"runs": plan.runs} | ({"data": plan.data} if plan.data is not None else {})
    if seed is None:
        return names
    names |= {"seed": str(seed)} | ({"fold": str(fold)} if fold is not None else {})
    return names | {name: str(Path(plan.runs) / run_name(name, fold, seed)) for name in plan.rows}


def compare_finished(plan: AblationFile, runs: Iterable[PlannedRun]) -> bool:
    """Compare the finished runs of all the file's rows, left out this time or not; whether that succeeded.

    Args:
        plan: The file.
        runs: This time's runs.
    """
    finished = {run.name: run for run in runs if run.finished}
    for row, fold, seed in itertools.product(plan.rows.values(), plan.folds, plan.seeds):
        name = run_name(row.name, fold, seed)
        if name not in finished and is_run(Path(plan.runs) / name):
            run = _run(plan, row, fold, seed, loggers=False)
            if run.finished and _as_planned(run):
                finished[name] = run
    if not finished:
        return True
    there = {read_run(run.folder).method for run in finished.values()}
    options = of_finished(plan.compare, plan.rows.keys() - there)
    words = [word for name, value in options.items() for word in (f"--{name}", *map(as_option, _listed(value)))]
    folders = [str(run.folder) for run in finished.values()]
    return lrkd("compare", "--runs", *folders, "--split", plan.split, "--out", f"{plan.runs}/compare", *words)


def of_finished(options: dict[str, Any], without: Iterable[str]) -> dict[str, Any]:
    """The options of ``compare`` less what names a row that has no finished run; says what is left out.

    Args:
        options: A value is a text, a list of texts, or a mapping whose keys are names themselves (ensembles).
        without: The rows without a finished run.
    """
    missing, kept = set(without), dict[str, Any]()
    for option, value in sorted(options.items(), key=lambda item: not isinstance(item[1], dict)):  # these may name more
        members = value if isinstance(value, dict) else {name: name for name in _listed(value)}
        gone = []
        for name, of in members.items():
            if missing.intersection(_listed(of)):
                missing.add(name)
                gone.append(name)
        if left := {name: of for name, of in members.items() if name not in gone}:
            kept[option] = left if isinstance(value, dict) else list(left)
        if gone:
            print(f"compare goes without --{option} {', '.join(gone)}: not all of its runs are finished")
    return kept


def _as_planned(run: PlannedRun) -> bool:
    from lrkd.cli import PlannedFit

    try:
        check_settings(PlannedFit(["fit", *run.options]), run.folder)
    except UserError as error:
        print(f"not in the table: {error}")
        return False
    return True


def _listed(value: Any) -> list[Any]:
    return [] if value is None else list(value) if isinstance(value, list) else [value]
