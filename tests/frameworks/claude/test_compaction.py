"""Compaction: many parts become few, cut off at any point, and with other writers beside it."""

import asyncio
import json
from contextlib import suppress

import pytest

from snapstore import PartialDeleteError, SnapshotDecodeError, StorageError
from snapstore.errors import StorageUnavailableError
from snapstore.integrations.claude import SnapstoreSessionStore
from snapstore.stores import MemoryObjectStore
from snapstore.testing import FaultyObjectStore, StoreFault, faults_in_turn
from transcripts import (
    DIRECTORY,
    KEY,
    PROJECT,
    RECORD,
    SUBAGENT,
    entry,
    part_of,
    parts_in,
    without_uuid,
)

OLD = 1_700_000_000_000
"""When the parts were written: long ago."""


def long_transcript(parts=2_000, entries=5, padding=""):
    """A transcript of which every fifth entry has no uuid."""
    numbers = range(parts * entries)
    whole = [(without_uuid if n % 5 == 4 else entry)(n, text=padding) for n in numbers]
    memory = MemoryObjectStore()
    for number in range(parts):
        part = whole[number * entries : (number + 1) * entries]
        name = f"part-{OLD + number}-{number * 7919 % 16**6:06x}.jsonl"
        memory.objects[DIRECTORY + name] = part_of(*part)
    return memory, whole


def copy_of(memory):
    copy = MemoryObjectStore()
    copy.objects = dict(memory.objects)
    return copy


async def load(memory, key=KEY):
    """Load as another process would."""
    async with SnapstoreSessionStore(memory) as store:
        return await store.load(key)


async def test_ten_thousand_entries_in_two_thousand_parts_become_one_part():
    memory, whole = long_transcript()
    async with SnapstoreSessionStore(memory) as store:
        before = await store.list_sessions(PROJECT)
        assert await store.load(KEY) == whole
        assert await store.compact(KEY) == (2_000, 1)
        assert len(parts_in(memory)) == 1
        assert await store.load(KEY) == whole
        assert await store.list_sessions(PROJECT) == before
        assert await store.compact(KEY) == (1, 1)
        await store.append(KEY, [entry("next")])
        assert await store.load(KEY) == [*whole, entry("next")]


async def test_large_transcripts_become_several_parts():
    memory, whole = long_transcript(parts=400, padding="x" * 12_000)
    async with SnapstoreSessionStore(memory) as store:
        assert await store.compact(KEY) == (400, 3)
        assert await store.load(KEY) == whole
        assert await store.compact(KEY) == (3, 3)
    assert max(len(memory.objects[DIRECTORY + name]) for name in parts_in(memory)) <= 2**23


class Kill:
    """Ends a process at one of its writes or deletes: after that, nothing reaches the store."""

    def __init__(self, memory, at, fate):
        self.memory = memory
        self.at = at
        self.fate = fate
        self.count = -1

    async def __call__(self, call):
        if call.operation in {"put", "delete"}:
            self.count += 1
        if self.count < self.at:
            return None
        if self.count == self.at and call.operation in {"put", "delete"}:
            if self.fate == "half applied":
                for key in call.keys[::2] if call.operation == "delete" else ():
                    self.memory.objects.pop(key, None)
            elif self.fate == "applied":
                return StoreFault(applied=True, error=StorageError)
        return StoreFault(error=StorageError)


FATES = ["applied", "not applied", "half applied"]


