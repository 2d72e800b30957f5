"""The same faults for each adapter: who knows one knows all.

- A conflict: another writer comes first, at any request.
- A missing bucket.
- A lost response, and a server that does not answer in time, to any request.
- A call that is cancelled at any request.
- Any text as an id.
- An object that is damaged.
- Listings of many pages; other threads and loops; a store that is closed, or shared.
"""

import asyncio
import subprocess
import sys
from contextlib import suppress

import pytest

from adapters import ADAPTERS, IDS, REFUSED
from snapstore import (
    BucketNotFoundError,
    InvalidIdentifierError,
    SnapshotDecodeError,
    StorageClosedError,
    StorageError,
    StorageTimeoutError,
    WrongEventLoopError,
)
from snapstore.stores import FileObjectStore, ManagedStore, MemoryObjectStore, S3ObjectStore
from snapstore.testing import FaultyObjectStore, StoreFault
from snapstore.testing.proxy import Fault, recording_proxy

S3 = pytest.param("s3", marks=pytest.mark.s3)
SOON = 0.4
"""The deadline of a request that is never answered; all others have to end in time."""


@pytest.fixture(params=ADAPTERS)
def name(request):
    return request.param


@pytest.fixture
def adapter(name):
    return ADAPTERS[name]


@pytest.fixture(params=["memory", "files", S3])
def make_objects(request):
    """Makes object stores that all hold the same objects."""
    if request.param == "memory":
        memory = MemoryObjectStore()
        return lambda: memory
    if request.param == "files":
        root = request.getfixturevalue("tmp_path")
        return lambda: FileObjectStore(root)
    server, bucket = request.getfixturevalue("s3_server"), request.getfixturevalue("bucket")
    return lambda: S3ObjectStore(bucket, **server.storage_options)


class AtCall:
    """A fault of one call, the one of this number."""

    def __init__(self, number, fault=None, before=None):
        self.left, self.fault, self.before, self.was_met = number, fault, before, False
        self.loop, self.reached = asyncio.get_running_loop(), asyncio.Event()

    async def __call__(self, call):
        self.left -= 1
        if self.left != -1:
            return None
        self.was_met = True
        self.loop.call_soon_threadsafe(self.reached.set)
        if self.before is not None:
            await self.before()
        return self.fault


async def no_fault(_):
    return None


async def at_each_call(adapter, fault, act, check, *, turns=3, before=None, **options):
    """Do the same in a thread of so many turns, with a fault at each call of it in turn.

    Args:
        adapter: The adapter.
        fault: How the call fails.
        act: Called with the adapter and the armed fault; returns the error, if any.
        check: Called with what `act` has returned, and the turns that are there then, as an adapter
            finds them that nothing disturbs.
        turns: How many turns there are.
        before: Called with an undisturbed adapter, before the call.
        options: Of the adapter.
    """
    number, was_met = 0, True
    while was_met:
        memory = MemoryObjectStore()
        async with adapter(memory) as other:
            for turn in range(turns):
                await other.add("t", f"{turn}")
            faulty = FaultyObjectStore(memory)
            async with adapter(faulty, **options) as subject:
                met = before and (lambda other=other: before(other))
                faulty.fault = armed = AtCall(number, fault, met)
                ended = await act(subject, armed)
                was_met = armed.was_met
                faulty.fault = no_fault
                now = await other.turns("t")
                await check(ended, now, was_met, subject)
                # It goes on.
                assert await subject.turns("t") == now
                await subject.add("t", "next")
                assert await other.turns("t") == [*now, "next"]
                await subject.delete("t")
                assert await other.turns("t") == []
        number += 1
    assert number > 1


BEFORE = ["0", "1", "2"]


async def add(subject, _armed):
    """Add a turn; returns the error."""
    try:
        await subject.add("t", "new")
    except Exception as error:  # noqa: BLE001 -- what it is, is checked
        return error
    return None


