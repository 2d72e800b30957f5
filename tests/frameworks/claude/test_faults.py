"""What fails: each kind of failure, in each method, as an error of snapstore that says so."""

import asyncio

import pytest

from snapstore import (
    AccessDeniedError,
    BucketNotFoundError,
    OutcomeUnknownError,
    StorageTimeoutError,
    StorageUnavailableError,
)
from snapstore.integrations.claude import SnapstoreSessionStore
from snapstore.stores import MemoryObjectStore, PreconditionFailedError, S3ObjectStore
from snapstore.testing import FaultyObjectStore, StoreFault
from transcripts import DIRECTORY, KEY, PROJECT, SUBAGENT, SUMMARY, entry, parts_in

METHODS = {
    "append": lambda store: store.append(KEY, [entry(3)]),
    "append to a subagent": lambda store: store.append(SUBAGENT, [entry(3)]),
    "load": lambda store: store.load(KEY),
    "list_sessions": lambda store: store.list_sessions(PROJECT),
    "list_session_summaries": lambda store: store.list_session_summaries(PROJECT),
    "delete": lambda store: store.delete(KEY),
    "delete of a subagent": lambda store: store.delete(SUBAGENT),
    "list_subkeys": lambda store: store.list_subkeys(KEY),
    "compact": lambda store: store.compact(KEY, grace=0),
}
ERRORS = [AccessDeniedError, BucketNotFoundError, StorageUnavailableError, StorageTimeoutError]


@pytest.fixture(params=METHODS)
def method(request):
    return METHODS[request.param]


async def fill(memory):
    async with SnapstoreSessionStore(memory) as store:
        for number in (1, 2):
            await store.append(KEY, [entry(number)])
            await store.append(SUBAGENT, [entry(number)])


async def count_calls(memory, method):
    """How many calls a method makes, on a copy of what is there."""
    before = dict(memory.objects)
    faulty = FaultyObjectStore(memory)
    async with SnapstoreSessionStore(faulty) as store:
        await method(store)
    memory.objects.clear()
    memory.objects.update(before)
    return len(faulty.calls)


@pytest.mark.parametrize("applied", [False, True], ids=["not applied", "applied"])
@pytest.mark.parametrize("error", ERRORS)
async def test_each_request_that_fails_is_an_error_and_the_call_can_be_repeated(
    memory, method, error, applied
):
    await fill(memory)
    before = dict(memory.objects)
    for failing in range(await count_calls(memory, method)):
        memory.objects.clear()
        memory.objects.update(before)
        faulty = FaultyObjectStore(memory)

        async def fail(_call, faulty=faulty, failing=failing):
            is_failing = len(faulty.calls) - 1 == failing
            return StoreFault(error=error, applied=applied) if is_failing else None

        faulty.fault = fail
        async with SnapstoreSessionStore(faulty) as store:
            with pytest.raises(error):
                await method(store)
            await method(store)
            loaded = {1, 2, 3} if method is METHODS["append"] else {1, 2}
            if method is not METHODS["delete"]:
                assert {found["n"] for found in await store.load(KEY)} == loaded
                assert len(await store.load(KEY)) == len(loaded)


async def test_a_summary_that_others_write_each_time_is_an_error_that_says_so(memory, monkeypatch):
    monkeypatch.setattr("snapstore.integrations.claude.writer.full_jitter", lambda _attempt: 0)

    async def lose(call):
        if call.operation == "put" and call.keys[0] == SUMMARY:
            return StoreFault(error=PreconditionFailedError)
        return None

    async with SnapstoreSessionStore(FaultyObjectStore(memory, lose)) as store:
        with pytest.raises(StorageUnavailableError, match="append them again") as failure:
            await store.append(KEY, [entry(1)])
        assert failure.value.retryable
        assert failure.value.key == SUMMARY
        assert await store.load(KEY) == [entry(1)]
    assert len(parts_in(memory)) == 1


@pytest.mark.s3
async def test_a_missing_bucket_is_said_to_be_missing(s3_server, method):
    objects = S3ObjectStore("no-such-bucket", **s3_server.storage_options)
    async with SnapstoreSessionStore(objects) as store:
        with pytest.raises(BucketNotFoundError, match="no-such-bucket"):
            await method(store)


async def test_a_store_that_cant_be_opened_is_an_error_of_the_first_call(method):
    class Broken(FaultyObjectStore):
        async def open(self):
            raise StorageUnavailableError("it is down")

    store = SnapstoreSessionStore(Broken(MemoryObjectStore()))
    with pytest.raises(StorageUnavailableError, match="it is down"):
        await method(store)
    await store.aclose()


async def test_an_unknown_outcome_says_so(memory):
    async def lose(call):
        is_part = call.operation == "put" and call.keys[0].startswith(DIRECTORY)
        return StoreFault(applied=True) if is_part else None

    async with SnapstoreSessionStore(FaultyObjectStore(memory, lose)) as store:
        with pytest.raises(OutcomeUnknownError, match="reply was lost"):
            await store.append(KEY, [entry(1)])


async def test_cancelled_calls_leave_the_store_usable(memory, method):
    await fill(memory)
    before = dict(memory.objects)
    loop = asyncio.get_running_loop()
    for failing in range(await count_calls(memory, method)):
        memory.objects.clear()
        memory.objects.update(before)
        reached = asyncio.Event()
        faulty = FaultyObjectStore(memory)

        async def stall(_call, faulty=faulty, failing=failing, reached=reached):
            if len(faulty.calls) - 1 != failing:
                return None
            loop.call_soon_threadsafe(reached.set)
            return StoreFault(stall=True)

        faulty.fault = stall
        async with SnapstoreSessionStore(faulty) as store:
            call = asyncio.create_task(method(store))
            waiting = asyncio.create_task(reached.wait())
            await asyncio.wait([call, waiting], timeout=30, return_when=asyncio.FIRST_COMPLETED)
            assert waiting.done(), "it did not come so far"
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            await method(store)
            if method is not METHODS["delete"]:
                loaded = {1, 2, 3} if method is METHODS["append"] else {1, 2}
                assert {found["n"] for found in await store.load(KEY)} == loaded
