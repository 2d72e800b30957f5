"""`erase_session` and `erase_all`: nothing is left, no version and no marker, and a receipt."""

import copy
import uuid
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from histories import document, location_of, write_history
from snapstore import (
    InvalidIdentifierError,
    MemoryStorage,
    ObjectSnapshotStorage,
    S3Storage,
    Snapshot,
    StorageError,
    UnsupportedOperationError,
)
from snapstore.operations import erase_all, erase_session
from snapstore.stores import MemoryObjectStore
from snapstore.testing import FaultyObjectStore, StoreFault
from snapstore.testing.server import create_bucket

CANARY = "canary-7c1d"
LOCATION = location_of("s-1")


async def write_session(storage, session_id="s-1"):
    """A session of two agents with histories, latest snapshots, a stash, and a nested store."""
    for agent in ("a", "weather"):
        location = location_of(session_id, agent)
        ids = await write_history(storage, location, range(3))
        for snapshot_id in ids:
            await storage.rewind(location=location, snapshot_id=snapshot_id)
    await storage.objects.put(f"{storage.layout.stash_prefix(session_id)}text", CANARY.encode())
    await storage.objects.put(f"{storage.layout.session_prefix(session_id)}note", CANARY.encode())


async def keys_of(storage, prefix=""):
    prefix = storage.layout.sessions_prefix + prefix
    return [key async for page in storage.objects.scan(prefix) for key in page]


async def test_a_session_is_erased_with_its_stash_and_no_other(storage):
    await write_session(storage, "s-1")
    await write_session(storage, "s-10")
    nested = storage.namespace("s-1")
    await write_history(nested, location_of("inner"), [1])
    others = set(await keys_of(storage, "s-10")) | set(await keys_of(nested))
    others = {key for key in others if "/s-10/" in f"/{key}" or "/inner/" in key}
    others |= {f"{storage.layout.stash_prefix('s-10')}text"}

    operation = erase_session(storage, session_id="s-1")
    async with operation:
        events = [event async for event in operation]

    assert set(await keys_of(storage)) == others
    receipt = operation.report
    assert (receipt.objects, receipt.nothing_left, receipt.ok) == (10, True, True)
    assert receipt.bytes == sum(event.size for event in events) > 900
    assert receipt.finished_at >= receipt.started_at
    assert {event.result for event in events} == {"erased"}
    assert CANARY not in msgspec.json.encode(receipt).decode()
    assert CANARY not in str([*events, receipt])
    again = await erase_session(storage, session_id="s-1").run()
    assert (again.objects, again.versions, again.ok) == (0, 0, True)


async def test_a_dry_run_erases_nothing(storage):
    await write_session(storage)
    before = await keys_of(storage)
    operation = erase_session(storage, session_id="s-1", dry_run=True)
    async with operation:
        events = [event async for event in operation]
    assert await keys_of(storage) == before
    assert sorted(event.key for event in events) == sorted(before)
    assert {event.result for event in events} == {"planned"}
    assert operation.report.nothing_left is None


async def test_a_namespace_is_erased_whole_and_no_other(storage):
    one, other = storage.namespace("user-7"), storage.namespace("user-70")
    for namespace in (one, other):
        await write_session(namespace)
    kept = await keys_of(other)
    receipt = await erase_all(one).run()
    assert receipt.ok
    assert await keys_of(one) == []
    assert await keys_of(other) == kept


async def test_all_of_a_store_without_a_prefix_is_refused():
    with pytest.raises(ValueError, match="without, it is the whole bucket"):
        erase_all(MemoryStorage())


async def test_beside_sessions_of_the_sdk_their_stash_is_erased_too():
    async with MemoryStorage(prefix="app/session") as storage:
        await write_session(storage)
        await storage.objects.put("app/other/x", b"")
        assert "app/context/s-1/text" in storage.objects.store.objects
        assert (await erase_session(storage, session_id="s-1").run()).ok
        await write_session(storage, "s-2")
        assert (await erase_all(storage).run()).ok
        assert list(storage.objects.store.objects) == ["app/other/x"]


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda s: erase_session(s, session_id="../s"), InvalidIdentifierError),
        (lambda s: erase_session(s, session_id="s", max_requests_per_second=0), ValueError),
        (lambda s: erase_all(s.namespace("n"), max_requests_per_second=-1), ValueError),
    ],
)
def test_bad_input_is_refused(call, error):
    with pytest.raises(error):
        call(MemoryStorage())


