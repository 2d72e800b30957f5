"""What the SDK's older managers have written is restored by its newer one, after an import."""

import asyncio

import boto3
import pytest
from strands import Agent
from strands.agent.conversation_manager import (
    SlidingWindowConversationManager,
    SummarizingConversationManager,
)
from strands.multiagent import GraphBuilder, Swarm
from strands.session import FileSessionManager, S3SessionManager, SnapshotSessionManager
from strands.storage import LocalFileStorage

from snapstore import FileStorage, S3Storage, SnapshotLocation
from snapstore.integrations.strands import convert_snapshot
from snapstore.operations import import_message_log
from snapstore.stores import FileObjectStore, ManagedStore

LOCATION = SnapshotLocation.agent("session-1", "echo")


@pytest.fixture(params=["files", "s3"])
def log(request, tmp_path):
    """The older managers of a place, and the place as a store: `manager`, `opened`."""
    if request.param == "files":
        directory = tmp_path / "log"
        return Log(
            lambda: FileSessionManager("session-1", storage_dir=str(directory)),
            lambda: ManagedStore(FileObjectStore(directory)),
            "",
        )
    server, bucket = (request.getfixturevalue(name) for name in ("s3_server", "bucket"))
    prefix = request.getfixturevalue("prefix")
    monkeypatch = request.getfixturevalue("monkeypatch")
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    return Log(
        lambda: S3SessionManager(
            "session-1",
            bucket=bucket,
            prefix=prefix,
            boto_session=boto3.Session(),
            endpoint_url=server.endpoint_url,
        ),
        lambda: S3Storage(bucket, **server.storage_options),
        prefix,
    )


class Log:
    def __init__(self, manager, opened, prefix):
        self.manager = manager
        self._opened = opened
        self._prefix = prefix

    async def import_to(self, directory, **options):
        """Import it, so that the SDK's own storage in this directory finds it."""
        async with self._opened() as opened, FileStorage(directory, prefix="session") as target:
            source = getattr(opened, "objects", opened)
            report = await import_message_log(
                source, target, prefix=self._prefix, sessions=["session-1"], **options
            ).run()
            latest = await target.load_raw(location=LOCATION)
        return report, latest


def agent_of(manager, echo, **options):
    return Agent(
        agent_id="echo", model=echo(), session_manager=manager, callback_handler=None, **options
    )


def newer(directory):
    return SnapshotSessionManager("session-1", storage=LocalFileStorage(str(directory)))


CONVERSATIONS = {
    "all": lambda: None,
    "sliding": lambda: SlidingWindowConversationManager(window_size=4),
    "summarizing": lambda: SummarizingConversationManager(preserve_recent_messages=2),
}


@pytest.mark.parametrize("conversation", CONVERSATIONS)
async def test_an_agent_goes_on_where_the_log_ends(log, conversation, echo, tmp_path):
    def options():
        return {"conversation_manager": CONVERSATIONS[conversation]()}

    agent = agent_of(log.manager(), echo, **options())
    agent.state.set("city", "Bern")
    for turn in range(4):
        await agent.invoke_async(f"turn {turn} \N{SNOWMAN}")
    if conversation == "summarizing":
        await asyncio.to_thread(agent.conversation_manager.reduce_context, agent)
        await agent.invoke_async("after the summary")
    older = agent_of(log.manager(), echo, **options())

    report, _ = await log.import_to(tmp_path / "new")
    restored = agent_of(newer(tmp_path / "new"), echo, **options())

    assert (report.copied, report.ok) == (2, True)
    assert restored.messages == older.messages
    assert len(restored.messages) > 2
    if conversation != "all":
        assert older.conversation_manager.removed_message_count > 0
    assert restored.state.get() == {"city": "Bern"}
    assert restored.conversation_manager.get_state() == older.conversation_manager.get_state()
    await restored.invoke_async("next")
    again = agent_of(newer(tmp_path / "new"), echo, **options())
    assert again.messages == restored.messages
    report, _ = await log.import_to(tmp_path / "new")
    assert (report.conflicts, report.equal) == (1, 1)


async def test_bytes_and_redactions_are_restored(log, echo, tmp_path):
    agent = agent_of(log.manager(), echo)
    image = {"image": {"format": "png", "source": {"bytes": b"\x89PNG\xff"}}}
    await agent.invoke_async([image, {"text": "what is it?"}])
    await agent.invoke_async("secret")
    manager = agent._session_manager  # noqa: SLF001 -- it is nowhere else
    manager.redact_latest_message({"role": "assistant", "content": [{"text": "gone"}]}, agent)
    older = agent_of(log.manager(), echo)

    _, latest = await log.import_to(tmp_path / "new")
    restored = agent_of(newer(tmp_path / "new"), echo)

    assert restored.messages == older.messages
    assert restored.messages[0]["content"][0] == image
    assert restored.messages[-1]["content"] == [{"text": "gone"}]
    converted = convert_snapshot(latest.document, to="typescript")
    assert b'"schemaVersion"' in converted
    assert convert_snapshot(converted, to="python") != converted


async def test_a_graph_goes_on_where_it_failed(log, echo, tmp_path):
    class Failing(echo):
        async def stream(self, *args, **kwargs):
            raise RuntimeError("the model is away")
            yield

    def team(manager, first, second):
        builder = GraphBuilder()
        for name, model in (("one", first), ("two", second)):
            builder.add_node(Agent(name=name, model=model, callback_handler=None), name)
        builder.add_edge("one", "two")
        builder.set_graph_id("team")
        builder.set_execution_timeout(600)
        builder.set_session_manager(manager)
        return builder.build()

    with pytest.raises(RuntimeError, match="away"):
        await team(log.manager(), echo(), Failing()).invoke_async("go")
    report, _ = await log.import_to(tmp_path / "new")
    assert (report.copied, report.ok) == (1, True)

    # The first node has run, and must not run again.
    older = await team(log.manager(), Failing(), echo()).invoke_async("go")
    newer_one = await team(newer(tmp_path / "new"), Failing(), echo()).invoke_async("go")

    ran = [[node.node_id for node in result.execution_order] for result in (older, newer_one)]
    assert ran[0] == ran[1] == ["one", "two"]
    said = [result.results["one"].result.message for result in (older, newer_one)]
    assert said[0]["content"] == said[1]["content"] == [{"text": "1: go"}]


async def test_a_swarm_is_imported(log, echo, tmp_path):
    def team(manager):
        node = Agent(name="node", model=echo(), callback_handler=None)
        return Swarm([node], id="team", session_manager=manager)

    await team(log.manager()).invoke_async("go")
    report, _ = await log.import_to(tmp_path / "new")
    assert (report.copied, report.ok) == (1, True)
    result = await team(newer(tmp_path / "new")).invoke_async("again")
    assert [node.node_id for node in result.node_history] == ["node"]
