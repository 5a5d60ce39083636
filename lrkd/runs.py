"""Reading a run's folder: what a fit leaves behind, checked, without importing torch.

A run's folder holds ``run.json``, ``config.yaml``, ``metrics.csv``, ``checkpoints/`` and, for every split that was
scored, ``<split>_metrics.json`` and ``<split>_predictions.parquet``.
"""

from __future__ import annotations

import glob
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from lrkd.data.pairs import open_parquet
from lrkd.data.types import LabelSet
from lrkd.errors import UserError

RUN_FILE = "run.json"

ScoredSplit = Literal["val", "test"]

_RUN_KEYS: dict[str, tuple[type, ...]] = {
    "method": (str,),
    "seed": (int,),
    "fold": (int, type(None)),
    "data.root": (str,),
    "data.fingerprint": (str,),
    "data.pairs": (dict,),
    "label_set": (dict,),
    "majority_label": (str,),
    "parameters.total": (int,),
    "seconds": (int, float),
    "epochs": (int,),
    "best.metric": (str,),
    "best.value": (int, float, type(None)),
    "best.checkpoint": (str,),
    "versions": (dict,),
}

_METRIC_KEYS = (
    "accuracy",
    "macro_f1",
    "auroc",
    "ece",
    "ece_uncalibrated",
    "ndcg@10",
    "majority/accuracy",
    "majority/macro_f1",
    "majority/ndcg@10",
    "temperature",
    "pairs",
)


@dataclass(frozen=True)
class RunRecord:
    """One run, as its ``run.json`` tells it; metrics and predictions are read on demand.

    Args:
        path: The run's folder.
        method: What the run is an instance of; runs of one method differ by fold and seed.
        seed: The seed of the fit.
        fold: The fold held out, or None where the data's own splits were used.
        data_root: The data root as it was given.
        fingerprint: The data's fingerprint (hex).
        pairs: Pairs a split.
        label_set: The labels and their gains.
        majority_label: The most frequent label of the training split.
        parameters: Parameter counts: the module's parts, and total.
        seconds: Wall-clock seconds of the fit.
        epochs: Epochs that were run.
        best: The monitored metric, its best value and that checkpoint's path inside the folder.
        versions: Versions of the libraries.
    """

    path: Path
    method: str
    seed: int
    fold: int | None
    data_root: str
    fingerprint: str
    pairs: dict[str, int]
    label_set: LabelSet
    majority_label: str
    parameters: dict[str, int]
    seconds: float
    epochs: int
    best: dict[str, Any]
    versions: dict[str, str]

    @property
    def checkpoint(self) -> Path:
        """The best checkpoint."""
        return self.path / str(self.best["checkpoint"])

    def metrics(self, split: ScoredSplit) -> dict[str, float]:
        """The flat metrics of one split, e.g. ``macro_f1``, ``f1/Exact``, ``majority/accuracy``.

        Args:
            split: ``val`` or ``test``.

        Returns:
            Metric name to value; NaN where a metric is not defined (``null`` in the file).

        Raises:
            UserError: The split was not scored, or the file lacks a metric or holds something that is no number.
        """
        file = self._scored(f"{split}_metrics.json", split)
        content = _read_json(file)
        for key in (*_METRIC_KEYS, *(f"f1/{label}" for label in self.label_set.labels)):
            if key not in content:
                raise UserError(f"{file}: lacks {key!r}; write it anew with {self._command(split)}")
        for key, value in content.items():
            if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
                raise UserError(
                    f"{file}: {key!r} is {value!r:.60}, not a number; write it anew: {self._command(split)}"
                )
        return {key: math.nan if value is None else float(value) for key, value in content.items()}

    def predictions(self, split: ScoredSplit) -> pa.Table:
        """The predictions of one split: one row a pair, one calibrated probability a label (``p/<Label>``).

        Args:
            split: ``val`` or ``test``.

        Returns:
            The table with pair_id, query_id, query, label, the probabilities in the label set's order, tokens_cut.

        Raises:
            UserError: The split was not scored, or the file is not readable or lacks a column.
        """
        file = self._scored(f"{split}_predictions.parquet", split)
        probabilities = [f"p/{label}" for label in self.label_set.labels]
        columns = ["pair_id", "query_id", "query", "label", *probabilities, "tokens_cut"]
        with open_parquet(file) as parquet:
            missing = [column for column in columns if column not in parquet.schema_arrow.names]
            if missing:
                raise UserError(f"{file}: lacks the columns {missing}; write it anew with {self._command(split)}")
            return parquet.read(columns=columns)

    def _scored(self, name: str, split: ScoredSplit) -> Path:
        file = self.path / name
        if not file.is_file():
            raise UserError(
                f"{self.path}: no {name}, so this run was not scored on the {split} split; "
                f"score it with {self._command(split)}"
            )
        return file

    def _command(self, split: ScoredSplit) -> str:
        verb = "validate" if split == "val" else "test"
        return f"`python -m lrkd {verb} --config {self.path / 'config.yaml'} --ckpt_path {self.checkpoint}`"


