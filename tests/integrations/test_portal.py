"""The portal: a resource of one event loop, used from any thread and any loop."""

import asyncio
import copy
import gc
import os
import pickle
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

import snapstore
from snapstore.integrations.portal import Portal
from snapstore.stores.managed import ManagedStore
from snapstore.stores.memory import MemoryObjectStore

WITHIN = 10.0  # seconds


class Notes(ManagedStore):
    """A store in memory; `fail_to` names the methods that fail."""

    def __init__(self):
        super().__init__(MemoryObjectStore(), timeout=WITHIN)
        self.threads = []
        self.fail_to = set()
        self.closed = threading.Event()

    async def open(self):
        self.threads.append(threading.current_thread().name)
        await asyncio.sleep(0.05)
        if "open" in self.fail_to:
            raise snapstore.StorageError("no credentials")
        await super().open()

    async def aclose(self):
        await super().aclose()
        self.closed.set()
        if "close" in self.fail_to:
            raise snapstore.StorageError("it does not close")


@pytest.fixture
def notes():
    return Notes()


@pytest.fixture
def portal(notes):
    made = portal_to(notes)
    yield made
    notes.fail_to.clear()
    made.close()


def portal_to(notes):
    return Portal("Notes", "snapstore-notes", lambda: notes)


def write(key):
    return lambda notes: notes.put(key, b"x")


def read(key):
    return lambda notes: notes.get(key, max_bytes=100)


def threads():
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("snapstore-")]


def wait_for_no_threads():
    until = time.monotonic() + WITHIN
    while threads() and time.monotonic() < until:
        time.sleep(0.01)
    assert threads() == []


def test_nothing_runs_before_the_first_use(notes, portal):
    assert threads() == []
    portal.close()
    assert notes.threads == []


def test_the_first_uses_at_once_open_the_resource_once(notes, portal):
    def work(key):
        asyncio.run(portal.run(write(key)))

    with ThreadPoolExecutor(4) as executor:
        list(executor.map(work, "abcd"))

    assert notes.threads == ["snapstore-notes"]


def test_after_a_failure_to_open_the_next_use_opens(notes, portal):
    notes.fail_to.add("open")
    with pytest.raises(snapstore.StorageError, match="no credentials"):
        asyncio.run(portal.run(read("a")))

    notes.fail_to.clear()
    assert asyncio.run(portal.run(read("a"))) is None


def test_a_wrong_argument_of_the_resource_raises_at_once():
    with pytest.raises(ValueError, match="timeout"):
        Portal("Notes", "notes", partial(ManagedStore, MemoryObjectStore(), timeout=0))


def test_call_blocks_a_thread_until_the_work_has_ended(portal):
    portal.call(write("a"))

    assert portal.call(read("a")).data == b"x"


async def test_call_works_on_a_running_loop(portal):
    assert portal.call(read("a")) is None


def test_call_raises_what_the_work_raises(portal):
    async def fail(_):
        raise snapstore.AccessDeniedError("no")

    with pytest.raises(snapstore.AccessDeniedError):
        portal.call(fail)


async def test_call_on_the_portals_own_thread_raises(portal):
    async def call_again(_):
        portal.call(read("a"))

    with pytest.raises(snapstore.LifecycleError, match="can't wait for its own thread"):
        await asyncio.wait_for(portal.run(call_again), WITHIN)


async def test_run_on_the_portals_own_loop_works(portal):
    assert await portal.run(lambda _: portal.run(read("a"))) is None


def test_an_interrupted_call_cancels_its_work(portal, monkeypatch):
    cancelled = threading.Event()

    async def work(_):
        try:
            await asyncio.sleep(WITHIN)
        finally:
            cancelled.set()

    def interrupt(future, timeout=None):
        monkeypatch.undo()
        raise KeyboardInterrupt

    portal.call(write("a"))
    monkeypatch.setattr("concurrent.futures.Future.result", interrupt)
    with pytest.raises(KeyboardInterrupt):
        portal.call(work)

    portal.close()
    assert cancelled.is_set()


