"""A store under management: opened once, on one loop, drained on close, each call in time."""

import asyncio
import logging
import os
import signal
import subprocess
import sys
from contextlib import aclosing, suppress

import pytest

from snapstore import (
    InvalidResponseError,
    LifecycleError,
    MemoryStorage,
    ObjectSnapshotStorage,
    Snapshot,
    SnapshotLocation,
    StorageClosedError,
    StorageTimeoutError,
    WrongEventLoopError,
)
from snapstore.stores import (
    ManagedStore,
    MemoryObjectStore,
    MetadataStore,
    PreconditionFailedError,
    capability,
)
from snapstore.testing import FaultyObjectStore, StoreFault

LOCATION = SnapshotLocation.agent("session-1", "weather")
LONG = 60
"""Seconds after which a test gives up on what would otherwise hang."""

CALLS = {
    "get": lambda store: store.get("a/1", max_bytes=100),
    "put": lambda store: store.put("a/1", b"one"),
    "scan": lambda store: keys_of(store, "a/"),
    "delete": lambda store: store.delete(["a/1"]),
}
EACH_CALL = pytest.mark.parametrize("call", CALLS)


class Stuck(MemoryObjectStore):
    """A store that takes for ever to open, to close, or to do anything, as it is told."""

    def __init__(self, *never):
        super().__init__()
        self.never = set(never)

    async def _do(self, what):
        if what in self.never:
            await asyncio.Event().wait()

    async def open(self):
        await self._do("open")
        await super().open()

    async def aclose(self):
        await self._do("aclose")
        await super().aclose()

    async def get(self, key, *, max_bytes):
        await self._do("get")
        return await super().get(key, max_bytes=max_bytes)

    async def put(self, key, data, *, if_match=None, if_none_match=False):
        await self._do("put")
        return await super().put(key, data, if_match=if_match, if_none_match=if_none_match)

    async def scan(self, prefix, *, start_after=None, page_size=1000):
        await self._do("scan")
        scan = super().scan(prefix, start_after=start_after, page_size=page_size)
        async with aclosing(scan) as pages:
            async for page in pages:
                yield page

    async def delete(self, keys):
        await self._do("delete")
        return await super().delete(keys)


async def keys_of(store, prefix, **options):
    async with aclosing(store.scan(prefix, **options)) as pages:
        return [key async for page in pages for key in page]


def snapshot():
    return Snapshot("agent", "1.0", "2026-11-22T11:13:20.395Z", {"n": 1}, {})


async def test_a_managed_store_forwards_each_call():
    async with ManagedStore(MemoryObjectStore()) as store:
        version = await store.put("a/1", b"one", if_none_match=True)
        with pytest.raises(PreconditionFailedError):
            await store.put("a/1", b"two", if_none_match=True)
        await store.put("a/1", b"two", if_match=version)
        await store.put("a/2", b"three")

        assert (await store.get("a/1", max_bytes=100)).data == b"two"
        assert await store.get("a/3", max_bytes=100) is None
        assert await keys_of(store, "a/") == ["a/1", "a/2"]
        assert await keys_of(store, "a/", start_after="a/1", page_size=1) == ["a/2"]
        assert await store.delete(["a/1"]) == {}
        assert await store.delete([]) == {}
        assert await keys_of(store, "a/") == ["a/2"]


@EACH_CALL
async def test_a_call_outside_of_a_life_asks_nothing(call):
    inner = FaultyObjectStore(MemoryObjectStore())
    store = ManagedStore(inner)
    with pytest.raises(StorageClosedError, match="ManagedStore of"):
        await CALLS[call](store)
    async with store:
        pass
    with pytest.raises(StorageClosedError):
        await CALLS[call](store)

    assert inner.calls == []


@EACH_CALL
async def test_a_call_from_another_loop_asks_nothing(call):
    inner = FaultyObjectStore(MemoryObjectStore())
    async with ManagedStore(inner) as store:
        with pytest.raises(WrongEventLoopError):
            await asyncio.to_thread(lambda: asyncio.run(CALLS[call](store)))

    assert inner.calls == []


@EACH_CALL
async def test_a_call_ends_by_its_deadline(call):
    async with ManagedStore(Stuck(call), timeout=0.05) as store:
        with pytest.raises(StorageTimeoutError, match=call) as caught:
            await CALLS[call](store)

    writes = call in ("put", "delete")
    assert caught.value.outcome == ("unknown" if writes else None)
    assert caught.value.key in ("a/1", "a/")


async def test_a_listing_that_is_not_of_its_prefix_is_an_error():
    class Strange(MemoryObjectStore):
        async def scan(self, prefix, *, start_after=None, page_size=1000):
            yield ["a/1", "b/1"]

    async with ManagedStore(Strange()) as store:
        with pytest.raises(InvalidResponseError, match="not under it"):
            await keys_of(store, "a/")


