"""However long a session is, a page and a batch of it are in memory; of a raw snapshot, a slice."""

import asyncio
import tracemalloc
from contextlib import aclosing
from datetime import UTC, datetime, timedelta

from snapstore import ObjectSnapshotStorage, Snapshot, SnapshotLocation
from snapstore.encoding.envelope import encode_snapshot
from snapstore.stores import ObjectDetails
from snapstore.stores.base import Body
from snapstore.stores.memory import MemoryObjectStore

LOCATION = SnapshotLocation.agent("session-1", "weather")
OBJECTS = 100_000
PAGE = 1_000
BOUND = 4 * 2**20
"""Bytes. The ids alone of so many objects take twice as many, and their keys four times."""
WRITTEN = datetime(2026, 11, 28, tzinfo=UTC)
TIMEOUT = 30
"""Seconds after which a test gives up on what would otherwise hang."""


class LongStore:
    """A store with a long history, whose keys are made as they are asked for."""

    name = "long"

    def __init__(self, objects=OBJECTS):
        self.objects = objects
        self.listed = 0
        self.deleted = 0

    async def open(self):
        pass

    async def aclose(self):
        pass

    async def scan(self, prefix, *, start_after=None, page_size=PAGE):
        folder = "session-1/scopes/agent/weather/snapshots/immutable_history"
        assert folder.startswith(prefix.rstrip("/"))
        # `delete_session` lists once more when all is gone.
        for first in range(self.deleted // self.objects * self.objects, self.objects, page_size):
            await self.page_asked_for()
            self.listed += 1
            yield [
                f"{folder}/snapshot_{n:08x}-0000-7000-8000-000000000000.json"
                for n in range(first, min(first + page_size, self.objects))
            ]

    async def delete(self, keys):
        await asyncio.sleep(0)
        self.deleted += len(keys)
        return {}

    async def page_asked_for(self):
        await asyncio.sleep(0)


async def peak_of(work):
    """How many bytes of memory some work takes at its highest, beside what was taken before."""
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        await work
        _, peak = tracemalloc.get_traced_memory()
        return peak - before
    finally:
        tracemalloc.stop()


async def test_walking_a_long_history_takes_the_memory_of_a_page():
    async def walk():
        async with aclosing(storage.iter_snapshot_ids(location=LOCATION)) as ids:
            return sum([1 async for _ in ids])

    async with ObjectSnapshotStorage(LongStore()) as storage:
        walking = asyncio.create_task(walk())
        peak = await peak_of(walking)

    assert walking.result() == OBJECTS
    assert peak < BOUND


class ManySessions(LongStore):
    """A store with many sessions of one object each."""

    async def scan_prefixes(self, prefix, *, delimiter, start_after=None, page_size=PAGE):
        assert (prefix, delimiter, start_after) == ("", "/scopes/", None)
        for first in range(0, self.objects, page_size):
            await self.page_asked_for()
            yield [f"session-{n:08}/scopes/" for n in range(first, first + page_size)]

    async def scan_details(self, prefix, *, start_after=None, page_size=PAGE):
        await self.page_asked_for()
        self.listed += 1
        key = f"{prefix}agent/weather/snapshots/snapshot_latest.json"
        yield [ObjectDetails(key, 2, WRITTEN + timedelta(seconds=self.listed), "etag")]


async def test_walking_many_sessions_takes_the_memory_of_a_page():
    async def walk():
        async with aclosing(storage.iter_sessions()) as ids:
            return sum([1 async for _ in ids])

    async with ObjectSnapshotStorage(ManySessions()) as storage:
        walking = asyncio.create_task(walk())
        peak = await peak_of(walking)

    assert walking.result() == OBJECTS
    assert peak < BOUND


async def test_the_last_updated_of_many_sessions_take_the_memory_of_a_page():
    store = ManySessions(20_000)

    async with ObjectSnapshotStorage(store) as storage:
        listing = asyncio.create_task(storage.list_sessions(limit=50, order="updated"))
        peak = await peak_of(listing)

    newest = max(found.updated_at for found in listing.result().sessions)
    assert newest == WRITTEN + timedelta(seconds=store.listed)
    assert store.listed == 20_000
    assert peak < BOUND


async def test_deleting_a_long_session_takes_the_memory_of_a_page():
    store = LongStore()

    async with ObjectSnapshotStorage(store) as storage:
        deleting = asyncio.create_task(storage.delete_session(session_id="session-1"))
        peak = await peak_of(deleting)

    assert deleting.result().objects == store.deleted == OBJECTS
    assert peak < BOUND


async def test_a_page_of_ten_of_a_long_history_is_one_page_of_ten():
    store = LongStore()

    async with ObjectSnapshotStorage(store) as storage:
        ids = await storage.list_snapshot_ids(location=LOCATION, limit=10)

    assert len(ids) == 10
    assert store.listed == 1


class OverlappingStore(LongStore):
    """Deletes a page only when the next one has been asked for, and keeps count of batches."""

    def __init__(self, objects):
        super().__init__(objects)
        self.asked_for = []
        self.in_flight = 0
        self.most_in_flight = 0

    async def page_asked_for(self):
        while len(self.asked_for) <= self.listed:
            self.asked_for.append(asyncio.Event())
        self.asked_for[self.listed].set()
        await asyncio.sleep(0)

    async def delete(self, keys):
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        following = self.deleted // PAGE + 1
        if following * PAGE < self.objects:
            while len(self.asked_for) <= following:
                self.asked_for.append(asyncio.Event())
            await self.asked_for[following].wait()
        self.in_flight -= 1
        return await super().delete(keys)


async def test_the_next_page_is_listed_while_the_last_one_is_deleted():
    store = OverlappingStore(10 * PAGE)

    async with ObjectSnapshotStorage(store) as storage:
        deleting = storage.delete_session(session_id="session-1")
        deleted = await asyncio.wait_for(deleting, TIMEOUT)

    assert deleted.objects == store.deleted == 10 * PAGE


class HurriedStore(LongStore):
    """Lists at once what it has, and deletes a batch only when nobody asks for more."""

    def __init__(self, objects):
        super().__init__(objects)
        self.in_flight = 0
        self.most_in_flight = 0
        self.most_ahead = 0

    async def page_asked_for(self):
        self.most_ahead = max(self.most_ahead, self.listed + 1 - -(-self.deleted // PAGE))

    async def delete(self, keys):
        assert len(keys) <= PAGE
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        for _ in range(100):
            await asyncio.sleep(0)
        self.in_flight -= 1
        return await super().delete(keys)


async def test_one_batch_is_in_flight_and_one_page_is_listed_ahead():
    store = HurriedStore(10 * PAGE)

    async with ObjectSnapshotStorage(store) as storage:
        await storage.delete_session(session_id="session-1")

    assert store.deleted == 10 * PAGE
    assert store.most_in_flight == 1
    assert store.most_ahead <= 2


async def test_raw_snapshot_is_validated_in_the_memory_of_a_slice():
    messages = [{"n": n, "rows": [{"id": n, "text": "x" * 50}] * 10} for n in range(10_000)]
    body = encode_snapshot(Snapshot.new({"messages": messages}), max_bytes=2**24)
    assert len(body) > 2 * BOUND - 2**20
    store = MemoryObjectStore()
    key = "session-1/scopes/agent/weather/snapshots/snapshot_latest.json"
    store.objects[key] = Body(body)

    async with ObjectSnapshotStorage(store) as storage:
        loading = asyncio.create_task(storage.load_raw(location=LOCATION))
        peak = await peak_of(loading)

    assert loading.result().document == body
    # The document once more, as plain bytes, and a slice.
    assert peak < len(body) + BOUND
