"""`import_message_log`: what the SDK's older managers have kept becomes snapshots.

That the SDK restores them, `tests/strands/python/test_message_log.py` shows.
"""

import json

import pytest

from copies import collected
from snapstore import (
    FileStorage,
    InvalidIdentifierError,
    MemoryStorage,
    ObjectSnapshotStorage,
    SnapshotLocation,
    StorageUnavailableError,
    snapshot_time,
)
from snapstore.operations import import_message_log
from snapstore.stores import FileObjectStore, ManagedStore, MemoryObjectStore
from snapstore.testing import FaultyObjectStore, StoreFault

LOCATION = SnapshotLocation.agent("s-1", "weather")
AGENT = "session_s-1/agents/agent_weather/agent.json"
TEAM = "session_s-1/multi_agents/multi_agent_team/multi_agent.json"


def at(second):
    return f"2026-11-22T11:13:{second:02d}.123456+00:00"


def agent_document(**changes):
    return {
        "agent_id": "weather",
        "state": {"city": "Bern"},
        "conversation_manager_state": {"__name__": "x", "removed_message_count": 0},
        "_internal_state": {"interrupt_state": {"interrupts": {}}, "model_state": {}},
        "created_at": at(0),
        "updated_at": at(1),
    } | changes


def record(number, **changes):
    return {
        "message": {"role": "user", "content": [{"text": f"text {number}"}]},
        "message_id": number,
        "redact_message": None,
        "created_at": at(number),
        "updated_at": at(number),
    } | changes


def log_of(*, agent=None, records=12, prefix="", session_id="s-1"):
    """The objects of a log with one session of one agent."""
    base = f"{prefix}session_{session_id}/"
    documents = {
        f"{base}session.json": {
            "session_id": session_id,
            "session_type": "AGENT",
            "created_at": at(0),
            "updated_at": at(0),
        },
        f"{base}agents/agent_weather/agent.json": agent or agent_document(),
    }
    for number in range(records):
        key = f"{base}agents/agent_weather/messages/message_{number}.json"
        documents[key] = record(number)
    return documents


class Log(ManagedStore):
    """A log in memory."""

    def __init__(self, documents, store=None):
        memory = MemoryObjectStore()
        for key, document in documents.items():
            is_raw = isinstance(document, bytes)
            memory.objects[key] = document if is_raw else json.dumps(document, indent=2).encode()
        super().__init__(memory if store is None else store(memory))
        self.objects = memory.objects


def texts(snapshot):
    return [block["text"] for message in snapshot.data["messages"] for block in message["content"]]


async def latest_of(documents, location=LOCATION):
    async with Log(documents) as log, MemoryStorage() as target:
        report = await import_message_log(log, target).run()
        assert report.ok
        return await target.load_snapshot(location=location)


async def test_an_agent_becomes_latest_and_history():
    async with Log(log_of()) as log, MemoryStorage(prefix="session") as target:
        report = await import_message_log(log, target).run()
        assert (report.sessions, report.copied, report.ok) == (1, 2, True)
        [snapshot_id] = await target.list_snapshot_ids(location=LOCATION)
        latest = await target.load_snapshot(location=LOCATION)
        assert await target.load_snapshot(location=LOCATION, snapshot_id=snapshot_id) == latest
        assert snapshot_time(snapshot_id).isoformat() == "2026-11-22T11:13:11.123000+00:00"
        stored = await target.objects.get(target.layout.latest(LOCATION), max_bytes=10_000)
        assert stored.metadata == {"snapstore-snapshot": snapshot_id}
    assert texts(latest) == [f"text {number}" for number in range(12)]  # 2 before 10
    assert latest.dialect == "python"
    assert latest.created_at == "2026-11-22T11:13:11.123456Z"
    del latest.data["messages"]
    assert latest.data == {
        "state": {"city": "Bern"},
        "conversation_manager_state": {"__name__": "x", "removed_message_count": 0},
        "interrupt_state": {"interrupts": {}},
        "model_state": {},
    }


async def test_repeated_it_changes_nothing_and_a_later_turn_is_a_conflict():
    async with Log(log_of()) as log, MemoryStorage() as target:
        await import_message_log(log, target).run()
        before = dict(target.objects.store.objects)
        again = await import_message_log(log, target).run()
        assert (again.copied, again.equal, again.ok) == (0, 2, True)
        assert target.objects.store.objects == before
        latest = await target.load_snapshot(location=LOCATION)
        latest.data["state"] = {"city": "Basel"}
        await target.checkpoint(location=LOCATION, snapshot=latest)
        again = await import_message_log(log, target).run()
        assert (again.conflicts, again.equal, again.ok) == (1, 1, False)
        assert (await target.load_snapshot(location=LOCATION)).data["state"] == {"city": "Basel"}
        again = await import_message_log(log, target, on_conflict="overwrite").run()
        assert (again.replaced, again.ok) == (1, True)


