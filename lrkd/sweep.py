"""``sweep``: the grid of a W&B sweep file, run on this machine without W&B."""

from __future__ import annotations

import glob
import itertools
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from lrkd.errors import UserError
from lrkd.runs import is_run

if TYPE_CHECKING:
    from lrkd.cli import PlannedFit

FIT = ["-m", "lrkd", "fit"]


@dataclass(frozen=True)
class Point:
    """One point of a grid.

    Args:
        values: What it sets: the parameters' options.
        options: All options of its ``fit``.
        folder: The run's folder: a finished one's, or the one that it will get.
    """

    values: list[str]
    options: list[str]
    folder: Path

    @property
    def finished(self) -> bool:
        """Whether it needs no more work: it was fitted, and measured on the validation split."""
        return is_run(self.folder) and (self.folder / "val_metrics.json").is_file()


def sweep(*, file: Path, loggers: bool = False) -> None:
    """Run a W&B sweep file's grid here, one fit after the other, each followed by validate.

    All points are parsed before the first one runs. Finished ones are skipped, interrupted ones resumed, and a failed
    one does not keep the others from running: the same command again repeats what is missing. For example:

        python -m lrkd sweep --file configs/sweeps/guidance_weight.yaml

    Args:
        file: The sweep file: its method is grid, its command a `python -m lrkd fit`.
        loggers: Keep the command's loggers; by default none, so that W&B is not needed.

    Raises:
        UserError: The file is no grid of fits, two points would share a folder, a finished run has other settings than
            its point, or fits failed.
    """
    points = plan(file, loggers=loggers)
    print(f"{file}: {len(points)} fits, {sum(point.finished for point in points)} of them finished")
    failed = []
    for number, point in enumerate(points, 1):
        print(f"{number}/{len(points)}  {' '.join(point.values)}  {point.folder}", flush=True)
        if not (point.finished or _run(point)):
            failed.append(point)
    if failed:
        lines = [f"\n  {shlex.join(['python', *FIT, *point.options])}" for point in failed]
        raise UserError(
            f"{len(failed)} of {len(points)} fits failed; what they said stands above. The same command again repeats "
            f"only these; alone, they are:{''.join(lines)}"
        )
    folders = [str(point.folder) for point in points]
    out = points[0].folder.parent / "compare"
    print(f"All {len(points)} are finished; next:\n  python -m lrkd compare --split val --runs {shlex.join(folders)} "
          f"--out {out}")  # fmt: skip


def plan(file: Path, *, loggers: bool = False) -> list[Point]:
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
    points = []
    for values in grid(content.get("parameters"), file):
        options = [*fit_options(content.get("command"), values, file), *([] if loggers else ["--trainer.logger=false"])]
        points.append(_point(values, options))
    folders = [point.folder for point in points]
    if twice := next((folder for folder in folders if folders.count(folder) > 1), None):
        raise UserError(
            f"{file}: several points would be run {twice}; name what varies in the command, "
            "e.g. --method=lrkd_mlp,lambda={model.init_args.guidance_weight}"
        )
    return points


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


def _point(values: list[str], options: list[str]) -> Point:
    from lrkd.cli import PlannedFit

    planned = PlannedFit(["fit", *options])
    copies = [Path(path) for path in glob.glob(f"{glob.escape(str(planned.folder))}-[0-9]*")]
    finished = next((folder for folder in (planned.folder, *sorted(copies)) if is_run(folder)), None)
    if finished is not None:
        _check_settings(planned, finished)
    return Point(values, options, finished or planned.folder)


def _check_settings(planned: PlannedFit, folder: Path) -> None:
    saved = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    mine, theirs = _flat(planned.as_dict()), _flat(saved)
    different = [f"{k}: {mine.get(k)} against {theirs.get(k)}" for k in mine | theirs if mine.get(k) != theirs.get(k)]
    if different:
        raise UserError(
            f"{folder}: finished with other settings than the sweep's now ({'; '.join(different[:4])}); give the "
            "sweep another --trainer.default_root_dir or --method, or move that run away"
        )


def _flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted names to values, without what may differ between runs of one point."""
    found: dict[str, Any] = {}
    for name, value in config.items():
        key = f"{prefix}{name}"
        if key not in ("ckpt_path", "trainer.logger"):
            found |= _flat(value, f"{key}.") if isinstance(value, dict) and value else {key: value}
    return found


def _run(point: Point) -> bool:
    """Fit, or go on fitting, and validate; whether both succeeded."""
    best = point.folder / "checkpoints" / "best.ckpt"
    return finish_fit(point.folder, point.options) and lrkd("validate", f"--ckpt_path={best}")


def finish_fit(folder: Path, options: list[str]) -> bool:
    """Fit, or go on fitting, unless it is done; whether it is.

    Args:
        folder: The run's folder.
        options: Of ``fit``.
    """
    last = folder / "checkpoints" / "last.ckpt"
    resume = [f"--ckpt_path={last}"] if last.is_file() else []
    return is_run(folder) or lrkd("fit", *options, *resume)


def lrkd(*args: str) -> bool:
    """One command in a process of its own, so that what it leaves behind is gone with it; whether it succeeded."""
    return subprocess.run([sys.executable, "-m", "lrkd", *args], check=False).returncode == 0
