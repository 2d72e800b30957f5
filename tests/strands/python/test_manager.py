"""The session manager: nobody's turn is lost without a word."""

import asyncio
import json
import logging
from concurrent.futures import ThreadPoolExecutor

import pytest
import strands.storage
from strands import Agent
from strands.session import SnapshotSessionManager
from strands.types.exceptions import SnapshotException
from strands.types.exceptions import StorageError as SDKStorageError

import snapstore
from snapstore.integrations.strands import SnapstoreSessionManager, convert_snapshot
from snapstore.testing.proxy import Fault

SNAPSHOTS = "session/session-1/scopes/agent/echo/snapshots"
LATEST = f"{SNAPSHOTS}/snapshot_latest.json"
TALK = ["one", "1: one", "two", "3: two"]


def always(**kwargs):
    return True


def manager_of(agent):
    return agent._session_manager  # noqa: SLF001 -- it is nowhere else


async def saved(storage, key=LATEST):
    data = json.loads(await storage.read(key))["data"]
    return [block["text"] for message in data["messages"] for block in message["content"]]


async def test_it_saves_and_restores_where_the_sdks_own_does(make_agent, echo, storage, texts):
    await make_agent().invoke_async("one")

    theirs = SnapshotSessionManager("session-1", storage=storage)
    agent = Agent(agent_id="echo", model=echo(), session_manager=theirs, callback_handler=None)
    await agent.invoke_async("two")

    assert texts(make_agent()) == TALK
    assert await storage.list("") == [LATEST]


async def test_an_agent_saves_turn_after_turn(make_agent, texts):
    agent = make_agent()
    await agent.invoke_async("one")
    await agent.invoke_async("two")

    assert texts(make_agent()) == TALK


@pytest.mark.parametrize("first", ["empty", "begun"])
async def test_the_second_of_two_agents_gets_a_conflict(first, make_agent, texts, storage):
    if first == "begun":
        await make_agent().invoke_async("zero")
    one, two = make_agent(), make_agent()
    before = texts(two)
    await one.invoke_async("one")

    with pytest.raises(snapstore.SnapshotConflictError) as caught:
        await two.invoke_async("two")

    assert isinstance(caught.value, SDKStorageError)
    assert LATEST in str(caught.value)
    assert await saved(storage) == texts(one)
    assert texts(two)[: len(before) + 1] == [*before, "two"]
    with pytest.raises(snapstore.SnapshotConflictError):
        await two.invoke_async("again")
    await one.invoke_async("more")


async def test_two_agents_of_one_manager_are_two_writers(make_agent, storage):
    manager = SnapstoreSessionManager("session-1", storage=storage)
    one, two = make_agent(manager=manager), make_agent(manager=manager)
    await one.invoke_async("one")

    with pytest.raises(snapstore.SnapshotConflictError):
        await two.invoke_async("two")


async def test_agents_of_other_names_are_in_nobodys_way(make_agent, storage, texts):
    manager = SnapstoreSessionManager("session-1", storage=storage)
    agents = [make_agent(manager=manager, agent_id=f"agent-{number}") for number in range(8)]

    await asyncio.gather(*(agent.invoke_async("one") for agent in agents))
    await asyncio.gather(*(agent.invoke_async("two") for agent in agents))

    assert [texts(agent) for agent in agents] == [TALK] * 8


async def test_a_writer_of_the_sdks_own_kind_is_a_conflict_too(make_agent, echo, storage):
    ours = make_agent()
    await ours.invoke_async("one")
    theirs = SnapshotSessionManager("session-1", storage=storage)
    agent = Agent(agent_id="echo", model=echo(), session_manager=theirs, callback_handler=None)
    await agent.invoke_async("two")

    with pytest.raises(snapstore.SnapshotConflictError):
        await ours.invoke_async("three")


