"""A storage from wherever the SDK and its users call it: any loop, any thread, any end."""

import asyncio
import gc
import os
import subprocess
import sys
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest
from strands import Agent, tool
from strands.hooks import BeforeInvocationEvent
from strands.session import SnapshotSessionManager
from strands.vended_memory_stores.file_memory_store import FileMemoryStore
from strands.vended_plugins.context_offloader import ContextOffloader

import snapstore
from snapstore.integrations.strands import StrandsStorage
from snapstore.testing.proxy import Fault

WITHIN = 30.0  # seconds; without an end a deadlock would hold up all tests


def in_a_new_thread(work):
    with ThreadPoolExecutor(1) as executor:
        return executor.submit(work).result(WITHIN)


@pytest.fixture
def agent_of(echo, storage):
    """An agent with the SDK's own session manager."""

    def make(session="session-1", on=storage, **options):
        manager = SnapshotSessionManager(session, storage=on)
        return Agent(model=echo(), session_manager=manager, callback_handler=None, **options)

    return make


TALK = ["one", "1: one", "two", "3: two"]


async def test_an_agent_is_made_and_invoked_on_a_running_loop(agent_of, texts):
    await agent_of().invoke_async("one")
    await agent_of().invoke_async("two")

    assert texts(agent_of()) == TALK


def test_an_agent_is_called_without_a_loop(agent_of, texts):
    agent_of()("one")
    agent_of()("two")

    assert texts(agent_of()) == TALK


async def test_an_agent_is_called_while_a_loop_runs(agent_of, texts):
    agent_of()("one")
    agent_of()("two")

    assert texts(agent_of()) == TALK


async def test_an_agent_streams(agent_of, texts):
    for text in ("one", "two"):
        events = [event async for event in agent_of().stream_async(text)]
        assert "result" in events[-1]

    assert texts(agent_of()) == TALK


def test_agents_in_worker_threads(agent_of, texts):
    def work(number):
        agent_of(f"session-{number}")("one")
        agent_of(f"session-{number}")("two")
        return texts(agent_of(f"session-{number}"))

    with ThreadPoolExecutor(8) as executor:
        assert list(executor.map(work, range(16))) == [TALK] * 16


async def test_several_agents_at_once_on_one_loop(agent_of, texts):
    async def work(number):
        await agent_of(f"session-{number}").invoke_async("one")
        await agent_of(f"session-{number}").invoke_async("two")
        return texts(agent_of(f"session-{number}"))

    assert await asyncio.gather(*map(work, range(16))) == [TALK] * 16


def test_agents_on_loop_after_loop(agent_of, texts):
    agent = agent_of()
    asyncio.run(agent.invoke_async("one"))
    asyncio.run(agent.invoke_async("two"))

    assert texts(agent_of()) == TALK


def test_the_first_loop_may_be_gone(storage, no_threads):
    in_a_new_thread(lambda: asyncio.run(storage.write("a", b"x")))

    assert asyncio.run(storage.read("a")) == b"x"
    assert in_a_new_thread(lambda: asyncio.run(storage.list(""))) == ["a"]


async def test_the_loop_that_waits_may_be_blocked(storage):
    writing = asyncio.create_task(storage.write("a", b"x"))
    await asyncio.sleep(0)

    assert in_a_new_thread(lambda: asyncio.run(storage.list(""))) in ([], ["a"])
    await writing
    assert await storage.read("a") == b"x"


def test_an_agent_of_agents(agent_of, texts):
    """The tool's agent is restored and saved inside of the other one's turn."""
    inner, outer = agent_of("inner"), agent_of("outer")
    outer.add_hook(lambda event: inner("one"), BeforeInvocationEvent)
    outer("one")

    assert texts(agent_of("inner")) == TALK[:2]
    assert texts(agent_of("outer")) == TALK[:2]


@tool
def look():
    """Look around."""
    return "a tree, " * 1000


