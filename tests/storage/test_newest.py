"""History newest first: exact for any spread of ids, and in few requests."""

import bisect
import random
import statistics
import time
from contextlib import aclosing
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapstore import ObjectSnapshotStorage, SnapshotLocation, snapshot_time
from snapstore.stores.memory import MemoryObjectStore

LOCATION = SnapshotLocation.agent("s-1", "weather")
HISTORY = "s-1/scopes/agent/weather/snapshots/immutable_history/"
DAY = 86_400_000


def id_of(milliseconds, chance):
    """An id, spelled out here: version and variant in between the bits of a time and of chance."""
    time, rest = f"{int(milliseconds):012x}", f"{0x8 << 60 | chance & (1 << 60) - 1:016x}"
    return f"{time[:8]}-{time[8:]}-7{chance >> 60 & 0xFFF:03x}-{rest[:4]}-{rest[4:]}"


class CountingStore(MemoryObjectStore):
    """The keys of a history, and how many pages were asked for. Others may write between them."""

    def __init__(self, ids, page_size=1_000):
        super().__init__()
        self.keys = sorted(f"{HISTORY}snapshot_{snapshot_id}.json" for snapshot_id in ids)
        self.page_size = page_size
        self.requests = 0
        self.between = lambda: None

    async def scan(self, prefix, *, start_after=None, page_size=1_000):
        after = start_after or prefix
        while True:
            self.requests += 1
            start = bisect.bisect_right(self.keys, after)
            page = self.keys[start : start + min(page_size, self.page_size)]
            truncated = start + len(page) < len(self.keys)
            self.between()
            yield page
            if not truncated:
                return
            after = page[-1]


