"""The object stores for tests without HTTP: transparent, slow, or failing just as told."""

import asyncio
from contextlib import aclosing

import pytest

from snapstore import (
    AccessDeniedError,
    ObjectSnapshotStorage,
    OutcomeUnknownError,
    PartialDeleteError,
    Snapshot,
    SnapshotConflictError,
    SnapshotLocation,
    StorageUnavailableError,
)
from snapstore.stores import ObjectStore, PreconditionFailedError
from snapstore.stores.file.store import FileObjectStore
from snapstore.stores.memory import MemoryObjectStore
from snapstore.testing import DictObjects, ObjectStoreTests, StoreCapabilityTests, StoreSubject
from snapstore.testing.doubles import (
    FaultyObjectStore,
    LatencyObjectStore,
    StoreCall,
    StoreFault,
    faults_in_turn,
)

LOCATION = SnapshotLocation.agent("s-1", "weather")
SNAPSHOT = Snapshot.new({"turns": 1})
BEFORE, LOST = StoreFault(), StoreFault(applied=True)
STALLED, STALLED_AFTER = StoreFault(stall=True), StoreFault(stall=True, applied=True)
MIB = 2**20


class TestFaultyObjectStoreWithoutFaults(ObjectStoreTests, StoreCapabilityTests):
    @pytest.fixture
    async def subject(self):
        behind = MemoryObjectStore()
        return StoreSubject(FaultyObjectStore(behind), DictObjects(behind.objects))


class TestLatencyObjectStore(ObjectStoreTests, StoreCapabilityTests):
    @pytest.fixture
    async def subject(self):
        behind = MemoryObjectStore()
        return StoreSubject(LatencyObjectStore(behind, 0.0), DictObjects(behind.objects))


@pytest.fixture
def store():
    return FaultyObjectStore(MemoryObjectStore())


def operations_of(store):
    return [call.operation for call in store.calls]


async def pages_of(store, prefix="", page_size=2):
    async with aclosing(store.scan(prefix, page_size=page_size)) as pages:
        return [page async for page in pages]


@pytest.mark.parametrize("double", [FaultyObjectStore, lambda store: LatencyObjectStore(store, 0)])
async def test_double_has_the_name_and_life_of_its_store(double, tmp_path):
    behind = FileObjectStore(tmp_path)
    store: ObjectStore = double(behind)
    assert store.name == behind.name

    async with ObjectSnapshotStorage(store) as storage:
        await storage.save_snapshot(location=LOCATION, snapshot=SNAPSHOT, is_latest=True)
        assert await storage.load_snapshot(location=LOCATION) == SNAPSHOT


# Latency


@pytest.fixture
async def clock(monkeypatch):
    """The loop's clock, which stands still until it is put forward."""
    loop = asyncio.get_running_loop()
    times = [loop.time()]
    monkeypatch.setattr(loop, "time", lambda: times[-1])

    async def pass_by(seconds):
        times.append(times[-1] + seconds)
        for _ in range(5):  # turns of the loop: a timer is ready, and its task goes on
            await asyncio.sleep(0)

    return pass_by