async def test_of_two_turns_at_once_none_is_lost_and_none_is_taken_for_saved(adapter):
    async def check(error, now, was_met, subject):
        if error is None:
            assert sorted(now) == sorted([*BEFORE, "new", *["other"] * was_met])
        else:
            assert isinstance(error, adapter.conflict or ())
            assert now == [*BEFORE, "other"]

    async def before(other):
        await other.add("t", "other")

    await at_each_call(adapter, None, add, check, before=before)


async def test_of_many_turns_at_once_each_is_there_once_or_refused(adapter, make_objects):
    async def turn(subject, number):
        await subject.add("t", f"{number}")
        return f"{number}"

    async with adapter(make_objects()) as one, adapter(make_objects()) as other:
        ended = await asyncio.gather(
            *(
                turn(subject, place + 2 * n)
                for place, subject in enumerate((one, other))
                for n in range(6)
            ),
            return_exceptions=True,
        )
        kept = [turn for turn in ended if isinstance(turn, str)]
        refused = [type(turn) for turn in ended if not isinstance(turn, str)]
        assert kept
        assert set(refused) <= {adapter.conflict}
        assert sorted(await one.turns("t")) == sorted(await other.turns("t")) == sorted(kept)


@pytest.mark.s3
async def test_a_missing_bucket_is_said_to_be_missing(adapter, s3_server):
    async with adapter(S3ObjectStore("no-such-bucket", **s3_server.storage_options)) as subject:
        for call in (subject.turns("t"), subject.add("t", "new"), subject.delete("t")):
            with pytest.raises(BucketNotFoundError, match="no-such-bucket"):
                await call


@pytest.mark.parametrize("applied", [False, True], ids=["not applied", "applied"])
@pytest.mark.parametrize("stall", [False, True], ids=["lost", "slow"])
async def test_a_turn_whose_request_fails_is_there_or_not_as_it_says(adapter, applied, stall):
    async def check(error, now, was_met, subject):
        assert now in (BEFORE, [*BEFORE, "new"])
        if error is None:
            assert now == [*BEFORE, "new"]
            return
        assert was_met
        assert isinstance(error, StorageTimeoutError if stall else StorageError)
        assert "new" not in str(error).split()
        if now == BEFORE:
            # To add it again is no worse than the first time.
            await subject.add("t", "new")
            assert await subject.turns("t") == [*BEFORE, "new"]

    async def check_and_end(error, now, was_met, subject):
        await check(error, now, was_met, subject)
        now[:] = await subject.turns("t")

    fault = StoreFault(applied=applied, stall=stall)
    await at_each_call(adapter, fault, add, check_and_end, timeout=SOON if stall else 60)


@pytest.mark.s3
@pytest.mark.parametrize(
    "fault", [Fault(lost=True), Fault.error(503, "SlowDown")], ids=["lost", "busy"]
)
async def test_on_s3_a_turn_outlives_any_response_that_is_lost(adapter, fault, s3_server, bucket):
    number, was_met = 0, True
    async with recording_proxy(s3_server.endpoint_url) as proxy:
        options = s3_server.storage_options | {"endpoint_url": proxy.endpoint_url}
        while was_met:
            left, was_met = number, False

            async def fail(_request):
                nonlocal left, was_met
                left -= 1
                was_met = was_met or left == -1
                return fault if left == -1 else None

            prefix = f"{number}"
            async with adapter(S3ObjectStore(bucket, **options), prefix=prefix) as subject:
                for turn in range(2):
                    await subject.add("t", f"{turn}")
                proxy.fault = fail
                await subject.add("t", "2")
                assert await subject.turns("t") == BEFORE
                await subject.delete("t")
                assert await subject.turns("t") == []
                proxy.fault = no_fault
            number += 1
    assert number > 5


