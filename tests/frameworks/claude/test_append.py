"""Appends: their order, repeated and concurrent ones, clocks, and the summary beside them."""

import asyncio
import copy
import pickle
import time

import pytest
from claude_agent_sdk import list_sessions_from_store, project_key_for_directory
from claude_agent_sdk._internal.transcript_mirror_batcher import (
    SEND_TIMEOUT_SECONDS,
    TranscriptMirrorBatcher,
)

from snapstore import OutcomeUnknownError, StorageClosedError, StorageUnavailableError
from snapstore.errors import StorageTimeoutError
from snapstore.integrations.claude import SnapstoreSessionStore, writer
from snapstore.stores import ManagedStore, MemoryObjectStore
from snapstore.testing import FaultyObjectStore, LatencyObjectStore, StoreFault, faults_in_turn
from transcripts import (
    DIRECTORY,
    KEY,
    PROJECT,
    SESSION,
    SUBAGENT,
    SUMMARY,
    entry,
    part_of,
    parts_in,
    without_uuid,
)

NOW = 1_795_845_860_000
HOUR = 3_600_000


class Clock:
    """The clock of this process, in milliseconds."""

    def __init__(self, monkeypatch):
        self.now = NOW
        monkeypatch.setattr("snapstore.integrations.claude.writer.time", self)

    def time_ns(self):
        return self.now * 1_000_000


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


async def test_appends_in_one_millisecond_keep_their_order(clock, in_memory, memory):
    for number in range(50):
        await in_memory.append(KEY, [entry(number)])
    assert await in_memory.load(KEY) == [entry(number) for number in range(50)]
    times = [int(name[5:18]) for name in parts_in(memory)]
    assert times == list(range(NOW, NOW + 50))


async def test_a_clock_that_steps_back_keeps_the_order(clock, in_memory):
    await in_memory.append(KEY, [entry(1)])
    clock.now -= HOUR
    await in_memory.append(KEY, [entry(2)])
    await in_memory.append(SUBAGENT, [entry(3)])
    clock.now -= HOUR
    await in_memory.append(SUBAGENT, [entry(4)])
    assert await in_memory.load(KEY) == [entry(1), entry(2)]
    assert await in_memory.load(SUBAGENT) == [entry(3), entry(4)]


@pytest.mark.parametrize("key", [KEY, SUBAGENT], ids=["main", "subagent"])
@pytest.mark.parametrize("loads", [True, False], ids=["loads", "does not load"])
async def test_a_writer_whose_clock_is_behind_continues_from_the_newest_part(
    clock, memory, key, loads
):
    async with SnapstoreSessionStore(memory) as first:
        await first.append(key, [entry(1)])
        await first.append(key, [entry(2)])
    clock.now -= HOUR
    async with SnapstoreSessionStore(memory) as second:
        if loads:
            await second.load(key)
        await second.append(key, [entry(3)])
        await second.append(key, [entry(4)])
        assert await second.load(key) == [entry(number) for number in (1, 2, 3, 4)]


async def test_a_long_lived_writer_continues_from_what_it_loads(clock, memory):
    async with SnapstoreSessionStore(memory) as first, SnapstoreSessionStore(memory) as second:
        await first.append(KEY, [entry(1)])
        clock.now += HOUR
        await second.append(KEY, [entry(2, customTitle="of the second")])
        clock.now -= HOUR
        assert await first.load(KEY) == [entry(1), entry(2, customTitle="of the second")]
        await first.append(KEY, [entry(3)])
        assert [found["n"] for found in await second.load(KEY)] == [1, 2, 3]
        [summary] = await first.list_session_summaries(PROJECT)
        assert summary["data"]["custom_title"] == "of the second"


async def test_a_part_of_a_reference_adapter_that_is_loaded_gets_into_the_summary(
    in_memory, memory
):
    await in_memory.append(KEY, [entry(1)])
    [session] = await in_memory.list_sessions(PROJECT)
    theirs = f"{DIRECTORY}part-{session['mtime'] + 1}-abcdef.jsonl"
    memory.objects[theirs] = part_of(entry(2, customTitle="theirs"))
    await in_memory.load(KEY)
    await in_memory.append(KEY, [entry(3)])
    [summary] = await in_memory.list_session_summaries(PROJECT)
    assert summary["data"]["custom_title"] == "theirs"
    assert [found["n"] for found in await in_memory.load(KEY)] == [1, 2, 3]


