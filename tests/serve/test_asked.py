"""Items are checked one by one: a bad one names its field and fails alone (trap 44)."""

import pytest
from stand_in_scorer import StandInScorer

from lrkd.errors import UserError
from lrkd.serve.asked import ItemError, RequestReader
from lrkd.serve.limits import Limits
from lrkd.serve.refusals import Refused

LIMITS = Limits(items=3, characters=20, neighbours=2)
READER = RequestReader(LIMITS, StandInScorer().check, explains=True)
GOOD = {"query": "red mug", "title": "Mug"}


@pytest.mark.parametrize(
    ("wrong", "field", "said"),
    [
        ({"title": "Mug"}, "query", "expected text, got nothing"),
        ({"query": "red mug"}, "title", "expected text, got nothing"),
        ({"query": "red mug", "title": " "}, "title", "empty"),
        ({"query": None, "title": "Mug"}, "query", "wants a text, got nothing"),
        ({"query": ["red"], "title": "Mug"}, "query", "wants a text, got a list"),
        ({"query": "red mug", "title": 3}, "title", "wants a text, got a number"),
        ({"query": "red mug", "title": True}, "title", "wants a text, got true or false"),
        ({"query": "red mug", "title": {}}, "title", "wants a text, got an object"),
        ({"query": "red mug", "title": "Mug", "category": ["Home", 4]}, "category", "level 1: wants a text"),
        ({"query": "red mug", "title": "Mug", "titel": "Mug"}, None, "unknown field 'titel'"),
        ({"query": "red mug", "title": "m" * 21}, "title", "21 characters; at most 20"),
        ({"query": "red\x00 mug", "title": "Mug"}, "query", "U+0000 at character 3"),
        ({"query": "red mug", "title": "Mug\x1b[2J"}, "title", "U+001B at character 3"),
        ({"query": "red mug", "title": "a\ud83d b"}, "title", "U+D83D, at character 1"),
        ("red mug", None, "wants an object with a title, got a text"),
        (None, None, "got nothing"),
        ([], None, "got an empty list"),
    ],
)
def test_a_bad_item_fails_alone(wrong, field, said):
    asked = READER.score({"pairs": [GOOD, wrong, GOOD]})
    first, error, last = asked.items
    assert first == last == GOOD
    assert asked.pairs == [GOOD, GOOD]
    assert isinstance(error, ItemError)
    assert (error.field, error.ours) == (field, False)
    assert said in error.message


@pytest.mark.parametrize(
    ("body", "status", "where", "said"),
    [
        ([], 422, None, "wants an object with 'pairs', got an empty list"),
        ("pairs", 422, None, "got a text"),
        ({}, 422, "pairs", "got nothing"),
        ({"pairs": {}}, 422, "pairs", "got an object"),
        ({"pairs": []}, 422, "pairs", "got an empty list"),
        ({"pairs": [GOOD] * 4}, 413, "pairs", "4 items; at most 3"),
        ({"pairs": [GOOD], "explian": 1}, 422, None, "unknown key 'explian'"),
        ({"pairs": [GOOD], "explain": 3}, 422, "explain", "from 0 to 2"),
        ({"pairs": [GOOD], "explain": -1}, 422, "explain", "from 0 to 2"),
        ({"pairs": [GOOD], "explain": True}, 422, "explain", "whole number"),
        ({"pairs": [GOOD], "explain": 1.0}, 422, "explain", "whole number"),
    ],
)
def test_a_wrong_body_is_refused_whole(body, status, where, said):
    with pytest.raises(Refused, match=said) as refused:
        READER.score(body)
    assert (refused.value.status, refused.value.where) == (status, where)


@pytest.mark.parametrize(
    ("query", "said"),
    [
        (None, "got nothing"),
        (5, "got a number"),
        ("", "is empty"),
        (" \n", "is empty"),
        ("q" * 21, "at most 20"),
        ("\udc00", "U\\+DC00"),
    ],
)
def test_a_ranking_without_a_query_is_refused(query, said):
    with pytest.raises(Refused, match=said) as refused:
        READER.rank({"query": query, "items": [{"title": "Mug"}]})
    assert (refused.value.status, refused.value.where) == (422, "query")


def test_a_ranking_gives_every_item_the_query():
    asked = READER.rank(
        {"query": "red mug", "items": [{"title": "Mug", "category": ["Home", "Mugs"]}, {}], "explain": 2}
    )
    assert asked.pairs == [{"query": "red mug", "title": "Mug", "category": ["Home", "Mugs"]}]
    assert asked.explain == 2
    assert asked.items[1].field == "title"


def test_an_item_of_a_ranking_has_no_query_of_its_own():
    (error,) = READER.rank({"query": "red mug", "items": [GOOD]}).items
    assert "unknown field 'query'" in error.message


def test_white_space_and_accents_are_no_control_characters():
    pair = {"query": "tasse\t\nrot\r", "title": "Tasse ‘a’\x0b\x85 \u200b é"}
    assert READER.score({"pairs": [pair]}).pairs == [pair]


def test_explanations_are_refused_where_there_are_none():
    reader = RequestReader(LIMITS, StandInScorer().check, explains=False)
    with pytest.raises(Refused, match="no rationales"):
        reader.score({"pairs": [GOOD], "explain": 1})


def test_limits_that_make_no_sense_are_refused():
    with pytest.raises(UserError, match=r"--limits\.items 0"):
        Limits(items=0)
    with pytest.raises(UserError, match="could never be accepted"):
        Limits(items=10, waiting=9)