async def test_of_many_that_race_one_wins(make_agent, storage, texts):
    agents = [make_agent() for _ in range(10)]

    outcomes = await asyncio.gather(
        *(agent.invoke_async("one") for agent in agents), return_exceptions=True
    )

    lost = [isinstance(outcome, snapstore.SnapshotConflictError) for outcome in outcomes]
    assert sorted(lost) == [False] + [True] * 9
    assert await saved(storage) == TALK[:2]


def test_threads_that_race_lose_no_turn(make_agent, texts):
    def work(name):
        agent = make_agent(on_conflict="reload")
        for number in range(4):
            while True:
                try:
                    agent(f"{name}-{number}")
                    break
                except snapstore.SnapshotConflictError:
                    pass

    with ThreadPoolExecutor(4) as executor:
        list(executor.map(work, "abcd"))

    said = texts(make_agent())[::2]
    assert sorted(said) == sorted(f"{name}-{number}" for name in "abcd" for number in range(4))
    assert len(texts(make_agent())) == 32


async def test_who_reloads_has_what_is_stored_and_can_try_again(make_agent, texts, storage):
    one, two = make_agent(), make_agent(on_conflict="reload")
    await one.invoke_async("one")

    with pytest.raises(snapstore.SnapshotConflictError):
        await two.invoke_async("two")
    assert texts(two) == TALK[:2]
    await two.invoke_async("two")

    assert await saved(storage) == TALK


async def test_who_restores_by_hand_can_go_on(make_agent, texts, storage):
    one, two = make_agent(), make_agent()
    await one.invoke_async("one")
    with pytest.raises(snapstore.SnapshotConflictError):
        await two.invoke_async("two")

    assert await manager_of(two).restore_snapshot(two)
    await two.invoke_async("two")

    assert await saved(storage) == TALK


async def test_who_overwrites_does_so_aloud(make_agent, storage, caplog):
    one, two = make_agent(), make_agent(on_conflict="overwrite")
    await one.invoke_async("one")
    with caplog.at_level(logging.WARNING, "snapstore"):
        await two.invoke_async("two")

    assert await saved(storage) == ["two", "1: two"]
    assert "another writer's snapshot was written over" in caplog.text
    caplog.clear()
    await two.invoke_async("three")
    assert caplog.text == ""


async def test_a_session_is_deleted_in_few_requests(make_storage, make_agent, proxy):
    storage = make_storage(endpoint_url=proxy.endpoint_url)
    agent = make_agent(on=storage)
    history = f"{SNAPSHOTS}/immutable_history"
    await agent.invoke_async("one")
    snapshot = await storage.read(LATEST)
    keys = [f"{history}/snapshot_{snapstore.new_snapshot_id()}.json" for _ in range(400)]
    await asyncio.gather(*(storage.write(key, snapshot) for key in keys))
    proxy.requests.clear()

    await manager_of(agent).delete_session()

    assert set(proxy.operations) == {"ListObjectsV2", "DeleteObjects"}
    assert len(proxy.operations) < 50  # how many go together is a matter of moments
    assert await storage.list("session/") == []


async def test_stash_that_can_not_be_deleted_is_an_error(make_storage, proxy):
    storage = make_storage(endpoint_url=proxy.endpoint_url)
    await storage.write("context/session-1/scopes/agent/echo/stash_0", b"x")

    async def refuse(request):
        return Fault.error(403, "AccessDenied") if request.operation == "DeleteObjects" else None

    proxy.fault = refuse
    manager = SnapstoreSessionManager("session-1", storage=storage)
    with pytest.raises(snapstore.AccessDeniedError):
        await manager.delete_session()
    proxy.fault = passing
    await manager.delete_session()
    assert await storage.list("") == []