@pytest.mark.parametrize("fate", FATES)
@pytest.mark.parametrize(
    ("parts", "padding", "steps", "few"),
    # A group is a record, a part, and a batch of deletes for each 1,000 parts.
    [(2_000, "", 4, 1), (120, "x" * 36_000, 9, 3)],
    ids=["one group", "three groups"],
)
async def test_killed_at_any_step_nothing_is_lost_or_repeated(parts, padding, steps, few, fate):
    original, whole = long_transcript(parts, padding=padding)
    for step in range(steps):
        memory = copy_of(original)
        kill = Kill(memory, step, fate)
        async with SnapstoreSessionStore(FaultyObjectStore(memory, kill)) as store:
            with pytest.raises(StorageError):
                await store.compact(KEY)
        assert kill.count >= step
        assert await load(memory) == whole, (step, fate)
        async with SnapstoreSessionStore(memory) as store:
            await store.compact(KEY)
            assert await store.load(KEY) == whole, (step, fate)
            await store.append(KEY, [without_uuid("next")])
            assert await store.load(KEY) == [*whole, without_uuid("next")]
        assert len(parts_in(memory)) == few + 1, (step, fate)
    # There is no further step.
    kill = Kill(memory := copy_of(original), steps, fate)
    async with SnapstoreSessionStore(FaultyObjectStore(memory, kill)) as store:
        await store.compact(KEY)
    assert kill.count == steps - 1


async def test_it_is_the_same_on_every_store(open_store, store):
    for number in range(30):
        await store.append(KEY, [entry(number), without_uuid(number)])
        await store.append(SUBAGENT, [entry(number)])
    whole = await store.load(KEY)
    assert len(whole) == 60
    other = await open_store()
    assert await other.compact(KEY, grace=0) == (30, 1)
    assert await other.compact(SUBAGENT, grace=0) == (30, 1)
    assert await store.load(KEY) == whole
    await store.append(KEY, [entry("next")])
    assert await other.load(KEY) == [*whole, entry("next")]
    assert await other.load(SUBAGENT) == [entry(number) for number in range(30)]
    [session] = await store.list_sessions(PROJECT)
    [summary] = await store.list_session_summaries(PROJECT)
    assert session["mtime"] == summary["mtime"]
    await other.delete(KEY)
    assert await store.load(KEY) is None
    assert await store.load(SUBAGENT) is None
    assert await store.list_subkeys(KEY) == []


async def test_recent_parts_are_left_alone():
    memory, whole = long_transcript(parts=10)
    async with SnapstoreSessionStore(memory) as store:
        await store.append(KEY, [entry("now")])
        assert await store.compact(KEY) == (11, 2)
        assert await store.load(KEY) == [*whole, entry("now")]
        assert await store.compact(KEY, grace=0) == (2, 1)
        assert await store.load(KEY) == [*whole, entry("now")]
        with pytest.raises(ValueError, match="grace"):
            await store.compact(KEY, grace=-1)


async def test_a_transcript_that_was_never_written_has_no_part(in_memory, memory):
    assert await in_memory.compact(KEY) == (0, 0)
    assert memory.objects == {}


async def test_a_damaged_part_stays_as_it_is():
    memory, _whole = long_transcript(parts=10)
    damaged = f"{DIRECTORY}part-{OLD + 4}-ffffff.jsonl"
    memory.objects[damaged] = b'{"secret'
    before = dict(memory.objects)
    async with SnapstoreSessionStore(memory) as store:
        with pytest.raises(SnapshotDecodeError) as failure:
            await store.compact(KEY)
    assert failure.value.key == damaged
    assert memory.objects == before


@pytest.mark.parametrize(
    "damaged", [b"", b"{", b"{}", b'{"part":7,"replaces":["a"]}', b'{"part":"a","replaces":[]}']
)
async def test_a_damaged_record_is_an_error_that_names_its_key(damaged):
    memory, _whole = long_transcript(parts=10)
    memory.objects[RECORD] = damaged
    async with SnapstoreSessionStore(memory) as store:
        for call in (store.load(KEY), store.compact(KEY)):
            with pytest.raises(SnapshotDecodeError) as failure:
                await call
            assert failure.value.key == RECORD


async def test_parts_named_in_another_way_keep_their_places():
    memory, _whole = long_transcript(parts=10)
    for number in (4, 20):
        other = f"{DIRECTORY}part-{OLD + number}-000000-zzz.jsonl"
        memory.objects[other] = part_of(without_uuid("other"))
    async with SnapstoreSessionStore(memory) as store:
        loaded = await store.load(KEY)
        assert [loaded.index(without_uuid("other")), len(loaded)] == [20, 52]
        # There is no name after the last one.
        assert await store.compact(KEY) == (12, 2)
        assert await store.load(KEY) == loaded


