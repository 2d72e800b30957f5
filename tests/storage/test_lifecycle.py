"""Who may use a storage, and when: every misuse has its error, at once, and closing waits."""

import asyncio
import gc
import threading
import warnings
from contextlib import aclosing

import pytest

from snapstore import (
    FileStorage,
    LifecycleError,
    MemoryStorage,
    ObjectSnapshotStorage,
    Snapshot,
    SnapshotLocation,
    SnapshotManifest,
    SnapshotNotFoundError,
    StorageClosedError,
    StorageError,
    WrongEventLoopError,
    new_snapshot_id,
)
from snapstore.stores.memory import MemoryObjectStore

LOCATION = SnapshotLocation.agent("session-1", "weather")
SNAPSHOTS = "session-1/scopes/agent/weather/snapshots"
TIMEOUT = 60
"""Seconds after which a test gives up on what would otherwise hang."""


@pytest.fixture(params=["memory", "file"])
def storage(request, tmp_path):
    return MemoryStorage() if request.param == "memory" else FileStorage(tmp_path / "store")


def snapshot():
    return Snapshot("agent", "1.0", "2026-11-22T11:13:20.395Z", {"n": 1}, {})


async def walk(storage):
    async with aclosing(storage.iter_snapshot_ids(location=LOCATION)) as ids:
        return [snapshot_id async for snapshot_id in ids]


async def rewind(storage):
    with pytest.raises(SnapshotNotFoundError):
        await storage.rewind(location=LOCATION, snapshot_id=new_snapshot_id())


OPERATIONS = {
    "save_snapshot": lambda storage: storage.save_snapshot(
        location=LOCATION, snapshot=snapshot(), is_latest=True
    ),
    "save_snapshot in history": lambda storage: storage.save_snapshot(
        location=LOCATION, snapshot=snapshot(), is_latest=False
    ),
    "checkpoint": lambda storage: storage.checkpoint(location=LOCATION, snapshot=snapshot()),
    "load_snapshot": lambda storage: storage.load_snapshot(location=LOCATION),
    "load_versioned": lambda storage: storage.load_versioned(location=LOCATION),
    "update_latest": lambda storage: storage.update_latest(
        location=LOCATION, update=lambda _: snapshot()
    ),
    "list_snapshot_ids": lambda storage: storage.list_snapshot_ids(location=LOCATION),
    "list none": lambda storage: storage.list_snapshot_ids(location=LOCATION, limit=0),
    "rewind": rewind,
    "iter_snapshot_ids": walk,
    "delete_session": lambda storage: storage.delete_session(session_id="session-1"),
    "load_manifest": lambda storage: storage.load_manifest(location=LOCATION),
    "save_manifest": lambda storage: storage.save_manifest(
        location=LOCATION, manifest=SnapshotManifest("1.0", "now")
    ),
}
EACH_OPERATION = pytest.mark.parametrize("operation", OPERATIONS)


class Store(MemoryObjectStore):
    """An object store that can be held up, and that counts what is asked of it."""

    def __init__(self):
        super().__init__()
        self.calls = []
        self.reached = asyncio.Event()
        self.gate = asyncio.Event()
        self.gate.set()
        self.refusal = None

    async def _pass(self, call):
        self.calls.append(call)
        self.reached.set()
        await self.gate.wait()

    async def open(self):
        await self._pass("open")
        if self.refusal is not None:
            raise self.refusal

    async def aclose(self):
        await self._pass("aclose")

    async def get(self, key, *, max_bytes):
        await self._pass("get")
        return await super().get(key, max_bytes=max_bytes)

    async def put(self, key, data, *, if_match=None, if_none_match=False):
        await self._pass("put")
        return await super().put(key, data, if_match=if_match, if_none_match=if_none_match)

    async def scan(self, prefix, *, start_after=None, page_size=1000):
        await self._pass("scan")
        async with aclosing(
            super().scan(prefix, start_after=start_after, page_size=page_size)
        ) as pages:
            async for page in pages:
                yield page
                await self._pass("scan")

    async def delete(self, keys):
        await self._pass("delete")
        return await super().delete(keys)


