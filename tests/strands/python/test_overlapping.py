"""Saves and restores of one agent that overlap, and agents that share a manager and an id."""

import asyncio
import gc
import logging
import threading
import weakref
from dataclasses import dataclass, field

import pytest
from strands.hooks import HookRegistry
from strands.hooks.events import (
    AfterMultiAgentInvocationEvent,
    BeforeMultiAgentInvocationEvent,
    MultiAgentInitializedEvent,
)
from strands.multiagent.base import MultiAgentBase, MultiAgentResult, Status

import snapstore
from snapstore.integrations.strands import SnapstoreSessionManager, convert_snapshot, objects
from snapstore.testing.proxy import Fault

SNAPSHOTS = "session/session-1/scopes/agent/echo/snapshots"
LATEST = f"{SNAPSHOTS}/snapshot_latest.json"
TALK = ["one", "1: one", "two", "3: two"]
WITHIN = 30.0  # seconds

EACH_POLICY = pytest.mark.parametrize("on_conflict", ["raise", "reload", "overwrite"])


def always(**kwargs):
    return True


async def passing(request):
    return None


class HeldPuts:
    """Holds up writes at the proxy until they are let go, then the server gets them."""

    def __init__(self, proxy):
        self.began, self.may_go = threading.Event(), threading.Event()
        proxy.fault = self._hold

    async def _hold(self, request):
        if request.operation == "PutObject":
            self.began.set()
            await asyncio.to_thread(self.may_go.wait, WITHIN)

    async def wait(self):
        assert await asyncio.to_thread(self.began.wait, WITHIN)

    def let_go(self):
        self.may_go.set()


@pytest.fixture
def far(make_storage, proxy):
    """A storage behind the proxy."""
    return make_storage(endpoint_url=proxy.endpoint_url)


async def cancelled_turn(agent, text, puts):
    """A turn that is cancelled while it saves; the save is still under way."""
    turn = asyncio.create_task(agent.invoke_async(text))
    await puts.wait()
    turn.cancel()
    with pytest.raises(asyncio.CancelledError):
        await turn


LARGE = {"role": "user", "content": [{"text": "a secret" * 50_000}]}
SMALL = {"role": "user", "content": [{"text": "small"}]}


@pytest.fixture
def converting(monkeypatch):
    """Set when a large snapshot is being converted, which takes half a second for once."""
    began = threading.Event()

    def convert_slowly(document, to):
        if len(document) > 200_000 and not began.is_set():
            began.set()
            threading.Event().wait(0.5)
        return convert_snapshot(document, to)

    monkeypatch.setattr(objects, "convert_snapshot", convert_slowly)
    return began


async def test_large_slow_save_does_not_replace_the_next_one(
    make_storage, make_agent, manager_of, state_in, converting
):
    storage = make_storage(dialect="typescript")
    agent = make_agent(on=storage)
    agent.messages[:] = [LARGE]
    large = asyncio.create_task(manager_of(agent).save_snapshot(agent, is_latest=True))
    assert await asyncio.to_thread(converting.wait, WITHIN)
    agent.messages[:] = [SMALL]
    await manager_of(agent).save_snapshot(agent, is_latest=True)
    await large

    assert await state_in(storage, LATEST) == ["small"]


async def test_cancelled_save_does_not_replace_a_later_one(
    make_storage, make_agent, manager_of, texts, state_in, converting
):
    storage = make_storage(dialect="typescript")
    agent = make_agent(on=storage, snapshot_trigger=always)
    await agent.invoke_async("one")
    [first] = await manager_of(agent).list_snapshot_ids(agent)
    agent.messages.append(LARGE)
    saving = asyncio.create_task(manager_of(agent).save_snapshot(agent, is_latest=True))
    assert await asyncio.to_thread(converting.wait, WITHIN)
    saving.cancel()

    assert await manager_of(agent).restore_snapshot(agent, snapshot_id=first)
    await manager_of(agent).save_snapshot(agent, is_latest=True)

    storage.close()  # it waits for all that is under way
    assert await state_in(make_storage(), LATEST) == texts(agent) == TALK[:2]


async def test_after_a_cancelled_turn_a_restore_waits_for_its_save(
    far, proxy, make_agent, manager_of, texts
):
    agent = make_agent(on=far)
    puts = HeldPuts(proxy)
    await cancelled_turn(agent, "one", puts)

    restoring = asyncio.create_task(manager_of(agent).restore_snapshot(agent))
    await asyncio.sleep(0)
    puts.let_go()

    assert await restoring
    assert texts(agent) == TALK[:2]
    proxy.fault = passing
    await agent.invoke_async("two")
    assert texts(make_agent()) == TALK


async def test_a_graph_or_a_swarm_is_restored_after_its_cancelled_save(
    far, proxy, make_orchestrator
):
    manager = SnapstoreSessionManager("session-1", storage=far)
    orchestrator = make_orchestrator(manager)
    puts = HeldPuts(proxy)
    turn = asyncio.create_task(orchestrator.invoke_async("one"))
    await puts.wait()
    turn.cancel()
    asyncio.get_running_loop().call_soon(puts.let_go)
    # When it is cancelled, the SDK saves it once more.
    with pytest.raises(asyncio.CancelledError):
        await turn

    assert await manager.restore_multi_agent(orchestrator)
    proxy.fault = passing
    assert (await orchestrator.invoke_async("two")).status.value == "completed"


