"""What offline W&B runs hold, read back from their files."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from lrkd.__main__ import main
from lrkd.data.targets import read_fingerprint
from lrkd.runs import read_run

wandb = pytest.importorskip("wandb")

CONFIGS = Path(__file__).parents[2] / "configs"
BLOCK, HEADER = 32768, 7


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """The folder of the runs, of W&B's files and of what W&B stages."""
    folder = tmp_path_factory.mktemp("wandb_runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_DATA_DIR", str(folder / "staged"))
        patch.setenv("WANDB_SILENT", "true")
        yield folder


@pytest.fixture(scope="module")
def options(tiny_encoder, tiny_root, tiny_targets, place):
    return [
        "--config", str(CONFIGS / "student" / "lrkd_mlp.yaml"),
        "--config", str(CONFIGS / "logger" / "wandb.yaml"),
        "--trainer.logger.init_args.save_dir", str(place),
        "--model.init_args.encoder", tiny_encoder,
        "--data.init_args.root", str(tiny_root),
        "--data.init_args.targets", str(tiny_targets),
        "--data.init_args.cache_dir", str(place / "cache"),
        "--data.init_args.max_length", "32",
        "--data.init_args.query_cap", "12",
        "--data.init_args.batch_size", "4",
        "--trainer.accelerator", "cpu",
        "--trainer.max_epochs", "2",
        "--trainer.log_every_n_steps", "1",
        "--trainer.default_root_dir", str(place),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def runs(options, place):
    """Two fits from one folder, each tested and validated."""
    for seed in ("0", "1"):
        main(["fit", *options, "--seed_everything", seed, "--data.init_args.fold", seed])
        assert wandb.run is None, "the run is over, so that the next one begins its own"
        for stage in ("test", "validate", "predict"):
            main([stage, "--ckpt_path", best(place, seed)])
    return [place / f"lrkd_mlp-fold{seed}-seed{seed}" for seed in (0, 1)]


def best(place, seed):
    return str(place / f"lrkd_mlp-fold{seed}-seed{seed}" / "checkpoints" / "best.ckpt")


class Recorded:
    """One offline folder of W&B: the records of its ``.wandb`` file (a LevelDB log of protobuf messages)."""

    def __init__(self, folder):
        self.folder, self.records = folder, []
        deadline = time.monotonic() + 60
        while not self.of("exit") and time.monotonic() < deadline:  # W&B's service writes the end after finish()
            self._read()

    def _read(self):
        from wandb.proto.wandb_internal_pb2 import Record

        (file,) = self.folder.glob("*.wandb")
        self.records = []
        content, place, parts = file.read_bytes(), HEADER, []
        while place + HEADER <= len(content):
            left = BLOCK - place % BLOCK
            if left < HEADER:  # too short for a header: filled with zeros
                place += left
                continue
            length, kind = int.from_bytes(content[place + 4 : place + 6], "little"), content[place + 6]
            parts.append(content[place + HEADER : place + HEADER + length])
            place += HEADER + length
            if place > len(content):
                break  # not written to its end
            if kind in (1, 4):  # whole, or the last part
                self.records.append(Record.FromString(b"".join(parts)))
                parts = []

    def of(self, kind):
        return [getattr(record, kind) for record in self.records if record.WhichOneof("record_type") == kind]

    def config(self):
        updates = [update for record in [*self.of("run"), *self.of("config")]
                   for update in (record.config if hasattr(record, "config") else record).update]  # fmt: skip
        return {update.key: json.loads(update.value_json) for update in updates if update.key}

    def values(self):
        """Everything that was logged, the last value of each name."""
        found = {}
        for item in [item for record in self.of("history") for item in record.item]:
            inside, path = found, [item.key] if item.key else list(item.nested_key)
            for part in path[:-1]:
                inside = inside.setdefault(part, {})
            inside[path[-1]] = json.loads(item.value_json)
        return found

    def table(self, name):
        return json.loads((self.folder / "files" / self.values()[name]["path"]).read_text())

    def artifacts(self):
        return {artifact.type: artifact for artifact in self.of("artifact") if artifact.type != "run_table"}


def recorded(run, place=None):
    """The offline folders of one run in the order of time: the fit's, the test's."""
    known = json.loads((run / "wandb.json").read_text())
    found = ((place or run.parent) / "wandb").glob(f"offline-run-*-{known['id']}")
    return [Recorded(folder) for folder in sorted(found)]


def test_two_runs_from_one_folder_carry_two_full_configs(runs, place):  # trap 40
    assert len(list((place / "wandb").glob("offline-run-*"))) == 4, "two fits and their tests; no orphan"
    ids = set()
    for seed, run in enumerate(runs):
        fit, test = recorded(run)
        ids |= {record.run_id for part in (fit, test) for record in part.of("run")}
        config = fit.config()
        assert config["model"]["init_args"]["extractor"]["class_path"] == "lrkd.extractors.MLPExtractor"
        assert config["data"]["init_args"]["fold"] == config["seed_everything"] == seed
        assert config["trainer"]["max_epochs"] == 2
        assert not {"model", "data"} & set(test.config()), "the test does not replace the settings of its fit"
        assert all(part.of("exit")[0].exit_code == 0 for part in (fit, test))
    assert len(ids) == 2


def test_group_job_type_tags_and_name(runs):
    for seed, run in enumerate(runs):
        fit, test = recorded(run)
        begun, tagged = fit.of("run")[0], fit.of("run")[-1]
        assert (begun.display_name, begun.run_group, begun.job_type) == (run.name, "lrkd_mlp", "fit")
        assert set(tagged.tags) == {"fit", "lrkd_mlp", f"seed{seed}", f"fold{seed}"}
        resumed = test.of("run")[0]
        assert resumed.resume, "so that `wandb sync` goes on after the fit instead of replacing it"
        assert (resumed.run_group, resumed.job_type) == ("lrkd_mlp", "fit")
        assert set(test.of("run")[-1].tags) == {"fit", "test", "lrkd_mlp", f"seed{seed}", f"fold{seed}"}


def test_metrics(runs):
    for run in runs:
        fit, test = recorded(run)
        assert {"train/loss", "val/macro_f1", "val/guidance_r2", "best/val/macro_f1"} <= fit.values().keys()
        assert fit.values()["best/val/macro_f1"] == pytest.approx(read_run(run).best["value"])
        assert test.values()["test/macro_f1"] == pytest.approx(read_run(run).metrics("test")["macro_f1"])
        summary = {item.key: json.loads(item.value_json) for record in fit.of("summary") for item in record.update}
        assert summary["parameters"] == read_run(run).parameters["total"]


def test_examples_have_rationale_prediction_and_gold(runs, tiny_root):
    pairs = {row["pair_id"]: row for row in pq.read_table(tiny_root / "pairs.parquet").to_pylist()}
    texts = pq.read_table(tiny_root / "rationales.parquet").to_pylist()
    for run in runs:
        table = recorded(run)[0].table("val/examples")
        predicted = {row["pair_id"]: row for row in read_run(run).predictions("val").to_pylist()}
        rows = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
        assert {row["pair_id"] for row in rows} == predicted.keys()
        for row in rows:
            pair = pairs[row["pair_id"]]
            assert (row["query"], row["title"], row["gold"]) == (pair["query"], pair["title"], pair["label"])
            probabilities = {k: v for k, v in row.items() if k.startswith("p/")}
            for label, value in probabilities.items():
                assert value == pytest.approx(predicted[row["pair_id"]][label], abs=1e-6), "the best epoch's"
            assert row["predicted"] == max(probabilities, key=probabilities.get).removeprefix("p/")
            assert row["right"] == (row["predicted"] == row["gold"])
            own = [text for text in texts if text["pair_id"] == row["pair_id"]]
            shown = "\n\n".join(row[f"rationale/{p}"] for p in ("business_rule", "structured_analysis", "user_intent"))
            assert all(f"[{text['verdict']}] {text['rationale']}" in shown for text in own)
            assert bool(shown.strip()) == bool(own)


def test_examples_are_the_same_pairs_whatever_the_order(tiny_root, monkeypatch):
    from lrkd.data.types import LABEL_SETS
    from lrkd.tracking.examples import examples

    labels = LABEL_SETS["esci"].labels
    monkeypatch.setattr("lrkd.tracking.examples.EXAMPLES", 8)
    table = pq.read_table(tiny_root / "pairs.parquet").select(["pair_id", "query", "label"])
    for label in labels:
        table = table.append_column(f"p/{label}", pa.array([0.25] * table.num_rows))
    files = [tiny_root / "rationales.parquet"]
    rows = [list(range(24)), list(range(23, -1, -1))]
    first, second = (examples(table.take(order), str(tiny_root), files, labels).data for order in rows)
    assert first == second
    assert len(first) == 8


def test_confusion_matrices_count_every_pair(runs):
    for run in runs:
        for part, split in zip(recorded(run), ("val", "test"), strict=True):
            table = part.table(f"{split}/confusion_matrix_table")
            assert table["columns"] == ["Actual", "Predicted", "nPredictions"]
            counts = {(gold, predicted): count for gold, predicted, count in table["data"]}
            rows = read_run(run).predictions(split).to_pylist()
            labels = read_run(run).label_set.labels
            mine = dict.fromkeys(counts, 0)
            for row in rows:
                mine[row["label"], max(labels, key=lambda label: row[f"p/{label}"])] += 1
            assert counts == mine
            assert len(counts) == 16
            panels = [item.nested_key[-1] for record in part.of("config") for item in record.update if item.nested_key]
            assert f"{split}/confusion_matrix" in panels, "it is shown without anyone making a panel"


def test_lineage_from_pairs_to_checkpoint(runs, tiny_root, tiny_targets):
    fingerprint = read_fingerprint(tiny_targets)
    for run in runs:
        fit, test = recorded(run)
        made = fit.artifacts()
        assert list(made) == ["pairs", "rationales", "targets", "model"]
        assert [made[kind].use_after_commit for kind in made] == [True, True, True, False], "used, used, used, made"
        assert all(made[kind].finalize for kind in made)
        metadata = {kind: json.loads(artifact.metadata) for kind, artifact in made.items()}
        assert metadata["rationales"]["made from pairs"] == metadata["pairs"]["sha256"] == read_run(run).fingerprint
        assert metadata["targets"]["made from rationales"] == metadata["rationales"]["digest"] == fingerprint.rationales
        assert metadata["model"]["made from pairs"] == metadata["pairs"]["sha256"]
        assert set(made["model"].aliases) == {"latest", run.name}
        files = {kind: {entry.path: entry for entry in artifact.manifest.contents} for kind, artifact in made.items()}
        for kind, folder in (("pairs", tiny_root), ("rationales", tiny_root), ("targets", tiny_targets)):
            for name, entry in files[kind].items():
                assert entry.ref == (folder / name).resolve().as_uri(), "a reference: nothing is uploaded"
                assert not entry.local_path
        assert set(files["targets"]) == {"fingerprint.json", "index.parquet", "vectors.npy"}
        assert set(files["model"]) == {"run.json", "config.yaml", "checkpoints/best.ckpt"}
        assert not test.artifacts(), "it belongs to the run that has them"


def test_the_uploaded_checkpoint_is_a_run_s_folder(runs, tmp_path):
    run = tmp_path / runs[0].name
    (artifact,) = [artifact for artifact in recorded(runs[0])[0].of("artifact") if artifact.type == "model"]
    for entry in artifact.manifest.contents:
        (run / entry.path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(entry.local_path, run / entry.path)
    best = run / "checkpoints" / "best.ckpt"
    assert "optimizer_states" not in torch.load(best, weights_only=True)
    main(["test", "--ckpt_path", str(best), "--trainer.logger", "false"])
    name = "test_predictions.parquet"
    assert pq.read_table(run / name).equals(pq.read_table(runs[0] / name))


def test_a_test_on_other_data_is_a_run_of_its_own(runs, tiny_root, place):
    other = place / "other"
    other.mkdir()
    pq.write_table(pq.read_table(tiny_root / "pairs.parquet").slice(0, 20), other / "pairs.parquet")
    main(["test", "--ckpt_path", best(place, 0), "--data.init_args.root", str(other), "--data.init_args.fold", "null"])
    (test,) = recorded(runs[0] / "other_data" / "other", place)
    begun = test.of("run")[0]
    assert (begun.display_name, begun.run_group, begun.job_type) == (f"{runs[0].name} on other", "lrkd_mlp", "test")
    assert test.config()["data"]["init_args"]["root"] == str(other)
    made = test.artifacts()
    assert list(made) == ["pairs", "model"]
    assert all(artifact.use_after_commit for artifact in made.values())
    assert made["pairs"].name == "other-pairs"
    (model,) = [artifact for artifact in recorded(runs[0])[0].of("artifact") if artifact.type == "model"]
    assert made["model"].digest == model.digest, "the same checkpoint is the same version"
    assert "test/confusion_matrix" in str(test.values().keys())
    assert len(recorded(runs[0])) == 2


def options_in(options, folder):
    """The same options with everything in another folder."""
    return [*options, "--trainer.default_root_dir", str(folder), "--trainer.logger.init_args.save_dir", str(folder)]


def test_a_resumed_fit_goes_on_in_its_wandb_run(options, tmp_path):
    here = options_in(options, tmp_path)
    run = tmp_path / "lrkd_mlp-seed0"
    main(["fit", *here, "--trainer.max_epochs", "1"])
    time.sleep(1)  # an offline run's folder is named by the second
    main(["fit", *here, "--trainer.max_epochs", "3", "--ckpt_path", str(run / "checkpoints" / "last.ckpt")])
    first, second = recorded(run)
    assert second.of("run")[0].resume
    assert second.config()["trainer"]["max_epochs"] == 3
    improved = read_run(run).best["value"] > first.values()["best/val/macro_f1"]
    assert ("val/examples" in second.values()) == improved, "what was best before was reported before"
    assert len(list((tmp_path / "wandb").glob("offline-run-*"))) == 2


def test_what_the_user_gives_the_logger_wins(options, tmp_path):
    overlay = tmp_path / "mine.yaml"
    overlay.write_text("trainer: {logger: {init_args: {group: mine, name: ours, tags: [paper], job_type: try}}}")
    main(["fit", *options_in(options, tmp_path), "--trainer.max_epochs", "1", "--config", str(overlay)])
    (fit,) = recorded(tmp_path / "lrkd_mlp-seed0")
    begun = fit.of("run")[0]
    assert (begun.display_name, begun.run_group, begun.job_type) == ("ours", "mine", "try")
    assert fit.of("run")[-1].tags == ["paper", "fit", "lrkd_mlp", "seed0"]


def test_without_rationales_a_fit_uses_pairs_alone(options, tmp_path):
    baseline = ["--config", str(CONFIGS / "student" / "encoder.yaml"), "--data.init_args.targets", "null",
                "--model.init_args.extractor", "null", "--model.init_args.guidance", "null"]  # fmt: skip
    main(["fit", *options_in(options, tmp_path), "--trainer.max_epochs", "1", *baseline])
    (fit,) = recorded(tmp_path / "encoder-seed0")
    assert list(fit.artifacts()) == ["pairs", "model"]
    assert "val/examples" in fit.values()


def test_a_failed_fit_ends_its_wandb_run_as_failed(options, tmp_path, monkeypatch):
    from lrkd.student import StudentLRKD

    def fail(*_):
        raise RuntimeError("out of luck")

    monkeypatch.setattr(StudentLRKD, "training_step", fail)
    with pytest.raises(RuntimeError, match="out of luck"):
        main(["fit", *options_in(options, tmp_path)])
    assert wandb.run is None
    (fit,) = recorded(tmp_path / "lrkd_mlp-seed0")
    assert fit.of("exit")[0].exit_code == 1


def test_a_fast_dev_run_sends_nothing(options, tmp_path):
    main(["fit", *options_in(options, tmp_path), "--trainer.fast_dev_run", "true"])
    assert not (tmp_path / "wandb").exists()


def test_a_checkpoint_callback_of_the_user_s_own_is_not_in_the_way(options, tmp_path):
    callback = "lightning.pytorch.callbacks.ModelCheckpoint"
    main(["fit", *options_in(options, tmp_path), "--trainer.callbacks", callback])
    (fit,) = recorded(tmp_path / "lrkd_mlp-seed0")
    assert fit.values()["best/val/macro_f1"] == read_run(tmp_path / "lrkd_mlp-seed0").best["value"]


def test_a_reference_is_a_new_version_when_the_content_changes_not_the_place(tiny_root, tmp_path):
    from lrkd.tracking.lineage import _reference

    def digest(folder):
        return _reference("pairs", "pairs", [folder / "pairs.parquet"], {}).digest

    shutil.copytree(tiny_root, tmp_path / "elsewhere")
    assert digest(tmp_path / "elsewhere") == digest(tiny_root)
    table = pq.read_table(tiny_root / "pairs.parquet")
    pq.write_table(table.slice(1), tmp_path / "elsewhere" / "pairs.parquet")
    assert digest(tmp_path / "elsewhere") != digest(tiny_root)


def test_only_the_first_of_two_processes_writes(options, tmp_path):
    two = ["--trainer.devices", "2", "--trainer.strategy", "ddp", "--trainer.max_epochs", "1"]
    done = subprocess.run(
        [sys.executable, "-m", "lrkd", "fit", *options_in(options, tmp_path), *two],
        capture_output=True, text=True, timeout=300, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    (fit,) = recorded(tmp_path / "lrkd_mlp-seed0")
    assert len(list((tmp_path / "wandb").glob("*run-*-*"))) == 1
    assert sum(count for *_, count in fit.table("val/confusion_matrix_table")["data"]) == 6
    assert list(fit.artifacts()) == ["pairs", "rationales", "targets", "model"]


def test_without_a_wandb_logger_wandb_is_not_imported():
    code = "import lrkd.cli, sys; sys.exit('wandb' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("command", ["fit", "test"])
def test_a_wandb_logger_without_wandb_says_how_to_get_it(command, options, runs, place, monkeypatch, capsys):
    monkeypatch.setattr("lrkd.tracking.report.find_spec", lambda name: None)
    args = options if command == "fit" else ["--ckpt_path", best(place, 0)]
    with pytest.raises(SystemExit):
        main([command, *args])
    assert "pip install 'lrkd[wandb]'" in capsys.readouterr().err


def test_a_teachers_run_shows_its_own_rationales(tiny_root, tiny_teacher, place):
    folder = place / "teacher"
    main([
        "fit", "--config", str(CONFIGS / "teacher" / "sft.yaml"), "--config", str(CONFIGS / "logger" / "wandb.yaml"),
        "--trainer.logger.init_args.save_dir", str(folder), "--model.init_args.model", tiny_teacher,
        "--data.init_args.root", str(tiny_root), "--data.init_args.judged_pairs", "3",
        "--data.init_args.judged_tokens", "5", "--trainer.accelerator", "cpu", "--trainer.max_epochs", "1",
        "--trainer.log_every_n_steps", "1", "--trainer.default_root_dir", str(folder),
    ])  # fmt: skip
    (fit,) = recorded(folder / "teacher_sft-seed0")
    table = fit.table("val/examples")
    asked = ["user_intent", "structured_analysis", "business_rule", "neutral"]
    assert [name for name in table["columns"] if name.startswith("rationale/")] == [f"rationale/{p}" for p in asked]
    assert len(table["data"]) == 3
    assert {"train/loss", "val/loss", "val/macro_f1", "seen/accuracy"} <= fit.values().keys()
    assert {"pairs", "rationales", "model"} <= fit.artifacts().keys()
