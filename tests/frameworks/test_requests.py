"""The requests of a turn and of a resume, as the page that compares the adapters says them.

Each adapter is used by its framework, on a real S3 server behind a proxy that counts.
"""

import asyncio
import itertools
import re
import threading
from concurrent.futures import Future
from pathlib import Path
from typing import Annotated, TypedDict

import pytest
import strands
from agents import Agent, ModelResponse, Runner, Usage, set_tracing_disabled
from agents.models.interface import Model
from claude_agent_sdk import ClaudeAgentOptions, ClaudeSDKClient, ResultMessage
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages
from openai.types.responses import ResponseOutputMessage, ResponseOutputText
from pydantic_ai import Agent as PydanticAgent
from pydantic_ai.conversation import Conversation
from pydantic_ai.models.test import TestModel
from strands.models import Model as StrandsModel

from claude_model import running_model
from snapstore import S3Storage, SnapshotLocation
from snapstore.integrations.claude import SnapstoreSessionStore
from snapstore.integrations.langgraph import SnapstoreSaver
from snapstore.integrations.openai_agents import SnapstoreSession
from snapstore.integrations.pydantic_ai import SnapstoreConversationStore
from snapstore.integrations.strands import SnapstoreSessionManager, StrandsStorage
from snapstore.stores import S3ObjectStore
from snapstore.testing.proxy import recording_proxy

pytestmark = pytest.mark.s3

set_tracing_disabled(True)
TestModel.__test__ = False

PAGE = Path(__file__).parents[2] / "docs" / "integrations" / "index.md"
TURNS = 3


def figures_of(row, column):
    """The figures in a cell of the table, in their order."""
    lines = [line.split("|")[1:-1] for line in PAGE.read_text().splitlines() if line[:1] == "|"]
    names = [re.sub(r"\[(.*)\].*", r"\1", cell.strip()) for cell in lines[0]]
    [cells] = [cells for cells in lines if cells[0].strip() == f"**{row}**"]
    return [int(figure) for figure in re.findall(r"\d+", cells[names.index(column)])]


@pytest.fixture
def proxy(s3_server):
    """A proxy before the server, in a thread: agents block the loop that they are made on."""
    started = Future()

    async def serve():
        async with recording_proxy(s3_server.endpoint_url) as proxy:
            end = asyncio.Event()
            started.set_result((proxy, asyncio.get_running_loop(), end))
            await end.wait()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    proxy, loop, end = started.result(10)
    yield proxy
    loop.call_soon_threadsafe(end.set)
    thread.join(10)


@pytest.fixture
def make_store(proxy, s3_server, bucket):
    options = s3_server.storage_options | {"endpoint_url": proxy.endpoint_url}
    return lambda: S3ObjectStore(bucket, **options)


@pytest.fixture
def count(proxy):
    """How many requests there were since the last call."""

    def count():
        requests = len(proxy.requests)
        proxy.requests.clear()
        return requests

    return count


class Echo(StrandsModel):
    def get_config(self):
        return {}

    def update_config(self, **config):
        """There is nothing to be changed."""

    def structured_output(self, *args, **kwargs):
        raise NotImplementedError

    async def stream(self, messages, *args, **kwargs):
        yield {"messageStart": {"role": "assistant"}}
        yield {"contentBlockDelta": {"delta": {"text": "Yes."}}}
        yield {"contentBlockStop": {}}
        yield {"messageStop": {"stopReason": "end_turn"}}


async def test_strands(make_store, bucket, prefix, s3_server, count):
    async def talk(session_id, trigger):
        with StrandsStorage.over(make_store(), prefix=prefix) as storage:
            agent = await asyncio.to_thread(make_agent, storage, session_id, trigger)
            for _ in range(TURNS):
                count()
                await agent.invoke_async("Is it raining?")
        return count()

    def make_agent(storage, session_id, trigger=None):
        manager = SnapstoreSessionManager(session_id, storage=storage, snapshot_trigger=trigger)
        return strands.Agent(model=Echo(), session_manager=manager, callback_handler=None)

    turns = [await talk("s-1", None), await talk("s-2", lambda *args, **kwargs: True)]
    with StrandsStorage.over(make_store(), prefix=prefix) as storage:
        agent = await asyncio.to_thread(make_agent, storage, "s-1")
        assert len(agent.messages) == 2 * TURNS
        resume = [count()]

    assert turns == figures_of("Requests for a turn", "Strands")
    assert resume == figures_of("Requests for a resume", "Strands")
    # The operations on sessions work on what it has saved.
    async with S3Storage(
        bucket, prefix=f"{prefix}/session", **s3_server.storage_options
    ) as sessions:
        location = SnapshotLocation.agent("s-2", agent.agent_id)
        assert len(await sessions.list_snapshot_ids(location=location)) == TURNS


