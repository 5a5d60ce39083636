"""The pages in a real headless Chromium: `make test` sees to one (tests/chromium.sh).

LRKD_SCREENSHOTS=docs/images makes the test of how it looks write its pictures there.
"""

import os
import shutil
from pathlib import Path

import pytest
from serving import serving
from stand_in_scorer import EXAMPLES, UNIT_LATENTS, StandInIndex, StandInScorer, service_over

from lrkd.serve.limits import Limits

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
SECONDS = 20

CONTRASTS = """() => {
  const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
  const channels = (colour) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const linear = (c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  const luminance = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !element.checkVisibility()) continue;
    let behind = element;
    while (behind && channels(getComputedStyle(behind).backgroundColor)[3] < 255) behind = behind.parentElement;
    const [a, b] = [getComputedStyle(element).color, getComputedStyle(behind ?? document.body).backgroundColor]
      .map((colour) => luminance(channels(colour))).sort((x, y) => y - x);
    found.push([walker.currentNode.data.trim(), (a + 0.05) / (b + 0.05)]);
  }
  return found;
}"""
"""WCAG's contrast of every visible text with what is behind it."""


def none_to_be_had(reason):
    """In CI the page is tested or the run fails."""
    (pytest.fail if os.environ.get("CI") else pytest.skip)(f"THE PAGE IS NOT TESTED: {reason}; see tests/chromium.sh")


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api", reason="THE PAGE IS NOT TESTED: pip install playwright")
    path = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    with api.sync_playwright() as playwright:
        if path is None and not Path(playwright.chromium.executable_path).exists():
            none_to_be_had("no Chromium is installed")
        sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=path, args=sandbox)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser, tmp_path):
    """Serves a stand-in and opens a page of it, which must not complain, nor load anything from elsewhere."""
    closing, pages = [], []

    def start(path="/", *, scorer=None, index=None, limits=None, api_key=None, expected=(), **context):
        scorer = scorer or StandInScorer(latents=UNIT_LATENTS)
        service = service_over(scorer, tmp_path, index=index, limits=limits, api_key=api_key)
        closing.append(serving(service))
        served = closing[-1].__enter__()
        page = browser.new_context(**context).new_page()
        page.set_default_timeout(SECONDS * 1000)
        complaints, asked = [], []
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        pages.append((page, served, complaints, asked, expected))
        page.goto(served.url + path, wait_until="networkidle")
        return page

    yield start
    for page, served, complaints, asked, expected in pages:
        page.context.close()
        assert all(url.startswith(served.url) for url in asked)
        assert all(any(text in complaint for text in expected) for complaint in complaints), complaints
    for one in closing:
        one.__exit__(None, None, None)


def rank(page, query, items):
    page.get_by_label("Query").fill(query)
    page.get_by_label("Items, one a line").fill("\n".join(items))
    page.keyboard.press("Control+Enter")
    page.get_by_role("status").filter(has_text="ranked in").wait_for()
    return page.get_by_role("region", name="Ranked items").locator("ol > li")


def test_typed_items_are_ranked(open_page):
    cards = rank(open_page(), "red mug", ["Tea towel", "", "  Blue mug ", "Red mug"])
    assert cards.locator("h2").all_inner_texts() == ["Red mug", "Blue mug", "Tea towel"]
    first = cards.nth(0)
    assert first.locator(".gain b").inner_text() == "0.71"
    assert [item.inner_text().split("\n") for item in first.get_by_role("listitem").all()] == [
        [label, f"{percent} %"]
        for label, percent in (("Exact", 70), ("Substitute", 10), ("Complement", 10), ("Irrelevant", 10))
    ]
    widths = first.locator(".bar").evaluate_all("bars => bars.map(b => b.clientWidth / b.parentElement.clientWidth)")
    assert widths == pytest.approx([0.7, 0.1, 0.1, 0.1], abs=0.02)
    assert [item.inner_text().split("\n")[0] for item in cards.locator(".top-label").all()] == [
        "Exact",
        "Complement",
        "Irrelevant",
    ]


def test_texts_stay_texts(open_page):
    title = "<img src=x onerror=\"document.title='taken'\"> red <b>mug</b>"
    page = open_page()
    cards = rank(page, "red <i>mug</i>", [title])
    assert cards.locator("h2").inner_text() == title
    assert page.title() == "lrkd: rank items for a query"


def test_all_can_be_done_from_the_keyboard(open_page):
    page = open_page(index=StandInIndex())
    places = []
    for _ in range(5):
        places.append(page.evaluate("document.activeElement.id || document.activeElement.textContent"))
        page.keyboard.press("Tab")
    assert places == ["query", "items", EXAMPLES[0]["query"], "explain", "rank"]
    page.get_by_role("button", name=EXAMPLES[0]["query"]).focus()
    page.keyboard.press("Enter")
    page.get_by_role("status").filter(has_text="3 items ranked in").wait_for()
    assert page.get_by_label("Query").input_value() == "red mug"
    second = page.locator("details").nth(1)
    assert not second.evaluate("one => one.open")
    second.locator("summary").focus()
    page.keyboard.press("Enter")
    assert second.evaluate("one => one.open")
    outline = second.locator("summary").evaluate("one => getComputedStyle(one).outlineStyle")
    assert outline == "solid", "where the focus is can be seen"


