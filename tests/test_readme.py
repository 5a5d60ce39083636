"""What the README shows runs as it stands (trap 42)."""

import csv
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import ITEMS, QUERIES

from lrkd.data.pairs import write_table
from lrkd.data.types import RATIONALES_SCHEMA

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language, section):
    text = README.split(f"## {section}\n")[1].split("\n## ")[0]
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


@pytest.fixture
def place(tmp_path):
    """A folder with the configs, a CSV file of labelled pairs, and rationales for the root that it becomes."""
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    with (tmp_path / "my_pairs.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["search_term", "product_name", "grade"])
        writer.writerows([QUERIES[n // 3], title, label] for n, (title, label) in enumerate(ITEMS))
    return tmp_path


def run(command, place):
    args = shlex.split(command)
    assert args[:3] == ["python", "-m", "lrkd"], command
    done = subprocess.run([sys.executable, *args[1:]], cwd=place, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout[-1000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def test_own_data_commands_run(place):
    commands = "".join(blocks("bash", "Your own data")).splitlines()
    assert len(commands) >= 9
    for command in commands:
        if "rationales embed" in command:
            pairs = pq.read_table(place / "data/mine/pairs.parquet").to_pylist()
            fixed = {"perspective": "user_intent", "sample": 0}
            made = [
                fixed | {"pair_id": p["pair_id"], "rationale": f"About {p['title']}.", "verdict": p["label"]}
                for p in pairs
            ]
            table = pa.Table.from_pylist(made, RATIONALES_SCHEMA)
            write_table(table, place / "data/mine/rationales.parquet", RATIONALES_SCHEMA)
        shown = run(command, place)
    assert "majority" in shown
    assert (place / "runs/compare/compare.png").stat().st_size > 1000


def test_own_extractor_passes_the_contract(tmp_path, monkeypatch):
    (code,) = blocks("python", "Your own extractor")
    (tmp_path / "my_lab").mkdir()
    (tmp_path / "my_lab" / "gated.py").write_text(code)
    (tmp_path / "test_gated.py").write_text(
        "from lrkd.testing import ExtractorContract\nfrom my_lab.gated import GatedExtractor\n\n\n"
        "class TestGated(ExtractorContract):\n    factory = GatedExtractor\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "test_gated.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:]
    assert re.search(r"\d+ passed", done.stdout)


def test_make_targets_that_are_named_exist():
    makefile = (ROOT / "Makefile").read_text()
    named = set(re.findall(r"(?:`|^)make ([a-z-]+)", README + (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE))
    assert {"quickstart", "test"} <= named
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in named), named
