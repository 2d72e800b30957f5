"""`fork_session`: a session up to a snapshot, under an id that is free, and only there."""

from contextlib import suppress

import pytest

from histories import document, id_days_ago, location_of, write_history
from snapstore import (
    FileStorage,
    InvalidIdentifierError,
    MemoryStorage,
    ObjectSnapshotStorage,
    S3Storage,
    Snapshot,
    SnapshotExistsError,
    SnapshotLocation,
    SnapshotManifest,
    SnapshotNotFoundError,
    new_snapshot_id,
)
from snapstore.operations import fork_session, verify
from snapstore.storage.writes import ORIGIN
from snapstore.stores import CopyingStore, MemoryObjectStore
from snapstore.testing import FaultyObjectStore
from snapstore.testing.proxy import recording_proxy

LOCATION = location_of("s-1")
FORKED = location_of("fork")


class StopError(Exception):
    """Raised to cut an operation off."""


async def write_session(storage, session_id="s-1"):
    """A session of two agents, with latest snapshots, a manifest and a stash; returns ids."""
    ids = await write_history(storage, location_of(session_id), range(4))
    await storage.rewind(location=location_of(session_id), snapshot_id=ids[-1])
    other = location_of(session_id, "other")
    await write_history(storage, other, [0.5, 1.5, 9])
    await storage.save_snapshot(location=other, snapshot=Snapshot.new({"o": 1}), is_latest=True)
    await storage.save_manifest(
        location=other, manifest=SnapshotManifest("1.0", "then", {"mine": [1]})
    )
    await storage.objects.put(f"{storage.layout.stash_prefix(session_id)}a/b", b"offloaded")
    return ids


async def bodies(storage, session_id):
    """All objects of a session and its stash, by what follows its id."""
    found = {}
    for prefix in (
        storage.layout.session_prefix(session_id),
        storage.layout.stash_prefix(session_id),
    ):
        async for page in storage.objects.scan(prefix):
            for key in page:
                stored = await storage.objects.get(key, max_bytes=2**20)
                found[key.replace(f"/{session_id}/", "/*/").replace(f"{session_id}/", "*/")] = (
                    stored.data
                )
    return found


async def test_a_fork_has_history_up_to_a_snapshot_and_that_one_as_latest(storage):
    ids = await write_session(storage)
    before = await bodies(storage, "s-1")
    report = await fork_session(storage, session_id="s-1", into="fork", upto=ids[1]).run()
    assert report.ok
    assert await bodies(storage, "s-1") == before
    assert await storage.list_snapshot_ids(location=FORKED) == ids[:2]
    forked = await storage.load_versioned(location=FORKED)
    assert forked.snapshot == await storage.load_snapshot(location=LOCATION, snapshot_id=ids[1])
    assert (await storage.load_snapshot(location=FORKED, snapshot_id=ids[0])).data == {"turn": 0}
    if not isinstance(storage, FileStorage):
        assert forked.snapshot_id == ids[1]
    other = location_of("fork", "other")
    assert len(await storage.list_snapshot_ids(location=other)) == 1
    stash = await storage.objects.get(f"{storage.layout.stash_prefix('fork')}a/b", max_bytes=99)
    assert stash.data == b"offloaded"
    manifest = await storage.load_manifest(location=other)
    assert manifest.extra["mine"] == [1]
    claim = manifest.extra["forkedFrom"]
    assert (claim["sessionId"], claim["complete"]) == ("s-1", True)
    # It is a session like any other.
    await storage.checkpoint(location=FORKED, snapshot=Snapshot.new({"n": 1}), if_match=forked)
    assert await bodies(storage, "s-1") == before


async def test_a_fork_without_an_end_has_all_of_it(storage):
    ids = await write_session(storage)
    before = await bodies(storage, "s-1")
    report = await fork_session(storage, session_id="s-1", into="fork").run()
    after = await bodies(storage, "fork")
    manifests = {key for key in after if key.endswith("manifest.json")}
    assert {key: body for key, body in after.items() if key not in manifests} == {
        key: body for key, body in before.items() if not key.endswith("manifest.json")
    }
    assert (report.locations, report.copied) == (2, 10)
    forked = await storage.load_versioned(location=FORKED)
    if not isinstance(storage, FileStorage):
        assert forked.snapshot_id == ids[-1]


