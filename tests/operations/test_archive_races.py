"""Operators on one archive at once, call by call in any order, some of them killed: no loss."""

import random

import pytest

from histories import id_days_ago, location_of
from interleavings import interleave
from sampling import product, sample
from snapstore import ObjectSnapshotStorage
from snapstore.encoding.packs import PackReader
from snapstore.model.keys import Layout
from snapstore.operations import (
    RetentionPolicy,
    archive,
    prune_archive,
    redact,
    redaction,
    unarchive,
)
from snapstore.stores import MemoryObjectStore

LAYOUT = Layout()
LOCATION = location_of("session-1")
SEEDS = {seed: seed for seed in range(200)}
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


async def write(store, rng):
    async with ObjectSnapshotStorage(store) as storage:
        for turn, snapshot_id in enumerate(IDS):
            text = b"a canary here" if turn % 2 else b"nothing"
            key = storage.layout.history(LOCATION, snapshot_id)
            await storage.objects.put(key, DOCUMENT % (turn, text))
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
