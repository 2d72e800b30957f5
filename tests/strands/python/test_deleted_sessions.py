"""A session that was deleted: no agent that took part in it brings it back by trying again."""

import asyncio

import pytest

import snapstore
from snapstore.integrations.strands import SnapstoreSessionManager
from snapstore.testing.proxy import Fault

LATEST = "session/session-1/scopes/agent/echo/snapshots/snapshot_latest.json"
SECRET = "my password is canary"

EACH_POLICY = pytest.mark.parametrize("on_conflict", ["raise", "reload", "overwrite"])


def always(**kwargs):
    return True


def manager_on(storage, **options):
    return SnapstoreSessionManager("session-1", storage=storage, **options)


@EACH_POLICY
@pytest.mark.parametrize("deleted_by", ["its own manager", "another manager"])
@pytest.mark.parametrize("saves", [{}, {"snapshot_trigger": always}, {"save_latest_on": "message"}])
async def test_an_agent_does_not_bring_it_back(
    saves, deleted_by, on_conflict, make_agent, manager_of, storage
):
    agent = make_agent(on_conflict=on_conflict, **saves)
    await agent.invoke_async(SECRET)
    manager = manager_of(agent) if deleted_by == "its own manager" else manager_on(storage)
    await manager.delete_session()

    for _ in range(3):
        with pytest.raises(snapstore.SessionDeletedError, match="session was deleted") as caught:
            await agent.invoke_async("Hello?")
        assert isinstance(caught.value, snapstore.SnapshotConflictError)
        assert caught.value.key.endswith(LATEST)
        for is_latest in (True, False):
            with pytest.raises(snapstore.SessionDeletedError):
                await manager_of(agent).save_snapshot(agent, is_latest=is_latest)
        assert await storage.list("") == []


@EACH_POLICY
async def test_an_agent_that_only_restored_it_does_not_either(on_conflict, make_agent, storage):
    await make_agent().invoke_async(SECRET)
    agent = make_agent(on_conflict=on_conflict)
    await manager_on(storage).delete_session()

    for _ in range(2):
        with pytest.raises(snapstore.SessionDeletedError):
            await agent.invoke_async("Hello?")
    assert await storage.list("") == []


@EACH_POLICY
async def test_an_agent_with_history_alone_does_not_either(
    on_conflict, make_agent, manager_of, storage
):
    agent = make_agent(on_conflict=on_conflict, save_latest_on="trigger")
    await agent.invoke_async(SECRET)
    snapshot_id = await manager_of(agent).save_snapshot(agent, is_latest=False)
    reader = make_agent(on_conflict=on_conflict)
    assert await manager_of(reader).restore_snapshot(reader, snapshot_id=snapshot_id)
    await manager_on(storage).delete_session()

    for each in (agent, reader):
        for is_latest in (True, False, True):
            with pytest.raises(snapstore.SessionDeletedError):
                await manager_of(each).save_snapshot(each, is_latest=is_latest)
    assert await storage.list("") == []


async def test_an_agent_that_restores_on_purpose_begins_a_new_session(
    make_agent, manager_of, storage, state_in
):
    agent = make_agent()
    await agent.invoke_async("one")
    await manager_on(storage).delete_session()
    with pytest.raises(snapstore.SessionDeletedError):
        await agent.invoke_async("two")

    assert not await manager_of(agent).restore_snapshot(agent)
    await agent.invoke_async("three")

    assert (await state_in(storage, LATEST))[-2:] == ["three", "5: three"]


async def test_a_new_agent_begins_a_new_session(make_agent, manager_of, storage, state_in):
    old = make_agent()
    await old.invoke_async(SECRET)
    await manager_of(old).delete_session()

    await make_agent(manager=manager_of(old)).invoke_async("one")

    assert await state_in(storage, LATEST) == ["one", "1: one"]
    with pytest.raises(snapstore.SnapshotConflictError):
        await old.invoke_async("two")