def test_scores_come_with_rationales_that_say_what_they_are(open_page):
    cards = rank(open_page(index=StandInIndex()), "red mug", ["Red mug", "Blue mug"])
    first = cards.nth(0).locator("details")
    shown = first.inner_text()
    assert "each is about another pair, and none is the model's own reason" in shown
    assert [e.inner_text().split("\n")[0] for e in first.locator("article h3").all()] == [
        "business rule",
        "user intent",
    ]
    assert "A green kettle is asked for and sold." in shown
    assert "about “green kettle” and “Kettle, green, 1.7 l”, labelled Exact" in shown


def test_without_rationales_none_are_offered(open_page):
    page = open_page()
    assert not page.get_by_label("with rationales").is_visible()
    assert rank(page, "red mug", ["Red mug"]).locator("details").count() == 0


def test_a_bad_item_and_a_refusal_say_why(open_page):
    page = open_page(limits=Limits(items=2, characters=20), expected=["413"])
    cards = rank(page, "red mug", ["m" * 21, "Red mug"])
    assert "Not scored. title: 21 characters; at most 20" in cards.nth(1).inner_text()
    assert "1 item ranked" in page.get_by_role("status").inner_text()
    page.get_by_label("Items, one a line").fill("a\nb\nc")
    page.get_by_role("button", name="Rank").click()
    page.get_by_role("status").filter(has_text="items: 3 items; at most 2 a request").wait_for()
    assert cards.count() == 0


def test_a_server_with_a_key_asks_for_it(open_page):
    page = open_page(api_key="a key of 16 characters", expected=["401"])
    assert "wants a key" in page.get_by_role("status").inner_text()
    page.get_by_label("Key of this server").fill("a key of 16 characters")
    cards = rank(page, "red mug", ["Red mug"])
    assert cards.count() == 1
    assert "stand_in" in page.locator("#model").inner_text()


def test_items_of_several_fields_are_pasted_with_tabs(open_page):
    scorer = StandInScorer(item_text="{title} {brand}", latents=UNIT_LATENTS)
    page = open_page(scorer=scorer)
    assert "title, brand" in page.locator("#columns").inner_text()
    cards = rank(page, "red mug", ["Mug\tRed Ltd", "Mug"])
    assert cards.nth(0).locator("h2").inner_text() == "Mug"
    assert "Red Ltd" in cards.nth(0).inner_text()
    assert cards.nth(0).locator(".top-label").inner_text().startswith("Exact")


def test_cut_tokens_are_told(open_page):
    cards = rank(open_page(), "red mug", ["red mug " * 10])
    assert "6 tokens were not read: the model reads 16 of a pair." in cards.nth(0).inner_text()


LOOKS = {
    "server_light": {"color_scheme": "light", "viewport": {"width": 1120, "height": 760}},
    "server_dark": {"color_scheme": "dark", "viewport": {"width": 1120, "height": 760}},
    "server_narrow": {"color_scheme": "light", "viewport": {"width": 390, "height": 844}},
}


@pytest.mark.parametrize("name", LOOKS)
def test_it_can_be_read_in_light_and_dark_and_on_a_telephone(open_page, tmp_path, name):
    page = open_page(index=StandInIndex(), **LOOKS[name])
    rank(page, "red mug", ["Red mug, 350 ml, stoneware", "Mug, blue", "Tea towel, red", "Floor lamp"])
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, background[4:-1].split(","))) < 200) == ("dark" in name)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing sticks out"
    contrasts = page.evaluate(CONTRASTS)
    assert len(contrasts) > 30
    assert not [(text, round(contrast, 2)) for text, contrast in contrasts if contrast < 4.5]
    folder = Path(os.environ.get("LRKD_SCREENSHOTS", tmp_path))
    page.screenshot(path=folder / f"{name}.png")
    assert (folder / f"{name}.png").stat().st_size > 10_000


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_of_the_api_is_drawn_from_its_document(open_page, scheme, tmp_path):
    page = open_page("/docs", color_scheme=scheme, viewport={"width": 900, "height": 900})
    page.get_by_role("heading", name="POST /score").wait_for()
    for name in ("GET /ready", "Result"):
        assert page.get_by_role("heading", name=name, exact=True).is_visible()
    assert "curl http://127.0.0.1" in page.locator("pre").nth(0).inner_text()
    assert '"title": "Mug, red"' in page.locator("pre").nth(0).inner_text()
    assert not [(text, contrast) for text, contrast in page.evaluate(CONTRASTS) if contrast < 4.5]
    page.screenshot(path=tmp_path / f"api_{scheme}.png", full_page=True)
