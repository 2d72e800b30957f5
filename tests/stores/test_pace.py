"""A pace: calls wait for their turn, in order, and are counted."""

import asyncio
import math

import pytest

from snapstore.stores import ManagedStore, MemoryObjectStore, Pace


async def test_calls_are_spread_and_come_in_order():
    loop = asyncio.get_running_loop()
    pace = Pace(50)
    began, passed = loop.time(), []

    async def caller(n):
        await pace.turn()
        passed.append((n, loop.time() - began))

    await asyncio.gather(*map(caller, range(5)))
    assert [n for n, _ in passed] == list(range(5))
    assert all(time >= n / 50 for n, time in passed)
    assert pace.turns == 5


async def test_views_share_a_pace_and_count_what_reaches_the_store():
    pace = Pace()
    async with ManagedStore(MemoryObjectStore()) as store:
        one, other = store.paced(pace), store.paced(pace)
        for n in range(3):
            await one.put(f"key/{n}", b"")
        await other.get("key/0", max_bytes=1)
        assert [page async for page in one.scan("key/", page_size=2)] == [
            ["key/0", "key/1"],
            ["key/2"],
        ]
        assert await other.delete(["key/0", "key/1"]) == {}
        await store.get("key/2", max_bytes=1)
    assert pace.turns == 3 + 1 + 2 + 1


@pytest.mark.parametrize("rate", [0, -1, math.inf, math.nan])
def test_a_rate_must_be_a_number_above_zero(rate):
    with pytest.raises(ValueError, match="more than 0"):
        Pace(rate)