async def test_a_fork_of_a_fork_knows_both(storage):
    ids = await write_session(storage)
    await fork_session(storage, session_id="s-1", into="fork", upto=ids[2]).run()
    await fork_session(storage, session_id="fork", into="fork-2", upto=ids[1]).run()
    claim = (await storage.load_manifest(location=location_of("fork-2"))).extra["forkedFrom"]
    assert (claim["sessionId"], claim["snapshotId"]) == ("fork", ids[1])
    assert claim["forkedFrom"]["sessionId"] == "s-1"


@pytest.mark.parametrize("what", ["history", "latest", "manifest", "note", "stash", "fork"])
async def test_an_occupied_target_is_refused_and_not_touched(storage, what):
    ids = await write_session(storage)
    match what:
        case "history":
            await write_history(storage, FORKED, [3])
        case "latest":
            await storage.objects.put(storage.layout.latest(FORKED), document(1))
        case "manifest":
            manifest = SnapshotManifest("1.0", "then", {"forkedFrom": "else"})
            await storage.save_manifest(location=FORKED, manifest=manifest)
        case "note":
            await storage.objects.put(f"{storage.layout.session_prefix('fork')}note", b"mine")
        case "stash":
            await storage.objects.put(f"{storage.layout.stash_prefix('fork')}a", b"mine")
        case "fork":
            await fork_session(storage, session_id="s-1", into="fork").run()
    before = await bodies(storage, "fork")
    for upto in (None, ids[1]):
        with pytest.raises(SnapshotExistsError, match="is not free") as caught:
            await fork_session(storage, session_id="s-1", into="fork", upto=upto).run()
        assert caught.value.outcome == "not applied"
    assert await bodies(storage, "fork") == before


async def test_somebody_who_comes_in_between_is_not_overwritten():
    """At every call, another writer begins a session under the same id, or another fork does."""
    for step in range(1, 40):
        store = FaultyObjectStore(MemoryObjectStore())
        async with ObjectSnapshotStorage(store) as storage:
            ids = await write_session(storage)
            saved = {}
            calls = 0

            async def come_in(call):
                nonlocal calls
                calls += 1
                if calls == step and call.operation != "copy":  # noqa: B023
                    async with ObjectSnapshotStorage(store.inner) as writer:  # noqa: B023
                        done = await writer.checkpoint(
                            location=FORKED, snapshot=Snapshot.new({"theirs": 1})
                        )
                        saved["id"] = done.snapshot_id  # noqa: B023

            store.fault = come_in
            copies_before = len([c for c in store.calls if c.operation == "copy"])
            try:
                await fork_session(storage, session_id="s-1", into="fork", upto=ids[1]).run()
            except SnapshotExistsError:
                copied = len([c for c in store.calls if c.operation == "copy"]) > copies_before
                if not copied:
                    assert (await storage.load_snapshot(location=FORKED)).data == {"theirs": 1}
                    manifest = await storage.load_manifest(location=FORKED)
                    assert "forkedFrom" not in manifest.extra
            if saved:
                theirs = await storage.load_snapshot(location=FORKED, snapshot_id=saved["id"])
                assert theirs.data == {"theirs": 1}
            if calls < step:
                break


async def test_a_checkpoint_meanwhile_leaves_no_latest_without_its_history():
    for step in range(1, 60):
        store = FaultyObjectStore(MemoryObjectStore())
        async with ObjectSnapshotStorage(store) as storage:
            await write_session(storage)
            calls = 0

            async def checkpoint(_):
                nonlocal calls
                calls += 1
                if calls == step:  # noqa: B023
                    async with ObjectSnapshotStorage(store.inner) as writer:  # noqa: B023
                        await writer.checkpoint(
                            location=LOCATION, snapshot=Snapshot.new({"new": 1})
                        )

            store.fault = checkpoint
            await fork_session(storage, session_id="s-1", into="fork").run()
            forked = await storage.load_versioned(location=FORKED)
            ids = await storage.list_snapshot_ids(location=FORKED)
            assert forked.snapshot_id in ids
        if calls < step:
            break


