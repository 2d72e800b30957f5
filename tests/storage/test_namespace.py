"""Namespaces: storages under a longer prefix, with the life of the one they came from."""

import asyncio

import pytest

from snapstore import (
    FileStorage,
    InvalidIdentifierError,
    MemoryStorage,
    S3Storage,
    Snapshot,
    SnapshotLocation,
    StorageClosedError,
)

LOCATION = SnapshotLocation.agent("session-1", "weather")
LATEST = "session-1/scopes/agent/weather/snapshots/snapshot_latest.json"


def snapshot(n=1):
    return Snapshot("agent", "1.0", "2026-11-22T11:13:20.395Z", {"n": n}, {})


def save(storage, n=1):
    return storage.save_snapshot(location=LOCATION, snapshot=snapshot(n), is_latest=True)


@pytest.fixture(params=["memory", "file"])
def storage(request, tmp_path):
    return MemoryStorage() if request.param == "memory" else FileStorage(tmp_path / "store")


async def test_namespaces_share_a_store_and_no_key(storage):
    one, two = storage.namespace("tenant-1"), storage.namespace("tenant-2")
    async with storage:
        await save(one, 1)
        await save(two, 2)
        assert await storage.load_snapshot(location=LOCATION) is None
        assert (await one.load_snapshot(location=LOCATION)).data == {"n": 1}
        assert (await one.delete_session(session_id="session-1")).objects == 1
        assert (await two.load_snapshot(location=LOCATION)).data == {"n": 2}


async def test_a_namespace_of_a_namespace_has_both_segments():
    async with MemoryStorage(prefix="prod") as storage:
        await save(storage.namespace("org").namespace("team"))
        assert list(storage.objects.store.objects) == [f"prod/org/team/{LATEST}"]


async def test_a_namespace_writes_where_a_prefix_would(tmp_path):
    async with FileStorage(tmp_path, prefix="prod/tenant-7") as storage:
        await save(storage)
    async with FileStorage(tmp_path, prefix="prod") as storage:
        assert await storage.namespace("tenant-7").load_snapshot(location=LOCATION) == snapshot()
    assert (tmp_path / "prod" / "tenant-7" / LATEST).is_file()


async def test_a_namespace_is_open_while_its_origin_is(storage):
    view = storage.namespace("tenant-7")
    with pytest.raises(StorageClosedError):
        await save(view)
    async with storage:
        await save(view)
        later = storage.namespace("tenant-7")
        assert await later.load_snapshot(location=LOCATION) == snapshot()
    with pytest.raises(StorageClosedError):
        await view.load_snapshot(location=LOCATION)


async def test_to_open_and_to_close_a_namespace_does_nothing(storage):
    view = storage.namespace("tenant-7")
    await view.open()
    with pytest.raises(StorageClosedError):
        await save(view)
    async with storage:
        async with view as entered:
            assert entered is view
            await save(view)
        await view.aclose()
        assert await view.load_snapshot(location=LOCATION) == snapshot()
        assert await storage.load_snapshot(location=LOCATION) is None


async def test_closing_waits_for_an_operation_of_a_namespace():
    async with MemoryStorage() as storage:
        reached, gate = asyncio.Event(), asyncio.Event()

        async def update(_):
            reached.set()
            await gate.wait()
            return snapshot()

        view = storage.namespace("tenant-7")
        updating = asyncio.ensure_future(view.update_latest(location=LOCATION, update=update))
        await reached.wait()
        closing = asyncio.ensure_future(storage.aclose())
        await asyncio.sleep(0)
        assert not closing.done()
        gate.set()
        await updating
        await closing


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "/", "a/b", "/a", "a/", "\n", "a\x00", "\udc80", "x" * 500, None, 7, b"a"],
    ids=repr,
)
async def test_a_name_that_is_no_segment_is_an_error(storage, name):
    with pytest.raises(InvalidIdentifierError):
        storage.namespace(name)


async def test_namespace_made_before_open_loads_a_large_snapshot():
    storage = MemoryStorage()
    view = storage.namespace("tenant-7")
    large = Snapshot("agent", "1.0", "2026-11-22T11:13:20.395Z", {"text": ["x" * 1000] * 1000}, {})
    async with storage:
        await view.save_snapshot(location=LOCATION, snapshot=large, is_latest=True)
        assert await view.load_snapshot(location=LOCATION) == large


def test_a_namespace_has_the_class_of_its_origin():
    class Own(S3Storage):
        pass

    assert type(Own("bucket", region="us-east-1").namespace("tenant-7")) is Own


async def test_a_check_of_a_namespace_leaves_nothing(storage):
    async with storage:
        view = storage.namespace("tenant-7")
        report = await view.check()
        assert report.ok, str(report)
