"""The objects under `StrandsStorage`; the SDK is not needed for them."""

import asyncio

import pytest

import snapstore
from snapstore.integrations.strands.objects import Objects
from snapstore.stores.managed import ManagedStore
from snapstore.stores.memory import MemoryObjectStore
from snapstore.testing.doubles import FaultyObjectStore, StoreFault

LATEST = "s/scopes/agent/a/snapshots/snapshot_latest.json"


@pytest.fixture
def store():
    return FaultyObjectStore(MemoryObjectStore())


async def opened(store, **changes):
    options = {"max_bytes": 100_000, "timeout": 5.0} | changes
    managed = ManagedStore(store, timeout=options.pop("timeout"))
    objects = Objects(managed, dialect="python", **options)
    await objects.open()
    return objects


@pytest.fixture
async def open_objects(store):
    """A function that opens objects in the store; they are closed at the end of the test."""
    made = []

    async def open_them(**changes):
        made.append(await opened(store, **changes))
        return made[-1]

    yield open_them
    for objects in made:
        await objects.aclose()


@pytest.fixture
async def objects(open_objects):
    return await open_objects()


async def passing(call):
    return None


async def test_deletes_that_come_while_one_is_under_way_go_together(store, objects):
    await asyncio.gather(*(objects.put(f"{number}", b"") for number in range(2500)))
    store.calls.clear()

    await asyncio.gather(*(objects.delete(f"{number}") for number in range(2500)))

    assert [len(call.keys) for call in store.calls] == [1000, 1000, 500]
    assert await objects.keys("") == []


async def test_one_key_that_is_deleted_twice_at_once_is_asked_for_once(store, objects):
    await asyncio.gather(*(objects.delete(key) for key in "abba"))

    assert [call.keys for call in store.calls] == [("a", "b")]


async def test_what_nobody_waits_for_any_more_is_not_deleted(store, objects):
    await objects.put("a", b"")
    store.calls.clear()
    deleting = [asyncio.create_task(objects.delete(key)) for key in "ab"]
    await asyncio.sleep(0)
    deleting[0].cancel()
    await asyncio.gather(*deleting, return_exceptions=True)
    await objects.delete("c")

    assert [call.keys for call in store.calls] == [("b",), ("c",)]
    assert await objects.keys("") == ["a"]


async def test_delete_works_after_one_that_failed(store, objects):
    async def fail(call):
        return StoreFault(error=snapstore.AccessDeniedError)

    store.fault, passing = fail, store.fault
    failed = await asyncio.gather(*map(objects.delete, "ab"), return_exceptions=True)
    assert [type(error) for error in failed] == [snapstore.AccessDeniedError] * 2

    store.fault = passing
    await objects.delete("a")


async def test_a_delete_that_was_not_confirmed_names_its_key(store, objects):
    async def refuse(call):
        return StoreFault(failed={"b": "Unconfirmed"})

    store.fault = refuse
    outcomes = await asyncio.gather(*map(objects.delete, "abc"), return_exceptions=True)

    assert outcomes[::2] == [None, None]
    with pytest.raises(snapstore.PartialDeleteError, match=r"^b in .* was not deleted \(Unconf"):
        raise outcomes[1]


@pytest.mark.parametrize(
    "operation",
    [
        lambda objects: objects.get("a"),
        lambda objects: objects.put("a", b""),
        lambda objects: objects.delete("a"),
        lambda objects: objects.keys("a"),
    ],
)
async def test_every_operation_ends_by_its_deadline(operation, store, open_objects):
    async def stall(call):
        return StoreFault(stall=True)

    store.fault = stall
    with pytest.raises(snapstore.StorageTimeoutError, match=r"did not end by its deadline.*0\.05"):
        await operation(await open_objects(timeout=0.05))


async def test_a_deadline_of_deletes_is_not_the_next_ones(store, open_objects):
    stalled = []

    async def stall_the_first(call):
        stalled.append(call)
        return StoreFault(stall=True) if len(stalled) == 1 else None

    store.fault = stall_the_first
    objects = await open_objects(timeout=2.0)
    first = asyncio.create_task(objects.delete("a"))
    await asyncio.sleep(1.0)
    second = asyncio.create_task(objects.delete("b"))

    with pytest.raises(snapstore.StorageTimeoutError):
        await first
    await second


async def test_a_snapshot_too_deep_for_the_other_dialect_names_its_key(objects):
    deep = "[" * 250 + "]" * 250
    document = (
        '{"scope":"agent","schemaVersion":"1.0","createdAt":"2026-01-01T00:00:00.000Z",'
        f'"data":{{"state":{deep}}},"appData":{{}}}}'
    )

    with pytest.raises(ValueError, match=f"^{LATEST}: ") as caught:
        await objects.put(LATEST, document.encode())

    assert isinstance(caught.value, snapstore.SnapshotDecodeError | snapstore.SnapshotEncodeError)


@pytest.mark.parametrize(
    ("limit", "found"), [(None, "bcdef"), (10, "bcdef"), (2, "bc"), (1, "b"), (0, ""), (-1, "")]
)
async def test_a_listing_ends_at_its_limit(limit, found, objects):
    await asyncio.gather(*(objects.put(key, b"") for key in "fedcba"))

    assert await objects.keys("", start_after="a", limit=limit) == list(found)


async def test_close_waits_for_abandoned_deletes(store, objects):
    began, go, closed = asyncio.Event(), asyncio.Event(), []

    async def hold(call):
        began.set()
        await go.wait()
        assert not closed

    await objects.put("a", b"")
    store.fault = hold
    deleting = asyncio.create_task(objects.delete("a"))
    await began.wait()
    deleting.cancel()
    closing = asyncio.create_task(objects.aclose())
    closing.add_done_callback(closed.append)
    await asyncio.sleep(0)
    go.set()
    await closing

    store.fault = passing
    assert await store.get("a", max_bytes=100) is None
