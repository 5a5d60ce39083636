"""What tests/test_distributed.py runs with one process and with two: small fits, to compare losses and predictions.

``python two_processes.py FILE OUT`` runs the scenarios in FILE (JSON) as one process of a group that the environment
describes, and writes OUT on the first one.
"""

import json
import os
import sys
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback

from lrkd.data.triples import TripleDataModule
from lrkd.data.types import LabelSet
from lrkd.student import StudentLRKD


class Record(Callback):
    def __init__(self):
        self.losses, self.targets_here, self.rows_here = [], [], []

    def on_train_batch_end(self, trainer, model, outputs, batch, batch_idx):
        kept = {"train/ce", "train/guidance", "train/soft_labels"} & set(trainer.callback_metrics)
        self.losses.append({k: float(trainer.callback_metrics[k]) for k in sorted(kept)})
        self.targets_here.append(int(batch.target_mask.sum()))
        self.rows_here.append(int((batch.label >= 0).sum()))


def fit(scenario, world):
    """Train and predict; ``scenario`` holds encoder, root, targets, cache, guidance, batch (global) and more."""
    L.seed_everything(0)
    data = TripleDataModule(
        scenario["root"], scenario["encoder"], targets=scenario["targets"], cache_dir=scenario["cache"],
        max_length=32, query_cap=12, batch_size=scenario["batch"] // world, target_mode=scenario["target_mode"],
        **scenario.get("teaching", {}),
    )  # fmt: skip
    model = StudentLRKD(
        scenario["encoder"], label_set=LabelSet.load("esci").to_dict(), target_size=data.target_size,
        num_perspectives=data.num_perspectives, dropout=0.0, guidance_weight=1.0, encoder_lr=1e-3, head_lr=1e-2,
        extractor={"class_path": "lrkd.extractors.MLPExtractor", "init_args": {"dropout": 0.0}},
        guidance={"class_path": scenario["guidance"]}, class_weights=[1.0, 2.0, 3.0, 4.0],
    )  # fmt: skip
    record = Record()
    trainer = L.Trainer(
        accelerator="cpu", devices=world, strategy="ddp" if world > 1 else "auto", max_epochs=3, logger=False,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False, callbacks=[record],
        accumulate_grad_batches=scenario["accumulate"], log_every_n_steps=1,
    )  # fmt: skip
    trainer.fit(model, datamodule=data)
    validated = {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("val/")}
    trainer.predict(model, datamodule=data, return_predictions=False)
    predicted = model.predicted
    return {
        "losses": record.losses,
        "validated": validated,
        "targets_here": record.targets_here,
        "rows_here": record.rows_here,
        "weights": [float(p.detach().double().square().sum()) for p in model.parameters()],
        "rows": predicted.row.tolist(),
        "logits": predicted.logits.tolist(),
        "gold": predicted.label.tolist(),
    }


def main(file, out):
    scenarios = json.loads(Path(file).read_text())
    results = {name: fit(scenario, 2) for name, scenario in scenarios.items()}
    gathered = [None, None]
    torch.distributed.all_gather_object(gathered, results)
    if os.environ["LOCAL_RANK"] == "0":
        Path(out).write_text(json.dumps(gathered))


if __name__ == "__main__":
    main(*sys.argv[1:])
