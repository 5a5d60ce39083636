"""Reading run folders, written here by hand."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lrkd.errors import UserError
from lrkd.runs import find_runs, is_run, read_run

RUN = {
    "method": "bert",
    "seed": 3,
    "fold": None,
    "data": {"root": "data/toy", "fingerprint": "ab12", "pairs": {"train": 8, "val": 2, "test": 4}},
    "label_set": {"name": "two", "labels": ["Good", "Bad"], "gains": [1.0, 0.0]},
    "majority_label": "Good",
    "parameters": {"encoder": 100, "extractor": 0, "head": 6, "total": 106},
    "seconds": 12.5,
    "epochs": 5,
    "best": {"metric": "val/macro_f1", "value": 0.4, "checkpoint": "checkpoints/best.ckpt"},
    "versions": {"torch": "2.13.0"},
}
METRICS = {
    "accuracy": 0.75,
    "macro_f1": 0.7,
    "auroc": None,
    "ece": 0.05,
    "ece_uncalibrated": 0.1,
    "ndcg@10": 0.9,
    "f1/Good": 0.8,
    "f1/Bad": 0.6,
    "majority/accuracy": 0.5,
    "majority/macro_f1": 0.33,
    "majority/ndcg@10": 0.8,
    "temperature": 1.2,
    "pairs": 4,
}
PREDICTIONS = {
    "pair_id": ["a", "b"],
    "query_id": ["q", "q"],
    "query": ["lamp", "lamp"],
    "label": ["Good", "Bad"],
    "p/Good": [0.9, 0.2],
    "p/Bad": [0.1, 0.8],
    "tokens_cut": [0, 3],
}


def write_run(folder: Path, run=RUN, metrics=METRICS) -> Path:
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps(run))
    if metrics is not None:
        (folder / "test_metrics.json").write_text(json.dumps(metrics))
    return folder


def test_a_run_is_read_as_written(tmp_path):
    run = read_run(write_run(tmp_path / "a"))
    assert (run.method, run.seed, run.fold, run.fingerprint) == ("bert", 3, None, "ab12")
    assert run.label_set.labels == ("Good", "Bad")
    assert run.label_set.gains == (1.0, 0.0)
    assert run.parameters["total"] == 106
    assert run.seconds == 12.5
    assert run.checkpoint == tmp_path / "a" / "checkpoints" / "best.ckpt"


def test_metrics_are_floats_and_null_is_nan(tmp_path):
    metrics = read_run(write_run(tmp_path / "a")).metrics("test")
    assert metrics["f1/Bad"] == 0.6
    assert math.isnan(metrics["auroc"])
    assert metrics["pairs"] == 4.0


def test_a_split_that_was_not_scored_names_the_command_that_scores_it(tmp_path):
    run = read_run(write_run(tmp_path / "a"))
    with pytest.raises(UserError, match=r"no val_metrics\.json.*lrkd validate --config .*a/config\.yaml --ckpt_path"):
        run.metrics("val")
    with pytest.raises(UserError, match=r"no test_predictions\.parquet.*lrkd test --config"):
        run.predictions("test")


@pytest.mark.parametrize(
    ("change", "message"),
    [({"f1/Bad": "high"}, "'f1/Bad' is 'high', not a number"), ({"ece": True}, "'ece' is True, not a number")],
)
def test_a_metric_that_is_no_number_is_refused(tmp_path, change, message):
    run = read_run(write_run(tmp_path / "a", metrics=METRICS | change))
    with pytest.raises(UserError, match=message):
        run.metrics("test")


@pytest.mark.parametrize("key", ["macro_f1", "majority/accuracy", "f1/Bad"])
def test_a_metric_that_is_missing_is_named(tmp_path, key):
    run = read_run(write_run(tmp_path / "a", metrics={k: v for k, v in METRICS.items() if k != key}))
    with pytest.raises(UserError, match=f"lacks '{key}'"):
        run.metrics("test")


def test_predictions_come_in_the_order_of_the_labels(tmp_path):
    folder = write_run(tmp_path / "a")
    pq.write_table(pa.table(PREDICTIONS | {"more": [1, 2]}), folder / "test_predictions.parquet")
    assert read_run(folder).predictions("test").to_pydict() == PREDICTIONS
    pq.write_table(pa.table(PREDICTIONS).drop_columns(["p/Bad"]), folder / "test_predictions.parquet")
    with pytest.raises(UserError, match=r"lacks the columns \['p/Bad'\]"):
        read_run(folder).predictions("test")


def test_what_is_no_run_is_refused_with_a_way_out(tmp_path):
    with pytest.raises(UserError, match=r"nowhere: no such folder.*lrkd fit"):
        read_run(tmp_path / "nowhere")
    write_run(tmp_path / "quickstart" / "a")
    with pytest.raises(UserError, match=r"holds no run\.json; its subfolders are runs, so give '.*quickstart/\*'"):
        read_run(tmp_path / "quickstart")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"holds no run\.json; one is written by `python -m lrkd fit`"):
        read_run(tmp_path / "empty")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": "3"}, "'seed' is '3', wanted int"),
        ({"seed": True}, "'seed' is True, wanted int"),
        ({"fold": 1.5}, "'fold' is 1.5, wanted int or null"),
        ({"data": {"root": "x", "pairs": {}}}, r"lacks 'data\.fingerprint'"),
        ({"label_set": {"name": "two", "labels": ["Good"], "gains": [1.0]}}, "label_set: .*two or more"),
        ({"label_set": {"name": "two", "labels": None, "gains": None}}, "label_set: "),
        ({"majority_label": "Ugly"}, "majority_label 'Ugly' is none of"),
    ],
)
def test_a_broken_run_json_names_what_is_wrong(tmp_path, change, message):
    with pytest.raises(UserError, match=message) as error:
        read_run(write_run(tmp_path / "a", run=RUN | change))
    assert str(tmp_path / "a" / "run.json") in str(error.value)


@pytest.mark.parametrize("text", ["{", "[]", "\xff"])
def test_an_unreadable_run_json_is_a_user_error(tmp_path, text):
    folder = write_run(tmp_path / "a")
    (folder / "run.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=r"run\.json: (not a readable JSON file|holds a list)"):
        read_run(folder)


def test_patterns_find_runs_once_and_tell_what_they_passed_over(tmp_path):
    for name in ("b", "a"):
        write_run(tmp_path / name)
    (tmp_path / "interrupted" / "checkpoints").mkdir(parents=True)
    runs, passed = find_runs([str(tmp_path / "b"), str(tmp_path / "*")])
    assert [run.path.name for run in runs] == ["b", "a"]
    assert passed == [tmp_path / "interrupted"]


def test_a_deep_pattern_does_not_count_the_folders_in_and_above_runs_as_passed_over(tmp_path):
    (write_run(tmp_path / "deep" / "a") / "checkpoints").mkdir()
    (tmp_path / "other").mkdir()
    runs, passed = find_runs(str(tmp_path / "**"))
    assert [run.path.name for run in runs] == ["a"]
    assert passed == [tmp_path / "other"]


def test_a_folder_whose_name_looks_like_a_pattern_is_taken_by_name(tmp_path):
    folder = write_run(tmp_path / "lr[1]")
    assert find_runs(str(folder))[0][0].path == folder
    assert is_run(folder)


def test_nothing_found_is_refused(tmp_path):
    with pytest.raises(UserError, match="matches 0 folders"):
        find_runs(str(tmp_path / "x*"))
    with pytest.raises(UserError, match="names no run"):
        find_runs([])
    with pytest.raises(UserError, match="no such folder"):
        find_runs([str(tmp_path / "x")])


def test_neither_torch_nor_matplotlib_is_imported():
    code = "import sys, lrkd.runs, lrkd.evaluate.compare; print({'torch', 'matplotlib'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
