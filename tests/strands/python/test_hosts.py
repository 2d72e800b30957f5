"""Agents where something watches, replaces, copies or ends what they run on.

Each is a program of its own, since it changes its whole process.
"""

import asyncio
import json
import os
import subprocess
import sys

import pytest

from snapstore.testing.proxy import Fault

LATEST = "session/session-1/scopes/agent/echo/snapshots/snapshot_latest.json"

BEGIN = """
import asyncio, atexit, os, sys, threading, time, warnings
from strands import Agent
from strands.models import Model
from snapstore import LifecycleError, S3Storage, SnapshotConflictError
from snapstore.integrations.strands import SnapstoreSessionManager, StrandsStorage

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

bucket, prefix, endpoint_url, dialect = sys.argv[1:]

def make():
    return StrandsStorage(bucket, prefix=prefix, endpoint_url=endpoint_url, dialect=dialect)

def agent_of(manager):
    return Agent(
        agent_id="echo", model=Echo(), session_manager=manager, callback_handler=None
    )

storage = make()
manager = SnapstoreSessionManager("session-1", storage=storage)
LARGE = {"role": "user", "content": [{"text": "x" * 2_000_000}]}
"""


@pytest.fixture
def run(options):
    """A function that runs a program; it gives what that prints."""

    def run(program, *, before="", dialect="python", warns="error", **changes):
        where = options | changes
        done = subprocess.run(
            [
                *(sys.executable, "-W", warns, "-c", before + BEGIN + program),
                *(where["bucket"], where["prefix"], where["endpoint_url"], dialect),
            ],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.stderr == ""
        assert done.returncode == 0
        return done.stdout

    return run


EACH_DIALECT = pytest.mark.parametrize("dialect", ["python", "typescript"])


@EACH_DIALECT
def test_nothing_blocks_a_loop_that_is_watched(dialect, run):
    program = """
from blockbuster import BlockBuster

async def main():
    agent = await asyncio.to_thread(agent_of, manager)
    await storage.write("a", b"x")
    assert await storage.read("a") == b"x"
    assert "a" in await storage.list("")
    await storage.delete("a")
    agent.messages.append(LARGE)
    await manager.save_snapshot(agent, is_latest=True)
    assert await manager.restore_snapshot(agent)
    await agent.invoke_async("one")
    await manager.delete_session()
    assert await storage.list("") == []
    await asyncio.to_thread(storage.close)

watching = BlockBuster()
watching.activate()
asyncio.run(main())
print("done")
"""
    assert run(program, dialect=dialect) == "done\n"


@EACH_DIALECT
def test_an_agent_is_saved_when_the_interpreter_exits(dialect, run, storage):
    program = """
agent = agent_of(manager)
agent("one")
agent.messages.append(LARGE)
atexit.register(lambda: asyncio.run(manager.save_snapshot(agent, is_latest=True)))
"""
    assert run(program, dialect=dialect) == ""

    saved = json.loads(asyncio.run(storage.read(LATEST)))
    assert len(saved["data"]["messages"]) == 3


def test_nothing_is_opened_when_the_interpreter_exits(run):
    program = """
@atexit.register
def use():
    try:
        asyncio.run(storage.read("a"))
    except LifecycleError as error:
        print(error)
"""
    assert run(program) == (
        "StrandsStorage can't be opened while the interpreter exits, since no threads are started "
        "any more: save before the main thread ends\n"
    )


PATCHES = {
    "gevent": "import gevent.monkey; gevent.monkey.patch_all()\n",
    "gevent but for threads": "import gevent.monkey; gevent.monkey.patch_all(thread=False)\n",
    "eventlet": "import eventlet; eventlet.monkey_patch()\n",
}


@pytest.mark.parametrize("patch", PATCHES)
def test_where_threads_are_replaced_that_is_said(patch, run):
    program = """
for use in (storage.read("a"), S3Storage(bucket, endpoint_url=endpoint_url).open()):
    try:
        asyncio.run(use)
    except LifecycleError as error:
        print(error)
os._exit(0)
"""
    # Of eventlet's own deprecation, and of its shutdown, nothing is ours.
    said = run(
        program.replace("os._exit", "sys.stdout.flush(); os._exit"),
        before=PATCHES[patch],
        warns="ignore",
    )

    name = patch.split()[0]
    assert said.splitlines() == [
        f"{what} needs the threads of Python, which {name} has replaced: it works only where "
        f"{name} does not patch the standard library"
        for what in ("StrandsStorage", "a client for S3")
    ]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.parametrize("goes_on", ["saves", "restores"])
@pytest.mark.parametrize("fault", [Fault(delay=3.0), Fault(stall=3.0)], ids=["delayed", "applied"])
def test_a_child_goes_on_with_an_agent_that_is_being_saved(fault, goes_on, run, proxy, storage):
    async def hold_the_first_write(request):
        puts = [seen for seen in proxy.requests if seen.operation == "PutObject"]
        return fault if puts == [request] else None

    proxy.fault = hold_the_first_write
    program = """
warnings.simplefilter("ignore", DeprecationWarning)  # of a fork with threads
agent = agent_of(manager)
agent.messages.append({"role": "user", "content": [{"text": "of the parent"}]})
outcome = []

def save():
    try:
        asyncio.run(manager.save_snapshot(agent, is_latest=True))
    except Exception as error:
        outcome.append(error)

saving = threading.Thread(target=save)
saving.start()
while not manager._agents.all()[0].known.unconfirmed:
    time.sleep(0.01)
child = os.fork()
if not child:
    if "GOES ON" == "restores":
        while True:  # the parent may come first, and then it is another writer
            asyncio.run(manager.restore_snapshot(agent))
            try:
                agent("of the child")
                break
            except SnapshotConflictError:
                pass
    else:
        agent.messages.append({"role": "user", "content": [{"text": "of the child"}]})
        asyncio.run(manager.save_snapshot(agent, is_latest=True))
    storage.close()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
saving.join()
assert not outcome or isinstance(outcome[0], SnapshotConflictError), outcome
storage.close()
print("done")
""".replace("GOES ON", goes_on)

    assert run(program, endpoint_url=proxy.endpoint_url) == "done\n"
    assert b"of the child" in asyncio.run(storage.read(LATEST))
