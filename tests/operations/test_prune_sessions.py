"""`prune_sessions`: idle sessions go whole, and a writer that wakes one up loses nothing."""

import asyncio
import copy
from datetime import UTC, datetime, timedelta

import pytest

from histories import document, id_days_ago, location_of, write_history
from snapstore import (
    FileStorage,
    InvalidIdentifierError,
    MemoryStorage,
    ObjectSnapshotStorage,
    S3Storage,
    Snapshot,
    SnapshotConflictError,
    StorageError,
    UnsupportedOperationError,
)
from snapstore.model.keys import Layout
from snapstore.operations import prune_sessions
from snapstore.stores import ConditionalDeleteStore, DetailedListingStore, MemoryObjectStore
from snapstore.testing import FaultyObjectStore, StoreFault

LAYOUT = Layout()
WEEK = timedelta(days=7)
SHORT = timedelta(microseconds=1)
WOKEN = Snapshot.new({"text": "woken"})


class AgingStore(MemoryObjectStore):
    """Objects that were written long ago, until `is_now` is set."""

    is_now = False

    async def put(self, key, data, **options):
        version = await super().put(key, data, **options)
        if not self.is_now:
            self._modified[key] = datetime.now(UTC) - timedelta(days=100)
        return version


async def write_session(storage, session_id, agents=("weather",), *, days=range(90, 95)):
    """An idle session, with history, latest, a stash and a note of somebody's."""
    for agent in agents:
        location = location_of(session_id, agent)
        ids = await write_history(storage, location, days)
        await storage.rewind(location=location, snapshot_id=ids[-1])
    stash = storage.layout.stash_prefix(session_id)
    await storage.objects.put(f"{stash}offloaded", b"content")
    await storage.objects.put(f"{storage.layout.session_prefix(session_id)}note", b"foreign")


def aged(**faults):
    return FaultyObjectStore(AgingStore(), **faults)


async def test_an_idle_session_is_removed_whole_and_others_stay():
    store = AgingStore()
    async with ObjectSnapshotStorage(store) as storage:
        await write_session(storage, "idle", ["a", "b"])
        await write_session(storage, "idle-2")
        store.is_now = True
        await write_session(storage, "live")
        kept = {key: body for key, body in store.objects.items() if "live" in key}
        operation = prune_sessions(
            storage, idle_for=WEEK, sessions=["idle", "idle-2", "live", "none"]
        )
        async with operation:
            events = {event.session_id: event async for event in operation}
    assert store.objects == kept
    assert {found: event.result for found, event in events.items()} == {
        "idle": "removed",
        "idle-2": "removed",
    }
    # Of "a" and "b" five in history and latest each, the stash and the note; of "idle-2" half.
    assert events["idle"].objects == 14
    assert (operation.report.sessions, operation.report.removed) == (4, 2)
    assert operation.report.objects == 22
    assert operation.report.ok


async def test_a_dry_run_changes_nothing():
    store = AgingStore()
    async with ObjectSnapshotStorage(store) as storage:
        await write_session(storage, "idle")
        before = dict(store.objects)
        operation = prune_sessions(storage, idle_for=WEEK, sessions=["idle"], dry_run=True)
        async with operation:
            [event] = [event async for event in operation]
    assert store.objects == before
    assert (event.session_id, event.result, event.objects) == ("idle", "planned", 8)
    assert event.size == sum(map(len, before.values()))


@pytest.mark.parametrize("what", ["history", "latest", "stash", "note", "manifest"])
async def test_whatever_was_written_lately_keeps_a_session(what):
    store = AgingStore()
    location = location_of("session-1")
    keys = {
        "latest": LAYOUT.latest(location),
        "stash": f"{LAYOUT.stash_prefix('session-1')}more",
        "note": f"{LAYOUT.session_prefix('session-1')}note",
        "manifest": LAYOUT.manifest(location),
    }
    async with ObjectSnapshotStorage(store) as storage:
        await write_session(storage, "session-1")
        if what == "history":
            await write_history(storage, location, [3])
        else:
            store.is_now = True
            await storage.objects.put(keys[what], document(9))
        before = dict(store.objects)
        report = await prune_sessions(storage, idle_for=WEEK, sessions=["session-1"]).run()
    assert store.objects == before
    assert report.removed == 0