@pytest.mark.parametrize("timeout", [0, -1, float("nan")])
def test_a_timeout_is_positive(timeout):
    with pytest.raises(ValueError, match="timeout"):
        ManagedStore(MemoryObjectStore(), timeout=timeout)


async def test_opening_ends_by_the_deadline(monkeypatch):
    monkeypatch.setattr("snapstore.stores.lifecycle._LEAST_TO_OPEN", 0.05)
    inner = Stuck("open")
    store = ManagedStore(inner, timeout=0.05)
    with pytest.raises(StorageTimeoutError, match="open of ManagedStore of"):
        await store.open()
    with pytest.raises(StorageClosedError):
        await store.get("a/1", max_bytes=100)

    inner.never.clear()
    async with store:
        assert await store.get("a/1", max_bytes=100) is None


async def test_closing_ends_by_the_deadline():
    store = ManagedStore(Stuck("aclose"), timeout=0.05)
    await store.open()
    with pytest.raises(StorageTimeoutError, match="close of ManagedStore of"):
        await store.aclose()
    with pytest.raises(StorageClosedError):
        await store.get("a/1", max_bytes=100)


async def test_close_waits_for_an_operation_until_its_deadline(caplog):
    storage = ObjectSnapshotStorage(MemoryObjectStore(), timeout=0.05)
    await storage.open()
    reached, gate = asyncio.Event(), asyncio.Event()

    async def update(_):
        reached.set()
        await gate.wait()
        return snapshot()

    updating = asyncio.ensure_future(storage.update_latest(location=LOCATION, update=update))
    await asyncio.wait_for(reached.wait(), LONG)
    with caplog.at_level(logging.WARNING, logger="snapstore"):
        await asyncio.wait_for(storage.aclose(), LONG)
    gate.set()
    with pytest.raises(StorageClosedError):
        await asyncio.wait_for(updating, LONG)

    assert "1 operations have not ended" in caplog.text
    async with storage:
        assert await storage.load_snapshot(location=LOCATION) is None


@pytest.mark.parametrize(
    "close",
    [
        lambda storage: storage.aclose(),
        lambda storage: asyncio.wait_for(storage.aclose(), LONG),
        lambda storage: asyncio.gather(storage.aclose()),
        lambda storage: asyncio.create_task(storage.aclose()),
    ],
    ids=["await", "wait_for", "gather", "task"],
)
@pytest.mark.parametrize("timeout", [None, 60.0])
async def test_close_inside_an_operation_is_an_error(timeout, close):
    async with (
        ObjectSnapshotStorage(MemoryObjectStore(), timeout=timeout) as storage,
        MemoryStorage() as other,
    ):

        async def update(_):
            with pytest.raises(LifecycleError, match="inside one of its own operations"):
                await close(storage)
            return snapshot()

        async def update_inside(_):
            await storage.update_latest(location=LOCATION, update=update)
            return snapshot()

        for work in (
            storage.update_latest(location=LOCATION, update=update),
            other.update_latest(location=LOCATION, update=update_inside),
        ):
            await asyncio.wait_for(work, LONG)
        assert await storage.load_snapshot(location=LOCATION) == snapshot()


async def test_close_by_a_task_of_an_operation_that_has_ended():
    async with MemoryStorage() as storage:
        go_on, closing = asyncio.Event(), []

        async def close_later():
            await go_on.wait()
            await storage.aclose()

        def update(_):
            closing.append(asyncio.create_task(close_later()))
            return snapshot()

        await storage.update_latest(location=LOCATION, update=update)
        go_on.set()
        await asyncio.wait_for(closing[0], LONG)
        with pytest.raises(StorageClosedError):
            await storage.load_snapshot(location=LOCATION)


async def test_close_waits_for_a_call_by_a_task_that_outlives_its_operation():
    inner, gate, reached = MemoryObjectStore(), asyncio.Event(), asyncio.Event()
    get = inner.get

    async def wait_and_get(key, *, max_bytes):
        reached.set()
        await gate.wait()
        return await get(key, max_bytes=max_bytes)

    inner.get = wait_and_get
    store = ManagedStore(inner)
    await store.open()
    with store.use():
        reading = asyncio.create_task(store.get("a/1", max_bytes=100))
        await reached.wait()
    closing = asyncio.create_task(store.aclose())
    done, _ = await asyncio.wait([closing], timeout=0.05)
    assert not done
    gate.set()
    assert await asyncio.wait_for(reading, LONG) is None
    await asyncio.wait_for(closing, LONG)


