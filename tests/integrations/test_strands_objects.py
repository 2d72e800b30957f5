"""What carries `StrandsStorage` and needs no SDK: objects on a thread of their own."""

import asyncio
import gc
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

import snapstore
from snapstore.integrations.strands.anywhere import Anywhere
from snapstore.integrations.strands.objects import Objects
from snapstore.stores.memory import MemoryObjectStore
from snapstore.testing.doubles import FaultyObjectStore, StoreFault

LATEST = "s/scopes/agent/a/snapshots/snapshot_latest.json"
WITHIN = 10.0  # seconds


@pytest.fixture
def store():
    return FaultyObjectStore(MemoryObjectStore())


def objects_in(store, **changes):
    options = {"dialect": "python", "max_bytes": 100_000, "timeout": 5.0}
    return Objects(store, **options | changes)


@pytest.fixture
def objects(store):
    return objects_in(store)


@pytest.fixture
def anywhere(objects):
    shared = Anywhere("Shared", "snapstore-shared", lambda: objects)
    yield shared
    shared.close()


async def passing(call):
    return None


def threads():
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("snapstore-")]


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
async def test_every_operation_ends_by_its_deadline(operation, store):
    async def stall(call):
        return StoreFault(stall=True)

    store.fault = stall
    with pytest.raises(snapstore.StorageTimeoutError, match=r"did not end by its deadline.*0\.05"):
        await operation(objects_in(store, timeout=0.05))


async def test_a_deadline_of_deletes_is_not_the_next_ones(store):
    stalled = []

    async def stall_the_first(call):
        stalled.append(call)
        return StoreFault(stall=True) if len(stalled) == 1 else None

    store.fault = stall_the_first
    objects = objects_in(store, timeout=2.0)
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
    assert await objects.get("a") is None


def test_it_opens_once_for_all_that_come_first(objects, anywhere):
    opened = []

    async def open_slowly():
        opened.append(threading.current_thread().name)
        await asyncio.sleep(0.1)

    objects.open = open_slowly

    def work(key):
        asyncio.run(anywhere.run(lambda objects: objects.put(key, b"")))

    with ThreadPoolExecutor(4) as executor:
        list(executor.map(work, "abcd"))

    assert opened == ["snapstore-shared"]


def test_where_it_can_not_open_the_next_one_tries_again(objects, anywhere):
    async def fail():
        raise snapstore.StorageError("no credentials")

    objects.open, opens = fail, objects.open
    with pytest.raises(snapstore.StorageError, match="no credentials"):
        asyncio.run(anywhere.run(lambda objects: objects.get("a")))

    objects.open = opens
    assert asyncio.run(anywhere.run(lambda objects: objects.get("a"))) is None


async def test_work_on_the_thread_is_cancelled_with_its_caller(anywhere):
    ended, began = threading.Event(), threading.Event()
    where = []

    async def work(objects):
        where.append(threading.current_thread().name)
        began.set()
        try:
            await asyncio.sleep(WITHIN)
        finally:
            ended.set()

    running = asyncio.create_task(anywhere.run(work))
    await asyncio.to_thread(began.wait, WITHIN)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running

    assert await asyncio.to_thread(ended.wait, WITHIN)
    assert where == ["snapstore-shared"]


async def test_work_that_is_to_be_done_to_the_end_is(anywhere):
    began, ended = threading.Event(), threading.Event()

    async def work(objects):
        began.set()
        await asyncio.sleep(0.1)
        ended.set()

    running = asyncio.create_task(anywhere.run(work, to_the_end=True))
    await asyncio.to_thread(began.wait, WITHIN)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running

    assert not ended.is_set()
    anywhere.close()
    assert ended.is_set()


async def test_closing_waits_also_where_its_caller_has_gone(anywhere):
    done = []

    async def work(objects):
        await asyncio.sleep(0.2)
        done.append(True)

    running = asyncio.create_task(anywhere.run(work))
    await asyncio.sleep(0.05)
    anywhere.close()
    anywhere.close()

    assert done == [True]
    await running
    assert threads() == []
    with pytest.raises(snapstore.StorageClosedError, match="Shared is closed"):
        await anywhere.run(work)


async def test_what_fails_to_close_says_so(objects, anywhere):
    async def fail():
        raise snapstore.StorageError("it does not close")

    await anywhere.run(lambda objects: objects.get("a"))
    objects.aclose = fail

    with pytest.raises(snapstore.StorageError, match="it does not close"):
        anywhere.close()
    assert threads() == []


async def test_it_may_be_closed_from_its_own_thread(anywhere):
    async def work(objects):
        anywhere.close()

    await anywhere.run(work)

    until = time.monotonic() + WITHIN
    while threads() and time.monotonic() < until:
        await asyncio.sleep(0.01)
    assert threads() == []


def test_one_that_is_dropped_open_warns_and_closes(objects):
    closed = threading.Event()

    async def close():
        closed.set()

    def drop():
        objects.aclose = close
        shared = Anywhere("Shared", "snapstore-shared", lambda: objects)
        asyncio.run(shared.run(lambda objects: objects.get("a")))
        del shared
        gc.collect()

    with pytest.warns(ResourceWarning, match="Shared was never closed"):
        drop()

    assert closed.wait(WITHIN)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of a fork with threads
def test_a_child_that_was_forked_opens_its_own(store):
    made = []

    def make():
        made.append(objects_in(store))
        return made[-1]

    shared = Anywhere("Shared", "snapstore-shared", make)
    asyncio.run(shared.run(lambda objects: objects.put("a", b"x")))
    child = os.fork()
    if not child:
        # Nothing of pytest's may run here: it ends at once, and tells by its code.
        try:
            found = asyncio.run(shared.run(lambda objects: objects.get("a")))
            shared.close()
            os._exit(0 if found.data == b"x" and len(made) == 2 else 1)
        finally:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
    assert len(made) == 1
    shared.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_dropped_objects_end_their_thread_if_warnings_are_errors(objects):
    shared = Anywhere("Shared", "snapstore-shared", lambda: objects)
    asyncio.run(shared.run(lambda objects: objects.get("a")))
    assert threads() == ["snapstore-shared"]

    del shared
    gc.collect()

    until = time.monotonic() + WITHIN
    while threads() and time.monotonic() < until:
        time.sleep(0.01)
    assert threads() == []