async def wake(storage, how, location):
    """Save as a writer that comes back would. Returns what it was told is saved, by key."""
    layout = storage.layout
    if how == "checkpoint":
        saved = await storage.checkpoint(location=location, snapshot=WOKEN)
        return {layout.history(location, saved.snapshot_id), layout.latest(location)}
    if how == "latest":
        await storage.save_snapshot(location=location, snapshot=WOKEN, is_latest=True)
        return {layout.latest(location)}
    if how == "history":
        saved = await storage.save_snapshot(location=location, snapshot=WOKEN, is_latest=False)
        return {layout.history(location, saved.snapshot_id)}
    assert how == "update"
    read = await storage.load_versioned(location=location)
    try:
        await storage.save_snapshot(
            location=location,
            snapshot=WOKEN,
            is_latest=True,
            if_match=read,
            if_none_match=read is None,
        )
    except SnapshotConflictError:
        return set()
    return {layout.latest(location)}


@pytest.mark.parametrize("agents", [("a",), ("a", "b", "c")], ids=["one", "three"])
@pytest.mark.parametrize("how", ["checkpoint", "latest", "history", "update"])
@pytest.mark.parametrize("who", ["a", "new"])
async def test_a_writer_at_any_step_loses_nothing_that_it_was_told_is_saved(agents, how, who):
    location = location_of("session-1", who)

    async def run(wakes_at):
        store = aged()
        told, before, calls = set(), {}, []

        async with ObjectSnapshotStorage(store) as storage:
            await write_session(storage, "session-1", agents)
            before |= store.inner.objects
            async with ObjectSnapshotStorage(store.inner) as writer:

                async def fault(call):
                    calls.append(call)
                    if len(calls) == wakes_at:
                        store.inner.is_now = True
                        told.update(await wake(writer, how, location))

                store.fault = fault
                operation = prune_sessions(storage, idle_for=WEEK, sessions=["session-1"])
                async with operation:
                    results = [event.result async for event in operation]
                report = operation.report
                assert told <= store.inner.objects.keys()
                for key in told:
                    loaded = await writer.load_snapshot(
                        location=location, snapshot_id=Layout.snapshot_id_of(key)
                    )
                    assert loaded.data == WOKEN.data
                # A session that was kept has all that it had.
                if told and results != ["partly"] and report.removed == 0:
                    assert before.keys() <= store.inner.objects.keys()
        return calls, report, told

    calls, report, _ = await run(0)
    assert report.removed == 1
    outcomes = [(await run(step))[1:] for step in range(1, len(calls) + 1)]
    # Until it is listed for the last time, nothing but latest snapshots has been deleted.
    rest = next(n for n, call in enumerate(calls) if call[0] == "delete" and not call.conditional)
    assert all(report.removed == 0 for report, told in outcomes[: rest - 2] if told)
    assert any(report.woken for report, told in outcomes if told)


SESSIONS = ["session-1", "session-2", "live"]


@pytest.mark.parametrize("how", ["fails", "is cancelled"])
async def test_what_another_session_does_loses_nothing_of_one_that_woke_up(how):
    """If it fails, or all of it is cancelled, what is deleted already is put back."""
    store = aged()
    async with ObjectSnapshotStorage(store) as storage:
        for agent in ("a", "b"):
            await storage.save_snapshot(
                location=location_of("s-1", agent), snapshot=Snapshot.new({}), is_latest=True
            )
        await write_session(storage, "s-2")
        deleted, failing = asyncio.Event(), asyncio.Event()

        async def fault(call):
            if call.operation == "delete" and "/b/" in call.keys[0]:
                deleted.set()  # of "a", before
                await failing.wait()
                async with ObjectSnapshotStorage(store.inner) as writer:
                    await wake(writer, "latest", location_of("s-1", "b"))
                await asyncio.sleep(0.05)
            if call.operation == "scan" and call.keys[0].startswith("s-2/"):
                await deleted.wait()
                failing.set()
                return StoreFault() if how == "fails" else None
            return None

        store.fault = fault
        removing = asyncio.create_task(
            prune_sessions(storage, idle_for=WEEK, sessions=["s-1", "s-2"]).run()
        )
        if how == "is cancelled":
            await failing.wait()
            await asyncio.sleep(0.01)
            removing.cancel()
        with pytest.raises((StorageError, asyncio.CancelledError)):
            await removing
        store.fault = no_fault
        assert await storage.load_snapshot(location=location_of("s-1", "a")) is not None
        latest = await storage.load_snapshot(location=location_of("s-1", "b"))
        assert latest.data == WOKEN.data


