"""The command over run folders written by hand, with means and deviations worked out by hand."""

import csv
import re
from math import log2, sqrt
from pathlib import Path

import pytest
from finished_runs import LABELS, write_root, write_run
from jsonargparse import ArgumentParser

from lrkd.__main__ import main
from lrkd.errors import UserError
from lrkd.evaluate.compare import compare

ALWAYS = "majority (always Exact)"


@pytest.fixture(autouse=True)
def sketches(monkeypatch):
    """Plots are drawn but not rendered, which is most of the time; test_report.py looks at them."""
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda self, path: Path(path).write_bytes(b"a sketch"))


@pytest.fixture
def runs(tmp_path):
    """Two methods over three folds of four pairs, half of them Exact.

    Macro-F1 is 1 where all are right (EEOO), 11/15 where one is wrong (EOOO: F1 2/3 and 4/5), 1/3 where all are called
    Exact. bert: 1, 11/15, 1/3; lrkd: 1, 1, 11/15; the majority: 1/3 each.
    """
    for fold, (bert, lrkd) in enumerate([("EEOO", "EEOO"), ("EOOO", "EEOO"), ("EEEE", "EOOO")]):
        write_run(tmp_path / "runs" / f"lrkd{fold}", "lrkd", lrkd, fold=fold)
        write_run(tmp_path / "runs" / f"bert{fold}", "bert", bert, fold=fold)
    return tmp_path / "runs"


def lines_of(out, table="overall"):
    """The CSV file's lines of one table by method and metric."""
    with (out / "compare.csv").open(encoding="utf-8") as file:
        return {(row["method"], row["metric"]): row for row in csv.DictReader(file) if row["table"] == table}


def run(runs, tmp_path, **options):
    compare(runs=runs, out=tmp_path / "out", **{"resamples": 200} | options)
    return tmp_path / "out"


def test_means_and_sample_deviations(runs, tmp_path):
    found = lines_of(run(str(runs / "*"), tmp_path))
    assert list(dict.fromkeys(method for method, _ in found)) == [ALWAYS, "bert", "lrkd"]
    assert {line["runs"] for line in found.values()} == {"3"}
    # In fifteenths, bert has 15, 11, 5 and lrkd 15, 15, 11; squares of the deviations over n - 1 = 2.
    expected = {
        ALWAYS: (1 / 3, 0),
        "bert": (31 / 45, sqrt((196 + 4 + 256) / 9 / 2) / 15),
        "lrkd": (41 / 45, sqrt((16 + 16 + 64) / 9 / 2) / 15),
    }
    for name, (mean, sd) in expected.items():
        assert float(found[name, "macro_f1"]["estimate"]) == pytest.approx(mean)
        assert float(found[name, "macro_f1"]["sd"]) == pytest.approx(sd)
    assert float(found["bert", "accuracy"]["estimate"]) == pytest.approx((1 + 0.75 + 0.5) / 3)
    assert float(found["bert", "parameters"]["estimate"]) == 2_500_000
    assert float(found["lrkd", "f1/Other"]["estimate"]) == pytest.approx((1 + 1 + 4 / 5) / 3)
    assert float(found[ALWAYS, "f1/Exact"]["estimate"]) == pytest.approx(2 / 3)
    assert float(found[ALWAYS, "ndcg@10"]["estimate"]) == pytest.approx((1 + 1 / log2(3)) / 2)
    assert (ALWAYS, "auroc") not in found


def test_markdown_holds_tables_notes_and_runs(runs, tmp_path, capsys):
    out = run(str(runs / "*"), tmp_path)
    text = (out / "compare.md").read_text(encoding="utf-8")
    majority = f"| {ALWAYS} | 3 | 0.500 ± 0.000 [0.500, 0.500] | 0.333 ± 0.000 [0.333, 0.333] |"
    bert = "| bert | 3 | 0.750 ± 0.250 ["
    assert text.index(majority) < text.index(bert) < text.index("| lrkd | 3 |")
    assert "gives every pair the training split's most frequent label" in text
    assert "sample standard deviation (n − 1)" in text
    assert f"| lrkd | 2 | 0 | {runs / 'lrkd2'} | 0.733 |" in text
    assert "Warning" not in text
    assert "Difference" not in text
    printed = capsys.readouterr().out
    assert "read 6 runs of 2 methods, test split: 12 pairs of 6 queries in 3 folds" in printed
    assert "0.750 ± 0.250" in printed
    assert f"wrote {out / 'compare.html'}" in printed


