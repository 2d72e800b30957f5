"""`archive`: what a policy does not keep moves into packs, and nothing is lost or comes back."""

import asyncio
import hashlib
import random
import shutil
import subprocess
import sys
from contextlib import aclosing, contextmanager, suppress
from datetime import timedelta

import pytest

from finished import without_idle_claims
from histories import NOW, id_days_ago, location_of, write_history
from sampling import steps
from snapstore import (
    FileStorage,
    InvalidIdentifierError,
    MemoryStorage,
    ObjectSnapshotStorage,
    Snapshot,
    SnapshotDecodeError,
    SnapshotNotFoundError,
    StorageError,
    new_snapshot_id,
    snapshot_id_at,
)
from snapstore.encoding.packs import PackReader, PackWriter
from snapstore.model.keys import Layout
from snapstore.operations import (
    RetentionPolicy,
    apply,
    archive,
    copy,
    decode_events,
    delete_snapshots,
    encode_event,
    import_session,
    prune_archive,
    prune_sessions,
    save_export,
    unarchive,
    verify,
)
from snapstore.stores import MemoryObjectStore
from snapstore.testing import FaultyObjectStore, StoreFault

LAYOUT = Layout()
LOCATION = location_of("session-1")
OTHER = location_of("session-1", "travel")
LAST_TWO = RetentionPolicy(keep_last=2)
PREFIX = LAYOUT.archive_prefix(LOCATION)
HISTORY = LAYOUT.history_prefix(LOCATION)


class SixMethods(MemoryObjectStore):
    def capability(self, kind):
        return None


async def collected(operation):
    async with operation:
        return [event async for event in operation]


async def archived_ids(storage, location=LOCATION):
    async with aclosing(storage.iter_archived_ids(location=location)) as ids:
        return [found async for found in ids]


async def keys_under(storage, prefix):
    keys = [key async for page in storage.objects.scan(prefix) for key in page]
    return await without_idle_claims(storage, keys)


async def bodies(storage, location, ids):
    found = [
        await storage.objects.get(storage.layout.history(location, one), max_bytes=2**30)
        for one in ids
    ]
    return [None if one is None else bytes(one.data) for one in found]


def packed_in(store):
    """Every document of every pack of a store that counts: by the pack, and its key in history."""
    documents = {}
    for key, data in store.objects.items():
        claim = store.objects.get(key.replace(".jsonl.zst", ".claim"), b"")
        counts = b'"pending"' not in claim and b'"void"' not in claim
        if key.endswith(".jsonl.zst") and counts:
            directory = key[: key.rindex("/") + 1]
            pack = PackReader(LAYOUT.pack_in(key, directory), data, max_bytes=2**30)
            history = f"{directory.removesuffix('archive/')}immutable_history/snapshot_"
            documents[key] = {
                f"{history}{packed.snapshot_id}.json": found for packed, found in pack.read_all()
            }
    return documents


def contents(store):
    """What a store in memory holds, without the names of packs and without claims."""
    packs = packed_in(store)
    plain = {
        key: bytes(data)
        for key, data in store.objects.items()
        if not key.endswith((".jsonl.zst", ".claim"))
    }
    archived = {}
    for documents in packs.values():
        for key, document in documents.items():
            assert archived.setdefault(key, document) == document
    return plain, archived


async def test_each_location_moves_what_the_policy_does_not_keep(storage):
    ids = await write_history(storage, LOCATION, range(7))
    other = await write_history(storage, OTHER, range(3))
    short = await write_history(storage, location_of("session-2"), range(2))
    before = await bodies(storage, LOCATION, ids)
    snapshots = [await storage.load_snapshot(location=LOCATION, snapshot_id=found) for found in ids]
    operation = archive(storage, LAST_TWO)
    events = await collected(operation)

    assert await storage.list_snapshot_ids(location=LOCATION) == ids[-2:]
    assert await storage.list_snapshot_ids(location=OTHER) == other[-2:]
    assert await storage.list_snapshot_ids(location=location_of("session-2")) == short
    assert await archived_ids(storage) == ids[:-2]
    assert await archived_ids(storage, OTHER) == other[:1]
    assert await archived_ids(storage, location_of("session-2")) == []
    for snapshot_id, snapshot in zip(ids[:-2], snapshots, strict=False):
        loaded = await storage.load_archived(location=LOCATION, snapshot_id=snapshot_id)
        assert loaded == snapshot
    for missing in (ids[-1], new_snapshot_id(), id_days_ago(9_000)):
        assert await storage.load_archived(location=LOCATION, snapshot_id=missing) is None

    assert {event.result for event in events} == {"archived"}
    assert {event.key for event in events} == {
        *(storage.layout.history(LOCATION, found) for found in ids[:-2]),
        storage.layout.history(OTHER, other[0]),
    }
    packs = await keys_under(storage, storage.layout.archive_prefix(LOCATION))
    assert {event.pack for event in events if "weather" in event.key} == set(packs)
    report = operation.report
    assert (report.sessions, report.locations, report.archived, report.kept) == (2, 3, 6, 6)
    assert (report.packs, report.failed, report.skipped, report.ok) == (2, 0, 0, True)
    assert report.bytes == sum(map(len, before[:-2])) + sum(
        event.size for event in events if "travel" in event.key
    )

    # And back again.
    operation = unarchive(storage)
    restored = await collected(operation)
    assert [event.result for event in restored] == ["restored"] * 6
    assert await bodies(storage, LOCATION, ids) == before
    assert await archived_ids(storage) == ids[:-2]
    again = await unarchive(storage).run()
    assert (again.restored, again.present, again.conflicts, again.ok) == (0, 6, 0, True)

    dry = prune_archive(storage, dry_run=True)
    assert {event.result for event in await collected(dry)} == {"planned"}
    assert await archived_ids(storage) == ids[:-2]
    pruned = await prune_archive(storage).run()
    assert (pruned.deleted, pruned.documents) == (2, 6)
    assert await keys_under(storage, storage.layout.archive_prefix(LOCATION)) == []
    assert await storage.list_snapshot_ids(location=LOCATION) == ids