async def test_restore_on_a_blocked_loop_waits_for_its_save(
    far, proxy, make_agent, manager_of, texts
):
    """Nothing that is waited for needs the loop that waits."""
    agent = make_agent(on=far)
    await agent.invoke_async("one")
    puts = HeldPuts(proxy)
    saving = asyncio.create_task(manager_of(agent).save_snapshot(agent, is_latest=True))
    await puts.wait()
    timer = threading.Timer(0.3, puts.let_go)
    timer.start()

    manager_of(agent).initialize(agent)
    manager_of(agent).sync_agent(agent)

    await saving
    timer.join()
    assert texts(make_agent()) == TALK[:2]


async def test_saves_and_restores_at_once_end_with_the_newest_state(
    far, proxy, make_agent, manager_of, storage, state_in
):
    async def far_away(request):
        return Fault(delay=0.01, stall=0.01)

    proxy.fault = far_away
    agent = make_agent(on=far)
    manager = manager_of(agent)

    async def save(number):
        agent.messages[:] = [{"role": "user", "content": [{"text": f"{number}"}]}]
        await manager.save_snapshot(agent, is_latest=True)

    for number in range(5):
        saves = [asyncio.create_task(save(f"{number}-{part}")) for part in range(6)]
        for task in saves[1::2]:
            await asyncio.sleep(0)
            task.cancel()
        await asyncio.wait(saves)
        await manager.restore_snapshot(agent)
        assert agent.messages[0]["content"][0]["text"] in {f"{number}-4", f"{number}-5"}
        await save(f"{number}-last")

    assert await state_in(storage, LATEST) == ["4-last"]


# One manager for the process


@EACH_POLICY
async def test_each_request_may_make_its_graph_anew(
    on_conflict, make_orchestrator, storage, caplog
):
    manager = SnapstoreSessionManager("session-1", storage=storage, on_conflict=on_conflict)
    with caplog.at_level(logging.WARNING, "snapstore"):
        for text in ("one", "two", "three"):
            result = await make_orchestrator(manager).invoke_async(text)
            assert result.status.value == "completed"

    assert caplog.text == ""


@EACH_POLICY
async def test_each_request_may_make_its_agent_anew(
    on_conflict, make_agent, storage, texts, caplog
):
    manager = SnapstoreSessionManager("session-1", storage=storage, on_conflict=on_conflict)
    with caplog.at_level(logging.WARNING, "snapstore"):
        for text in ("one", "two"):
            await make_agent(manager=manager).invoke_async(text)

    assert texts(make_agent(manager=manager)) == TALK
    assert caplog.text == ""


async def test_two_graphs_that_live_at_once_are_two_writers(make_orchestrator, storage):
    manager = SnapstoreSessionManager("session-1", storage=storage)
    one, two = make_orchestrator(manager), make_orchestrator(manager)
    await one.invoke_async("one")
    await two.invoke_async("two")

    with pytest.raises(snapstore.SnapshotConflictError):
        await one.invoke_async("three")
    await two.invoke_async("four")
    assert await manager.restore_multi_agent(one)
    await one.invoke_async("five")


async def test_what_is_gone_is_forgotten(make_agent, make_orchestrator, storage):
    manager = SnapstoreSessionManager("session-1", storage=storage)
    agent, orchestrator = make_agent(manager=manager), make_orchestrator(manager)
    await agent.invoke_async("one")
    await orchestrator.invoke_async("one")
    gone = [weakref.ref(each) for each in (agent, orchestrator)]

    del agent, orchestrator
    gc.collect()

    assert [each() for each in gone] == [None, None]
    kept = [value for value in vars(manager).values() if isinstance(value, set | dict)]
    assert not any(kept)
    assert manager._agents.all() == []  # noqa: SLF001 -- there is no public way to see it


@dataclass
class Crew(MultiAgentBase):
    """An orchestrator of a user's: equal to any other of its id, and not hashable."""

    id: str
    session_manager: SnapstoreSessionManager = field(compare=False)
    said: list = field(default_factory=list, compare=False)

    def __post_init__(self):
        self.hooks = HookRegistry()
        self.session_manager.register_hooks(self.hooks)
        self.hooks.invoke_callbacks(MultiAgentInitializedEvent(self))

    def add_hook(self, callback, event_type=None):
        self.hooks.add_callback(event_type, callback)

    async def invoke_async(self, task, invocation_state=None, **kwargs):
        await self.hooks.invoke_callbacks_async(BeforeMultiAgentInvocationEvent(self))
        self.said.append(task)
        await self.hooks.invoke_callbacks_async(AfterMultiAgentInvocationEvent(self))
        return MultiAgentResult(status=Status.COMPLETED)

    async def stream_async(self, task, invocation_state=None, **kwargs):
        yield {"result": await self.invoke_async(task)}

    def serialize_state(self):
        return {"said": self.said}

    def deserialize_state(self, payload):
        self.said = list(payload["said"])


async def test_orchestrators_that_are_equal_are_told_apart(storage):
    manager = SnapstoreSessionManager("session-1", storage=storage)
    for task in ("one", "two"):
        await Crew("crew", manager).invoke_async(task)
    one, two = Crew("crew", manager), Crew("crew", manager)
    await one.invoke_async("three")
    await two.invoke_async("four")

    assert two.said == ["one", "two", "three", "four"]
    with pytest.raises(snapstore.SnapshotConflictError):
        await one.invoke_async("five")