async def test_operation_inside_another_goes_on_while_a_close_waits():
    async with MemoryStorage() as storage, MemoryStorage() as other:
        reached, gate = asyncio.Event(), asyncio.Event()

        async def update(_):
            reached.set()
            await gate.wait()
            await storage.save_snapshot(location=LOCATION, snapshot=snapshot(), is_latest=False)
            return snapshot()

        async def copy(_):
            await other.update_latest(location=LOCATION, update=update)
            return snapshot()

        copying = asyncio.create_task(storage.update_latest(location=LOCATION, update=copy))
        await asyncio.wait_for(reached.wait(), LONG)
        closing = asyncio.create_task(storage.aclose())
        await asyncio.sleep(0)
        gate.set()
        await asyncio.wait_for(copying, LONG)
        await asyncio.wait_for(closing, LONG)
    async with storage:
        assert len(await storage.list_snapshot_ids(location=LOCATION)) == 1


async def test_operation_that_outlives_its_close_ends_there():
    """Also where the storage was opened again meanwhile, whose own operations it leaves alone."""
    storage = ObjectSnapshotStorage(MemoryObjectStore(), timeout=0.05)
    gates = [asyncio.Event(), asyncio.Event()]
    reached = [asyncio.Event(), asyncio.Event()]

    def begin(number):
        async def update(_):
            reached[number].set()
            await gates[number].wait()
            return snapshot()

        return asyncio.create_task(storage.update_latest(location=LOCATION, update=update))

    await storage.open()
    first = begin(0)
    await asyncio.wait_for(reached[0].wait(), LONG)
    await storage.aclose()

    await storage.open()
    second = begin(1)
    await asyncio.wait_for(reached[1].wait(), LONG)
    gates[0].set()
    with pytest.raises(StorageClosedError):
        await asyncio.wait_for(first, LONG)
    assert await storage.load_snapshot(location=LOCATION) is None
    gates[1].set()
    await asyncio.wait_for(second, LONG)
    assert await storage.load_snapshot(location=LOCATION) == snapshot()
    await storage.aclose()


async def test_use_is_entered_only_once():
    async with ManagedStore(MemoryObjectStore()) as store:
        use = store.use()
        with use, pytest.raises(LifecycleError, match="only once"):
            use.__enter__()
        with pytest.raises(LifecycleError, match="only once"):
            use.__enter__()


async def test_managed_store_has_the_metadata_of_its_store():
    async with ManagedStore(MemoryObjectStore()) as store:
        assert capability(store, MetadataStore) is store
        await store.put_with_metadata("a/1", b"one", {"kind": "note"})
        assert (await store.get("a/1", max_bytes=100)).metadata == {"kind": "note"}

    async with ObjectSnapshotStorage(ManagedStore(MemoryObjectStore())) as storage:
        saved = await storage.checkpoint(location=LOCATION, snapshot=snapshot())
        read = await storage.load_versioned(location=LOCATION)
        assert read.snapshot_id == saved.snapshot_id


async def test_managed_store_without_metadata_says_so():
    class Plain(Stuck):
        def capability(self, kind):
            return None

    async with ManagedStore(Plain()) as store:
        assert capability(store, MetadataStore) is None
        with pytest.raises(TypeError, match="Plain keeps no metadata"):
            await store.put_with_metadata("a/1", b"one", {})


async def test_other_operations_are_refused_while_closing_waits():
    async def stall(_):
        return StoreFault(stall=True)

    inner = FaultyObjectStore(MemoryObjectStore(), stall)
    async with ManagedStore(inner) as store:
        call = asyncio.ensure_future(store.get("a/1", max_bytes=100))
        while not inner.calls:
            await asyncio.sleep(0)
        closing = asyncio.ensure_future(store.aclose())
        await asyncio.sleep(0)
        with pytest.raises(StorageClosedError, match="being closed"):
            await store.get("a/2", max_bytes=100)
        call.cancel()
        await asyncio.wait_for(closing, LONG)


HANGING_PROGRAM = """
import os, sys, time
open(sys.argv[1], "w").write(str(os.getpid()))
time.sleep(600)
"""

OPEN_IT = """
import asyncio
from snapstore import S3Storage, StorageTimeoutError

async def main():
    try:
        await S3Storage("bucket", endpoint_url="http://127.0.0.1:9", timeout=3).open()
    except StorageTimeoutError as error:
        print(error)

asyncio.run(main())
"""


def test_credential_process_that_hangs_blocks_no_open_or_exit(tmp_path):
    program, pid = tmp_path / "program.py", tmp_path / "pid"
    program.write_text(HANGING_PROGRAM)
    config = tmp_path / "config"
    config.write_text(
        f"[default]\nregion = us-east-1\ncredential_process = {sys.executable} {program} {pid}\n"
    )
    env = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    env |= {
        "AWS_CONFIG_FILE": str(config),
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", OPEN_IT],
        env=env,
        capture_output=True,
        text=True,
        timeout=LONG,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert "open of S3Storage did not end by its deadline" in done.stdout
    with suppress(ProcessLookupError):
        os.kill(int(pid.read_text()), signal.SIGKILL)
