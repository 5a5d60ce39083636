"""RunRecorder: writes a run's folder (``run.json``, predictions, metrics) and tells the user what happens."""

from __future__ import annotations

import json
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import lightning as L
import pyarrow as pa
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from rich.console import Console
from rich.table import Table
from torch import Tensor

from lrkd.data.inputs import Input
from lrkd.data.pairs import ParquetSink
from lrkd.data.types import LabelSet

PACKAGES = ("lrkd", "lightning", "torch", "transformers", "torchmetrics", "jsonargparse")


@runtime_checkable
class RecordedData(Protocol):
    """What a recorded run's data module tells of itself."""

    root: str
    fold: int | None

    @property
    def label_set(self) -> dict[str, Any]:
        """The label set in plain types."""

    def describe(self) -> dict[str, Any]:
        """Counts (``pairs`` by split) and rates (``query_cut_rate``, ``item_cut_rate``), for ``run.json``."""

    def summary(self) -> list[str]:
        """Lines for the user on what is learned from; may be empty."""

    def fingerprint(self) -> dict[str, str]:
        """The inputs' digests; that of ``pairs`` is among them."""

    def inputs(self) -> list[Input]:
        """What the training is made from; ``pairs`` first."""


@runtime_checkable
class RecordedModel(Protocol):
    """What a recorded run's module tells of itself."""

    label_set: LabelSet
    label_counts: Tensor
    """(C,) training pairs of each label."""

    def parameter_counts(self) -> dict[str, int]:
        """Parameters of its parts, and in ``total``."""

    def predictions_table(self, data: Any) -> pa.Table | None:
        """The predictions of the split that was scored last, one row a pair; None if the module has written its own."""