CALLS = {
    "a get": lambda store: store.get("a", max_bytes=MIB),
    "a put": lambda store: store.put("a", b"changed"),
    "a page": lambda store: anext(store.scan("")),
    "an empty page": lambda store: anext(store.scan("nothing"), None),
    "a delete": lambda store: store.delete(["a"]),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
async def test_a_call_takes_as_long_as_it_is_told(call, clock):
    store = LatencyObjectStore(MemoryObjectStore(), 10.0)
    store.inner.objects["a"] = b""
    task = asyncio.ensure_future(call(store))
    await clock(0.0)
    await clock(5.0)
    await clock(4.9)
    assert not task.done()
    await clock(0.2)
    assert task.done()
    await task


async def test_latency_is_concurrent_for_calls_and_serial_for_pages(clock):
    store = LatencyObjectStore(MemoryObjectStore(), 10.0)
    store.inner.objects = dict.fromkeys("abcd", b"")
    gets = asyncio.gather(*(store.get(key, max_bytes=MIB) for key in "abcd"))
    pages = asyncio.ensure_future(pages_of(store))
    await clock(0.0)
    await clock(5.0)
    await clock(5.0)
    assert gets.done()
    assert not pages.done()
    await clock(5.0)
    await clock(5.0)
    assert await pages == [["a", "b"], ["c", "d"]]


async def test_a_call_that_is_cancelled_on_its_way_back_was_applied(clock):
    store = LatencyObjectStore(MemoryObjectStore(), 10.0)
    for seconds, applied in [(4.0, False), (6.0, True)]:
        task = asyncio.ensure_future(store.put("a", b""))
        await clock(0.0)
        await clock(seconds)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert ("a" in store.inner.objects) is applied


# Faults


@pytest.mark.parametrize(
    ("fault", "condition", "error", "applied"),
    [
        (BEFORE, {}, StorageUnavailableError, False),
        (BEFORE, {"if_none_match": True}, StorageUnavailableError, False),
        (LOST, {}, StorageUnavailableError, True),
        (LOST, {"if_none_match": True}, OutcomeUnknownError, True),
        (StoreFault(error=OutcomeUnknownError), {}, OutcomeUnknownError, False),
        (StoreFault(error=PreconditionFailedError), {}, PreconditionFailedError, False),
        (StoreFault(error=AccessDeniedError, applied=True), {}, AccessDeniedError, True),
    ],
)
async def test_a_put_fails_before_or_after_it_is_applied(store, fault, condition, error, applied):
    store.fault = faults_in_turn("put", fault)

    with pytest.raises(error) as raised:
        await store.put("folder/key", b"canary-8f2e", **condition)

    assert type(raised.value) is error
    assert (raised.value.operation, raised.value.key) == ("put", "folder/key")
    assert raised.value.bucket == store.name
    assert "folder/key" in str(raised.value)
    assert "canary" not in str(raised.value)
    assert ("folder/key" in store.inner.objects) is applied


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
@pytest.mark.parametrize("fault", [BEFORE, LOST])
async def test_every_call_can_fail(store, call, fault):
    store.inner.objects["a"] = b""

    async def always(_):
        return fault

    store.fault = always
    with pytest.raises(StorageUnavailableError):
        await call(store)
    assert len(store.calls) == 1


async def test_the_lost_reply_to_a_refused_write_tells_nothing(store):
    await store.put("a", b"first")
    store.fault = faults_in_turn("put", LOST)

    with pytest.raises(OutcomeUnknownError):
        await store.put("a", b"second", if_none_match=True)

    assert store.inner.objects == {"a": b"first"}


@pytest.mark.parametrize(("fault", "applied"), [(STALLED, False), (STALLED_AFTER, True)])
async def test_a_call_that_stalls_ends_when_it_is_cancelled(store, fault, applied):
    store.fault = faults_in_turn("put", fault)

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.0):
            await store.put("a", b"")

    assert ("a" in store.inner.objects) is applied
    await store.put("a", b"")


async def test_a_scan_breaks_between_its_pages(store):
    store.inner.objects = dict.fromkeys("abcde", b"")
    store.fault = faults_in_turn("scan", None, BEFORE)

    async with aclosing(store.scan("", page_size=2)) as pages:
        assert await anext(pages) == ["a", "b"]
        with pytest.raises(StorageUnavailableError) as raised:
            await anext(pages)

    assert raised.value.operation == "scan"
    assert await pages_of(store) == [["a", "b"], ["c", "d"], ["e"]]


async def test_a_scan_is_a_call_for_each_page_that_there_is(store):
    assert await pages_of(store) == []
    assert store.calls == [StoreCall("scan", ("",))]
    store.calls.clear()
    store.inner.objects = dict.fromkeys("abcd", b"")
    assert await pages_of(store) == [["a", "b"], ["c", "d"]]
    assert operations_of(store) == ["scan", "scan"]