async def test_a_page_goes_on_where_folders_are_marked(make_agent, storage, s3_server):
    agent = make_agent(snapshot_trigger=always)
    await agent.invoke_async("one")
    [snapshot_id] = await manager_of(agent).list_snapshot_ids(agent)
    stranger = storage.namespace(f"{SNAPSHOTS}/immutable_history")
    # As consoles make them, and as the SDK spells no key.
    await stranger.run(lambda backend: backend.objects.put(stranger._prefix, b""))  # noqa: SLF001

    assert await manager_of(agent).list_snapshot_ids(agent, limit=1) == [snapshot_id]


async def test_an_agent_that_was_never_restored_overwrites_nothing(make_agent, echo, storage):
    await make_agent().invoke_async("one")
    stranger = Agent(agent_id="echo", model=echo(), callback_handler=None)
    manager = SnapstoreSessionManager("session-1", storage=storage)

    with pytest.raises(snapstore.SnapshotConflictError):
        await manager.save_snapshot(stranger, is_latest=True)

    assert await saved(storage) == TALK[:2]


async def test_what_can_not_be_restored_is_not_written_over(make_agent, storage, texts):
    agent = make_agent()
    await agent.invoke_async("one")
    snapshot = json.loads(await storage.read(LATEST)) | {"schema_version": "9.0"}
    await storage.write(LATEST, json.dumps(snapshot).encode())

    with pytest.raises(SnapshotException):
        await manager_of(agent).restore_snapshot(agent)
    with pytest.raises(snapstore.SnapshotConflictError):
        await agent.invoke_async("two")

    assert json.loads(await storage.read(LATEST)) == snapshot


async def test_a_damaged_session_is_an_error_and_no_new_session(make_agent, s3_client, options):
    full = f"{options['prefix']}/{LATEST}"
    await s3_client.put_object(Bucket=options["bucket"], Key=full, Body=b"")

    with pytest.raises(snapstore.SnapshotDecodeError, match=full):
        make_agent()


async def test_a_checkpoint_is_in_history_before_it_is_latest(make_storage, make_agent, proxy):
    storage = make_storage(endpoint_url=proxy.endpoint_url)
    agent = make_agent(on=storage, snapshot_trigger=always)
    proxy.requests.clear()
    await agent.invoke_async("one")

    history, latest = proxy.requests
    assert "/immutable_history/snapshot_" in history.path
    assert history.headers["If-None-Match"] == "*"
    assert latest.path.endswith("/snapshot_latest.json")
    assert history.body == latest.body.rstrip(b" \t")


async def test_where_history_can_not_be_written_latest_is_not_either(
    make_storage, make_agent, proxy
):
    async def refuse_history(request):
        if "/immutable_history/" in request.path:
            reply = b"<Error><Code>AccessDenied</Code></Error>"
            return Fault(forward=False, status=403, body=reply)
        return None

    storage = make_storage(endpoint_url=proxy.endpoint_url)
    agent = make_agent(on=storage, snapshot_trigger=always)
    proxy.fault = refuse_history

    with pytest.raises(snapstore.AccessDeniedError):
        await agent.invoke_async("one")
    assert await storage.list("session/") == []


async def test_the_loser_of_a_checkpoint_leaves_latest_alone(make_agent, storage, texts):
    one, two = make_agent(), make_agent(on_conflict="reload", snapshot_trigger=always)
    await one.invoke_async("one")

    with pytest.raises(snapstore.SnapshotConflictError):
        await two.invoke_async("two")

    assert await saved(storage) == texts(two) == TALK[:2]
    [snapshot_id] = await manager_of(two).list_snapshot_ids(two)
    assert await saved(storage, f"{SNAPSHOTS}/immutable_history/snapshot_{snapshot_id}.json") == [
        "two",
        "1: two",
    ]


async def test_an_agent_goes_back_in_time_and_on_from_there(make_agent, texts, storage):
    agent = make_agent(snapshot_trigger=always)
    await agent.invoke_async("one")
    await agent.invoke_async("no")
    first, _ = await manager_of(agent).list_snapshot_ids(agent)

    assert await manager_of(agent).restore_snapshot(agent, snapshot_id=first)
    assert texts(agent) == TALK[:2]
    await agent.invoke_async("two")

    assert await saved(storage) == TALK
    assert not await manager_of(agent).restore_snapshot(
        agent, snapshot_id=snapstore.new_snapshot_id()
    )