class RunRecorder(Callback):
    """Records a run in its folder, and tells the user what happens.

    It writes ``run.json`` when ``fit`` ends, and ``<split>_metrics.json`` and ``<split>_predictions.parquet`` after
    ``validate``, ``test`` and ``predict``; it prints what is trained on what, a line an epoch, and what to run next.

    Args:
        folder: The run's folder.
        method: What ``compare`` groups runs by.
        seed: The run's seed.
    """

    def __init__(self, folder: str | Path, method: str, seed: int) -> None:
        self.folder = Path(folder)
        self.method = method
        self.seed = seed
        self.console = Console(highlight=False, markup=False, soft_wrap=True)
        self._seconds = 0.0

    # fit

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Say what is trained on what, and start the clock."""
        self._started = time.perf_counter()
        if not trainer.is_global_zero:
            return
        data, model = _checked(trainer, pl_module)
        facts = data.describe()
        for logger in trainer.loggers if trainer.ckpt_path is None else []:  # a resumed run has logged it already
            logger.log_metrics({f"data/{k}": facts[k] for k in ("query_cut_rate", "item_cut_rate")}, step=0)
        pairs, parts = facts["pairs"], model.parameter_counts()
        self.console.print(
            f"{self.method}  {data.root}: {pairs['train']:,} train, {pairs['val']:,} val, "
            f"{pairs['test']:,} test pairs; cut: "
            f"{facts['query_cut_rate']:.1%} of queries, {facts['item_cut_rate']:.1%} of items\n"
            f"  {parts.pop('total'):,} parameters ({', '.join(f'{name} {count:,}' for name, count in parts.items())})"
        )
        for line in data.summary():
            self.console.print(f"  {line}")

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write ``run.json``."""
        if not trainer.is_global_zero or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        self._seconds += time.perf_counter() - self._started
        data, model = _checked(trainer, pl_module)
        facts = data.describe()
        record = {
            "method": self.method,
            "seed": self.seed,
            "fold": data.fold,
            "data": {"root": data.root, "fingerprint": data.fingerprint()["pairs"], **facts},
            "label_set": data.label_set,
            "majority_label": data.label_set["labels"][int(model.label_counts.argmax())],
            "parameters": model.parameter_counts(),
            "seconds": round(self._seconds, 2),
            "epochs": trainer.current_epoch,
            "best": _best(trainer, self.folder),
            "versions": {name: version(name) for name in PACKAGES},
        }
        _write_json(self.folder / "run.json", record)
        best = record["best"]
        if best is None:
            self.console.print(f"The run is in {self.folder}")
            return
        self.console.print(
            f"Best {best['metric']} {best['value']:.4f} (the checkpoint kept as best). "
            f"The run is in {self.folder}; next:\n"
            f"  python -m lrkd test --ckpt_path {self.folder / best['checkpoint']}"
        )

    def _print_epoch(self, trainer: L.Trainer) -> None:
        shown = ("val/macro_f1", "val/accuracy", "val/ndcg@10", "val/guidance_r2", "train/loss", "train/grad_ratio")
        values = {name: float(trainer.callback_metrics[name]) for name in shown if name in trainer.callback_metrics}
        seconds = time.perf_counter() - self._started
        self.console.print(
            f"  epoch {trainer.current_epoch + 1}/{trainer.max_epochs}  "
            + "  ".join(f"{name} {value:.3f}" for name, value in values.items())
            + f"  ({seconds:.0f} s)"
        )

    def state_dict(self) -> dict[str, Any]:
        """The seconds trained so far, so that a resumed run counts them all."""
        return {"seconds": self._seconds + time.perf_counter() - self._started}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """See :meth:`state_dict`."""
        self._seconds = state_dict["seconds"]

    # validate, test, predict

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """In ``fit`` a line an epoch; in ``validate`` the split's results."""
        if trainer.state.fn == "validate":
            self._write_results(trainer, pl_module, "val")
        elif not trainer.sanity_checking and trainer.is_global_zero:
            self._print_epoch(trainer)

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the test split's results."""
        self._write_results(trainer, pl_module, "test")

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the predictions."""
        self._write_results(trainer, pl_module, "predict")

    def _write_results(self, trainer: L.Trainer, pl_module: L.LightningModule, split: str) -> None:
        if not trainer.is_global_zero or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        data, model = _checked(trainer, pl_module)
        table = model.predictions_table(data)
        if table is None:
            return
        path = self.folder / f"{split}_predictions.parquet"
        with ParquetSink(path, table.schema) as sink:
            sink.write(table)
        if split == "predict":
            self.console.print(f"Wrote {table.num_rows:,} predictions to {path}")
            return
        metrics = {
            name.removeprefix(f"{split}/"): float(value)
            for name, value in trainer.callback_metrics.items()
            if name.startswith(f"{split}/")
        }
        metrics["pairs"] = table.num_rows
        _write_json(self.folder / f"{split}_metrics.json", metrics)
        self.console.print(_metrics_table(split, metrics))
        self.console.print(
            f"Wrote {self.folder / f'{split}_metrics.json'} and {path.name} ({table.num_rows:,} pairs); next:\n"
            f"  python -m lrkd compare --runs {self.folder} MORE_RUNS"
        )


def _checked(trainer: L.Trainer, pl_module: L.LightningModule) -> tuple[RecordedData, RecordedModel]:
    data = trainer.datamodule  # type: ignore[attr-defined]
    if not isinstance(data, RecordedData) or not isinstance(pl_module, RecordedModel):
        raise TypeError(f"RunRecorder cannot record {type(pl_module)} on {type(data)}: see RecordedModel, RecordedData")
    return data, pl_module


def _best(trainer: L.Trainer, folder: Path) -> dict[str, Any] | None:
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, ModelCheckpoint) and callback.best_model_score is not None:  # None: monitors nothing
            path, home = Path(callback.best_model_path), folder.resolve()
            inside = path.relative_to(home) if path.is_relative_to(home) else path
            return {"metric": callback.monitor, "value": float(callback.best_model_score), "checkpoint": str(inside)}
    return None


def _metrics_table(split: str, metrics: dict[str, float]) -> Table:
    table = Table(title=f"{split}: {metrics['pairs']:,} pairs", title_justify="left")
    table.add_column("metric")
    table.add_column("this model", justify="right")
    table.add_column("always the majority label", justify="right")
    for name, value in metrics.items():
        if name in ("pairs", "ce") or name.startswith("majority/"):
            continue
        majority = metrics.get(f"majority/{name}")
        table.add_row(name, f"{value:.4f}", "" if majority is None else f"{majority:.4f}")
    return table


def _write_json(path: Path, value: dict[str, Any]) -> None:
    """Whole or not at all: what is there counts as finished."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    partial.replace(path)
