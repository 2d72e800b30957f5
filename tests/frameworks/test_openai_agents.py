"""`SnapstoreSession`: what the OpenAI Agents SDK's own sessions do, and no append is lost."""

import asyncio
import json
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from agents import (
    Agent,
    ModelResponse,
    RunConfig,
    Runner,
    SQLiteSession,
    Usage,
    function_tool,
    set_tracing_disabled,
)
from agents.items import ToolApprovalItem
from agents.memory import Session, SessionSettings
from agents.models.interface import Model
from openai.types.responses import (
    ResponseFunctionToolCall,
    ResponseOutputMessage,
    ResponseOutputText,
)

from counting import CountingStore
from snapstore import (
    SnapshotDecodeError,
    SnapshotEncodeError,
    StorageError,
    snapshot_id_at,
)
from snapstore.integrations.openai_agents import SnapstoreSession
from snapstore.stores import FileObjectStore, MemoryObjectStore, S3ObjectStore
from snapstore.testing import FaultyObjectStore, StoreFault
from snapstore.testing.proxy import recording_proxy

set_tracing_disabled(True)

OURS = ["memory", "file", pytest.param("s3", marks=pytest.mark.s3)]


def item(number, size=0):
    return {"role": "user", "content": f"message {number} " + "x" * size}


@pytest.fixture
def make(request, tmp_path):
    """A function that makes a session of a kind."""
    store = MemoryObjectStore()

    def make_session(kind, session_id="user-1", **options):
        match kind:
            case "sqlite":
                return SQLiteSession(session_id, tmp_path / "sessions.db", **options)
            case "memory":
                return SnapstoreSession(session_id, store, **options)
            case "file":
                return SnapstoreSession(session_id, FileObjectStore(tmp_path / "files"), **options)
        server = request.getfixturevalue("s3_server")
        bucket, prefix = request.getfixturevalue("bucket"), request.getfixturevalue("prefix")
        store_of_s3 = S3ObjectStore(bucket, **server.storage_options)
        return SnapstoreSession(session_id, store_of_s3, prefix=prefix, **options)

    return make_session


@pytest.fixture(params=["sqlite", *OURS])
async def session(request, make):
    session = make(request.param)
    yield session
    closing = session.close()
    if closing is not None:
        await closing


@pytest.fixture(params=OURS)
async def ours(request, make):
    async with make(request.param) as session:
        yield session


# What its own sessions do, and ours


async def test_a_session_is_one_by_the_protocol(session):
    assert isinstance(session, Session)
    assert session.session_id == "user-1"


async def test_a_new_session_is_empty(session):
    assert await session.get_items() == []
    assert await session.pop_item() is None
    await session.clear_session()


async def test_items_come_in_their_order(session):
    await session.add_items([item(1), item(2)])
    await session.add_items([item(3)])
    assert await session.get_items() == [item(1), item(2), item(3)]


async def test_adding_nothing_changes_nothing(session):
    await session.add_items([])
    assert await session.get_items() == []


async def test_a_limit_gives_the_newest_in_their_order(session):
    await session.add_items([item(n) for n in range(10)])
    assert await session.get_items(limit=3) == [item(7), item(8), item(9)]
    assert await session.get_items(limit=100) == [item(n) for n in range(10)]
    assert await session.get_items(limit=0) == []


async def test_the_settings_have_a_limit_that_an_argument_overrides(session):
    session.session_settings = SessionSettings(limit=2)
    await session.add_items([item(n) for n in range(5)])
    assert await session.get_items() == [item(3), item(4)]
    assert await session.get_items(limit=1) == [item(4)]


async def test_pop_removes_the_newest(session):
    await session.add_items([item(1), item(2)])
    assert await session.pop_item() == item(2)
    assert await session.get_items() == [item(1)]
    assert await session.pop_item() == item(1)
    assert await session.pop_item() is None


async def test_clearing_removes_all_and_the_session_goes_on(session):
    await session.add_items([item(1)])
    await session.clear_session()
    assert await session.get_items() == []
    await session.add_items([item(2)])
    assert await session.get_items() == [item(2)]


