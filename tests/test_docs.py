"""The pages under docs/: what they link to exists, and what extending.md, extractors.md and teacher.md show runs."""

import inspect
import os
import re
import shlex
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import yaml

from lrkd import extractors
from lrkd.__main__ import STAGES, main
from lrkd.extractors import Extractor
from lrkd.hparams import component_factory
from lrkd.prompts import PromptBook

ROOT = Path(__file__).parents[1]
PAGES = [page for page in (*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md") if page.is_file()]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE_NAME = re.compile(r"# ([\w/]+\.\w+)\n")
LINK = re.compile(r"\[[^]]*]\(([^)\s]+)\)")


def slug(heading):
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def test_there_are_pages():
    assert len(PAGES) >= 6


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    broken = []
    for target in LINK.findall(text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path) if path else page
        if not file.exists():
            broken.append(target)
        elif anchor and file.suffix == ".md":
            headings = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            if anchor not in map(slug, headings):
                broken.append(target)
    assert not broken


def run_command(line):
    words = shlex.split(line)
    assert words[:2] == ["python", "-m"], f"not a command that this test can run: {line}"
    if words[2] == "lrkd":
        main(words[3:])
    else:
        subprocess.run([sys.executable, *words[1:]], check=True, env=os.environ | {"PYTHONPATH": "."})


def run_page(name, folder, monkeypatch, section=None):
    """Blocks that begin with a file's name become that file; the others run in order, Python in one namespace."""
    page = ROOT / "docs" / name
    text = page.read_text(encoding="utf-8")
    if section is not None:
        text = text.split(f"\n## {section}\n")[1].split("\n## ")[0]
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    (folder / "configs").symlink_to(ROOT / "configs")
    blocks = [block for block in BLOCK.findall(text) if block[0] not in ("math", "text")]
    assert {kind for kind, _ in blocks} >= {"yaml", "bash"}
    namespace = {"__name__": f"docs.{page.stem}"}
    try:
        for kind, text in blocks:
            if name := FILE_NAME.match(text):
                file = folder / name[1]
                file.parent.mkdir(exist_ok=True)
                file.write_text(text, encoding="utf-8")
            elif kind == "python":
                exec(compile(text, page.name, "exec"), namespace)
            else:
                assert kind == "bash", f"a block of {kind} that is no file: {text}"
                for line in text.splitlines():
                    run_command(line)
    finally:
        for module in [name for name in sys.modules if name.partition(".")[0] == "my_lab"]:
            del sys.modules[module]


def test_extending_runs_as_it_stands(tmp_path, monkeypatch, capfd):
    run_page("extending.md", tmp_path, monkeypatch)
    for run in ("gated", "huber", "graded", "shallow"):
        assert (tmp_path / f"runs/try/{run}-seed0" / "run.json").is_file()
    shown = capfd.readouterr().out
    assert "passed" in shown
    assert "pass {'class_path': 'my_lab.gated.GatedExtractor'" in shown


def test_extractors_runs_as_it_stands(tiny_root, tiny_targets, tmp_path, monkeypatch, capfd):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/mine").symlink_to(tiny_root)
    (tmp_path / "data/targets").symlink_to(tiny_targets)
    run_page("extractors.md", tmp_path, monkeypatch)
    config = (tmp_path / "runs/query_graph-seed0/config.yaml").read_text()
    assert "class_path: my_lab.graphs.QueryGraph" in config
    assert "most: 6" in config
    shown = capfd.readouterr().out
    assert "business rule: " in shown, "the latents bear the perspectives' names"
    assert (tmp_path / "runs/attention.png").stat().st_size > 10_000
    assert (tmp_path / "runs/red_mug.png").stat().st_size > 10_000


def test_overlays_of_extractors_parse(tmp_path):
    """The graph that is only shown, not trained."""
    blocks = BLOCK.findall((ROOT / "docs/extractors.md").read_text(encoding="utf-8"))
    (text,) = [text for kind, text in blocks if kind == "yaml" and "similar.yaml" in text]
    spec = yaml.safe_load(text)["model"]["init_args"]["extractor"]
    extractor = component_factory(spec, Extractor, "extractor")(hidden_size=8, target_size=4, num_perspectives=1)
    assert [type(graph).__name__ for graph in extractor.graph.graphs] == ["WindowGraph", "SimilarityGraph"]
    assert (extractor.graph.graphs[0].radius, extractor.graph.graphs[1].neighbours) == (1, 3)


def test_parameters_that_extractors_states_are_right():
    text = (ROOT / "docs/extractors.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| [^|]+ \| ([\d,]+) \| ([\d,]+) \|$", text, re.MULTILINE)
    assert len(rows) == 4
    for name, first, further in rows:
        one, two = (sum(p.numel() for p in getattr(extractors, name)(384, 384, n).parameters()) for n in (1, 2))
        assert (f"{one:,}", f"{two - one:,}") == (first, further), name


def test_explaining_runs_as_it_stands(small_run, tmp_path, monkeypatch, capsys):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/lrkd_mlp-seed0").symlink_to(small_run)
    (tmp_path / "my_pairs.csv").write_text("query,title,label\nred mug,Blue mug,Substitute\nlamp,Desk lamp,\n")
    monkeypatch.chdir(tmp_path)
    blocks = BLOCK.findall((ROOT / "docs/explaining.md").read_text(encoding="utf-8"))
    for kind, text in blocks:
        if kind == "python":
            exec(compile(text, "explaining.md", "exec"), {})
        for line in text.splitlines() if kind == "bash" else ():
            if "lrkd probe" not in line:  # tests/evaluate/probe/test_probe.py runs it on smaller folds
                run_command(line)
    assert (tmp_path / "runs/explained.parquet").is_file()
    assert (small_run / "test_explanations.json").is_file()
    assert re.search(r"^business_rule \w+ business_rule on q", capsys.readouterr().out, re.MULTILINE), (
        "printed by Python"
    )


@pytest.mark.slow
def test_teachers_worked_example_runs(tmp_path, monkeypatch):
    run_page("teacher.md", tmp_path, monkeypatch, "A worked example")
    made = tmp_path / "runs/teacher"
    assert all((made / run / "run.json").is_file() for run in ("sft-seed0", "dpo-seed0"))
    assert (made / "targets" / "fingerprint.json").is_file()


@pytest.mark.slow
def test_the_ablation_that_is_shown_runs(tmp_path, monkeypatch, capfd):
    run_page("ablations.md", tmp_path, monkeypatch, "The file")
    runs = tmp_path / "runs/my_ablation"
    assert {folder.parent.name for folder in runs.glob("*/test_metrics.json")} == {
        f"{row}-fold0-seed0" for row in ("encoder", "votes_of_shoppers", "distilled")
    }
    assert "| distilled | 1 |" in (runs / "compare/compare.md").read_text()
    assert "to do     runs/my_ablation/distilled-fold0-seed0" in capfd.readouterr().out


@pytest.mark.parametrize("page", ["teacher.md", "dpo.md", "ablations.md", "compare.md", "explaining.md"])
def test_stage_commands_have_the_options_that_are_shown(page):
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    shown = [shlex.split(line)[3:] for line in re.findall(r"^ *(python -m lrkd .+?)(?: &)?$", text, re.MULTILINE)]
    named = [(next((n for n in (" ".join(words[:2]), words[0]) if n in STAGES), None), words) for words in shown]
    stages = [(name, words) for name, words in named if name is not None]
    assert len(stages) >= 2
    for name, words in stages:
        module, _, function = STAGES[name][0].partition(":")
        known = inspect.signature(getattr(import_module(module), function)).parameters
        options = {word.removeprefix("--") for word in words if word.startswith("--")}
        assert options <= set(known), words


def test_the_fourth_perspective_is_one(tmp_path):
    blocks = BLOCK.findall((ROOT / "docs/teacher.md").read_text(encoding="utf-8"))
    (entry,) = [text for kind, text in blocks if kind == "yaml" and "- name: value" in text]
    shipped = (ROOT / "lrkd/prompts/esci.yaml").read_text(encoding="utf-8")
    (tmp_path / "four.yaml").write_text(shipped.replace("neutral:\n", f"{entry}neutral:\n", 1), encoding="utf-8")
    book = PromptBook.load(str(tmp_path / "four.yaml"))
    assert [p.name for p in book.perspectives] == ["user_intent", "structured_analysis", "business_rule", "value"]
    assert "Verdict: Substitute" in book.render("a", "b", "value").own


def test_the_version_that_teacher_states_is_the_shipped_books():
    assert f"`{PromptBook.load('esci').version}`" in (ROOT / "docs/teacher.md").read_text(encoding="utf-8")