async def test_a_snapshot_with_an_earlier_id_meanwhile_is_copied_with_its_history():
    """The clock of another writer is behind: its id comes before those that are copied already."""
    for step in range(1, 60):
        store = FaultyObjectStore(MemoryObjectStore())
        async with ObjectSnapshotStorage(store) as storage:
            await write_session(storage)
            calls, late = 0, id_days_ago(2.5)

            async def save(_):
                nonlocal calls
                calls += 1
                if calls == step:  # noqa: B023
                    layout = storage.layout
                    await store.inner.put(layout.history(LOCATION, late), document(50))  # noqa: B023
                    await store.inner.put_with_metadata(  # noqa: B023
                        layout.latest(LOCATION),
                        document(50),
                        {ORIGIN: late},  # noqa: B023
                    )

            store.fault = save
            await fork_session(storage, session_id="s-1", into="fork").run()
            forked = await storage.load_versioned(location=FORKED)
            assert forked.snapshot_id in await storage.list_snapshot_ids(location=FORKED)
        if calls < step:
            break
    assert step > 20


@pytest.mark.parametrize("begun", [False, True])
async def test_a_slow_run_overwrites_nothing_after_another_run_has_ended(begun):
    """At every call, another run of the same fork comes first, and its fork is used at once."""
    for step in range(1, 80):
        store = FaultyObjectStore(MemoryObjectStore())
        async with ObjectSnapshotStorage(store) as storage:
            ids = await write_session(storage)
            if begun:
                copies = 0

                async def stop(call):
                    nonlocal copies
                    copies += call.operation == "copy"
                    if copies == 4:
                        raise StopError

                store.fault = stop
                with pytest.raises(StopError):
                    await fork_session(storage, session_id="s-1", into="fork", upto=ids[2]).run()
            used = None
            calls = 0

            async def come_first(call):
                nonlocal calls, used
                calls += 1
                # Between the look at a claim and the copy of a latest snapshot a moment remains.
                is_moment = call.operation == "copy" and "snapshot_latest" in str(call)
                if calls == step and not is_moment:  # noqa: B023
                    async with ObjectSnapshotStorage(store.inner) as other:  # noqa: B023
                        with suppress(SnapshotExistsError):
                            await fork_session(
                                other,
                                session_id="s-1",
                                into="fork",
                                upto=ids[2],  # noqa: B023
                            ).run()
                            loaded = await other.load_versioned(location=FORKED)
                            used = await other.checkpoint(
                                location=FORKED,
                                snapshot=Snapshot.new({"used": 1}),
                                if_match=loaded,
                            )

            store.fault = come_first
            try:
                await fork_session(storage, session_id="s-1", into="fork", upto=ids[2]).run()
            except SnapshotExistsError:
                assert used is not None
            else:
                assert used is None or calls < step
            if used is not None:
                latest = await storage.load_versioned(location=FORKED)
                assert latest.snapshot.data == {"used": 1}
                assert latest.snapshot_id == used.snapshot_id
                assert [found async for found in verify(storage, sessions=["fork"])] == []
        if calls < step:
            break
    assert step > 20


async def test_a_fork_whose_snapshot_is_deleted_meanwhile_is_not_whole():
    store = FaultyObjectStore(MemoryObjectStore())
    async with ObjectSnapshotStorage(store) as storage:
        ids = await write_session(storage)

        async def delete(call):
            if call.operation == "copy":
                await store.inner.delete([storage.layout.history(LOCATION, ids[2])])

        store.fault = delete
        report = await fork_session(storage, session_id="s-1", into="fork", upto=ids[2]).run()
        assert not report.ok
        findings = [found.kind async for found in verify(storage, sessions=["fork"])]
        assert "unfinished fork" in findings