async def test_a_second_run_writes_no_second_pack_of_what_was_restored(storage):
    ids = await write_history(storage, LOCATION, range(6))
    await archive(storage, LAST_TWO).run()
    packs = await keys_under(storage, storage.layout.archive_prefix(LOCATION))
    await unarchive(storage).run()
    report = await archive(storage, LAST_TWO).run()
    assert (report.archived, report.packs) == (4, 0)
    assert await storage.list_snapshot_ids(location=LOCATION) == ids[-2:]
    assert await keys_under(storage, storage.layout.archive_prefix(LOCATION)) == packs


async def test_the_state_at_a_time_is_found_in_history_and_archive(storage):
    ids = await write_history(storage, LOCATION, range(0, 40, 2))
    states = {}
    for found in ids:
        states[found] = await storage.load_snapshot(location=LOCATION, snapshot_id=found)
    await archive(storage, RetentionPolicy(keep_last=2, keep_weekly=9)).run()
    await archive(storage, RetentionPolicy(keep_last=1, keep_weekly=2)).run()
    history = await storage.list_snapshot_ids(location=LOCATION)
    archived = await archived_ids(storage)
    assert sorted([*history, *archived]) == ids
    assert len(archived) > len(history) > 1
    assert len(await keys_under(storage, storage.layout.archive_prefix(LOCATION))) == 2
    for days in range(-1, 41):
        time = NOW - timedelta(days=days, minutes=-1)
        expected = [found for found in ids if found <= snapshot_id_at(time)[:13] + "z"]
        loaded = await storage.load_snapshot(location=LOCATION, as_of=time)
        assert loaded == (states[expected[-1]] if expected else None)


async def test_what_latest_was_saved_from_stays_in_history(storage):
    ids = await write_history(storage, LOCATION, range(6))
    await storage.rewind(location=LOCATION, snapshot_id=ids[1])
    await archive(storage, LAST_TWO).run()
    left = await storage.list_snapshot_ids(location=LOCATION)
    # Files have no metadata that would tell.
    assert left == ([] if isinstance(storage, FileStorage) else [ids[1]]) + ids[-2:]


async def test_a_dry_run_changes_nothing_and_can_be_applied():
    async with MemoryStorage() as storage:
        ids = await write_history(storage, LOCATION, range(6))
        before = dict(storage.objects.store.objects)
        operation = archive(storage, LAST_TWO, dry_run=True)
        plan = [encode_event(event) for event in await collected(operation)]
        assert storage.objects.store.objects == before
        assert (operation.report.archived, operation.report.requests_needed) == (4, 19)
        await delete_snapshots(storage, LOCATION, ids[:1]).run()
        await storage.objects.put(LAYOUT.history(LOCATION, ids[1]), b'{"other":1}')
        later = await write_history(storage, LOCATION, [-1, -2])

        report = await apply(storage, decode_events(plan)).run()
        assert (report.done, report.changed, report.missing, report.ok) == (2, 1, 1, False)
        left = await storage.list_snapshot_ids(location=LOCATION)
        assert left == sorted([ids[1], *ids[-2:], *later])
        assert await archived_ids(storage) == ids[2:4]

        plan = [encode_event(event) async for event in unarchive(storage, dry_run=True)]
        assert (await apply(storage, decode_events(plan)).run()).done == 2
        assert await storage.list_snapshot_ids(location=LOCATION) == sorted([*left, *ids[2:4]])
        plan = [encode_event(event) async for event in prune_archive(storage, dry_run=True)]
        assert len(plan) == 1
        await delete_snapshots(storage, LOCATION, ids[2:3]).run()
        report = await apply(storage, decode_events(plan)).run()
        assert (report.done, report.changed) == (0, 1)
        assert await archived_ids(storage) == ids[2:4]


ODD = [
    b'{"a":1}',
    b'{\n  "a": 1\n}\n',
    b"",
    b"\n\n",
    b'{"a":\r\n1}',
    b"\xff\x00 not text",
    b'{"bytes":7}',
    b"x" * 3_000_000,
]


async def write_documents(storage, documents, location=LOCATION):
    ids = [id_days_ago(len(documents) + 2 - place) for place in range(len(documents))]
    for snapshot_id, document in zip(ids, documents, strict=True):
        await storage.objects.put(storage.layout.history(location, snapshot_id), document)
    await write_history(storage, location, [1, 0])
    return ids


