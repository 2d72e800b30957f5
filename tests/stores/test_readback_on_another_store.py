"""Reading back lost responses on a store that is not S3, see `snapstore.stores.readback`."""

import asyncio
from itertools import cycle

import msgspec
import pytest

from snapstore import (
    ObjectSnapshotStorage,
    OutcomeUnknownError,
    Snapshot,
    SnapshotLocation,
    StorageUnavailableError,
)
from snapstore.stores import MemoryObjectStore, PreconditionFailedError, Version, readback
from snapstore.stores.readback import AttemptOutcome, Write, metadata_of_caller, version_of
from snapstore.stores.retry import retrying
from snapstore.testing import DictObjects, ObjectStoreTests, StoreSubject

KEY = "s-1/latest.json"
LOST = "applied, and the response lost"
DROPPED = "lost on the way to the server"
BUSY = "answered that it was not applied"
FAILED = "answered that it failed, applied or not"
OK = "answered"


class UnreliableStore:
    """A store on a server that loses responses. `MemoryObjectStore` stands in for the server."""

    name = "unreliable"

    def __init__(self, plan=()):
        self.server = MemoryObjectStore()
        self.plan = iter(plan)
        self.can_be_read = True
        self.heads = 0

    async def open(self):
        """Nothing is needed."""

    async def aclose(self):
        """Nothing is held."""

    async def get(self, key, *, max_bytes):
        stored = await self.server.get(key, max_bytes=max_bytes)
        if stored is None:
            return None
        return msgspec.structs.replace(
            stored,
            version=version_of(stored.version.etag, stored.metadata),
            metadata=metadata_of_caller(stored.metadata),
        )

    async def put(self, key, data, *, if_match=None, if_none_match=False):
        return await readback.put(self, key, data, Write(if_match, create=if_none_match))

    async def put_with_metadata(self, key, data, metadata, *, if_match=None, if_none_match=False):
        write = Write(if_match, create=if_none_match, metadata=metadata)
        return await readback.put(self, key, data, write)

    async def try_put(self, key, data, *, if_match=None, if_none_match=False):
        return await readback.try_put(self, key, data, Write(if_match, create=if_none_match))

    def scan(self, prefix, *, start_after=None, page_size=1000):
        return self.server.scan(prefix, start_after=start_after, page_size=page_size)

    async def delete(self, keys):
        return await self.server.delete(keys)

    # The three methods of a `WriteBackend`

    async def send(self, key, data, write):
        async def attempt():
            write.begin_attempt()
            body = data() if callable(data) else data
            event = next(self.plan, OK)
            if callable(event):  # somebody else comes in between
                await event()
                event = OK
            write.sent()
            try:
                return await request(body, event)
            except PreconditionFailedError:
                write.ended(AttemptOutcome.REJECTED)
                raise

        async def request(body, event):
            if event is DROPPED:
                raise self.failed(write, AttemptOutcome.LOST)
            if event is BUSY:
                raise self.failed(write, AttemptOutcome.REJECTED)
            condition = {"if_none_match": True} if write.condition == "*" else {}
            if write.condition not in (None, "*"):
                condition = {"if_match": Version(write.condition)}
            stored = await self.server.put_with_metadata(key, body, write.metadata, **condition)
            if event is LOST:
                raise self.failed(write, AttemptOutcome.LOST)
            if event is FAILED:
                raise self.failed(write, AttemptOutcome.AMBIGUOUS)
            return write.version(stored.etag)

        return await retrying(attempt, max_attempts=lambda error: 4 if error.retryable else 1)

    async def head(self, key):
        self.heads += 1
        if not self.can_be_read:
            raise StorageUnavailableError("no")
        stored = await self.get(key, max_bytes=2**30)
        return stored and stored.version

    def respell(self, write, etag):
        return False

    def failed(self, write, outcome):
        write.ended(outcome)
        return StorageUnavailableError("no response")


@pytest.fixture(autouse=True)
def no_waits(monkeypatch):
    monkeypatch.setattr("snapstore.stores.retry.full_jitter", lambda _: 0.0)


class TestUnreliableStore(ObjectStoreTests):
    @pytest.fixture
    async def subject(self):
        # Not DROPPED: a create that may still arrive is unknown if another one came first.
        store = UnreliableStore(cycle([LOST, OK, BUSY, OK, FAILED, LOST, OK]))
        return StoreSubject(store, DictObjects(store.server.objects))