def test_paired_differences_to_the_baseline(runs, tmp_path):
    out = run(str(runs / "*"), tmp_path, baseline="bert")
    found = lines_of(out, "difference")
    # In fifteenths 0, 4, 6.
    line = found["lrkd", "macro_f1"]
    assert (line["runs"], line["baseline"]) == ("3", "bert")
    assert float(line["estimate"]) == pytest.approx(10 / 45)
    assert float(line["sd"]) == pytest.approx(sqrt((100 + 4 + 64) / 9 / 2) / 15)
    assert float(line["p"]) <= float(line["p_holm"]) <= 1
    assert {method for method, _ in found} == {ALWAYS, "lrkd"}
    text = (out / "compare.md").read_text(encoding="utf-8")
    assert "## Difference to bert" in text
    assert "| lrkd | 3 | +0.167 ± 0.144 [" in text
    assert "| Method | Accuracy: p (Holm) | Macro-F1: p (Holm) |" in text


def test_the_seed_decides_the_draws(runs, tmp_path):
    tables = []
    for seed in (0, 0, 1):
        run(str(runs / "*"), tmp_path, seed=seed, baseline="bert")
        tables.append((tmp_path / "out" / "compare.csv").read_text())
    assert tables[0] == tables[1]
    assert tables[0] != tables[2]


def test_unbalanced_methods_warn_and_pair_what_they_share(runs, tmp_path, capsys):
    write_run(runs / "poly", "poly", "EEOO", fold=1)
    write_run(runs / "alone", "alone", "EEOO", fold=1, seed=7)
    out = run(str(runs / "*"), tmp_path, baseline="bert")
    text = (out / "compare.md").read_text(encoding="utf-8")
    assert "> **Warning:** the methods do not cover the same folds and seeds" in text
    assert "poly lacks fold 0 seed 0; fold 1 seed 7; fold 2 seed 0." in text
    assert "WARNING: the methods do not cover" in capsys.readouterr().out
    found = lines_of(out, "difference")
    assert found["poly", "macro_f1"]["runs"] == "1"
    assert float(found["poly", "macro_f1"]["estimate"]) == pytest.approx(1 - 11 / 15)
    assert found["poly", "macro_f1"]["sd"] == ""
    assert ("alone", "macro_f1") not in found
    assert "| alone | 0 | – | – | – | – | – |" in text
    # Folds 0, 1, 2 with seed 0 and fold 1 with seed 7: each once, however many methods ran it.
    assert lines_of(out)[ALWAYS, "macro_f1"]["runs"] == "4"


def test_one_run_has_no_deviation(tmp_path):
    write_run(tmp_path / "a", "bert", "EEEE")
    out = run(str(tmp_path / "a"), tmp_path)
    assert {line["sd"] for line in lines_of(out).values()} == {""}
    text = (out / "compare.md").read_text(encoding="utf-8")
    assert f"| {ALWAYS} | 1 | 0.500 ± – [0.500, 0.500] |" in text
    assert "| bert | 1 | 0.500 ± – [0.500, 0.500] |" in text
    assert f"| bert | – | 0 | {tmp_path / 'a'} |" in text  # no fold


def test_one_undefined_run_leaves_the_mean_undefined(tmp_path):
    for method in ("bert", "lrkd"):
        write_run(tmp_path / f"{method}0", method, "EEOO", fold=0)
        write_run(tmp_path / f"{method}1", method, "EEOO", fold=1, gold="EEEE")  # one label: nothing to rank
    out = run(str(tmp_path / "[bl]*"), tmp_path, baseline="bert")
    assert "| undefined | undefined |" in (out / "compare.md").read_text(encoding="utf-8")
    found = lines_of(out)["bert", "ndcg@10"]
    assert (found["estimate"], found["low"]) == ("", "")
    assert lines_of(out, "difference")["lrkd", "ndcg@10"]["p"] == ""


