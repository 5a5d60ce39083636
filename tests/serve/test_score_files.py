"""`score`: files in, files out, no row lost, no torch."""

import csv
import json
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import ITEMS, QUERIES

from lrkd.__main__ import main
from lrkd.data import row_files, text_files
from lrkd.errors import UserError
from lrkd.serve import Scorer
from lrkd.serve.score_files import score

PAIRS = [(f"p{n}", QUERIES[n // 3], title) for n, (title, _) in enumerate(ITEMS)]
LABELS = ["Exact", "Substitute", "Complement", "Irrelevant"]


def write_csv(path, rows=PAIRS, header=("pair_id", "query", "title")):
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
    return path


def write_parquet(path):
    pq.write_table(
        pa.table(dict(zip(("pair_id", "query", "title"), map(list, zip(*PAIRS, strict=True)), strict=True))), path
    )
    return path


def write_jsonl(path):
    path.write_text("".join(json.dumps({"pair_id": i, "query": q, "title": t}) + "\n" for i, q, t in PAIRS))
    return path


@pytest.mark.parametrize(
    ("write", "suffix", "first"), [(write_csv, "csv", 2), (write_parquet, "parquet", 1), (write_jsonl, "jsonl", 1)]
)
def test_every_format_gives_the_scorers_numbers(write, suffix, first, exported, tmp_path, monkeypatch, capsys):
    for module in (row_files, text_files):
        monkeypatch.setattr(module, "PIECE_ROWS", 7)  # the file is read, and scored, in four pieces
    _, folder = exported("mlp")
    file, out = write(tmp_path / f"pairs.{suffix}"), tmp_path / "new" / "scored.parquet"
    main(["score", "--model", str(folder), "--input", str(file), "--output", str(out), "--latents", "true"])
    table = pq.read_table(out)
    probabilities = [f"p/{label}" for label in LABELS]
    assert table.column_names == ["row", "pair_id", *probabilities, "label", "gain", "tokens_cut", "latents"]
    assert table["row"].to_pylist() == list(range(first, first + 24))
    assert table["pair_id"].to_pylist() == [pair_id for pair_id, _, _ in PAIRS]
    scored = Scorer(folder).score([{"query": q, "title": t} for _, q, t in PAIRS])
    found = np.stack([table[f"p/{label}"].to_numpy() for label in LABELS], 1)
    np.testing.assert_allclose(found, scored.probabilities, atol=1e-5)
    assert table["label"].to_pylist() == scored.labels
    np.testing.assert_allclose(table["gain"].to_numpy(), scored.gains, atol=1e-5)
    np.testing.assert_allclose(table["latents"].to_pylist(), scored.latents.reshape(24, -1), atol=1e-4)
    assert "24 rows read = 24 scored + 0 set aside" in capsys.readouterr().out
    assert [path.name for path in out.parent.iterdir()] == ["scored.parquet"]


def test_bad_rows_are_set_aside_with_their_line_and_reason(exported, tmp_path, capsys):
    _, folder = exported("mlp")
    rows = [
        ("a", "red mug", "Mug"),
        ("b", " ", "Mug"),
        ("c", "red mug", ""),
        ("d", "red", "Mug", "too much"),
        ("e", "red", "Pan"),
    ]
    file, out = write_csv(tmp_path / "pairs.csv", rows), tmp_path / "scored.parquet"
    with file.open("ab") as end:
        end.write(b"f,red mug,caf\xe9\n")
    main(["score", "--model", str(folder), "--input", str(file), "--output", str(out)])
    table = pq.read_table(out)
    assert (table["pair_id"].to_pylist(), table["row"].to_pylist()) == (["a", "e"], [2, 6])
    aside = [json.loads(line) for line in (tmp_path / "scored.rejected.jsonl").read_text().splitlines()]
    assert sorted((entry["line"], entry["column"], entry["problem"]) for entry in aside) == [
        (3, "query", "empty"),
        (4, "title", "empty"),
        (5, "", "4 fields where the header has 3"),
        (7, "title", "not UTF-8"),
    ]
    shown = capsys.readouterr().out
    assert "6 rows read = 2 scored + 4 set aside" in shown
    assert "set aside because title: empty: 1" in shown
    assert f"and {tmp_path / 'scored.rejected.jsonl'}" in shown
    with pytest.raises(UserError, match=r"pairs\.csv, line 5: 4 fields .*leave out `--on_error raise`"):
        score(model=folder, input=file, output=out, on_error="raise")
    assert pq.read_table(out).num_rows == 2, "what was there stays whole"
    write_csv(file, PAIRS[:2])
    score(model=folder, input=file, output=out)
    assert not (tmp_path / "scored.rejected.jsonl").exists(), "an old file of rejects would mislead"


def test_columns_of_other_names_and_a_file_without_ids(exported, tmp_path):
    _, folder = exported("mlp")
    file = write_csv(tmp_path / "mine.csv", [pair[1:] for pair in PAIRS], ("search_term", "product"))
    out = tmp_path / "scored.parquet"
    with pytest.raises(UserError, match=r"mine\.csv: lacks the column\(s\) query, title"):
        score(model=folder, input=file, output=out)
    score(model=folder, input=file, output=out, columns={"query": "search_term", "title": "product"})
    assert pq.read_table(out).column_names[:2] == ["row", "p/Exact"]
    with pytest.raises(UserError, match="columns: brand: this student reads query, title, pair_id"):
        score(model=folder, input=file, output=out, columns={"brand": "product"})


def test_what_cannot_be_done_is_said_first(exported, tmp_path):
    _, folder = exported("encoder")
    file = write_csv(tmp_path / "pairs.csv")
    with pytest.raises(UserError, match=r"let the name end in \.parquet"):
        score(model=folder, input=file, output=tmp_path / "scored.csv")
    with pytest.raises(UserError, match="holds a student without extractor"):
        score(model=folder, input=file, output=tmp_path / "scored.parquet", latents=True)
    pairs = write_parquet(tmp_path / "pairs.parquet")
    with pytest.raises(UserError, match="is read from, and would be overwritten"):
        score(model=folder, input=pairs, output=pairs)
    empty = write_csv(tmp_path / "empty.csv", [("a", "", "")])
    with pytest.raises(UserError, match=r"no pair is left of 1 rows: \{'query: empty': 1\}"):
        score(model=folder, input=empty, output=tmp_path / "scored.parquet")
    assert not (tmp_path / "scored.parquet").exists()


def test_a_clean_interpreter_scores_without_torch(exported, tmp_path):
    _, folder = exported("gat")
    file = write_csv(tmp_path / "pairs.csv")
    arguments = ["score", "--model", str(folder), "--input", str(file), "--output", str(tmp_path / "scored.parquet")]
    code = f"import sys; from lrkd.__main__ import main; main({arguments!r}); print(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    loaded = done.stdout.splitlines()[-1]
    assert "'onnxruntime'" in loaded
    assert not [name for name in ("torch", "lightning", "transformers") if f"'{name}'" in loaded]
    assert pq.read_table(tmp_path / "scored.parquet").num_rows == 24
