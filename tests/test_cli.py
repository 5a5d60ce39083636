"""The command line, end to end on tiny data."""

import inspect
import json
import os
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from lrkd.__main__ import STAGES, TRAINING, main
from lrkd.prompts import PromptBook
from lrkd.runs import read_run

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "configs"


@pytest.fixture(scope="module")
def options(tiny_encoder, tiny_root, tiny_targets, tmp_path_factory):
    """What a student config still needs: encoder, data, short texts, one CPU."""
    return [
        "--model.init_args.encoder", tiny_encoder,
        "--data.init_args.root", str(tiny_root),
        "--data.init_args.targets", str(tiny_targets),
        "--data.init_args.cache_dir", str(tmp_path_factory.mktemp("cache")),
        "--data.init_args.max_length", "32",
        "--data.init_args.query_cap", "12",
        "--data.init_args.batch_size", "4",
        "--trainer.accelerator", "cpu",
        "--trainer.max_epochs", "2",
    ]  # fmt: skip


def fit(config, options, folder, *more):
    main(["fit", "--config", str(CONFIGS / "student" / f"{config}.yaml"), *options,
          "--trainer.default_root_dir", str(folder), *more])  # fmt: skip


@pytest.fixture(scope="module")
def trained(options, tmp_path_factory):
    """The folder of a finished run of lrkd_mlp."""
    folder = tmp_path_factory.mktemp("runs")
    fit("lrkd_mlp", options, folder)
    return folder / "lrkd_mlp-seed0"


def python(*args, cwd=None, **env):
    return subprocess.run(
        [sys.executable, *args], capture_output=True, text=True, cwd=cwd, check=False, env=os.environ | env
    )