async def test_stash_offloading_and_session_share_a_storage(echo, storage):
    session = SnapshotSessionManager("session-1")

    def agent():
        return Agent(
            agent_id="a",
            model=echo(),
            tools=[look],
            storage=storage,
            session_manager=session,
            context_manager="auto",
            plugins=[ContextOffloader(max_result_tokens=100, preview_tokens=10)],
            callback_handler=None,
        )

    first = agent()
    await first.invoke_async("look")
    stash = first.context_manager.stash

    assert agent().messages == first.messages
    kept = await storage.list("context/session-1/scopes/agent/a/")
    assert kept
    assert sorted(await stash.list()) == [key.rsplit("/", 1)[1] for key in kept]
    assert {"text": "look"} in [await stash.retrieve(reference) for reference in await stash.list()]
    assert first.context_manager.stash_is_durable == (type(storage).__name__ != "InMemoryStorage")
    [offloaded] = await storage.list("offloader/")
    assert b"a tree, a tree" in await storage.read(offloaded)

    await session.delete_session()
    assert await storage.list("") == [offloaded]


async def test_a_memory_of_files_is_searched(storage):
    memory = FileMemoryStore(name="notes", storage=storage, writable=True)
    await memory.add("The theme is dark.")

    assert [entry.content for entry in await memory.search("which theme")] == ["The theme is dark."]
    [key] = await storage.list("memory/notes/")
    assert key.endswith(".md")


def test_nothing_happens_before_the_first_use(options, no_threads):
    storage = StrandsStorage(**options)

    assert no_threads() == []
    storage.close()


async def test_it_has_one_thread_for_requests_which_ends_with_it(make_storage, no_threads):
    with make_storage() as storage:
        await asyncio.gather(*(storage.write(f"{number}", b"") for number in range(100)))
        storage.namespace("n")
        mine = [name for name in no_threads() if "_" not in name]
        assert mine == ["snapstore-tests"]
        [thread] = [one for one in threading.enumerate() if one.name == "snapstore-tests"]
        assert thread.daemon

    assert no_threads() == []


async def test_to_close_on_a_loop_lets_what_is_under_way_end(make_storage, proxy, no_threads):
    async def slow(request):
        return Fault(delay=0.3)

    proxy.fault = slow
    storage = make_storage(endpoint_url=proxy.endpoint_url)
    saving = asyncio.create_task(storage.write("a", b"x"))
    deleting = asyncio.create_task(storage.delete("b"))
    await asyncio.sleep(0.1)

    storage.close()

    assert no_threads() == []
    await saving
    await deleting
    with pytest.raises(snapstore.StorageClosedError):
        await storage.read("a")


async def test_to_close_on_the_loop_that_waits_is_no_deadlock(storage, no_threads):
    saving = [asyncio.create_task(storage.write(f"{number}", b"x")) for number in range(20)]
    await asyncio.sleep(0)

    began = time.monotonic()
    storage.close()

    assert time.monotonic() - began < WITHIN
    assert no_threads() == []
    assert await asyncio.gather(*saving) == [None] * 20


def test_to_close_is_idempotent_and_for_all_threads(make_storage, no_threads):
    storage = make_storage()
    asyncio.run(storage.write("a", b""))

    with ThreadPoolExecutor(4) as executor:
        list(executor.map(lambda _: storage.close(), range(4)))
    storage.close()

    assert no_threads() == []


def test_one_that_was_never_used_can_be_closed(make_storage):
    storage = make_storage()
    storage.close()
    with pytest.raises(snapstore.StorageClosedError):
        asyncio.run(storage.read("a"))


async def test_a_cancelled_read_passes_at_once_and_the_next_one_works(make_storage, proxy):
    async def stall(request):
        return Fault(delay=20) if request.path.endswith("stalls") else None

    proxy.fault = stall
    storage = make_storage(endpoint_url=proxy.endpoint_url, max_concurrency=4)
    await storage.write("a", b"x")
    reads = [asyncio.create_task(storage.read("stalls")) for _ in range(40)]
    await asyncio.sleep(0.3)

    began = time.monotonic()
    for read in reads:
        read.cancel()
    await asyncio.wait(reads)
    assert all(read.cancelled() for read in reads)
    assert await storage.read("a") == b"x"
    assert time.monotonic() - began < 10


