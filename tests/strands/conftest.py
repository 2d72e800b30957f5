"""Agents of both SDKs in one session: what each is told to do, and what came of it.

Both sides take the same description of a run, and make their agents anew for each, as after a
restart. The models are scripts: for each call of one, the content of its answer. An agent may go
back to a snapshot in history (`restore`, its place), be asked (`input`), and save (`save`, `latest`
or `history`).
"""

import copy
import json
import os
import select
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from strands import Agent, tool
from strands.hooks import BeforeToolCallEvent
from strands.models import Model
from strands.multiagent import GraphBuilder, Swarm

from snapstore.integrations.strands import SnapstoreSessionManager, StrandsStorage

ANSWER_WITHIN = 120.0  # seconds


@dataclass
class Outcome:
    """What came of a run, in the shapes of the SDK that ran it."""

    status: str | None = None
    text: str | None = None
    interrupts: list[dict[str, Any]] | None = None
    messages: list[dict[str, Any]] | None = None
    state: dict[str, Any] | None = None
    system_prompt: Any = None
    model_state: dict[str, Any] | None = None
    interrupt_state: dict[str, Any] | None = None
    history: list[str] | None = None
    """The ids that were in history when the run began."""
    warnings: list[str] | None = None
    """What the SDK has warned of when it restored and saved."""
    asked: dict[str, list[Any]] = field(default_factory=dict)
    """For each agent, what its model was given, call by call."""


def ask(node, **run):
    """Have the SDK for TypeScript run something; an exception there is a `RuntimeError` here."""
    node.stdin.write(json.dumps(run) + "\n")
    node.stdin.flush()
    answers, _, _ = select.select([node.stdout], [], [], ANSWER_WITHIN)
    assert answers, "the other SDK does not answer"
    line = node.stdout.readline()
    assert line, "the other SDK has ended; its last words are on stderr"
    answer = json.loads(line)
    if "error" in answer:
        raise RuntimeError(answer["error"])
    return answer["result"]


@dataclass
class Session:
    """One session in S3, and the agents that have it."""

    bucket: str
    prefix: str
    node: subprocess.Popen[str]
    dialect: str = "typescript"
    """What agents in Python write; those in TypeScript read nothing else."""
    id: str = "session-1"

    async def typescript(self, kind="agent", **run):
        """Run agents of the SDK for TypeScript; an exception there is a `RuntimeError` here."""
        where = {"bucket": self.bucket, "prefix": self.prefix, "session": self.id}
        return Outcome(**ask(self.node, kind=kind, **where, **run))

    async def python(self, kind="agent", **run):
        """Run agents of the SDK for Python."""
        with StrandsStorage(self.bucket, prefix=self.prefix, dialect=self.dialect) as storage:
            manager = SnapstoreSessionManager(self.id, storage=storage)
            if kind == "agent":
                return await run_agent(manager, storage, **run)
            return await run_orchestrator(manager, kind, **run)


@dataclass
class Stored:
    """Latest snapshots as they are stored."""

    client: Any
    bucket: str
    prefix: str

    async def read(self, scope):
        """Read one, of `agent/weather` for example."""
        reply = await self.client.get_object(Bucket=self.bucket, Key=self._key(scope))
        async with reply["Body"] as body:
            return await body.read()

    async def write(self, scope, document):
        """Write one."""
        await self.client.put_object(Bucket=self.bucket, Key=self._key(scope), Body=document)

    def _key(self, scope):
        return f"{self.prefix}/{scope}/snapshots/snapshot_latest.json"


class ScriptedModel(Model):
    def __init__(self, script):
        self.script = list(script)
        self.asked = []

    def get_config(self):
        return {"context_window_limit": 100_000}

    def update_config(self, **config):
        """There is nothing to be changed."""

    def structured_output(self, *args, **kwargs):
        raise NotImplementedError

    async def stream(self, messages, tool_specs=None, system_prompt=None, **kwargs):
        self.asked.append({"messages": copy.deepcopy(messages), "systemPrompt": system_prompt})
        turn = self.script.pop(0)
        if "fails" in turn:
            raise RuntimeError(turn["fails"])
        if "responseId" in turn:
            kwargs["model_state"]["response_id"] = turn["responseId"]
        yield {"messageStart": {"role": "assistant"}}
        for block in turn["content"]:
            start = {}
            if "toolUse" in block:
                use = block["toolUse"]
                start = {"toolUse": {"name": use["name"], "toolUseId": use["toolUseId"]}}
                deltas = [{"toolUse": {"input": json.dumps(use["input"])}}]
            elif "reasoning" in block:
                deltas = [
                    {"reasoningContent": {name: value}}
                    for name, value in block["reasoning"].items()
                ]
            else:
                deltas = [{"text": block["text"]}]
            yield {"contentBlockStart": {"start": start}}
            for delta in deltas:
                yield {"contentBlockDelta": {"delta": delta}}
            yield {"contentBlockStop": {}}
        uses = any("toolUse" in block for block in turn["content"])
        yield {"messageStop": {"stopReason": "tool_use" if uses else "end_turn"}}


