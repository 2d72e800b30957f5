"""Operators on one archive at once, call by call in any order, some of them killed: no loss."""

import asyncio
import random
from datetime import UTC, datetime, timedelta

import pytest

from histories import id_days_ago, location_of
from interleavings import interleave
from sampling import product, sample
from snapstore import ObjectSnapshotStorage, StorageError
from snapstore.encoding.packs import PackReader
from snapstore.model.keys import Layout
from snapstore.operations import (
    RetentionPolicy,
    archive,
    prune_archive,
    redact,
    redaction,
    unarchive,
    verify,
)
from snapstore.stores import MemoryObjectStore
from snapstore.testing import FaultyObjectStore, StoreFault

LAYOUT = Layout()
LOCATION = location_of("session-1")
SEEDS = {seed: seed for seed in range(100)}
IDS = [id_days_ago(days) for days in range(5, -1, -1)]
LAST_TWO = RetentionPolicy(keep_last=2)
ONLY = {"sessions": ["session-1"]}
DOCUMENT = (
    b'{"scope":"agent","schemaVersion":"1.0","createdAt":"","data":{"turn":%d,"text":"%b"},'
    b'"appData":{}}'
)


class SixMethods(MemoryObjectStore):
    def capability(self, kind):
        return None


async def run_archive(storage):
    await archive(storage, LAST_TWO, **ONLY).run()


async def run_unarchive(storage):
    await unarchive(storage, **ONLY).run()


async def run_prune_archive(storage):
    await prune_archive(storage, **ONLY).run()


async def run_redact(storage):
    await redact(storage, session_id="session-1", change=redaction(["canary"])).run()


async def run_rounds(storage):
    for run in (run_archive, run_unarchive, run_prune_archive) * 2:
        await run(storage)


async def run_delete(storage):
    await storage.delete_session(session_id="session-1")


async def write_turns(store):
    async with ObjectSnapshotStorage(store) as storage:
        for turn, snapshot_id in enumerate(IDS):
            text = b"a canary here" if turn % 2 else b"nothing"
            key = storage.layout.history(LOCATION, snapshot_id)
            await storage.objects.put(key, DOCUMENT % (turn, text))


async def write(store, rng):
    """A history; it was archived, or not, and is there again, or not."""
    await write_turns(store)
    async with ObjectSnapshotStorage(store) as storage:
        if rng.random() < 0.6:
            await archive(storage, LAST_TWO, **ONLY).run()
            if rng.random() < 0.7:
                await unarchive(storage, **ONLY).run()


async def found_in(store):
    """The snapshots that can be read, in history or archive."""
    async with ObjectSnapshotStorage(store) as storage:
        found = {}
        for turn, snapshot_id in enumerate(IDS):
            loaded = await storage.load_snapshot(location=LOCATION, snapshot_id=snapshot_id)
            if loaded is None:
                loaded = await storage.load_archived(location=LOCATION, snapshot_id=snapshot_id)
            if loaded is not None:
                assert loaded.data["turn"] == turn
                found[snapshot_id] = loaded
        return found


def everything(store):
    """All bytes there are, with what is in packs."""
    found = list(map(bytes, store.objects.values()))
    for key, data in store.objects.items():
        name = LAYOUT.pack_in(key, LAYOUT.archive_prefix(LOCATION))
        if name is not None and key == name.key:
            found += [
                document for _, document in PackReader(name, data, max_bytes=2**20).read_all()
            ]
    return b"".join(found)


def some_of(operations, rng):
    return [rng.choice(operations) for _ in range(rng.randrange(2, 6))]


EACH = pytest.mark.parametrize(
    ("store", "seed"),
    sample(
        product(store={"etags": MemoryObjectStore, "six-methods": SixMethods}, seed=SEEDS),
        one_in=11,
    ),
)


