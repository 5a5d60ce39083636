"""``probe`` from the command line, on a run of a tiny student."""

import csv
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from lrkd.__main__ import main
from lrkd.data.pairs import read_pairs
from lrkd.data.triples import TripleDataModule
from lrkd.evaluate.probe import probing
from lrkd.evaluate.probe.command import _held_out, _vectors
from lrkd.evaluate.trained import TrainedStudent
from lrkd.student import StudentLRKD

TASKS = [
    "verdict: business rule", "verdict: structured analysis", "verdict: user intent", "conflict",
    "gold label", "negation", "brand match", "category match",
]  # fmt: skip
VECTORS = ["majority", "[CLS]", "latents", "[CLS] + latents"]


def probe(run, *args):
    main(["probe", "--run", str(run), "--device", "cpu", "--folds", "2", *map(str, args)])


@pytest.fixture(scope="module")
def probed(small_run, tmp_path_factory):
    """The folder of the run's report."""
    folder = tmp_path_factory.mktemp("probed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(probing, "STRENGTHS", (1e-2,))
        probe(small_run, "--out", folder / "report")
    return folder / "report"


def test_every_task_is_probed_with_all_vectors(probed):
    content = json.loads((probed / "probe.json").read_text())
    assert [task["task"] for task in content["tasks"]] == TASKS
    assert content["left_out"] == []
    for task in content["tasks"]:
        assert [row["vectors"] for row in task["rows"]] == VECTORS
        assert [row["width"] for row in task["rows"]] == [None, 32, 8, 40]
        assert all(len(row["folds"]["macro_f1"]) == 2 for row in task["rows"])
        assert [row["shuffled_folds"] is None for row in task["rows"]] == [True, False, False, False]
    gold = content["tasks"][4]
    assert gold["classes"] == {"Exact": 15, "Substitute": 15, "Complement": 15, "Irrelevant": 15}
    assert gold["queries"] == 15
    assert content["tasks"][0]["classes"] != gold["classes"], "the fourth item has no rationale"


def test_reports_agree(probed):
    content = json.loads((probed / "probe.json").read_text())
    with (probed / "probe.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == len(TASKS) * 4
    for line, row in zip(lines, (row for task in content["tasks"] for row in task["rows"]), strict=True):
        first, second = row["folds"]["balanced_accuracy"]
        assert float(line["balanced_accuracy_mean"]) == pytest.approx((first + second) / 2)
        assert float(line["balanced_accuracy_sd"]) == pytest.approx(abs(first - second) / 2**0.5)
        assert (line["shuffled_macro_f1_mean"] == "") is (row["vectors"] == "majority")
    text = (probed / "probe.md").read_text()
    assert text.count("| majority |") == len(TASKS)
    assert "chance 0.250" in text
    latents = next(line for line in text.splitlines() if line.startswith("| latents | 8 |"))
    assert latents.count(" ± ") == 4, "two scores, the shuffled one, and the difference to [CLS]"


def test_another_run_s_vectors_bear_its_name(small_run, tmp_path):
    other = shutil.copytree(small_run, tmp_path / "other")
    students = [TrainedStudent.open(run, device="cpu") for run in (small_run, other)]
    for student in students:
        student.data.setup("predict")
    vectors = _vectors(students, np.array([70, 3, 119]))
    assert list(vectors) == [*VECTORS[1:], *(f"other: {name}" for name in VECTORS[1:])]
    np.testing.assert_array_equal(vectors["[CLS] + latents"][:, 32:], vectors["latents"])
    np.testing.assert_array_equal(vectors["other: latents"], vectors["latents"])


def test_pairs_of_queries_that_train_are_not_probed(small_run, small_catalogue):  # trap 33
    student = TrainedStudent.open(small_run, device="cpu")
    student.data.setup("predict")
    pairs = student.data.pairs["pair_id"].to_pylist()
    queries = {
        split: {int(pairs[row].split("-")[0][1:]) for row in _held_out(student, split)}
        for split in ("test", "held_out")
    }
    assert queries == {"test": set(range(15, 30)), "held_out": set(range(10, 30))}
    kept = student.data.rows

    def leaky(split):
        return kept("all")[:44] if split == "train" else kept(split)  # the first val query trains, too

    student.data.rows = leaky
    assert min(int(pairs[row].split("-")[0][1:]) for row in _held_out(student, "val")) == 11


def refused(capsys, *args):
    with pytest.raises(SystemExit) as stop:
        probe(*args)
    assert stop.value.code == 2
    return capsys.readouterr().err


def test_runs_that_hold_out_other_pairs_are_refused(small_run, tmp_path, capsys):
    other = shutil.copytree(small_run, tmp_path / "other")
    config = (other / "config.yaml").read_text()
    assert "fold: null" in config
    (other / "config.yaml").write_text(config.replace("fold: null", "fold: 0"))
    assert "holds out other pairs than" in refused(capsys, small_run, "--against", other)


def test_data_that_allows_no_task_says_why(small_run, tmp_path, capsys):
    main_args = ("--folds", "40", "--out", tmp_path)
    assert "allow no task: verdict: business rule: no class has 80 queries" in refused(capsys, small_run, *main_args)
    assert "folds 1: at least 2" in refused(capsys, small_run, "--folds", "1")
    assert not list(tmp_path.iterdir())


def test_the_data_module_is_the_run_s(small_run, small_catalogue):
    data = TrainedStudent.open(small_run).data
    assert isinstance(data, TripleDataModule)
    assert (data.centring, data.max_length, data.query_cap, data.seed) == ("global", 32, 12, 0)
    assert len(read_pairs(data.root)) == 120


def test_each_of_several_latents_is_probed_alone_too(small_run, tiny_encoder):
    student = TrainedStudent.open(small_run, device="cpu")
    student.data.setup("predict")
    extractor = {"class_path": "lrkd.extractors.MLPExtractor"}
    settings = dict(student.model.hparams) | {"encoder": tiny_encoder, "extractor": extractor, "guidance": None}
    model = StudentLRKD(**settings | {"num_perspectives": 3}).eval()
    vectors = _vectors([replace(student, model=model)], np.array([5, 50]))
    own = ["latent: business rule", "latent: structured analysis", "latent: user intent"]
    assert list(vectors) == [*VECTORS[1:], *own]
    np.testing.assert_array_equal(np.concatenate([vectors[name] for name in own], axis=1), vectors["latents"])