async def held_up(store, work):
    """Start some work on an open storage and hold it up in the store."""
    store.reached.clear()
    store.gate.clear()
    task = asyncio.ensure_future(work)
    await soon(store.reached.wait())
    return task


async def settle():
    """Let every other task go as far as it can."""
    for _ in range(20):
        await asyncio.sleep(0)


def soon(awaitable):
    """Give up on what would otherwise hang."""
    return asyncio.wait_for(awaitable, TIMEOUT)


# Out of turn.


@EACH_OPERATION
async def test_a_storage_that_was_never_opened_is_refused(storage, operation):
    with pytest.raises(StorageClosedError, match=f"{type(storage).__name__} is closed") as caught:
        await OPERATIONS[operation](storage)

    assert "async with" in str(caught.value)


@EACH_OPERATION
async def test_a_storage_that_was_closed_is_refused(storage, operation):
    async with storage:
        await OPERATIONS[operation](storage)

    with pytest.raises(StorageClosedError):
        await OPERATIONS[operation](storage)


@EACH_OPERATION
async def test_a_refused_operation_asks_nothing_of_the_store(operation):
    store = Store()
    storage = ObjectSnapshotStorage(store)

    with pytest.raises(StorageClosedError):
        await OPERATIONS[operation](storage)

    assert store.calls == []


async def test_a_storage_that_is_open_is_not_opened_again(storage):
    async with storage:
        with pytest.raises(LifecycleError, match="already open") as caught:
            await storage.open()
        with pytest.raises(LifecycleError, match="already open"):
            async with storage:
                pass

        assert type(caught.value) is LifecycleError
        await storage.load_snapshot(location=LOCATION)


async def test_storage_being_opened_cannot_be_used_or_closed():
    store = Store()
    storage = ObjectSnapshotStorage(store)
    opening = await held_up(store, storage.open())

    with pytest.raises(LifecycleError, match="being opened"):
        await storage.open()
    with pytest.raises(LifecycleError, match="being opened"):
        await storage.aclose()
    with pytest.raises(StorageClosedError, match="being opened"):
        await storage.load_snapshot(location=LOCATION)

    store.gate.set()
    await soon(opening)
    assert await storage.load_snapshot(location=LOCATION) is None
    await storage.aclose()
    assert store.calls == ["open", "get", "aclose"]


async def test_closing_is_idempotent(storage):
    await storage.aclose()
    await storage.open()
    await storage.aclose()
    await storage.aclose()

    async with storage:
        await storage.aclose()


async def test_a_closed_storage_opens_again_with_all_that_was_saved(storage):
    async with storage:
        saved = await storage.checkpoint(location=LOCATION, snapshot=snapshot())
    async with storage:
        assert await storage.load_snapshot(location=LOCATION) == snapshot()
        assert await storage.list_snapshot_ids(location=LOCATION) == [saved.snapshot_id]


async def test_async_with_closes_the_storage_after_an_error(storage):
    async def fail():
        async with storage as opened:
            assert opened is storage
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()

    with pytest.raises(StorageClosedError):
        await storage.load_snapshot(location=LOCATION)


# Opening that comes to nothing.


async def test_a_cancelled_open_leaves_a_storage_closed():
    store = Store()
    storage = ObjectSnapshotStorage(store)
    opening = await held_up(store, storage.open())

    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await soon(opening)

    store.gate.set()
    with pytest.raises(StorageClosedError):
        await storage.load_snapshot(location=LOCATION)
    async with storage:
        assert await storage.load_snapshot(location=LOCATION) is None


