"""``sweep``: the grid of a W&B sweep file, run on this machine without W&B."""

from __future__ import annotations

import itertools
import shlex
from pathlib import Path
from typing import Any

import yaml

from lrkd.errors import UserError
from lrkd.experiments.execute import execute
from lrkd.experiments.fits import PlannedRun, check_settings
from lrkd.experiments.jobs import slots

FIT = ["-m", "lrkd", "fit"]


def sweep(
    *, file: Path, jobs: int | None = None, devices: str | list[str] | None = None, loggers: bool = False
) -> None:
    """Run a W&B sweep file's grid here, each point a fit and a validate in processes of their own.

    All points are parsed before the first one runs. Finished ones are skipped, interrupted ones resumed, and a failed
    one does not keep the others from running: the same command again repeats what is missing. For example:

        python -m lrkd sweep --file configs/sweeps/guidance_weight.yaml

    Args:
        file: The sweep file: its method is grid, its command a `python -m lrkd fit`.
        jobs: How many points run side by side; one, or one a device, by default.
        devices: GPUs that they are dealt to, e.g. 0 1: values of CUDA_VISIBLE_DEVICES.
        loggers: Keep the command's loggers; by default none, so that W&B is not needed.

    Raises:
        UserError: The file is no grid of fits, two points would share a folder, a run has other settings than its
            point, or fits failed.
    """
    runs = plan(file, loggers=loggers)
    execute(runs, runs[0].folder.parent, slots(jobs, [devices] if isinstance(devices, str) else devices or []))
    folders = [str(run.folder) for run in runs]
    out = runs[0].folder.parent / "compare"
    print(f"All {len(runs)} are finished; next:\n  python -m lrkd compare --split val --runs {shlex.join(folders)} "
          f"--out {out}")  # fmt: skip


def plan(file: Path, *, loggers: bool = False) -> list[PlannedRun]:
    """A sweep file's grid as fits, each parsed as ``fit`` will parse it.

    Args:
        file: See :func:`sweep`.
        loggers: See :func:`sweep`.

    Returns:
        The points; the last parameter varies fastest.

    Raises:
        UserError: See :func:`sweep`. An option that ``fit`` does not know ends the program with its message.
    """
    content = yaml.safe_load(_read(file))
    if not isinstance(content, dict) or content.get("method") != "grid":
        method = content.get("method") if isinstance(content, dict) else content
        raise UserError(
            f"{file}: method is {method!r:.60}; only a grid runs here, other methods need W&B: `wandb sweep {file}`"
        )
    runs = []
    for values in grid(content.get("parameters"), file):
        options = [*fit_options(content.get("command"), values, file), *([] if loggers else ["--trainer.logger=false"])]
        runs.append(_point(values, options))
    folders = [run.folder for run in runs]
    if twice := next((folder for folder in folders if folders.count(folder) > 1), None):
        raise UserError(
            f"{file}: several points would be run {twice}; name what varies in the command, "
            "e.g. --method=lrkd_mlp,lambda={model.init_args.guidance_weight}"
        )
    return runs


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"--file {file}: not readable: {error}") from error


def grid(parameters: Any, file: Path) -> list[list[str]]:
    """Every combination of the parameters' values, as the options that W&B's ``${args}`` would be.

    Args:
        parameters: The file's ``parameters``: ``{name: {values: [...]}}`` or ``{name: {value: ...}}``.
        file: For the error's message.

    Raises:
        UserError: A parameter has no list of values.
    """
    choices = []
    for name, parameter in (parameters or {}).items():
        values = parameter.get("values", [parameter["value"]] if "value" in parameter else None)
        if not isinstance(values, list):
            raise UserError(f"{file}: parameter {name}: a grid needs `values: [...]` or `value: ...`, got {parameter}")
        choices.append([f"--{name}={value}" for value in values])
    return [list(values) for values in itertools.product(*choices)]


def fit_options(command: Any, values: list[str], file: Path) -> list[str]:
    """The options of ``python -m lrkd fit`` in a sweep's command, with ``${args}`` filled in.

    Raises:
        UserError: The command is another one, or has a macro that is not known here.
    """
    words = [str(word) for word in command or [] if word != "${env}"]
    if words[:4] != ["${interpreter}", *FIT] or "${args}" not in words:
        raise UserError(f"{file}: command must be ${{env}} ${{interpreter}} {' '.join(FIT)} ... ${{args}}, got {words}")
    if unknown := [word for word in words[4:] if "${" in word and word != "${args}"]:
        raise UserError(f"{file}: command: {unknown[0]} has a meaning in W&B only; write what it stands for")
    return [option for word in words[4:] for option in (values if word == "${args}" else [word])]


def _point(values: list[str], options: list[str]) -> PlannedRun:
    from lrkd.cli import PlannedFit

    planned = PlannedFit(["fit", *options])
    check_settings(planned, planned.folder)
    return PlannedRun(" ".join(values), options, planned.folder, "val")
