"""`verify`: each damage is found by its name, and mended only when that is asked for."""

from datetime import timedelta

import pytest

from finished import without_idle_claims
from histories import NOW, document, location_of, write_history
from snapstore import (
    FileStorage,
    InvalidIdentifierError,
    MemoryStorage,
    ObjectSnapshotStorage,
    Snapshot,
    SnapshotDecodeError,
    SnapshotLocation,
    SnapshotManifest,
    new_snapshot_id,
    snapshot_id_at,
)
from snapstore.encoding.envelope import encode_snapshot
from snapstore.operations import RetentionPolicy, archive, delete_snapshots, fork_session, verify
from snapstore.stores import MemoryObjectStore
from snapstore.testing import FaultyObjectStore

LOCATION = location_of("s-1")
CANARY = "canary-33af"
LATE = document(99)


async def write_good(storage, session_id="s-1"):
    ids = await write_history(storage, location_of(session_id), range(1, 4))
    await storage.rewind(location=location_of(session_id), snapshot_id=ids[-1])
    await storage.save_manifest(
        location=location_of(session_id), manifest=SnapshotManifest("1.0", "then")
    )
    return ids


async def found(storage, **options):
    operation = verify(storage, **options)
    async with operation:
        findings = [finding async for finding in operation]
    assert CANARY not in str(findings)
    assert operation.report.findings == len(findings)
    return findings, operation.report


async def test_a_good_store_has_no_findings(storage):
    await write_good(storage)
    await write_good(storage, "s-2")
    await fork_session(storage, session_id="s-1", into="fork").run()
    findings, report = await found(storage)
    assert findings == []
    assert report.ok
    assert (report.sessions, report.objects) == (3, 15)


def orchestrator(turn):
    return encode_snapshot(Snapshot.new({"turn": turn}, scope="multiAgent"), max_bytes=2**20)


