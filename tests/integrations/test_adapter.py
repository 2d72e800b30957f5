"""What adapters have in common: their life, and the way to their store."""

import asyncio
import copy
import gc
import pickle
import sys
import threading
import warnings
from contextlib import aclosing, suppress

import pytest

import snapstore
from snapstore.integrations.adapter import StoreAdapter, both, delete_keys
from snapstore.stores import (
    FileObjectStore,
    ManagedStore,
    MemoryObjectStore,
    PreconditionFailedError,
    S3ObjectStore,
)
from snapstore.testing import FaultyObjectStore, StoreFault, faults_in_turn


class Notes(StoreAdapter):
    """Keeps notes."""

    def __init__(self, store, *, prefix="", timeout=60.0):
        super().__init__(store, prefix=prefix, timeout=timeout, longest=100)

    async def write(self, name, text):
        await self._run(lambda store: store.put(self._base + name, text))

    async def run(self, work):
        return await self._run(work)

    async def read(self, name):
        found = await self._run(lambda store: store.get(self._base + name, max_bytes=100))
        return found and found.data

    def read_now(self, name):
        found = self._call(lambda store: store.get(self._base + name, max_bytes=100))
        return found and found.data


async def test_it_is_opened_by_async_with_or_on_first_use():
    store = MemoryObjectStore()
    async with Notes(store, prefix="p") as notes:
        await notes.write("a", b"1")
    assert store.objects == {"p/a": b"1"}
    notes = Notes(store, prefix="p")
    assert await notes.read("a") == b"1"
    await notes.aclose()
    await notes.aclose()
    with pytest.raises(snapstore.StorageClosedError, match="Notes is closed"):
        await notes.read("a")


def test_it_is_used_from_any_thread_and_any_loop():
    with Notes(MemoryObjectStore()) as notes:
        asyncio.run(notes.write("a", b"1"))
        assert asyncio.run(notes.read("a")) == b"1"
        seen = []
        thread = threading.Thread(target=lambda: seen.append(notes.read_now("a")))
        thread.start()
        thread.join()
        assert seen == [b"1"]


async def test_a_managed_store_is_shared_and_stays_open():
    async with ManagedStore(MemoryObjectStore()) as store:
        before = threading.active_count()
        async with Notes(store) as notes:
            await notes.write("a", b"1")
        assert threading.active_count() == before
        assert await notes.read("a") == b"1"
        with pytest.raises(snapstore.LifecycleError, match="no synchronous calls"):
            notes.read_now("a")
        failure = await asyncio.to_thread(asyncio.run, error_of(lambda: notes.read("a")))
        assert isinstance(failure, snapstore.WrongEventLoopError)
    with pytest.raises(snapstore.StorageClosedError):
        await notes.read("a")


async def test_the_objects_of_a_storage_are_shared():
    async with snapstore.MemoryStorage() as storage:
        notes = Notes(storage.objects, prefix="notes")
        await notes.write("a", b"1")
        assert await notes.read("a") == b"1"


async def error_of(work):
    with pytest.raises(snapstore.SnapstoreError) as caught:
        await work()
    return caught.value


async def test_a_copy_shares_the_life(tmp_path):
    notes = Notes(FileObjectStore(tmp_path))
    await notes.write("a", b"1")
    twin = copy.copy(notes)
    assert await twin.read("a") == b"1"
    await notes.aclose()
    with pytest.raises(snapstore.StorageClosedError):
        await twin.read("a")


@pytest.mark.parametrize("again", [copy.deepcopy, lambda notes: pickle.loads(pickle.dumps(notes))])
async def test_a_deep_copy_has_a_life_of_its_own(tmp_path, again):
    async with Notes(FileObjectStore(tmp_path)) as notes:
        await notes.write("a", b"1")
        other = again(notes)
    async with other:
        assert await other.read("a") == b"1"


async def test_each_request_has_a_deadline():
    store = FaultyObjectStore(MemoryObjectStore())
    async with Notes(store, timeout=0.05) as notes:
        store.fault = faults_in_turn("get", StoreFault(stall=True))
        with pytest.raises(snapstore.StorageTimeoutError):
            await notes.read("a")


async def test_one_that_nobody_closes_warns():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        notes = Notes(MemoryObjectStore())
        await notes.write("a", b"1")
        del notes
        gc.collect()
    assert "Notes was never closed" in str(caught[0].message)


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"prefix": 1}, snapstore.InvalidIdentifierError, "prefix must be a str"),
        ({"prefix": "a\n"}, snapstore.InvalidIdentifierError, "control characters"),
        ({"prefix": "x" * 924}, snapstore.InvalidIdentifierError, "at most 923 bytes"),
        ({"timeout": 0}, ValueError, "timeout must be more than 0"),
    ],
)
def test_bad_arguments_are_refused(arguments, kind, message):
    with pytest.raises(kind, match=message):
        Notes(MemoryObjectStore(), **arguments)


async def test_a_client_of_another_loop_is_refused(s3_client):
    with pytest.raises(TypeError, match="belongs to another event loop"):
        Notes(S3ObjectStore("bucket", client=s3_client))


async def test_if_one_fails_the_others_are_cancelled():
    cancelled = asyncio.Event()

    async def wait():
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    async def fail():
        await asyncio.sleep(0)
        raise snapstore.StorageError("no")

    with pytest.raises(snapstore.StorageError, match="no"):
        await both(wait(), fail())
    assert cancelled.is_set()


async def number(value):
    return value


async def test_the_results_of_both_come_in_order():
    assert await both(number(1), number(2)) == (1, 2)


async def test_keys_that_were_not_deleted_are_named():
    inner = MemoryObjectStore()
    inner.objects.update({f"{n:04}": b"" for n in range(2500)})
    keys = sorted(inner.objects)
    faulty = FaultyObjectStore(inner)
    async with ManagedStore(faulty) as store:
        faulty.fault = faults_in_turn(
            "delete", StoreFault(failed={"0007": "AccessDenied"}), None, StoreFault()
        )
        with pytest.raises(snapstore.PartialDeleteError, match="501 of 2,500") as caught:
            await delete_keys(store, keys)
        failed = caught.value.failed
        assert failed["0007"] == "AccessDenied"
        assert failed["2000"] == "Unconfirmed"
        await delete_keys(store, sorted(failed))
    assert not inner.objects


@pytest.fixture
def switches_often():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


async def test_adapters_of_several_threads_may_share_objects_in_memory(switches_often):
    objects = MemoryObjectStore()
    await objects.put("count", b"0")

    async def count(store):
        counted = 0
        while counted < 300:
            stored = await store.get("count", max_bytes=99)
            following = b"%d" % (int(stored.data) + 1)
            with suppress(PreconditionFailedError):
                await store.put("count", following, if_match=stored.version)
                await store.put(f"{id(store)}/{counted}", b"")
                counted += 1
            async with aclosing(store.scan("")) as pages:
                assert "count" in await anext(pages)

    adapters = [Notes(objects) for _ in range(3)]
    await asyncio.gather(*(adapter.run(count) for adapter in adapters))
    for adapter in adapters:
        await adapter.aclose()
    assert objects.objects["count"] == b"900"
