"""What test_sharding.py runs with one process and with two that share out the weights: small fits of teachers.

``python sharded_fits.py FILE FOLDER`` runs the scenarios in FILE (JSON) as one process of a group that the environment
describes.
"""

import json
import sys
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import ModelParallelStrategy

from lrkd.data.completions import CompletionDataModule
from lrkd.data.preferences import PreferenceDataModule
from lrkd.prompts import PromptBook
from lrkd.teacher import TeacherDPO, TeacherSFT


class Record(Callback):
    def __init__(self, half):
        self.steps, self.half = [], half

    def on_train_epoch_end(self, trainer, model):
        if self.half is not None:
            trainer.save_checkpoint(self.half)
            trainer.should_stop = True

    def on_train_batch_end(self, trainer, model, outputs, batch, batch_idx):
        self.steps.append({k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("train/")})


def fit(scenario, world, file, half=None, resume=None):
    """Train, validate, and leave a checkpoint in ``file``, or stop after an epoch with one in ``half``."""
    kind, data_kind = (
        (TeacherDPO, PreferenceDataModule) if "preferences" in scenario else (TeacherSFT, CompletionDataModule)
    )
    learned = {"preferences": scenario["preferences"]} if "preferences" in scenario else {}
    data = data_kind(
        scenario["root"], scenario["model"], **learned, batch_size=4 // world, eval_batch_size=3, judged_pairs=3,
        judged_tokens=6, seed=1,
    )  # fmt: skip
    L.seed_everything(0)
    model = kind(
        scenario["model"], label_set=data.label_set, prompts=PromptBook.load("esci").to_json(), text=data.text,
        lr=1e-2, token_budget=100_000 if world == 1 else 500, **scenario["settings"],
    )  # fmt: skip
    strategy = "auto"
    if world > 1:
        strategy = ModelParallelStrategy(world, tensor_parallel_size=1, save_distributed_checkpoint=False)
    record = Record(half)
    trainer = L.Trainer(
        accelerator="cpu", devices=world, strategy=strategy, max_epochs=2, logger=False, log_every_n_steps=1,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, callbacks=[record],
        default_root_dir=file.parent, inference_mode=False,
    )  # fmt: skip
    trainer.fit(model, datamodule=data, ckpt_path=resume)
    trainer.save_checkpoint(file)
    measured = {k: float(v) for k, v in trainer.callback_metrics.items() if not k.startswith("train/")}
    return {"steps": record.steps, "measured": measured}


def main(file, folder):
    found = {}
    for name, scenario in json.loads(Path(file).read_text()).items():
        found[name] = fit(scenario, 2, Path(folder) / f"{name}.ckpt")
        if scenario["resumed"]:
            half, resumed = (Path(folder) / f"{name}-{what}.ckpt" for what in ("half", "resumed"))
            fit(scenario, 2, resumed, half=half)
            fit(scenario, 2, resumed, resume=half)
    if torch.distributed.get_rank() == 0:
        (Path(folder) / "found.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