@tool
def weather():
    """Tell the weather."""
    content = [{"json": {"rain": True, "mm": 3.5, "until": None}}]
    return {"status": "success", "content": content}


@tool(context=True)
def book(tool_context):
    """Book a room when a person agrees."""
    return "booked for " + tool_context.interrupt("approve", reason={"price": 3})


@tool
def delete():
    """Delete all, when a hook lets it."""
    return "deleted"


def ask_before_delete(event: BeforeToolCallEvent):
    if event.tool_use["name"] == "delete" and event.interrupt("allow", "all of it") != "yes":
        event.cancel_tool = "not allowed"


def agent_of(options, session_manager=None, storage=None):
    stash = {}
    if "stash" in options:
        stash["context_manager"] = "auto"
    if options.get("stash") == "durable":
        stash["storage"] = storage
    agent = Agent(
        agent_id=options["id"],
        name=options["id"],
        model=ScriptedModel(options["script"]),
        tools=[weather, book, delete],
        system_prompt=options.get("systemPrompt"),
        state=options.get("state"),
        session_manager=session_manager,
        callback_handler=None,
        **stash,
    )
    agent.hooks.add_callback(BeforeToolCallEvent, ask_before_delete)
    return agent


async def run_agent(manager, storage, agents, restore=None, input=None, save=None):  # noqa: A002
    agent = agent_of(agents[0], manager, storage)
    history = await manager.list_snapshot_ids(agent)
    if restore is not None:
        assert await manager.restore_snapshot(agent, snapshot_id=history[restore])
    result = await agent.invoke_async(input) if input is not None else None
    if save:
        await manager.save_snapshot(agent, is_latest=save == "latest")
    data = agent.take_snapshot(preset="session", include=["system_prompt"]).data
    return Outcome(
        status=result and result.stop_reason,
        text=result and str(result),
        interrupts=[vars(interrupt) for interrupt in (result and result.interrupts) or ()],
        messages=data["messages"],
        state=data["state"],
        system_prompt=data["system_prompt"],
        model_state=data["model_state"],
        interrupt_state=data["interrupt_state"],
        history=history,
        asked={agent.agent_id: agent.model.asked},
    )


async def run_orchestrator(manager, kind, id, agents, input, edges=()):  # noqa: A002
    made = [agent_of(options) for options in agents]
    if kind == "graph":
        builder = GraphBuilder().set_graph_id(id).set_session_manager(manager)
        for agent in made:
            builder.add_node(agent, agent.agent_id)
        for edge in edges:
            builder.add_edge(*edge)
        builder.set_entry_point(made[0].agent_id).set_max_node_executions(10)
        orchestrator = builder.build()
    else:
        orchestrator = Swarm(made, id=id, session_manager=manager)
    result = await orchestrator.invoke_async(input)
    return Outcome(
        status=result.status.value,
        interrupts=[vars(interrupt) for interrupt in result.interrupts],
        asked={agent.agent_id: agent.model.asked for agent in made},
    )


@pytest.fixture(scope="session")
def typescript_version():
    """The version of the SDK for TypeScript."""
    package = Path(os.environ["SNAPSTORE_REFERENCE"]) / "node_modules/@strands-agents/sdk"
    version = json.loads((package / "package.json").read_text())["version"]
    return tuple(map(int, version.split(".")))


@pytest.fixture(scope="session")
def node(s3_server):
    """A process of Node that runs what it is told."""
    process = subprocess.Popen(
        ["node", "agents.mjs"],
        cwd=Path(os.environ["SNAPSTORE_REFERENCE"]),
        env=os.environ | s3_server.environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        yield process
        process.stdin.close()
        assert process.wait(ANSWER_WITHIN) == 0


@pytest.fixture
def restore_in_typescript(node):
    """A function that restores snapshots in TypeScript; the error of each, or `None`."""

    def restore(*documents):
        return ask(node, kind="restore", snapshots=[json.loads(each) for each in documents])

    return restore


@pytest.fixture
def session(node, s3_server, bucket, prefix, monkeypatch):
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    return Session(bucket, prefix, node)


@pytest.fixture
def stored(s3_client, bucket, prefix):
    """The latest snapshot of a scope as it is stored, and a way to store another."""
    return Stored(s3_client, bucket, f"{prefix}/session/session-1/scopes")
