"""The file of an ablation: its rows, and what they have in common."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from string import Template
from typing import Any

import yaml

from lrkd.errors import UserError
from lrkd.experiments.fits import Step
from lrkd.runs import ScoredSplit

FILE_KEYS = ("runs", "data", "split", "folds", "seeds", "configs", "options", "before", "rows", "compare")
ROW_KEYS = ("configs", "options", "before")
NAME = re.compile(r"[\w.,=+-]+")


@dataclass(frozen=True)
class Row:
    """A method: what differs from the other rows.

    Args:
        name: The method's name, and the table's line.
        configs: Configs of ``fit``, each laid over the one before.
        options: Further options of ``fit``.
        before: Commands before each of its runs: ``command`` and ``out``.
    """

    name: str
    configs: list[str]
    options: dict[str, Any] = field(default_factory=dict)
    before: list[dict[str, str]] = field(default_factory=list)

    def mentions(self) -> set[str]:
        """The names that it refers to as ``${name}``."""
        return _mentioned([self.configs, list(self.options.values()), [list(step.values()) for step in self.before]])


@dataclass(frozen=True)
class AblationFile:
    """What an ablation's file says; ``${...}`` is not filled in yet.

    Args:
        path: The file.
        runs: The folder of all runs.
        data: The data root; None: the configs say.
        split: The split that runs are scored and compared on.
        folds: Folds that are held out in turn; ``[None]``: the data's own split.
        seeds: Seeds of each fold.
        configs: Configs that are laid over those of every row.
        options: Options of every fit; a row's own win.
        before: Commands before all runs.
        rows: The rows by name.
        compare: Options of ``compare``.
    """

    path: Path
    runs: str
    data: str | None
    split: ScoredSplit
    folds: list[int | None]
    seeds: list[int]
    configs: list[str]
    options: dict[str, Any]
    before: list[dict[str, str]]
    rows: dict[str, Row]
    compare: dict[str, Any]

    def fill(self, value: Any, names: Mapping[str, str]) -> Any:
        """``value`` with every ``${name}`` in its texts replaced.

        Raises:
            UserError: A name is not known.
        """
        if isinstance(value, list):
            return [self.fill(item, names) for item in value]
        if isinstance(value, dict):
            return {key: self.fill(item, names) for key, item in value.items()}
        if not isinstance(value, str):
            return value
        try:
            return _Braces(value).substitute(names)
        except (KeyError, ValueError) as error:
            raise UserError(
                f"{self.path}: {value!r}: {error if isinstance(error, ValueError) else f'{error} is not known here'}; "
                f"the names are {', '.join(names)}{'' if self.data else ', and data once --data is given'}; "
                "$$ is a dollar sign"
            ) from error

    def steps(self, steps: list[dict[str, str]], names: Mapping[str, str]) -> tuple[Step, ...]:
        """Commands with their outputs."""
        return tuple(
            Step([self.fill(word, names) for word in shlex.split(step["command"])], Path(self.fill(step["out"], names)))
            for step in steps
        )

    def fit_options(self, row: Row, names: Mapping[str, str]) -> list[str]:
        """The options of a row's fit, without fold and seed."""
        options = self.options | row.options
        return [
            *(f"--config={self.fill(config, names)}" for config in [*row.configs, *self.configs]),
            *(f"--{name}={as_option(self.fill(value, names))}" for name, value in options.items()),
        ]


def as_option(value: Any) -> str:
    """A value of a YAML file as the command line takes it."""
    return value if isinstance(value, str) else json.dumps(value)


def read_ablation_file(path: Path) -> AblationFile:
    """Read and check an ablation's file.

    Raises:
        UserError: It is not readable, or a key is missing, unknown or holds something else than it should.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"--file {path}: not a readable YAML file: {error}") from error
    _check_keys(content, FILE_KEYS, ("runs", "rows"), str(path))
    rows = {name: _row(name, row, path) for name, row in _checked(content, "rows", dict, {}, path).items()}
    if not rows:
        raise UserError(f"{path}: rows: there are none")

    def read(key: str, kind: type, default: Any) -> Any:
        return _checked(content, key, kind, default, path)

    folds, seeds = read("folds", list, [None]), read("seeds", list, [0])
    if not folds or not seeds or not all(isinstance(n, int) for n in [*seeds, *(f for f in folds if f is not None)]):
        raise UserError(f"{path}: folds and seeds are lists of at least one number, got {folds} and {seeds}")
    if (split := content.get("split", "test")) not in ("val", "test"):
        raise UserError(f"{path}: split is val or test, got {split!r}")
    return AblationFile(
        path=path,
        runs=read("runs", str, ""),
        data=read("data", str, "") or None,
        split=split,
        folds=folds,
        seeds=seeds,
        configs=read("configs", list, []),
        options=read("options", dict, {}),
        before=_steps(read("before", list, []), str(path)),
        rows=rows,
        compare=read("compare", dict, {}),
    )


def _row(name: str, content: Any, path: Path) -> Row:
    where = f"{path}: rows: {name}"
    if not NAME.fullmatch(str(name)) or name in ("runs", "data", "fold", "seed"):
        raise UserError(
            f"{where}: a row's name is a folder's, of letters, digits and . , = + - _, and none of the file's"
        )
    if isinstance(content, str):
        return Row(name, [content])
    _check_keys(content, ROW_KEYS, ("configs",), where)
    configs = content["configs"]
    return Row(
        name,
        [configs] if isinstance(configs, str) else configs,
        _checked(content, "options", dict, {}, where),
        _steps(_checked(content, "before", list, [], where), where),
    )


def _steps(steps: list[Any], where: str) -> list[dict[str, str]]:
    for step in steps:
        _check_keys(step, ("command", "out"), ("command", "out"), f"{where}: before")
    return steps


def _check_keys(content: Any, known: tuple[str, ...], needed: tuple[str, ...], where: str) -> None:
    if not isinstance(content, dict):
        raise UserError(f"{where}: wants the keys {', '.join(known)}, got {content!r:.60}")
    if unknown := set(content) - set(known):
        raise UserError(f"{where}: unknown keys {sorted(map(str, unknown))}; the keys are {', '.join(known)}")
    if missing := [key for key in needed if key not in content]:
        raise UserError(f"{where}: lacks {' and '.join(missing)}")


def _checked(content: dict[str, Any], key: str, kind: type, default: Any, where: object) -> Any:
    value = content.get(key, default)
    if not isinstance(value, kind):
        raise UserError(f"{where}: {key} is a {kind.__name__}, got {value!r:.60}")
    return value


class _Braces(Template):
    """``${name}`` with any characters but braces in the name; ``$$`` is a dollar sign."""

    braceidpattern = r"[^{}]+"


def _mentioned(value: Any) -> set[str]:
    if isinstance(value, list):
        return {name for item in value for name in _mentioned(item)}
    return set(_Braces(value).get_identifiers()) if isinstance(value, str) else set()