async def test_an_agent_that_never_had_a_part_in_it_may_begin_it(make_agent, storage, state_in):
    agent = make_agent()
    await make_agent().invoke_async(SECRET)
    await manager_on(storage).delete_session()

    await agent.invoke_async("one")

    assert await state_in(storage, LATEST) == ["one", "1: one"]


async def test_agent_takes_no_other_writers_snapshot_for_its_own(
    make_storage, make_agent, storage, texts, proxy
):
    """It loses a race, and when it takes over what is there, that is gone."""
    agent = make_agent(on=make_storage(endpoint_url=proxy.endpoint_url), on_conflict="reload")
    await agent.invoke_async("one")
    await make_agent().invoke_async("two")
    reads = []

    async def delete_before_the_second_read(request):
        if request.operation == "GetObject":
            reads.append(request)
            if len(reads) == 2:
                await storage.delete(LATEST)

    proxy.fault = delete_before_the_second_read
    before = texts(agent)
    for _ in range(2):
        with pytest.raises(snapstore.SessionDeletedError):
            await agent.invoke_async("three")
    assert texts(agent)[: len(before)] == before
    assert await storage.list("") == []


async def test_a_save_under_way_ends_before_its_session_is_deleted(
    make_storage, make_agent, manager_of, storage, proxy
):
    saving = asyncio.Event()
    loop = asyncio.get_running_loop()

    async def slow(request):
        if request.operation != "PutObject":
            return None
        loop.call_soon_threadsafe(saving.set)
        return Fault(delay=0.5)

    agent = make_agent(on=make_storage(endpoint_url=proxy.endpoint_url))
    proxy.fault = slow
    turn = asyncio.create_task(agent.invoke_async(SECRET))
    await saving.wait()
    turn.cancel()
    with pytest.raises(asyncio.CancelledError):
        await turn

    await manager_of(agent).delete_session()

    assert await storage.list("") == []
    with pytest.raises(snapstore.SessionDeletedError):
        await agent.invoke_async("Hello?")


@EACH_POLICY
@pytest.mark.parametrize("deleted_by", ["its own manager", "another manager"])
async def test_a_graph_or_a_swarm_does_not_bring_it_back(
    deleted_by, on_conflict, make_orchestrator, storage
):
    manager = manager_on(storage, on_conflict=on_conflict)
    orchestrator = make_orchestrator(manager)
    await orchestrator.invoke_async(SECRET)
    await (manager if deleted_by == "its own manager" else manager_on(storage)).delete_session()

    for _ in range(3):
        with pytest.raises(snapstore.SessionDeletedError):
            await orchestrator.invoke_async("Hello?")
        assert await storage.list("") == []

    assert not await manager.restore_multi_agent(orchestrator)
    assert (await orchestrator.invoke_async("one")).status.value == "completed"


async def test_orchestrator_that_reloads_restores_nothing_deleted(make_orchestrator, storage):
    manager = manager_on(storage, on_conflict="reload")
    orchestrator = make_orchestrator(manager)
    await orchestrator.invoke_async("one")
    await make_orchestrator(manager_on(storage)).invoke_async("two")
    with pytest.raises(snapstore.SnapshotConflictError):
        await orchestrator.invoke_async("three")
    await manager_on(storage).delete_session()

    for _ in range(2):
        with pytest.raises(snapstore.SessionDeletedError):
            await orchestrator.invoke_async("four")
    assert await storage.list("") == []


async def test_other_sessions_and_other_objects_stay(make_agent, manager_of, storage):
    agent = make_agent(snapshot_trigger=always)
    await agent.invoke_async("one")
    await storage.write("context/session-1/scopes/agent/echo/stash_0", b"x")
    await storage.write("session/session-10/scopes/agent/echo/snapshots/other", b"x")

    await manager_of(agent).delete_session()

    assert await storage.list("") == ["session/session-10/scopes/agent/echo/snapshots/other"]