async def test_a_log_that_went_on_makes_another_entry_in_history():
    async with MemoryStorage() as target:
        for records in (3, 5):
            async with Log(log_of(records=records)) as log:
                await import_message_log(log, target, on_conflict="overwrite").run()
        assert len(await target.list_snapshot_ids(location=LOCATION)) == 2
        assert len(texts(await target.load_snapshot(location=LOCATION))) == 5


async def test_what_the_conversation_manager_removed_stays_away():
    state = {"removed_message_count": 10}
    latest = await latest_of(log_of(agent=agent_document(conversation_manager_state=state)))
    assert texts(latest) == ["text 10", "text 11"]


async def test_a_summary_stands_before_the_rest():
    summary = {"role": "user", "content": [{"text": "so far"}]}
    state = {"removed_message_count": 10, "summary_message": summary}
    latest = await latest_of(log_of(agent=agent_document(conversation_manager_state=state)))
    assert texts(latest) == ["so far", "text 10", "text 11"]


async def test_what_was_redacted_is_imported_redacted():
    documents = log_of(records=2)
    key = "session_s-1/agents/agent_weather/messages/message_1.json"
    documents[key] = record(1, redact_message={"role": "user", "content": [{"text": "gone"}]})
    async with Log(documents) as log, MemoryStorage() as target:
        await import_message_log(log, target).run()
        assert texts(await target.load_snapshot(location=LOCATION)) == ["text 0", "gone"]
        assert b"text 1" not in b"".join(target.objects.store.objects.values())


async def test_an_agent_whose_model_keeps_the_conversation_gets_no_messages():
    internal = {"model_state": {"response_id": "r-1"}}
    latest = await latest_of(log_of(agent=agent_document(_internal_state=internal)))
    assert latest.data["messages"] == []
    assert "interrupt_state" not in latest.data


async def test_an_older_agent_without_internal_state_is_imported_without():
    document = agent_document()
    del document["_internal_state"]
    latest = await latest_of(log_of(agent=document))
    assert latest.data.keys() == {"messages", "state", "conversation_manager_state"}


async def test_an_orchestrator_becomes_latest_alone():
    state = {"type": "graph", "id": "team", "status": "completed"}
    location = SnapshotLocation.multi_agent("s-1", "team")
    latest = await latest_of(log_of() | {TEAM: state}, location)
    assert latest.scope == "multiAgent"
    assert latest.data == {"orchestrator_id": "team", "state": state}
    assert latest.created_at == "2026-11-22T11:13:00.123456Z"


async def test_the_prefix_and_the_sessions_are_chosen():
    documents = {}
    for session_id in ("s-1", "s-2", "s-3"):
        documents |= log_of(prefix="a/b/", session_id=session_id)
    async with Log(documents) as log, MemoryStorage() as target:
        assert (await import_message_log(log, target).run()).sessions == 0
        await import_message_log(log, target, prefix="/a/b/", sessions=["s-2"]).run()
        assert [one async for one in target.iter_sessions()] == ["s-2"]
        await import_message_log(log, target, prefix="a/b").run()
        assert [one async for one in target.iter_sessions()] == ["s-1", "s-2", "s-3"]


class OnlyKeys(MemoryObjectStore):
    def capability(self, kind):
        return None


@pytest.mark.parametrize("kind", ["six methods", "files"])
async def test_any_store_has_a_log(kind, tmp_path):
    store = FileObjectStore(tmp_path) if kind == "files" else OnlyKeys()
    async with ManagedStore(store) as log, FileStorage(tmp_path / "target") as target:
        for key, document in log_of().items():
            await log.put(key, json.dumps(document).encode())
        report = await import_message_log(log, target).run()
        assert (report.sessions, report.copied) == (1, 2)


async def test_a_dry_run_changes_nothing():
    async with Log(log_of()) as log, MemoryStorage() as target:
        operation = import_message_log(log, target, dry_run=True)
        events = await collected(operation)
        assert [event.result for event in events] == ["planned", "planned"]
        assert events[1].key == target.layout.latest(LOCATION)
        assert target.objects.store.objects == {}


BAD = {
    "no JSON": b"{",
    "no object": [],
    "NaN": b'{"agent_id":"weather","state":{"a":NaN}}',
    "another agent": agent_document(agent_id="travel"),
    "no state": agent_document(state=None),
    "no manager": agent_document(conversation_manager_state=[]),
    "no count": agent_document(conversation_manager_state={"removed_message_count": "1"}),
    "a negative count": agent_document(conversation_manager_state={"removed_message_count": -1}),
    "no time": agent_document(updated_at="yesterday"),
    "a naive time": agent_document(created_at="2026-11-22T11:13:00", updated_at="2026-11-22"),
    "a time before 1970": agent_document(
        created_at="1960-01-01T00:00:00+00:00", updated_at="1960-01-01T00:00:00+00:00"
    ),
    "no internal state": agent_document(_internal_state=None),
    "no model state": agent_document(_internal_state={"model_state": 5}),
}


