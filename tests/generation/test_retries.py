from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from lrkd.generation import retries
from lrkd.generation.retries import Retries, Unanswered, retry_after


@pytest.fixture
def clock(monkeypatch):
    """Time that passes by sleeping only; what was slept is its value."""
    slept = []

    async def sleep(seconds):
        slept.append(seconds)

    monkeypatch.setattr(retries.asyncio, "sleep", sleep)
    monkeypatch.setattr(retries.time, "monotonic", lambda: sum(slept))
    return slept


def failing(*failures):
    left = iter(failures)

    async def ask():
        for failure in left:
            raise failure
        return "answer"

    return ask


def test_waits_double_up_to_a_minute_and_vary_by_a_quarter(clock):
    ask = failing(*[Unanswered("boom")] * 9)
    assert asyncio.run(Retries(9, 0.5).until_answered(ask)) == "answer"
    for slept, wanted in zip(clock, (0.5, 1, 2, 4, 8, 16, 32, 60, 60), strict=True):
        assert 0.75 * wanted <= slept <= 1.25 * wanted
    assert len(set(clock)) == 9


def test_waits_as_long_as_the_server_says_and_so_do_all(clock):
    shared = Retries(1, 0.5)

    async def both():
        await shared.until_answered(failing(Unanswered("limit", rate_limited=True, wait=30)))
        assert 30 <= sum(clock) <= 37.5
        shared._until += 10  # another request was told so meanwhile
        await shared.until_answered(failing())

    asyncio.run(both())
    assert sum(clock) >= 40


def test_the_last_failure_is_told(clock):
    ask = failing(Unanswered("first"), Unanswered("second"), Unanswered("third"))
    with pytest.raises(Unanswered, match=r"^after 1 retries: second$"):
        asyncio.run(Retries(1, 0.5).until_answered(ask))


@pytest.mark.parametrize("value", ["", "soon", "-3", "nan", "Wed, 21 Oct 2015 07:28:00 GMT"])
def test_no_retry_after(value):
    assert retry_after({"retry-after": value}) == 0
    assert retry_after({}) == 0


def test_retry_after():
    assert retry_after({"retry-after": "1.5"}) == 1.5
    date = format_datetime(datetime.now(UTC) + timedelta(minutes=2), usegmt=True)
    assert 60 < retry_after({"retry-after": date}) <= 120