def test_pairs_of_unknown_label_are_left_out(tmp_path):
    write_run(tmp_path / "a", "bert", "EOOO", gold="E-OO")
    out = run(str(tmp_path / "a"), tmp_path)
    assert float(lines_of(out)["bert", "accuracy"]["estimate"]) == 1
    assert ": 3 pairs of 2 queries;" in (out / "compare.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fingerprint": "ff00"}, r"different data.*\n  fingerprint ab12: .*/a\n  fingerprint ff00: .*/b"),
        ({"labels": ["Other", "Exact"]}, r"different label sets.*\n.*'Exact', 'Other'.*/a\n.*'Other', 'Exact'.*/b"),
        ({"gold": "EE-O"}, r"different test pairs.*\n  4 labelled pairs: .*/a\n  3 labelled pairs: .*/b"),
        ({"gold": "EEEO"}, r"/a and .*/b were scored on different pairs: .* label is 'Other' against 'Exact'"),
        ({"pair_ids": list("wxyz")}, r"were scored on different pairs: .* pair_id is 'fNone-0' against 'w'"),
        ({"pair_ids": list("wxyy")}, r"/b: its test predictions hold pair_id 'y' twice"),
        ({"gold": "----"}, r"/b: its test predictions hold no pair with a gold label"),
        ({"sure": 1.2}, r"/b: the probabilities of pair_id 'fNone-0' are \[1.2, -0.2\], which is no distribution"),
        ({"fold": 0}, r"different ways of testing.*\n  a split: .*/a\n  a fold: .*/b"),
        ({"majority": "Other"}, r"different majority labels.*\n  Exact: .*/a\n  Other: .*/b"),
        ({"method": "bert"}, r"two runs of 'bert' with seed 0: .*/a and .*/b"),
        ({"split": "val"}, r"no test_predictions\.parquet"),
    ],
)
def test_runs_that_cannot_be_compared_are_refused(tmp_path, change, message):
    write_run(tmp_path / "a", "bert", "EEOO")
    write_run(tmp_path / "b", **{"method": "lrkd", "answers": "EOOO", "macro_f1": 0.5} | change)
    with pytest.raises(UserError, match=message):
        run([str(tmp_path / "a"), str(tmp_path / "b")], tmp_path)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"baseline": "gat"}, "--baseline 'gat': no run of that method; the methods are bert, lrkd"),
        ({"focus": ["bert", "gat"]}, "--focus 'gat': no run of that method"),
        ({"focus": ["bert"] * 5}, "--focus: names 5 methods"),
        ({"resamples": 20}, "--resamples 20: fewer than 100"),
        ({"ensembles": {"both": ["bert", "gat"]}}, "--ensembles 'both': 'gat' is none of"),
    ],
)
def test_options_that_name_what_there_is_not(runs, tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        run(str(runs / "*"), tmp_path, **options)


def test_predictions_of_another_test_than_the_metrics_warn(runs, tmp_path, capsys):
    write_run(runs / "stale", "stale", "EOOO", fold=0, macro_f1=0.9)
    run(str(runs / "stale"), tmp_path)
    assert "test_metrics.json has macro-F1 0.900, its predictions give 0.733" in capsys.readouterr().out


def test_ensembles_are_rows_of_every_table(runs, tmp_path):
    write_run(runs / "seed1", "bert", "EEOO", fold=0, seed=1)
    ensembles = {"both": ["bert", "lrkd"], "seeds": ["bert"]}
    out = run(str(runs / "*"), tmp_path, ensembles=ensembles, ensemble_mean="logits", baseline="seeds")
    found = lines_of(out)
    assert float(found["both", "parameters"]["estimate"]) == 5_000_000
    assert found["seeds", "macro_f1"]["runs"] == "3"
    assert {"both", "bert", "lrkd"} < {method for method, _ in lines_of(out, "difference")}
    assert {"both", "seeds", ALWAYS} < {method for method, _ in lines_of(out, "slice")}
    text = (out / "compare.md").read_text(encoding="utf-8")
    assert "seeds: the mean of the logits of the seeds of bert; its parameters and seconds are the sums" in text
    assert text.count("\n| both | ") >= 6


def test_slices_of_the_data_root_and_without_it(tmp_path):
    rows = [
        {"pair_id": f"fNone-{n}", "query": "red mug", "label": "Exact", "locale": locale}
        for n, locale in enumerate(["us", "es", "us", "es"])
    ]
    digest = write_root(tmp_path / "data", rows, [("fNone-0", ["Exact", "Exact"]), ("fNone-1", ["Other", "Exact"])])
    write_run(tmp_path / "a", "bert", "EOOO", root=tmp_path / "data", fingerprint=digest)
    text = (run(str(tmp_path / "a"), tmp_path) / "compare.md").read_text(encoding="utf-8")
    for title in ("Query length", "Negation", "Tokens cut", "Locale", "Rationale", "Teacher's verdicts"):
        assert f"### {title}\n" in text
    assert "| Method | es | us |\n| --- | ---: | ---: |\n| pairs | 2 (few) | 2 (few) |\n| queries | 1 | 1 |" in text
    assert "- Left out: source: no pair has it." in text
    with (tmp_path / "out" / "compare.csv").open(encoding="utf-8") as file:
        lines = [line for line in csv.DictReader(file) if line["family"] == "locale" and line["method"] == "bert"]
    # us: pairs 0 and 2, both right; es: pair 1, Exact, called Other, and pair 3, right.
    found = {(line["slice"], line["metric"]): float(line["estimate"]) for line in lines}
    assert found["us", "accuracy"] == 1
    assert found["es", "accuracy"] == 0.5
    assert found["es", "macro_f1"] == pytest.approx((0 + 2 / 3) / 2)
    (tmp_path / "data" / "pairs.parquet").unlink()
    text = (run(str(tmp_path / "a"), tmp_path) / "compare.md").read_text(encoding="utf-8")
    assert "Left out: brand, locale, source, rationale and teacher's verdicts: the data root" in text
    assert "### Query length\n" in text


def test_latencies_are_what_macro_f1_is_drawn_against(runs, tmp_path):
    file = tmp_path / "latency.csv"
    file.write_text("method,milliseconds a pair\nbert,3.5\nother,1\n")
    text = (run(str(runs / "*"), tmp_path, latency=file) / "compare.md").read_text(encoding="utf-8")
    assert "Macro-F1 against milliseconds a pair" in text
    assert "Not drawn, for want of a value: lrkd." in text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("name,ms\nbert,1\n", "wanted two columns"),
        ("method,ms\n", "wanted two columns"),
        ("method,ms\nbert,1,2\n", "wanted two columns"),
        ("method,ms\nbert,fast\n", "line 2: 'fast' is not a number above 0"),
        ("method,ms\nbert,0\n", "line 2: '0' is not a number above 0"),
        ("method,ms\ngat,1\n", "names gat, none of the methods bert, lrkd"),
    ],
)
def test_latencies_that_are_none(runs, tmp_path, content, message):
    (tmp_path / "latency.csv").write_text(content)
    with pytest.raises(UserError, match=message):
        run(str(runs / "*"), tmp_path, latency=tmp_path / "latency.csv")