async def test_who_goes_back_in_time_still_sees_other_writers(make_agent):
    agent = make_agent(snapshot_trigger=always)
    await agent.invoke_async("one")
    await make_agent().invoke_async("two")
    [first] = await manager_of(agent).list_snapshot_ids(agent)
    await manager_of(agent).restore_snapshot(agent, snapshot_id=first)

    with pytest.raises(snapstore.SnapshotConflictError):
        await agent.invoke_async("three")


async def test_a_page_of_history_is_one_request(make_storage, make_agent, proxy, storage):
    agent = make_agent(on=make_storage(endpoint_url=proxy.endpoint_url))
    manager = manager_of(agent)
    ids = sorted(snapstore.new_snapshot_id() for _ in range(30))
    history = f"{SNAPSHOTS}/immutable_history"
    document = convert_snapshot(
        b'{"scope":"agent","schemaVersion":"1.0","createdAt":"2026-01-01T00:00:00.000Z",'
        b'"data":{},"appData":{}}',
        "python",
    )
    keys = [f"{history}/snapshot_{snapshot_id}.json" for snapshot_id in ids]
    await asyncio.gather(*(storage.write(key, document) for key in keys))
    proxy.requests.clear()

    assert await manager.list_snapshot_ids(agent, limit=10, start_after=ids[4]) == ids[5:15]
    [request] = proxy.requests
    assert request.query["max-keys"] == "10"
    assert await manager.list_snapshot_ids(agent, limit=10, start_after=ids[25]) == ids[26:]
    assert len(proxy.requests) == 2
    assert await manager.list_snapshot_ids(agent, limit=0) == []
    assert await manager.list_snapshot_ids(agent, limit=-1) == []
    assert len(proxy.requests) == 2
    assert await manager.list_snapshot_ids(agent) == ids
    assert await manager.list_snapshot_ids(agent, start_after=ids[-1]) == []
    assert await manager.list_snapshot_ids(agent, start_after=ids[20].upper()) == ids[21:]


async def test_what_is_no_snapshot_takes_no_place_on_a_page(make_agent, storage):
    agent = make_agent(snapshot_trigger=always)
    for number in range(3):
        await agent.invoke_async(str(number))
    history = f"{SNAPSHOTS}/immutable_history"
    for name in ("a.json", "snapshot_x.txt", "snapshot_01.txt", "~"):
        await storage.write(f"{history}/{name}", b"x")
    manager = manager_of(agent)
    ids = await manager.list_snapshot_ids(agent)

    assert len(ids) == 3
    assert await manager.list_snapshot_ids(agent, limit=2) == ids[:2]
    assert await manager.list_snapshot_ids(agent, limit=3) == ids
    assert await manager.list_snapshot_ids(agent, limit=5) == ids


@pytest.mark.parametrize("wrong", ["", "latest", "../x", "01912a3b-0000-4000-8000-000000000001"])
async def test_a_cursor_that_is_no_id_is_refused(wrong, make_agent):
    agent = make_agent()
    with pytest.raises(ValueError, match="start_after"):
        await manager_of(agent).list_snapshot_ids(agent, start_after=wrong)


async def test_a_lost_reply_to_a_save_is_no_conflict_with_itself(
    make_storage, make_agent, proxy, texts
):
    lost = []

    async def lose_each_first_reply(request):
        if request.operation != "PutObject" or request.body in lost:
            return None
        lost.append(request.body)
        return Fault(lost=True)

    agent = make_agent(on=make_storage(endpoint_url=proxy.endpoint_url))
    proxy.fault = lose_each_first_reply
    await agent.invoke_async("one")
    await agent.invoke_async("two")

    assert len(lost) == 2
    assert texts(make_agent()) == TALK