@pytest.mark.parametrize(("applied", "left"), [(False, ["b", "d"]), (True, ["d"])])
async def test_keys_of_a_delete_fail_one_by_one(store, applied, left):
    store.inner.objects = dict.fromkeys("abcd", b"")
    failed = {"b": "AccessDenied", "z": "InternalError"}
    store.fault = faults_in_turn("delete", StoreFault(applied, failed=failed))

    assert await store.delete(["a", "b", "c"]) == {"b": "AccessDenied"}
    assert list(store.inner.objects) == left
    assert await store.delete(["b"]) == {}


async def test_a_fault_may_write_first_as_another_writer_would(store):
    async def race(call):
        if call.conditional:
            await store.inner.put(call.keys[0], b"another's")

    store.fault = race
    with pytest.raises(PreconditionFailedError):
        await store.put("a", b"ours", if_none_match=True)
    assert store.inner.objects == {"a": b"another's"}


async def test_faults_in_turn_fail_one_operation_and_then_nothing(store):
    store.fault = faults_in_turn("get", BEFORE, None, BEFORE)
    outcomes = []
    for _ in range(5):
        await store.put("a", b"")
        result = await asyncio.gather(store.get("a", max_bytes=1), return_exceptions=True)
        outcomes += [type(answer).__name__ for answer in result]
    unavailable, good = "StorageUnavailableError", "StoredObject"
    assert outcomes == [unavailable, good, unavailable, good, good]


# What a storage makes of it


async def test_a_save_into_history_whose_reply_was_lost_is_a_success(store):
    async with ObjectSnapshotStorage(store) as storage:
        store.fault = faults_in_turn("put", LOST)
        saved = await storage.save_snapshot(location=LOCATION, snapshot=SNAPSHOT, is_latest=False)
        assert operations_of(store) == ["put", "get"]
        assert await storage.list_snapshot_ids(location=LOCATION) == [saved.snapshot_id]


async def test_a_conditional_save_whose_reply_was_lost_is_no_conflict(store):
    async with ObjectSnapshotStorage(store) as storage:
        store.fault = faults_in_turn("put", LOST, None)
        save = {"location": LOCATION, "snapshot": SNAPSHOT, "is_latest": True}
        with pytest.raises(OutcomeUnknownError):
            await storage.save_snapshot(**save, if_none_match=True)
        with pytest.raises(SnapshotConflictError):
            await storage.save_snapshot(**save, if_none_match=True)


async def test_an_update_that_lost_a_race_is_made_again(store):
    async with ObjectSnapshotStorage(store) as storage:
        store.fault = faults_in_turn("put", StoreFault(error=PreconditionFailedError))
        await storage.update_latest(location=LOCATION, update=lambda _: SNAPSHOT)
        assert operations_of(store) == ["get", "put"] * 2


async def test_checkpoint_whose_second_write_fails_is_in_history(store):
    async with ObjectSnapshotStorage(store) as storage:
        store.fault = faults_in_turn("put", None, BEFORE)
        with pytest.raises(StorageUnavailableError):
            await storage.checkpoint(location=LOCATION, snapshot=SNAPSHOT)
        assert len(await storage.list_snapshot_ids(location=LOCATION)) == 1
        assert await storage.load_snapshot(location=LOCATION) is None


async def test_a_delete_names_what_was_not_deleted(store):
    async with ObjectSnapshotStorage(store) as storage:
        await storage.checkpoint(location=LOCATION, snapshot=SNAPSHOT)

        async def fault(call):
            if call.operation == "delete":
                return StoreFault(failed={call.keys[0]: "AccessDenied"})
            return None

        store.fault = fault
        with pytest.raises(PartialDeleteError) as raised:
            await storage.delete_session(session_id="s-1")
        assert raised.value.failed == dict.fromkeys(store.inner.objects, "AccessDenied")
        assert len(store.inner.objects) == 1