async def test_a_failing_open_leaves_a_storage_closed():
    store = Store()
    storage = ObjectSnapshotStorage(store)

    store.refusal = StorageError("no such store")
    with pytest.raises(StorageError, match="no such store"):
        await storage.open()

    with pytest.raises(StorageClosedError):
        await storage.load_snapshot(location=LOCATION)
    store.refusal = None
    async with storage:
        assert await storage.load_snapshot(location=LOCATION) is None


# Closing.


@pytest.mark.parametrize(
    "operation", [name for name in OPERATIONS if name not in {"list none", "iter_snapshot_ids"}]
)
async def test_closing_waits_for_an_operation_under_way(operation):
    store = Store()
    storage = ObjectSnapshotStorage(store)
    await storage.open()
    await storage.checkpoint(location=LOCATION, snapshot=snapshot())
    working = await held_up(store, OPERATIONS[operation](storage))
    closing = asyncio.create_task(storage.aclose())
    await settle()

    assert not closing.done()
    assert not working.done()
    assert "aclose" not in store.calls

    store.gate.set()
    await soon(closing)
    await working
    assert store.calls[-1] == "aclose"


async def test_close_waits_for_a_page_and_not_for_its_reader():
    store = Store()
    storage = ObjectSnapshotStorage(store)
    await storage.open()
    saved = await storage.checkpoint(location=LOCATION, snapshot=snapshot())
    async with aclosing(storage.iter_snapshot_ids(location=LOCATION)) as ids:
        page = await held_up(store, anext(ids))
        closing = asyncio.create_task(storage.aclose())
        await settle()
        assert not closing.done()

        store.gate.set()
        assert await soon(page) == saved.snapshot_id
        await soon(closing)
        with pytest.raises(StorageClosedError):
            await anext(ids)


async def test_close_waits_for_a_listing_of_many_pages():
    store = Store()
    storage = ObjectSnapshotStorage(store)
    folder = "session-1/scopes/agent/weather/snapshots/immutable_history"
    ids = [new_snapshot_id() for _ in range(2_500)]
    store.objects = {f"{folder}/snapshot_{snapshot_id}.json": b"{}" for snapshot_id in ids}
    await storage.open()
    listing = await held_up(store, storage.list_snapshot_ids(location=LOCATION))
    closing = asyncio.create_task(storage.aclose())
    await settle()

    store.gate.set()

    assert await soon(listing) == ids
    await soon(closing)
    assert store.calls[-1] == "aclose"


async def test_close_waits_for_a_delete_of_many_pages():
    store = Store()
    storage = ObjectSnapshotStorage(store)
    store.objects = {f"{SNAPSHOTS}/file-{n:04}": b"" for n in range(2_500)}
    await storage.open()
    deleting = await held_up(store, storage.delete_session(session_id="session-1"))
    closing = asyncio.create_task(storage.aclose())
    await settle()

    store.gate.set()

    assert (await deleting).objects == 2_500
    await soon(closing)
    assert store.objects == {}
    assert store.calls[-1] == "aclose"


async def test_listing_cut_by_a_close_is_an_error_and_not_an_end():
    store = Store()
    storage = ObjectSnapshotStorage(store)
    folder = "session-1/scopes/agent/weather/snapshots/immutable_history"
    ids = [new_snapshot_id() for _ in range(1_500)]
    store.objects = {f"{folder}/snapshot_{snapshot_id}.json": b"{}" for snapshot_id in ids}
    seen = []
    await storage.open()
    async with aclosing(storage.iter_snapshot_ids(location=LOCATION)) as walking:
        seen.append(await anext(walking))
        await storage.aclose()
        with pytest.raises(StorageClosedError):
            seen.extend([snapshot_id async for snapshot_id in walking])

    assert store.calls == ["open", "scan", "aclose"]