async def test_a_part_that_a_reader_sees_during_an_append_gets_into_the_summary(clock, memory):
    theirs = f"{DIRECTORY}part-{NOW + HOUR}-abcdef.jsonl"

    async def read_meanwhile(call):
        if call.operation == "put" and call.keys[0] == SUMMARY and theirs not in memory.objects:
            memory.objects[theirs] = part_of(entry(1, customTitle="theirs"))
            loading.append(asyncio.ensure_future(store.load(KEY)))
            await loading[0]

    loading = []
    faulty = FaultyObjectStore(memory)
    async with SnapstoreSessionStore(faulty) as store:
        faulty.fault = read_meanwhile
        await store.append(KEY, [entry(2)])
        await store.append(KEY, [entry(3)])
        [summary] = await store.list_session_summaries(PROJECT)
    assert summary["data"]["custom_title"] == "theirs"


async def test_an_entry_with_a_uuid_counts_once_and_others_every_time(store):
    batch = [entry(1), without_uuid(2)]
    await store.append(KEY, batch)
    await store.append(KEY, [*batch, entry(3)])
    assert await store.load(KEY) == [entry(1), without_uuid(2), without_uuid(2), entry(3)]


async def test_concurrent_appends_of_one_process_are_all_kept(store):
    await asyncio.gather(*(store.append(KEY, [without_uuid(number)]) for number in range(20)))
    loaded = await store.load(KEY)
    assert sorted(found["n"] for found in loaded) == list(range(20))


