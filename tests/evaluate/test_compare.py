"""Comparisons over run folders written by hand, with means and deviations worked out by hand."""

import csv
import json
import struct
from math import sqrt
from pathlib import Path

import pytest
from jsonargparse import ArgumentParser

from lrkd.errors import UserError
from lrkd.evaluate.compare import compare, estimate

LABELS = ["Exact", "Other"]


def write_run(
    folder: Path,
    method: str,
    macro_f1: float | None,
    *,
    fold: int | None = None,
    seed: int = 0,
    majority: float = 0.2,
    fingerprint: str = "ab12",
    labels: list[str] = LABELS,
    pairs: int = 4,
    split: str = "test",
    majority_label: str | None = None,
) -> None:
    folder.mkdir(parents=True)
    run = {
        "method": method,
        "seed": seed,
        "fold": fold,
        "data": {"root": "data/toy", "fingerprint": fingerprint, "pairs": {"train": 8, "val": 2, "test": 4}},
        "label_set": {"name": "toy", "labels": labels, "gains": [1.0] + [0.0] * (len(labels) - 1)},
        "majority_label": majority_label or labels[0],
        "parameters": {"encoder": 2_000_000, "extractor": 0, "head": 500_000, "total": 2_500_000},
        "seconds": 10.0 + seed,
        "epochs": 5,
        "best": {"metric": "val/macro_f1", "value": 0.4, "checkpoint": "checkpoints/best.ckpt"},
        "versions": {},
    }
    metrics = {
        "accuracy": 0.6,
        "macro_f1": macro_f1,
        "auroc": 0.7,
        "ece": 0.05,
        "ece_uncalibrated": 0.1,
        "ndcg@10": 0.9,
        **{f"f1/{label}": 0.5 for label in labels},
        "majority/accuracy": 0.55,
        "majority/macro_f1": majority,
        "majority/ndcg@10": 0.8,
        "temperature": 1.0,
        "pairs": pairs,
    }
    (folder / "run.json").write_text(json.dumps(run))
    (folder / f"{split}_metrics.json").write_text(json.dumps(metrics))


@pytest.fixture
def runs(tmp_path):
    """Two methods over three folds: bert 0.30, 0.34, 0.38; lrkd 0.35, 0.36, 0.43; the majority 0.18, 0.20, 0.22."""
    for fold, (bert, lrkd, majority) in enumerate([(0.30, 0.35, 0.18), (0.34, 0.36, 0.20), (0.38, 0.43, 0.22)]):
        write_run(tmp_path / "runs" / f"lrkd{fold}", "lrkd", lrkd, fold=fold, majority=majority)
        write_run(tmp_path / "runs" / f"bert{fold}", "bert", bert, fold=fold, majority=majority)
    return tmp_path / "runs"


def rows_of(out: Path) -> dict[str, dict[str, str]]:
    with (out / "compare.csv").open(encoding="utf-8") as file:
        return {row["method"]: row for row in csv.DictReader(file)}


def test_means_and_sample_deviations(runs, tmp_path):
    compare(runs=str(runs / "*"), out=tmp_path / "out")
    rows = rows_of(tmp_path / "out")
    assert list(rows) == ["majority (always Exact)", "bert", "lrkd"]
    assert [row["runs"] for row in rows.values()] == ["3", "3", "3"]
    # bert: 0.34 with deviations -0.04, 0, 0.04; lrkd: 0.38 with -0.03, -0.02, 0.05; squares over n - 1 = 2.
    expected = {"majority (always Exact)": (0.20, 0.02), "bert": (0.34, 0.04), "lrkd": (0.38, sqrt(0.0038 / 2))}
    for name, (mean, sd) in expected.items():
        assert float(rows[name]["macro_f1_mean"]) == pytest.approx(mean)
        assert float(rows[name]["macro_f1_sd"]) == pytest.approx(sd)
    assert float(rows["bert"]["accuracy_sd"]) == 0
    assert float(rows["bert"]["parameters_mean"]) == 2_500_000
    assert float(rows["lrkd"]["f1/Other_mean"]) == 0.5
    assert rows["majority (always Exact)"]["auroc_mean"] == ""