@EACH
async def test_whoever_meets_at_an_archive_loses_nothing(store, seed):
    rng, inner = random.Random(seed), store()
    await write(inner, rng)
    operations = [run_archive, run_unarchive, run_prune_archive, run_redact, run_rounds]
    await interleave(inner, some_of(operations, rng), seed)
    assert [*await found_in(inner)] == IDS
    # What the others have left is brought to an end, too.
    async with ObjectSnapshotStorage(inner) as storage:
        await run_archive(storage)
    assert [*await found_in(inner)] == IDS


@EACH
async def test_a_delete_of_the_session_leaves_nothing_whoever_it_meets(store, seed):
    rng, inner = random.Random(seed), store()
    await write(inner, rng)
    others = some_of([run_archive, run_prune_archive, run_redact], rng)
    await interleave(inner, [run_delete, *others], seed, deaths=0)
    assert inner.objects == {}


@EACH
async def test_a_redaction_leaves_no_text_whoever_it_meets(store, seed):
    rng, inner = random.Random(seed), store()
    await write(inner, rng)
    others = some_of([run_archive, run_archive, run_prune_archive], rng)
    await interleave(inner, [run_redact, *others], seed, deaths=0)
    assert b"canary" not in everything(inner)
    assert [*await found_in(inner)] == IDS


@EACH
async def test_a_redaction_made_again_leaves_no_text_of_those_that_were_killed(store, seed):
    rng, inner = random.Random(seed), store()
    await write(inner, rng)
    others = some_of([run_archive, run_archive, run_prune_archive, run_redact], rng)
    await interleave(inner, [run_redact, *others], seed, deaths=0.7)
    async with ObjectSnapshotStorage(inner) as storage:
        await run_redact(storage)
    assert b"canary" not in everything(inner)
    assert [*await found_in(inner)] == IDS


async def stall(store, operation, is_where):
    """Begin an operation that stalls at a call; returns what lets it go on, and its task."""
    reached, go_on = asyncio.Event(), asyncio.Event()
    faulty = FaultyObjectStore(store)

    async def fault(call):
        if is_where(call) and not reached.is_set():
            reached.set()
            await go_on.wait()

    async def run():
        async with ObjectSnapshotStorage(faulty) as storage:
            faulty.fault = fault
            return await operation(storage)

    task = asyncio.create_task(run())
    waiting = asyncio.create_task(reached.wait())
    await asyncio.wait([waiting, task], return_when="FIRST_COMPLETED")
    assert waiting.done()
    return faulty, go_on, task


def deletes_an_original(call):
    return call.operation.startswith("delete") and "/immutable_history/" in call.keys[0]


def writes_a_pack(call):
    return call.operation == "put" and call.keys[0].endswith(".jsonl.zst")


@pytest.mark.parametrize("store", [MemoryObjectStore, SixMethods])
async def test_a_pack_stays_for_an_hour_for_an_archiver_that_stalls_in_a_delete(store, monkeypatch):
    inner = store()
    await write_turns(inner)
    async with ObjectSnapshotStorage(inner) as storage:
        _, go_on, stalled = await stall(inner, run_archive, deletes_an_original)
        await archive(storage, RetentionPolicy(keep_last=9), **ONLY).run()
        await unarchive(storage, **ONLY).run()
        operation = prune_archive(storage, **ONLY)
        async with operation:
            assert [event.result async for event in operation] == ["busy"]
        go_on.set()
        await stalled
        assert [*await found_in(inner)] == IDS

        await unarchive(storage, **ONLY).run()
        monkeypatch.setattr("snapstore.storage.claims.OVERTAKEN_FOR", timedelta(0))
        assert (await prune_archive(storage, **ONLY).run()).deleted == 1
        assert await storage.list_snapshot_ids(location=LOCATION) == IDS
        assert not any("/archive/" in key for key in inner.objects)


