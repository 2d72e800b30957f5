"""`on_operation`: one record for each operation, without content, and without effect on it."""

import asyncio
import functools
import inspect
import logging
from contextlib import aclosing
from contextvars import ContextVar
from datetime import UTC, datetime

import pytest

from snapstore import (
    FileStorage,
    InvalidIdentifierError,
    MemoryStorage,
    ObjectSnapshotStorage,
    OperationRecord,
    S3Storage,
    Snapshot,
    SnapshotConflictError,
    SnapshotLocation,
    SnapshotManifest,
    StorageClosedError,
    StorageTimeoutError,
    WrongEventLoopError,
    new_snapshot_id,
)
from snapstore.stores import MemoryObjectStore
from snapstore.testing.proxy import Fault, recording_proxy

CANARY = "canary-51f0"
LOCATION = SnapshotLocation.agent(f"session-{CANARY}", f"agent-{CANARY}")
SNAPSHOTS = "<session_id>/scopes/agent/<scope_id>/snapshots/"
LATEST = f"{SNAPSHOTS}snapshot_latest.json"
HISTORY = f"{SNAPSHOTS}immutable_history/"


def snapshot(n=1):
    return Snapshot.new({CANARY: n})


def save(storage, **arguments):
    return storage.save_snapshot(
        location=LOCATION, snapshot=snapshot(), is_latest=True, **arguments
    )


@pytest.fixture(params=["s3", "file", "memory"])
def make_storage(request, tmp_path):
    def make(**options):
        match request.param:
            case "file":
                return FileStorage(tmp_path, prefix=CANARY, **options)
            case "memory":
                return MemoryStorage(prefix=CANARY, **options)
        server = request.getfixturevalue("s3_server")
        bucket, prefix = request.getfixturevalue("bucket"), request.getfixturevalue("prefix")
        return S3Storage(bucket, prefix=f"{prefix}-{CANARY}", **server.storage_options, **options)

    return make


@pytest.fixture
def records():
    return []


async def test_each_operation_is_reported_once_with_its_place_in_the_layout(make_storage, records):
    async with make_storage(on_operation=records.append) as storage:
        saved = await save(storage)
        await storage.checkpoint(location=LOCATION, snapshot=snapshot(), snapshot_id=None)
        await storage.save_snapshot(location=LOCATION, snapshot=snapshot(), is_latest=False)
        await storage.load_snapshot(location=LOCATION)
        versioned = await storage.load_versioned(location=LOCATION)
        await storage.load_raw(location=LOCATION)
        await storage.update_latest(location=LOCATION, update=lambda _: snapshot(2))
        ids = await storage.list_snapshot_ids(location=LOCATION)
        assert [i async for i in storage.iter_snapshot_ids(location=LOCATION)] == ids
        await storage.load_snapshot(location=LOCATION, snapshot_id=ids[0])
        await storage.load_snapshot(location=LOCATION, as_of=datetime.now(UTC))
        await storage.list_snapshot_ids(location=LOCATION, newest_first=True, limit=1)
        assert await storage.load_archived(location=LOCATION, snapshot_id=ids[0]) is None
        assert [i async for i in storage.iter_archived_ids(location=LOCATION)] == []
        await storage.rewind(location=LOCATION, snapshot_id=ids[0])
        manifest = SnapshotManifest("1.0", "2026-11-22T11:13:20.395Z")
        await storage.save_manifest(location=LOCATION, manifest=manifest)
        await storage.load_manifest(location=LOCATION)
        assert [i async for i in storage.iter_sessions()] == [LOCATION.session_id]
        for order in ("id", "updated"):
            await storage.list_sessions(limit=1, order=order)
        await storage.describe_session(session_id=LOCATION.session_id)
        await storage.delete_session(session_id=LOCATION.session_id)
        await storage.check()

    assert saved.etag != versioned.etag
    assert [(record.operation, record.key_pattern) for record in records] == [
        ("save_snapshot", LATEST),
        ("checkpoint", LATEST),
        ("save_snapshot", f"{HISTORY}snapshot_<snapshot_id>.json"),
        ("load_snapshot", LATEST),
        ("load_versioned", LATEST),
        ("load_raw", LATEST),
        ("update_latest", LATEST),
        ("list_snapshot_ids", HISTORY),
        ("iter_snapshot_ids", HISTORY),
        ("load_snapshot", f"{HISTORY}snapshot_<snapshot_id>.json"),
        ("load_snapshot", HISTORY),
        ("list_snapshot_ids", HISTORY),
        ("load_archived", f"{SNAPSHOTS}archive/"),
        ("iter_archived_ids", f"{SNAPSHOTS}archive/"),
        ("rewind", f"{HISTORY}snapshot_<snapshot_id>.json"),
        ("save_manifest", f"{SNAPSHOTS}manifest.json"),
        ("load_manifest", f"{SNAPSHOTS}manifest.json"),
        ("iter_sessions", ""),
        ("list_sessions", ""),
        ("list_sessions", ""),
        ("describe_session", "<session_id>/"),
        ("delete_session", "<session_id>/"),
        ("check", HISTORY),
    ]
    operations = {
        name
        for name, method in inspect.getmembers(ObjectSnapshotStorage, inspect.iscoroutinefunction)
        if not name.startswith("_")
    }
    walks = {"iter_snapshot_ids", "iter_sessions", "iter_archived_ids"}
    assert {record.operation for record in records} == (operations | walks) - {"open", "aclose"}
    assert {record.outcome for record in records} == {"ok"}
    assert {record.place for record in records} == {storage.objects.name}
    assert all(isinstance(record, OperationRecord) for record in records)
    assert all(record.seconds > 0 for record in records)
    assert all(record.key is None for record in records)
    assert CANARY not in repr(records).replace(storage.objects.name, "")