@pytest.mark.parametrize("config", ["encoder", "encoder_mean", "lrkd_mlp", "lrkd_mlp_unguided"])
def test_fit_and_test_fill_a_run_folder(config, options, tmp_path, capsys):
    fit(config, options, tmp_path)
    folder = tmp_path / f"{config}-seed0"
    shown = capsys.readouterr().out
    assert f"python -m lrkd test --ckpt_path {folder}/checkpoints/best.ckpt" in shown
    main(["test", "--ckpt_path", str(folder / "checkpoints" / "best.ckpt")])
    assert "always the majority label" in capsys.readouterr().out
    files = {path.name for path in folder.iterdir()}
    assert files == {"config.yaml", "run.json", "metrics.csv", "checkpoints", "test_metrics.json",
                     "test_predictions.parquet"}  # fmt: skip
    assert {path.name for path in (folder / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    record = read_run(folder)
    assert record.method == config
    assert record.metrics("test").keys() >= {"accuracy", "macro_f1", "ndcg@10", "f1/Exact", "majority/macro_f1"}
    predictions = pq.read_table(folder / "test_predictions.parquet")
    assert predictions.column_names == ["pair_id", "query_id", "query", "label", "p/Exact", "p/Substitute",
                                        "p/Complement", "p/Irrelevant", "tokens_cut"]  # fmt: skip
    assert predictions.num_rows == 6
    total = sum(predictions[f"p/{label}"].to_numpy() for label in record.label_set.labels)
    assert total == pytest.approx([1] * 6)
    parts = json.loads((folder / "run.json").read_text())["parameters"]
    assert (parts["extractor"] > 0) == ("mlp" in config)


@pytest.mark.parametrize("config", ["lrkd_mlp", "lrkd_gat_similarity"])  # the latter has graphs in graphs
def test_reloaded_in_a_new_process_without_rationales_and_targets_it_predicts_the_same(
    config, options, tiny_root, tiny_targets, tmp_path
):  # traps 24 and 37
    root, targets = tmp_path / "root", tmp_path / "targets"
    shutil.copytree(tiny_root, root)
    shutil.copytree(tiny_targets, targets)
    fit(config, options, tmp_path, "--data.init_args.root", str(root), "--data.init_args.targets", str(targets))
    best = tmp_path / f"{config}-seed0" / "checkpoints" / "best.ckpt"
    main(["test", "--ckpt_path", str(best)])
    predictions = best.parents[1] / "test_predictions.parquet"
    before = pq.read_table(predictions)
    predictions.unlink()
    shutil.rmtree(targets)
    (root / "rationales.parquet").unlink()
    done = python("-m", "lrkd", "test", "--ckpt_path", str(best))
    assert done.returncode == 0, done.stderr
    assert pq.read_table(predictions).equals(before)


def test_a_checkpoint_of_the_command_line_loads_from_python(trained):  # trap 37
    from lrkd.student import StudentLRKD

    model = StudentLRKD.load_from_checkpoint(trained / "checkpoints" / "best.ckpt")
    assert type(model.extractor).__name__ == "MLPExtractor"
    assert model.label_counts.sum() == 12


def test_results_on_other_data_do_not_replace_the_run_s_own(trained, tiny_root, tmp_path):
    best = str(trained / "checkpoints" / "best.ckpt")
    main(["test", "--ckpt_path", best])
    own = (trained / "test_metrics.json").read_text()
    other = tmp_path / "other"
    other.mkdir()
    table = pq.read_table(tiny_root / "pairs.parquet")
    pq.write_table(table.slice(0, 20), other / "pairs.parquet")
    main(["test", "--ckpt_path", best, "--data.init_args.root", str(other)])
    assert (trained / "test_metrics.json").read_text() == own
    assert (trained / "other_data" / "other" / "test_metrics.json").is_file()


def test_validate_and_predict(trained, capsys):
    best = str(trained / "checkpoints" / "best.ckpt")
    main(["validate", "--ckpt_path", best])
    value = json.loads((trained / "val_metrics.json").read_text())["macro_f1"]
    assert value == pytest.approx(read_run(trained).best["value"]), "the checkpoint has the score it was kept for"
    main(["predict", "--ckpt_path", best])
    assert "Wrote 24 predictions" in capsys.readouterr().out
    assert len(set(pq.read_table(trained / "predict_predictions.parquet")["pair_id"].to_pylist())) == 24


def test_a_second_run_gets_a_folder_of_its_own(options, trained):
    fit("lrkd_mlp", options, trained.parent, "--trainer.max_epochs", "1")
    assert (trained.parent / "lrkd_mlp-seed0-2" / "run.json").is_file()
    fit("lrkd_mlp", options, trained.parent, "--trainer.max_epochs", "1", "--data.init_args.fold", "1",
        "--seed_everything", "3")  # fmt: skip
    record = read_run(trained.parent / "lrkd_mlp-fold1-seed3")
    assert (record.fold, record.seed) == (1, 3)


def test_same_seed_same_run_other_seed_other_run(options, tmp_path):
    values = []
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        fit("encoder", options, tmp_path / name, "--seed_everything", seed)
        values.append((tmp_path / name / f"encoder-seed{seed}" / "metrics.csv").read_text())
    assert values[0] == values[1] != values[2]


def test_resumed_run_goes_on_in_its_folder(options, trained, tmp_path):
    folder = tmp_path / "lrkd_mlp-seed0"
    shutil.copytree(trained, folder)
    before = (folder / "metrics.csv").read_text()
    fit(
        "lrkd_mlp", options, tmp_path, "--trainer.max_epochs", "3", "--ckpt_path", str(folder / "checkpoints/last.ckpt")
    )
    after = (folder / "metrics.csv").read_text()
    assert len(after.splitlines()) > len(before.splitlines())
    assert after.splitlines()[: len(before.splitlines())] == before.splitlines(), "no line of the first part is lost"
    assert read_run(folder).epochs == 3
    assert not (tmp_path / "lrkd_mlp-seed0-2").exists()


def refused(capsys, args):
    with pytest.raises(SystemExit) as stop:
        main(args)
    assert stop.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize("command", ["fit", "test"])
def test_an_explicit_flag_against_a_checkpoint_is_refused(command, options, trained, capsys):  # trap 39
    last = str(trained / "checkpoints" / "last.ckpt")
    config = ["--config", str(trained / "config.yaml")] if command == "fit" else []
    message = refused(capsys, [command, *config, "--ckpt_path", last, "--model.init_args.encoder_lr", "0.5"])
    assert "encoder_lr is 0.5 here and 5e-05 there" in message


def test_a_label_set_in_another_order_is_refused(trained, tmp_path, capsys):  # trap 24
    labels = {"name": "esci", "labels": ["Irrelevant", "Complement", "Substitute", "Exact"], "gains": [0, 0.01, 0.1, 1]}
    (tmp_path / "labels.yaml").write_text(yaml.safe_dump(labels))
    best = str(trained / "checkpoints" / "best.ckpt")
    message = refused(
        capsys, ["test", "--ckpt_path", best, "--data.init_args.label_set", str(tmp_path / "labels.yaml")]
    )
    assert "label_set: the model has" in message


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["nonsense"], "no command 'nonsense'"),
        (["test"], "needs the checkpoint"),
        (["test", "--ckpt_path", "no.ckpt"], "got no.ckpt"),
        (["compare", "--runs", "no/such"], "no/such"),
    ],
)
def test_mistakes_end_with_a_message_and_status_2(args, message, capsys):
    assert message in refused(capsys, args)


