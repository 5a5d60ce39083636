"""The run of a student, opened again: its best checkpoint, and the data that it was trained on."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from lrkd.data.pairs import file_fingerprint, pairs_path
from lrkd.data.triples import TripleDataModule
from lrkd.errors import UserError
from lrkd.hparams import component_factory
from lrkd.runs import RunRecord, read_run
from lrkd.student import StudentLRKD

CONFIG_FILE = "config.yaml"


@dataclass(frozen=True)
class TrainedStudent:
    """A run of a student.

    Args:
        record: What its ``run.json`` tells.
        model: Its best checkpoint, in eval mode.
        data: The data module that it was trained with, not set up yet.
        trained_on: The fingerprint of the data that the checkpoint was trained on.
    """

    record: RunRecord
    model: StudentLRKD
    data: TripleDataModule
    trained_on: dict[str, str]

    @classmethod
    def open(
        cls,
        folder: str | Path,
        *,
        root: Path | None = None,
        targets: Path | None = None,
        rationales: Path | list[Path] | None = None,
        device: str | None = None,
    ) -> TrainedStudent:
        """Open a run's folder, and check that the pairs are those that it was trained on.

        Args:
            folder: The folder that ``fit`` printed.
            root: Where the data root is now, if not where it was.
            targets: The same for the target store.
            rationales: The same for the folders or files of rationales, where they were not the data root's.
            device: Where to compute; by default what is there.

        Raises:
            UserError: Not the folder of a student's run, or the data is not what it was trained on.
        """
        record = read_run(folder)
        config = _read_config(record.path)
        where = f"{record.path / CONFIG_FILE}: "
        model = {"class_path": config["model"].get("class_path")}
        kind: Any = component_factory(model, StudentLRKD, f"{where}model").func
        if not record.checkpoint.is_file():
            raise UserError(f"{record.checkpoint}: no such file; the run's best checkpoint is needed")
        student = kind.load_from_checkpoint(record.checkpoint, map_location="cpu").eval()
        settings = dict(config["data"].get("init_args") or {})
        settings |= {"encoder": student.hparams["encoder"], "seed": record.seed}  # the command line linked these
        settings |= {name: str(path) for name, path in (("root", root), ("targets", targets)) if path is not None}
        if rationales is not None:
            settings["rationales"] = [str(p) for p in (rationales if isinstance(rationales, list) else [rationales])]
        spec = {"class_path": config["data"].get("class_path"), "init_args": settings}
        data = component_factory(spec, TripleDataModule, f"{where}data")()
        if file_fingerprint(pairs_path(data.root)) != record.fingerprint:
            raise UserError(
                f"{pairs_path(data.root)}: not the pairs that {record.path} was trained on (other SHA-256); "
                "give the folder that holds them as --root"
            )
        student.check_data(data, "predict")
        saved = torch.load(record.checkpoint, weights_only=True, map_location="cpu")
        trained_on = saved.get(type(data).__qualname__, {}).get("fingerprint", {})
        return cls(record, student.to(device or _device()), data, trained_on)

    def refuse_other(self, names: Collection[str]) -> None:
        """Refuse data that the student was not trained on.

        Args:
            names: What must be the same, as the data module's fingerprint names it. What the checkpoint of an older
                lrkd does not name is not compared.

        Raises:
            UserError: Something differs (trap 45).
        """
        now = self.data.fingerprint()
        different = [
            f"{name} {self.trained_on[name]} when trained, {now.get(name)} now"
            for name in names
            if name in self.trained_on and self.trained_on[name] != now.get(name)
        ]
        if different:
            raise UserError(
                f"{self.data.targets}: other targets than {self.record.path} was trained on ({'; '.join(different)}); "
                "give their store as --targets, and the rationales that it was made from as --rationales"
            )


def _read_config(folder: Path) -> dict[str, Any]:
    """The settings of a fit.

    Raises:
        UserError: There are none, or the file is broken.
    """
    file = folder / CONFIG_FILE
    if not file.is_file():
        raise UserError(f"{file}: no such file; `python -m lrkd fit` writes it, and it says how the data was read")
    try:
        config = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: not a readable YAML file: {error}") from error
    if not isinstance(config, dict) or not all(isinstance(config.get(part), dict) for part in ("model", "data")):
        raise UserError(f"{file}: lacks the settings of model and data, as `python -m lrkd fit` writes them")
    return config


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"