@pytest.mark.parametrize("first", ["empty", "begun"])
async def test_a_lost_reply_to_the_loser_is_no_success(first, make_storage, make_agent, proxy):
    async def lose_the_first(request):
        puts = [seen for seen in proxy.requests if seen.operation == "PutObject"]
        return Fault(lost=True) if puts == [request] else None

    if first == "begun":
        await make_agent().invoke_async("zero")
    agent = make_agent(on=make_storage(endpoint_url=proxy.endpoint_url))
    await make_agent().invoke_async("one")
    proxy.fault = lose_the_first

    # What a write has created may have been deleted, before another one created it again.
    unknown, conflict = snapstore.OutcomeUnknownError, snapstore.SnapshotConflictError
    with pytest.raises(unknown if first == "empty" else conflict):
        await agent.invoke_async("two")
    with pytest.raises(conflict):
        await agent.invoke_async("three")


async def test_a_save_that_is_cancelled_is_not_in_its_own_way(
    make_storage, make_agent, proxy, texts
):
    saving = asyncio.Event()

    async def slow(request):
        if request.operation != "PutObject":
            return None
        saving.set()
        return Fault(stall=0.5)

    agent = make_agent(on=make_storage(endpoint_url=proxy.endpoint_url))
    proxy.fault = slow
    turn = asyncio.create_task(agent.invoke_async("one"))
    await saving.wait()
    turn.cancel()
    with pytest.raises(asyncio.CancelledError):
        await turn
    proxy.requests.clear()
    await agent.invoke_async("two")

    assert texts(make_agent()) == TALK


async def test_while_the_server_is_down_the_session_stays_as_it_was(
    make_storage, make_agent, proxy, texts
):
    async def fail(request):
        reply = b"<Error><Code>InternalError</Code></Error>"
        return Fault(forward=False, status=500, body=reply)

    agent = make_agent(on=make_storage(endpoint_url=proxy.endpoint_url))
    await agent.invoke_async("one")
    proxy.fault = fail
    with pytest.raises(SDKStorageError) as caught:
        await agent.invoke_async("two")
    assert isinstance(caught.value, snapstore.StorageError)
    assert texts(make_agent()) == TALK[:2]

    proxy.fault = passing
    await manager_of(agent).save_snapshot(agent, is_latest=True)
    assert texts(make_agent())[:3] == TALK[:3]


async def passing(request):
    return None


async def test_each_message_is_saved_if_that_is_asked_for(make_agent, storage):
    one, two = make_agent(save_latest_on="message"), make_agent(save_latest_on="message")
    await one.invoke_async("one")

    with pytest.raises(snapstore.SnapshotConflictError):
        await two.invoke_async("two")
    assert await saved(storage) == TALK[:2]


async def test_who_reloads_does_so_at_the_end_of_the_turn(make_agent, storage, texts):
    one = make_agent()
    two = make_agent(save_latest_on="message", on_conflict="reload", snapshot_trigger=always)
    await one.invoke_async("one")
    before = await storage.read_version(LATEST)

    with pytest.raises(snapstore.SnapshotConflictError):
        await two.invoke_async("two")

    assert await storage.read_version(LATEST) == before
    assert texts(two) == TALK[:2]
    await two.invoke_async("two")
    assert await saved(storage) == TALK


async def test_a_save_by_hand_that_conflicts_leaves_the_agent_alone(make_agent, texts):
    one, two = make_agent(), make_agent(on_conflict="reload")
    two.messages.append({"role": "user", "content": [{"text": "mine"}]})
    await one.invoke_async("one")

    with pytest.raises(snapstore.SnapshotConflictError):
        await manager_of(two).save_snapshot(two, is_latest=True)
    assert texts(two) == ["mine"]