def test_a_pattern_passes_over_its_own_report_and_says_so(runs, tmp_path, capsys):
    for _ in range(2):
        compare(runs=str(runs / "*"), out=runs / "compare", resamples=100)
    assert f"passed over what --runs matched without a run.json: {runs / 'compare'}" in capsys.readouterr().out


def test_the_validation_split_is_read_when_asked_for(tmp_path):
    write_run(tmp_path / "a", "bert", "EEOO", split="val")
    out = run(str(tmp_path / "a"), tmp_path, split="val")
    assert "1 run of 1 method, val split" in (out / "compare.md").read_text(encoding="utf-8")


def test_from_the_command_line(runs, tmp_path, capsys):
    main([
        "compare", "--runs", str(runs / "*"), "--baseline", "bert", "--out", str(tmp_path / "out"),
        "--resamples", "100", "--ensembles", '{"both": ["bert", "lrkd"]}', "--ensemble_mean", "logits",
        "--focus", "both", "bert",
    ])  # fmt: skip
    assert re.search(r"both .* 3 ", capsys.readouterr().out)
    assert "Reliability of both, bert." in (tmp_path / "out" / "compare.md").read_text(encoding="utf-8")


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
    parsed = parser.parse_args([*arguments, "--baseline", LABELS[0]])
    assert parsed.runs == expected
    assert (parsed.split, parsed.out, parsed.baseline) == ("test", Path("runs/compare"), "Exact")