async def test_items_of_every_shape_come_back_as_they_are(session):
    items = [
        {"role": "user", "content": "Zürich 你好 🌧 \x00 \u2028"},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": '{"a": [1, null]}'},
        {"type": "reasoning", "summary": [], "big": 2**60, "ratio": 0.1, "deep": {"a": [[{}]]}},
    ]
    await session.add_items(items)
    assert await session.get_items() == items


async def test_sessions_are_apart(make, session):
    kind = "sqlite" if isinstance(session, SQLiteSession) else None
    other = make("sqlite", "user-2") if kind else session.with_session_id("user-2")
    await session.add_items([item(1)])
    await other.add_items([item(2)])
    assert await session.get_items() == [item(1)]
    assert await other.get_items() == [item(2)]
    await other.clear_session()
    assert await session.get_items() == [item(1)]
    if kind:
        other.close()


async def test_twenty_appends_at_once_are_all_kept(session):
    await asyncio.gather(*(session.add_items([item(n), item(n)]) for n in range(20)))
    items = await session.get_items()
    assert sorted(one["content"] for one in items) == sorted(
        [item(n)["content"] for n in range(20)] * 2
    )
    # Each batch is together.
    assert items[::2] == items[1::2]


# What only ours does


async def test_a_long_conversation_is_rewritten_in_parts_alone(make, request):
    store = FaultyObjectStore(MemoryObjectStore())
    async with SnapstoreSession("user-1", store) as session:
        for number in range(300):
            await session.add_items([item(number, 2_000), item(number)])
        largest = max(len(body) for body in store.inner.objects.values())
        total = sum(len(body) for body in store.inner.objects.values())
        assert largest < 80_000 < total / 5
        store.calls.clear()
        assert await session.get_items(limit=4) == [
            one for number in (298, 299) for one in (item(number, 2_000), item(number))
        ]
        assert len(store.calls) <= 2
        everything = await session.get_items()
        assert everything == [
            one for number in range(300) for one in (item(number, 2_000), item(number))
        ]
        # A turn is a read and a write of the head.
        store.calls.clear()
        await session.add_items([item("last")])
        assert [call.operation for call in store.calls][-2:] == ["get", "put"]


async def test_going_back_to_an_earlier_point(ours):
    points = []
    for number in range(8):
        points.append(await ours.count_items())
        await ours.add_items([item(number, 20_000), item(number)])
    removed = await ours.rewind(points[3])
    assert removed == [one for n in range(3, 8) for one in (item(n, 20_000), item(n))]
    assert await ours.get_items() == [one for n in range(3) for one in (item(n, 20_000), item(n))]
    assert await ours.rewind(points[3]) == []
    with pytest.raises(ValueError, match="only 6 items"):
        await ours.rewind(7)
    with pytest.raises(ValueError, match="negative"):
        await ours.rewind(-1)
    while await ours.pop_item() is not None:
        pass
    assert await ours.get_items() == []


async def test_clearing_leaves_no_object():
    store = MemoryObjectStore()
    async with SnapstoreSession("user-1", store) as session:
        for number in range(10):
            await session.add_items([item(number, 30_000)])
        await session.save_run_state({"a": 1})
        for time in (datetime.now(UTC), datetime.now(UTC) - timedelta(hours=2)):
            store.objects[f"user-1/segments/{snapshot_id_at(time)}.json"] = b'{"items":[]}'
        await session.clear_session()
    assert not store.objects


async def test_what_is_appended_while_it_is_cleared_is_whole_or_gone():
    """A turn that makes a segment, before each call of the clearing; clocks don't matter."""
    meets_at, was_met = 0, True
    while was_met:
        meets_at += 1
        objects = MemoryObjectStore()
        async with SnapstoreSession("user-1", objects) as other:
            for number in (0, 1):
                await other.add_items([item(number) for _ in range(200)])
            store, was_met = FaultyObjectStore(objects), False

            async def meet(_):
                nonlocal was_met
                if len(store.calls) == meets_at and not was_met:  # noqa: B023
                    was_met = True
                    for number in (200, 201):
                        await other.add_items([item(number + n / 1000) for n in range(200)])

            store.fault = meet
            async with SnapstoreSession("user-1", store) as session:
                await session.clear_session()
            numbers = [float(one["content"].split()[1]) for one in await other.get_items()]
            assert numbers in ([], [n + i / 1000 for n in (200, 201) for i in range(200)])
            await other.clear_session()
            assert not objects.objects
    assert meets_at > 3