async def test_new_operations_are_refused_while_closing_waits():
    store = Store()
    storage = ObjectSnapshotStorage(store)
    await storage.open()
    working = await held_up(store, storage.load_snapshot(location=LOCATION))
    closing = asyncio.create_task(storage.aclose())
    await settle()
    calls = list(store.calls)

    for operation in OPERATIONS.values():
        with pytest.raises(StorageClosedError, match="being closed"):
            await operation(storage)
    with pytest.raises(LifecycleError, match="being closed"):
        await storage.open()

    assert store.calls == calls
    store.gate.set()
    await soon(asyncio.gather(working, closing))


async def test_closing_twice_at_once_closes_once_and_both_wait_for_it():
    store = Store()
    storage = ObjectSnapshotStorage(store)
    await storage.open()
    first = await held_up(store, storage.aclose())
    second = asyncio.create_task(storage.aclose())
    await settle()

    assert not first.done()
    assert not second.done()

    store.gate.set()
    await soon(asyncio.gather(first, second))
    assert store.calls == ["open", "aclose"]


async def test_closing_that_was_cancelled_can_be_finished():
    store = Store()
    storage = ObjectSnapshotStorage(store)
    await storage.open()
    working = await held_up(store, storage.load_snapshot(location=LOCATION))
    closing = asyncio.create_task(storage.aclose())
    await settle()

    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await soon(closing)
    with pytest.raises(StorageClosedError):
        await storage.load_snapshot(location=LOCATION)

    store.gate.set()
    await soon(working)
    await storage.aclose()
    assert store.calls == ["open", "get", "aclose"]


async def test_closing_waits_for_all_of_many_operations():
    store = Store()
    storage = ObjectSnapshotStorage(store)
    await storage.open()
    store.gate.clear()
    working = [
        asyncio.create_task(operation(storage))
        for name, operation in OPERATIONS.items()
        if not name.startswith(("iter", "list"))
    ]
    await settle()
    working.pop().cancel()
    closing = asyncio.create_task(storage.aclose())
    await settle()

    assert not closing.done()
    store.gate.set()
    await soon(asyncio.gather(closing, *working))
    assert store.calls.count("aclose") == 1
    assert store.calls[-1] == "aclose"


# Another loop.


def run_in_thread(coroutine):
    """Run a coroutine on a loop of its own, in a thread of its own, beside the running loop."""
    return asyncio.to_thread(asyncio.run, coroutine)


@EACH_OPERATION
async def test_use_from_the_loop_of_another_thread_is_refused(storage, operation):
    async def use():
        with pytest.raises(WrongEventLoopError, match="another event loop"):
            await OPERATIONS[operation](storage)

    async with storage:
        await run_in_thread(use())
        await OPERATIONS[operation](storage)


@EACH_OPERATION
async def test_use_from_another_loop_asks_nothing_of_the_store(operation):
    store = Store()

    async def use(storage):
        with pytest.raises(WrongEventLoopError):
            await OPERATIONS[operation](storage)

    async with ObjectSnapshotStorage(store) as storage:
        await run_in_thread(use(storage))
        assert store.calls == ["open"]


async def test_a_storage_is_closed_only_on_its_own_loop(storage):
    async def close():
        with pytest.raises(WrongEventLoopError):
            await storage.aclose()

    async with storage:
        await run_in_thread(close())
        assert await storage.load_snapshot(location=LOCATION) is None


async def test_a_listing_is_not_continued_on_another_loop(storage):
    async def go_on(ids):
        with pytest.raises(WrongEventLoopError):
            await anext(ids)

    async with storage:
        await storage.checkpoint(location=LOCATION, snapshot=snapshot())
        ids = storage.iter_snapshot_ids(location=LOCATION)
        await run_in_thread(go_on(ids))
        await ids.aclose()


def test_a_second_run_is_another_loop(storage):
    with asyncio.Runner() as first, asyncio.Runner() as second:
        first.run(storage.open())
        for operation in OPERATIONS.values():
            with pytest.raises(WrongEventLoopError):
                second.run(operation(storage))
        assert first.run(storage.load_snapshot(location=LOCATION)) is None
        first.run(storage.aclose())