def test_markdown_holds_the_table_the_caption_and_the_runs(runs, tmp_path, capsys):
    compare(runs=str(runs / "*"), out=tmp_path / "out")
    text = (tmp_path / "out" / "compare.md").read_text(encoding="utf-8")
    majority = "| majority (always Exact) | 3 | 0.550 ± 0.000 | 0.200 ± 0.020 | 0.800 ± 0.000 | – | – | – | – |"
    bert = "| bert | 3 | 0.600 ± 0.000 | 0.340 ± 0.040 | 0.900 ± 0.000 | 0.700 ± 0.000 | 0.050 ± 0.000 | 2.50 M |"
    assert text.index(majority) < text.index(bert) < text.index("| lrkd | 3 |")
    assert "gives every pair the training split's most frequent label" in text
    assert "sample standard deviation (n − 1)" in text
    assert f"| lrkd | 2 | 0 | {runs / 'lrkd2'} |" in text
    assert "Warning" not in text
    assert "Difference" not in text
    printed = capsys.readouterr().out
    assert "read 6 runs of 2 methods, test split" in printed
    assert "0.340 ± 0.040" in printed
    assert f"wrote {tmp_path / 'out' / 'compare.md'}" in printed


def test_paired_differences_to_the_baseline(runs, tmp_path):
    compare(runs=str(runs / "*"), out=tmp_path / "out", baseline="bert")
    # 0.05, 0.02, 0.05: mean 0.04 with deviations 0.01, -0.02, 0.01.
    row = rows_of(tmp_path / "out")["lrkd"]
    assert row["paired"] == "3"
    assert float(row["macro_f1_difference_mean"]) == pytest.approx(0.04)
    assert float(row["macro_f1_difference_sd"]) == pytest.approx(sqrt(0.0006 / 2))
    assert rows_of(tmp_path / "out")["bert"]["paired"] == ""
    text = (tmp_path / "out" / "compare.md").read_text(encoding="utf-8")
    assert "## Difference to bert, paired by fold and seed" in text
    assert "| lrkd | 3 | +0.000 ± 0.000 | +0.040 ± 0.017 |" in text


def test_unbalanced_methods_warn_and_pair_what_they_share(runs, tmp_path, capsys):
    write_run(runs / "poly", "poly", 0.40, fold=1, majority=0.20)
    write_run(runs / "alone", "alone", 0.45, fold=1, seed=7, majority=0.20)
    compare(runs=str(runs / "*"), out=tmp_path / "out", baseline="bert")
    text = (tmp_path / "out" / "compare.md").read_text(encoding="utf-8")
    assert "> **Warning:** the methods do not cover the same folds and seeds" in text
    assert "poly lacks fold 0 seed 0; fold 1 seed 7; fold 2 seed 0." in text
    assert "WARNING: the methods do not cover" in capsys.readouterr().out
    rows = rows_of(tmp_path / "out")
    assert rows["poly"]["paired"] == "1"
    assert float(rows["poly"]["macro_f1_difference_mean"]) == pytest.approx(0.40 - 0.34)
    assert rows["poly"]["macro_f1_difference_sd"] == ""
    assert (rows["alone"]["paired"], rows["alone"]["macro_f1_difference_mean"]) == ("0", "")
    assert "| alone | 0 | – | – | – | – | – |" in text
    # Folds 0, 1, 2 with seed 0 and fold 1 with seed 7: each once, however many methods ran it.
    assert rows["majority (always Exact)"]["runs"] == "4"


def test_one_run_has_no_deviation(tmp_path):
    write_run(tmp_path / "a", "bert", 0.3)
    compare(runs=str(tmp_path / "a"), out=tmp_path / "out")
    rows = rows_of(tmp_path / "out")
    assert {row["macro_f1_sd"] for row in rows.values()} == {""}
    text = (tmp_path / "out" / "compare.md").read_text(encoding="utf-8")
    assert "| majority (always Exact) | 1 | 0.550 ± – | 0.200 ± – |" in text
    assert "| bert | 1 | 0.600 ± – | 0.300 ± – |" in text
    assert "| – | 0 |" in text  # no fold


