"""A run that was killed and resumed equals the uninterrupted one, to the bit (trap 38)."""

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from lrkd.__main__ import main
from lrkd.training.resume import drop_rows_from, generator_states, set_generator_states

CONFIG = Path(__file__).parents[2] / "configs" / "student" / "lrkd_mlp.yaml"
KILL = """
import os
import signal

from lightning.pytorch.callbacks import Callback


class Kill(Callback):
    def __init__(self, batch: int) -> None:
        self.batch = batch

    def on_train_batch_start(self, trainer, *_):
        if trainer.fit_loop.total_batch_idx == self.batch:
            os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(scope="module")
def command(tiny_encoder, tiny_root, tiny_targets, tmp_path_factory):
    """12 training pairs in batches of 2: 6 batches an epoch, 3 epochs, dropout on."""
    folder = tmp_path_factory.mktemp("cache")
    return [
        "fit", "--config", str(CONFIG), "--model.init_args.encoder", tiny_encoder,
        "--data.init_args.root", str(tiny_root), "--data.init_args.targets", str(tiny_targets),
        "--data.init_args.cache_dir", str(folder), "--data.init_args.max_length", "32",
        "--data.init_args.query_cap", "12", "--data.init_args.batch_size", "2",
        "--data.init_args.target_mode", "sampled",
        "--trainer.accelerator", "cpu", "--trainer.max_epochs", "3", "--trainer.log_every_n_steps", "1",
    ]  # fmt: skip


def killed(command, folder, batch, *options, threads=None):
    """Train until just before that batch (counted from 0 over all epochs), then SIGKILL.

    With as many threads as this process by default: sums depend on how many there are.
    """
    (folder / "kill.py").write_text(KILL)
    threads = str(threads or torch.get_num_threads())
    callback = ["--trainer.callbacks", json.dumps([{"class_path": "kill.Kill", "init_args": {"batch": batch}}])]
    done = subprocess.run(
        [sys.executable, "-m", "lrkd", *command, *callback, "--trainer.default_root_dir", str(folder), *options],
        capture_output=True, text=True, check=False, timeout=300,
        env=os.environ | {"PYTHONPATH": f"{Path(__file__).parents[2]}:{folder}", "OMP_NUM_THREADS": threads},
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stderr[-3000:]
    return folder / "lrkd_mlp-seed0"


def resumed(command, run, *options):
    main([*command, "--trainer.default_root_dir", str(run.parent), "--ckpt_path", str(run / "checkpoints/last.ckpt"),
          *options])  # fmt: skip
    return run


def assert_same(one, other, where=""):
    """Equal to the bit, whatever is nested in it."""
    assert type(one) is type(other), where
    if isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_same(one[key], other[key], f"{where}/{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for place, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_same(a, b, f"{where}/{place}")
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    else:
        assert one == other, where


def assert_same_runs(one, other):
    assert (one / "metrics.csv").read_text() == (other / "metrics.csv").read_text()
    for name in ("best", "last"):
        a, b = (torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True) for run in (one, other))
        for key in ("state_dict", "optimizer_states", "lr_schedulers", "generators", "global_step", "epoch"):
            assert_same(a[key], b[key], f"{name}/{key}")
        assert_same(a["TripleDataModule"], b["TripleDataModule"], name)
    a, b = (json.loads((run / "run.json").read_text()) for run in (one, other))
    seconds = a.pop("seconds"), b.pop("seconds")
    assert min(seconds) > 0
    assert a == b


def whole(command, folder, *options):
    main([*command, "--trainer.default_root_dir", str(folder), *options])
    return folder / "lrkd_mlp-seed0"


@pytest.fixture(scope="module")
def uninterrupted(command, tmp_path_factory):
    return whole(command, tmp_path_factory.mktemp("whole"))


@pytest.mark.parametrize(
    ("batch", "options"),
    [(13, ()), (11, ("--checkpoint_every_n_steps", "2"))],
    ids=["after an epoch's end", "in the middle of an epoch"],
)
def test_killed_and_resumed_is_uninterrupted_to_the_bit(
    batch, options, command, uninterrupted, tmp_path, monkeypatch
):  # trap 38
    run = killed(command, tmp_path, batch, *options)
    left = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert left["global_step"] == (10 if options else 12), "the checkpoint is where the test says it is"
    assert_same_runs(resumed(command, run, *options), uninterrupted)
    monkeypatch.syspath_prepend(tmp_path)  # the config names kill.Kill
    main(["test", "--ckpt_path", str(run / "checkpoints" / "best.ckpt")])
    assert (run / "test_metrics.json").is_file(), "the run's config.yaml serves for testing, too"


def test_two_processes_killed_and_resumed_are_uninterrupted_to_the_bit(command, tmp_path):  # trap 38
    options = ("--trainer.devices", "2", "--trainer.strategy", "ddp", "--data.init_args.batch_size", "1",
               "--trainer.max_epochs", "2", "--checkpoint_every_n_steps", "2")  # fmt: skip

    def run(*more):
        done = subprocess.run(
            [sys.executable, "-m", "lrkd", *command, *options, *more],
            capture_output=True, text=True, check=False, timeout=300, env=os.environ | {"OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]

    for folder in ("parts", "whole"):
        (tmp_path / folder).mkdir()
    stopped = killed(command, tmp_path / "parts", 11, *options, threads=1)
    left = torch.load(stopped / "checkpoints" / "last.ckpt", weights_only=True)
    assert left["global_step"] == 10
    first, second = (states["torch"] for states in left["generators"])
    assert not torch.equal(first, second), "each process has drawn for rows of its own"
    run("--trainer.default_root_dir", str(tmp_path / "parts"), "--ckpt_path", str(stopped / "checkpoints/last.ckpt"))
    run("--trainer.default_root_dir", str(tmp_path / "whole"))
    assert_same_runs(stopped, tmp_path / "whole" / "lrkd_mlp-seed0")


class Stop(Exception):
    pass


def interrupted(command, folder, batch, monkeypatch, *options):
    """As :func:`killed`, within this process: for what a kill would not change."""
    from lrkd.training.recorder import RunRecorder

    def stop(self, trainer, *_):
        if trainer.fit_loop.total_batch_idx == batch:
            raise Stop

    monkeypatch.setattr(RunRecorder, "on_train_batch_start", stop)
    with pytest.raises(Stop):
        whole(command, folder, *options)
    monkeypatch.undo()
    return folder / "lrkd_mlp-seed0"


@pytest.mark.parametrize(
    ("batch", "options"),
    [
        (10, ("--checkpoint_every_n_steps", "3", "--trainer.val_check_interval", "0.5")),
        (11, ("--checkpoint_every_n_steps", "1", "--trainer.accumulate_grad_batches", "2")),
        (8, ("--checkpoint_every_n_steps", "7", "--data.init_args.num_workers", "1")),
        (13, ("--data.init_args.num_workers", "1")),
        (8, ("--checkpoint_every_n_steps", "1", "--trainer.max_steps", "15", "--trainer.max_epochs", "-1")),
        (14, ("--trainer.max_steps", "15", "--trainer.max_epochs", "-1")),
    ],
    ids=["after a validation in an epoch", "accumulating", "workers", "workers, epoch's end", "max_steps",
         "max_steps, epoch's end"],
)  # fmt: skip
def test_interrupted_and_resumed_under_other_trainer_settings(
    batch, options, command, tmp_path, monkeypatch
):  # trap 38
    expected = whole(command, tmp_path / "whole", *options)
    run = interrupted(command, tmp_path / "parts", batch, monkeypatch, *options)
    assert (run / "checkpoints" / "last.ckpt").is_file()
    assert_same_runs(resumed(command, run, *options), expected)


def test_within_an_epoch_last_holds_what_a_validation_changed(command, tmp_path, monkeypatch):  # trap 38
    options = ("--checkpoint_every_n_steps", "3", "--trainer.val_check_interval", "0.5")
    run = interrupted(command, tmp_path, 10, monkeypatch, *options)
    last = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    with (run / "metrics.csv").open(newline="") as file:
        fitted = {int(row["step"]): row["val/temperature"] for row in csv.DictReader(file) if row["val/temperature"]}
    assert last["global_step"] == 9
    assert float(last["state_dict"]["temperature"]) == float(fitted[8]) != float(fitted[5])


def test_last_checkpoint_is_of_the_last_epoch_though_another_was_best(uninterrupted):
    best, last = (torch.load(uninterrupted / "checkpoints" / f"{n}.ckpt", weights_only=True) for n in ("best", "last"))
    assert best["epoch"] < last["epoch"] == 2


def test_resuming_mid_epoch_with_other_batches_is_refused(command, tmp_path, monkeypatch, capsys):
    options = ("--checkpoint_every_n_steps", "2")
    run = interrupted(command, tmp_path, 3, monkeypatch, *options)
    with pytest.raises(SystemExit):
        resumed(command, run, *options, "--data.init_args.batch_size", "4")
    assert "middle of an epoch of 2 pairs a batch (over all processes) with 4" in capsys.readouterr().err


def test_a_kill_while_last_is_written_leaves_the_one_before(command, tmp_path, monkeypatch):  # trap 38
    import lightning as L

    save = L.Trainer.save_checkpoint

    def torn(self, path, *args, **kwargs):
        if self.global_step == 12 and Path(path).name.startswith("last"):
            Path(path).write_bytes(b"half a checkpoint")
            raise Stop
        save(self, path, *args, **kwargs)

    monkeypatch.setattr(L.Trainer, "save_checkpoint", torn)
    with pytest.raises(Stop):
        whole(command, tmp_path)
    last = tmp_path / "lrkd_mlp-seed0" / "checkpoints" / "last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] == 6


def test_generators_go_on_where_they_were(tmp_path):
    def draws():
        return torch.rand(2).tolist(), np.random.rand(2).tolist(), __import__("random").random()  # noqa: NPY002

    np.random.standard_normal()  # noqa: NPY002  # leaves a second normal number cached
    torch.save(generator_states(torch.device("cpu")), tmp_path / "states")
    before = draws(), np.random.standard_normal()  # noqa: NPY002
    set_generator_states(torch.load(tmp_path / "states", weights_only=True), torch.device("cpu"))
    assert (draws(), np.random.standard_normal()) == before  # noqa: NPY002


def test_rows_after_the_checkpoint_and_torn_rows_are_dropped(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("lr,step,train/loss\n,0,1.5\n0.1,1,1.25\n0.1,2,1.0\n0.1,1")
    drop_rows_from(path, 2)
    with path.open(newline="") as file:
        assert list(csv.reader(file)) == [["lr", "step", "train/loss"], ["", "0", "1.5"], ["0.1", "1", "1.25"]]
    drop_rows_from(path, 0)
    assert path.read_text() == ""
