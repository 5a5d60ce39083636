"""How a comparison looks: sections, cells, the page, the plots."""

import base64
import re
import struct
from html.parser import HTMLParser

import pytest
from finished_runs import write_run
from matplotlib.figure import Figure
from matplotlib.image import imread

from lrkd.errors import UserError
from lrkd.evaluate.compare import compare
from lrkd.evaluate.compare.blocks import Points, Section, Table, Warn, markdown
from lrkd.evaluate.compare.bootstrap import Interval
from lrkd.evaluate.compare.cost_plot import side_by_side
from lrkd.evaluate.compare.curves import mean_curve, read_curve
from lrkd.evaluate.compare.estimates import Estimate
from lrkd.evaluate.compare.page import page
from lrkd.evaluate.compare.table_cells import cell, ends

SECTIONS = (
    "Difference to lrkd",
    "F1 by label",
    "Quality and cost",
    "Slices",
    "Certainty and confusion",
    "Learning curves",
    "Runs",
    "How to read this",
)
PLOTS = ("labels", "cost", "reliability", "confusion", "curves")


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """The folder of a report on a method with an awkward name, over three seeds, and on another."""
    folder = tmp_path_factory.mktemp("runs")
    for seed, answers in enumerate(["EEOO", "EOOO", "E?OO"]):
        write_run(folder / f"a{seed}", "a $name$ | [bold] <b>", answers, seed=seed)
    for seed in range(3):
        write_run(folder / f"b{seed}", "lrkd", "EEEO", seed=seed)
    compare(runs=str(folder / "[ab]*"), baseline="lrkd", out=folder / "out", resamples=100)
    return folder / "out"


class Page(HTMLParser):
    """Checks that tags are closed in order, and gathers what the page refers to."""

    def __init__(self):
        super().__init__()
        self.open, self.refers, self.titles, self.tags = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.refers += [value for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("h2", "h3"):
            self.titles.append(data)


def test_the_page_needs_nothing_else(report):
    text = (report / "compare.html").read_text(encoding="utf-8")
    found = Page()
    found.feed(text)
    assert not found.open, "every tag is closed"
    pictures = [reference for reference in found.refers if not reference.startswith("#")]
    assert len(pictures) == 1 + len(PLOTS)
    for picture in pictures:
        kind, _, data = picture.partition(",")
        assert kind == "data:image/png;base64"
        assert base64.b64decode(data).startswith(b"\x89PNG")
    assert not re.search(r"https?:|url\(|@import", text)
    assert not {"script", "link", "iframe"} & set(found.tags)
    assert "prefers-color-scheme: dark" in text
    anchors = {f"#{name}" for name in re.findall(r'id="([^"]+)"', text)}
    assert {reference for reference in found.refers if reference.startswith("#")} <= anchors
    assert [title for title in found.titles if title in SECTIONS] == list(SECTIONS)
    assert "a $name$ | [bold] &lt;b&gt;" in text
    assert "<b>" not in text


def test_markdown_has_all_sections_and_its_pictures_are_there(report):
    text = (report / "compare.md").read_text(encoding="utf-8")
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == list(SECTIONS)
    assert r"| a $name$ \| [bold] <b> | 3 |" in text
    pictures = re.findall(r"^!\[.*\]\((.+?)\)$", text, re.MULTILINE)  # alt texts may hold brackets
    assert pictures == ["compare.png", *(f"plots/{name}.png" for name in PLOTS)]
    assert all((report / picture).is_file() for picture in pictures)
    assert "100 resamples (seed 0)" in text
    assert "Slices are drawn 100 times." in text


@pytest.mark.parametrize("picture", ["compare", *(f"plots/{name}" for name in PLOTS)])
def test_plots_are_pngs_of_some_size_and_not_blank(report, picture):
    file = report / f"{picture}.png"
    width, height = struct.unpack(">II", file.read_bytes()[16:24])
    assert width > 500
    assert height > 300
    assert len({tuple(pixel) for pixel in imread(file).reshape(-1, 4)[::7]}) > 20


def test_without_baseline_or_curves_their_sections_are_left_out(tmp_path, capsys):
    write_run(tmp_path / "a", "a", "EOOO", curve=())
    (tmp_path / "a" / "metrics.csv").unlink()
    compare(runs=str(tmp_path / "a"), out=tmp_path / "out", resamples=100)
    text = (tmp_path / "out" / "compare.md").read_text(encoding="utf-8")
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == [s for s in SECTIONS if s not in (SECTIONS[0], SECTIONS[5])]
    assert f"no learning curve of {tmp_path / 'a'}" in capsys.readouterr().out
    assert not (tmp_path / "out/plots/curves.png").exists()


def test_cells():
    estimate = Estimate(0.1234, 0.0567, Interval(0.05, 0.2))
    assert cell("macro_f1", estimate) == "0.123 ± 0.057\n[0.050, 0.200]"
    assert cell("macro_f1", estimate, signed=True) == "+0.123 ± 0.057\n[+0.050, +0.200]"
    assert cell("macro_f1", Estimate(-0.0001, None), signed=True) == "+0.000 ± –"
    assert cell("macro_f1", Estimate(float("nan"), None)) == "undefined"
    assert cell("macro_f1", None) == "–"
    assert cell("parameters", Estimate(2_500_000, 0.0)) == "2.50 M"
    assert cell("seconds", Estimate(12.34, 1.0)) == "12.3 ± 1.0"
    assert ends(Interval(-0.1, 0.25), signed=True) == "[-0.100, +0.250]"


def test_blocks_in_both_forms(tmp_path):
    table = Table(["a", "b"], [["x | y", "1\n[0, 2]"]], "Caption")
    section = Section("Top", ["Text & <more>.", Warn("Look out")], [Section("Part", [table, Points(["one", "two"])])])
    assert markdown(section) == (
        "# Top\n\nText & <more>.\n\n> **Warning:** Look out\n\n## Part\n\nCaption\n\n"
        "| a | b |\n| --- | ---: |\n| x \\| y | 1 [0, 2] |\n\n- one\n- two\n"
    )
    html = page(section, tmp_path)
    assert "<p>Text &amp; &lt;more&gt;.</p>" in html
    assert "<td>1<br><small>[0, 2]</small></td>" in html
    assert "<ul><li>one</li><li>two</li></ul>" in html


def test_curves(tmp_path):
    file = tmp_path / "metrics.csv"
    file.write_text("epoch,step,train/loss,val/macro_f1\n0,4,1.5,\n0,9,,0.2\n0,9,,0.25\n1,19,,0.3\n,0,,\n")
    assert read_curve(tmp_path) == {1: 0.25, 2: 0.3}
    assert mean_curve([{1: 0.2, 2: 0.4}, {1: 0.4, 2: 0.6, 3: 0.9}]) == {1: pytest.approx(0.3), 2: pytest.approx(0.5)}
    assert read_curve(tmp_path / "nowhere") == {}
    file.write_text("epoch,val/macro_f1\n0,high\n")
    with pytest.raises(UserError, match=r"metrics.csv, column 'val/macro_f1': .*'high'"):
        read_curve(tmp_path)


def test_dots_of_one_cost_stand_side_by_side():
    axis = Figure().subplots()
    axis.set_xlim(0, 100)
    assert side_by_side(axis, [50, 90, 50, 50.5]) == pytest.approx([50 + 1 / 6 - 2, 90, 50 + 1 / 6, 50 + 1 / 6 + 2])