async def test_a_writer_that_was_at_work_while_it_was_cleared_names_no_segment_that_is_gone():
    objects = MemoryObjectStore()
    store, was_met = FaultyObjectStore(objects), False
    async with SnapstoreSession("u", store) as session, SnapstoreSession("u", objects) as other:
        await other.add_items([item(number) for number in range(200)])

        async def clear_before_the_head(call):
            nonlocal was_met
            if call.operation == "put" and call.keys[0].endswith("head.json") and not was_met:
                was_met = True
                await other.clear_session()

        store.fault = clear_before_the_head
        await session.add_items([item("new")])
        assert was_met
        assert await other.get_items() == [item("new")]
        await other.clear_session()
    assert not objects.objects


@pytest.mark.parametrize("applied", [False, True])
async def test_an_item_that_was_removed_is_given_back_though_its_segment_stays(applied, caplog):
    store = FaultyObjectStore(MemoryObjectStore())
    async with SnapstoreSession("user-1", store) as session:
        for number in range(2):
            await session.add_items([item(number, 70_000)])
        assert await session.pop_item() == item(1, 70_000)

        async def no_deletes(call):
            return StoreFault(applied=applied) if call.operation == "delete" else None

        store.fault = no_deletes
        assert await session.pop_item() == item(0, 70_000)
        assert await session.pop_item() is None
        assert "left for clear_session" in caplog.text
        store.fault = no_fault
        await session.clear_session()
    assert not store.inner.objects


async def test_a_segment_that_is_missing_is_damage_and_no_conflict():
    store = MemoryObjectStore()
    async with SnapstoreSession("user-1", store) as session:
        for number in range(3):
            await session.add_items([item(number, 70_000)])
        [gone, *_] = sorted(key for key in store.objects if "/segments/" in key)
        del store.objects[gone]
        before = dict(store.objects)
        for call in (session.get_items, lambda: session.rewind(0)):
            with pytest.raises(SnapshotDecodeError, match=gone):
                await call()
        assert store.objects == before
        # What does not need it goes on.
        assert await session.get_items(limit=2) == [item(1, 70_000), item(2, 70_000)]
        await session.add_items([item(3)])
        assert await session.pop_item() == item(3)


async def test_a_head_of_a_newer_format_is_left_alone():
    store = MemoryObjectStore()
    body = b'{"version":2,"segments":[],"tail":[],"more":1}'
    store.objects["user-1/head.json"] = body
    async with SnapstoreSession("user-1", store) as session:
        for call in (session.get_items, session.pop_item, lambda: session.add_items([item(1)])):
            with pytest.raises(SnapshotDecodeError, match="format 1"):
                await call()
        assert store.objects == {"user-1/head.json": body}


async def test_a_turn_of_a_very_long_conversation_makes_no_segment():
    store = FaultyObjectStore(MemoryObjectStore())
    segments = [{"name": snapshot_id_at(datetime.now(UTC)), "items": 200}] * 3_000
    head = {"version": 1, "revision": "1", "segments": segments, "tail": []}
    store.inner.objects["user-1/head.json"] = json.dumps(head).encode()
    async with SnapstoreSession("user-1", store) as session:
        for number in range(5):
            await session.add_items([item(number)])
        assert not any("/segments/" in key for call in store.calls for key in call.keys)
        assert await session.count_items() == 600_005


async def test_segments_are_read_so_many_at_a_time():
    objects = CountingStore()
    async with SnapstoreSession("user-1", objects) as session:
        for number in range(251):
            await session.add_items([item(number + n / 1000) for n in range(200)])
        assert len(await session.get_items()) == 251 * 200
    assert 50 < objects.most <= 100


async def test_more_than_fits_is_refused_before_any_request():
    store = FaultyObjectStore(MemoryObjectStore())
    async with SnapstoreSession("user-1", store) as session:
        large = item(1, 12 * 2**20)
        with pytest.raises(SnapshotEncodeError, match="items: too large"):
            await session.add_items([large] * 3)
        assert not store.calls
        # Whatever else is in the head, as much as is allowed fits.
        await session.add_items([item(2, 60_000)])
        await session.add_items([large] * 2)
        await session.add_items([large] * 2)
        assert len(await session.get_items()) == 5