async def test_whatever_is_stored_comes_back_byte_for_byte(storage):
    ids = await write_documents(storage, ODD)
    await archive(storage, LAST_TWO).run()
    assert await bodies(storage, LOCATION, ids) == [None] * len(ODD)
    await unarchive(storage).run()
    assert await bodies(storage, LOCATION, ids) == ODD


@pytest.mark.skipif(shutil.which("zstd") is None, reason="zstd is not installed")
async def test_the_zstd_program_gives_the_documents_a_line_each():
    async with MemoryStorage() as storage:
        await write_documents(storage, ODD[:2] + ODD[6:])
        await archive(storage, LAST_TWO).run()
        [pack] = await keys_under(storage, PREFIX)
        data = storage.objects.store.objects[pack]
    unpacked = subprocess.run(["zstd", "-d"], input=data, capture_output=True, check=True).stdout
    assert unpacked == b"\n".join(
        [ODD[0], b'{"bytes":%d}' % len(ODD[1]), ODD[1], ODD[6], ODD[7], b""]
    )
    assert (
        subprocess.run(["zstd", "-t"], input=data, capture_output=True, check=False).returncode == 0
    )


async def test_a_snapshot_that_is_too_large_stays():
    store = MemoryObjectStore()
    async with ObjectSnapshotStorage(store, max_snapshot_bytes=1_000) as storage:
        ids = await write_documents(storage, [b"1", b"2" * 1_001, b"3"])
        operation = archive(storage, LAST_TWO)
        events = await collected(operation)
        assert [(event.result, event.code) for event in events if event.code] == [
            ("failed", "TooLarge")
        ]
        assert not operation.report.ok
        assert ids[1] in await storage.list_snapshot_ids(location=LOCATION)
        assert await archived_ids(storage) == [ids[0], ids[2]]


async def test_only_snapshots_of_the_sessions_given_are_archived():
    async with MemoryStorage() as storage:
        for session_id in ("s-1", "s-10"):
            await write_history(storage, location_of(session_id), range(4))
        await archive(storage, LAST_TWO, sessions=["s-1"]).run()
        assert len(await storage.list_snapshot_ids(location=location_of("s-10"))) == 4
        assert len(await archived_ids(storage, location_of("s-1"))) == 2


@pytest.mark.parametrize("store", [MemoryObjectStore, SixMethods])
@pytest.mark.parametrize("applied", [False, True])
@pytest.mark.parametrize("restored_before", [False, True])
async def test_killed_at_any_call_and_made_again_it_ends_the_same(store, applied, restored_before):
    async def run(fails_at):
        faulty = FaultyObjectStore(store())
        calls = 0

        async def fault(_):
            nonlocal calls
            calls += 1
            # A process that was killed makes no further call.
            is_dead = 0 < fails_at <= calls
            return StoreFault(applied=applied and calls == fails_at) if is_dead else None

        async with ObjectSnapshotStorage(faulty) as storage:
            ids = await write_turns(storage)
            await write_turns(storage, OTHER, range(4))
            if restored_before:
                await archive(storage, RetentionPolicy(keep_last=5)).run()
                await unarchive(storage).run()
            documents = {key: bytes(data) for key, data in faulty.inner.objects.items()}
            faulty.fault = fault
            try:
                await archive(storage, LAST_TWO, sessions=["session-1"]).run()
            except StorageError:
                faulty.fault = lambda _: asyncio.sleep(0)
                # Nothing is lost at this moment either.
                plain, archived = contents(faulty.inner)
                for found in ids:
                    key = LAYOUT.history(LOCATION, found)
                    assert plain.get(key, archived.get(key)) == documents[key]
                await archive(storage, LAST_TWO, sessions=["session-1"]).run()
            found = contents(faulty.inner), len(packed_in(faulty.inner))
            faulty.fault = lambda _: asyncio.sleep(0)
            with an_hour_later():
                await assert_no_claim_is_left(storage, faulty.inner)
        return *found, calls >= fails_at

    expected, packs, _ = await run(0)
    for fails_at in steps():
        found, count, was_reached = await run(fails_at)
        assert found == expected
        assert count == packs
        if not was_reached:
            break
    assert fails_at > 20


