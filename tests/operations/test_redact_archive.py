"""`redact` reaches into packs, and an archiver beside it keeps no text that it has read before."""

import asyncio
from contextlib import suppress

import pytest

from finished import without_idle_claims
from histories import id_days_ago, location_of
from sampling import steps
from snapstore import ObjectSnapshotStorage, StorageError
from snapstore.encoding.packs import PackReader
from snapstore.model.keys import Layout
from snapstore.operations import RetentionPolicy, archive, redact, redaction, unarchive, verify
from snapstore.stores import MemoryObjectStore
from snapstore.testing import FaultyObjectStore, StoreFault

LAYOUT = Layout()
LOCATION = location_of("session-1")
LAST_TWO = RetentionPolicy(keep_last=2)
IDS = [id_days_ago(days) for days in range(6, -1, -1)]
CHANGE = redaction(["canary"])
DOCUMENT = (
    b'{"scope":"agent","schemaVersion":"1.0","createdAt":"","data":{"turn":%d,"text":"%b"},'
    b'"appData":{}}'
)


async def write_canaries(storage):
    for turn, snapshot_id in enumerate(IDS):
        text = b"a canary here" if turn % 2 else b"nothing"
        key = storage.layout.history(LOCATION, snapshot_id)
        await storage.objects.put(key, DOCUMENT % (turn, text))


async def everything(storage):
    """What is stored, packs unpacked: by key in history, or else by key."""
    found = {}
    layout = storage.layout
    prefix = layout.archive_prefix(LOCATION)
    async for page in storage.objects.scan(layout.session_prefix("session-1")):
        for key in await without_idle_claims(storage, page):
            data = (await storage.objects.get(key, max_bytes=2**30)).data
            name = layout.pack_in(key, prefix)
            if name is None or key != name.key:
                found.setdefault(key, []).append(bytes(data))
                continue
            for packed, document in PackReader(name, data, max_bytes=2**30).read_all():
                history = layout.history(LOCATION, packed.snapshot_id)
                found.setdefault(history, []).append(document)
    return found


def is_redacted(found):
    return not any(b"canary" in data for versions in found.values() for data in versions)


async def redact_all(storage):
    return await redact(storage, session_id="session-1", change=CHANGE).run()


async def test_packs_are_redacted_and_nothing_else_is_changed(storage):
    await write_canaries(storage)
    before = await everything(storage)
    await archive(storage, LAST_TWO).run()

    dry = redact(storage, session_id="session-1", change=CHANGE, dry_run=True)
    async with dry:
        events = [event async for event in dry]
    assert {event.result for event in events} == {"planned"}
    [pack] = [event for event in events if event.key.endswith(".jsonl.zst")]
    assert pack.places == tuple(f"{IDS[turn]}.data.text" for turn in (1, 3))
    assert await everything(storage) == before

    report = await redact_all(storage)
    assert report.is_clean in (True, None)
    assert report.places == 3
    expected = {
        key: [data.replace(b"canary", b"[redacted]") for data in versions]
        for key, versions in before.items()
    }
    assert await everything(storage) == expected
    loaded = await storage.load_archived(location=LOCATION, snapshot_id=IDS[1])
    assert loaded.data["text"] == "a [redacted] here"
    await unarchive(storage).run()
    assert is_redacted(await everything(storage))


@pytest.mark.parametrize("first", [archive, redact])
async def test_an_archiver_and_a_redaction_at_once_lose_nothing_and_leave_no_text(first):
    """All of one between any two calls of the other."""
    for place in steps(0):
        faulty = FaultyObjectStore(MemoryObjectStore())
        was_reached, calls = False, 0

        async def fault(_, faulty=faulty, place=place):
            nonlocal calls, was_reached
            calls += 1
            if calls == place + 1 and not was_reached:
                was_reached = True
                async with ObjectSnapshotStorage(faulty.inner) as beside:
                    if first is archive:
                        await redact_all(beside)
                    else:
                        await archive(beside, LAST_TWO, sessions=["session-1"]).run()

        async with ObjectSnapshotStorage(faulty) as storage:
            await write_canaries(storage)
            faulty.fault = fault
            if first is archive:
                await archive(storage, LAST_TWO, sessions=["session-1"]).run()
            else:
                await redact_all(storage)
            faulty.fault = lambda _: asyncio.sleep(0)
            found = await everything(storage)
            keys = {key for key in found if not key.endswith(".claim")}
            assert keys == {LAYOUT.history(LOCATION, snapshot_id) for snapshot_id in IDS}
            assert is_redacted(found) or not was_reached
            # What was left in history goes the next time, and is still the same.
            await archive(storage, LAST_TWO, sessions=["session-1"]).run()
            again = await everything(storage)
            assert {key for key in again if not key.endswith(".claim")} == keys
            assert is_redacted(again) or not was_reached
            assert len(await storage.list_snapshot_ids(location=LOCATION)) == 2
        if not was_reached:
            break
    assert place > 15


