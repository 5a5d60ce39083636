"""The vocabulary: label sets, the item's text and when two queries are the same."""

from __future__ import annotations

import json

import pytest

from lrkd.data.types import LABEL_SETS, ItemText, LabelSet, normalise_query
from lrkd.errors import UserError


def test_escis_gains_are_those_of_its_ranking_task():  # trap 35
    esci = LabelSet.load("esci")
    assert dict(zip(esci.labels, esci.gains, strict=True)) == {
        "Exact": 1.0, "Substitute": 0.1, "Complement": 0.01, "Irrelevant": 0.0,
    }  # fmt: skip


@pytest.mark.parametrize("label_set", LABEL_SETS.values(), ids=lambda value: value.name)
def test_a_label_set_survives_json(label_set):
    assert LabelSet.from_dict(json.loads(json.dumps(label_set.to_dict()))) == label_set


def test_a_users_label_set_keeps_its_order(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\nlabels: [bad, good]\ngains: [0, 2]\n")
    assert LabelSet.load(str(path)) == LabelSet("mine", ("bad", "good"), (0.0, 2.0))
    assert len(LabelSet.load(str(path))) == 2


@pytest.mark.parametrize(
    ("labels", "gains", "message"),
    [
        (("a",), (1,), "wants two or more different labels"),
        (("a", "a"), (1, 0), "wants two or more different labels"),
        (("a", "b"), (1,), "2 labels but 1 gains"),
        (("a", "b"), (1, -0.1), "finite and at least 0"),
        (("a", "b"), (1, float("nan")), "finite and at least 0"),
        (("a", "b"), (float("inf"), 0), "finite and at least 0"),
    ],
)
def test_a_bad_label_set_is_refused(labels, gains, message):
    with pytest.raises(UserError, match=message):
        LabelSet("mine", labels, gains)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("name: mine\nlabels: [a, b]\n", "has the keys name, labels and gains"),
        ("name: mine\nlabels: [a, b]\ngains: [1, 0]\norder: x\n", "has the keys name, labels and gains"),
        ("- a\n- b\n", "has the keys name, labels and gains"),
        ("labels: [a, b\n", "not a readable YAML file"),
        (b"name: caf\xe9", "not a readable YAML file"),
    ],
)
def test_a_bad_label_set_file_is_refused(content, message, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=message):
        LabelSet.load(str(path))


def test_an_unknown_label_set_names_the_shipped_ones():
    with pytest.raises(UserError, match=r"'esc' is neither one of \['esci', 'wands'\] nor a YAML file"):
        LabelSet.load("esc")


ITEM = {"title": "Red  shoe\n", "brand": None, "category": ["Shoes", "Running"], "color": "red {1}"}


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{title}", "Red shoe"),
        ("{title} | {brand} | {description}", "Red shoe | |"),
        ("{category}: {title}", "Shoes > Running: Red shoe"),
        ("{color} {title} {title}", "red {1} Red shoe Red shoe"),
    ],
)
def test_an_items_text(template, text):
    assert ItemText(template).render(ITEM) == text


def test_a_template_names_its_fields_once_in_order():
    assert ItemText("{title} {brand} {title}").fields == ("title", "brand")


@pytest.mark.parametrize(
    ("template", "message"),
    [("title", "names no field"), ("{titel}", r"names \['titel'\]"), ("{}", r"names \[''\]"), ("{title", "'}'")],
)
def test_a_bad_template_is_refused(template, message):
    with pytest.raises(UserError, match=message):
        ItemText(template)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Red  Shoes", " red shoes!"),
        ("ｉＰｈｏｎｅ １５", "iphone 15"),  # full width
        ("STRASSE", "straße"),
        ("caf\u00e9", "cafe\u0301"),  # composed and not
        ('"usb-c cable"', "USB-C cable"),
        ("!!!", " !!! "),
    ],
)
def test_queries_that_count_as_the_same(one, other):  # trap 33
    assert normalise_query(one) == normalise_query(other)
    assert normalise_query(normalise_query(one)) == normalise_query(one) != ""


@pytest.mark.parametrize(("one", "other"), [("usb-c", "usb c"), ("50 ft", "5 0 ft"), ("!!!", "???"), ("shoe", "shoes")])
def test_queries_that_do_not(one, other):
    assert normalise_query(one) != normalise_query(other)
