"""The pages under docs/: what they link to exists, and what docs/extending.md shows runs."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from lrkd.__main__ import main

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


def test_extending_runs_as_it_stands(tmp_path, monkeypatch, capfd):
    """Blocks that begin with a file's name become that file; the others run in order, Python in one namespace."""
    page = ROOT / "docs" / "extending.md"
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    blocks = BLOCK.findall(page.read_text(encoding="utf-8"))
    assert {kind for kind, _ in blocks} == {"python", "yaml", "bash"}
    namespace = {"__name__": "docs.extending"}
    try:
        for kind, text in blocks:
            if name := FILE_NAME.match(text):
                file = tmp_path / name[1]
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
    for run in ("gated", "huber", "graded", "shallow"):
        assert (tmp_path / f"runs/try/{run}-seed0" / "run.json").is_file()
    shown = capfd.readouterr().out
    assert "passed" in shown
    assert "pass {'class_path': 'my_lab.gated.GatedExtractor'" in shown
