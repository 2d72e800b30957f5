"""A storage over an object store: files, memory, S3 by its store, and a store of somebody else."""

import asyncio
import copy
import logging
import os
import pickle
import subprocess
import sys

import pytest
import strands.storage
from strands import Agent
from strands.session import SnapshotSessionManager
from strands.types.exceptions import StorageError as SDKStorageError

import snapstore
from snapstore.integrations.strands import SnapstoreSessionManager, StrandsStorage
from snapstore.stores import FileObjectStore, MemoryObjectStore, S3ObjectStore
from snapstore.testing.doubles import FaultyObjectStore, StoreFault

LATEST = "session/session-1/scopes/agent/echo/snapshots/snapshot_latest.json"


@pytest.fixture
def over():
    """A function that makes storages; they are closed at the end of the test."""
    made = []

    def make(store, **options):
        made.append(StrandsStorage.over(store, **options))
        return made[-1]

    yield make
    for storage in made:
        storage.close()


def test_an_object_of_the_sdks_local_files_is_a_file_at_the_same_path(over, tmp_path):
    theirs = strands.storage.LocalFileStorage(str(tmp_path))
    ours = over(FileObjectStore(tmp_path))

    async def exchange():
        await ours.write("a/ü 🌧️/b.json", b"ours")
        assert await theirs.read("a/ü 🌧️/b.json") == b"ours"
        await theirs.namespace("n").write("c", b"theirs")
        assert await ours.namespace("n").read("c") == b"theirs"
        assert await ours.list("n/") == ["n/c"]

    asyncio.run(exchange())


@pytest.mark.parametrize("manager", [SnapshotSessionManager, SnapstoreSessionManager])
async def test_stash_of_the_sdks_local_files_is_not_out_of_reach(
    manager, echo, over, tmp_path, caplog
):
    async def stash_after_a_turn(manager, storage, text):
        agent = Agent(
            agent_id="a",
            model=echo(),
            storage=storage,
            session_manager=manager("session-1"),
            context_manager="auto",
            callback_handler=None,
        )
        await agent.invoke_async(text)
        return set(await agent.context_manager.stash.list())

    theirs = strands.storage.LocalFileStorage(str(tmp_path))
    ours = over(FileObjectStore(tmp_path))
    stashed = await stash_after_a_turn(SnapshotSessionManager, theirs, "one")
    with caplog.at_level(logging.WARNING, "strands"):
        assert await stash_after_a_turn(manager, ours, "two") > stashed
        assert await stash_after_a_turn(SnapshotSessionManager, theirs, "three") > stashed

    assert caplog.text == ""


@pytest.mark.parametrize("view", [False, True])
async def test_stash_in_memory_is_saved_with_the_session(view, echo, over, tmp_path):
    files = over(FileObjectStore(tmp_path))

    def agent():
        memory = over(MemoryObjectStore())
        return Agent(
            agent_id="a",
            model=echo(),
            storage=memory.namespace("n") if view else memory,
            session_manager=SnapstoreSessionManager("session-1", storage=files),
            context_manager="auto",
            callback_handler=None,
        )

    before = agent()
    await before.invoke_async("one")
    stashed = await before.context_manager.stash.take_snapshot()

    assert stashed
    assert await agent().context_manager.stash.take_snapshot() == stashed


def test_agents_run_on_the_s3_store_too(over, options, make_agent_on, texts):
    bucket, prefix = options.pop("bucket"), options.pop("prefix")
    storage = over(S3ObjectStore(bucket, **options), prefix=prefix)
    make_agent_on(storage)("one")

    assert texts(make_agent_on(storage)) == ["one", "1: one"]
    assert type(storage).__name__ == "S3Storage"
    with StrandsStorage(bucket, prefix=prefix, **options) as in_the_bucket:
        assert asyncio.run(in_the_bucket.list("")) == [LATEST]


async def test_a_client_of_another_loop_is_a_type_error(s3_client, bucket):
    store = S3ObjectStore(bucket, client=s3_client)

    with pytest.raises(TypeError, match="belongs to another event loop"):
        StrandsStorage.over(store)


@pytest.fixture
def make_agent_on(echo):
    """A function that makes an agent on a storage."""

    def make(storage, **options):
        manager = SnapstoreSessionManager("session-1", storage=storage, **options)
        return Agent(agent_id="echo", model=echo(), session_manager=manager, callback_handler=None)

    return make


