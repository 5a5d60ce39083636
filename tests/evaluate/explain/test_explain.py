"""``explain`` from the command line, on a run of a tiny student."""

import csv
import json
import re
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest

from lrkd.__main__ import main
from lrkd.data.pairs import read_pairs
from lrkd.evaluate.explain.index import ExplanationIndex
from lrkd.runs import read_run

PERSPECTIVES = ["business_rule", "structured_analysis", "user_intent"]
PROBABILITIES = ["p/Exact", "p/Substitute", "p/Complement", "p/Irrelevant"]


def explain(run, *args):
    main(["explain", "--run", str(run), "--device", "cpu", *map(str, args)])


@pytest.fixture(scope="module")
def measured(small_run, tmp_path_factory):
    """The folder in which the test split's explanations and their measures are."""
    folder = tmp_path_factory.mktemp("measured")
    explain(small_run, "--split", "test", "--neighbours", "2", "--out", folder)
    return folder


def test_a_split_is_explained_pair_by_pair(measured, small_run):
    table = pq.read_table(measured / "test_explanations.parquet")
    rows = table.to_pylist()
    assert len(rows) == 60 * 3 * 2
    assert [row["perspective"] for row in rows[:6]] == [name for name in PERSPECTIVES for _ in range(2)]
    assert all(a["similarity"] >= b["similarity"] for a, b in zip(rows[::2], rows[1::2], strict=True))
    assert all(row["rationale"] == f"{row['perspective']} on {row['of_pair_id']}: {row['verdict']}." for row in rows)
    assert {int(row["of_pair_id"].split("-")[0][1:]) for row in rows} <= set(range(10)), "training pairs"
    said = {row["pair_id"]: [row[name] for name in PROBABILITIES] for row in rows}
    for row in read_run(small_run).predictions("test").to_pylist():  # trap 37
        assert said[row["pair_id"]] == pytest.approx([row[name] for name in PROBABILITIES], abs=1e-5)


def test_a_split_s_measures_are_those_of_its_table(measured):
    report = json.loads((measured / "test_explanations.json").read_text())
    nearest = [row for row in pq.read_table(measured / "test_explanations.parquet").to_pylist() if row["rank"] == 1]
    found = {(row["by"], row["perspective"]): row for row in report["rows"]}
    for perspective in PERSPECTIVES:
        own = [row for row in nearest if row["perspective"] == perspective]
        gold = np.mean([row["verdict"] == row["label"] for row in own])
        student = np.mean([row["verdict"] == max(PROBABILITIES, key=row.get)[2:] for row in own])
        assert found["latent", perspective]["agrees_with_gold"]["mean"] == pytest.approx(gold)
        assert found["latent", perspective]["agrees_with_student"]["mean"] == pytest.approx(student)
    assert (report["split"], report["pairs"], report["queries"]) == ("test", 60, 15)
    # Test labels are balanced, so that any distribution of verdicts agrees with a quarter of them.
    assert found["random", "all"]["agrees_with_gold"]["mean"] == pytest.approx(0.25)
    assert found["most frequent", "all"]["agrees_with_gold"]["mean"] == pytest.approx(0.25)
    assert found["own rationale", "all"]["agrees_with_gold"]["pairs"] == 45, "of one item a query nothing was written"
    assert 0 < found["random", "all"]["same_category"]["mean"] < 1
    assert report["index"]["rationales"] == 80
    assert report["index"]["centring"] == "global"


def test_the_report_is_shown(small_run, capsys, tmp_path):
    explain(small_run, "--split", "val", "--out", tmp_path)
    shown = capsys.readouterr().out
    assert "Index: 80 rationales of training pairs (business_rule 30, structured_analysis 30, user_intent 20)" in shown
    assert "180 (pair does not train), 10 (verdict is not gold)" in shown
    assert "val: the nearest rationale of 20 pairs, 5 queries" in shown
    assert all(word in shown for word in ("latent − [CLS]", "random", "most frequent", "same category"))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"val_explanations.{kind}" for kind in ("json", "md", "parquet")
    ]
    lines = (tmp_path / "val_explanations.md").read_text().splitlines()
    assert lines[0] in shown
    assert lines[2].startswith("| rationale by | perspective | agrees with student | agrees with gold | same topic |")
    assert sum(line.startswith("| own rationale |") for line in lines) == 4


def write_csv(path, rows):
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.DictWriter(file, list(rows[0])).writeheader()
        csv.DictWriter(file, list(rows[0])).writerows(rows)
    return path