def run_name(method: str, fold: int | None, seed: int) -> str:
    """What a run's folder is called."""
    return f"{method}{'' if fold is None else f'-fold{fold}'}-seed{seed}"


def is_run(path: str | Path) -> bool:
    """Whether a folder is a run's: it holds ``run.json``."""
    return (Path(path) / RUN_FILE).is_file()


def read_run(path: str | Path) -> RunRecord:
    """One run's folder.

    Args:
        path: The folder that a fit printed at its end.

    Returns:
        The run, checked.

    Raises:
        UserError: No such folder, no ``run.json`` in it, or one that is broken.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; a run's folder is what `python -m lrkd fit` prints at its end")
    if not is_run(folder):
        inner = any(is_run(child) for child in folder.iterdir())
        mend = f"its subfolders are runs, so give '{folder}/*'" if inner else "one is written by `python -m lrkd fit`"
        raise UserError(f"{folder}: not the folder of a finished run, it holds no {RUN_FILE}; {mend}")
    file = folder / RUN_FILE
    content = _read_json(file)
    found = {key: _checked(content, key, types, file) for key, types in _RUN_KEYS.items()}
    try:
        labels = LabelSet.from_dict(found["label_set"])
    except (TypeError, ValueError) as error:
        raise UserError(f"{file}: label_set: {error}") from error
    if found["majority_label"] not in labels.labels:
        raise UserError(f"{file}: majority_label {found['majority_label']!r} is none of {list(labels.labels)}")
    return RunRecord(
        path=folder,
        method=found["method"],
        seed=found["seed"],
        fold=found["fold"],
        data_root=found["data.root"],
        fingerprint=found["data.fingerprint"],
        pairs=found["data.pairs"],
        label_set=labels,
        majority_label=found["majority_label"],
        parameters=content["parameters"],
        seconds=float(found["seconds"]),
        epochs=found["epochs"],
        best=content["best"],
        versions=found["versions"],
    )


def find_runs(patterns: str | Sequence[str]) -> tuple[list[RunRecord], list[Path]]:
    """Run folders by path or glob pattern, each once.

    A path that is named must be a run. What a pattern matches beyond runs (an interrupted fit, a report's folder) is
    passed over and returned, so that the caller can say so.

    Args:
        patterns: One or more folders or glob patterns (``**`` crosses folders).

    Returns:
        The runs in the order given, a pattern's matches sorted; and the folders that a pattern matched in vain.

    Raises:
        UserError: Nothing given, a pattern without a run, or a broken run.
    """
    patterns = [patterns] if isinstance(patterns, str) else list(patterns)
    runs: dict[Path, Path] = {}
    passed: dict[Path, None] = {}
    for pattern in patterns:
        if Path(pattern).exists() or not glob.has_magic(pattern):
            runs.setdefault(Path(pattern).resolve(), Path(pattern))
            continue
        folders = [Path(match) for match in sorted(glob.glob(pattern, recursive=True)) if Path(match).is_dir()]
        matches = [folder for folder in folders if is_run(folder)]
        if not matches:
            raise UserError(f"--runs {pattern!r}: matches {len(folders)} folders, none of which holds a {RUN_FILE}")
        for folder in matches:
            runs.setdefault(folder.resolve(), folder)
        related = {
            other for run in matches for other in (run, *run.parents)
        }  # ``**`` matches what is around a run, too
        passed |= dict.fromkeys(f for f in folders if f not in related and not set(f.parents) & set(matches))
    if not runs:
        raise UserError("--runs: names no run; give run folders or a pattern, e.g. --runs 'runs/quickstart/*'")
    return [read_run(path) for path in runs.values()], list(passed)


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: not a readable JSON file ({error}); run the command that writes it again") from error
    if not isinstance(content, dict):
        raise UserError(f"{file}: holds a {type(content).__name__} where an object is wanted")
    return content


def _checked(content: dict[str, Any], key: str, types: tuple[type, ...], file: Path) -> Any:
    """The value under a dotted key, of one of the types."""
    value: Any = content
    for part in key.split("."):
        if not isinstance(value, dict) or part not in value:
            raise UserError(f"{file}: lacks {key!r}; the run was written by another version of lrkd: fit it again")
        value = value[part]
    if isinstance(value, bool) or not isinstance(value, types):
        wanted = " or ".join("null" if kind is type(None) else kind.__name__ for kind in types)
        raise UserError(f"{file}: {key!r} is {value!r:.60}, wanted {wanted}; the file was edited or is broken")
    return value