@pytest.mark.parametrize("applied", [False, True], ids=["not applied", "applied"])
@pytest.mark.parametrize("stall", [False, True], ids=["lost", "slow"])
async def test_a_read_whose_request_fails_raises_and_never_is_an_empty_thread(
    adapter, applied, stall
):
    async def read(subject, armed):
        if not stall:
            with suppress(StorageError):
                assert await subject.turns("t") == BEFORE
                assert not armed.was_met
            return
        try:
            assert await subject.turns("t") == BEFORE
            assert not armed.was_met
        except StorageTimeoutError:
            assert armed.was_met

    async def check(_ended, now, was_met, subject):
        assert now == BEFORE

    fault = StoreFault(applied=applied, stall=stall)
    await at_each_call(adapter, fault, read, check, timeout=SOON if stall else 60)


@pytest.mark.parametrize("applied", [False, True], ids=["not applied", "applied"])
async def test_a_delete_whose_request_fails_is_made_again(adapter, applied):
    async def delete(subject, armed):
        error = None
        try:
            await subject.delete("t")
        except StorageError as failure:
            error = failure
            assert armed.was_met
            await subject.delete("t")
        return error

    async def check(_error, now, was_met, subject):
        assert now == []

    await at_each_call(adapter, StoreFault(applied=applied), delete, check)


@pytest.mark.parametrize("applied", [False, True], ids=["not applied", "applied"])
async def test_a_turn_that_is_cancelled_is_there_or_not(adapter, applied):
    async def cancel(subject, armed):
        adding = asyncio.create_task(subject.add("t", "new"))
        reached = asyncio.create_task(armed.reached.wait())
        await asyncio.wait({adding, reached}, return_when=asyncio.FIRST_COMPLETED)
        if not armed.was_met:
            reached.cancel()
            await adding
            return
        adding.cancel()
        with pytest.raises(asyncio.CancelledError):
            await adding

    async def check(_ended, now, was_met, subject):
        # What goes on without its caller ends by its deadline.
        await asyncio.sleep(1.5 * SOON if was_met else 0)
        now[:] = await subject.turns("t")
        assert now in (BEFORE, [*BEFORE, "new"])

    fault = StoreFault(applied=applied, stall=True)
    await at_each_call(adapter, fault, cancel, check, timeout=SOON)


async def test_any_text_is_an_id_or_refused_before_any_request(name, adapter, make_objects):
    objects = make_objects()
    counted = FaultyObjectStore(objects)
    async with adapter(counted) as subject:
        taken = []
        for thread_id in IDS:
            if thread_id in REFUSED.get(name, ()):
                counted.calls.clear()
                for call in (
                    subject.turns(thread_id),
                    subject.add(thread_id, "a"),
                    subject.delete(thread_id),
                ):
                    with pytest.raises(InvalidIdentifierError):
                        await call
                assert not counted.calls
            elif (name, thread_id, type(objects)) == ("claude", "...", FileObjectStore):
                # By the layout of the reference adapter, it would be a hidden directory.
                with pytest.raises(InvalidIdentifierError):
                    await subject.add(thread_id, "a")
                assert await subject.turns(thread_id) == []
            else:
                assert await subject.turns(thread_id) == []
                await subject.add(thread_id, f"{len(taken)}")
                taken.append(thread_id)
        assert len(taken) > 30
        for place, thread_id in enumerate(taken):
            assert await subject.turns(thread_id) == [f"{place}"]
        # What is deleted is this one, and no twin.
        for place, thread_id in enumerate(taken):
            await subject.delete(thread_id)
            assert await subject.turns(thread_id) == []
            for other_place in (place - 1, place + 1):
                if 0 <= other_place < len(taken):
                    there = await subject.turns(taken[other_place])
                    assert there == [f"{other_place}"] * (other_place > place)


@pytest.mark.parametrize("wrong", [None, 7, b"t", ["t"]])
async def test_an_id_that_is_no_text_is_refused_before_any_request(adapter, wrong):
    counted = FaultyObjectStore(MemoryObjectStore())
    async with adapter(counted) as subject:
        for call in (subject.turns, subject.delete):
            with pytest.raises(InvalidIdentifierError):
                await call(wrong)
    assert not counted.calls


