"""``fit``, ``validate``, ``test`` and ``predict``: LightningCLI over this library's modules and data modules."""

from __future__ import annotations

import itertools
import json
import logging
import re
import sys
import warnings
from argparse import SUPPRESS
from pathlib import Path
from typing import Any

import lightning as L
import torch
import yaml
from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import CSVLogger, Logger

from lrkd.data.pairs import file_fingerprint, pairs_path
from lrkd.errors import UserError
from lrkd.hparams import refuse_different_hyperparameters
from lrkd.runs import run_name
from lrkd.tracking.report import WandbReport, is_wandb, require_wandb
from lrkd.training.allocator import keep_freed_memory
from lrkd.training.checkpoints import LastCheckpoint
from lrkd.training.recorder import RunRecorder
from lrkd.training.resume import Resume

# What the data module tells the model, once it is there. Only in fit: a checkpoint has its own (DESIGN: the checkpoint
# owns label set, target size and number of latents).
LINKS = ("label_set", "target_size", "num_perspectives", "text", "prompts")


class SaveConfig(SaveConfigCallback):
    """Writes ``config.yaml`` into the run's folder and hands the same settings to the loggers (W&B's config)."""

    def save_config(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """On the first process, before anything runs."""
        path = Path(trainer.default_root_dir) / self.config_filename
        there = path.is_file()  # a resumed run keeps its file
        if stage == "fit" and not there:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Nulls too: a setting that was switched off must not come back as its default.
            self.parser.save(self.config, path, multifile=False, skip_unset=False)
        if stage != "fit" and there:  # a test on the run's own data belongs to that run, which has its settings
            return
        for logger in trainer.loggers:
            if isinstance(logger, Logger) and not isinstance(logger, CSVLogger):
                logger.log_hyperparams(self.config.as_dict())


class RunCSVLogger(CSVLogger):
    """``metrics.csv`` in the run's folder; a resumed run goes on in the same file (Lightning's begins it anew)."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, name="", version="")
        self._folder = folder

    @property
    @rank_zero_experiment  # a second process that moved the file would take it from the first one's hands
    def experiment(self) -> Any:
        """The writer, on the first process."""
        if self._experiment is None:
            path, kept = self._folder / "metrics.csv", self._folder / "metrics.csv.kept"
            if path.is_file():
                path.rename(kept)
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="Experiment logs directory")
                writer = super().experiment
            if kept.is_file():
                kept.rename(path)
                with path.open(encoding="utf-8") as file:
                    writer.metrics_keys = file.readline().strip().split(",")
        return super().experiment


class _CLI(LightningCLI):
    """What fit and the other subcommands share."""

    def __init__(self, args: list[str], parser_kwargs: dict[str, Any] | None = None) -> None:
        _quieten()
        super().__init__(
            L.LightningModule,
            L.LightningDataModule,
            save_config_callback=SaveConfig,
            save_config_kwargs={"save_to_log_dir": False},
            seed_everything_default=0,
            trainer_defaults={
                "default_root_dir": "runs",
                "max_epochs": 5,
                "log_every_n_steps": 10,
                "enable_model_summary": False,
                "enable_progress_bar": sys.stderr.isatty(),
            },
            subclass_mode_model=True,
            subclass_mode_data=True,
            auto_configure_optimizers=False,
            args=None if args == sys.argv[1:] else args,
            parser_kwargs={"prog": "python -m lrkd", **(parser_kwargs or {})},
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """The method's name, and what the model tells the data before either is made."""
        parser.add_argument(
            "--method", type=str, default="run", help="What `compare` groups runs by; {a.setting} stands for its value."
        )
        for name in ("encoder", "model"):  # the student's and the teacher's, for their tokenizers
            parser.link_arguments(f"model.init_args.{name}", f"data.init_args.{name}")
        parser.link_arguments("seed_everything", "data.init_args.seed")

    def before_instantiate_classes(self) -> None:
        """Say what is missing before it is looked for."""
        require_wandb(self.settings.trainer.logger)

    @property
    def settings(self) -> Any:
        """The subcommand's part of the parsed config."""
        return self.config[self.subcommand]

    def make_trainer(self, folder: Path, loggers: list[Logger], callbacks: list[L.Callback]) -> L.Trainer:
        """The trainer of a run that lives in ``folder``."""
        identity = folder, self.settings.method, int(self.settings.seed_everything)
        trainer = self.config_init[self.subcommand].trainer
        reports = [WandbReport(logger, *identity, str(self.subcommand)) for logger in loggers if is_wandb(logger)]
        trainer.callbacks = [*_as_list(trainer.callbacks), *callbacks, RunRecorder(*identity), *reports]
        return super().instantiate_trainer(default_root_dir=folder, logger=loggers)


class FitCLI(_CLI):
    """``python -m lrkd fit``."""

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Only fit, so that only its parser is built."""
        return {"fit": LightningCLI.subcommands()["fit"]}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """What the data module tells the model."""
        super().add_arguments_to_parser(parser)
        parser.add_argument(
            "--checkpoint_every_n_steps",
            type=int | None,
            default=None,
            help="Write last.ckpt also every so many optimiser steps within an epoch; null: only after epochs.",
        )
        for name in LINKS:
            parser.link_arguments(f"data.{name}", f"model.init_args.{name}", apply_on="instantiate")

    def before_instantiate_classes(self) -> None:
        """Fill the settings that the method's name refers to into it."""
        super().before_instantiate_classes()
        self.settings.method = _filled(self.settings.method, self.settings)

    def _parse_ckpt_path(self) -> None:
        """Make the model as asked.

        Lightning would let the checkpoint's hyperparameters replace explicit flags without a word; here the model
        itself refuses a checkpoint that differs (StudentLRKD.on_load_checkpoint, trap 39).
        """

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        """Loggers, checkpoints and records in one folder."""
        folder = self._folder()
        best = ModelCheckpoint(
            folder / "checkpoints",
            filename="best",
            monitor="val/macro_f1",
            mode="max",
            auto_insert_metric_name=False,
            enable_version_counter=False,
        )
        last = LastCheckpoint(folder / "checkpoints", self.settings.checkpoint_every_n_steps)
        given = self.config_init[self.subcommand].trainer.logger
        loggers = [RunCSVLogger(folder), *(logger for logger in _as_list(given) if isinstance(logger, Logger))]
        resume = Resume(folder / "metrics.csv")
        return self.make_trainer(folder, loggers, [best, last, LearningRateMonitor("step"), resume])

    def _folder(self) -> Path:
        """A new folder under the root directory, or that of the run which is resumed.

        It is not created here: in a distributed run every process comes to the same name before any of them makes it.
        """
        settings = self.settings
        if settings.ckpt_path is not None:
            if not Path(settings.ckpt_path).is_file():
                raise UserError(f"--ckpt_path {settings.ckpt_path}: no such checkpoint")
            return _run_folder(settings.ckpt_path)
        path = self.folder
        numbered = (path if n == 1 else path.with_name(f"{path.name}-{n}") for n in itertools.count(1))
        return next(folder for folder in numbered if not folder.exists())

    @property
    def folder(self) -> Path:
        """The run's folder, where no other run has it already."""
        settings = self.settings
        fold, seed = settings.data.init_args.get("fold"), int(settings.seed_everything)
        return Path(settings.trainer.default_root_dir) / run_name(settings.method, fold, seed)


class PlannedFit(FitCLI):
    """A fit that is parsed and goes no further: what it would be (see :mod:`lrkd.experiments`)."""

    def instantiate_classes(self) -> None:
        """Make nothing."""

    def _run_subcommand(self, subcommand: str) -> None:
        """Run nothing."""

    def as_dict(self) -> dict[str, Any]:
        """The settings as the run's ``config.yaml`` would hold them."""
        settings: dict[str, Any] = yaml.safe_load(
            self._parser(str(self.subcommand)).dump(self.settings, skip_unset=False)
        )
        return settings


class EvaluateCLI(_CLI):
    """``python -m lrkd validate|test|predict --ckpt_path ...``: settings come from the checkpoint's run."""

    def __init__(self, subcommand: str, args: list[str]) -> None:
        self._only = subcommand
        run_config = None if {"-h", "--help"} & set(args) else _checkpoint(subcommand, args).parents[1] / "config.yaml"
        found = run_config is not None and run_config.is_file()
        super().__init__(args, {subcommand: {"default_config_files": [str(run_config)]}} if found else None)

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """Only the one asked for, so that only its parser is built."""
        return {self._only: LightningCLI.subcommands()[self._only] | {"verbose"}}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """An option of ``fit`` that the run's ``config.yaml`` holds."""
        super().add_arguments_to_parser(parser)
        parser.add_argument("--checkpoint_every_n_steps", type=int | None, default=None, help=SUPPRESS)

    def validate(self, **kwargs: Any) -> None:
        """RunRecorder prints the results; Lightning's own table would repeat them."""
        self.trainer.validate(verbose=False, **kwargs)

    def test(self, **kwargs: Any) -> None:
        """As :meth:`validate`."""
        self.trainer.test(verbose=False, **kwargs)

    def _parse_ckpt_path(self) -> None:
        """Make the model from the checkpoint's hyperparameters; refuse options that contradict them (trap 39)."""
        path = self.config[self.config.subcommand].ckpt_path
        saved = torch.load(path, weights_only=True, map_location="cpu").get("hyper_parameters", {})
        saved = {name: value for name, value in saved.items() if name not in ("_instantiator", "_class_path")}
        model = self.config[self.config.subcommand].model
        given = dict(model.get("init_args", {}).as_dict())
        refuse_different_hyperparameters(given, {name: saved[name] for name in saved if name not in LINKS})
        told = {"model": {"class_path": model.class_path, "dict_kwargs": saved}}
        self.config = self.parser.parse_object({self.config.subcommand: told}, self.config)

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        """Results on the run's own data go to its folder, others to a folder in it: they never replace each other."""
        folder, data = _run_folder(self.settings.ckpt_path), self.settings.data.init_args
        if not (folder / "run.json").is_file():
            raise UserError(f"{folder}: no run.json; --ckpt_path must lie in the checkpoints/ of a finished run")
        run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        same_data = file_fingerprint(pairs_path(data.root)) == run["data"]["fingerprint"]
        if not same_data or data.get("fold") != run["fold"]:
            fold = "" if data.get("fold") is None else f"-fold{data.fold}"
            folder = folder / "other_data" / f"{Path(data.root).resolve().name}{fold}"
        given = _as_list(self.config_init[self.subcommand].trainer.logger) if self.subcommand == "test" else []
        return self.make_trainer(folder, [logger for logger in given if is_wandb(logger)], callbacks=[])


def _run_folder(checkpoint: str) -> Path:
    """The folder of the run that a checkpoint belongs to; below the working directory it is named from there."""
    folder = Path(checkpoint).resolve().parents[1]
    return folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder


def _quieten() -> None:
    """Silence what Lightning says of choices that are made here on purpose."""
    for name in ("rank_zero", "seed"):
        logging.getLogger(f"lightning.{'fabric' if name == 'seed' else 'pytorch'}.utilities.{name}").setLevel(
            logging.WARNING
        )
    for message in (
        ".*does not have many workers",  # making a batch takes less than handing it between processes
        ".*LightningCLI's args parameter",  # `main(args)` is for tests and notebooks
        ".*callbacks used to create the checkpoint need to be provided",  # evaluation keeps no checkpoints
        r".*isinstance\(treespec, LeafSpec\)",  # Lightning's own use of a deprecated torch function
        ".*Checkpoint directory .* exists and is not empty",  # a resumed run goes on in its folder
    ):
        warnings.filterwarnings("ignore", message=message)


def _filled(method: str, settings: Any) -> str:
    """The method's name with settings' values in place of their names: ``lrkd_mlp,{model.init_args.pooling}``."""

    def value(name: re.Match[str]) -> str:
        if name[1] not in settings:
            raise UserError(f"--method {method!r}: this run has no setting {name[1]!r}")
        return str(settings[name[1]]).replace("/", "_")

    return re.sub(r"\{([^{}]*)\}", value, method)


def _as_list(value: Any) -> list[Any]:
    return [] if value is None else list(value) if isinstance(value, list | tuple) else [value]


def _checkpoint(subcommand: str, args: list[str]) -> Path:
    """The checkpoint that ``--ckpt_path`` names: its run's ``config.yaml`` is read before the options are."""
    values = [
        value or (args[place + 1] if place + 1 < len(args) else "")
        for place, (name, _, value) in enumerate(argument.partition("=") for argument in args)
        if name == "--ckpt_path"
    ]
    if not values or not Path(values[-1]).is_file():
        raise UserError(
            f"{subcommand} needs the checkpoint of a trained model, e.g. --ckpt_path "
            f"runs/lrkd_mlp-seed0/checkpoints/best.ckpt; got {values[-1] if values else 'none'}"
        )
    return Path(values[-1]).resolve()


def run(args: list[str]) -> None:
    """Run one of the four subcommands.

    Args:
        args: The command line after ``python -m lrkd``.
    """
    keep_freed_memory()
    if args[0] == "fit":
        if not any(arg.partition("=")[0] in ("-h", "--help", "-c", "--config", "--model") for arg in args):
            raise UserError("fit needs --config, e.g. --config configs/student/lrkd_mlp.yaml: it names model and data")
        FitCLI(args)
    else:
        EvaluateCLI(args[0], args)
