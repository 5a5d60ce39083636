"""What docs/server.md says is so; the commands of serving.md, latency.md and zero_to_served.md run."""

import csv
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import tomllib
from dataclasses import fields
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from conftest import ITEMS, QUERIES
from exported_students import make_run, make_student, root_that_agrees
from stand_in_scorer import StandInScorer, service_over

from lrkd.__main__ import main
from lrkd.data.pairs import write_table
from lrkd.data.types import RATIONALES_SCHEMA
from lrkd.serve.limits import Limits
from lrkd.serve.openapi import openapi

ROOT = Path(__file__).parents[2]
SERVER = (ROOT / "docs/server.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture
def service(tmp_path):
    service = service_over(StandInScorer(), tmp_path)
    yield service
    service.batcher.close()


def test_metrics_that_are_named_exist(service):
    service.metrics.request("score", 200, 0.1)
    shown = service.metrics.render().decode()
    named = set(re.findall(r"\b(lrkd_[a-z_]+)", SERVER))
    assert len(named) >= 12
    for name in named:
        assert re.search(rf"^{name}(\{{|_bucket|_sum|_total| )", shown, re.MULTILINE), name
    counted = set(re.findall(r"^(lrkd_\w+?)(?:_bucket|_sum|_count)?(?:\{| )", shown, re.MULTILINE))
    created = {name for name in counted if name.endswith("_created")}
    assert counted - created <= named, "and none is left out"


def test_files_for_prometheus_are_yaml_with_rules_of_known_metrics():
    files = {text.splitlines()[0]: yaml.safe_load(text) for kind, text in BLOCK.findall(SERVER) if kind == "yaml"}
    (scrape,) = files["# monitoring/prometheus.yml"]["scrape_configs"]
    assert scrape["static_configs"] == [{"targets": ["127.0.0.1:8080"]}]
    rules = files["# monitoring/alerts.yml"]["groups"][0]["rules"]
    assert len(rules) == 5
    assert all({"alert", "expr", "annotations"} <= set(rule) for rule in rules)
    assert all(rule["expr"].count("(") == rule["expr"].count(")") for rule in rules)


def test_limits_and_their_defaults_are_those_stated():
    stated = dict(re.findall(r"^\| `--limits\.(\w+)` \| ([\d,]+) \|", SERVER, re.MULTILINE))
    assert {name: float(value.replace(",", "")) for name, value in stated.items()} == {
        field.name: float(field.default) for field in fields(Limits)
    }


def test_places_and_statuses_are_those_of_the_api(service):
    document = openapi(service)
    stated = set(re.findall(r"`(?:GET|POST) (/\w*)`|`GET (/[\w.]+)`", SERVER.split("## Limits")[0]))
    assert set(document["paths"]) <= {one or other for one, other in stated}
    statuses = set(re.findall(r"^\| (\d{3}) \|", SERVER, re.MULTILINE))
    assert statuses | {"200", "500"} == set(document["paths"]["/score"]["post"]["responses"])


def test_extras_that_are_installed_exist():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    pages = SERVER + (ROOT / "docs/zero_to_served.md").read_text(encoding="utf-8")
    named = {name for group in re.findall(r"\.\[([\w,]+)\]", pages) for name in group.split(",")}
    assert {"serve"} <= named <= set(extras)


QUICK = ["--batches=1", "--lengths=8", "--threads=1", "--rounds=1", "--seconds=0.01", "--stream_pairs=12"]


class Walk:
    """Runs the page's commands in a folder, in order; what ``&`` sets going is ended by ``kill``."""

    def __init__(self, folder, port):
        self.folder, self.port = folder, port
        self.server = None
        self.answers = []

    def run(self, line):
        words = shlex.split(line.replace("8080", str(self.port)))
        if words[0] == "pip":
            return
        if words[0] == "kill":
            self.server.send_signal(signal.SIGTERM)
            assert self.server.wait(30) == 0
        elif words[0] == "curl":
            done = subprocess.run(words, capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"{line}: {done.stderr}"
            self.answers.append(done.stdout)
        elif words[-1] == "&":
            command = [sys.executable, *words[1:-1], "--port", str(self.port)]
            self.server = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(ROOT)})
        else:
            assert words[:3] == ["python", "-m", "lrkd"], line
            if words[3:5] == ["rationales", "embed"]:
                self.write_rationales()
            if words[3] == "bench":
                words += QUICK
            if words[-1] == "int8":
                words += ["--max_drop=0.2"]  # of 24 pairs one label is four points or more
            main(words[3:])

    def write_rationales(self):
        """What the page leaves to a teacher."""
        pairs = pq.read_table(self.folder / "data/mine/pairs.parquet").to_pylist()
        made = [
            {"perspective": name, "sample": 0, "pair_id": p["pair_id"], "verdict": p["label"]}
            | {"rationale": f"{name}: about {p['title']}."}
            for p in pairs
            for name in ("business_rule", "user_intent")
        ]
        table = pa.Table.from_pylist(made, RATIONALES_SCHEMA)
        write_table(table, self.folder / "data/mine/rationales.parquet", RATIONALES_SCHEMA)


@pytest.fixture
def walk(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    walk = Walk(tmp_path, port)
    yield walk
    if walk.server is not None:
        walk.server.kill()
        walk.server.wait()


@pytest.mark.slow
def test_commands_of_serving_and_latency_run(walk, tiny_encoder, tiny_root):
    root = Path("runs/quickstart/data")
    student = make_student(tiny_encoder, "mlp")
    root_that_agrees(root, tiny_root, student, walk.folder / "cache")
    make_run(Path("runs/quickstart/lrkd_mlp-seed0"), student, root, walk.folder / "cache")
    for name in ("serving.md", "latency.md"):
        blocks = BLOCK.findall((ROOT / "docs" / name).read_text(encoding="utf-8"))
        assert len(blocks) >= 2
        for kind, text in blocks:
            if kind == "python":
                exec(compile(text, name, "exec"), {})
            else:
                for line in text.splitlines():
                    walk.run(line)
    assert pq.read_table("runs/quickstart/scored.parquet").num_rows == len(ITEMS)
    assert Path("runs/quickstart/bench_against/bench.png").is_file()


@pytest.mark.slow
def test_the_walk_from_a_csv_file_to_a_served_model(walk, capsys):
    with Path("my_pairs.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["search_term", "product_name", "grade"])
        writer.writerows([QUERIES[n // 3], title, label] for n, (title, label) in enumerate(ITEMS))
    page = (ROOT / "docs/zero_to_served.md").read_text(encoding="utf-8").replace("8080", str(walk.port))
    blocks = [block for block in BLOCK.findall(page) if block[0] != "text"]
    assert sum(kind == "bash" for kind, _ in blocks) >= 7
    for kind, text in blocks:
        if kind == "python":
            capsys.readouterr()
            exec(compile(text, "zero_to_served.md", "exec"), {})
            assert len(capsys.readouterr().out.splitlines()) == 2
        else:
            for line in text.splitlines():
                walk.run(line)
    ready, ranked, scored, metrics = walk.answers
    assert json.loads(ready) == {"status": "ready"}
    gains = [result["gain"] for result in json.loads(ranked)["results"]]
    assert gains == sorted(gains, reverse=True)
    (explained,) = json.loads(scored)["results"]
    assert {e["perspective"] for e in explained["explanations"]} == {"business_rule", "user_intent"}
    assert 'lrkd_items_total{outcome="scored"} 5.0' in metrics
    assert walk.server.returncode == 0
    assert pq.read_table("runs/scores.parquet").num_rows == len(ITEMS)