async def test_saves_of_one_agent_at_once_do_not_conflict(make_agent, storage):
    agent = make_agent()
    await agent.invoke_async("one")
    manager = manager_of(agent)

    await asyncio.gather(*(manager.save_snapshot(agent, is_latest=True) for _ in range(10)))
    manager.sync_agent(agent)

    assert await saved(storage) == TALK[:2]


async def test_a_session_in_typescript_is_gone_on_with(make_storage, make_agent, texts):
    storage = make_storage(dialect="typescript")
    await make_agent(on=storage).invoke_async("one")
    await make_agent(on=storage).invoke_async("two")

    assert texts(make_agent()) == TALK


async def test_an_orchestrator_has_the_same_safety(make_orchestrator, storage):
    async def run(on_conflict="raise", between=None):
        manager = SnapstoreSessionManager("session-1", storage=storage, on_conflict=on_conflict)
        orchestrator = make_orchestrator(manager)
        await orchestrator.invoke_async("one")
        if between is not None:
            await between()
            return await orchestrator.invoke_async("two")
        return orchestrator

    await run()
    await run()
    [key] = await storage.list("session/session-1/scopes/multiAgent/")
    assert key.endswith("/snapshots/snapshot_latest.json")

    with pytest.raises(snapstore.SnapshotConflictError):
        await run(between=run)
    await run("overwrite", between=run)


async def test_an_orchestrator_that_lost_a_race_can_be_restored(make_orchestrator, storage):
    def orchestrator():
        manager = SnapstoreSessionManager("session-1", storage=storage)
        return make_orchestrator(manager), manager

    (one, _), (two, manager) = orchestrator(), orchestrator()
    await two.invoke_async("one")
    await one.invoke_async("one")
    with pytest.raises(snapstore.SnapshotConflictError):
        await two.invoke_async("two")

    assert await manager.restore_multi_agent(two)
    assert (await two.invoke_async("two")).status.value == "completed"


async def test_an_orchestrator_that_reloads_can_try_again(make_orchestrator, storage):
    def orchestrator():
        manager = SnapstoreSessionManager("session-1", storage=storage, on_conflict="reload")
        return make_orchestrator(manager)

    one, two = orchestrator(), orchestrator()
    await two.invoke_async("one")
    await one.invoke_async("one")
    [key] = await storage.list("session/session-1/scopes/multiAgent/")
    before = await storage.read_version(key)

    with pytest.raises(snapstore.SnapshotConflictError):
        await two.invoke_async("two")
    assert await storage.read_version(key) == before
    assert (await two.invoke_async("two")).status.value == "completed"


async def test_the_storage_of_the_agent_is_taken_where_none_is_given(echo, storage, texts):
    def agent():
        manager = SnapstoreSessionManager("session-1")
        return Agent(
            agent_id="echo",
            model=echo(),
            storage=storage,
            session_manager=manager,
            callback_handler=None,
        )

    await agent().invoke_async("one")
    assert texts(agent()) == TALK[:2]
    assert await storage.list("") == [LATEST]


async def test_a_namespace_is_taken_as_it_is(make_agent, storage):
    await make_agent(on=storage.namespace("mine")).invoke_async("one")

    assert await storage.list("") == [LATEST.replace("session/", "mine/", 1)]


async def test_another_storage_is_refused(echo, tmp_path):
    other = strands.storage.LocalFileStorage(str(tmp_path))
    with pytest.raises(TypeError, match="StrandsStorage, not a LocalFileStorage"):
        SnapstoreSessionManager("session-1", storage=other)
    with pytest.raises(TypeError, match="StrandsStorage, not a NoneType"):
        Agent(model=echo(), session_manager=SnapstoreSessionManager("session-1"))


@pytest.mark.parametrize(
    "wrong", [{"on_conflict": "ignore"}, {"save_latest_on": "never"}, {"session_id": ".."}]
)
def test_arguments_are_checked(wrong, storage):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SnapstoreSessionManager(**{"session_id": "session-1", "storage": storage} | wrong)