@pytest.mark.parametrize(
    "damage", [lambda _: b"", lambda body: body[: len(body) // 2], lambda _: b"new"]
)
async def test_an_object_that_is_damaged_is_an_error_that_names_it_or_not_needed(adapter, damage):
    memory = MemoryObjectStore()
    async with adapter(memory) as subject:
        for turn in range(20):
            await subject.add("t", f"{turn} {'new ' * 5_000}")
        turns = await subject.turns("t")
    found = []
    for key, body in memory.objects.items():
        damaged = MemoryObjectStore()
        damaged.objects.update(memory.objects | {key: damage(body)})
        async with adapter(damaged) as subject:
            try:
                assert await subject.turns("t") == turns
            except SnapshotDecodeError as error:
                found.append((key, error))
    assert found
    for key, error in found:
        assert error.key == key or key in str(error)
        assert "new" not in str(error).split()
        assert error.__cause__ is None


async def test_listings_of_many_pages_are_read_to_their_end(adapter):
    class SmallPages(MemoryObjectStore):
        def scan(self, prefix, *, start_after=None, page_size=1_000):
            return super().scan(prefix, start_after=start_after, page_size=min(page_size, 2))

        def scan_prefixes(self, prefix, *, delimiter, start_after=None, page_size=1_000):
            return super().scan_prefixes(
                prefix, delimiter=delimiter, start_after=start_after, page_size=1
            )

    turns = [f"{turn} {'x' * 3_000}" for turn in range(45)]
    async with adapter(SmallPages()) as subject:
        for turn in turns:
            await subject.add("t", turn)
            await subject.add(f"t-{turn[:2]}", turn)
        assert await subject.turns("t") == turns
        await subject.delete("t")
        assert await subject.turns("t") == []
        for turn in turns:
            assert await subject.turns(f"t-{turn[:2]}") == [turn]


async def test_it_may_be_used_from_any_thread_and_loop(adapter):
    async with adapter(MemoryObjectStore()) as subject:
        for turn in range(3):
            await asyncio.to_thread(asyncio.run, subject.add("t", f"{turn}"))
        assert await subject.turns("t") == BEFORE


async def test_one_that_is_closed_says_so_and_sends_nothing(adapter):
    counted = FaultyObjectStore(MemoryObjectStore())
    async with adapter(counted) as subject:
        await subject.add("t", "0")
    counted.calls.clear()
    for call in (subject.turns("t"), subject.add("t", "1"), subject.delete("t")):
        with pytest.raises(StorageClosedError):
            await call
    assert not counted.calls


async def test_a_managed_store_is_shared_on_its_own_loop_and_stays_open(adapter):
    async with ManagedStore(MemoryObjectStore()) as store:
        for turn in range(3):
            async with adapter(store) as subject:
                await subject.add("t", f"{turn}")
                with pytest.raises(WrongEventLoopError):
                    await asyncio.to_thread(asyncio.run, subject.turns("t"))
        assert await adapter(store).turns("t") == BEFORE
    with pytest.raises(StorageClosedError):
        await adapter(store).turns("t")


@pytest.mark.parametrize(
    ("module", "framework", "extra"),
    [
        ("openai_agents", "agents", "openai-agents"),
        ("pydantic_ai", "pydantic_ai", "pydantic-ai"),
        ("pydantic_ai", "pydantic_ai.conversation_store", "pydantic-ai"),
        ("claude", "claude_agent_sdk", "claude"),
        ("langgraph", "langgraph", "langgraph"),
    ],
)
def test_without_the_framework_the_error_names_the_extra(module, framework, extra):
    program = (
        f"import sys; sys.modules[{framework!r}] = None\n"
        f"try: import snapstore.integrations.{module}\n"
        "except ImportError as error: print(error)"
    )
    printed = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=60
    )
    assert f"pip install 'snapstore[{extra}]'" in printed.stdout.replace('"', "'")
