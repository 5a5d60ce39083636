"""Fits that are planned: what each will be, whether it is there already, and how it is gone on with."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from lrkd.errors import UserError
from lrkd.runs import ScoredSplit, is_run

if TYPE_CHECKING:
    from lrkd.cli import PlannedFit

VERBS = {"val": "validate", "test": "test"}


@dataclass(frozen=True)
class Step:
    """A command that makes something which others need; it is left out where that is there already.

    Args:
        command: The words after ``python -m lrkd``.
        out: The file or folder that it makes; it must appear only when it is whole.
    """

    command: list[str]
    out: Path


@dataclass(frozen=True)
class PlannedRun:
    """One run of a file of many: its fit, and its scoring.

    Args:
        title: What it is called in messages.
        options: All options of its ``fit``.
        folder: Its folder: a finished run's, or the one that it will get.
        split: The split that it is scored on.
        before: What is made before it.
        needs: The names of the runs' folders that must be finished before.
    """

    title: str
    options: list[str]
    folder: Path
    split: ScoredSplit
    before: tuple[Step, ...] = ()
    needs: frozenset[str] = frozenset()

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.name

    @property
    def finished(self) -> bool:
        """Whether it needs no more work."""
        return is_run(self.folder) and (self.folder / f"{self.split}_metrics.json").is_file()

    def commands(self) -> Iterator[list[str]]:
        """What is left to do, each decided on when it is asked for."""
        yield from missing(self.before)
        if not is_run(self.folder):
            yield fit_command(self.folder, self.options)
        if not self.finished:
            yield [VERBS[self.split], f"--ckpt_path={self.folder / 'checkpoints' / 'best.ckpt'}"]


def missing(steps: Iterable[Step]) -> Iterator[list[str]]:
    """The commands of those steps whose output is not there.

    Raises:
        UserError: A command ran and did not make it.
    """
    for step in steps:
        if not step.out.exists():
            yield step.command
            if not step.out.exists():
                raise UserError(f"`python -m lrkd {shlex.join(step.command)}` ended well, but made no {step.out}")


def fit_command(folder: Path, options: list[str]) -> list[str]:
    """The command that begins a fit, or goes on with one from its last checkpoint.

    What was killed before its first checkpoint is deleted and begun again: there is nothing in it to go on from.

    Args:
        folder: The run's folder.
        options: Of ``fit``.

    Raises:
        UserError: The folder is there, and no fit made it.
    """
    last = folder / "checkpoints" / "last.ckpt"
    if last.is_file():
        return ["fit", *options, f"--ckpt_path={last}"]
    if folder.exists():
        if not (folder / "config.yaml").is_file():
            raise UserError(f"{folder}: is to be a run's folder, but holds something else; move it away")
        shutil.rmtree(folder)
    return ["fit", *options]


def check_settings(planned: PlannedFit, folder: Path) -> None:
    """Refuse a run that was begun with other settings than it has now.

    Args:
        planned: Its ``fit``, parsed.
        folder: Its folder; nothing is checked where it holds no ``config.yaml``.

    Raises:
        UserError: They differ; names some with both values.
    """
    file = folder / "config.yaml"
    if not file.is_file():
        return
    mine, theirs = _flat(planned.as_dict()), _flat(yaml.safe_load(file.read_text(encoding="utf-8")))
    different = [f"{k}: {mine.get(k)} against {theirs.get(k)}" for k in mine | theirs if mine.get(k) != theirs.get(k)]
    if different:
        raise UserError(
            f"{folder}: made with other settings than the file's now ({'; '.join(different[:4])}); give the method "
            "another name or the runs another root folder, or move that run away"
        )


def _flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted names to values, without what may differ between runs of the same settings."""
    found: dict[str, Any] = {}
    for name, value in config.items():
        key = f"{prefix}{name}"
        if key not in ("ckpt_path", "trainer.logger"):
            found |= _flat(value, f"{key}.") if isinstance(value, dict) and value else {key: value}
    return found


def finish_fit(folder: Path, options: list[str]) -> bool:
    """Fit, or go on fitting, unless it is done; whether it is.

    Args:
        folder: The run's folder.
        options: Of ``fit``.
    """
    return is_run(folder) or lrkd(*fit_command(folder, options))


def lrkd(*args: str) -> bool:
    """One command in a process of its own, so that what it leaves behind is gone with it; whether it succeeded."""
    return subprocess.run([sys.executable, "-m", "lrkd", *args], check=False).returncode == 0