def test_a_closed_storage_opens_on_another_loop(storage):
    async def use(expected):
        async with storage:
            assert await storage.load_snapshot(location=LOCATION) == expected
            await storage.save_snapshot(location=LOCATION, snapshot=snapshot(), is_latest=True)

    asyncio.run(use(None))
    asyncio.run(use(snapshot()))
    asyncio.run(use(snapshot()))


def test_a_closed_storage_may_be_closed_from_any_loop(storage):
    async def use():
        async with storage:
            pass

    asyncio.run(use())
    asyncio.run(storage.aclose())


def test_without_an_asyncio_loop_a_storage_does_not_open(storage):
    # As under trio: a coroutine is awaited, and no loop of asyncio runs.
    opening = storage.open()

    with pytest.raises(WrongEventLoopError, match="asyncio"):
        opening.send(None)


def test_without_an_asyncio_loop_an_open_storage_is_refused(storage):
    with asyncio.Runner() as runner:
        runner.run(storage.open())
        for operation in OPERATIONS.values():
            with pytest.raises(WrongEventLoopError, match="asyncio"):
                operation(storage).send(None)
        runner.run(storage.aclose())


async def test_two_loops_use_one_store_through_two_storages(tmp_path):
    async def save():
        async with FileStorage(tmp_path) as other:
            await other.checkpoint(location=LOCATION, snapshot=snapshot())

    async with FileStorage(tmp_path) as storage:
        await run_in_thread(save())
        assert await storage.load_snapshot(location=LOCATION) == snapshot()


def test_a_storage_may_be_made_where_no_loop_runs(tmp_path):
    made = []
    thread = threading.Thread(target=lambda: made.append(FileStorage(tmp_path)))
    thread.start()
    thread.join()

    assert asyncio.run(use_each(made[0])) is None


async def use_each(storage):
    async with storage:
        for operation in OPERATIONS.values():
            await operation(storage)


# Left open.


async def open_and_leave(storage):
    await storage.open()


async def open_and_close(storage):
    async with storage:
        pass


async def make_only(storage):
    pass


def warnings_of_collecting(make, use):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        asyncio.run(use(make()))
        gc.collect()
    return [(warning.category, str(warning.message)) for warning in caught]


@pytest.mark.parametrize("kind", [MemoryStorage, FileStorage])
def test_a_storage_that_is_collected_while_it_is_open_warns(tmp_path, kind):
    arguments = [tmp_path] if kind is FileStorage else []

    [(category, message)] = warnings_of_collecting(lambda: kind(*arguments), open_and_leave)

    assert category is ResourceWarning
    assert message.startswith(f"{kind.__name__} was never closed")


@pytest.mark.parametrize("kind", [MemoryStorage, FileStorage])
@pytest.mark.parametrize("use", [make_only, open_and_close])
def test_storage_collected_while_closing_does_not_warn(tmp_path, kind, use):
    arguments = [tmp_path] if kind is FileStorage else []

    assert warnings_of_collecting(lambda: kind(*arguments), use) == []


def test_large_snapshots_load_on_one_loop_after_another():
    storage = MemoryStorage()
    location = SnapshotLocation.agent("s-1", "weather")
    snapshot = Snapshot.new({"messages": [f"{number}:{'x' * 1000}" for number in range(1000)]})

    async def load_at_once():
        async with storage:
            await storage.save_snapshot(location=location, snapshot=snapshot, is_latest=True)
            loads = (storage.load_snapshot(location=location) for _ in range(5))
            assert await asyncio.gather(*loads) == [snapshot] * 5

    asyncio.run(load_at_once())
    asyncio.run(load_at_once())


# A loop that has ended.


def ended_by_run(coroutine):
    asyncio.run(coroutine)