DAMAGE = {
    "cut short": document(1)[:-9],
    "empty": b"",
    "not JSON": CANARY.encode(),
    "not UTF-8": b"\xff\xfe",
    "another shape": f'{{"text":"{CANARY}"}}'.encode(),
    "NaN": b'{"scope":"agent","schemaVersion":"1.0","createdAt":"","data":{"x":NaN},"appData":{}}',
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
@pytest.mark.parametrize("what", ["latest", "history", "manifest"])
async def test_damaged_objects_are_found(damage, what):
    async with MemoryStorage() as storage:
        ids = await write_good(storage)
        key = {
            "latest": storage.layout.latest(LOCATION),
            "history": storage.layout.history(LOCATION, ids[0]),
            "manifest": storage.layout.manifest(LOCATION),
        }[what]
        await storage.objects.put(key, damage)
        findings, report = await found(storage)
        assert [(finding.kind, finding.key) for finding in findings] == [(f"{what} damaged", key)]
        assert (await storage.objects.get(key, max_bytes=999)).data == damage
    assert not report.ok


async def damaged(storage, what):
    """Damage a store; returns the key that is to be named."""
    layout, ids = storage.layout, await write_good(storage)
    match what:
        case "latest missing":
            await storage.objects.delete([key := layout.latest(LOCATION)])
        case "latest without its history":
            await delete_snapshots(storage, LOCATION, [ids[-1]]).run()
            key = layout.latest(LOCATION)
        case "latest differs from its history":
            key = layout.latest(LOCATION)
            await storage.objects.put(layout.history(LOCATION, ids[-1]), document(77))
        case "wrong scope":
            await storage.objects.put(key := layout.history(LOCATION, ids[0]), orchestrator(1))
        case "id in the future":
            ahead = snapshot_id_at(NOW + timedelta(days=30))
            await storage.objects.put(key := layout.history(LOCATION, ahead), document(1))
        case "unfinished fork":
            manifest = SnapshotManifest("1.0", "then", {"forkedFrom": {"complete": False}})
            await storage.save_manifest(location=LOCATION, manifest=manifest)
            key = layout.manifest(LOCATION)
        case "pack damaged" | "unfinished archive":
            await archive(storage, RetentionPolicy(keep_last=2), sessions=["s-1"]).run()
            prefix = layout.archive_prefix(LOCATION)
            keys = [key async for page in storage.objects.scan(prefix) for key in page]
            [key] = await without_idle_claims(storage, keys)
            if what == "pack damaged":
                data = (await storage.objects.get(key, max_bytes=2**20)).data
                await storage.objects.put(key, data[:-20] + CANARY.encode() + data[-20:])
            else:
                key = layout.pack_in(key, prefix).claim
                await storage.objects.put(key, b'{"state":"held","run":""}')
        case "set aside":
            await storage.objects.put(key := layout.damaged(LOCATION, "x.json"), b"?")
        case "foreign object":
            history = layout.history_prefix(LOCATION)
            await storage.objects.put(key := f"{history}snapshot_NOT-AN-ID.json", b"?")
        case "stash without session":
            key = layout.stash_prefix("gone")
            await storage.objects.put(f"{key}a/b", b"?")
            await storage.objects.put(f"{layout.stash_prefix('s-1')}a", b"?")
    return key


KINDS = [
    *("latest missing", "wrong scope", "id in the future", "unfinished fork", "set aside"),
    *("foreign object", "stash without session", "pack damaged", "unfinished archive"),
]
WITH_METADATA = ["latest without its history", "latest differs from its history"]


@pytest.mark.parametrize("what", KINDS)
async def test_each_kind_is_found_by_its_name(storage, what):
    key = await damaged(storage, what)
    findings, _ = await found(storage)
    assert [(finding.kind, finding.key) for finding in findings] == [(what, key)]


@pytest.mark.parametrize("what", WITH_METADATA)
async def test_what_latest_was_saved_from_is_looked_at(what):
    async with MemoryStorage() as storage:
        key = await damaged(storage, what)
        findings, _ = await found(storage)
    assert [(finding.kind, finding.key) for finding in findings] == [(what, key)]


async def test_a_listing_out_of_order_is_found():
    class Backwards(MemoryObjectStore):
        async def scan(self, prefix, *, start_after=None, page_size=1_000):
            async for page in super().scan(prefix, start_after=start_after, page_size=page_size):
                yield page[::-1] if page_size > 1 else page

    async with ObjectSnapshotStorage(Backwards()) as storage:
        await write_good(storage)
        findings, _ = await found(storage, sessions=["s-1"])
    assert [finding.kind for finding in findings] == ["listing out of order"]


async def test_only_the_sessions_given_are_read(storage):
    for session_id in ("s-1", "s-2"):
        await write_good(storage, session_id)
        await storage.objects.put(storage.layout.latest(location_of(session_id)), b"?")
    findings, report = await found(storage, sessions=["s-2"])
    assert [finding.key for finding in findings] == [storage.layout.latest(location_of("s-2"))]
    assert report.sessions == 1


async def test_a_damaged_latest_is_mended_from_the_newest_good_snapshot(storage):
    ids = await write_good(storage)
    latest, newest = storage.layout.latest(LOCATION), storage.layout.history(LOCATION, ids[-1])
    await storage.objects.put(latest, b"broken")
    await storage.objects.put(newest, b"broken, too")
    findings, report = await found(storage, mend=True)
    assert {finding.kind for finding in findings} == {"latest damaged", "history damaged"}
    assert report.ok
    loaded = await storage.load_versioned(location=LOCATION)
    assert loaded.snapshot.data == {"turn": 1}
    if not isinstance(storage, FileStorage):
        assert loaded.snapshot_id == ids[1]
    assert await storage.list_snapshot_ids(location=LOCATION) == ids[:2]
    again, _ = await found(storage)
    assert {finding.kind for finding in again} == {"set aside"}
    kept = {(await storage.objects.get(finding.key, max_bytes=99)).data for finding in again}
    assert kept == {b"broken", b"broken, too"}


async def test_a_missing_latest_is_mended(storage):
    ids = await write_good(storage)
    await storage.objects.delete([storage.layout.latest(LOCATION)])
    [finding], report = await found(storage, mend=True)
    assert finding.mended == f"it is {ids[-1]} of history now"
    assert report.ok
    assert (await storage.load_snapshot(location=LOCATION)).data == {"turn": 2}
    assert (await found(storage))[0] == []


async def test_a_first_checkpoint_that_is_being_made_is_no_finding(storage):
    await storage.objects.put(storage.layout.history(LOCATION, new_snapshot_id()), document(1))
    assert (await found(storage, mend=True))[0] == []
    assert await storage.load_snapshot(location=LOCATION) is None


@pytest.mark.parametrize("bad", ["wrong scope", "id in the future"])
async def test_latest_is_not_mended_from_what_is_a_finding_itself(storage, bad):
    ids = await write_good(storage)
    history = storage.layout.history
    if bad == "wrong scope":
        await storage.objects.put(history(LOCATION, ids[-1]), orchestrator(1))
        good = ids[1]
    else:
        await storage.objects.put(
            history(LOCATION, snapshot_id_at(NOW + timedelta(days=9))), orchestrator(1)
        )
        await storage.objects.put(
            history(LOCATION, snapshot_id_at(NOW + timedelta(days=8))), document(1)
        )
        good = ids[-1]
    await storage.objects.put(storage.layout.latest(LOCATION), b"broken")
    findings, _ = await found(storage, mend=True)
    assert {finding.kind for finding in findings} >= {bad, "latest damaged"}
    expected = await storage.load_snapshot(location=LOCATION, snapshot_id=good)
    assert await storage.load_snapshot(location=LOCATION) == expected


@pytest.mark.parametrize("what", ["latest", "history"])
async def test_a_snapshot_too_large_for_this_storage_is_left_alone(what):
    store = MemoryObjectStore()
    async with ObjectSnapshotStorage(store) as storage:
        large = Snapshot.new({"text": "x" * 5_000})
        saved = await storage.checkpoint(location=LOCATION, snapshot=large)
        small = Snapshot.new({"text": "x"})
        if what == "history":
            await storage.checkpoint(location=LOCATION, snapshot=small)
            key = storage.layout.history(LOCATION, saved.snapshot_id)
        else:
            await storage.objects.put(
                storage.layout.history(LOCATION, saved.snapshot_id), document(1)
            )
            key = storage.layout.latest(LOCATION)
        before = dict(store.objects)
    async with ObjectSnapshotStorage(store, max_snapshot_bytes=3_000) as storage:
        findings, report = await found(storage, mend=True)
    assert [(finding.kind, finding.key) for finding in findings] == [("too large", key)]
    assert not report.ok
    assert store.objects == before


async def test_a_stash_of_a_session_of_the_sdks_beside_is_not_without_session():
    store = MemoryObjectStore()
    async with ObjectSnapshotStorage(store, prefix="mine") as storage:
        await storage.objects.put("mine/context/s-1/offloader/a", b"?")
        await storage.objects.put("mine/session/s-1/scopes/agent/a/snapshots/x.json", b"?")
        stashes = [f for f in (await found(storage))[0] if f.kind == "stash without session"]
    assert stashes == []


async def test_without_a_good_snapshot_nothing_is_made_up(storage):
    await storage.objects.put(storage.layout.latest(LOCATION), b"broken")
    [finding], report = await found(storage, mend=True)
    assert (finding.kind, finding.mended, report.ok) == ("latest damaged", None, False)
    with pytest.raises(SnapshotDecodeError):
        await storage.load_snapshot(location=LOCATION)


@pytest.mark.parametrize("what", ["latest", "history", "missing"])
async def test_what_is_saved_meanwhile_is_not_mended_over(what):
    for step in range(1, 60):
        store = FaultyObjectStore(MemoryObjectStore())
        async with ObjectSnapshotStorage(store) as storage:
            ids = await write_good(storage)
            key = storage.layout.latest(LOCATION)
            if what == "history":
                key = storage.layout.history(LOCATION, ids[0])
            if what == "missing":
                await storage.objects.delete([key])
            else:
                await storage.objects.put(key, b"broken")
            calls = 0

            async def save(_):
                nonlocal calls
                calls += 1
                if calls == step:  # noqa: B023
                    store.inner.objects[key] = LATE  # noqa: B023

            store.fault = save
            await found(storage, mend=True)
            if calls < step:
                break
            assert store.inner.objects[key] == LATE


async def test_orchestrators_are_verified_too(storage):
    location = SnapshotLocation.multi_agent("s-1", "graph")
    await storage.checkpoint(location=location, snapshot=Snapshot.new({}, scope="multiAgent"))
    assert (await found(storage))[0] == []
    await storage.objects.put(storage.layout.latest(location), document(1))
    kinds = {finding.kind for finding in (await found(storage))[0]}
    assert "wrong scope" in kinds


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"sessions": "s-1"}, TypeError),
        ({"sessions": ["../"]}, InvalidIdentifierError),
        ({"max_requests_per_second": 0}, ValueError),
    ],
)
def test_bad_input_is_refused(arguments, error):
    with pytest.raises(error):
        verify(MemoryStorage(), **arguments)