@pytest.fixture
async def versioned(s3_server, s3_client):
    """A storage in a versioned bucket of its own."""
    bucket = f"versions-{uuid.uuid4().hex}"
    create_bucket(s3_server, bucket)
    await s3_client.put_bucket_versioning(
        Bucket=bucket, VersioningConfiguration={"Status": "Enabled"}
    )
    async with S3Storage(bucket, prefix="p", **s3_server.storage_options) as storage:
        yield storage


async def versions_of(client, bucket, prefix):
    """All versions and delete markers, as plain botocore finds them."""
    found = []
    pages = client.get_paginator("list_object_versions").paginate(Bucket=bucket, Prefix=prefix)
    async for page in pages:
        found += page.get("Versions", []) + page.get("DeleteMarkers", [])
    return found


async def test_no_version_and_no_marker_is_left(versioned, s3_client):
    bucket = versioned.objects.name
    await write_session(versioned, "s-1")
    await versioned.delete_session(session_id="s-1")
    await write_session(versioned, "s-1")
    await write_session(versioned, "s-10")
    others = await versions_of(s3_client, bucket, "p/s-10/")
    receipt = await erase_session(versioned, session_id="s-1").run()
    assert receipt.ok
    assert receipt.versions >= 10
    assert receipt.delete_markers >= 10
    assert await versions_of(s3_client, bucket, "p/s-1/") == []
    assert await versions_of(s3_client, bucket, "p/context/s-1/") == []
    assert await versions_of(s3_client, bucket, "p/s-10/") == others


async def test_it_works_after_an_ordinary_delete_too(versioned, s3_client):
    await write_session(versioned)
    await versioned.delete_session(session_id="s-1")
    receipt = await erase_session(versioned, session_id="s-1").run()
    assert receipt.ok
    assert await versions_of(s3_client, versioned.objects.name, "p/s-1/") == []


def through(storage, store):
    """The storage over another store that wraps its own."""
    view = copy.copy(storage)
    view.objects = copy.copy(storage.objects)
    view.objects.store = store
    return view


async def test_killed_anywhere_nothing_comes_back_and_made_again_it_ends(versioned, s3_client):
    store = FaultyObjectStore(versioned.objects.store)
    view = through(versioned, store)
    await write_session(versioned)
    loads = [{"location": LOCATION}, {"location": location_of("s-1", "a")}]
    listed = [
        {"location": LOCATION, "snapshot_id": snapshot_id}
        for snapshot_id in await versioned.list_snapshot_ids(location=LOCATION)
    ]
    fails_at, was_killed, looked = 1, True, 0
    while was_killed:
        calls, is_deleted = 0, False

        async def fault(call):
            nonlocal calls, is_deleted, looked
            calls += 1
            # A pass deletes what is current, and then lists versions.
            if is_deleted:
                looked += 1
                for load in loads + listed:
                    assert await versioned.load_snapshot(**load) is None
            is_deleted = is_deleted or call.operation == "delete"
            return StoreFault(applied=fails_at % 2 == 0) if calls == fails_at else None  # noqa: B023

        store.fault = fault
        was_killed = False
        try:
            receipt = await erase_session(view, session_id="s-1").run()
        except StorageError:
            was_killed = True
            is_deleted = False
        fails_at += 1
        if was_killed and fails_at % 3 == 0:
            with suppress(StorageError):
                await write_session(versioned)
    assert receipt.ok
    assert looked > 10
    assert await versions_of(s3_client, versioned.objects.name, "p/s-1/") == []


