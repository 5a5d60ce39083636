"""Sweep files: every point is a fit, and a grid runs without W&B."""

import json
from pathlib import Path

import pytest
import yaml

from lrkd.__main__ import main
from lrkd.cli import PlannedFit
from lrkd.errors import UserError
from lrkd.experiments.sweep import fit_options, grid, plan, sweep
from lrkd.runs import read_run

CONFIGS = Path(__file__).parents[2] / "configs"
SWEEPS = sorted((CONFIGS / "sweeps").glob("*.yaml"))


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_every_point_of_a_shipped_sweep_parses_as_a_fit(path, monkeypatch):  # trap 42
    monkeypatch.chdir(CONFIGS.parent)
    content = yaml.safe_load(path.read_text())
    assert content["metric"] == {"name": "best/val/macro_f1", "goal": "maximize"}
    ends = {
        name: parameter if "values" in parameter else {"values": [parameter["min"], parameter["max"]]}
        for name, parameter in content["parameters"].items()
    }
    names = set()
    for values in grid(ends, path):
        planned = PlannedFit(["fit", *fit_options(content["command"], values, path)])
        assert planned.settings.trainer.logger.class_path.endswith("WandbLogger")
        for option in values:
            name, value = option.removeprefix("--").split("=")
            assert planned.settings[name] == float(value)
        names.add(planned.folder)
    assert len(names) > 1 or content["method"] != "grid"


def test_there_are_sweeps():
    assert {yaml.safe_load(path.read_text())["method"] for path in SWEEPS} == {"grid", "bayes"}


def test_options_are_those_that_wandb_s_agent_would_give():
    utils = pytest.importorskip("wandb.sdk.launch.sweeps.utils")
    values = {"model.init_args.guidance_weight": 0.3, "seed_everything": 1, "model.init_args.fusion": True}
    given = utils.create_sweep_command_args({"args": {name: {"value": value} for name, value in values.items()}})
    assert grid({name: {"value": value} for name, value in values.items()}, Path("f")) == [given["args"]]


def test_the_last_parameter_varies_fastest():
    assert grid({"a": {"values": [1, 2]}, "b": {"values": ["x", "y"]}}, Path("f")) == [
        ["--a=1", "--b=x"], ["--a=1", "--b=y"], ["--a=2", "--b=x"], ["--a=2", "--b=y"],
    ]  # fmt: skip


@pytest.fixture
def file(tiny_encoder, tiny_root, tiny_targets, tmp_path):
    """Two values of lambda, one seed."""
    options = {
        "config": CONFIGS / "student" / "lrkd_mlp.yaml", "model.init_args.encoder": tiny_encoder,
        "data.init_args.root": tiny_root, "data.init_args.targets": tiny_targets,
        "data.init_args.cache_dir": tmp_path / "cache", "data.init_args.max_length": 32,
        "data.init_args.query_cap": 12, "trainer.accelerator": "cpu", "trainer.max_epochs": 1,
        "trainer.default_root_dir": tmp_path / "runs",
        "method": "mlp,lambda={model.init_args.guidance_weight}",
    }  # fmt: skip
    content = {
        "method": "grid",
        "command": ["${env}", "${interpreter}", "-m", "lrkd", "fit",
                    *(f"--{name}={value}" for name, value in options.items()),
                    f"--config={CONFIGS / 'logger' / 'wandb.yaml'}", "${args}"],
        "parameters": {"model.init_args.guidance_weight": {"values": [0.0, 0.3]}, "seed_everything": {"value": 4}},
    }  # fmt: skip
    path = tmp_path / "sweep.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def edit(file, change):
    content = yaml.safe_load(file.read_text())
    change(content)
    file.write_text(yaml.safe_dump(content))


def test_a_grid_runs_here_once_and_ends_with_a_comparison(file, tmp_path, capsys, in_process):
    sweep(file=file)
    shown = capsys.readouterr().out
    assert "2 runs, 0 of them finished" in shown
    assert [command[0] for command in in_process] == ["fit", "validate"] * 2
    runs = {folder.name: read_run(folder) for folder in (tmp_path / "runs").glob("mlp*")}
    assert set(runs) == {"mlp,lambda=0.0-seed4", "mlp,lambda=0.3-seed4"}
    assert {run.method for run in runs.values()} == {"mlp,lambda=0.0", "mlp,lambda=0.3"}
    assert not (tmp_path / "wandb").exists()
    command = shown.splitlines()[-1]
    main(command.split("-m lrkd ")[1].split())
    assert "mlp,lambda=0.3" in capsys.readouterr().out

    times = {folder: (folder / "run.json").stat().st_mtime_ns for folder in (tmp_path / "runs").glob("mlp*")}
    edit(file, lambda content: content["parameters"]["model.init_args.guidance_weight"]["values"].append(0.5))
    sweep(file=file)
    assert "3 runs, 2 of them finished" in capsys.readouterr().out
    assert all((folder / "run.json").stat().st_mtime_ns == time for folder, time in times.items()), "not run again"

    edit(file, lambda content: content["command"].insert(-1, "--trainer.gradient_clip_val=1.0"))
    with pytest.raises(UserError, match=r"other settings.*gradient_clip_val: 1.0 against None"):
        sweep(file=file)


def test_an_interrupted_point_is_resumed_and_a_failed_one_is_named(file, tmp_path, capsys, monkeypatch, in_process):
    from lrkd.student import StudentLRKD

    def killed(model):
        raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(StudentLRKD, "on_train_end", killed)
        with pytest.raises(UserError, match="2 of 2 runs failed") as failure:
            sweep(file=file)
    assert str(failure.value).count("RuntimeError: killed") == 2, "the ends of the logs"
    folders = set((tmp_path / "runs").glob("mlp*"))
    assert len(folders) == 2
    assert not any((folder / "run.json").exists() for folder in folders)
    sweep(file=file)
    assert "All 2 are finished" in capsys.readouterr().out
    assert set((tmp_path / "runs").glob("mlp*")) == folders, "in the same folders"
    assert all(json.loads((folder / "run.json").read_text())["epochs"] == 1 for folder in folders)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(method="bayes"), "'bayes'; only a grid runs here.*wandb sweep"),
        (lambda c: c["parameters"].update({"model.init_args.dropout": {"min": 0, "max": 1}}), "dropout: a grid needs"),
        (lambda c: c.update(command=["python", "train.py"]), "command must be"),
        (lambda c: c["command"].append("${args_json}"), r"\$\{args_json\} has a meaning in W&B only"),
        (lambda c: c["command"].insert(-1, "--method=mlp"), "several points would be run.*name what varies"),
        (lambda c: c["command"].insert(-1, "--method={model.lr}"), "no setting 'model.lr'"),
    ],
)
def test_a_sweep_that_cannot_run_says_why(change, message, file):
    edit(file, change)
    with pytest.raises(UserError, match=message):
        plan(file)


def test_an_option_that_fit_does_not_know_stops_before_anything_runs(file, tmp_path, capsys):
    edit(file, lambda content: content["parameters"].update({"model.init_args.lamda": {"values": [1]}}))
    with pytest.raises(SystemExit):
        sweep(file=file)
    assert "lamda" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"nothing\.yaml: not readable"):
        plan(tmp_path / "nothing.yaml")