def spread(kind, count, rng):
    """The ids of a history whose times are spread in one way."""
    now = time.time() * 1_000

    def around(moment, width, number):
        return [moment - rng.random() * width for _ in range(number)]

    if kind == "even":
        times = around(now, count * rng.choice([1, 100, 60_000]), count)
    elif kind == "bursts, months apart":
        times, moment = [], now - rng.random() * 90 * DAY
        while len(times) < count:
            number = rng.randint(1, count // 5 + 1)
            times += around(moment, number * rng.choice([10, 500]), number)
            moment -= rng.random() * 120 * DAY
    elif kind == "all in one millisecond":
        times = [now - rng.random() * 100 * DAY] * count
    elif kind == "imports of one millisecond each":
        times = []
        while len(times) < count:
            times += [now - 7 - (len(times) // 2_000) * 3 * DAY] * rng.randint(1, 4_000)
    elif kind == "part in the future":
        future = rng.choice([count // 2, count // 100, 5])
        times = around(now + 100 * DAY, 100 * DAY, future) + around(now, 100 * DAY, count)
    elif kind == "dense now":
        times = around(now, 5_000, count // 2) + around(now, 100 * DAY, count // 2)
    elif kind == "sparse now":
        times = around(now, 200 * DAY, 30) + around(now - 200 * DAY, count * 5, count)
    elif kind == "long ago":
        times = around(now - 200 * DAY, count * rng.choice([5, 5_000]), count)
    else:
        times = []
        while len(times) < count:
            number = rng.randint(1, count // 4 + 1)
            times += around(now - 10 ** (rng.random() * 10.5), 10 ** (rng.random() * 9), number)
    return [id_of(moment, rng.getrandbits(72)) for moment in times[:count]]


SPREADS = (
    "even",
    "bursts, months apart",
    "all in one millisecond",
    "imports of one millisecond each",
    "part in the future",
    "dense now",
    "sparse now",
    "long ago",
    "clusters of many scales",
)


def newest(storage, **which):
    return storage.list_snapshot_ids(location=LOCATION, newest_first=True, **which)


@pytest.mark.parametrize("kind", SPREADS)
@pytest.mark.parametrize("limit", [1, 10, 1_000])
async def test_the_newest_cost_few_requests(kind, limit):
    rng, costs = random.Random(f"{kind} {limit}"), []
    for count in (300, 1_200, 2_500, 6_000, 15_000, 40_000, 100_000) * 2:
        ids = sorted(set(spread(kind, count, rng)))
        store = CountingStore(ids)
        async with ObjectSnapshotStorage(store) as storage:
            assert await newest(storage, limit=limit) == ids[: -limit - 1 : -1]
        assert store.requests <= 24 + -(-len(ids) // 1_000)
        costs.append(store.requests)
    assert max(costs) <= 40, costs
    if limit <= 10:
        assert statistics.median(costs) <= (12 if kind == "long ago" else 10), costs


@pytest.mark.parametrize("kind", SPREADS)
async def test_a_state_at_a_time_costs_few_requests(kind):
    rng = random.Random(kind)
    for count in (2_500, 15_000, 100_000):
        ids = sorted(set(spread(kind, count, rng)))
        wanted = rng.choice(ids)
        store = CountingStore(ids)
        moment = snapshot_time(wanted)
        expected = [found for found in ids if found[:13] <= wanted[:13]][-1]
        async with ObjectSnapshotStorage(store) as storage:
            assert await newest(storage, limit=1, until=moment) == [expected]
        assert store.requests <= min(40, 24 + -(-len(ids) // 1_000))


@pytest.mark.parametrize("count", [0, 1, 10, 999, 1_000])
async def test_up_to_1000_ids_are_one_request(count):
    ids = sorted(spread("even", count, random.Random(count)))
    store = CountingStore(ids)
    async with ObjectSnapshotStorage(store) as storage:
        assert await newest(storage, limit=10) == ids[:-11:-1]
        assert store.requests == 1
        await newest(storage, limit=0)
        assert store.requests == 1


@pytest.mark.parametrize("count", [1, 1_000, 1_001, 25_500])
async def test_a_walk_backwards_takes_at_most_twice_the_requests(count):
    ids = sorted(spread("clusters of many scales", count, random.Random(count)))
    store = CountingStore(ids)
    async with ObjectSnapshotStorage(store) as storage:
        walk = storage.iter_snapshot_ids(location=LOCATION, newest_first=True)
        async with aclosing(walk) as found:
            assert [snapshot_id async for snapshot_id in found] == ids[::-1]
        forwards = -(-count // 1_000)
        assert store.requests <= 2 * forwards
        assert await newest(storage) == ids[::-1]


async def test_a_wrong_time_sends_no_request():
    store = CountingStore([])
    naive = datetime(2026, 11, 22)  # noqa: DTZ001
    async with ObjectSnapshotStorage(store) as storage:
        for which in ({"since": naive}, {"until": naive}, {"until": 5}):
            with pytest.raises((ValueError, TypeError)):
                await newest(storage, limit=1, **which)
            with pytest.raises((ValueError, TypeError)):
                storage.iter_snapshot_ids(location=LOCATION, **which)
        with pytest.raises(ValueError, match="as_of"):
            await storage.load_snapshot(location=LOCATION, as_of=naive)
    assert store.requests == 0


async def test_a_snapshot_that_is_deleted_meanwhile_gives_way_to_the_one_before():
    store = MemoryObjectStore()
    async with ObjectSnapshotStorage(store) as storage:
        document = b'{"scope":"agent","schemaVersion":"1.0","createdAt":"","data":{},"appData":{}}'
        ids = [id_of(1_790_000_000_000 + n, n) for n in range(3)]
        for snapshot_id in ids:
            store.objects[f"{HISTORY}snapshot_{snapshot_id}.json"] = document

        async def get(key, *, max_bytes):
            for snapshot_id in ids[1:]:
                store.objects.pop(f"{HISTORY}snapshot_{snapshot_id}.json", None)
            return await MemoryObjectStore.get(store, key, max_bytes=max_bytes)

        store.get = get
        moment = datetime.now(UTC) + timedelta(days=9_000)
        loaded = await storage.load_snapshot(location=LOCATION, as_of=moment)
        assert loaded is not None


CHANCE = st.integers(0, 2**72 - 1) | st.integers(0, 40) | st.integers(2**72 - 40, 2**72 - 1)
MILLISECONDS = (
    st.integers(0, 2**48 - 1)
    | st.integers(1_790_000_000_000, 1_790_000_000_100)
    | st.integers(0, 3)
    | st.integers(2**48 - 3, 2**48 - 1)
)
IDS = st.builds(id_of, MILLISECONDS, CHANCE)


@given(
    base=st.sets(IDS, max_size=12),
    dense=st.lists(st.tuples(IDS, st.integers(0, 1_500), st.integers(1, 2**40)), max_size=3),
    written=st.sets(IDS, max_size=10),
    cursor=st.none() | IDS,
    limit=st.integers(1, 1_200) | st.none(),
    walks=st.booleans(),
)
async def test_ids_that_are_there_all_the_while_come_once_in_order(
    base, dense, written, cursor, limit, walks
):
    stable = set(base)
    for first, number, step in dense:
        chance = int(first[-12:], 16)
        stable |= {f"{first[:-12]}{chance + n * step & (1 << 48) - 1:012x}" for n in range(number)}
    written = sorted(written - stable)
    pending = iter(written)
    store = CountingStore(stable)

    def write():
        if (snapshot_id := next(pending, None)) is not None:
            bisect.insort(store.keys, f"{HISTORY}snapshot_{snapshot_id}.json")

    store.between = write
    async with ObjectSnapshotStorage(store) as storage:
        if walks:
            walk = storage.iter_snapshot_ids(
                location=LOCATION, start_after=cursor, newest_first=True
            )
            async with aclosing(walk) as ids:
                found = [snapshot_id async for snapshot_id in ids]
        else:
            found = await newest(storage, start_after=cursor, limit=limit)
    expected = sorted((found for found in stable if cursor is None or found < cursor), reverse=True)
    assert found == sorted(set(found), reverse=True)
    assert set(found) <= stable | set(written)
    kept = [snapshot_id for snapshot_id in found if snapshot_id in stable]
    assert kept == expected[: len(kept)]
    if walks or limit is None:
        assert kept == expected
    else:
        assert len(found) <= limit
        assert len(found) >= min(limit, len(expected))