async def test_what_somebody_else_deletes_meanwhile_does_not_come_back(versioned):
    """Somebody saves and deletes, before each call of the erasure."""
    for step in range(1, 40):
        store = FaultyObjectStore(versioned.objects.store)
        await versioned.save_snapshot(
            location=LOCATION, snapshot=Snapshot.new({"n": 1}), is_latest=True
        )
        await versioned.delete_session(session_id="s-1")
        calls, came_back = 0, []

        async def come_and_go(_):
            nonlocal calls
            calls += 1
            if calls == step:  # noqa: B023
                await versioned.save_snapshot(
                    location=LOCATION, snapshot=Snapshot.new({"n": 2}), is_latest=True
                )
                await versioned.delete_session(session_id="s-1")
            if calls >= step:  # noqa: B023
                came_back.append(await versioned.load_snapshot(location=LOCATION))  # noqa: B023

        store.fault = come_and_go
        await erase_session(through(versioned, store), session_id="s-1").run()
        assert set(came_back) <= {None}
        assert await versioned.load_snapshot(location=LOCATION) is None
        if calls < step:
            break
    assert step > 8


async def test_what_lies_where_stashes_do_is_nobodys_stash():
    """A session `context`, and a store with the prefix `context`."""
    store = MemoryObjectStore()
    async with (
        ObjectSnapshotStorage(store) as root,
        ObjectSnapshotStorage(store, prefix="context") as other,
    ):
        for storage, session_id in ((root, "context"), (root, "s-1"), (other, "s-1")):
            location = location_of(session_id)
            await storage.checkpoint(location=location, snapshot=Snapshot.new({}))
        stash = root.layout.stash_prefix("s-1")
        await root.objects.put(f"{stash}text", b"stash of s-1")
        assert (await erase_session(root, session_id="s-1").run()).nothing_left
        assert await root.load_snapshot(location=LOCATION) is None
        assert f"{stash}text" not in store.objects
        assert await other.load_snapshot(location=LOCATION) is not None
        await root.objects.put(f"{stash}text", b"stash of s-1")
        await erase_session(root, session_id="scopes").run()
        assert await root.load_snapshot(location=location_of("context")) is not None
        await erase_session(root, session_id="context").run()
        assert await root.load_snapshot(location=location_of("context")) is None
        assert f"{stash}text" in store.objects
        assert await other.load_snapshot(location=LOCATION) is not None


@pytest.mark.parametrize("name", ["context", "session", "memory", "offloader"])
async def test_a_namespace_where_the_sdks_keep_other_things_is_refused(name):
    async with MemoryStorage() as storage:
        with pytest.raises(InvalidIdentifierError, match="the Strands SDKs"):
            storage.namespace(name)


async def test_what_is_saved_meanwhile_is_erased_or_said_to_be_left(versioned, s3_client):
    store = FaultyObjectStore(versioned.objects.store)
    view = through(versioned, store)
    await write_session(versioned)
    saves = 3

    async def save(call):
        nonlocal saves
        if call.operation == "delete" and saves > 0:
            saves -= 1
            await versioned.save_snapshot(
                location=LOCATION, snapshot=Snapshot.new({}), is_latest=True
            )

    store.fault = save
    receipt = await erase_session(view, session_id="s-1").run()
    left = await versions_of(s3_client, versioned.objects.name, "p/s-1/")
    assert receipt.nothing_left is (left == [])
    assert receipt.nothing_left

    async def save_for_ever(call):
        await versioned.save_snapshot(location=LOCATION, snapshot=Snapshot.new({}), is_latest=True)

    store.fault = save_for_ever
    receipt = await erase_session(view, session_id="s-1").run()
    assert receipt.nothing_left is False
    assert not receipt.ok