async def test_the_state_of_a_run_is_kept_beside_the_items(ours):
    assert await ours.load_run_state() is None
    await ours.save_run_state({"$schemaVersion": "1.0", "deep": [1, None]})
    assert await ours.load_run_state() == {"$schemaVersion": "1.0", "deep": [1, None]}
    await ours.delete_run_state()
    assert await ours.load_run_state() is None


async def no_fault(_):
    return None


@pytest.mark.parametrize("applied", [False, True])
async def test_a_lost_response_loses_and_repeats_nothing(applied):
    """At each call of a long series, once."""
    fails_at, was_hit = 0, True
    while was_hit:
        fails_at += 1
        store = FaultyObjectStore(MemoryObjectStore())
        calls, was_hit = 0, False

        async def fault(_):
            nonlocal calls, was_hit
            calls += 1
            was_hit = was_hit or calls == fails_at  # noqa: B023
            return StoreFault(applied=applied) if calls == fails_at else None  # noqa: B023

        store.fault = fault
        kept, in_doubt = [], []
        async with SnapstoreSession("user-1", store) as session:
            for number in range(6):
                try:
                    await session.add_items([item(number, 40_000), item(number)])
                    kept.append(number)
                except StorageError as error:
                    in_doubt.append((number, error.outcome))
            store.fault = no_fault
            items = await session.get_items()
        numbers = [int(one["content"].split()[1]) for one in items]
        assert numbers[::2] == numbers[1::2]
        assert set(kept) <= set(numbers) <= set(kept) | {number for number, _ in in_doubt}
        assert not {number for number, outcome in in_doubt if outcome == "not applied"} & {*numbers}
        assert len(numbers) == len(set(numbers)) * 2


@pytest.mark.parametrize("applied", [False, True])
async def test_a_cancelled_turn_leaves_all_of_its_items_or_none(applied):
    store = FaultyObjectStore(MemoryObjectStore())
    reached, go_on = threading.Event(), threading.Event()

    async def hold(call):
        if call.operation == "put":
            reached.set()
            await asyncio.to_thread(go_on.wait)
        return None if applied else (StoreFault() if call.operation == "put" else None)

    async with SnapstoreSession("user-1", store) as session:
        store.fault = hold
        adding = asyncio.create_task(session.add_items([item(1), item(2)]))
        await asyncio.to_thread(reached.wait)
        adding.cancel()
        await asyncio.sleep(0.01)
        assert not adding.done()
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await adding
        assert await session.get_items() == ([item(1), item(2)] if applied else [])


async def test_a_reader_beside_writers_never_sees_a_half(ours):
    async def write():
        for number in range(12):
            await ours.add_items([item(number, 30_000), item(number)])
            if number % 3 == 2:
                await ours.rewind(max(await ours.count_items() - 4, 0))

    writing = asyncio.create_task(write())
    while not writing.done():
        items = await ours.get_items()
        assert len(items) % 2 == 0
    await writing


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"canary", b'{"segments":1,"tail":[]}', b'{"tail":[]}']
)
async def test_what_is_no_conversation_is_an_error_that_shows_nothing(body):
    store = MemoryObjectStore()
    store.objects["user-1/head.json"] = body
    async with SnapstoreSession("user-1", store) as session:
        for call in (session.get_items, session.pop_item, lambda: session.add_items([item(1)])):
            with pytest.raises(SnapshotDecodeError, match=r"user-1/head\.json") as caught:
                await call()
            assert "canary" not in str(caught.value)
    assert store.objects == {"user-1/head.json": body}


@pytest.mark.parametrize("items", [["text"], [None], [{"x": float("nan")}], [{1: 2}], [{"x": b""}]])
async def test_items_that_are_no_json_are_refused_before_anything_is_written(items):
    store = MemoryObjectStore()
    async with SnapstoreSession("user-1", store) as session:
        with pytest.raises(SnapshotEncodeError):
            await session.add_items([item(1), *items])
    assert store.objects == {}