@pytest.mark.parametrize("applied", [False, True])
async def test_a_redaction_that_is_killed_and_made_again_ends_the_same(applied):
    for place in steps():
        faulty = FaultyObjectStore(MemoryObjectStore())
        calls = 0

        async def fault(_, place=place):
            nonlocal calls
            calls += 1
            # A process that was killed makes no further call.
            return StoreFault(applied=applied and calls == place) if calls >= place else None

        async with ObjectSnapshotStorage(faulty) as storage:
            await write_canaries(storage)
            await archive(storage, LAST_TWO, sessions=["session-1"]).run()
            before = await everything(storage)
            faulty.fault = fault
            try:
                await redact_all(storage)
            except StorageError:
                faulty.fault = lambda _: asyncio.sleep(0)
                assert (await everything(storage)).keys() >= before.keys()
                await redact_all(storage)
            was_reached = calls >= place
            faulty.fault = lambda _: asyncio.sleep(0)
            found = await everything(storage)
            assert {key for key in found if not key.endswith(".claim")} == before.keys()
            assert is_redacted(found)
            # In no two packs, as the next archiver leaves it at the latest.
            await archive(storage, LAST_TWO, sessions=["session-1"]).run()
            found = await everything(storage)
            assert all(len(versions) == 1 for versions in found.values())
        if not was_reached:
            break
    assert place > 10


@pytest.mark.parametrize("applied", [False, True])
async def test_what_a_redaction_that_was_killed_leaves_is_read_and_mended(applied):
    """At worst the same snapshots are in two packs, until the next archiver."""
    for place in range(1, 60):
        faulty = FaultyObjectStore(MemoryObjectStore())
        calls = 0

        async def fault(_, place=place):
            nonlocal calls
            calls += 1
            # A process that was killed makes no further call.
            return StoreFault(applied=applied and calls == place) if calls >= place else None

        async with ObjectSnapshotStorage(faulty) as storage:
            await write_canaries(storage)
            await archive(storage, LAST_TWO, sessions=["session-1"]).run()
            faulty.fault = fault
            with suppress(StorageError):
                await redact_all(storage)
            faulty.fault = lambda _: asyncio.sleep(0)
            ids = storage.iter_archived_ids(location=LOCATION)
            assert [found async for found in ids] == IDS[:5]
            for turn, snapshot_id in enumerate(IDS[:5]):
                loaded = await storage.load_archived(location=LOCATION, snapshot_id=snapshot_id)
                assert loaded.data["turn"] == turn
            kinds = {f.kind async for f in verify(storage, sessions=["session-1"])}
            packs = await storage.describe_session(session_id="session-1")
            assert packs.archive.objects <= 1 or "unfinished archive" in kinds
            await archive(storage, LAST_TWO, sessions=["session-1"]).run()
            found = await everything(storage)
            assert all(len(versions) == 1 for versions in found.values())
        if calls < place:
            break
    assert place > 20


@pytest.mark.parametrize("applied", [False, True])
async def test_an_archiver_that_was_killed_leaves_no_text_after_a_redaction(applied):
    for place in steps():
        faulty = FaultyObjectStore(MemoryObjectStore())
        calls = 0

        async def fault(_, place=place):
            nonlocal calls
            calls += 1
            # A process that was killed makes no further call.
            return StoreFault(applied=applied and calls == place) if calls >= place else None

        async with ObjectSnapshotStorage(faulty) as storage:
            await write_canaries(storage)
            faulty.fault = fault
            with suppress(StorageError):
                await archive(storage, LAST_TWO, sessions=["session-1"]).run()
            was_reached = calls >= place
            faulty.fault = lambda _: asyncio.sleep(0)
            await redact_all(storage)
            found = await everything(storage)
            keys = {LAYOUT.history(LOCATION, snapshot_id) for snapshot_id in IDS}
            assert {key for key in found if not key.endswith(".claim")} == keys
            assert is_redacted(found)
        if not was_reached:
            break
    assert place > 10
