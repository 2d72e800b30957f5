"""Agents of the Strands SDK for Python resume from what snapstore wrote, and it reads theirs.

Agents are made, saved and restored; no model is asked.
"""

import msgspec
import pytest
from strands import Agent
from strands.session import SnapshotSessionManager
from strands.storage import LocalFileStorage
from strands.storage import S3Storage as TheirS3Storage

from snapstore import FileStorage, S3Storage, Snapshot, SnapshotLocation

LOCATION = SnapshotLocation.agent("session-1", "weather")
CREATED_AT = "2026-11-22T11:13:20.403511Z"
MESSAGES = [
    {"role": "user", "content": [{"text": "Is it raining in Zürich? 🌧️"}]},
    {
        "role": "assistant",
        "content": [
            {"toolUse": {"toolUseId": "t-1", "name": "weather", "input": {"in": "Zürich"}}}
        ],
    },
    {
        "role": "user",
        "content": [
            {
                "toolResult": {
                    "toolUseId": "t-1",
                    "status": "success",
                    "content": [{"json": {"rain": True, "mm": 3.5, "until": None}}],
                }
            },
            {"image": {"format": "png", "source": {"bytes": b"\x89PNG\x00\xff"}}},
        ],
    },
]
STATE = {"turns": 1, "units": ["mm", "°C"]}


@pytest.fixture(params=["S3Storage", "FileStorage"])
async def sides(request, tmp_path, monkeypatch):
    """A storage of each side, on the same objects."""
    monkeypatch.setenv("AWS_REGION", "us-east-1")  # Agents prepare a client for their model.
    if request.param == "FileStorage":
        async with FileStorage(tmp_path / "session") as ours:
            yield ours, LocalFileStorage(str(tmp_path))
        return
    server = request.getfixturevalue("s3_server")
    bucket, prefix = request.getfixturevalue("bucket"), request.getfixturevalue("prefix")
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    theirs = TheirS3Storage(bucket, prefix=prefix)
    async with S3Storage(bucket, prefix=f"{prefix}/session") as ours:
        yield ours, theirs
    if theirs._client is not None:  # noqa: SLF001 -- it has no way to close it
        theirs._client.close()  # noqa: SLF001


def agent_on(storage, **options):
    """An agent with a session in this storage: it restores what is there."""
    manager = SnapshotSessionManager("session-1", storage=storage)
    return manager, Agent(
        agent_id="weather", session_manager=manager, callback_handler=None, **options
    )


async def test_we_load_what_their_agent_saved(sides):
    ours, theirs = sides
    manager, agent = agent_on(theirs, messages=MESSAGES, state=STATE, system_prompt="Be brief.")
    await manager.save_snapshot(agent, is_latest=True)
    snapshot_id = await manager.save_snapshot(agent, is_latest=False)

    latest = await ours.load_snapshot(location=LOCATION)

    assert (latest.dialect, latest.scope, latest.schema_version) == ("python", "agent", "1.0")
    assert latest.data["state"] == STATE
    texts = [message["content"][0].get("text") for message in latest.data["messages"]]
    assert texts == ["Is it raining in Zürich? 🌧️", None, None]
    assert await ours.list_snapshot_ids(location=LOCATION) == [snapshot_id]
    in_history = await ours.load_snapshot(location=LOCATION, snapshot_id=snapshot_id)
    assert in_history.data == latest.data


async def test_their_agent_resumes_from_what_we_saved(sides):
    ours, theirs = sides
    data = {
        "messages": MESSAGES[:2],
        "state": STATE,
        "system_prompt": "Be brief.",
        "model_state": {},
        "interrupt_state": {"interrupts": {}, "context": {}, "activated": False},
        "conversation_manager_state": {
            "__name__": "SlidingWindowConversationManager",
            "removed_message_count": 0,
        },
    }
    snapshot = Snapshot("agent", "1.0", CREATED_AT, data, {"tenant": "acme"}, "python")
    saved = await ours.checkpoint(location=LOCATION, snapshot=snapshot)

    manager, agent = agent_on(theirs)

    assert agent.messages == MESSAGES[:2]
    assert agent.state.get() == STATE
    assert agent.system_prompt == "Be brief."
    assert await manager.list_snapshot_ids(agent) == [saved.snapshot_id]
    agent.messages.clear()
    assert await manager.restore_snapshot(agent, snapshot_id=saved.snapshot_id)
    assert agent.messages == MESSAGES[:2]


async def test_python_agent_reloads_what_snapstore_changed(sides):
    ours, theirs = sides
    manager, agent = agent_on(theirs, messages=MESSAGES, state=STATE)
    await manager.save_snapshot(agent, is_latest=True)
    before = (await ours.load_snapshot(location=LOCATION)).data

    def count(snapshot):
        data = snapshot.data | {"state": snapshot.data["state"] | {"turns": 2}}
        return msgspec.structs.replace(snapshot, data=data)

    await ours.update_latest(location=LOCATION, update=count)

    _, resumed = agent_on(theirs)
    assert resumed.messages == agent.messages
    assert resumed.messages[2]["content"][1]["image"]["source"]["bytes"] == b"\x89PNG\x00\xff"
    assert resumed.state.get() == STATE | {"turns": 2}
    after = (await ours.load_snapshot(location=LOCATION)).data
    assert after == before | {"state": STATE | {"turns": 2}}


async def test_each_deletes_what_the_other_wrote(sides):
    ours, theirs = sides
    manager, agent = agent_on(theirs, messages=MESSAGES)
    await manager.save_snapshot(agent, is_latest=True)
    await manager.save_snapshot(agent, is_latest=False)
    snapshot = await ours.load_snapshot(location=LOCATION)

    assert (await ours.delete_session(session_id="session-1")).objects == 2
    assert await theirs.list("session/session-1/") == []

    await ours.checkpoint(location=LOCATION, snapshot=snapshot)
    await manager.delete_session()
    assert await ours.load_snapshot(location=LOCATION) is None
    assert await ours.list_snapshot_ids(location=LOCATION) == []
