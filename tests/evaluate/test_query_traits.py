"""What can be read off a query, on examples."""

import pytest

from lrkd.evaluate.query_traits import names, names_category, negates, word_runs


@pytest.mark.parametrize(
    ("query", "negated"),
    [
        ("coffee mug w/o handle", True), ("No sugar cola", True), ("non-slip mat", True), ("it doesn't fade", True),
        ("it doesn’t fade", True), ("nonslip mat", False), ("knot pillow", False), ("note book", False),
        ("sugar free cola", False),
    ],
)  # fmt: skip
def test_negation_is_a_whole_word(query, negated):
    assert negates(query) is negated


def test_phrases_and_categories_in_queries():
    assert names("nike air max", "Nike")
    assert names("l'oréal shampoo", "L'Oréal")
    assert not names("air nike max", "nike air")
    assert not names("mug", "!?")
    assert names_category("glass mugs", ["Kitchen", "Mug"])
    assert not names_category("kitchen mug", ["Kitchen", "Plates"]), "the innermost category counts"
    assert not names_category("case of tea", ["Bags of It"]), "short words say nothing"
    assert not names_category("dres", ["Dress"])


def test_all_runs_of_words_are_found():
    longer = {("nike", "air"), ("air", "max"), ("nike", "air", "max")}
    assert word_runs("Nike AIR-max") == {("nike",), ("air",), ("max",)} | longer
    assert word_runs("!?") == set()