async def test_a_deadline_of_the_caller_is_kept(make_storage, proxy):
    async def stall(request):
        return Fault(delay=20)

    storage = make_storage(endpoint_url=proxy.endpoint_url)
    await storage.write("a", b"x")
    proxy.fault = stall

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await storage.read("a")


def test_one_that_is_dropped_open_warns_and_leaves_nothing(options, no_threads):
    def drop():
        asyncio.run(StrandsStorage(**options).write("a", b""))
        gc.collect()

    with pytest.warns(ResourceWarning, match=r"StrandsStorage was never closed; use 'with'"):
        drop()

    until = time.monotonic() + WITHIN
    while no_threads() and time.monotonic() < until:
        time.sleep(0.01)
    assert no_threads() == []


def test_one_that_is_dropped_unused_or_closed_does_not_warn(options):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        StrandsStorage(**options)
        storage = StrandsStorage(**options)
        asyncio.run(storage.write("a", b""))
        storage.close()
        del storage
        gc.collect()


PROGRAM = """
import asyncio, os, sys, threading
from snapstore.integrations.strands import StrandsStorage

storage = StrandsStorage({bucket!r}, prefix={prefix!r}, endpoint_url={endpoint_url!r})
{rest}
"""


def run(rest, options, *, code=0):
    """Run a program that ends as it likes; return what it prints."""
    program = PROGRAM.format(**options, rest=rest)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        env=os.environ | {"PYTHONPATH": ""},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stderr == ""
    assert done.returncode == code
    return done.stdout


END_OPEN = 'asyncio.run(storage.write("a", b"x")); print("written")'


@pytest.mark.parametrize(
    "rest",
    [
        END_OPEN,
        f"{END_OPEN}; storage.close()",
        f"{END_OPEN}; sys.exit()",
        f"{END_OPEN}; view = storage.namespace('n'); del storage; asyncio.run(view.read('a'))",
        f"import atexit; atexit.register(lambda: asyncio.run(storage.list(''))); {END_OPEN}",
        f"def work(): {END_OPEN}\nt = threading.Thread(target=work)\nt.start(); t.join()",
    ],
)
def test_a_program_ends_in_peace(rest, options):
    assert run(rest, options) == "written\n"


def test_program_that_ends_waits_for_its_write(options, storage):
    rest = """
def work():
    asyncio.run(storage.write("under-way", b"x" * 4_000_000))
asyncio.run(storage.write("a", b"x"))
threading.Thread(target=work, daemon=True).start()
while not storage._portal._host._uses:
    pass
"""
    run(rest, options)

    assert asyncio.run(storage.read("under-way")) == b"x" * 4_000_000


def test_an_exception_ends_a_program_with_that_alone(options):
    rest = f"{END_OPEN}\nos.close(2)\nraise SystemExit(3)"

    assert run(rest, options, code=3) == "written\n"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_child_that_was_forked_has_a_client_of_its_own(options):
    rest = """
import warnings
warnings.simplefilter("ignore", DeprecationWarning)  # of a fork with threads
asyncio.run(storage.write("a", b"parent"))
child = os.fork()
if not child:
    assert asyncio.run(storage.read("a")) == b"parent"
    asyncio.run(storage.write("a", b"child"))
    storage.close()
    sys.exit()
assert os.waitpid(child, 0)[1] == 0
assert asyncio.run(storage.read("a")) == b"child"
storage.close()
print("both")
"""
    assert run(rest, options) == "both\n"


def test_without_the_sdk_one_line_says_what_to_install(options):
    program = """
import sys
sys.modules["strands"] = None
from snapstore.integrations.strands import convert_snapshot
try:
    from snapstore.integrations.strands import StrandsStorage
except ImportError as error:
    print(type(error).__name__, error)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )

    assert done.stdout == (
        "ModuleNotFoundError this needs the Strands SDK, 1.62 or newer: "
        "pip install 'snapstore[strands]'\n"
    )


def test_the_sdk_is_imported_only_by_who_asks_for_it():
    program = (
        "import sys; from snapstore.integrations.strands import convert_snapshot; "
        "print('strands' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )

    assert done.stdout == "False\n"
