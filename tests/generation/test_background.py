from __future__ import annotations

import asyncio
import threading

import pytest

from lrkd.generation.background import iterate_in_thread


def test_a_failure_comes_after_the_items():
    async def produce(outlet):
        for item in range(3):
            await outlet.reserve()
            outlet.put(item)
        raise KeyError("failed")

    items = iterate_in_thread(produce, 10)
    assert [next(items) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(KeyError, match="failed"):
        next(items)


def test_no_more_are_made_than_there_is_room_for():
    made = []

    async def produce(outlet):
        for item in range(1000):
            await outlet.reserve()
            made.append(item)
            outlet.put(item)

    for item in iterate_in_thread(produce, 5):
        assert len(made) <= item + 1 + 5
    assert len(made) == 1000


def test_closing_lets_the_producer_clean_up_and_ends_its_thread():
    cleaned = threading.Event()

    async def produce(outlet):
        outlet.put(0)
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            cleaned.set()

    before = threading.active_count()
    items = iterate_in_thread(produce, 1)
    assert next(items) == 0
    items.close()
    assert cleaned.is_set()
    assert threading.active_count() == before
