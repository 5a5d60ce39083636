"""Ablations end to end on tiny data: what is needed first, resuming, failures, the table; and the files that ship."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from lrkd.__main__ import main
from lrkd.cli import PlannedFit
from lrkd.errors import UserError
from lrkd.experiments import ablation as module
from lrkd.experiments.ablation import ablation, of_finished, planned_runs, with_needed
from lrkd.experiments.ablation_file import read_ablation_file
from lrkd.runs import read_run

CONFIGS = Path(__file__).parents[2] / "configs"
FILES = sorted((CONFIGS / "ablations").glob("*.yaml"))


@pytest.fixture
def file(tiny_encoder, tiny_root, tiny_targets, tmp_path, monkeypatch, in_process):
    """A baseline, a row, and one that is taught by the predictions of that row."""
    predictions = "${mlp}/predict_predictions.parquet"
    content = {
        "runs": str(tmp_path / "runs"),
        "data": str(tiny_root),
        "options": {
            "model.init_args.encoder": tiny_encoder, "data.init_args.targets": str(tiny_targets),
            "data.init_args.cache_dir": str(tmp_path / "cache"), "data.init_args.max_length": 32,
            "data.init_args.query_cap": 12, "trainer.accelerator": "cpu", "trainer.max_epochs": 1,
        },
        "before": [{"command": "data audit --root ${data} --out ${runs}/audit.json", "out": "${runs}/audit.json"}],
        "rows": {
            "taught": {
                "configs": f"{CONFIGS}/student/multi_teacher.yaml",
                "options": {"data.init_args.soft_labels": [predictions]},
                "before": [{
                    "command": "predict --ckpt_path ${mlp}/checkpoints/best.ckpt --data.init_args.predict_split train",
                    "out": predictions,
                }],
            },
            "mlp": {
                "configs": f"{CONFIGS}/student/lrkd_mlp.yaml",
                "options": {"data.init_args.perspectives": ["user_intent"]},
            },
            "encoder": f"{CONFIGS}/student/encoder.yaml",
        },
        "compare": {"baseline": "encoder"},
    }  # fmt: skip

    monkeypatch.setattr(module, "lrkd", lambda *args: main(list(args)) is None)
    path = tmp_path / "ablation.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def edit(file, change):
    content = yaml.safe_load(file.read_text())
    change(content)
    file.write_text(yaml.safe_dump(content, sort_keys=False))


def verbs(ran):
    found = [" ".join(command[:2]) if command[0] == "data" else command[0] for command in ran]
    ran.clear()
    return found


def compared(tmp_path):
    """Which methods the table is of."""
    with (tmp_path / "runs" / "compare" / "compare.csv").open() as file:
        methods = {row["method"] for row in csv.DictReader(file)}
    return {method for method in methods if not method.startswith("majority")}


def test_rows_run_once_each_and_end_in_one_table(file, tmp_path, capsys, in_process):
    ablation(file=file, folds=1)
    shown = capsys.readouterr().out
    assert "3 runs, 0 of them finished" in shown
    assert "3/3  encoder  fold 1  seed 0  done in" in shown
    assert verbs(in_process) == ["data audit", "fit", "test", "predict", "fit", "test", "fit", "test"]
    runs = tmp_path / "runs"
    assert {(run.method, run.fold) for run in map(read_run, runs.glob("*seed0"))} == {
        ("taught", 1),
        ("mlp", 1),
        ("encoder", 1),
    }
    config = yaml.safe_load((runs / "taught-fold1-seed0/config.yaml").read_text())
    assert config["data"]["init_args"]["soft_labels"] == [f"{runs}/mlp-fold1-seed0/predict_predictions.parquet"]
    record = json.loads((runs / "taught-fold1-seed0/run.json").read_text())
    assert record["data"]["training_pairs_with_soft_labels"] == record["data"]["pairs"]["train"] > 0
    assert compared(tmp_path) == {"taught", "mlp", "encoder"}

    ablation(file=file, folds=1, rows="mlp")
    assert verbs(in_process) == []
    assert "1 runs, 1 of them finished" in capsys.readouterr().out

    edit(file, lambda c: c["rows"]["mlp"].update(options={"model.init_args.dropout": 0.3}))
    with pytest.raises(UserError, match=r"mlp-fold1-seed0: made with other settings.*dropout: 0.3 against 0.1"):
        ablation(file=file, folds=1)
    edit(file, lambda c: c.update(folds=[0, 1]))
    ablation(file=file, rows="encoder", folds=0)
    assert verbs(in_process) == ["fit", "test"]
    assert "not in the table" in capsys.readouterr().out
    assert compared(tmp_path) == {"encoder", "taught"}, "the file does not describe mlp's runs any more"


def test_lists_of_the_command_line(file, monkeypatch):
    given = []
    monkeypatch.setattr(module, "execute", lambda runs, folder, places, before: given.append((runs, places)))
    monkeypatch.setattr(module, "compare_finished", lambda *_: True)
    words = ["ablation", "--file", str(file), "--rows", "mlp", "encoder", "--folds", "0", "1", "--seeds", "3"]
    main([*words, "--devices", "0", "1", "--jobs", "3"])
    main([*words, "--devices", "1"])
    names = [f"{row}-fold{fold}-seed3" for fold in (0, 1) for row in ("mlp", "encoder")]
    assert [[run.name for run in runs] for runs, _ in given] == [names, names]
    assert [[place["CUDA_VISIBLE_DEVICES"] for place in places] for _, places in given] == [["0", "1", "0"], ["1"]]


def test_a_row_brings_those_that_it_needs(file, in_process, capsys, tmp_path):
    ablation(file=file, rows="taught", seeds=[4], dry_run=True)
    runs = tmp_path / "runs"
    assert capsys.readouterr().out.splitlines() == [f"to do     {runs}/mlp-seed4", f"to do     {runs}/taught-seed4"]
    assert in_process == []
    assert not runs.exists()


def test_a_failed_row_is_told_the_others_go_on_and_the_same_command_resumes_it(
    file, tmp_path, capsys, monkeypatch, in_process
):  # trap 38
    from lrkd.student import StudentLRKD

    def killed(model):
        if model.extractor is not None:
            raise RuntimeError("power cut")

    with monkeypatch.context() as patch:
        patch.setattr(StudentLRKD, "on_train_end", killed)
        with pytest.raises(UserError, match="2 of 3 runs failed") as failure:
            ablation(file=file)
    said = str(failure.value)
    assert "RuntimeError: power cut" in said, "the end of the log"
    assert "taught-seed0: left out: it needs mlp-seed0" in said
    assert compared(tmp_path) == {"encoder"}, "what is finished is compared all the same"
    folder = tmp_path / "runs" / "mlp-seed0"
    assert (folder / "checkpoints" / "last.ckpt").is_file()
    assert not (folder / "run.json").exists()
    assert "begun" in _state(file, capsys)
    verbs(in_process)
    ablation(file=file)
    assert f"--ckpt_path={folder}/checkpoints/last.ckpt" in in_process[0]
    assert verbs(in_process) == ["fit", "test", "predict", "fit", "test"]
    assert read_run(folder).epochs == 1
    assert not (tmp_path / "runs" / "mlp-seed0-2").exists()
    assert compared(tmp_path) == {"taught", "mlp", "encoder"}


def _state(file, capsys):
    capsys.readouterr()
    ablation(file=file, dry_run=True)
    return capsys.readouterr().out


def test_what_comes_before_the_runs_must_succeed(file, tmp_path, in_process):
    edit(file, lambda c: c["before"][0].update(command="data audit --root /no/such/root"))
    with pytest.raises(
        UserError, match=r"(?s)what comes before the runs failed.*no/such/root/pairs.parquet: no such file"
    ):
        ablation(file=file)
    assert len(in_process) == 1


def test_ctrl_c_says_how_to_go_on(file, capsys, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("lrkd.experiments.execute.run_jobs", interrupted)
    with pytest.raises(SystemExit) as stop:
        ablation(file=file)
    assert stop.value.code == 130
    assert "The same command again goes on" in capsys.readouterr().out


def test_an_option_that_fit_does_not_know_stops_before_anything_runs(file, tmp_path, capsys, in_process):
    edit(file, lambda c: c["rows"]["mlp"].update(options={"model.init_args.lamda": 1}))
    with pytest.raises(SystemExit):
        ablation(file=file)
    assert "lamda" in capsys.readouterr().err
    assert in_process == []


def test_rows_that_cannot_be_ordered_are_refused(file):
    plan = read_ablation_file(file)
    with pytest.raises(UserError, match="has no row 'nothing'; the rows are taught, mlp, encoder"):
        with_needed(plan, ["encoder", "nothing"])
    circle = replace(plan.rows["mlp"], options={"data.init_args.soft_labels": "${taught}/x"})
    with pytest.raises(UserError, match="in a circle: taught → mlp → taught"):
        with_needed(replace(plan, rows=plan.rows | {"mlp": circle}), ["taught"])


def test_compare_goes_without_what_is_not_finished(capsys):
    options = {
        "baseline": "both", "focus": ["a", "c"], "resamples": 500,
        "ensembles": {"all": ["a", "b"], "both": ["all", "c"], "seeds": ["c"]},
    }  # fmt: skip
    # b is not there, so neither is the ensemble of a and b, nor the one that has this one in it.
    assert of_finished(options, {"b"}) == {"ensembles": {"seeds": ["c"]}, "focus": ["a", "c"], "resamples": [500]}
    shown = capsys.readouterr().out
    assert "without --ensembles all, both" in shown
    assert "without --baseline both" in shown
    whole = of_finished(options, set())
    assert whole == options | {"baseline": ["both"], "resamples": [500]}
    assert of_finished({"baseline": "b"}, {"b"}) == {}


# The files that ship


def test_there_are_files():
    assert {"quickstart", "esci_mini"} <= {path.stem for path in FILES}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_row_of_a_shipped_file_parses_as_a_fit(path, monkeypatch, tmp_path):  # trap 42
    monkeypatch.chdir(CONFIGS.parent)
    plan = replace(read_ablation_file(path), data="root")
    plan = replace(plan, runs=str(tmp_path))  # nobody's runs are looked at
    rows = with_needed(plan, plan.rows)
    assert plan.compare["baseline"] in plan.rows
    runs = planned_runs(plan, rows, [(plan.folds[0], 0)])
    for row, run in zip(rows, runs, strict=True):
        (config,) = row.configs
        assert yaml.safe_load(Path(config).read_text())["method"] == row.name
        assert run.folder == tmp_path / f"{row.name}-fold{plan.folds[0]}-seed0"
    assert PlannedFit(["fit", *runs[0].options]).folder == runs[0].folder


def test_the_rows_of_the_paper_are_in_the_shipped_file():
    rows = set(read_ablation_file(CONFIGS / "ablations" / "esci_mini.yaml").rows)
    singles = {f"lrkd_mlp_{name}" for name in ("user_intent", "structured_analysis", "business_rule")}
    assert rows >= singles | {
        "encoder", "encoder_mean", "lrkd_mlp_unguided", "lrkd_mlp", "lrkd_poly", "lrkd_gat", "lrkd_mlp_sampled",
        "lrkd_mlp_perspectives", "lrkd_mlp_all_rationales", "lrkd_mlp_auxiliary", "label_distillation",
        "multi_teacher", "lrkd_mlp_shuffled", "lrkd_mlp_verdict",
    }  # fmt: skip
