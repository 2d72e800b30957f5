"""Agents of the SDK for Python whose model repeats what it is told, and storages for them."""

import asyncio
import gc
import json
import threading
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
from strands import Agent
from strands.models import Model
from strands.multiagent import GraphBuilder, Swarm

from snapstore.integrations.strands import SnapstoreSessionManager, StrandsStorage
from snapstore.stores import FileObjectStore, MemoryObjectStore
from snapstore.testing.proxy import recording_proxy

STORES = ["s3", "files", "memory"]
FOR_S3_ALONE = {"make_storage", "options", "proxy", "s3_client", "s3_server"}


def pytest_generate_tests(metafunc):
    """Run each test of a storage on each store, unless it asks for what only S3 has."""
    if "storage" in metafunc.fixturenames:
        is_for_s3 = not FOR_S3_ALONE.isdisjoint(metafunc.fixturenames)
        metafunc.parametrize("storage", ["s3"] if is_for_s3 else STORES, indirect=True)


class Echo(Model):
    """Answers with how many messages it was given and the last text of them; `look` is a tool."""

    def get_config(self):
        return {"context_window_limit": 100_000}

    def update_config(self, **config):
        """There is nothing to be changed."""

    def structured_output(self, *args, **kwargs):
        raise NotImplementedError

    async def stream(self, messages, tool_specs=None, system_prompt=None, **kwargs):
        yield {"messageStart": {"role": "assistant"}}
        text = messages[-1]["content"][-1].get("text", "seen")
        start = {"toolUse": {"name": "look", "toolUseId": "t-0"}} if text == "look" else {}
        delta = {"toolUse": {"input": "{}"}} if start else {"text": f"{len(messages)}: {text}"}
        yield {"contentBlockStart": {"start": start}}
        yield {"contentBlockDelta": {"delta": delta}}
        yield {"contentBlockStop": {}}
        yield {"messageStop": {"stopReason": "tool_use" if start else "end_turn"}}


def texts_in(messages):
    return [block["text"] for message in messages for block in message["content"]]


def texts_of(agent):
    return texts_in(agent.messages)


@pytest.fixture
def texts():
    """All that was said, in order."""
    return texts_of


@pytest.fixture
def options(s3_server, bucket, prefix, aws_session, monkeypatch):
    """What a storage of this test is made with."""
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    return {
        "bucket": bucket,
        "prefix": prefix,
        "endpoint_url": s3_server.endpoint_url,
        "session": aws_session,
    }


@pytest.fixture
def make_storage(options):
    """Storages of this test, closed at its end."""
    made = []

    def make(**changes):
        made.append(StrandsStorage(**options | changes))
        return made[-1]

    yield make
    for storage in made:
        storage.close()


@pytest.fixture
def storage(request, tmp_path):
    if request.param == "s3":
        yield request.getfixturevalue("make_storage")()
        return
    files = request.param == "files"
    store = FileObjectStore(tmp_path / "objects") if files else MemoryObjectStore()
    with StrandsStorage.over(store, prefix="agents") as storage:
        yield storage


@pytest.fixture
def proxy(s3_server):
    """A proxy before the server, in a thread: agents block the loop that they are made on."""
    started = Future()

    async def serve():
        async with recording_proxy(s3_server.endpoint_url) as proxy:
            end = asyncio.Event()
            started.set_result((proxy, asyncio.get_running_loop(), end))
            await end.wait()

    with ThreadPoolExecutor(1) as executor:
        serving = executor.submit(asyncio.run, serve())
        proxy, loop, end = started.result(10)
        yield proxy
        loop.call_soon_threadsafe(end.set)
        serving.result(10)


@pytest.fixture
def make_agent(storage):
    """Agents whose model repeats what it is told."""

    def make(session="session-1", agent_id="echo", manager=None, on=storage, **options):
        manager = manager or SnapstoreSessionManager(session, storage=on, **options)
        return Agent(
            agent_id=agent_id, model=Echo(), session_manager=manager, callback_handler=None
        )

    return make


@pytest.fixture
def echo():
    return Echo


def graph_of(manager):
    agents = [Agent(agent_id=name, model=Echo(), callback_handler=None) for name in "ab"]
    builder = GraphBuilder().set_graph_id("work").set_session_manager(manager)
    builder.set_max_node_executions(10)
    for agent in agents:
        builder.add_node(agent, agent.agent_id)
    builder.add_edge("a", "b")
    return builder.set_entry_point("a").build()


def swarm_of(manager):
    agent = Agent(agent_id="a", model=Echo(), callback_handler=None)
    return Swarm([agent], id="work", session_manager=manager)


@pytest.fixture(params=["graph", "swarm"])
def make_orchestrator(request):
    """A function that makes graphs of two agents, or swarms of one, for a session manager."""
    return {"graph": graph_of, "swarm": swarm_of}[request.param]


def manager_in(agent):
    return agent._session_manager  # noqa: SLF001 -- it is nowhere else


@pytest.fixture
def manager_of():
    """The session manager of an agent."""
    return manager_in


@pytest.fixture
def state_in():
    """What was said, according to a stored snapshot."""

    async def read(storage, key):
        document = await storage.read(key)
        return None if document is None else texts_in(json.loads(document)["data"]["messages"])

    return read


def threads():
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("snapstore-")]


@pytest.fixture
def no_threads():
    """A function that tells which threads of storages there are."""
    gc.collect()
    return threads