def ended_by_closing(coroutine):
    """As older programs do: the loop is not asked to shut anything down."""
    loop = asyncio.new_event_loop()
    loop.run_until_complete(coroutine)
    loop.close()


EACH_END = pytest.mark.parametrize("end", [ended_by_run, ended_by_closing])


@EACH_END
def test_with_its_loop_a_storage_is_closed(storage, end):
    end(storage.open())

    async def use():
        for operation in OPERATIONS.values():
            with pytest.raises(StorageClosedError):
                await operation(storage)
        await storage.aclose()
        await storage.aclose()
        async with storage:
            assert await storage.load_snapshot(location=LOCATION) is None
            await storage.save_snapshot(location=LOCATION, snapshot=snapshot(), is_latest=True)

    asyncio.run(use())


@EACH_END
def test_a_storage_whose_loop_has_ended_may_be_opened_at_once(storage, end):
    for _ in range(3):
        end(storage.open())

    async def use():
        async with storage:
            assert await storage.load_snapshot(location=LOCATION) is None

    asyncio.run(use())


@EACH_END
@pytest.mark.parametrize("kind", [MemoryStorage, FileStorage])
def test_storage_of_a_closed_loop_is_collected_silently(tmp_path, kind, end):
    storage = kind(*([tmp_path] if kind is FileStorage else []))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        end(storage.open())
        del storage
        gc.collect()
    assert caught == []


def test_what_is_left_open_is_released_before_its_loop_ends():
    class Released(Store):
        async def aclose(self):
            await asyncio.sleep(0)
            await super().aclose()

    store = Released()
    storage = ObjectSnapshotStorage(store)
    asyncio.run(storage.open())
    assert store.calls == ["open", "aclose"]
    asyncio.run(storage.aclose())
    assert store.calls == ["open", "aclose"]


def test_storage_dropped_open_is_released_on_its_loop():
    store = Store()

    async def use():
        await ObjectSnapshotStorage(store).open()
        while store.calls != ["open", "aclose"]:
            await asyncio.sleep(0.01)

    with warnings.catch_warnings(action="ignore", category=ResourceWarning):
        # A warning that was recorded would hold what it warns of.
        asyncio.run(asyncio.wait_for(use(), TIMEOUT))


def test_close_does_not_wait_for_operations_of_a_closed_loop():
    store = Store()
    storage = ObjectSnapshotStorage(store)
    loop = asyncio.new_event_loop()
    loop.run_until_complete(storage.open())
    store.gate.clear()
    tasks = [loop.create_task(storage.load_snapshot(location=LOCATION)) for _ in range(5)]
    tasks.append(loop.create_task(storage.aclose()))
    loop.run_until_complete(asyncio.sleep(0.01))
    for task in tasks:
        task._log_destroy_pending = False  # noqa: SLF001 -- that they are lost is the point
    loop.close()

    async def use():
        store.gate = asyncio.Event()
        store.gate.set()
        await storage.open()
        tasks.clear()
        gc.collect()  # now the lost coroutines end, which were of another life
        assert await storage.load_snapshot(location=LOCATION) is None
        await soon(storage.aclose())
        with pytest.raises(StorageClosedError):
            await storage.load_snapshot(location=LOCATION)

    asyncio.run(use())


def test_open_cut_by_the_end_of_its_loop_leaves_it_closed():
    store = Store()
    storage = ObjectSnapshotStorage(store)
    loop = asyncio.new_event_loop()
    store.gate.clear()
    opening = loop.create_task(storage.open())
    loop.run_until_complete(asyncio.sleep(0.01))
    opening._log_destroy_pending = False  # noqa: SLF001 -- that it is lost is the point
    loop.close()

    async def use():
        store.gate = asyncio.Event()
        store.gate.set()
        async with storage:
            nonlocal opening
            opening = None
            gc.collect()
            assert await storage.load_snapshot(location=LOCATION) is None

    asyncio.run(use())