def test_pairs_of_a_file_are_explained_as_those_of_the_data(measured, small_run, small_catalogue, tmp_path):
    """The file's texts are tokenised anew, the split's come from the token cache."""
    rows = [row for row in read_pairs(small_catalogue.root).to_pylist() if row["split"] == "test"][:7]
    file = write_csv(tmp_path / "mine.csv", [{"title": r["title"], "query": r["query"], "note": "x"} for r in rows])
    explain(small_run, "--pairs", file, "--neighbours", "2", "--out", tmp_path / "out.jsonl")
    found = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    expected = pq.read_table(measured / "test_explanations.parquet").slice(0, 42).to_pylist()
    assert [row["row"] for row in found] == [place for place in range(2, 9) for _ in range(6)], "lines of the file"
    for one, other in zip(found, expected, strict=True):
        assert (one["of_pair_id"], one["perspective"], one["rank"]) == (
            other["of_pair_id"], other["perspective"], other["rank"],
        )  # fmt: skip
        for name in (*PROBABILITIES, "similarity"):
            assert one[name] == pytest.approx(other[name], abs=1e-5)


def test_one_pair_is_explained_in_the_terminal(small_run, capsys, tmp_path):
    options = ("--query", "red mug [no] handle", "--title", "Mug")
    explain(small_run, *options, "--out", tmp_path / "one.parquet", "--save_index", tmp_path / "index")
    shown = capsys.readouterr().out
    assert "red mug [no] handle → Mug" in shown, "brackets are no markup"
    assert re.search(r"Exact \d+%", shown)
    assert all(f"{name} on q" in shown for name in PERSPECTIVES)
    row = pq.read_table(tmp_path / "one.parquet").to_pylist()[1]
    index = ExplanationIndex.open(tmp_path / "index")
    assert row["rationale"] in index.rationales["rationale"].to_pylist()
    assert index.about["run"] == str(small_run)
    assert len(index.about["checkpoint"]) == 64


ROWS = [{"query": "red mug", "title": "Mug", "label": "Exact"}, {"query": "", "title": "Lamp", "label": "Exact"}]


def refused(capsys, run, *args):
    with pytest.raises(SystemExit) as stop:
        explain(run, *args)
    assert stop.value.code == 2
    return capsys.readouterr().err


def test_broken_rows_are_named_or_set_aside(small_run, tmp_path, capsys):  # trap 46
    file = write_csv(tmp_path / "mine.csv", [*ROWS, ROWS[0] | {"label": "Great"}])
    message = refused(capsys, small_run, "--pairs", file)
    assert f"{file}, line 3, column 'query': empty" in message
    assert "--on_error skip" in message
    assert "--on_error skip: give --out" in refused(capsys, small_run, "--pairs", file, "--on_error", "skip")
    explain(small_run, "--pairs", file, "--on_error", "skip", "--out", tmp_path / "out.parquet")
    assert pq.read_table(tmp_path / "out.parquet")["row"].unique().to_pylist() == [2]
    aside = [json.loads(line) for line in (tmp_path / "out.rejected.jsonl").read_text().splitlines()]
    assert [(row["line"], row["column"]) for row in aside] == [(3, "query"), (4, "label")]
    assert "Set aside 2 broken rows" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((), "give one of: --query and --title"),
        (("--query", "mug"), "--query and --title make one pair"),
        (("--query", "mug", "--title", "mug", "--split", "test"), "give one of"),
        (("--query", " ", "--title", "mug"), "--query is empty"),
        (("--query", "mug", "--title", "mug", "--out", "out.csv"), "may be .parquet or .jsonl"),
        (("--query", "mug", "--title", "mug", "--neighbours", "21"), "neighbours 21: 1 to"),
        (("--pairs", "none.csv"), "none.csv: no such file"),
    ],
)
def test_options_that_do_not_go_together_are_refused(args, message, small_run, capsys):
    assert message in refused(capsys, small_run, *args)


def test_a_run_whose_latents_nothing_drew_says_so(small_run, tmp_path, capsys):
    """The weight of the guidance is a hyperparameter that its checkpoint keeps."""
    import torch

    run = shutil.copytree(small_run, tmp_path / "run")
    checkpoint = torch.load(run / "checkpoints/best.ckpt", weights_only=True)
    checkpoint["hyper_parameters"]["guidance_weight"] = 0.0
    torch.save(checkpoint, run / "checkpoints/best.ckpt")
    explain(run, "--query", "mug", "--title", "mug")
    assert "guidance weighed 0" in capsys.readouterr().out
