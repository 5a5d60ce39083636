"""The command, with contenders that run."""

import json
import math
from pathlib import Path

import pytest

from lrkd.__main__ import main
from lrkd.errors import UserError
from lrkd.serve import Scorer
from lrkd.serve.bench.command import bench
from lrkd.serve.bench.contender import Contender, Worker
from lrkd.serve.bench.measure import Cell, Timing
from lrkd.serve.bench.report import Results, draw, markdown

NEEDS = ["--batches", "1", "2", "--lengths", "8", "16", "--threads", "1", "--rounds", "1", "--seconds", "0.01"]


def test_an_export_is_measured_against_another_and_a_crossencoder(exported, tiny_root, tmp_path, capsys):
    folder, other, out = exported("mlp")[1], exported("encoder")[1], tmp_path / "bench"
    main(["bench", "--model", str(folder), "--against", str(other), "torch-float32", "--root", str(tiny_root),
          "--stream_pairs", "12", "--out", str(out), *NEEDS])  # fmt: skip
    assert {path.name for path in out.iterdir()} == {"bench.md", "bench.json", "bench.png"}
    found = json.loads((out / "bench.json").read_text())
    names = ["lrkd", "out", "CrossEncoder torch float32"]
    assert [row["contender"] for row in found["streams"]] == names
    assert {(row["batch"], row["length"], row["contender"]) for row in found["requests"]} == {
        (batch, length, name) for batch in (1, 2) for length in (8, 16) for name in names
    }
    assert all(second > 0 for row in found["requests"] for second in row["seconds"])
    assert found["peaks"]["1"] > 1e9
    assert found["versions"]["lrkd"].keys() >= {"onnxruntime", "tokenizers"}
    assert "| 1 | CrossEncoder torch float32 |" in capsys.readouterr().out


def test_a_contender_that_cannot_run_says_why(exported, tmp_path):
    with pytest.raises(UserError, match=r"ours cannot run: .*no card\.json in it"):
        Worker(Contender("ours", "export", tmp_path), 1)
    with pytest.raises(UserError, match="--teacher needs --root"):
        bench(model=exported("mlp")[1], teacher="x", out=tmp_path)


def results(exported):
    card = Scorer(exported("mlp")[1]).card
    made = Results(Path("export"), card, "a machine", stream_tokens=20.0, peaks={2: 1e9})
    for threads, batch, rate in ((1, 1, 10), (2, 1, 20), (2, 8, 40)):
        timings = {"lrkd": Timing(batch, [batch / rate] * 3), "other": Timing(batch, [2 * batch / rate] * 3)}
        made.requests[Cell(batch, 16, threads)] = timings
    made.streams[2] = {"lrkd": Timing(100, [2.0, 1.0, 4.0]), "other": Timing(100, [8.0, 6.0, 12.0], size=64)}
    return made


def test_the_report_has_ratios_and_the_share_of_the_peak(exported):
    made = results(exported)
    # The encoder: 2 layers of 4 · 32² + 2 · 32 · 64 weights.
    products = 2 * (4 * 32 * 32 + 2 * 32 * 64)
    assert made.card.source["multiplications_a_token"] == products
    assert made.fraction(50, 20, 2) == pytest.approx(2 * products * 20 * 50 / 1e9)
    made.teacher = {"model": "llm", "pairs": 4, "rationales": 12, "tokens": 600, "prompt_tokens": 2400, "seconds": 40.0}
    text = markdown(made)
    share = math.floor(100 * 2 * products * 20 * 50 / 1e9 + 0.5)
    assert f"| 2 | lrkd | by tokens | 50 | 1.00 | 1.00 to 1.00 | {share}% |" in text
    assert "| 2 | other | 64 | 12 | 4.00 | 3.50 to 5.00 |" in text  # rounds of 4, 6 and 3 times
    assert "| 2 | 16 | 8 | other | 400.0 | 400.0 | 400.0 | 20 | 2.00 |" in text
    # Of the three shapes one is told to be 8 times as fast: the cube root of 2 · 2 · 8.
    made.requests[Cell(8, 16, 2)]["other"] = Timing(8, [1.6] * 3)
    assert "| other | 3.17 | 2.00 | 8.00 |" in markdown(made)
    # 40 s for 4 pairs are 10 s each; the student judges 50 pairs a second.
    assert "50 tokens each after a prompt of 200: 10.00 s a pair" in text
    assert "20.00 ms a pair of the same data: 500 times as fast" in text


def test_the_picture_is_drawn(exported, tmp_path):
    draw(results(exported), tmp_path / "bench.png")
    assert (tmp_path / "bench.png").read_bytes().startswith(b"\x89PNG")