async def test_bytes_are_those_of_documents(make_storage, records):
    async with make_storage(on_operation=records.append) as storage:
        await save(storage)
        await storage.checkpoint(location=LOCATION, snapshot=snapshot())
        raw = await storage.load_raw(location=LOCATION)
        await storage.load_snapshot(location=SnapshotLocation.agent("s-2", "none"))

    size = len(raw.document)
    saved, checkpointed, loaded, missing = records
    assert (saved.bytes_read, saved.bytes_written) == (0, size)
    assert (checkpointed.bytes_read, checkpointed.bytes_written) == (0, 2 * size)
    assert loaded.bytes_read >= size  # latest is padded
    assert loaded.bytes_written == 0
    assert (missing.bytes_read, missing.outcome) == (0, "ok")


async def test_keys_are_there_if_they_are_asked_for(make_storage, records):
    storage = make_storage(on_operation=records.append, on_operation_keys=True)
    async with storage:
        await save(storage.namespace("tenant-7"))

    (record,) = records
    key = f"tenant-7/{LOCATION.session_id}/scopes/agent/{LOCATION.scope_id}/snapshots/"
    assert f"{CANARY}/{key}snapshot_latest.json" in record.key
    assert {request.key for request in record.requests} <= {record.key}
    assert record.key_pattern == LATEST


async def test_a_failure_is_reported_with_its_class_and_raised(make_storage, records):
    async with make_storage(on_operation=records.append) as storage:
        await save(storage)
        with pytest.raises(SnapshotConflictError) as caught:
            await save(storage, if_none_match=True)
        with pytest.raises(InvalidIdentifierError):
            await storage.load_snapshot(location=LOCATION, snapshot_id=CANARY)

    _, conflict, invalid = records
    assert (conflict.operation, conflict.outcome) == ("save_snapshot", "failed")
    assert (conflict.error, conflict.code) == ("SnapshotConflictError", caught.value.code)
    assert (conflict.status, conflict.conflicts) == (caught.value.status, 1)
    assert (invalid.error, invalid.code, invalid.conflicts) == ("InvalidIdentifierError", None, 0)
    assert (invalid.key_pattern, invalid.requests) == (None, ())
    assert CANARY not in repr(records).replace(storage.objects.name, "")


async def test_a_cancelled_operation_is_reported_and_stays_cancelled(make_storage, records):
    inside = asyncio.Event()

    async def wait(_):
        inside.set()
        await asyncio.Event().wait()

    async with make_storage(on_operation=records.append) as storage:
        task = asyncio.create_task(storage.update_latest(location=LOCATION, update=wait))
        await inside.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    (record,) = records
    assert (record.outcome, record.error) == ("cancelled", "CancelledError")
    assert record.operation == "update_latest"


async def test_an_update_that_loses_races_is_one_record(make_storage, records):
    async with make_storage(on_operation=records.append) as storage:
        await save(storage)

        async def change(_):
            if len(records) < 4:
                await save(storage)
            return snapshot(len(records))

        await storage.update_latest(location=LOCATION, update=change)

    assert [record.operation for record in records] == ["save_snapshot"] * 4 + ["update_latest"]
    assert records[-1].conflicts == 3
    # Those that `update` has made are not among its requests: a load and a write each time.
    sent = [request.operation for request in records[-1].requests]
    assert sent in ([], ["GetObject", "PutObject"] * 4)


