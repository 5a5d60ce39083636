"""Two CPU processes train, predict and measure as one does."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

CONFIG = Path(__file__).parents[1] / "configs" / "student" / "lrkd_mlp.yaml"


@pytest.fixture(scope="module")
def encoder_without_dropout(tiny_encoder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("still") / "encoder"
    shutil.copytree(tiny_encoder, folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


def run(*args):
    done = subprocess.run(
        [sys.executable, "-m", "lrkd", *args],
        capture_output=True, text=True, timeout=300, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]


def losses(folder):
    with (folder / "metrics.csv").open() as file:
        return {int(row["step"]): float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]}


@pytest.fixture(scope="module")
def runs(encoder_without_dropout, tiny_root, tiny_targets, tmp_path_factory):
    """The same training with one process (batches of 6) and with two (of 3 each), each tested likewise."""
    folder = tmp_path_factory.mktemp("runs")
    found = {}
    for processes, batch in ((1, "6"), (2, "3")):
        devices = ["--trainer.accelerator", "cpu", "--trainer.devices", str(processes)]
        devices += ["--trainer.strategy", "ddp"] if processes > 1 else []
        run("fit", "--config", str(CONFIG), "--model.init_args.encoder", encoder_without_dropout,
            "--model.init_args.dropout", "0.0", "--model.init_args.extractor.init_args.dropout", "0.0",
            "--model.init_args.guidance", "lrkd.losses.MSEGuidance", "--model.init_args.guidance_weight", "1.0",
            "--data.init_args.root", str(tiny_root), "--data.init_args.targets", str(tiny_targets),
            "--data.init_args.cache_dir", str(folder / "cache"), "--data.init_args.max_length", "32",
            "--data.init_args.query_cap", "12", "--data.init_args.batch_size", batch,
            "--trainer.max_epochs", "3", "--trainer.log_every_n_steps", "1",
            "--trainer.default_root_dir", str(folder / str(processes)), *devices)  # fmt: skip
        found[processes] = folder / str(processes) / "lrkd_mlp-seed0"
        run("test", "--ckpt_path", str(found[processes] / "checkpoints" / "best.ckpt"), *devices)
    return found


def test_one_folder_a_run(runs):
    for folder in runs.values():
        assert [path.name for path in folder.parent.iterdir()] == ["lrkd_mlp-seed0"]


def test_same_loss_trajectory_for_the_same_global_batches(runs):  # traps 20 and 25: targets and masks count the same
    one, two = (losses(folder) for folder in runs.values())
    assert len(one) == 6
    assert two == pytest.approx(one, rel=1e-4)


def test_every_row_once_and_the_same_metrics(runs):  # traps 30 and 41
    one, two = (pq.read_table(folder / "test_predictions.parquet") for folder in runs.values())
    assert one["pair_id"].to_pylist() == two["pair_id"].to_pylist()
    assert two["p/Exact"].to_numpy() == pytest.approx(one["p/Exact"].to_numpy(), abs=1e-4)
    metrics = [json.loads((folder / "test_metrics.json").read_text()) for folder in runs.values()]
    assert metrics[1] == pytest.approx(metrics[0], abs=1e-3)


@pytest.mark.parametrize("batch", ["1", "4", "7"])
def test_any_row_count_is_predicted_once(runs, batch):  # trap 41
    folder = runs[1]
    run("predict", "--ckpt_path", str(folder / "checkpoints" / "best.ckpt"), "--data.init_args.eval_batch_size", batch,
        "--trainer.accelerator", "cpu", "--trainer.devices", "2", "--trainer.strategy", "ddp")  # fmt: skip
    ids = pq.read_table(folder / "predict_predictions.parquet")["pair_id"].to_pylist()
    assert len(ids) == len(set(ids)) == 24