@pytest.mark.moto
async def test_what_is_locked_is_named_with_mode_and_date_and_does_not_come_back(
    s3_server, s3_client
):
    bucket = f"locked-{uuid.uuid4().hex}"
    await s3_client.create_bucket(Bucket=bucket, ObjectLockEnabledForBucket=True)
    until = datetime.now(UTC).replace(microsecond=0) + timedelta(days=30)
    async with S3Storage(bucket, **s3_server.storage_options) as storage:
        await write_session(storage)
        latest = storage.layout.latest(LOCATION)
        kept = {"Mode": "GOVERNANCE", "RetainUntilDate": until}
        await s3_client.put_object_retention(Bucket=bucket, Key=latest, Retention=kept)
        other = storage.layout.latest(location_of("s-1", "a"))
        await s3_client.put_object_legal_hold(Bucket=bucket, Key=other, LegalHold={"Status": "ON"})

        receipt = await erase_session(storage, session_id="s-1").run()
        assert {(one.key, one.reason, one.until) for one in receipt.retained} == {
            (latest, "GOVERNANCE", until),
            (other, "legal hold", None),
        }
        assert receipt.nothing_left is False
        assert await storage.load_snapshot(location=LOCATION) is None
        markers = [one for one in await versions_of(s3_client, bucket, "") if "Size" not in one]
        assert {one["Key"] for one in markers} == {latest, other}

        await s3_client.put_object_legal_hold(
            Bucket=bucket,
            Key=other,
            LegalHold={"Status": "OFF"},
            VersionId=next(
                one.version_id for one in receipt.retained if one.reason == "legal hold"
            ),
        )
        receipt = await erase_session(storage, session_id="s-1", bypass_governance=True).run()
        assert receipt.ok
        assert await versions_of(s3_client, bucket, "") == []


class NoVersions(MemoryObjectStore):
    """A store whose server can't list versions."""

    async def scan_versions(self, prefix, *, page_size=1000):
        raise UnsupportedOperationError("no versions here")
        yield

    async def delete_versions(self, versions, *, bypass_governance=False):
        raise AssertionError("unreachable")

    async def lock_of(self, key, version_id):
        raise AssertionError("unreachable")


async def test_where_versions_can_not_be_listed_it_says_that_it_does_not_know():
    async with ObjectSnapshotStorage(NoVersions()) as storage:
        await write_session(storage)
        receipt = await erase_session(storage, session_id="s-1").run()
    assert receipt.nothing_left is None
    assert not receipt.ok
    assert any("can't list versions" in note for note in receipt.notes)


async def test_without_the_permission_nothing_is_changed():
    class Refuses(NoVersions):
        async def scan_versions(self, prefix, *, page_size=1000):
            raise StorageError("denied", code="AccessDenied")
            yield

    async with ObjectSnapshotStorage(Refuses()) as storage:
        await write_session(storage)
        before = dict(storage.objects.store.objects)
        with pytest.raises(StorageError, match="denied"):
            await erase_session(storage, session_id="s-1").run()
        assert storage.objects.store.objects == before


async def test_an_object_that_is_not_deleted_is_told():
    store = FaultyObjectStore(MemoryObjectStore())
    async with ObjectSnapshotStorage(store) as storage:
        await storage.objects.put(storage.layout.latest(LOCATION), document(1))

        async def refuse(call):
            if call.operation == "delete":
                return StoreFault(failed={call.keys[0]: "AccessDenied"})
            return None

        store.fault = refuse
        receipt = await erase_session(storage, session_id="s-1").run()
    assert [(one.key, one.code) for one in receipt.retained] == [
        (storage.layout.latest(LOCATION), "AccessDenied")
    ]
    assert receipt.nothing_left is False


@pytest.mark.parametrize("cut_off_at", [1, 2, 3, 4])
async def test_a_receipt_of_what_was_cut_off_names_what_could_not_be_erased(cut_off_at):
    """In the first pass, or in a later one: what that one has not come to is still kept."""
    store = FaultyObjectStore(MemoryObjectStore())
    async with ObjectSnapshotStorage(store) as storage:
        first, second = storage.layout.latest(LOCATION), storage.layout.stash_prefix("s-1") + "x"
        await storage.objects.put(first, document(1))
        await storage.objects.put(second, b"x")
        deletes = 0

        async def refuse(call):
            nonlocal deletes
            if call.operation != "delete":
                return None
            deletes += 1
            if deletes > cut_off_at:
                return StoreFault()
            return StoreFault(failed=dict.fromkeys(call.keys, "AccessDenied"))

        store.fault = refuse
        operation = erase_session(storage, session_id="s-1")
        with pytest.raises(StorageError):
            await operation.run()
    expected = [first, second] if cut_off_at > 1 else [second]
    receipt = operation.report
    assert sorted(one.key for one in receipt.retained) in (sorted(expected), [first])
    assert len(receipt.retained) == min(cut_off_at, 2)
    assert receipt.finished_at is None