async def test_a_part_without_a_free_name_after_it_is_left_out():
    memory = MemoryObjectStore()
    large = without_uuid(3, text="x" * 2**23)
    for number, suffix in enumerate(["000001", "000007", "fffffe", "ffffff"]):
        part = part_of(large if number == 3 else without_uuid(number))
        memory.objects[f"{DIRECTORY}part-{OLD}-{suffix}.jsonl"] = part
    async with SnapstoreSessionStore(memory) as store:
        assert await store.compact(KEY) == (4, 3)
        assert await store.load(KEY) == [*(without_uuid(number) for number in range(3)), large]


async def test_nested_parts_are_compacted_too():
    memory = MemoryObjectStore()
    nested = f"{DIRECTORY}{SUBAGENT['subpath']}/"
    for number in range(5):
        memory.objects[f"{nested}part-{OLD + 2 * number}-abcdef.jsonl"] = part_of(entry(number))
    async with SnapstoreSessionStore(memory) as store:
        assert await store.compact(SUBAGENT) == (5, 1)
        assert await store.load(SUBAGENT) == [entry(number) for number in range(5)]
    assert not any(key.startswith(nested) for key in memory.objects)


async def test_a_writer_beside_the_compaction_loses_nothing():
    memory, whole = long_transcript(parts=200)
    async with SnapstoreSessionStore(memory) as writer, SnapstoreSessionStore(memory) as other:

        async def write():
            for number in range(40):
                await writer.append(KEY, [without_uuid(f"new-{number}")])

        async def compact():
            for _ in range(10):
                await other.compact(KEY, grace=0)

        async def read():
            seen = 0
            for _ in range(20):
                loaded = await other.load(KEY)
                assert loaded[: len(whole)] == whole
                new = [found["n"] for found in loaded[len(whole) :]]
                assert new == [f"new-{number}" for number in range(len(new))]
                assert len(new) >= seen
                seen = len(new)

        await asyncio.gather(write(), compact(), read())
        loaded = await writer.load(KEY)
    assert loaded == [*whole, *(without_uuid(f"new-{number}") for number in range(40))]


@pytest.mark.parametrize("step", range(4))
async def test_two_compactions_at_once_do_the_same(step):
    memory, whole = long_transcript(parts=1_500)
    other = SnapstoreSessionStore(memory)
    step_of = iter(range(100))

    async def let_the_other_go_first(call):
        # Before each write and delete of the first one, all of the second one.
        if call.operation in {"put", "delete"} and next(step_of) == step:
            await other.compact(KEY)

    async with other:
        faulty = FaultyObjectStore(memory, let_the_other_go_first)
        async with SnapstoreSessionStore(faulty) as store:
            try:
                await store.compact(KEY)
            except StorageUnavailableError:  # it says to compact again
                await store.compact(KEY)
            assert await store.load(KEY) == whole
    assert len(parts_in(memory)) == 1
    assert await load(memory) == whole


async def test_compactions_of_different_parts_do_not_cross():
    memory, whole = long_transcript(parts=20)
    late = f"{DIRECTORY}part-{OLD + 50}-abcdef.jsonl"

    async def another_first(call):
        # The first one has listed the parts. The second one finds one more, and is then killed.
        if call.operation == "put" and late not in memory.objects:
            memory.objects[late] = part_of(without_uuid("late"))
            killed = FaultyObjectStore(memory, Kill(memory, 2, "not applied"))
            async with SnapstoreSessionStore(killed) as other:
                with pytest.raises(StorageError):
                    await other.compact(KEY)

    async with SnapstoreSessionStore(FaultyObjectStore(memory, another_first)) as store:
        with pytest.raises(StorageUnavailableError, match="compact it again"):
            await store.compact(KEY)
        assert await store.load(KEY) == [*whole, without_uuid("late")]
        await store.compact(KEY)
        assert await store.load(KEY) == [*whole, without_uuid("late")]


