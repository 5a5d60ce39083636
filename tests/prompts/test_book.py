import pytest
import yaml

from lrkd.data.types import LABEL_SETS
from lrkd.errors import UserError
from lrkd.prompts import Perspective, PromptBook

BOOK = {
    "name": "mine",
    "system": "",
    "pair": "{labels}\nQ: {query}\nP: {item}",
    "labels": {"Good": "fits.", "Bad": "does not."},
    "perspectives": [
        {"name": "price", "instruction": "Judge by price."},
        {
            "name": "colour",
            "instruction": "Judge by colour.",
            "examples": [{"query": "red mug", "item": "blue mug", "rationale": "Blue is not red.", "verdict": "Bad"}],
        },
    ],
    "neutral": {"name": "neutral", "instruction": "Judge."},
}


def book(tmp_path, **changes):
    path = tmp_path / "book.yaml"
    path.write_text(yaml.safe_dump(BOOK | changes, sort_keys=False))
    return PromptBook.load(str(path))


def test_the_shipped_book_has_the_papers_three_perspectives_and_escis_labels():
    shipped = PromptBook.load("esci")
    assert [p.name for p in shipped.perspectives] == ["user_intent", "structured_analysis", "business_rule"]
    shipped.check_labels(LABEL_SETS["esci"])
    with pytest.raises(UserError, match="wands"):
        shipped.check_labels(LABEL_SETS["wands"])


def test_a_prompt_word_by_word(tmp_path):
    prompt = book(tmp_path).render("red mug", "Red cup", "colour")
    assert prompt.system == ""
    assert prompt.user == (
        "- Good: fits.\n- Bad: does not.\nQ: red mug\nP: Red cup\n\n"
        "Judge by colour.\n\n"
        "Example query: red mug\nExample product: blue mug\nBlue is not red.\nVerdict: Bad\n\n"
        'End with the line "Verdict: LABEL", where LABEL is one of: Good, Bad.'
    )


def test_a_pairs_prompts_begin_alike_and_hold_no_label_of_the_pair(tmp_path):  # trap 16: rendering takes no label
    made = book(tmp_path)
    prompts = [made.render("q", "i", p.name) for p in made.every]
    assert len({p.shared for p in prompts}) == 1
    assert all(p.user.startswith(p.shared) for p in prompts)


def test_braces_in_texts_stay(tmp_path):
    assert "Q: {query} {0}" in book(tmp_path).render("{query} {0}", "i", "price").user


def test_a_fourth_perspective_is_yaml_only(tmp_path):
    more = [*BOOK["perspectives"], {"name": "season", "instruction": "Judge by season."}]
    assert "Judge by season." in book(tmp_path, perspectives=more).render("q", "i", "season").own


@pytest.mark.parametrize(
    "change",
    [
        {"system": "x"},
        {"answer": "Label: {verdict}"},
        {"neutral": {"name": "neutral", "instruction": "Judge!"}},
        {"labels": {"Good": "fits well.", "Bad": "does not."}},
        {"labels": {"Bad": "does not.", "Good": "fits."}},
    ],
)
def test_any_change_of_words_is_another_version(tmp_path, change):
    first = book(tmp_path).version
    assert first.startswith("mine@")
    assert book(tmp_path).version == first
    assert book(tmp_path, **change).version != first


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pair": "{query} {item}"}, "labels"),
        ({"pair": "{labels} {query} {item} {gold}"}, "gold"),
        ({"answer": "Verdict: {verdict}!"}, "ends in"),
        ({"perspectives": []}, "no perspective"),
        ({"perspectives": [BOOK["perspectives"][0]] * 2}, "price"),
        ({"perspectives": [{"name": "neutral", "instruction": "x"}]}, "neutral"),
        ({"labels": {"Good": "fits.", "Poor": "does not."}}, "Bad"),
        ({"perspectives": [{"name": "price", "instructions": "x"}]}, "instruction"),
        ({"colour": 1}, "colour"),
    ],
)
def test_mistakes_are_named(tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        book(tmp_path, **change)


def test_no_such_book_and_no_such_perspective(tmp_path):
    with pytest.raises(UserError, match="nowhere"):
        PromptBook.load("nowhere")
    with pytest.raises(UserError, match="price"):
        book(tmp_path).render("q", "i", "prize")
    (tmp_path / "broken.yaml").write_text("name: [")
    with pytest.raises(UserError, match=r"broken\.yaml"):
        PromptBook.load(str(tmp_path / "broken.yaml"))
    assert book(tmp_path).perspective("price") == Perspective("price", "Judge by price.")


def test_a_book_survives_json(tmp_path):
    made = book(tmp_path)
    again = PromptBook.from_json(made.to_json())
    assert again == made
    assert again.version == made.version
    for wrong in ("", "[]", "{}", made.to_json().replace('"system"', '"sistem"')):
        with pytest.raises(UserError, match="to_json"):
            PromptBook.from_json(wrong)
