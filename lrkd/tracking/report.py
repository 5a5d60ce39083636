"""What a run tells Weights & Biases beyond metrics: its place among runs, examples, confusion matrices, lineage."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard, cast

import lightning as L
import pyarrow as pa
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import WandbLogger

from lrkd.data.inputs import Input
from lrkd.errors import UserError
from lrkd.runs import read_run
from lrkd.tracking.examples import confusion_matrix, examples
from lrkd.tracking.lineage import checkpoint_artifact, declare_input, input_artifacts, valid_name
from lrkd.training.recorder import RecordedData, RecordedModel

if TYPE_CHECKING:
    from wandb import Run

WANDB_FILE = "wandb.json"
TAG_LENGTH = 64
"""W&B refuses longer ones."""


class WandbReport(Callback):
    """Tells Weights & Biases what a run is and what came of it.

    A W&B run is named after the run's folder; its group is the method, its job type the stage, its tags the stages, the
    method, the seed and the fold. What the user gave the logger wins; their tags are kept beside these. The folder
    keeps the W&B run's id (``wandb.json``), so that ``fit --ckpt_path`` and ``test`` go on in the W&B run of the fit.

    Logged when ``fit`` ends: ``best/<monitored metric>``, and ``val/examples`` and ``val/confusion_matrix`` of the best
    epoch; after ``test``: ``test/confusion_matrix``. Pairs, rationales and targets are artifacts that the run uses, the
    best checkpoint is one that it makes (:mod:`lrkd.tracking.lineage`).

    Args:
        logger: The trainer's W&B logger, before it has begun a W&B run.
        folder: The run's folder.
        method: The W&B group.
        seed: The run's seed.
        stage: The W&B job type: ``fit`` or ``test``.
    """

    def __init__(self, logger: WandbLogger, folder: str | Path, method: str, seed: int, stage: str) -> None:
        import wandb

        self.logger = logger
        self.folder = Path(folder)
        self.method = method
        self.seed = seed
        self._ours = wandb.run is None  # else the logger takes the one that the user has begun
        self._resumed = False
        self._best: float | None = None
        self._validated: pa.Table | None = None
        settings = logger._wandb_init  # Lightning begins the W&B run with these before any callback's turn
        settings.pop("anonymous", None)  # W&B warns of it even where it is not set
        known = self._known_run() or self._new_run(stage)
        self._tags = [*known.pop("tags"), *(settings.pop("tags", None) or [])]
        for name, value in {"resume": "allow", **known}.items():
            settings[name] = settings.get(name) or value

    # Which W&B run

    def _known_run(self) -> dict[str, Any] | None:
        file = self.folder / WANDB_FILE
        return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None

    def _new_run(self, stage: str) -> dict[str, Any]:
        on_other_data = self.folder.parent.name == "other_data"
        name = f"{self.folder.parents[1].name} on {self.folder.name}" if on_other_data else self.folder.name
        return {"name": name, "group": self.method, "job_type": stage, "tags": []}

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Tag the W&B run, and keep its id and tags: offline, W&B knows neither when it goes on with a run."""
        if not self._writes(trainer):
            return
        self._resumed = self._known_run() is not None
        run, fold = self._run(), _data(trainer).fold
        tags = [*self._tags, stage, self.method, f"seed{self.seed}", *([] if fold is None else [f"fold{fold}"])]
        run.tags = tuple(dict.fromkeys([*(run.tags or ()), *(tag[:TAG_LENGTH] for tag in tags)]))
        self.logger._wandb_init["id"] = run.id
        self.folder.mkdir(parents=True, exist_ok=True)
        known = {"id": run.id, "name": run.name, "group": run.group, "job_type": run.job_type, "tags": run.tags}
        (self.folder / WANDB_FILE).write_text(json.dumps(known, indent=2) + "\n", encoding="utf-8")

    def _writes(self, trainer: L.Trainer) -> bool:
        """Whether this is the first process, and the trainer logs: in a fast_dev_run it does not."""
        return trainer.is_global_zero and self.logger in trainer.loggers

    def _run(self) -> Run:
        """The W&B run."""
        run: Run = self.logger.experiment
        return run

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """End the W&B run, so that this process's next one is not written into it (trap 40)."""
        self._finish(trainer, exit_code=0)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """End the W&B run as failed."""
        self._finish(trainer, exit_code=1)

    def _finish(self, trainer: L.Trainer, exit_code: int) -> None:
        if self._writes(trainer) and self._ours and self.logger._experiment is not None:
            self.logger.finalize("failed" if exit_code else "success")  # Lightning does it after this: too late
            self._run().finish(exit_code=exit_code)
            self.logger._experiment = None

    # What goes in and what comes out

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Name what the run is made from."""
        if self._writes(trainer):
            self._declare(trainer, _data(trainer).inputs())

    def _declare(self, trainer: L.Trainer, inputs: list[Input]) -> None:
        for artifact in input_artifacts(_data(trainer).root, inputs):
            declare_input(self._run(), artifact)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """A resumed fit has a best epoch already: only a better one is reported."""
        score = _checkpointing(trainer).best_model_score
        self._best = None if score is None else float(score)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Keep the predictions of the best epoch, that of the checkpoint kept as best."""
        if not self._writes(trainer) or trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        checkpointing = _checkpointing(trainer)
        score = float(trainer.callback_metrics[str(checkpointing.monitor)])
        if self._best is None or (score > self._best if checkpointing.mode == "max" else score < self._best):
            self._best = score
            self._validated = _model(pl_module).predictions_table(_data(trainer))

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Report the best epoch and its checkpoint."""
        if not self._writes(trainer) or self._validated is None:
            return
        run, labels, checkpointing = self._run(), _model(pl_module).label_set.labels, _checkpointing(trainer)
        data = _data(trainer)
        rationales = getattr(data, "rationale_files", [])
        report: dict[str, Any] = {
            f"best/{checkpointing.monitor}": self._best,
            "val/examples": examples(self._validated, data.root, rationales, labels),
            "val/confusion_matrix": confusion_matrix(self._validated, labels, "val: best epoch"),
        }
        self.logger.log_metrics(report, step=trainer.global_step)
        record = read_run(self.folder)
        run.summary.update({"parameters": record.parameters["total"], "seconds": record.seconds})
        if not self.logger._log_model:  # with log_model, Lightning uploads checkpoints itself
            artifact = checkpoint_artifact(Path(checkpointing.best_model_path))
            run.log_artifact(artifact, aliases=["latest", valid_name(self.folder.name)])

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """A test outside its fit's W&B run names what it is made from: pairs and checkpoint."""
        if self._writes(trainer) and not self._resumed:
            self._declare(trainer, _data(trainer).inputs()[:1])
            if trainer.ckpt_path is not None:
                declare_input(self._run(), checkpoint_artifact(Path(trainer.ckpt_path).resolve()))

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Report the confusion matrix."""
        if self._writes(trainer):
            model = _model(pl_module)
            matrix = confusion_matrix(model.predictions_table(_data(trainer)), model.label_set.labels, "test")
            self._run().log({"test/confusion_matrix": matrix})


def require_wandb(loggers: Any) -> None:
    """Refuse a W&B logger where wandb is not installed.

    Args:
        loggers: ``trainer.logger`` as it was parsed: one, several, or none.

    Raises:
        UserError: wandb is missing; says how to get it or do without.
    """
    given = loggers if isinstance(loggers, list) else [loggers]
    asked = any(getattr(logger, "class_path", "").endswith("WandbLogger") for logger in given)
    if asked and find_spec("wandb") is None:
        raise UserError(
            "trainer.logger: WandbLogger needs wandb, which is not installed: `pip install 'lrkd[wandb]'`, "
            "or do without: --trainer.logger false"
        )


def is_wandb(logger: object) -> TypeGuard[WandbLogger]:
    """Whether a logger is W&B's."""
    return isinstance(logger, WandbLogger)


def _data(trainer: L.Trainer) -> RecordedData:
    return trainer.datamodule  # type: ignore[attr-defined,no-any-return]


def _model(pl_module: L.LightningModule) -> RecordedModel:
    return cast("RecordedModel", pl_module)


def _checkpointing(trainer: L.Trainer) -> ModelCheckpoint:
    """What keeps the best checkpoint."""
    found = (c for c in trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint) and c.monitor is not None)
    return next(found)