@pytest.mark.parametrize("store", [MemoryObjectStore, SixMethods])
async def test_an_archiver_deletes_no_more_once_it_has_lost_its_claim(store, monkeypatch):
    monkeypatch.setattr("snapstore.storage.claims._LOOK_AGAIN_AFTER", 0)
    monkeypatch.setattr("snapstore.operations.archiving.originals.PAGE_SIZE", 1)
    monkeypatch.setattr("snapstore.storage.overlap._AT_ONCE", 1)
    inner = store()
    await write_turns(inner)
    async with ObjectSnapshotStorage(inner) as storage:

        async def run(storage):
            operation = archive(storage, LAST_TWO, **ONLY)
            async with operation:
                return [event.result async for event in operation]

        _, go_on, stalled = await stall(inner, run, deletes_an_original)
        await archive(storage, RetentionPolicy(keep_last=9), **ONLY).run()
        go_on.set()
        assert sorted(await stalled) == ["archived", "busy", "busy", "busy"]
        assert len(await storage.list_snapshot_ids(location=LOCATION)) == 5
        assert [*await found_in(inner)] == IDS


async def test_a_pack_that_is_written_late_does_not_count_and_is_removed(monkeypatch):
    """By an archiver that stalls through another's recovery, writes its pack, and dies."""
    inner = MemoryObjectStore()
    await write_turns(inner)
    async with ObjectSnapshotStorage(inner) as storage:
        faulty, go_on, stalled = await stall(inner, run_archive, writes_a_pack)

        async def die(_):
            return StoreFault()

        for _ in range(2):
            await archive(storage, RetentionPolicy(keep_last=9), **ONLY).run()
            await run_redact(storage)
        faulty.fault = die
        go_on.set()
        with pytest.raises(StorageError):
            await stalled
        [pack] = [key for key in inner.objects if key.endswith(".jsonl.zst")]
        assert [found async for found in storage.iter_archived_ids(location=LOCATION)] == []
        findings = verify(storage, **ONLY)
        async with findings:
            kinds = {found.key: found.kind async for found in findings}
        assert kinds[pack.replace(".jsonl.zst", ".claim")] == "unfinished archive"
        # A redaction that is made again reaches it, as does the next archiver.
        assert b"canary" in everything(inner)
        await run_redact(storage)
        assert b"canary" not in everything(inner)
        assert pack not in inner.objects
        monkeypatch.setattr("snapstore.storage.claims.OVERTAKEN_FOR", timedelta(0))
        await archive(storage, RetentionPolicy(keep_last=9), **ONLY).run()
        assert not any("/archive/" in key for key in inner.objects)


async def test_a_redaction_follows_a_pack_that_another_one_has_replaced():
    """It was listed, and is gone when it is to be read, or is to be replaced."""

    def reads_the_pack(call):
        return call.operation == "get" and call.keys[0].endswith(".jsonl.zst")

    def reads_the_claim(call):
        return call.operation == "get" and call.keys[0].endswith(".claim")

    def writes_a_claim(call):
        return call.operation == "put" and call.keys[0].endswith(".claim")

    for stalls in (reads_the_claim, reads_the_pack, writes_a_claim):
        inner = MemoryObjectStore()
        await write_turns(inner)
        async with ObjectSnapshotStorage(inner) as storage:
            await run_archive(storage)
            _, go_on, stalled = await stall(inner, run_redact, stalls)
            other = redact(storage, session_id="session-1", change=redaction(["nothing"]))
            assert (await other.run()).redacted == 2
            go_on.set()
            await stalled
        assert b"canary" not in everything(inner)
        assert [*await found_in(inner)] == IDS


async def test_the_time_of_a_clock_that_is_wrong_holds_nothing_for_good():
    inner = MemoryObjectStore()
    await write_turns(inner)
    async with ObjectSnapshotStorage(inner) as storage:
        await run_archive(storage)
        await unarchive(storage, **ONLY).run()
        [pack] = [key for key in inner.objects if key.endswith(".jsonl.zst")]
        claim = pack.replace(".jsonl.zst", ".claim")
        for hours, deleted in ((0.9, 0), (-0.9, 0), (48, 1)):
            then = (datetime.now(UTC) + timedelta(hours=hours)).isoformat()
            body = b'{"state":"idle","run":"x","overtaken":"%b"}' % then.encode()
            await storage.objects.put(claim, body)
            assert (await prune_archive(storage, **ONLY).run()).deleted == deleted