async def test_leaving_early_begins_no_other_removal():
    store = AgingStore()
    async with ObjectSnapshotStorage(store) as storage:
        sessions = [f"s-{number}" for number in range(60)]
        for session_id in sessions:
            await write_session(storage, session_id, days=[90])
        async with prune_sessions(storage, idle_for=WEEK, sessions=sessions) as operation:
            async for _ in operation:
                begun = operation.report.sessions
                break
        # Those that were at work have ended, and no further one was begun.
        assert operation.report.sessions <= begun + 16
        assert len([found async for found in storage.iter_sessions()]) >= 60 - 2 * 16


async def test_a_session_of_latest_snapshots_alone_keeps_no_stash_behind():
    fails_at, was_killed = 1, True
    while was_killed:
        store = aged()
        calls = 0

        async def fault(_):
            nonlocal calls
            calls += 1
            return StoreFault() if calls >= fails_at else None  # noqa: B023

        async with ObjectSnapshotStorage(store) as storage:
            await storage.save_snapshot(
                location=location_of("s-1"), snapshot=Snapshot.new({}), is_latest=True
            )
            await storage.objects.put(f"{LAYOUT.stash_prefix('s-1')}text", b"content")
            store.fault, was_killed = fault, False
            try:
                await prune_sessions(storage, idle_for=WEEK).run()
            except StorageError:
                was_killed = True
                store.fault = no_fault
                await prune_sessions(storage, idle_for=WEEK).run()
        assert store.inner.objects == {}
        fails_at += 1
    assert fails_at > 8


async def no_fault(_):
    return None


WITH_CONDITIONS = [pytest.mark.s3, pytest.mark.seaweedfs, pytest.mark.moto]


@pytest.fixture(params=[pytest.param("s3", marks=WITH_CONDITIONS), "file"])
async def storage(request, tmp_path):
    if request.param == "file":
        storage = FileStorage(tmp_path)
    else:
        server = request.getfixturevalue("s3_server")
        bucket, prefix = request.getfixturevalue("bucket"), request.getfixturevalue("prefix")
        storage = S3Storage(bucket, prefix=prefix, **server.storage_options)
    async with storage:
        yield storage


async def test_on_files_and_on_s3_an_idle_session_is_removed(storage):
    await write_session(storage, "s-1", ["a", "b"])
    await write_session(storage, "s-10")
    await asyncio.sleep(0.01)
    report = await prune_sessions(storage, idle_for=SHORT, sessions=["s-1"]).run()
    assert (report.removed, report.objects) == (1, 14)
    assert [found async for found in storage.iter_sessions()] == ["s-10"]
    keys = [
        key async for page in storage.objects.scan(storage.layout.sessions_prefix) for key in page
    ]
    assert len(keys) == 8


async def test_on_files_and_on_s3_a_session_that_changes_is_kept(storage):
    await write_session(storage, "s-1", ["a", "b"])
    await asyncio.sleep(0.01)
    location = location_of("s-1", "b")
    store = FaultyObjectStore(storage.objects.store)

    async def save_before_the_second(call):
        if call.operation == "delete" and call.conditional and "/b/" in call.keys[0]:
            await storage.save_snapshot(location=location, snapshot=WOKEN, is_latest=True)

    store.fault = save_before_the_second
    view = copy.copy(storage)
    view.objects = copy.copy(storage.objects)
    view.objects.store = store
    report = await prune_sessions(view, idle_for=SHORT, sessions=["s-1"]).run()
    assert (report.removed, report.woken) == (0, 1)
    assert (await storage.load_snapshot(location=location)).data == WOKEN.data
    put_back = await storage.load_versioned(location=location_of("s-1", "a"))
    assert put_back.snapshot.data == {"turn": 4}
    assert len(await storage.list_snapshot_ids(location=location)) == 5


class Without(AgingStore):
    """A store that lacks some capabilities, or whose server ignores conditions."""

    def __init__(self, *kinds, ignores=False):
        super().__init__()
        self.kinds = kinds
        self.ignores = ignores

    def capability(self, kind):
        return None if kind in self.kinds or not isinstance(self, kind) else self

    async def has_conditional_deletes(self, scratch_key):
        return not self.ignores