async def test_a_session_without_latest_snapshots_is_forked():
    async with MemoryStorage() as storage:
        ids = await write_history(storage, LOCATION, range(1, 3))
        plan = await fork_session(storage, session_id="s-1", into="fork", dry_run=True).run()
        report = await fork_session(storage, session_id="s-1", into="fork").run()
        assert plan.copied == report.copied == 2
        assert report.ok
        assert await storage.list_snapshot_ids(location=FORKED) == ids
        assert await storage.load_snapshot(location=FORKED) is None


async def test_no_body_passes_the_client_on_s3(s3_server, bucket, prefix):
    async with recording_proxy(s3_server.endpoint_url) as proxy:
        options = s3_server.storage_options | {"endpoint_url": proxy.endpoint_url}
        async with S3Storage(bucket, prefix=prefix, **options) as storage:
            ids = await write_session(storage)
            proxy.requests.clear()
            await fork_session(storage, session_id="s-1", into="fork", upto=ids[2]).run()
            operations = [request.operation for request in proxy.requests]
    assert operations.count("CopyObject") == 3 + 2 + 2 + 1
    moved = {
        request.path.rpartition("/")[2]
        for request in proxy.requests
        if request.operation in ("GetObject", "PutObject")
    }
    assert moved == {"manifest.json"}


async def test_a_dry_run_changes_nothing(storage):
    ids = await write_session(storage)
    operation = fork_session(storage, session_id="s-1", into="fork", upto=ids[1], dry_run=True)
    async with operation:
        events = [event async for event in operation]
    assert await bodies(storage, "fork") == {}
    assert len(events) == operation.report.copied == 2 + 1 + 2 + 1
    assert {event.result for event in events} == {"planned"}


async def test_what_does_not_exist_is_refused(storage):
    with pytest.raises(SnapshotNotFoundError, match="nothing was forked"):
        await fork_session(storage, session_id="s-1", into="fork").run()
    await write_session(storage)
    with pytest.raises(SnapshotNotFoundError, match="nothing was forked"):
        await fork_session(storage, session_id="s-1", into="fork", upto=new_snapshot_id()).run()
    assert await bodies(storage, "fork") == {}


async def test_a_store_that_makes_no_copies_is_forked_by_reads_and_writes():
    class NoCopies(MemoryObjectStore):
        def capability(self, kind):
            return None if kind is CopyingStore or not isinstance(self, kind) else self

    async with ObjectSnapshotStorage(NoCopies()) as storage:
        ids = await write_session(storage)
        await fork_session(storage, session_id="s-1", into="fork", upto=ids[1]).run()
        assert (await storage.load_versioned(location=FORKED)).snapshot_id == ids[1]
        assert await storage.list_snapshot_ids(location=FORKED) == ids[:2]


async def test_an_orchestrator_is_forked_with_its_agents(storage):
    location = SnapshotLocation.multi_agent("s-1", "graph")
    saved = await storage.checkpoint(
        location=location, snapshot=Snapshot.new({"g": 1}, scope="multiAgent")
    )
    await fork_session(storage, session_id="s-1", into="fork", upto=saved.snapshot_id).run()
    forked = SnapshotLocation.multi_agent("fork", "graph")
    assert (await storage.load_snapshot(location=forked)).data == {"g": 1}


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"session_id": "S", "into": "fork"}, InvalidIdentifierError),
        ({"session_id": "s-1", "into": "../x"}, InvalidIdentifierError),
        ({"session_id": "s-1", "into": "s-1"}, ValueError),
        ({"session_id": "s-1", "into": "fork", "upto": "latest"}, InvalidIdentifierError),
        ({"session_id": "s-1", "into": "fork", "max_requests_per_second": 0}, ValueError),
    ],
)
def test_bad_input_is_refused_before_anything_is_done(arguments, error):
    with pytest.raises(error):
        fork_session(MemoryStorage(), **arguments)