async def test_what_update_does_with_another_storage_is_no_part_of_it(make_storage, records):
    async with make_storage(on_operation=records.append) as storage, MemoryStorage() as other:

        async def change(_):
            await save(other)
            await other.load_snapshot(location=LOCATION)
            return snapshot(10)

        await storage.update_latest(location=LOCATION, update=change)
        await storage.save_snapshot(location=LOCATION, snapshot=snapshot(10), is_latest=True)

    updated, saved = records
    assert updated.bytes_read == 0
    assert updated.bytes_written == saved.bytes_written


async def test_a_walk_is_reported_when_it_ends_or_is_left(make_storage, records):
    ids = sorted(new_snapshot_id() for _ in range(3))
    async with make_storage(on_operation=records.append) as storage:
        for snapshot_id in ids:
            await storage.save_snapshot(
                location=LOCATION, snapshot=snapshot(), is_latest=False, snapshot_id=snapshot_id
            )
        records.clear()
        async with aclosing(storage.iter_snapshot_ids(location=LOCATION)) as walk:
            assert await anext(walk) == ids[0]
            await storage.load_snapshot(location=LOCATION)  # no part of the walk
            assert [record.operation for record in records] == ["load_snapshot"]
        assert [record.operation for record in records] == ["load_snapshot", "iter_snapshot_ids"]
        storage.iter_snapshot_ids(location=LOCATION)  # never begun
        with pytest.raises(ValueError, match="start_after"):
            storage.iter_snapshot_ids(location=LOCATION, start_after=CANARY)

    assert (records[-1].outcome, records[-1].key_pattern) == ("ok", HISTORY)
    assert {request.operation for request in records[-1].requests} <= {"ListObjectsV2"}
    assert len(records) == 2


async def test_a_walk_that_fails_is_reported(records):
    storage = MemoryStorage(on_operation=records.append)
    with pytest.raises(StorageClosedError):
        await anext(storage.iter_snapshot_ids(location=LOCATION))

    assert (records[0].outcome, records[0].error) == ("failed", "StorageClosedError")


async def test_a_closed_storage_is_reported_and_another_loop_is_not(records):
    storage = MemoryStorage(on_operation=records.append)
    with pytest.raises(StorageClosedError):
        await save(storage)
    async with storage:
        elsewhere = asyncio.to_thread(asyncio.run, save(storage))
        with pytest.raises(WrongEventLoopError):
            await elsewhere

    assert [record.error for record in records] == ["StorageClosedError"]


async def test_the_hook_runs_in_the_context_of_the_call(make_storage):
    request_id: ContextVar[str] = ContextVar("request_id")
    seen = []

    async def update(_):
        request_id.set("changed by update")
        return snapshot(2)

    async def work(storage, name):
        request_id.set(name)
        await storage.update_latest(location=LOCATION, update=update)
        walk = storage.iter_snapshot_ids(location=LOCATION)
        request_id.set("changed after the call")
        async with aclosing(walk):
            assert [found async for found in walk] == []

    def hook(record):
        seen.append((request_id.get(), asyncio.get_running_loop()))
        request_id.set("changed by the hook")

    async with make_storage(on_operation=hook) as storage:
        await asyncio.create_task(work(storage, "one"))
        await asyncio.create_task(work(storage, "two"))

    loop = asyncio.get_running_loop()
    names = ["one", "changed by update", "two", "changed by update"]
    assert seen == [(name, loop) for name in names]


async def test_an_exception_in_the_hook_is_logged_once_and_harms_nothing(make_storage, caplog):
    calls = []

    def hook(record):
        calls.append(record)
        raise RuntimeError("no metrics today")

    def fail(_):
        raise ValueError(CANARY)

    caplog.set_level(logging.DEBUG, "snapstore")
    async with make_storage(on_operation=hook) as storage:
        with pytest.raises(ValueError, match=CANARY):
            await storage.update_latest(location=LOCATION, update=fail)
        await save(storage)
        await save(storage.namespace("tenant-7"))
        assert await storage.load_snapshot(location=LOCATION) is not None

    assert len(calls) == 4
    logged = [record for record in caplog.records if "on_operation" in record.message]
    assert [record.levelname for record in logged] == ["WARNING"]
    text = logging.Formatter().format(logged[0])
    assert "no metrics today" in text
    assert CANARY not in text