@pytest.mark.s3
async def test_on_s3_a_turn_is_two_requests(s3_server, bucket, prefix):
    async with recording_proxy(s3_server.endpoint_url) as proxy:
        options = s3_server.storage_options | {"endpoint_url": proxy.endpoint_url}
        async with SnapstoreSession(
            "u", S3ObjectStore(bucket, **options), prefix=prefix
        ) as session:
            await session.add_items([item(1)])
            proxy.requests.clear()
            await session.get_items()
            await session.add_items([item(2)])
            assert [one.operation for one in proxy.requests] == [
                "GetObject",
                "GetObject",
                "PutObject",
            ]


# With the runner


class Scripted(Model):
    """A model that says what it is told to, in turn."""

    def __init__(self, *turns):
        self.turns = list(turns)

    async def get_response(self, *args, **kwargs):
        return ModelResponse(output=self.turns.pop(0), usage=Usage(), response_id=None)

    def stream_response(self, *args, **kwargs):
        raise NotImplementedError


def says(text):
    content = ResponseOutputText(text=text, type="output_text", annotations=[])
    return [
        ResponseOutputMessage(
            id="m", content=[content], role="assistant", status="completed", type="message"
        )
    ]


def calls(tool, call_id="c-1", **arguments):
    return [
        ResponseFunctionToolCall(
            name=tool, call_id=call_id, arguments=json.dumps(arguments), type="function_call"
        )
    ]


@function_tool
def weather(city: str) -> str:
    """Tell the weather."""
    return f"sunny in {city}"


@function_tool(needs_approval=True)
def delete(name: str) -> str:
    """Delete something."""
    return f"deleted {name}"


async def test_an_agent_with_a_tool_and_a_handoff_remembers(ours):
    other = Agent("other", model=Scripted(says("It is sunny.")))
    first = Agent(
        "first",
        model=Scripted(calls("weather", city="Zürich"), calls("transfer_to_other", "c-2")),
        tools=[weather],
        handoffs=[other],
    )
    result = await Runner.run(first, "How is it?", session=ours)
    assert result.final_output == "It is sunny."
    kinds = [one.get("type", one.get("role")) for one in await ours.get_items()]
    assert kinds == [
        "user",
        "function_call",
        "function_call_output",
        "function_call",
        "function_call_output",
        "message",
    ]
    seen = []

    class Looks(Scripted):
        async def get_response(self, *args, **kwargs):
            seen.extend(kwargs["input"] if "input" in kwargs else args[1])
            return await super().get_response(*args, **kwargs)

    again = Agent("first", model=Looks(says("Still sunny.")))
    await Runner.run(again, "And now?", session=ours, run_config=RunConfig())
    assert len(seen) == 7


RESUME = """
import asyncio, json, sys
from agents import Agent, Runner, RunState, set_tracing_disabled
sys.path[:0] = [sys.argv[1], f"{sys.argv[1]}/../support"]
from test_openai_agents import Scripted, delete, says
from snapstore.integrations.openai_agents import SnapstoreSession
from snapstore.stores import FileObjectStore

set_tracing_disabled(True)

async def main():
    async with SnapstoreSession("user-1", FileObjectStore(sys.argv[2])) as session:
        agent = Agent("first", model=Scripted(says("Done.")), tools=[delete])
        state = await RunState.from_json(agent, await session.load_run_state())
        for waiting in state.get_interruptions():
            state.approve(waiting)
        result = await Runner.run(agent, state, session=session)
        await session.delete_run_state()
        print(result.final_output)

asyncio.run(main())
"""


async def test_a_run_that_waits_for_approval_resumes_in_another_process(make, tmp_path):
    async with make("file") as session:
        agent = Agent("first", model=Scripted(calls("delete", name="x")), tools=[delete])
        result = await Runner.run(agent, "Delete x.", session=session)
        assert [type(one) for one in result.interruptions] == [ToolApprovalItem]
        await session.save_run_state(result.to_state().to_json())
    command = [sys.executable, "-c", RESUME, str(Path(__file__).parent)]
    ended = await asyncio.to_thread(
        subprocess.run,
        [*command, str(tmp_path / "files")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.stdout == "Done.\n", ended.stderr
    async with make("file") as session:
        kinds = [one.get("type", one.get("role")) for one in await session.get_items()]
        assert kinds == ["user", "function_call", "function_call_output", "message"]
        assert await session.load_run_state() is None