async def body_of(store):
    return (await store.get(KEY, max_bytes=100)).data


async def test_lost_create_is_a_success() -> None:
    store = UnreliableStore([LOST])
    created = await store.put(KEY, b"1", if_none_match=True)
    assert (await store.get(KEY, max_bytes=100)).version == created
    assert store.heads == 1


async def test_answered_write_needs_no_head() -> None:
    store = UnreliableStore()
    first = await store.put(KEY, b"1", if_none_match=True)
    await store.put(KEY, b"2", if_match=first)
    assert store.heads == 0


@pytest.mark.parametrize("plan", [[LOST], [LOST] * 4, [DROPPED, LOST], [FAILED] * 4])
async def test_lost_update_is_a_success(plan) -> None:
    store = UnreliableStore()
    first = await store.put(KEY, b"1")
    store.plan = iter(plan)
    second = await store.put(KEY, b"2", if_match=first)
    assert (await store.get(KEY, max_bytes=100)).version == second
    await store.put(KEY, b"3", if_match=second)


async def test_lost_update_that_was_overwritten_is_a_success() -> None:
    store = UnreliableStore()
    first = await store.put(KEY, b"1")

    async def overwrite():
        store.plan = iter(())
        for data in (b"3", b"4"):
            found = await store.get(KEY, max_bytes=100)
            await store.put(KEY, data, if_match=found.version)

    store.plan = iter([LOST, overwrite])
    second = await store.put(KEY, b"2", if_match=first)
    assert await body_of(store) == b"4"
    with pytest.raises(PreconditionFailedError):
        await store.put(KEY, b"5", if_match=second)


@pytest.mark.parametrize("event", [DROPPED, BUSY])
async def test_update_that_was_superseded_is_a_conflict(event) -> None:
    store = UnreliableStore()
    first = await store.put(KEY, b"1")

    async def overwrite():
        store.plan = iter(())
        await store.put(KEY, b"theirs", if_match=first)

    store.plan = iter([event, overwrite])
    with pytest.raises(PreconditionFailedError) as caught:
        await store.put(KEY, b"2", if_match=first)
    assert caught.value.outcome == "not applied"
    assert await body_of(store) == b"theirs"


async def test_update_that_may_still_arrive_is_unknown() -> None:
    store = UnreliableStore()
    first = await store.put(KEY, b"1")
    store.plan = iter([DROPPED] * 4)
    with pytest.raises(OutcomeUnknownError, match="may yet be applied"):
        await store.put(KEY, b"2", if_match=first)


async def test_update_that_every_response_rejects_is_not_applied() -> None:
    store = UnreliableStore()
    first = await store.put(KEY, b"1")
    store.plan = iter([BUSY] * 4)
    with pytest.raises(StorageUnavailableError) as caught:
        await store.put(KEY, b"2", if_match=first)
    assert caught.value.outcome == "not applied"
    assert store.heads == 0


async def test_lost_create_that_was_deleted_is_unknown() -> None:
    store = UnreliableStore()

    async def delete_and_create():
        store.plan = iter(())
        await store.delete([KEY])
        await store.put(KEY, b"theirs", if_none_match=True)

    store.plan = iter([LOST, delete_and_create])
    with pytest.raises(OutcomeUnknownError):
        await store.put(KEY, b"1", if_none_match=True)


async def test_write_is_unknown_if_the_object_can_not_be_looked_at() -> None:
    store = UnreliableStore([LOST])
    store.can_be_read = False
    with pytest.raises(OutcomeUnknownError):
        await store.put(KEY, b"1", if_none_match=True)


async def test_counter_of_concurrent_writers_loses_no_increment() -> None:
    location = SnapshotLocation.agent("s-1", "counter")
    store = UnreliableStore(cycle([OK, LOST, BUSY, OK, FAILED]))

    def add_one(found):
        return Snapshot.new({"count": found.data["count"] + 1 if found else 1})

    async with ObjectSnapshotStorage(store) as storage:
        await asyncio.gather(
            *(storage.update_latest(location=location, update=add_one) for _ in range(10))
        )
        assert (await storage.load_snapshot(location=location)).data == {"count": 10}