async def test_a_hook_that_returns_a_coroutine_is_logged(caplog):
    async with MemoryStorage(on_operation=lambda record: coroutine_function(record)) as storage:  # noqa: PLW0108 -- it hides that it is one
        await save(storage)

    assert "which nobody awaits" in caplog.text


async def coroutine_function(_): ...


class AsyncCallable:
    async def __call__(self, _): ...


@pytest.mark.parametrize(
    "hook", [coroutine_function, functools.partial(coroutine_function), AsyncCallable(), "hook"]
)
def test_a_hook_that_is_no_plain_function_is_an_error(hook, tmp_path):
    for make in (
        lambda: MemoryStorage(on_operation=hook),
        lambda: FileStorage(tmp_path, on_operation=hook),
        lambda: S3Storage("bucket", on_operation=hook),
        lambda: ObjectSnapshotStorage(MemoryObjectStore(), on_operation=hook),
    ):
        with pytest.raises(TypeError, match="on_operation"):
            make()


# ------------------------------------------------------------------------------ requests of S3


@pytest.fixture
async def behind_proxy(s3_server, bucket, prefix, records):
    """A function that makes a storage behind a proxy, and the proxy."""
    async with recording_proxy(s3_server.endpoint_url) as proxy:
        options = {**s3_server.storage_options, "endpoint_url": proxy.endpoint_url}

        def make(**more):
            return S3Storage(bucket, prefix=prefix, on_operation=records.append, **options, **more)

        yield make, proxy


@pytest.mark.parametrize(("direct", "path"), [(True, "fast"), (False, "slow")])
async def test_requests_are_those_that_are_sent(behind_proxy, records, direct, path):
    make, proxy = behind_proxy
    async with make(direct=direct) as storage:
        await storage.checkpoint(location=LOCATION, snapshot=snapshot())
        await storage.load_snapshot(location=LOCATION)
        await storage.load_snapshot(location=SnapshotLocation.agent("s-2", "none"))
        await storage.delete_session(session_id=LOCATION.session_id)

    requests = [request for record in records for request in record.requests]
    assert [request.operation for request in requests] == proxy.operations
    assert [request.status for request in requests] == [200, 200, 200, 404, 200, 200, 200]
    assert [request.error for request in requests] == [None] * 3 + ["StorageError"] + [None] * 3
    assert {request.path for request in requests} == {path}
    assert {request.attempt for request in requests} == {1}
    for record in records:
        for request in record.requests:
            assert 0 <= request.started <= request.started + request.seconds <= record.seconds


@pytest.mark.parametrize("direct", [True, False])
async def test_what_is_sent_again_is_seen(behind_proxy, records, direct):
    make, proxy = behind_proxy
    faults = [Fault.error(503, "SlowDown"), Fault(lost=True)]

    async def fault(request):
        return faults.pop(0) if faults else None

    async with make(direct=direct) as storage:
        proxy.fault = fault
        await save(storage)

    (record,) = records
    assert [request.operation for request in record.requests] == proxy.operations
    assert [request.attempt for request in record.requests] == [1, 2, 3]
    assert [request.status for request in record.requests] == [503, None, 200]
    assert [request.code for request in record.requests][::2] == ["SlowDown", None]
    assert [request.error for request in record.requests] == [
        "StorageUnavailableError",
        "StorageUnavailableError",
        None,
    ]
    assert (record.retries, record.outcome) == (2, "ok")


async def test_a_request_that_falls_back_to_the_slow_path_is_two(behind_proxy, records):
    make, proxy = behind_proxy
    faults = [Fault.error(403, "AccessDenied")]

    async def fault(request):
        return faults.pop(0) if faults else None

    async with make() as storage:
        proxy.fault = fault
        await save(storage)

    (record,) = records
    seen = [(r.path, r.status, r.attempt, r.error) for r in record.requests]
    assert seen == [("fast", 403, 1, None), ("slow", 200, 2, None)]


async def test_a_request_that_the_deadline_ends_is_seen(
    behind_proxy, records, bring_deadlines_forward
):
    make, proxy = behind_proxy

    async def fault(request):
        bring_deadlines_forward()
        return Fault(stall=60)

    async with make() as storage:
        proxy.fault = fault
        with pytest.raises(StorageTimeoutError):
            await storage.load_snapshot(location=LOCATION)

    (record,) = records
    assert (record.outcome, record.error) == ("failed", "StorageTimeoutError")
    assert [r.operation for r in record.requests][:1] == ["GetObject"]
    assert record.requests[-1].status is None