class Drawer:
    """The six methods of a store and nothing else, as somebody else would write them."""

    name = "drawer"

    def __init__(self):
        self.inside = MemoryObjectStore()
        self.opened = 0

    async def open(self):
        self.opened += 1

    async def aclose(self):
        """There is nothing to release."""

    async def get(self, key, *, max_bytes):
        return await self.inside.get(key, max_bytes=max_bytes)

    async def put(self, key, data, *, if_match=None, if_none_match=False):
        return await self.inside.put(key, data, if_match=if_match, if_none_match=if_none_match)

    def scan(self, prefix, *, start_after=None, page_size=1000):
        return self.inside.scan(prefix, start_after=start_after, page_size=page_size)

    async def delete(self, keys):
        return await self.inside.delete(keys)


async def test_agents_run_on_a_store_of_ones_own(over, make_agent_on, texts):
    drawer = Drawer()
    storage = over(drawer, prefix="agents")
    one, two = make_agent_on(storage), make_agent_on(storage, on_conflict="reload")
    await one.invoke_async("one")
    with pytest.raises(snapstore.SnapshotConflictError):
        await two.invoke_async("two")
    await two.invoke_async("two")

    assert texts(make_agent_on(storage)) == ["one", "1: one", "two", "3: two"]
    assert list(drawer.inside.objects) == [f"agents/{LATEST}"]
    assert drawer.opened == 1


EACH_COPY = pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda storage: pickle.loads(pickle.dumps(storage))]
)


@EACH_COPY
@pytest.mark.parametrize("used", [False, True])
async def test_a_copy_opens_a_store_of_its_own(copied, used, over, tmp_path):
    storage = over(FileObjectStore(tmp_path), dialect="typescript", prefix="agents")
    if used:
        await storage.write("a", b"x")
    view = storage.namespace("n")
    with copied(storage) as twin, copied(view) as twin_of_view:
        storage.close()
        await twin.write("a", b"y")
        await twin_of_view.write("b", b"z")
        assert await twin.list("") == ["a", "n/b"]
        assert type(twin).__name__ == "LocalFileStorage"

    with pytest.raises(snapstore.StorageClosedError):
        await twin_of_view.read("b")


async def test_a_deep_copy_over_memory_has_the_same_objects(over):
    store = MemoryObjectStore()
    storage = over(store)
    await storage.write("a", b"x")

    with copy.deepcopy(storage) as twin:
        assert await twin.read("a") == b"x"
        await twin.write("b", b"y")
    assert set(store.objects) == {"a", "b"}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"dialect": "java"}, "dialect must be"),
        ({"timeout": 0}, "timeout must be"),
        ({"max_snapshot_bytes": 0}, "max_snapshot_bytes must be"),
        ({"prefix": "a/../b"}, "not allowed"),
        ({"prefix": "a\n"}, "control characters"),
        ({"prefix": "x" * 1024}, "too long"),
    ],
)
def test_arguments_are_checked_when_it_is_made(wrong, message):
    with pytest.raises(ValueError, match=message):
        StrandsStorage.over(MemoryObjectStore(), **wrong)


OPERATIONS = {
    "read": lambda storage: storage.read("a"),
    "write": lambda storage: storage.write("a", b"x"),
    "delete": lambda storage: storage.delete("a"),
    "list": lambda storage: storage.list(""),
    "search": lambda storage: storage.search("word"),
    "create": lambda storage: storage.create("a", b"x"),
}
EACH_OPERATION = pytest.mark.parametrize("operation", OPERATIONS)


@EACH_OPERATION
async def test_a_store_that_fails_is_an_error_of_both_kinds(operation, over):
    async def fail(call):
        return StoreFault(error=snapstore.AccessDeniedError)

    store = FaultyObjectStore(MemoryObjectStore())
    storage = over(store)
    store.fault = fail

    with pytest.raises(snapstore.AccessDeniedError) as caught:
        await OPERATIONS[operation](storage)
    assert isinstance(caught.value, SDKStorageError)


@EACH_OPERATION
async def test_a_store_that_stalls_is_a_timeout_of_both_kinds(operation, over):
    async def stall(call):
        return StoreFault(stall=True)

    store = FaultyObjectStore(MemoryObjectStore())
    storage = over(store, timeout=0.3)
    store.fault = stall

    async with asyncio.timeout(30):
        with pytest.raises(snapstore.StorageTimeoutError) as caught:
            await OPERATIONS[operation](storage)
    assert isinstance(caught.value, SDKStorageError)


async def test_a_root_that_is_no_directory_is_an_error_of_both_kinds(over, tmp_path):
    root = tmp_path / "root"
    root.write_bytes(b"a file")
    storage = over(FileObjectStore(root))

    with pytest.raises(snapstore.StorageError) as caught:
        await storage.write("a", b"x")
    assert isinstance(caught.value, SDKStorageError)


