import pytest

from lrkd.prompts import parse_answer

LABELS = ("Exact", "Substitute")


@pytest.mark.parametrize(
    ("text", "rationale", "verdict", "failure"),
    [
        ("It fits.\nVerdict: Exact", "It fits.", "Exact", None),
        ("  It fits.\n\nVerdict:  Exact.  \n", "It fits.", "Exact", None),
        ("One line.\nAnother.\nVerdict: Substitute", "One line.\nAnother.", "Substitute", None),
        ("<think>\n\n</think>\n\nIt fits.\nVerdict: Exact", "It fits.", "Exact", None),
        ("<think>Verdict: Exact</think>It does not.\nVerdict: Substitute", "It does not.", "Substitute", None),
        ("Verdict: Exact, I thought.\nVerdict: Substitute", "Verdict: Exact, I thought.", "Substitute", None),
        ("It is an Exact match.", "It is an Exact match.", None, "no_verdict"),
        ("It fits. Verdict: Exact", "It fits. Verdict: Exact", None, "no_verdict"),
        ("It fits.\nVerdict: Exact or so", "It fits.\nVerdict: Exact or so", None, "unknown_label"),
        ("It fits.\nVerdict: exact", "It fits.\nVerdict: exact", None, "unknown_label"),
        ("It fits.\nVerdict:", "It fits.\nVerdict:", None, "no_verdict"),
        ("Verdict: Exact", "Verdict: Exact", None, "empty_rationale"),
        ("", "", None, "no_verdict"),
    ],
)  # fmt: skip
def test_strictly(text, rationale, verdict, failure):
    answer = parse_answer(text, LABELS)
    assert (answer.rationale, answer.verdict, answer.failure) == (rationale, verdict, failure)


def test_what_the_token_limit_cut_is_no_answer_even_if_it_looks_like_one():
    # "Verdict: Exact" may be the beginning of "Verdict: Exactly what was asked for, but".
    assert parse_answer("It fits.\nVerdict: Exact", LABELS, finished=False).failure == "cut_off"


def test_another_answer_line():
    assert parse_answer("So.\nLabel = Exact", LABELS, "Label = {verdict}").verdict == "Exact"
    assert parse_answer("So.\nVerdict: Exact", LABELS, "Label = {verdict}").failure == "no_verdict"