async def test_a_cancelled_run_cancels_its_work(portal):
    ended, began = threading.Event(), threading.Event()
    where = []

    async def work(_):
        where.append(threading.current_thread().name)
        began.set()
        try:
            await asyncio.sleep(WITHIN)
        finally:
            ended.set()

    running = asyncio.create_task(portal.run(work))
    await asyncio.to_thread(began.wait, WITHIN)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running

    assert await asyncio.to_thread(ended.wait, WITHIN)
    assert where == ["snapstore-notes"]


async def test_shielded_work_goes_on_when_its_caller_is_cancelled(portal):
    began, ended = threading.Event(), threading.Event()

    async def work(_):
        began.set()
        await asyncio.sleep(0.1)
        ended.set()

    running = asyncio.create_task(portal.run(work, shield=True))
    await asyncio.to_thread(began.wait, WITHIN)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running

    assert not ended.is_set()
    portal.close()
    assert ended.is_set()


async def test_close_waits_for_work_whose_loop_it_blocks(portal):
    done = []

    async def work(_):
        await asyncio.sleep(0.2)
        done.append(True)

    running = asyncio.create_task(portal.run(work))
    await asyncio.sleep(0.05)
    portal.close()
    portal.close()

    assert done == [True]
    await running
    assert threads() == []
    with pytest.raises(snapstore.StorageClosedError, match="Notes is closed"):
        await portal.run(work)


def test_a_failure_to_close_is_raised(notes, portal):
    portal.call(read("a"))
    notes.fail_to.add("close")

    with pytest.raises(snapstore.StorageError, match="it does not close"):
        portal.close()
    assert threads() == []


async def test_it_may_be_closed_on_its_own_thread(portal):
    async def work(_):
        portal.close()

    await portal.run(work)

    await asyncio.to_thread(wait_for_no_threads)


def test_one_that_is_collected_open_warns_and_closes(notes):
    def drop():
        portal_to(notes).call(read("a"))
        gc.collect()

    with pytest.warns(ResourceWarning, match="Notes was never closed"):
        drop()

    assert notes.closed.wait(WITHIN)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_portal_collected_open_ends_its_thread_under_error_warnings(notes):
    portal = portal_to(notes)
    portal.call(read("a"))
    assert threads() == ["snapstore-notes"]

    del portal
    gc.collect()

    wait_for_no_threads()


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))])
def test_a_copy_has_a_resource_of_its_own(copied):
    portal = Portal("Notes", "snapstore-notes", Notes)
    portal.call(write("a"))
    twin = copied(portal)
    portal.close()

    assert twin.call(read("a")) is None
    twin.close()
    assert threads() == []


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of a fork with threads
@pytest.mark.parametrize("is_open", [True, False])
def test_a_forked_child_opens_a_resource_of_its_own(is_open):
    made = []

    def make():
        made.append(Notes())
        return made[-1]

    portal = Portal("Notes", "snapstore-notes", make)
    if is_open:
        portal.call(write("a"))
    child = os.fork()
    if not child:
        # Nothing of pytest's may run here: it ends at once, and tells by its code.
        try:
            portal.call(write("b"))
            is_own = portal.call(read("a")) is None and made[-1].threads == ["snapstore-notes"]
            portal.close()
            os._exit(0 if is_own else 1)
        finally:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
    assert len(made) == 1
    assert portal.call(read("b")) is None
    portal.close()


AT_EXIT = """
import logging
from snapstore.integrations.portal import Portal

logging.basicConfig(format="%(message)s")

class Resource:
    def __init__(self, name):
        self.name = name

    async def open(self):
        pass

    async def aclose(self):
        print("closing", self.name, flush=True)
        raise OSError("no luck")

async def use(resource):
    return resource.name

portals = [Portal(name, name, lambda name=name: Resource(name)) for name in ("one", "two", "three")]
for portal in portals:
    portal.call(use)
"""


def test_portals_close_at_exit_also_where_one_fails():
    done = subprocess.run(
        [sys.executable, "-c", AT_EXIT], capture_output=True, text=True, timeout=60, check=True
    )
    closed = sorted(line.removeprefix("closing ") for line in done.stdout.splitlines())
    assert closed == ["one", "three", "two"]
    assert done.stderr.count("was not closed at exit: no luck") == 3