def test_missing_targets_are_named(options, tmp_path, capsys):
    arguments = ["fit", "--config", str(CONFIGS / "student" / "lrkd_mlp.yaml"), *options]
    assert "rationales embed" in refused(capsys, [*arguments, "--data.init_args.targets", str(tmp_path / "none")])


EXTRACTOR = """
from torch import nn
from lrkd.extractors import Extractor

class GatedExtractor(Extractor):
    def __init__(self, hidden_size, target_size, num_perspectives=1, *, temperature: float = 1.0):
        super().__init__(hidden_size, target_size, num_perspectives)
        self.gate = nn.Linear(hidden_size, 1, bias=False)
        self.out = nn.Linear(hidden_size, num_perspectives * target_size)
        self.temperature = temperature

    def forward(self, tokens):
        score = self.gate(tokens.states) / self.temperature
        weight = score.masked_fill(~tokens.mask.unsqueeze(-1), float("-inf")).softmax(1)
        return self.out((weight * tokens.states).sum(1)).reshape(-1, self.num_perspectives, self.target_size)
"""


def test_an_extractor_from_outside_fits_saves_reloads_and_tests(options, tmp_path, monkeypatch):
    (tmp_path / "my_lab").mkdir()
    (tmp_path / "my_lab" / "gated.py").write_text(EXTRACTOR)
    overlay = tmp_path / "gated.yaml"
    overlay.write_text(
        "model: {init_args: {extractor: {class_path: my_lab.gated.GatedExtractor, init_args: {temperature: 0.7}}}}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    fit("lrkd_mlp", options, tmp_path, "--config", str(overlay), "--method", "gated")
    best = tmp_path / "gated-seed0" / "checkpoints" / "best.ckpt"
    done = python("-m", "lrkd", "test", "--ckpt_path", str(best), PYTHONPATH=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "temperature: 0.7" in (tmp_path / "gated-seed0" / "config.yaml").read_text()
    assert (tmp_path / "gated-seed0" / "test_metrics.json").is_file()


def test_every_config_parses(options, tiny_root, tmp_path):  # trap 42
    from lrkd.cli import PlannedFit

    teacher = ["--model.init_args.model", "any", "--data.init_args.root", str(tiny_root)]
    preferences = ["--data.init_args.preferences", str(tmp_path)]
    others = ("sweeps", "ablations")  # tests/experiments
    found = sorted(path for path in CONFIGS.rglob("*.yaml") if path.parent.name not in others)
    for book in CONFIGS.rglob("prompts.yaml"):
        found.remove(book)
        PromptBook.load(str(book))
    assert len(found) >= 50
    for path in found:
        overlay = path.parent.name in ("logger", "esci_mini", "trainer")
        is_teacher = path.parent.name in ("teacher", "smollm2") or path.name.startswith("teacher")
        base = "teacher/sft.yaml" if path.parent.name == "smollm2" else "student/encoder.yaml" if overlay else None
        bases = ["--config", str(CONFIGS / base)] if base else []
        more = [*teacher, *(preferences if "dpo" in path.name else [])] if is_teacher else options
        PlannedFit(["fit", *bases, "--config", str(path), *more])


@pytest.mark.parametrize("command", [*STAGES, *TRAINING])
def test_help_reads_well(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([*command.split(), "--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    assert "--config" in shown


@pytest.mark.parametrize("command", STAGES)
def test_every_option_is_described(command):
    module, _, name = STAGES[command][0].partition(":")
    function = getattr(import_module(module), name)
    described = {line.split(":")[0].strip() for line in inspect.getdoc(function).splitlines()}
    assert set(inspect.signature(function).parameters) <= described


def test_top_level_help_lists_every_command(capsys):
    main(["--help"])
    shown = capsys.readouterr().out
    assert all(command in shown for command in [*STAGES, *TRAINING])


def loaded(code):
    done = python("-c", f"{code}; import sys; print(*sys.modules)")
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_only_the_stage_that_is_asked_for_is_imported():
    assert not {"torch", "pyarrow", "numpy", "jsonargparse"} & loaded("import lrkd")
    heavy = {"torch", "lightning", "transformers", "sentence_transformers", "sklearn", "matplotlib"}
    for module, _, _ in (spec.partition(":") for spec, _ in STAGES.values()):
        assert not heavy & loaded(f"import {module}"), module


def test_only_the_first_process_touches_metrics_csv(tmp_path, monkeypatch):
    from lightning.pytorch.utilities.rank_zero import rank_zero_only

    from lrkd.cli import RunCSVLogger

    (tmp_path / "metrics.csv").write_text("loss,step\n1.0,0\n")
    before = (tmp_path / "metrics.csv").stat()
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    RunCSVLogger(tmp_path).experiment.log_metrics({"loss": 2.0}, 1)
    assert (tmp_path / "metrics.csv").stat() == before
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.csv"]