def test_one_undefined_run_leaves_the_mean_undefined(tmp_path):
    write_run(tmp_path / "a", "bert", 0.3, seed=0)
    write_run(tmp_path / "b", "bert", None, seed=1)
    write_run(tmp_path / "c", "lrkd", 0.2, seed=0)
    write_run(tmp_path / "d", "lrkd", 0.4, seed=1)
    compare(runs=[str(tmp_path / name) for name in "abcd"], out=tmp_path / "out")
    text = (tmp_path / "out" / "compare.md").read_text(encoding="utf-8")
    assert "| bert | 2 | 0.600 ± 0.000 | undefined |" in text
    assert text.index("| bert | 2 |") < text.index("| lrkd | 2 |")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fingerprint": "ff00"}, r"different data.*\n  fingerprint ab12: .*/a\n  fingerprint ff00: .*/b"),
        ({"labels": ["Other", "Exact"]}, r"different label sets.*\n.*'Exact', 'Other'.*/a\n.*'Other', 'Exact'.*/b"),
        ({"pairs": 3}, r"different test pairs.*\n  4 pairs scored: .*/a\n  3 pairs scored: .*/b"),
        ({"majority_label": "Other"}, r"different majority labels.*\n  Exact: .*/a\n  Other: .*/b"),
        ({"method": "bert"}, r"two runs of 'bert' with seed 0: .*/a and .*/b"),
        ({"split": "val"}, r"no test_metrics\.json"),
    ],
)
def test_runs_that_cannot_be_compared_are_refused(tmp_path, change, message):
    write_run(tmp_path / "a", "bert", 0.3)
    write_run(tmp_path / "b", **{"method": "lrkd", "macro_f1": 0.4} | change)
    with pytest.raises(UserError, match=message):
        compare(runs=[str(tmp_path / "a"), str(tmp_path / "b")], out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_unknown_baseline_lists_the_methods(runs, tmp_path):
    with pytest.raises(UserError, match="--baseline 'gat': no run of that method; the methods are bert, lrkd"):
        compare(runs=str(runs / "*"), out=tmp_path / "out", baseline="gat")


def test_a_pattern_passes_over_its_own_report_and_says_so(runs, tmp_path, capsys):
    for _ in range(2):
        compare(runs=str(runs / "*"), out=runs / "compare")
    assert f"passed over what --runs matched without a run.json: {runs / 'compare'}" in capsys.readouterr().out


def test_the_validation_split_is_read_when_asked_for(tmp_path):
    write_run(tmp_path / "a", "bert", 0.3, split="val")
    compare(runs=str(tmp_path / "a"), split="val", out=tmp_path / "out")
    assert "1 run of 1 method, val split" in (tmp_path / "out" / "compare.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("labels", [LABELS, list("ABCDEFGH")])
def test_the_picture_is_a_png_of_some_size_and_not_blank(tmp_path, labels):
    for seed in range(3):
        write_run(tmp_path / f"a{seed}", "a $name$ | [bold]", 0.3 + 0.01 * seed, seed=seed, labels=labels)
    write_run(tmp_path / "b", "lrkd", 0.4, labels=labels)
    compare(runs=[str(tmp_path / "a*"), str(tmp_path / "b")], out=tmp_path / "out")
    from matplotlib.image import imread

    data = (tmp_path / "out" / "compare.png").read_bytes()
    assert data.startswith(b"\x89PNG")
    width, height = struct.unpack(">II", data[16:24])
    assert width > 800
    assert height > 300
    assert len({tuple(pixel) for pixel in imread(tmp_path / "out" / "compare.png").reshape(-1, 4)[::7]}) > 20
    assert r"| a $name$ \| [bold] | 3 |" in (tmp_path / "out" / "compare.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--runs", "runs/quickstart/*"], "runs/quickstart/*"),
        (["--runs", "[runs/a, runs/b_*]"], ["runs/a", "runs/b_*"]),
        (["--runs+", "runs/a", "--runs+", "runs/b"], ["runs/a", "runs/b"]),
    ],
)
def test_how_runs_are_given_on_the_command_line(arguments, expected):
    parser = ArgumentParser(exit_on_error=False)
    parser.add_function_arguments(compare, as_positional=False)
    parsed = parser.parse_args([*arguments, "--baseline", "bert"])
    assert parsed.runs == expected
    assert (parsed.split, parsed.out, parsed.baseline) == ("test", Path("runs/compare"), "bert")


def test_estimate():
    assert estimate([1.0, 2.0, 3.0]) == (2.0, 1.0)
    assert estimate([0.5]) == (0.5, None)
