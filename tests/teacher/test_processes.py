"""Teachers on two processes, and commands that run several trainings."""

import csv
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import yaml

from lrkd.__main__ import main
from lrkd.data.pairs import read_pairs
from lrkd.data.rationales import read_rationales
from lrkd.generation.store import CompletionStore

SHARED = [
    "--data.init_args.judged_pairs", "4", "--data.init_args.judged_tokens", "6", "--trainer.accelerator", "cpu",
    "--trainer.log_every_n_steps", "1", "--trainer.enable_progress_bar", "false",
]  # fmt: skip


def command(*args):
    return [sys.executable, "-m", "lrkd", *map(str, args)]


def run(*args):
    done = subprocess.run(
        command(*args), capture_output=True, text=True, timeout=400, check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def logged(folder):
    with (folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    return {(row["step"], name): float(row[name]) for row in rows for name in row
            if row[name] and name.startswith(("train/", "val/", "seen/"))}  # fmt: skip


@pytest.fixture(scope="module")
def runs(tiny_root, tiny_teacher, tmp_path_factory):
    """The same SFT with one process (batches of 4, whole) and with two (2 each, in micro-batches), and `predict`."""
    folder, found = tmp_path_factory.mktemp("runs"), {}
    for processes, batch, budget in ((1, 4, 100_000), (2, 2, 500)):
        devices = ["--trainer.devices", processes, *(["--trainer.strategy", "ddp"] if processes > 1 else [])]
        run("fit", "--config", "configs/teacher/sft.yaml", "--model.init_args.model", tiny_teacher,
            "--model.init_args.token_budget", budget, "--model.init_args.lr", "1e-2",
            "--data.init_args.root", tiny_root,
            "--data.init_args.batch_size", batch, "--data.init_args.eval_batch_size", batch, "--trainer.max_epochs", 3,
            "--trainer.default_root_dir", folder / str(processes), *SHARED, *devices)  # fmt: skip
        found[processes] = folder / str(processes) / "teacher_sft-seed0"
        run("predict", "--ckpt_path", found[processes] / "checkpoints" / "last.ckpt", *devices,
            "--data.init_args.sampling", '{"max_new_tokens": 6, "temperature": 0.7}',
            "--data.init_args.samples", 2)  # fmt: skip
    return found


def test_two_processes_learn_and_measure_as_one(runs):  # traps 1, 2, 15
    one, two = (logged(folder) for folder in runs.values())
    assert one.keys() == two.keys()
    steps = {step for step, name in one if name == "train/loss"}
    assert len(steps) == 6  # 8 pairs with rationales, 3 epochs
    for key, value in one.items():
        assert two[key] == pytest.approx(value, rel=2e-3, abs=1e-5, nan_ok=True), key


def test_two_processes_write_every_rationale_once(runs, tiny_root):  # traps 17, 41
    stores = {}
    for processes, folder in runs.items():
        parts = sorted((folder / "rationales").glob("process*.sqlite"))
        assert len(parts) == processes
        with CompletionStore(folder / "rationales" / "completions.sqlite") as store:
            stores[processes] = {stored.key: stored.text for stored in store}
        for part in parts:
            with CompletionStore(part) as store:
                assert 0 < len(store.keys()) <= len(stores[processes])
    pairs = read_pairs(tiny_root)["pair_id"].to_pylist()
    assert {key.pair_id for key in stores[1]} == set(pairs)
    assert len(stores[1]) == len(pairs) * 3 * 2
    assert stores[1].keys() == stores[2].keys()
    same = sum(stores[1][key] == stores[2][key] for key in stores[1])
    assert same > 0.9 * len(stores[1])  # the two policies differ in their last digits


def test_a_killed_prediction_goes_on(runs, tmp_path):  # trap 17
    checkpoint = runs[1] / "checkpoints" / "last.ckpt"
    options = ["predict", "--ckpt_path", checkpoint, "--data.init_args.predict_out", tmp_path,
               "--data.init_args.sampling", '{"max_new_tokens": 40, "temperature": 0.7}',
               "--data.init_args.samples", 2, "--data.init_args.eval_batch_size", 2]  # fmt: skip
    process = subprocess.Popen(command(*options), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    store = tmp_path / "process0.sqlite"
    for _ in range(3000):
        if store.is_file() and (n := rows(store)) > 5:
            break
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    n = rows(store)
    assert 5 < n < 144
    run(*options)
    with CompletionStore(tmp_path / "completions.sqlite") as merged:
        assert len(merged.keys()) == len(merged) == 144


def rows(store):
    try:
        with CompletionStore(store) as opened:
            return len(opened)
    except Exception:  # it is being made
        return 0


@pytest.mark.slow
def test_cross_fitting_writes_for_every_training_pair_by_another_policy(tiny_root, tiny_teacher, tmp_path):
    config = tmp_path / "overlay.yaml"
    config.write_text(yaml.safe_dump({
        "model": {"class_path": "lrkd.teacher.TeacherSFT", "init_args": {"model": tiny_teacher}},
        "data": {
            "class_path": "lrkd.data.completions.CompletionDataModule",
            "init_args": {"root": str(tiny_root), "judged_pairs": 1, "judged_tokens": 2,
                          "sampling": {"max_new_tokens": 4}},
        },
        "trainer": {"max_epochs": 1, "accelerator": "cpu"},
    }))  # fmt: skip
    main(["rationales", "crossfit", "--fit_config", str(config), "--out", str(tmp_path / "out"), "--parts", "2"])
    pairs = read_pairs(tiny_root).to_pylist()
    train = {pair["pair_id"]: pair["query"] for pair in pairs if pair["split"] == "train"}
    written = []
    for part in range(2):
        with CompletionStore(tmp_path / "out" / f"part{part}" / "completions.sqlite") as store:
            written.append({stored.key.pair_id for stored in store})
        record = json.loads((tmp_path / "out" / f"part{part}" / "policy-seed0" / "run.json").read_text())
        assert record["data"]["pairs"]["train"] == len(train) - len(written[part])
    assert written[0] | written[1] == set(train)
    queries = [{train[pair] for pair in part} for part in written]
    assert not queries[0] & queries[1]
    assert read_rationales(tmp_path / "out").num_rows == 0  # an untrained policy's 4 tokens hold no verdict
    main(["rationales", "crossfit", "--fit_config", str(config), "--out", str(tmp_path / "out"), "--parts", "2"])
