"""JSON that is refused, with the place named; what is read within limits is in test_app.py."""

import pytest

from lrkd.serve.refusals import Refused
from lrkd.serve.request_body import parse_json


def test_ordinary_json_is_read():
    body = (
        '{"query": "tassen, 2 Stück \\ud83d\\ude00", "items": [{"title": "\U0001f600", "brand": null}], "explain": 0}'
    )
    assert parse_json(body.encode()) == {
        "query": "tassen, 2 Stück \U0001f600",
        "items": [{"title": "\U0001f600", "brand": None}],
        "explain": 0,
    }


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "line 1 column 1"),
        (b'{"query": }', "line 1 column 11"),
        (b'{"a": 1} {"b": 2}', "Extra data: line 1 column 10"),
        (b'{"a": \xff}', "not UTF-8: byte 6 is 0xff"),
        (b"\xef\xbb\xbf{}", "BOM"),
        ('{"a": 1}'.encode("utf-16"), "not UTF-8: byte 0"),
        (b'{"title": "a\x00b"}', "Invalid control character at: line 1 column 13"),
        (b'{"a": NaN}', "NaN is no number"),
        (b'{"a": [-Infinity]}', "-Infinity is no number"),
        (b'{"a": 1, "b": 2, "a": 1}', "the key 'a' stands twice"),
        (b'{"a": ' + b"9" * 5000 + b"}", "digits"),
        (b"[" * 100_000, "nest too deep"),
        (b'{"a":' * 100_000, "nest too deep"),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "nest too deep"),
    ],
)
def test_other_bodies_are_refused_with_the_place(body, said):
    with pytest.raises(Refused) as refused:
        parse_json(body)
    assert refused.value.status == 400
    assert said in refused.value.message
    assert len(refused.value.message) < 300
