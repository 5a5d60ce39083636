"""Two CPU processes train, predict and measure as one does."""

import csv
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from two_processes import fit

from lrkd.data.pairs import read_pairs, write_table
from lrkd.data.targets import INDEX, VECTORS
from lrkd.data.types import LABEL_SETS, PAIRS_SCHEMA

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


# The same scenarios in this process and in two others, which run all of them in one go.


def small_root(folder, tiny_root, train, val):
    """``tiny_root`` with some pairs of the training and validation splits only, and no rationales file."""
    table = read_pairs(tiny_root).to_pylist()
    left = {"train": train, "val": val}
    rows = []
    for row in table:
        if left.get(row["split"], 0) > 0:
            left[row["split"]] -= 1
            rows.append(row)
    write_table(pa.Table.from_pylist(rows, PAIRS_SCHEMA), folder / "pairs.parquet", PAIRS_SCHEMA)
    return str(folder)


def sparse_targets(folder, targets, pairs):
    """The target store with the rationales of some pairs only."""
    shutil.copytree(targets, folder, dirs_exist_ok=True)
    index = pq.read_table(targets / INDEX)
    kept = np.isin(index["pair_id"].to_numpy(zero_copy_only=False), pairs)
    np.save(folder / VECTORS, np.load(targets / VECTORS)[kept])
    pq.write_table(index.filter(pa.array(kept)), folder / INDEX)
    return str(folder)


@pytest.fixture(scope="module")
def scenarios(encoder_without_dropout, tiny_root, tiny_targets, tmp_path_factory):
    base = {
        "encoder": encoder_without_dropout, "targets": str(tiny_targets), "guidance": "lrkd.losses.InfoNCEGuidance",
        "target_mode": "unified", "cache": str(tmp_path_factory.mktemp("cache")), "accumulate": 1, "batch": 4,
    }  # fmt: skip
    made = {name: tmp_path_factory.mktemp(name) for name in ("all", "odd", "one", "few")}
    roots = {name: small_root(folder, tiny_root, *{"all": (12, 6), "odd": (11, 5), "one": (1, 1), "few": (12, 1)}[name])
             for name, folder in made.items()}  # fmt: skip
    train = [row["pair_id"] for row in read_pairs(roots["all"]).to_pylist() if row["split"] == "train"]
    with_target = sorted(set(train) & set(pq.read_table(tiny_targets / INDEX)["pair_id"].to_pylist()))
    sparse = sparse_targets(tmp_path_factory.mktemp("sparse"), tiny_targets, with_target[:3])
    always = sparse_targets(tmp_path_factory.mktemp("always"), tiny_targets, with_target)
    one = read_pairs(roots["one"]).to_pylist()[0]["pair_id"]
    soft = tmp_path_factory.mktemp("soft") / "predictions.parquet"
    teacher = np.random.default_rng(0).dirichlet(np.ones(4), 3)
    columns = {f"p/{label}": teacher[:, i] for i, label in enumerate(LABEL_SETS["esci"].labels)}
    pq.write_table(pa.table({"pair_id": train[:3]} | columns), soft)
    teaching = {"soft_labels": [str(soft)], "conflict_weight": 2.0, "wrong_negatives": 1, "neighbour_negatives": 1}
    return {
        "InfoNCE": base | {"root": roots["all"]},
        "InfoNCE, a latent a perspective, odd rows": base | {"root": roots["odd"], "target_mode": "per_perspective"},
        "MSE, few rationales": base | {"root": roots["few"], "targets": sparse, "guidance": "lrkd.losses.MSEGuidance"},
        "InfoNCE, few rationales": base | {"root": roots["few"], "targets": sparse},
        "fewer rows than processes": base | {"root": roots["one"], "guidance": "lrkd.losses.MSEGuidance"},
        "a last batch of one row": base | {"root": roots["odd"], "batch": 2, "guidance": "lrkd.losses.MSEGuidance"},
        "accumulated": base
        | {"root": roots["odd"], "targets": always, "accumulate": 2, "guidance": "lrkd.losses.CosineGuidance"},
        "soft labels for few, negatives, weights": base
        | {"root": roots["few"], "teaching": teaching, "target_mode": "per_perspective"},
    }, one


@pytest.fixture(scope="module")
def two(scenarios, tmp_path_factory):
    """What each of two processes found in each scenario."""
    folder = tmp_path_factory.mktemp("two")
    (folder / "scenarios.json").write_text(json.dumps(scenarios[0]))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "NODE_RANK": "0", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(Path(__file__).with_name("two_processes.py"))]
    processes = [
        subprocess.Popen(
            [*command, str(folder / "scenarios.json"), str(folder / "out.json")],
            env=os.environ | group | {"LOCAL_RANK": rank, "PYTHONPATH": str(Path(__file__).parents[1])},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in "01"
    ]  # fmt: skip
    try:
        shown = [process.communicate(timeout=240)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(text[-3000:] for text in shown)
    return json.loads((folder / "out.json").read_text())


NAMES = ("InfoNCE", "InfoNCE, a latent a perspective, odd rows", "MSE, few rationales", "InfoNCE, few rationales",
         "fewer rows than processes", "a last batch of one row", "accumulated",
         "soft labels for few, negatives, weights")  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_two_processes_train_validate_and_predict_as_one(name, scenarios, two):  # traps 20, 25, 30 and 41
    one, (first, second) = fit(scenarios[0][name], 1), (results[name] for results in two)
    assert len(first["losses"]) == len(one["losses"])
    assert first["weights"] == second["weights"]
    assert first["weights"] == pytest.approx(one["weights"], rel=1e-4, abs=1e-6)  # below it: what softmax cancels
    assert first["losses"] == [pytest.approx(loss, rel=1e-3, abs=1e-5) for loss in one["losses"]]
    assert first["rows"] == second["rows"] == one["rows"] == list(range(len(one["rows"])))
    assert first["gold"] == one["gold"]
    np.testing.assert_allclose(first["logits"], one["logits"], atol=1e-3)
    assert first["validated"] == pytest.approx(one["validated"], abs=1e-3, nan_ok=True)


def test_the_scenarios_hold_what_they_are_for(scenarios, two):  # trap 25
    for name in ("MSE, few rationales", "InfoNCE, few rationales"):
        here = [results[name]["targets_here"] for results in two]
        alone = [(a == 0) != (b == 0) for a, b in zip(*here, strict=True)]
        none = [a == b == 0 for a, b in zip(*here, strict=True)]
        assert sum(alone) >= 2, "steps in which one process has no target and the other has"
        assert any(none), "steps without any"
    assert all("train/soft_labels" in losses for results in two for losses in results[NAMES[-1]]["losses"])
    rows = [[results[name]["rows_here"] for results in two] for name in NAMES[4:6]]
    assert rows[0] == [[1] * 3, [0] * 3], "the second process has no row of its own"
    assert min(rows[1][1]) == 0