async def test_a_replaced_part_that_a_slow_writer_brings_back_is_left_out():
    memory, whole = long_transcript(parts=100)
    first = f"{DIRECTORY}{parts_in(memory)[0]}"
    body = memory.objects[first]
    async with SnapstoreSessionStore(memory) as store:
        await store.compact(KEY)
        memory.objects[first] = body
        assert await store.load(KEY) == whole
        assert await store.compact(KEY) == (1, 1)
        assert first not in memory.objects


async def test_a_part_that_comes_late_is_kept():
    memory, whole = long_transcript(parts=100)
    async with SnapstoreSessionStore(memory) as store:
        await store.compact(KEY)
        memory.objects[f"{DIRECTORY}part-{OLD + 50}-ffffff.jsonl"] = part_of(without_uuid("late"))
        loaded = await store.load(KEY)
        assert [found for found in loaded if found["n"] != "late"] == whole
        assert len(loaded) == len(whole) + 1
        await store.compact(KEY)
        assert await store.load(KEY) == loaded


async def test_parts_that_were_not_confirmed_as_deleted_are_deleted_next_time():
    memory, whole = long_transcript(parts=10)
    left = f"{DIRECTORY}{parts_in(memory)[3]}"
    faulty = FaultyObjectStore(
        memory, faults_in_turn("delete", StoreFault(failed={left: "InternalError"}))
    )
    async with SnapstoreSessionStore(faulty) as store:
        with pytest.raises(PartialDeleteError) as failure:
            await store.compact(KEY)
        assert failure.value.failed == {left: "InternalError"}
        assert await store.load(KEY) == whole
        assert await store.compact(KEY) == (1, 1)
    assert left not in memory.objects


async def test_a_session_deleted_by_a_reference_adapter_can_begin_anew():
    memory, _whole = long_transcript(parts=10)
    kill = Kill(memory, 1, "not applied")  # the record is there, the new part is not
    async with SnapstoreSessionStore(FaultyObjectStore(memory, kill)) as store:
        with pytest.raises(StorageError):
            await store.compact(KEY)
    for name in parts_in(memory):
        del memory.objects[DIRECTORY + name]
    assert set(memory.objects) == {RECORD}
    assert set(json.loads(memory.objects[RECORD])) == {"part", "replaces"}
    async with SnapstoreSessionStore(memory) as store:
        assert await store.load(KEY) is None
        for number in range(3):
            await store.append(KEY, [entry(number)])
        assert await store.compact(KEY, grace=0) == (3, 1)
        assert await store.load(KEY) == [entry(number) for number in range(3)]


async def test_a_reader_begins_anew_if_parts_go_while_it_reads():
    memory, whole = long_transcript(parts=100)
    other = SnapstoreSessionStore(memory)

    lock = asyncio.Lock()

    async def compact_first(call):
        if call.operation == "get" and call.keys[0].startswith(DIRECTORY):
            async with lock:
                await other.compact(KEY)

    async with other, SnapstoreSessionStore(FaultyObjectStore(memory, compact_first)) as store:
        assert await store.load(KEY) == whole


@pytest.mark.parametrize(
    ("operation", "steps"), [("put", 2), ("delete", 1), ("get", 23), ("scan", 2)]
)
@pytest.mark.parametrize("key", [KEY, SUBAGENT], ids=["main", "subagent"])
async def test_a_delete_beside_the_compaction_leaves_nothing(operation, steps, key):
    for step in range(steps):
        memory, _whole = long_transcript(parts=20)
        if key is SUBAGENT:
            memory.objects = {
                found.replace("/part-", "/subagents%2Fagent-a1b2c3/part-"): body
                for found, body in memory.objects.items()
            }
        other = SnapstoreSessionStore(memory)
        calls = iter(range(1_000))

        async def delete_first(call, calls=calls, step=step, other=other):
            if call.operation == operation and next(calls) == step:
                await other.delete(key)

        async with other, SnapstoreSessionStore(FaultyObjectStore(memory, delete_first)) as store:
            with suppress(StorageUnavailableError):
                await store.compact(key)
            assert next(calls) > step, "there was no such step"
            assert await store.load(key) is None
        # A record of names may be left.
        assert not [found for found in memory.objects if "/part-" in found], step