@contextmanager
def an_hour_later():
    """Any run that was overtaken has ended by then."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("snapstore.storage.claims.OVERTAKEN_FOR", timedelta(0))
        yield


async def assert_no_claim_is_left(storage, inner):
    """The next archiver removes them; where deletes have no condition, idle ones stay."""
    before = contents(inner)
    await archive(storage, RetentionPolicy(keep_last=9), sessions=["session-1"]).run()
    assert contents(inner) == before
    left = [data for key, data in inner.objects.items() if key.endswith(".claim")]
    assert all(isinstance(inner, SixMethods) and b'"idle"' in claim for claim in left)


DOCUMENT = b'{"scope":"agent","schemaVersion":"1.0","createdAt":"","data":{"turn":%d},"appData":{}}'


async def write_turns(storage, location=LOCATION, days=range(7)):
    """Write a history whose documents are the same in every run."""
    ids = [id_days_ago(ago) for ago in sorted(days, reverse=True)]
    for turn, snapshot_id in enumerate(ids):
        data = DOCUMENT % turn
        await storage.objects.put(LAYOUT.history(location, snapshot_id), data)
    return ids


async def run_beside(other, *, store=MemoryObjectStore, operation=None):
    """Let something happen before each call of an archiver in turn; yields each end."""
    for place in steps(0):
        faulty = FaultyObjectStore(store())
        was_reached = False
        calls = 0

        async def fault(_, faulty=faulty, place=place):
            nonlocal calls, was_reached
            calls += 1
            if calls == place + 1 and not was_reached:
                was_reached = True
                async with ObjectSnapshotStorage(faulty.inner) as beside:
                    await other(beside)

        async with ObjectSnapshotStorage(faulty) as storage:
            await write_turns(storage)
            faulty.fault = fault
            work = operation or (lambda s: archive(s, LAST_TWO, sessions=["session-1"]))
            await work(storage).run()
            faulty.fault = lambda _: asyncio.sleep(0)
            if was_reached:
                yield storage, faulty.inner
        if not was_reached:
            break
    assert place > 12


IDS = [id_days_ago(days) for days in range(6, -1, -1)]
KEYS = [LAYOUT.history(LOCATION, found) for found in IDS]
STORES = pytest.mark.parametrize("store", [MemoryObjectStore, SixMethods])


@STORES
async def test_two_archivers_at_once_lose_nothing(store):
    async def other(beside):
        await archive(beside, LAST_TWO, sessions=["session-1"]).run()

    async for storage, inner in run_beside(other, store=store):
        await archive(storage, LAST_TWO, sessions=["session-1"]).run()
        plain, archived = contents(inner)
        assert sorted(archived) == KEYS[:5]
        assert sorted(plain) == KEYS[5:]


@STORES
async def test_a_save_beside_it_is_not_lost(store):
    saved = new_snapshot_id()

    async def other(beside):
        await beside.save_snapshot(
            location=LOCATION, snapshot=Snapshot.new({}), is_latest=False, snapshot_id=saved
        )

    async for storage, inner in run_beside(other, store=store):
        found = await storage.load_snapshot(location=LOCATION, snapshot_id=saved)
        plain, archived = contents(inner)
        assert found is not None
        # Where it came before all, it counts as one of the newest two.
        assert {*archived, *plain} == {*KEYS, LAYOUT.history(LOCATION, saved)}


@STORES
async def test_a_delete_of_the_session_beside_it_leaves_nothing(store):
    async def other(beside):
        await beside.delete_session(session_id="session-1")

    async for _, inner in run_beside(other, store=store):
        assert inner.objects == {}


@STORES
async def test_it_leaves_nothing_in_a_session_that_is_being_deleted(store):
    """The other way round: all of an archiver between any two calls of `delete_session`."""

    class Deletion:
        def __init__(self, storage):
            self.storage = storage

        async def run(self):
            await self.storage.delete_session(session_id="session-1")

    for place in range(3):
        faulty = FaultyObjectStore(store())
        calls = 0

        async def fault(_, faulty=faulty, place=place):
            nonlocal calls
            calls += 1
            if calls == place + 1:
                async with ObjectSnapshotStorage(faulty.inner) as beside:
                    await archive(beside, LAST_TWO, sessions=["session-1"]).run()

        async with ObjectSnapshotStorage(faulty) as storage:
            await write_turns(storage)
            faulty.fault = fault
            await storage.delete_session(session_id="session-1")
        assert faulty.inner.objects == {}
    assert calls == 3


async def test_what_is_deleted_beside_it_before_it_was_moved_does_not_come_back():
    victim = KEYS[2]
    was_moved = False

    async def other(beside):
        nonlocal was_moved
        was_moved = victim not in beside.objects.store.objects
        await beside.objects.delete([victim])

    async for _, inner in run_beside(other):
        plain, archived = contents(inner)
        assert victim not in plain
        assert (victim in archived) == was_moved
        assert set(archived) >= {*KEYS[:2], *KEYS[3:5]}


async def test_a_rewind_beside_it_leaves_a_good_latest():
    """Latest may be of a snapshot that is archived by then."""
    moved = 0

    async def other(beside):
        with suppress(SnapshotNotFoundError):  # it is in a pack already
            await beside.rewind(location=LOCATION, snapshot_id=IDS[1])

    async for storage, _ in run_beside(other):
        latest = await storage.load_versioned(location=LOCATION)
        if latest is not None:
            archived = await storage.load_archived(location=LOCATION, snapshot_id=IDS[1])
            assert latest.snapshot.data == {"turn": 1}
            assert latest.snapshot_id == IDS[1]
            assert (await verify(storage, sessions=["session-1"]).run()).ok
            moved += archived is not None
        await storage.rewind(location=LOCATION, snapshot_id=IDS[-1])
    assert moved > 1


def redacted(data):
    return bytes(data).replace(b'"turn"', b'"gone"')


async def redact_history(beside):
    """What a redaction does: it replaces history, looks for packs, and begins again."""
    store = beside.objects.store
    for found in IDS:
        key = LAYOUT.history(LOCATION, found)
        stored = await store.get(key, max_bytes=2**20)
        if stored is not None and b'"turn"' in stored.data:
            await store.put(key, redacted(stored.data), if_match=stored.version)


async def test_an_original_that_is_changed_meanwhile_leaves_no_old_text_in_a_pack():
    changed = set()

    async def other(beside):
        changed.clear()
        changed.update(key for key in KEYS if key in beside.objects.store.objects)
        await redact_history(beside)

    async for storage, inner in run_beside(other):
        await archive(storage, LAST_TWO, sessions=["session-1"]).run()
        plain, archived = contents(inner)
        everything = plain | archived
        assert sorted(everything) == KEYS
        for found in changed:
            assert b'"turn"' not in everything[found]


@STORES
@pytest.mark.parametrize("applied", [False, True])
async def test_a_crash_and_a_change_leave_no_old_text_after_the_next_run(store, applied):
    """Killed at any call, then all that is left in history is changed, then made again."""
    for place in steps():
        faulty = FaultyObjectStore(store())
        calls = 0

        async def fault(_, place=place):
            nonlocal calls
            calls += 1
            # A process that was killed makes no further call.
            return StoreFault(applied=applied and calls == place) if calls >= place else None

        async with ObjectSnapshotStorage(faulty) as storage:
            await write_turns(storage)
            faulty.fault = fault
            with suppress(StorageError):
                await archive(storage, LAST_TWO, sessions=["session-1"]).run()
            was_reached = calls >= place
            faulty.fault = lambda _: asyncio.sleep(0)
            left = await storage.list_snapshot_ids(location=LOCATION)
            await redact_history(storage)
            await archive(storage, LAST_TWO, sessions=["session-1"]).run()
            plain, archived = contents(faulty.inner)
            assert sorted(archived) == KEYS[:5]
            assert sorted(plain) == KEYS[5:]
            for found in left[:-2]:
                assert b'"turn"' not in archived[LAYOUT.history(LOCATION, found)]
        if not was_reached:
            break
    assert place > 15


@STORES
@pytest.mark.parametrize("policy", [None, RetentionPolicy(keep_last=1)])
async def test_packs_are_not_pruned_while_an_archiver_relies_on_them(store, policy):
    """Of what was restored, either history or the archive keeps a copy."""

    async def other(beside):
        await prune_archive(beside, policy, sessions=["session-1"]).run()

    for place in steps(0):
        faulty = FaultyObjectStore(store())
        was_reached, calls = False, 0

        async def fault(_, faulty=faulty, place=place):
            nonlocal calls, was_reached
            calls += 1
            if calls == place + 1 and not was_reached:
                was_reached = True
                async with ObjectSnapshotStorage(faulty.inner) as beside:
                    await other(beside)

        async with ObjectSnapshotStorage(faulty) as storage:
            await write_turns(storage)
            await archive(storage, LAST_TWO, sessions=["session-1"]).run()
            await unarchive(storage, sessions=["session-1"]).run()
            faulty.fault = fault
            await archive(storage, LAST_TWO, sessions=["session-1"]).run()
            plain, archived = contents(faulty.inner)
        found = {*plain, *archived}
        assert found == set(KEYS) if policy is None else found >= set(KEYS[5:])
        if not was_reached:
            break
    assert place > 8


@STORES
@pytest.mark.parametrize("applied", [False, True])
@pytest.mark.parametrize("work", [unarchive, prune_archive])
async def test_the_others_too_end_the_same_where_they_are_killed(store, applied, work):
    async def run(fails_at):
        faulty = FaultyObjectStore(store())
        calls = 0

        async def fault(_):
            nonlocal calls
            calls += 1
            # A process that was killed makes no further call.
            is_dead = 0 < fails_at <= calls
            return StoreFault(applied=applied and calls == fails_at) if is_dead else None

        async with ObjectSnapshotStorage(faulty) as storage:
            await write_turns(storage)
            await archive(storage, LAST_TWO, sessions=["session-1"]).run()
            if work is prune_archive:
                await unarchive(storage, sessions=["session-1"]).run()
            faulty.fault = fault
            try:
                await work(storage, sessions=["session-1"]).run()
            except StorageError:
                plain, archived = contents(faulty.inner)
                assert {*plain, *archived} >= set(KEYS)
                faulty.fault = lambda _: asyncio.sleep(0)
                # What a killed one has left of a pack, the next archiver brings to an end.
                await archive(storage, RetentionPolicy(keep_last=9)).run()
                await work(storage, sessions=["session-1"]).run()
                plain, archived = contents(faulty.inner)
                assert {*plain, *archived} >= set(KEYS)
                with an_hour_later():
                    await work(storage, sessions=["session-1"]).run()
            faulty.fault = lambda _: asyncio.sleep(0)
            with an_hour_later():
                await assert_no_claim_is_left(storage, faulty.inner)
        return contents(faulty.inner), calls >= fails_at

    expected, _ = await run(0)
    for fails_at in steps():
        found, was_reached = await run(fails_at)
        assert found == expected
        if not was_reached:
            break
    assert fails_at > 4


async def test_a_policy_deletes_packs_of_which_it_keeps_nothing():
    async with MemoryStorage() as storage:
        ids = await write_history(storage, LOCATION, range(12))
        await archive(storage, RetentionPolicy(keep_last=8)).run()
        await archive(storage, RetentionPolicy(keep_last=2)).run()
        assert await archived_ids(storage) == ids[:10]
        operation = prune_archive(storage, RetentionPolicy(keep_last=3))
        [event] = await collected(operation)
        assert (event.result, event.reason, event.documents) == ("deleted", "policy", 4)
        assert (operation.report.deleted, operation.report.kept) == (1, 1)
        # The pack of which it keeps one snapshot stays whole.
        assert await archived_ids(storage) == ids[4:10]
        assert await storage.list_snapshot_ids(location=LOCATION) == ids[-2:]


async def test_what_was_saved_anew_under_an_archived_id_is_not_touched():
    async with MemoryStorage() as storage:
        ids = await write_history(storage, LOCATION, range(5))
        await archive(storage, LAST_TWO).run()
        key = LAYOUT.history(LOCATION, ids[1])
        await storage.objects.put(key, b'{"mine":1}')
        [event] = await collected(archive(storage, LAST_TWO))
        assert (event.key, event.result) == (key, "conflict")
        operation = unarchive(storage)
        results = {event.key: event.result for event in await collected(operation)}
        assert results[key] == "conflict"
        assert not operation.report.ok
        assert await bodies(storage, LOCATION, [ids[1]]) == [b'{"mine":1}']
        assert await archived_ids(storage) == ids[:3]


def damaged(data):
    """A pack with one bit changed, at several places; cut; and others that are none."""
    for place in range(0, len(data), max(len(data) // 40, 1)):
        yield data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :]
    for length in (0, 1, 12, len(data) // 2, len(data) - 1):
        yield data[:length]
    yield data + b"x"
    yield b"canary" * 100


async def test_a_damaged_pack_is_an_error_that_names_it_and_shows_nothing():
    async with MemoryStorage() as storage:
        ids = await write_documents(storage, [b'{"canary":"%d"}' % n for n in range(20)])
        await archive(storage, LAST_TWO).run()
        [key] = await keys_under(storage, PREFIX)
        good = storage.objects.store.objects[key]
        for data in damaged(bytes(good)):
            storage.objects.store.objects[key] = data
            with pytest.raises(SnapshotDecodeError, match="not a good pack") as caught:
                await storage.load_archived(location=LOCATION, snapshot_id=ids[3])
            assert caught.value.key == key
            assert "canary" not in str(caught.value)
            with pytest.raises(SnapshotDecodeError):
                await archived_ids(storage)
        operation = prune_archive(storage, RetentionPolicy(keep_last=1))
        assert [event.result for event in await collected(operation)] == ["damaged"]
        assert not operation.report.ok
        # It does not keep the archiver from packing what is there.
        await write_documents(storage, [b'{"canary":"%d"}' % n for n in range(20)])
        report = await archive(storage, LAST_TWO).run()
        assert (report.archived, report.packs) == (20, 1)


def pack_of(documents, *, index=None):
    """A pack under its own name, whose index may be another one."""
    writer = PackWriter("run")
    for snapshot_id, document in documents:
        writer.add(snapshot_id, document)
    if index is not None:
        writer.documents = index(writer.documents)
    data = writer.finish()
    first, last = writer.documents[0].snapshot_id, writer.documents[-1].snapshot_id
    return LAYOUT.pack(LOCATION, first, last, hashlib.sha256(data).hexdigest()), data


def bad_indexes(documents):
    import msgspec

    first, second, *rest = documents
    replace = msgspec.structs.replace
    yield [second, first, *rest]
    yield [first, first, second]
    yield [replace(first, length=first.length + 1), second]
    yield [replace(first, offset=1), second]
    yield [first, replace(second, offset=2**62)]
    yield [first, replace(second, length=2**62)]
    yield [replace(first, sha256=second.sha256), second]
    yield [replace(first, sha256="x"), second]
    yield [replace(first, offset=-1), second]
    yield [replace(first, snapshot_id="../x"), second]
    yield [replace(first, length=-1), second]


@pytest.mark.parametrize("which", range(11))
async def test_a_pack_whose_index_lies_never_gives_a_wrong_document(which):
    documents = [(id_days_ago(5 - n), b'{"canary":%d}' % n) for n in range(4)]

    def index(found):
        return [*bad_indexes(found)][which]

    name, data = pack_of(documents, index=index)
    async with MemoryStorage() as storage:
        # Under a name that fits what it says of itself.
        key = f"{PREFIX}{documents[0][0]}_{documents[1][0]}_{name.digest}.jsonl.zst"
        storage.objects.store.objects[key] = data
        with pytest.raises(SnapshotDecodeError) as caught:
            await storage.load_archived(location=LOCATION, snapshot_id=documents[0][0])
    assert "canary" not in str(caught.value)


async def test_a_pack_of_a_newer_version_is_refused_and_nothing_is_lost():
    """Whatever else is new about it; also where its snapshots are in history again."""
    async with MemoryStorage() as storage:
        ids = await write_turns(storage)
        await archive(storage, LAST_TWO).run()
        await unarchive(storage).run()
        [key] = await keys_under(storage, PREFIX)
        data = bytes(storage.objects.store.objects.pop(key))
        old = b'{"version":1,'
        new = data.replace(old, b'{"version":2,"new":true,')
        more = len(b'"new":true,')
        size = int.from_bytes(new[-12:-8], "little")
        magic = new.rindex(b"\x53\x2a\x4d\x18")
        new = b"".join(
            (
                new[: magic + 4],
                (size + more + 12).to_bytes(4, "little"),
                new[magic + 8 : -12],
                (size + more).to_bytes(4, "little"),
                new[-8:],
            )
        )
        name = LAYOUT.pack(LOCATION, ids[0], ids[4], hashlib.sha256(new).hexdigest())
        await storage.objects.put(name.key, new)
        with pytest.raises(SnapshotDecodeError, match="it has version 2"):
            await storage.load_archived(location=LOCATION, snapshot_id=ids[0])
        assert (await prune_archive(storage).run()).damaged == 1
        assert (await archive(storage, LAST_TWO).run()).packs == 1
        assert bytes(storage.objects.store.objects[name.key]) == new
        assert len(await storage.list_snapshot_ids(location=LOCATION)) == 2


async def test_a_bomb_is_not_decompressed():
    """A document that is longer than snapshots may be, and one that is longer than it says."""
    size = 50 * 2**20
    name, data = pack_of([(id_days_ago(1), bytes(size))])
    assert len(data) < 10_000
    async with MemoryStorage(max_snapshot_bytes=1_000_000) as storage:
        storage.objects.store.objects[name.key] = data
        with pytest.raises(SnapshotDecodeError, match="are allowed"):
            await storage.load_archived(location=LOCATION, snapshot_id=name.first)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda s: archive(s, None), TypeError, "policy must be a RetentionPolicy"),
        (lambda s: prune_archive(s, 5), TypeError, "policy must be a RetentionPolicy"),
        (lambda s: archive(s, LAST_TWO, sessions="s-1"), TypeError, "not one text"),
        (lambda s: unarchive(s, sessions=["S"]), InvalidIdentifierError, "session_id"),
        (lambda s: unarchive(s, max_requests_per_second=0), ValueError, "more than 0"),
        (lambda s: s.iter_archived_ids(location="s-1"), TypeError, "location"),
    ],
)
def test_bad_input_is_refused_before_anything_is_done(call, error, words):
    with pytest.raises(error, match=words):
        call(MemoryStorage())


async def test_a_claim_that_is_none_is_an_error_that_names_it():
    async with MemoryStorage() as storage:
        ids = await write_history(storage, LOCATION, range(5))
        await archive(storage, LAST_TWO).run()
        [key] = await keys_under(storage, PREFIX)
        claim = key.replace(".jsonl.zst", ".claim")
        storage.objects.store.objects[claim] = b"canary"
        for work in (
            storage.load_archived(location=LOCATION, snapshot_id=ids[0]),
            archive(storage, LAST_TWO).run(),
        ):
            with pytest.raises(SnapshotDecodeError, match="not the claim") as caught:
                await work
            assert caught.value.key == claim
            assert caught.value.__context__ is None


async def test_foreign_objects_in_the_archive_are_left_alone():
    async with MemoryStorage() as storage:
        await write_history(storage, LOCATION, range(5))
        for name in ("notes.txt", "x.jsonl.zst", "x.claim"):
            await storage.objects.put(f"{PREFIX}{name}", b"mine")
        await archive(storage, LAST_TWO).run()
        await prune_archive(storage, RetentionPolicy(keep_last=1)).run()
        assert len(await keys_under(storage, PREFIX)) == 3


async def test_listings_and_figures_know_packs_as_the_session_s_own():
    async with MemoryStorage() as storage:
        tenant = storage.namespace("tenant-7")
        ids = await write_history(tenant, LOCATION, range(6))
        await archive(tenant, LAST_TWO).run()
        assert await tenant.list_snapshot_ids(location=LOCATION) == ids[-2:]
        assert await archived_ids(tenant) == ids[:4]
        assert await archived_ids(storage) == []
        described = await tenant.describe_session(session_id="session-1")
        assert described.archive.objects == 1
        assert described.archive.bytes > 0
        assert described.foreign.objects == 0
        assert (await tenant.delete_session(session_id="session-1")).objects == 3
        assert storage.objects.store.objects == {}


async def test_the_state_at_a_time_is_found_while_it_moves():
    """An archiver, or one who brings it back, between any two calls of a load."""
    for work in (archive, unarchive):
        for place in steps(0):
            faulty = FaultyObjectStore(MemoryObjectStore())
            was_reached, calls = False, 0

            async def fault(_, faulty=faulty, place=place, work=work):
                nonlocal calls, was_reached
                calls += 1
                if calls == place + 1 and not was_reached:
                    was_reached = True
                    async with ObjectSnapshotStorage(faulty.inner) as beside:
                        if work is archive:
                            await archive(beside, LAST_TWO, sessions=["session-1"]).run()
                        else:
                            await unarchive(beside, sessions=["session-1"]).run()

            async with ObjectSnapshotStorage(faulty) as storage:
                await write_history(storage, LOCATION, range(7))
                if work is unarchive:
                    await archive(storage, LAST_TWO, sessions=["session-1"]).run()
                faulty.fault = fault
                time = NOW - timedelta(days=4)
                loaded = await storage.load_snapshot(location=LOCATION, as_of=time)
                assert loaded.data == {"turn": 2}
            if not was_reached:
                break
        assert place > 2


async def test_a_copy_beside_it_has_every_snapshot():
    """All of an archiver between any two calls of a copy, at the source."""
    for place in steps(0):
        faulty = FaultyObjectStore(MemoryObjectStore())
        was_reached, calls = False, 0

        async def fault(_, faulty=faulty, place=place):
            nonlocal calls, was_reached
            calls += 1
            if calls == place + 1 and not was_reached:
                was_reached = True
                async with ObjectSnapshotStorage(faulty.inner) as beside:
                    await archive(beside, LAST_TWO, sessions=["session-1"]).run()

        async with ObjectSnapshotStorage(faulty) as storage, MemoryStorage() as target:
            await write_turns(storage)
            faulty.fault = fault
            await copy(storage, target, sessions=["session-1"]).run()
            plain, archived = contents(target.objects.store)
        assert {*plain, *archived} == set(KEYS)
        if not was_reached:
            break
    assert place > 8


async def test_an_archive_is_exported_and_imported(tmp_path):
    async with MemoryStorage() as storage, MemoryStorage() as target:
        ids = await write_history(storage, LOCATION, range(6))
        await archive(storage, LAST_TWO).run()
        file = tmp_path / "session.tar"
        await save_export(storage, file, session_id="session-1")
        await import_session(target, file).run()
        assert await archived_ids(target) == ids[:4]
        assert target.objects.store.objects == storage.objects.store.objects


class OldStore(MemoryObjectStore):
    """History that was written long ago."""

    async def put(self, key, data, **options):
        version = await super().put(key, data, **options)
        if "/immutable_history/" in key:
            self._modified[key] = NOW - timedelta(days=90)
        return version


async def test_that_it_was_archived_does_not_make_a_session_look_active():
    async with ObjectSnapshotStorage(OldStore()) as storage:
        await write_history(storage, LOCATION, range(90, 96))
        await archive(storage, LAST_TWO, sessions=["session-1"]).run()
        idle = prune_sessions(storage, idle_for=timedelta(days=30), sessions=["session-1"])
        assert (await idle.run()).removed == 1
        assert storage.objects.store.objects == {}


async def test_without_zstandard_the_extra_is_named_and_nothing_is_lost(monkeypatch):
    async with MemoryStorage() as storage:
        ids = await write_history(storage, LOCATION, range(5))
        await archive(storage, LAST_TWO).run()
        await unarchive(storage).run()
        for name in ("compression", "compression.zstd", "backports", "backports.zstd"):
            monkeypatch.setitem(sys.modules, name, None)
        extra = r"snapstore\[archive\]"
        with pytest.raises(ModuleNotFoundError, match=extra):
            await storage.load_archived(location=LOCATION, snapshot_id=ids[0])
        for operation in (lambda s: archive(s, LAST_TWO), unarchive):
            with pytest.raises(ModuleNotFoundError, match=extra):
                operation(storage)
        assert await storage.list_snapshot_ids(location=LOCATION) == ids
        # What needs no pack goes on.
        assert await archived_ids(storage) == ids[:3]
        assert await storage.load_snapshot(location=LOCATION, as_of=NOW) is not None
        assert await storage.load_archived(location=OTHER, snapshot_id=ids[0]) is None


async def test_what_is_too_much_for_one_pack_goes_into_several():
    rng = random.Random(5)
    documents = [b'"%s"' % rng.randbytes(75_000).hex().encode() for _ in range(12)]
    async with MemoryStorage(max_snapshot_bytes=400_000) as storage:
        ids = await write_documents(storage, documents)
        operation = archive(storage, LAST_TWO)
        events = await collected(operation)
        packs = await keys_under(storage, PREFIX)
        assert len(packs) == operation.report.packs > 3
        assert {event.pack for event in events} == set(packs)
        largest = max(len(storage.objects.store.objects[key]) for key in packs)
        assert operation.report.packed_bytes < 12 * 90_000
        assert largest < 400_000
        assert await archived_ids(storage) == ids
        await unarchive(storage).run()
        assert await bodies(storage, LOCATION, ids) == documents
        assert (await prune_archive(storage).run()).deleted == len(packs)


async def test_a_pack_that_is_larger_than_any_is_not_read():
    async with MemoryStorage(max_snapshot_bytes=1_000) as storage:
        first, last = id_days_ago(3), id_days_ago(1)
        key = f"{PREFIX}{first}_{last}_{'0' * 16}.jsonl.zst"
        storage.objects.store.objects[key] = bytes(40 * 2**20)
        with pytest.raises(SnapshotDecodeError, match="more than") as caught:
            await storage.load_archived(location=LOCATION, snapshot_id=first)
        assert caught.value.key == key


async def test_a_key_that_would_be_too_long_is_refused_and_nothing_is_lost():
    session, agent = "s" * 255, "a" * 255
    location = location_of(session, agent)
    async with MemoryStorage(prefix="p" * 400) as storage:
        ids = await write_history(storage, location, range(4))
        with pytest.raises(InvalidIdentifierError, match="too long for an archive"):
            await archive(storage, LAST_TWO).run()
        assert await storage.list_snapshot_ids(location=location) == ids