async def test_a_lost_response_to_a_save_is_no_conflict_with_itself(over, make_agent_on, texts):
    async def lose_the_first_put(call):
        if call.operation != "put" or lost:
            return None
        lost.append(call)
        return StoreFault(applied=True)

    lost = []
    store = FaultyObjectStore(MemoryObjectStore())
    storage = over(store)
    agent = make_agent_on(storage)
    store.fault = lose_the_first_put

    with pytest.raises(snapstore.OutcomeUnknownError):
        await agent.invoke_async("one")
    await agent.invoke_async("two")

    assert texts(make_agent_on(storage)) == texts(agent)


BEGIN = """
import asyncio, atexit, os, sys, threading, warnings
from strands import Agent
from strands.models import Model
from snapstore import LifecycleError, SnapshotConflictError
from snapstore.integrations.strands import SnapstoreSessionManager, StrandsStorage
from snapstore.stores import FileObjectStore, MemoryObjectStore

class Echo(Model):
    def get_config(self):
        return {}
    def update_config(self, **config):
        pass
    def structured_output(self, *args, **kwargs):
        raise NotImplementedError
    async def stream(self, messages, *args, **kwargs):
        yield {"messageStart": {"role": "assistant"}}
        yield {"contentBlockDelta": {"delta": {"text": str(len(messages))}}}
        yield {"contentBlockStop": {}}
        yield {"messageStop": {"stopReason": "end_turn"}}

store = FileObjectStore(sys.argv[2]) if sys.argv[1] == "files" else MemoryObjectStore()
storage = StrandsStorage.over(store)
manager = SnapstoreSessionManager("session-1", storage=storage, on_conflict="reload")

def make_agent():
    return Agent(agent_id="echo", model=Echo(), session_manager=manager, callback_handler=None)
"""


@pytest.fixture
def run(tmp_path):
    """A function that runs a program, which ends as it likes; it gives what that prints."""

    def run(program, store):
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", BEGIN + program, store, str(tmp_path / "root")],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.stderr == ""
        assert done.returncode == 0
        return done.stdout

    return run


EACH_STORE = pytest.mark.parametrize("store", ["files", "memory"])


@EACH_STORE
def test_a_program_that_leaves_it_open_ends_in_peace(store, run):
    assert run('make_agent()("one"); print("saved")', store) == "saved\n"


@EACH_STORE
def test_nothing_blocks_a_loop_that_is_watched(store, run):
    program = """
from blockbuster import BlockBuster

async def main():
    agent = await asyncio.to_thread(make_agent)
    await agent.invoke_async("one")
    await agent.invoke_async("x" * 1_000_000)
    assert await manager.restore_snapshot(agent)
    await manager.delete_session()
    assert await storage.list("") == []
    await asyncio.to_thread(storage.close)

watching = BlockBuster()
watching.activate()
asyncio.run(main())
print("done")
"""
    assert run(program, store) == "done\n"


def test_save_to_files_at_interpreter_exit_is_a_clear_error(run):
    program = """
agent = make_agent()
agent("one")

@atexit.register
def save():
    try:
        asyncio.run(manager.save_snapshot(agent, is_latest=True))
    except LifecycleError as error:
        print(error)
"""
    assert run(program, "files") == (
        "a file store can't be opened while the interpreter exits, since no threads are started "
        "any more: save before the main thread ends\n"
    )


def test_an_agent_in_memory_is_saved_when_the_interpreter_exits(run):
    program = """
agent = make_agent()
agent("one")
agent.messages.append({"role": "user", "content": [{"text": "x" * 2_000_000}]})

@atexit.register
def save():
    asyncio.run(manager.save_snapshot(agent, is_latest=True))
    print(sum(map(len, store.objects.values())) > 2_000_000)
"""
    assert run(program, "memory") == "True\n"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.parametrize(("store", "is_shared"), [("files", True), ("memory", False)])
def test_a_forked_child_goes_on_with_its_agents(store, is_shared, run):
    program = """
warnings.simplefilter("ignore", DeprecationWarning)  # of a fork with threads
agent = make_agent()
agent("one")
# A save holds the lock of its directory while the process is forked, at any step of it.
others = [threading.Thread(target=lambda: asyncio.run(storage.write(f"{n}", b"x" * 1_000_000)))
          for n in range(8)]
for other in others:
    other.start()
child = os.fork()
if not child:
    agent("of the child")
    asyncio.run(storage.write("0", b"child"))
    assert asyncio.run(storage.read("0")) == b"child"
    storage.close()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
for other in others:
    other.join()
try:
    agent("of the parent")
except SnapshotConflictError:
    agent("of the parent")
print([message["content"][0]["text"] for message in agent.messages][::2])
storage.close()
"""
    turns = ["one", *(["of the child"] if is_shared else []), "of the parent"]
    assert run(program, store) == f"{turns}\n"