@pytest.mark.parametrize("store", [Without(ConditionalDeleteStore), Without(ignores=True)])
async def test_without_conditional_deletes_it_is_refused_unless_that_is_accepted(store):
    async with ObjectSnapshotStorage(store) as storage:
        await write_session(storage, "session-1")
        before = dict(store.objects)
        with pytest.raises(UnsupportedOperationError, match="unconditional=True"):
            await prune_sessions(storage, idle_for=WEEK, sessions=["session-1"]).run()
        assert store.objects == before
        dry = await prune_sessions(
            storage, idle_for=WEEK, sessions=["session-1"], dry_run=True
        ).run()
        assert (dry.removed, store.objects) == (1, before)
        report = await prune_sessions(
            storage, idle_for=WEEK, sessions=["session-1"], unconditional=True
        ).run()
    assert report.removed == 1
    assert store.objects == {}


@pytest.mark.ceph
async def test_on_a_server_without_conditions_of_deletes_it_is_refused(s3_server, bucket, prefix):
    async with S3Storage(bucket, prefix=prefix, **s3_server.storage_options) as storage:
        await write_session(storage, "s-1")
        with pytest.raises(UnsupportedOperationError, match="unconditional=True"):
            await prune_sessions(storage, idle_for=SHORT).run()
        await asyncio.sleep(0.01)
        assert len(await storage.list_snapshot_ids(location=location_of("s-1"))) == 5
        report = await prune_sessions(storage, idle_for=SHORT, unconditional=True).run()
        assert report.removed == 1
        assert [found async for found in storage.iter_sessions()] == []


async def test_without_times_in_listings_it_is_refused():
    async with ObjectSnapshotStorage(Without(DetailedListingStore)) as storage:
        await write_session(storage, "session-1")
        for unconditional in (False, True):
            with pytest.raises(UnsupportedOperationError, match="when objects were written"):
                await prune_sessions(
                    storage, idle_for=WEEK, sessions=["session-1"], unconditional=unconditional
                ).run()


async def test_objects_that_can_not_be_deleted_are_told():
    store = aged()
    async with ObjectSnapshotStorage(store) as storage:
        await write_session(storage, "session-1")
        await write_session(storage, "session-2")
        refused = LAYOUT.history(location_of("session-1"), id_days_ago(92))

        async def refuse(call):
            if call.operation == "delete" and refused in call.keys:
                return StoreFault(failed={refused: "AccessDenied"})
            return None

        store.fault = refuse
        operation = prune_sessions(storage, idle_for=WEEK, sessions=["session-1", "session-2"])
        async with operation:
            events = {event.session_id: event async for event in operation}
    assert (events["session-1"].result, events["session-1"].code) == ("failed", "AccessDenied")
    assert events["session-2"].result == "removed"
    assert (operation.report.failed, operation.report.removed) == (1, 1)
    assert not operation.report.ok
    assert refused in store.inner.objects


async def test_another_store_nested_under_the_name_stays():
    store = AgingStore()
    async with ObjectSnapshotStorage(store) as storage:
        await write_session(storage, "tenant")
        nested = storage.namespace("tenant")
        await write_history(nested, location_of("session-1"), [90])
        kept = LAYOUT.namespace("tenant").history(location_of("session-1"), id_days_ago(90))
        await prune_sessions(storage, idle_for=WEEK, sessions=["tenant"]).run()
    assert list(store.objects) == [kept]


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"idle_for": 7}, TypeError, "idle_for must be a timedelta"),
        ({"idle_for": timedelta(0)}, ValueError, "idle_for must be positive"),
        ({"idle_for": -WEEK}, ValueError, "idle_for must be positive"),
        ({"idle_for": WEEK, "sessions": "s"}, TypeError, "not one text"),
        ({"idle_for": WEEK, "sessions": ["../s"]}, InvalidIdentifierError, "session_id"),
        ({"idle_for": WEEK, "max_requests_per_second": 0}, ValueError, "more than 0"),
    ],
)
def test_bad_input_is_refused_before_anything_is_done(arguments, error, words):
    with pytest.raises(error, match=words):
        prune_sessions(MemoryStorage(), **arguments)