@pytest.mark.parametrize("name", BAD)
async def test_what_is_not_as_the_sdk_writes_it_fails_alone(name):
    documents = log_of() | log_of(session_id="s-2")
    documents[AGENT] = BAD[name]
    if name == "a time before 1970":
        documents = {
            key: one for key, one in documents.items() if "s-1/agents/agent_weather/m" not in key
        }
    async with Log(documents) as log, MemoryStorage() as target:
        operation = import_message_log(log, target)
        events = await collected(operation)
        [failed] = [event for event in events if event.result == "failed"]
        assert (failed.key, failed.code) == (AGENT, "InvalidDocument")
        assert (operation.report.failed, operation.report.copied) == (1, 2)
        assert [one async for one in target.iter_sessions()] == ["s-2"]


async def test_a_message_that_is_none_fails_its_agent():
    for bad in (b"", {}, record(1, message="text"), record(1, created_at=None)):
        documents = log_of()
        documents["session_s-1/agents/agent_weather/messages/message_1.json"] = bad
        async with Log(documents) as log, MemoryStorage() as target:
            [event] = await collected(import_message_log(log, target))
            assert (event.key, event.code) == (AGENT, "InvalidDocument")
            assert target.objects.store.objects == {}


async def test_a_message_that_is_deleted_meanwhile_fails_its_agent():
    async with Log(log_of(), FaultyObjectStore) as log, MemoryStorage() as target:

        async def delete(call):
            if call.operation == "get" and call.keys == (AGENT,):
                for number in (3, 4):
                    del log.objects[
                        f"session_s-1/agents/agent_weather/messages/message_{number}.json"
                    ]

        log.store.fault = delete
        [event] = await collected(import_message_log(log, target))
        assert (event.key, event.code) == (AGENT, "InvalidDocument")


async def test_ids_that_are_none_here_are_events_and_others_are_imported():
    documents = log_of() | log_of(session_id="User 1@example.com")
    documents["session_s-1/agents/agent_No.1/agent.json"] = agent_document(agent_id="No.1")
    documents["session_s-1/multi_agents/multi_agent_T/multi_agent.json"] = {}
    async with Log(documents) as log, MemoryStorage() as target:
        events = await collected(import_message_log(log, target))
        failed = {event.key: event.code for event in events if event.result == "failed"}
        assert failed == {
            "session_User 1@example.com/session.json": "InvalidIdentifier",
            "session_s-1/agents/agent_No.1/agent.json": "InvalidIdentifier",
            "session_s-1/multi_agents/multi_agent_T/multi_agent.json": "InvalidIdentifier",
        }
        assert [one async for one in target.iter_sessions()] == ["s-1"]


async def test_a_conversation_that_is_too_large_fails_alone():
    async with Log(log_of(records=40)) as log, MemoryStorage(max_snapshot_bytes=1_000) as target:
        events = await collected(import_message_log(log, target))
        assert [(event.result, event.code) for event in events] == [("failed", "TooLarge")] * 2
        assert target.objects.store.objects == {}


async def test_a_session_that_is_not_in_the_log_is_an_event():
    async with Log(log_of()) as log, MemoryStorage() as target:
        events = await collected(import_message_log(log, target, sessions=["s-9"]))
        assert [(event.key, event.result) for event in events] == [
            ("session_s-9/session.json", "missing")
        ]


async def test_killed_at_every_call_and_run_again_it_ends_the_same():
    async with Log(log_of()) as log, MemoryStorage() as target:
        await import_message_log(log, target).run()
        expected = target.objects.store.objects
    step = 0
    while True:
        store = FaultyObjectStore(MemoryObjectStore())
        async with Log(log_of()) as log, ObjectSnapshotStorage(store) as target:

            async def fail(call, store=store, step=step):
                return StoreFault(applied=True) if len(store.calls) > step else None

            store.fault = fail
            try:
                await import_message_log(log, target).run()
            except StorageUnavailableError:
                pass
            else:
                break
            store.fault = nothing
            assert (await import_message_log(log, target).run()).ok
            assert store.inner.objects == expected
        step += 1
    assert step > 2


async def nothing(call):
    return None


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"sessions": "s-1"}, TypeError),
        ({"sessions": ["S 1"]}, InvalidIdentifierError),
        ({"on_conflict": "no"}, ValueError),
        ({"max_requests_per_second": -1}, ValueError),
    ],
)
async def test_bad_arguments_are_errors_at_once(arguments, error):
    async with Log({}) as log, MemoryStorage() as target:
        with pytest.raises(error):
            import_message_log(log, target, **arguments)
        with pytest.raises(TypeError, match="ManagedStore"):
            import_message_log(target, target)
