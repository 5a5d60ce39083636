"""What a run tells Weights & Biases beyond metrics: its place among runs, examples, confusion matrices, lineage."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

import lightning as L
import pyarrow as pa
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import WandbLogger

from lrkd.callbacks import predictions_table
from lrkd.data.triples import TripleDataModule
from lrkd.runs import RUN_FILE
from lrkd.student import StudentLRKD
from lrkd.wandb_examples import confusion_matrix, examples
from lrkd.wandb_lineage import checkpoint_artifact, declare_input, pairs_artifact, target_artifacts, valid_name

if TYPE_CHECKING:
    from wandb import Run

WANDB_FILE = "wandb.json"
TAG_LENGTH = 64
"""W&B refuses longer ones."""


class WandbReport(Callback):
    """Tells Weights & Biases what a run is and what came of it. Without a ``WandbLogger`` it does nothing.

    A W&B run is named after the run's folder; its group is the method, its job type the stage, its tags the stages, the
    method, the seed and the fold. What the user gave the logger wins; their tags are kept beside these. The folder
    keeps the W&B run's id (``wandb.json``), so that ``fit --ckpt_path`` and ``test`` go on in the W&B run of the fit.

    Logged when ``fit`` ends: ``best/<monitored metric>``, and ``val/examples`` and ``val/confusion_matrix`` of the best
    epoch; after ``test``: ``test/confusion_matrix``. Pairs, rationales and targets are artifacts that the run uses, the
    best checkpoint is one that it makes (:mod:`lrkd.wandb_lineage`).

    Args:
        folder: The run's folder.
        method: The W&B group.
        seed: The run's seed.
    """

    def __init__(self, folder: str | Path, method: str, seed: int) -> None:
        self.folder = Path(folder)
        self.method = method
        self.seed = seed
        self._resumed = False
        self._ours = True
        self._best: float | None = None
        self._validated: pa.Table | None = None

    # Which W&B run

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Tell the logger which W&B run to start or to go on with; for ``fit`` and ``test``, start it."""
        logger = wandb_logger(trainer)
        if logger is None or not trainer.is_global_zero:
            return
        import wandb

        self._ours = wandb.run is None  # else the logger takes the one that the user began
        known = self._known_run()
        self._resumed = known is not None
        settings = logger._wandb_init
        for name, value in (known or self._new_run(stage)).items():
            settings[name] = settings.get(name) or value
        tags = [*(settings.pop("tags", None) or ()), *self._tags(trainer, stage)]
        if stage in ("fit", "test"):
            run = logger.experiment
            run.tags = tuple(dict.fromkeys([*(run.tags or ()), *tags]))  # those that were added on its page stay
            self._remember(run)

    def _known_run(self) -> dict[str, str] | None:
        file = self.folder / WANDB_FILE
        return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None

    def _new_run(self, stage: str) -> dict[str, str]:
        on_other_data = self.folder.parent.name == "other_data"
        name = f"{self.folder.parents[1].name} on {self.folder.name}" if on_other_data else self.folder.name
        return {"name": name, "group": self.method, "job_type": stage}

    def _tags(self, trainer: L.Trainer, stage: str) -> list[str]:
        fold = _data(trainer).fold
        tags = [stage, self.method, f"seed{self.seed}", *([] if fold is None else [f"fold{fold}"])]
        return [tag[:TAG_LENGTH] for tag in tags]

    def _remember(self, run: Run) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        known = {"id": run.id, "name": run.name, "group": run.group, "job_type": run.job_type}
        (self.folder / WANDB_FILE).write_text(json.dumps(known, indent=2) + "\n", encoding="utf-8")

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """End the W&B run, so that this process's next one is not written into it (trap 40)."""
        self._finish(trainer, exit_code=0)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """End the W&B run as failed."""
        self._finish(trainer, exit_code=1)

    def _finish(self, trainer: L.Trainer, exit_code: int) -> None:
        logger, run = wandb_logger(trainer), _run(trainer)
        if logger is not None and run is not None and self._ours:
            logger.finalize("failed" if exit_code else "success")  # Lightning does it after this: too late
            run.finish(exit_code=exit_code)
            logger._experiment = None

    # What goes in and what comes out

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Name what the run is made from."""
        if run := _run(trainer):
            for artifact in [pairs_artifact(_data(trainer)), *target_artifacts(_data(trainer))]:
                declare_input(run, artifact)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """A resumed fit has a best epoch already: only a better one is reported."""
        score = _checkpointing(trainer).best_model_score
        self._best = None if score is None else float(score)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Keep the predictions of the best epoch, that of the checkpoint kept as best."""
        if _run(trainer) is None or trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        checkpointing = _checkpointing(trainer)
        score = float(trainer.callback_metrics[str(checkpointing.monitor)])
        if self._best is None or (score > self._best if checkpointing.mode == "max" else score < self._best):
            self._best = score
            self._validated = predictions_table(_data(trainer), _model(pl_module))

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Report the best epoch and its checkpoint."""
        run, logger = _run(trainer), wandb_logger(trainer)
        if run is None or logger is None or self._validated is None:
            return
        labels = _model(pl_module).label_set.labels
        report: dict[str, Any] = {
            f"best/{_checkpointing(trainer).monitor}": self._best,
            "val/examples": examples(self._validated, _data(trainer).root, labels),
            "val/confusion_matrix": confusion_matrix(self._validated, labels, "val: best epoch"),
        }
        logger.log_metrics(report, step=trainer.global_step)
        record = json.loads((self.folder / RUN_FILE).read_text(encoding="utf-8"))
        run.summary.update({"parameters": record["parameters"]["total"], "seconds": record["seconds"]})
        if not logger._log_model:  # with log_model, Lightning uploads checkpoints itself
            best = Path(_checkpointing(trainer).best_model_path)
            run.log_artifact(checkpoint_artifact(best), aliases=["latest", valid_name(self.folder.name)])

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """A test outside its fit's W&B run names what it is made from: pairs and checkpoint."""
        run = _run(trainer)
        if run is not None and not self._resumed:
            declare_input(run, pairs_artifact(_data(trainer)))
            declare_input(run, checkpoint_artifact(Path(str(trainer.ckpt_path)).resolve()))

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Report the confusion matrix."""
        if run := _run(trainer):
            predictions = predictions_table(_data(trainer), _model(pl_module))
            run.log(
                {"test/confusion_matrix": confusion_matrix(predictions, _model(pl_module).label_set.labels, "test")}
            )


def is_wandb(logger: Any) -> TypeGuard[WandbLogger]:
    """Whether a logger is W&B's."""
    return isinstance(logger, WandbLogger)


def wandb_logger(trainer: L.Trainer) -> WandbLogger | None:
    """The trainer's W&B logger, if it has one."""
    return next(filter(is_wandb, trainer.loggers), None)


def _run(trainer: L.Trainer) -> Run | None:
    """The W&B run that this process writes, if any."""
    logger = wandb_logger(trainer)
    return logger._experiment if logger is not None and trainer.is_global_zero else None  # type: ignore[return-value]


def _data(trainer: L.Trainer) -> TripleDataModule:
    return trainer.datamodule  # type: ignore[attr-defined,no-any-return]


def _model(pl_module: L.LightningModule) -> StudentLRKD:
    assert isinstance(pl_module, StudentLRKD)
    return pl_module


def _checkpointing(trainer: L.Trainer) -> ModelCheckpoint:
    assert isinstance(trainer.checkpoint_callback, ModelCheckpoint)
    return trainer.checkpoint_callback