async def test_concurrent_appends_of_several_processes_are_all_kept(open_store):
    stores = [await open_store() for _ in range(4)]
    await asyncio.gather(
        *(
            store.append(KEY, [without_uuid(10 * number + turn, customTitle=f"{number}")])
            for number, store in enumerate(stores)
            for turn in range(5)
        )
    )
    loaded = await stores[0].load(KEY)
    assert sorted(found["n"] for found in loaded) == sorted(
        10 * number + turn for number in range(4) for turn in range(5)
    )
    for number in range(4):
        turns = [found["n"] % 10 for found in loaded if found["n"] // 10 == number]
        assert turns == [0, 1, 2, 3, 4]
    [summary] = await stores[0].list_session_summaries(PROJECT)
    [session] = await stores[0].list_sessions(PROJECT)
    assert summary["mtime"] == session["mtime"]


@pytest.mark.parametrize("applied", [True, False], ids=["applied", "not applied"])
@pytest.mark.parametrize("which", [0, 1], ids=["the part", "the summary"])
async def test_a_batch_that_is_sent_again_after_a_failure_is_there_once(memory, which, applied):
    faulty = FaultyObjectStore(memory)
    async with SnapstoreSessionStore(faulty) as store:
        await store.append(KEY, [without_uuid(1)])
        faulty.fault = faults_in_turn("put", *[None] * which, StoreFault(applied=applied))
        batch = [without_uuid(2, customTitle="two"), entry(3)]
        with pytest.raises((OutcomeUnknownError, StorageUnavailableError)):
            await store.append(KEY, batch)
        await store.append(KEY, batch)
        await store.append(KEY, [without_uuid(4)])
        assert await store.load(KEY) == [without_uuid(1), *batch, without_uuid(4)]
        [summary] = await store.list_session_summaries(PROJECT)
        assert summary["data"]["custom_title"] == "two"
    assert len(parts_in(memory)) == 3


@pytest.mark.parametrize("applied", [True, False], ids=["applied", "not applied"])
async def test_a_batch_that_is_given_up_is_in_the_summary_if_it_was_written(memory, applied):
    faulty = FaultyObjectStore(memory)
    async with SnapstoreSessionStore(faulty) as store:
        await store.append(KEY, [entry(1, customTitle="one")])
        faulty.fault = faults_in_turn("put", StoreFault(applied=applied))
        with pytest.raises((OutcomeUnknownError, StorageUnavailableError)):
            await store.append(KEY, [entry(2, customTitle="two")])
        await store.append(KEY, [entry(3)])
        written = [found["n"] for found in await store.load(KEY)]
        assert written == ([1, 2, 3] if applied else [1, 3])
        [summary] = await store.list_session_summaries(PROJECT)
        assert summary["data"]["custom_title"] == ("two" if applied else "one")


async def test_the_sdk_sends_a_failed_batch_again_and_reports_nothing(memory):
    faulty = FaultyObjectStore(memory, faults_in_turn("put", StoreFault(applied=True)))
    reports = []

    async def report(key, message):
        reports.append((key, message))

    async with SnapstoreSessionStore(faulty) as store:
        batcher = TranscriptMirrorBatcher(store=store, projects_dir="/p", on_error=report)
        batcher.enqueue(f"/p/{PROJECT}/{SESSION}.jsonl", [without_uuid(1), entry(2)])
        await batcher.close()
        assert await store.load(KEY) == [without_uuid(1), entry(2)]
    assert reports == []


async def test_the_sdk_reports_a_batch_that_fails_each_time(memory):
    faulty = FaultyObjectStore(memory)

    async def fail(call):
        return StoreFault() if call.operation == "put" else None

    faulty.fault = fail
    reports = []

    async def report(key, message):
        reports.append((key, message))

    async with SnapstoreSessionStore(faulty) as store:
        batcher = TranscriptMirrorBatcher(store=store, projects_dir="/p", on_error=report)
        batcher.enqueue(f"/p/{PROJECT}/{SESSION}.jsonl", [entry(1)])
        await batcher.close()
    [(key, message)] = reports
    assert key == KEY
    assert DIRECTORY in message
    assert [call.operation for call in faulty.calls].count("put") == 3


async def test_another_writers_part_of_the_same_name_stays(memory, monkeypatch, clock):
    monkeypatch.setattr("snapstore.integrations.claude.writer.secrets.randbits", lambda _bits: 7)
    theirs = f"{DIRECTORY}part-{NOW}-000007.jsonl"

    async def write_first(call):
        if call.operation == "put" and theirs not in memory.objects:
            memory.objects[theirs] = part_of(entry(1))

    async with SnapstoreSessionStore(FaultyObjectStore(memory, write_first)) as store:
        await store.append(KEY, [entry(2)])
        assert await store.load(KEY) == [entry(1), entry(2)]


async def test_requests_of_an_append_and_a_load(memory):
    faulty = FaultyObjectStore(memory)

    def requests():
        found = [call.operation for call in faulty.calls]
        faulty.calls.clear()
        return found

    async with SnapstoreSessionStore(faulty) as store:
        await store.append(KEY, [entry(1)])
        assert requests() == ["get", "scan", "put", "put"]
        await store.append(KEY, [entry(2)])
        assert requests() == ["put", "put"]
        await store.append(SUBAGENT, [entry(3)])
        assert requests() == ["scan", "scan", "put"]
        await store.append(SUBAGENT, [entry(4)])
        assert requests() == ["put"]
        await store.append(KEY, [])
        assert requests() == []
        await store.load(KEY)
        assert requests() == ["scan", "get", "get", "get"]
        await store.list_sessions(PROJECT)
        assert requests() == ["scan"]
        await store.list_session_summaries(PROJECT)
        assert requests() == ["scan", "get"]


async def test_the_sdk_lists_sessions_by_their_summaries_alone(memory, tmp_path):
    faulty = FaultyObjectStore(memory)
    async with SnapstoreSessionStore(faulty) as store:
        project = project_key_for_directory(tmp_path)
        for number in range(5):
            message = {"role": "user", "content": f"Question {number}"}
            key = {"project_key": project, "session_id": f"{number:08}-0000-4000-8000-000000000000"}
            await store.append(key, [{"type": "user", "uuid": "u", "message": message}])
        faulty.calls.clear()
        sessions = await list_sessions_from_store(store, directory=str(tmp_path))
        assert {found.first_prompt for found in sessions} == {f"Question {n}" for n in range(5)}
    # A listing of each kind, and each summary.
    assert [call.operation for call in faulty.calls] == ["scan", *["get"] * 5, "scan"]


async def test_the_summary_takes_in_what_a_reference_adapter_has_written(memory):
    memory.objects[f"{DIRECTORY}part-{NOW - HOUR}-abcdef.jsonl"] = part_of(
        entry(1, customTitle="theirs", cwd="/there")
    )
    async with SnapstoreSessionStore(memory) as store:
        await store.append(KEY, [entry(2, cwd="/here")])
        [summary] = await store.list_session_summaries(PROJECT)
        assert summary["data"]["custom_title"] == "theirs"
        assert summary["data"]["cwd"] == "/there"
    theirs = f"{DIRECTORY}part-{NOW + 10 * HOUR * 24 * 365}-abcdef.jsonl"
    memory.objects[theirs] = part_of(entry(3, customTitle="theirs again"))
    async with SnapstoreSessionStore(memory) as store:
        await store.append(KEY, [entry(4)])
        [summary] = await store.list_session_summaries(PROJECT)
        assert summary["data"]["custom_title"] == "theirs again"
        [session] = await store.list_sessions(PROJECT)
        assert summary["mtime"] == session["mtime"]


async def test_a_damaged_part_does_not_keep_others_from_being_appended(memory, caplog):
    damaged = f"{DIRECTORY}part-{NOW - HOUR}-abcdef.jsonl"
    memory.objects[damaged] = b'{"secret'
    async with SnapstoreSessionStore(memory) as store:
        await store.append(KEY, [entry(2, customTitle="two")])
        [summary] = await store.list_session_summaries(PROJECT)
    assert summary["data"]["custom_title"] == "two"
    assert damaged in caplog.text
    assert "secret" not in caplog.text


async def test_a_session_that_was_deleted_begins_anew(memory):
    async with SnapstoreSessionStore(memory) as here, SnapstoreSessionStore(memory) as there:
        await here.append(KEY, [entry(1, customTitle="old")])
        await there.delete(KEY)
        assert memory.objects == {}
        await here.append(KEY, [entry(2)])
        assert await here.load(KEY) == [entry(2)]
        [summary] = await here.list_session_summaries(PROJECT)
        assert "custom_title" not in summary["data"]


async def test_a_batch_is_there_once_though_a_subagent_is_deleted_before_it_is_sent_again(memory):
    faulty = FaultyObjectStore(memory)
    async with SnapstoreSessionStore(faulty) as store:
        await store.append(SUBAGENT, [entry(1)])
        faulty.fault = faults_in_turn("put", StoreFault(applied=True))
        with pytest.raises(OutcomeUnknownError):
            await store.append(KEY, [without_uuid(1)])
        await store.delete(SUBAGENT)
        await store.append(KEY, [without_uuid(1)])
        assert await store.load(KEY) == [without_uuid(1)]


async def test_a_delete_that_is_cut_off_leaves_no_summary_and_can_be_repeated(memory):
    faulty = FaultyObjectStore(memory)
    async with SnapstoreSessionStore(faulty) as store:
        await store.append(KEY, [entry(1)])
        await store.append(SUBAGENT, [entry(2)])
        faulty.fault = faults_in_turn("delete", None, StoreFault())
        with pytest.raises(StorageUnavailableError):
            await store.delete(KEY)
        assert SUMMARY not in memory.objects
        assert [found["session_id"] for found in await store.list_sessions(PROJECT)] == [SESSION]
        await store.delete(KEY)
    assert memory.objects == {}


@pytest.mark.parametrize("key", [KEY, SUBAGENT], ids=["main", "subagent"])
async def test_what_is_written_while_a_transcript_is_deleted_is_deleted_too(memory, key):
    writes = iter([2, 3])

    async def write(call):
        if call.operation == "delete" and (number := next(writes, None)):
            async with SnapstoreSessionStore(memory) as other:
                await other.append(key, [entry(number)])

    async with SnapstoreSessionStore(memory) as store:
        await store.append(key, [entry(1)])
    async with SnapstoreSessionStore(FaultyObjectStore(memory, write)) as store:
        await store.delete(key)
    assert memory.objects == {}


async def test_a_delete_that_others_write_against_forever_is_an_error(memory):
    async def write(call):
        if call.operation == "delete":
            async with SnapstoreSessionStore(memory) as other:
                await other.append(SUBAGENT, [entry(len(faulty.calls))])

    faulty = FaultyObjectStore(memory, write)
    async with SnapstoreSessionStore(faulty) as store:
        await store.append(SUBAGENT, [entry(1)])
        with pytest.raises(StorageUnavailableError, match="delete it again"):
            await store.delete(SUBAGENT)


async def test_a_request_that_hangs_ends_by_its_deadline(memory):
    async def stall(call):
        return StoreFault(stall=True)

    async with SnapstoreSessionStore(FaultyObjectStore(memory, stall), timeout=0.05) as store:
        for call in (store.append(KEY, [entry(1)]), store.load(KEY), store.list_sessions(PROJECT)):
            with pytest.raises(StorageTimeoutError):
                await call


async def test_an_append_of_slow_requests_ends_before_the_sdk_gives_up(memory, monkeypatch):
    assert writer.SECONDS + 20 < SEND_TIMEOUT_SECONDS  # opening takes no longer than a request
    monkeypatch.setattr(writer, "SECONDS", 0.3)
    async with SnapstoreSessionStore(memory) as store:
        await store.append(KEY, [entry(1)])
    async with SnapstoreSessionStore(LatencyObjectStore(memory, 0.11)) as store:
        with pytest.raises(StorageTimeoutError, match="all requests together") as caught:
            await store.append(KEY, [without_uuid(2)])
        assert caught.value.outcome == "unknown"
        monkeypatch.setattr(writer, "SECONDS", 30)
        await store.append(KEY, [without_uuid(2)])
        assert [found["n"] for found in await store.load(KEY)] == [1, 2]


async def test_a_cancelled_append_leaves_the_batch_or_nothing(memory):
    reached = asyncio.Event()
    loop = asyncio.get_running_loop()

    async def stall(call):
        if call.operation == "put":
            loop.call_soon_threadsafe(reached.set)
            return StoreFault(stall=True, applied=True)
        return None

    faulty = FaultyObjectStore(memory, stall)
    async with SnapstoreSessionStore(faulty) as store:
        appending = asyncio.create_task(store.append(KEY, [without_uuid(1)]))
        await asyncio.wait_for(reached.wait(), 30)
        appending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await appending
        faulty.fault = faults_in_turn("put")
        await store.append(KEY, [without_uuid(1)])
        assert await store.load(KEY) == [without_uuid(1)]


def test_it_is_used_from_several_loops_and_copies(memory):
    store = SnapstoreSessionStore(memory)
    asyncio.run(store.append(KEY, [entry(1)]))
    asyncio.run(store.append(KEY, [entry(2)]))
    assert asyncio.run(store.load(KEY)) == [entry(1), entry(2)]
    shared = copy.copy(store)
    asyncio.run(shared.append(KEY, [entry(3)]))
    other = pickle.loads(pickle.dumps(SnapstoreSessionStore(MemoryObjectStore())))
    asyncio.run(other.append(KEY, [entry(1)]))
    other.close()
    store.close()
    with pytest.raises(StorageClosedError):
        asyncio.run(store.load(KEY))


async def test_a_managed_store_is_shared(memory):
    async with ManagedStore(memory) as objects:
        store = SnapstoreSessionStore(objects)
        await store.append(KEY, [entry(1)])
        assert await store.load(KEY) == [entry(1)]


async def test_what_is_known_of_many_transcripts_is_bounded(memory, monkeypatch):
    monkeypatch.setattr("snapstore.integrations.claude.writer._MOST_WRITERS", 3)
    faulty = FaultyObjectStore(memory)
    async with SnapstoreSessionStore(faulty) as store:
        for number in [*range(5), *range(5)]:
            await store.append({"project_key": "p", "session_id": f"s{number}"}, [entry(1)])
        faulty.calls.clear()
        await store.append({"project_key": "p", "session_id": "s4"}, [entry(2)])
        assert [call.operation for call in faulty.calls] == ["put", "put"]
        await store.append({"project_key": "p", "session_id": "s0"}, [entry(2)])
        assert [call.operation for call in faulty.calls].count("scan") == 1


def test_times_are_those_of_the_clock(memory):
    with SnapstoreSessionStore(memory) as store:
        before = time.time_ns() // 1_000_000
        asyncio.run(store.append(KEY, [entry(1)]))
        [session] = asyncio.run(store.list_sessions(PROJECT))
    assert before <= session["mtime"] <= time.time_ns() // 1_000_000