class State(TypedDict):
    messages: Annotated[list, add_messages]


async def test_langgraph(make_store, prefix, count):
    builder = StateGraph(State)
    builder.add_node("answer", lambda _: {"messages": [("assistant", "Yes.")]})
    builder.add_edge(START, "answer")
    builder.add_edge("answer", END)
    turns, resumes = [], {}
    for durability, on_conflict in (("async", "append"), ("exit", "append"), ("async", "raise")):
        options = {"on_conflict": on_conflict} if on_conflict == "raise" else {}
        config = {"configurable": {"thread_id": f"{durability} {on_conflict}"}}
        async with SnapstoreSaver(make_store(), prefix=prefix, **options) as saver:
            graph = builder.compile(checkpointer=saver)
            for _ in range(TURNS):
                count()
                given = {"messages": [("user", "Is it raining?")]}
                await graph.ainvoke(given, config, durability=durability)
        turns.append(count())
        async with SnapstoreSaver(make_store(), prefix=prefix, **options) as saver:
            state = await builder.compile(checkpointer=saver).aget_state(config)
            assert len(state.values["messages"]) == 2 * TURNS
        resumes[on_conflict] = count()

    assert turns == figures_of("Requests for a turn", "LangGraph")
    assert [*resumes.values()] == figures_of("Requests for a resume", "LangGraph")


async def test_claude(make_store, prefix, tmp_path, count):
    machines = (tmp_path / f"machine-{number}" for number in itertools.count())
    (tmp_path / "project").mkdir()

    async def answers(client):
        await client.query("Is it raining?")
        messages = [message async for message in client.receive_response()]
        return next(message for message in messages if isinstance(message, ResultMessage))

    with running_model(tmp_path) as environment:

        def options_of(store, **options):
            return ClaudeAgentOptions(
                session_store=store,
                cwd=tmp_path / "project",
                env={**environment, "CLAUDE_CONFIG_DIR": str(next(machines))},
                **options,
            )

        turns = []
        async with SnapstoreSessionStore(make_store(), prefix=prefix) as store:
            async with ClaudeSDKClient(options_of(store)) as client:
                for _ in range(TURNS):
                    result = await answers(client)
                    turns.append(count())
            assert count() == 0
        async with (
            SnapstoreSessionStore(make_store(), prefix=prefix) as store,
            ClaudeSDKClient(options_of(store, resume=result.session_id)) as client,
        ):
            resume = [count()]
            # The model tells how many messages it was given: a question and an answer more.
            more = figure_in((await answers(client)).result) - figure_in(result.result)
            assert more == 2

    assert [turns[-1], turns[0]] == figures_of("Requests for a turn", "Claude Agent SDK")
    assert resume == figures_of("Requests for a resume", "Claude Agent SDK")


def figure_in(text):
    return int(text.partition(" ")[0])


class Parrot(Model):
    async def get_response(self, *args, **kwargs):
        text = ResponseOutputText(text="Yes.", type="output_text", annotations=[])
        message = ResponseOutputMessage(
            id="1", content=[text], role="assistant", status="completed", type="message"
        )
        return ModelResponse(output=[message], usage=Usage(), response_id=None)

    def stream_response(self, *args, **kwargs):
        raise NotImplementedError


async def test_openai_agents(make_store, prefix, count):
    agent = Agent("weather", model=Parrot())
    async with SnapstoreSession("user-1", make_store(), prefix=prefix) as session:
        for _ in range(TURNS):
            count()
            await Runner.run(agent, "Is it raining?", session=session)
    turn = [count()]
    async with SnapstoreSession("user-1", make_store(), prefix=prefix) as session:
        assert len(await session.get_items()) == 2 * TURNS

    assert turn == figures_of("Requests for a turn", "OpenAI Agents")
    assert [count()] == figures_of("Requests for a resume", "OpenAI Agents")


async def test_pydantic_ai(make_store, prefix, count):
    agent = PydanticAgent(TestModel(custom_output_text="Yes."))
    async with SnapstoreConversationStore(make_store(), prefix=prefix) as store:
        for _ in range(TURNS):
            conversation = await store.load("chat-1") or Conversation(conversation_id="chat-1")
            result = await agent.run("Is it raining?", conversation=conversation)
            count()
            await store.save(result, scope="user-1")
    turn = [count()]
    async with SnapstoreConversationStore(make_store(), prefix=prefix) as store:
        assert len((await store.load("chat-1")).messages) == 2 * TURNS

    assert turn == figures_of("Requests for a turn", "Pydantic AI")
    assert [count()] == figures_of("Requests for a resume", "Pydantic AI")
