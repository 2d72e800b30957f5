"""Locks of files across forks, stops, kills, cleaners and users, in real processes."""

import asyncio
import errno
import fcntl
import os
import signal
import subprocess
import sys
import tempfile
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest

from snapstore import (
    AccessDeniedError,
    FileStorage,
    Snapshot,
    SnapshotLocation,
    StorageError,
    StorageTimeoutError,
)

LOCATION = SnapshotLocation.agent("session-1", "weather")
OTHER = SnapshotLocation.agent("session-2", "weather")
DIRECTORY = "session-1/scopes/agent/weather/snapshots"
LATEST = f"{DIRECTORY}/snapshot_latest.json"
TIMEOUT = 60
"""Seconds after which a test gives up on what would otherwise hang."""

PROLOGUE = """
import asyncio, errno, fcntl, multiprocessing, os, signal, stat, sys, threading, time
from snapstore import *

root, *arguments = sys.argv[1:]
location = SnapshotLocation.agent("session-1", "weather")

def say(word):
    print(word, flush=True)

def snapshot_of(data):
    return Snapshot("agent", "1.0", "2026-11-22T11:13:20.395Z", data, {})

def save(storage, location=location):
    return storage.save_snapshot(location=location, snapshot=snapshot_of({}), is_latest=True)

def add_one(snapshot):
    return snapshot_of({"count": 1 if snapshot is None else snapshot.data["count"] + 1})
"""
# As NFS and SMB do with files: an exclusive lock needs a descriptor that may write.
REFUSE_READ_ONLY_DESCRIPTORS = """
flock = fcntl.flock

def flock_of_a_network_file_system(descriptor, operation):
    writable = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY
    if operation & fcntl.LOCK_EX and not writable:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    flock(descriptor, operation)

fcntl.flock = flock_of_a_network_file_system
"""
STOP_IN_SYNC = """
sync = os.fsync

def stop(descriptor):
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        say("writing")
        sys.stdin.readline()
    sync(descriptor)

os.fsync = stop
"""


@pytest.fixture
def root(tmp_path):
    return tmp_path / "store"


@pytest.fixture
async def storage(root):
    async with FileStorage(root) as storage:
        yield storage


@pytest.fixture(params=["directory", "file"])
def locked(request, monkeypatch):
    """What is locked: directories, or files in them where the file system demands it.

    Gives what a process has to run to do the same.
    """
    if request.param == "directory":
        return ""
    variables = {"fcntl": fcntl, "os": os, "errno": errno}
    monkeypatch.setattr(fcntl, "flock", fcntl.flock)  # to be undone
    exec(REFUSE_READ_ONLY_DESCRIPTORS, variables)
    return REFUSE_READ_ONLY_DESCRIPTORS


def snapshot_of(data):
    return Snapshot("agent", "1.0", "2026-11-22T11:13:20.395Z", data, {})


def add_one(snapshot):
    return snapshot_of({"count": 1 if snapshot is None else snapshot.data["count"] + 1})


async def save(storage, data=None, location=LOCATION):
    return await storage.save_snapshot(
        location=location, snapshot=snapshot_of(data or {}), is_latest=True
    )


async def load(storage, location=LOCATION):
    loaded = await storage.load_snapshot(location=location)
    return None if loaded is None else loaded.data


@contextmanager
def process(script, root, *arguments, **options):
    """A Python process of its own that runs the script."""
    child = subprocess.Popen(
        [sys.executable, "-c", PROLOGUE + script, str(root), *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        **options,
    )
    with child:
        try:
            yield child
        finally:
            child.kill()


async def word_of(child):
    return (await asyncio.to_thread(child.stdout.readline)).strip()


def tell(child):
    child.stdin.write("go on\n")
    child.stdin.flush()


# Forks.

FORK_WHILE_SAVING = """
def live():
    say(f"child {os.getpid()}")
    time.sleep(600)

async def main():
    saving = 0
    all_save, go_on = threading.Event(), threading.Event()
    sync = os.fsync

    def wait(descriptor):
        nonlocal saving
        if stat.S_ISREG(os.fstat(descriptor).st_mode) and not go_on.is_set():
            saving += 1
            if saving == 8:
                all_save.set()
            go_on.wait()
        sync(descriptor)

    os.fsync = wait
    agents = [SnapshotLocation.agent("session-1", f"agent-{n}") for n in range(8)]
    async with FileStorage(root) as storage:
        saves = [asyncio.create_task(save(storage, agent)) for agent in agents]
        await asyncio.to_thread(all_save.wait)
        # As ProcessPoolExecutor does where processes are forked.
        multiprocessing.get_context("fork").Process(target=live, daemon=True).start()
        await asyncio.to_thread(sys.stdin.readline)
        go_on.set()
        await asyncio.gather(*saves)
        say("saved")
        for agent in agents:
            await save(storage, agent)
            assert await storage.load_snapshot(location=agent) is not None
        say("saved again")
        await asyncio.to_thread(sys.stdin.readline)

asyncio.run(main())
"""


@pytest.mark.parametrize("parent", ["goes on", "is killed"])
async def test_a_forked_child_keeps_no_lock(storage, locked, root, parent):
    async with asyncio.timeout(TIMEOUT):
        with process(locked + FORK_WHILE_SAVING, root) as service:
            word, child = (await word_of(service)).split()
            assert word == "child"
            try:
                if parent == "is killed":
                    service.kill()
                    await asyncio.to_thread(service.wait)
                else:
                    tell(service)
                    assert await word_of(service) == "saved"
                    assert await word_of(service) == "saved again"
                os.kill(int(child), 0)  # it lives
                for n in range(8):
                    agent = SnapshotLocation.agent("session-1", f"agent-{n}")
                    await save(storage, {"n": n}, agent)
                    assert await load(storage, agent) == {"n": n}
                await storage.delete_session(session_id="session-1")
                os.kill(int(child), 0)
            finally:
                os.kill(int(child), signal.SIGKILL)
    assert list(root.iterdir()) == []


# A writer that is stopped, or hangs.

STOPPED_WHILE_SAVING = """
sync = os.fsync

def stop(descriptor):
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        say("writing")
        # To this thread: another one would stop the process a little later.
        signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)
    sync(descriptor)

os.fsync = stop

async def main():
    async with FileStorage(root) as storage:
        await save(storage)
    say("saved")

asyncio.run(main())
"""


async def test_stopped_writer_blocks_only_its_directory(storage, locked, root):
    await save(storage, {"n": 1})
    await save(storage, {"n": 2}, OTHER)
    async with asyncio.timeout(TIMEOUT):
        with process(locked + STOPPED_WHILE_SAVING, root) as holder:
            assert await word_of(holder) == "writing"
            # More than a store has threads.
            waiting = [asyncio.create_task(save(storage, {"n": 3})) for _ in range(40)]

            async def the_rest_works():
                assert await load(storage) == {"n": 1}
                assert await storage.list_snapshot_ids(location=LOCATION) == []
                await save(storage, {"n": 2}, OTHER)
                assert await load(storage, OTHER) == {"n": 2}
                await storage.delete_session(session_id="session-2")
                await save(storage, {"n": 2}, OTHER)

            await the_rest_works()
            assert not any(task.done() for task in waiting)
            for task in waiting:
                task.cancel()
            ended = await asyncio.gather(*waiting, return_exceptions=True)
            assert {type(end) for end in ended} == {asyncio.CancelledError}
            await the_rest_works()
            async with FileStorage(root, timeout=2.0) as impatient:
                ended = await asyncio.gather(
                    save(impatient),
                    impatient.delete_session(session_id="session-1"),
                    impatient.update_latest(location=LOCATION, update=lambda _: snapshot_of({})),
                    return_exceptions=True,
                )
            assert [type(end) for end in ended] == [StorageTimeoutError] * 3
            assert all("session-1" in str(end) for end in ended)
            assert await load(storage) == {"n": 1}
            holder.send_signal(signal.SIGCONT)
            assert await word_of(holder) == "saved"
        assert await load(storage) == {}
        await save(storage, {"n": 4})
        assert await load(storage) == {"n": 4}


async def test_reads_do_not_queue_behind_slow_writes(storage, monkeypatch):
    await save(storage, {"n": 1})
    agents = [SnapshotLocation.agent("session-2", f"agent-{n}") for n in range(40)]
    go_on = threading.Event()
    sync = os.fsync

    def wait(descriptor):
        assert go_on.wait(TIMEOUT)
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", wait)
    saves = [asyncio.create_task(save(storage, {}, agent)) for agent in agents]
    try:
        async with asyncio.timeout(TIMEOUT / 2):
            assert await load(storage) == {"n": 1}
            assert await storage.list_snapshot_ids(location=LOCATION) == []
    finally:
        go_on.set()
    await asyncio.gather(*saves)


# File systems that lock no directories.

COUNT = """
async def main():
    async with FileStorage(root) as storage:
        say("ready")
        sys.stdin.readline()
        for _ in range(50):
            await storage.update_latest(location=location, update=add_one)
    say("done")

asyncio.run(main())
"""


async def test_no_update_is_lost_between_processes(storage, locked, root):
    async with asyncio.timeout(TIMEOUT):
        with process(locked + COUNT, root) as one, process(locked + COUNT, root) as two:
            for child in (one, two):
                assert await word_of(child) == "ready"
            for child in (one, two):
                tell(child)
            for _ in range(50):
                await storage.update_latest(location=LOCATION, update=add_one)
            for child in (one, two):
                assert await word_of(child) == "done"
    assert await load(storage) == {"count": 150}


async def test_delete_beside_a_writer_removes_a_killed_writers_file(storage, locked, root):
    saving = """
async def main():
    async with FileStorage(root) as storage:
        await save(storage, SnapshotLocation.agent(arguments[0], "weather"))
    say("saved")

asyncio.run(main())
"""
    script = locked + STOP_IN_SYNC + saving
    async with asyncio.timeout(TIMEOUT):
        with process(script, root, "session-1") as killed, process(script, root, "s-2") as writer:
            assert [await word_of(child) for child in (killed, writer)] == ["writing"] * 2
            killed.kill()
            await asyncio.to_thread(killed.wait)
            [left] = (root / DIRECTORY).glob(".snapstore-*")
            assert left.read_bytes()
            deleted = await storage.delete_session(session_id="session-1")
            assert deleted.objects == 0  # nothing was saved but for that
            assert [path.name for path in root.iterdir()] == ["s-2"]
            tell(writer)
            assert await word_of(writer) == "saved"
    assert await load(storage, SnapshotLocation.agent("s-2", "weather")) == {}
    await storage.delete_session(session_id="s-2")
    assert list(root.iterdir()) == []


async def test_a_delete_leaves_no_lock_file(storage, locked, root):
    await storage.checkpoint(location=LOCATION, snapshot=snapshot_of({}))
    lock_files = list(root.rglob(".snapstore.lock"))
    assert bool(lock_files) == bool(locked)

    await storage.delete_session(session_id="session-1")

    assert list(root.rglob("*")) == []


async def test_a_lock_file_that_is_a_link_is_not_followed(storage, root, tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", fcntl.flock)
    exec(REFUSE_READ_ONLY_DESCRIPTORS, {"fcntl": fcntl, "os": os, "errno": errno})
    (root / DIRECTORY).mkdir(parents=True)
    (root / DIRECTORY / ".snapstore.lock").symlink_to(tmp_path / "elsewhere")

    with pytest.raises(StorageError, match=r"\.snapstore\.lock") as caught:
        await save(storage)

    assert caught.value.code == "ELOOP"
    assert caught.value.outcome == "not applied"
    assert not (tmp_path / "elsewhere").exists()


# Cleaners.

UPDATE = """
async def main():
    async with FileStorage(root) as storage:
        await storage.update_latest(location=location, update=add_one)
    say("saved")

asyncio.run(main())
"""


async def test_a_lock_survives_a_cleaner(storage, locked, root, monkeypatch):
    await storage.update_latest(location=LOCATION, update=add_one)
    refused = asyncio.Event()
    loop = asyncio.get_running_loop()
    flock = fcntl.flock

    def see(descriptor, operation):
        try:
            flock(descriptor, operation)
        except BlockingIOError:
            loop.call_soon_threadsafe(refused.set)
            raise

    monkeypatch.setattr(fcntl, "flock", see)
    async with asyncio.timeout(TIMEOUT):
        with process(locked + STOP_IN_SYNC + UPDATE, root) as holder:
            assert await word_of(holder) == "writing"
            for path in root.rglob("*"):
                if path.is_file() and not path.stat().st_size:
                    path.unlink()
            updating = asyncio.create_task(storage.update_latest(location=LOCATION, update=add_one))
            waiting = asyncio.create_task(refused.wait())
            await asyncio.wait([updating, waiting], return_when=asyncio.FIRST_COMPLETED)
            waiting.cancel()
            tell(holder)
            while (word := await word_of(holder)) == "writing":
                tell(holder)  # it tries again
            assert word == "saved"
            await updating
    assert await load(storage) == {"count": 3}


async def test_save_waits_for_the_lock_of_the_present_directory(
    storage, root, tmp_path, monkeypatch
):
    # Another program may move a directory away after it was opened, and before it is locked.
    await save(storage, {"n": 1})
    flock = fcntl.flock
    moved = []

    def move_once(descriptor, operation):
        if not moved:
            moved.append((root / "session-1").rename(tmp_path / "moved"))
            (root / DIRECTORY).mkdir(parents=True)
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", move_once)
    await save(storage, {"n": 2})

    assert moved
    assert await load(storage) == {"n": 2}


# Users.

AS_NOBODY = """
if os.getuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
"""
SAVE_MANY = """
async def main():
    async with FileStorage(root) as storage:
        for n in range(100):
            agent = SnapshotLocation.agent(f"{arguments[0]}-{n}", "weather")
            await storage.checkpoint(location=agent, snapshot=snapshot_of({}))
            assert await storage.load_snapshot(location=agent) is not None
        await storage.delete_session(session_id=f"{arguments[0]}-0")
        report = await storage.check()
        assert report.ok, str(report)
    say("done")

asyncio.run(main())
"""
SAVE_ONE = """
async def main():
    async with FileStorage(root) as storage:
        for operation in (
            save(storage, SnapshotLocation.agent("admin-1", "weather")),
            storage.delete_session(session_id="admin-1"),
            storage.load_snapshot(location=SnapshotLocation.agent("admin-1", "weather")),
        ):
            try:
                await operation
            except AccessDeniedError as error:
                say(str(error))

asyncio.run(main())
"""


@pytest.fixture
def open_to_all():
    """A directory that every user may write in."""
    # Not in TMPDIR, which may lie in a directory that is closed to others.
    with tempfile.TemporaryDirectory(prefix="snapstore-", dir="/tmp") as directory:
        Path(directory).chmod(0o777)
        yield Path(directory)


async def test_one_run_as_another_user_disturbs_no_other_session(locked, open_to_all):
    # Whoever may not write here can't write down what was covered either.
    environment = {name: os.environ[name] for name in os.environ if name[:9] != "COVERAGE_"}
    mine = open_to_all / "admin-1"
    async with asyncio.timeout(TIMEOUT):
        with process(locked + SAVE_MANY, open_to_all, "admin") as admin:
            assert await word_of(admin) == "done"
        if os.getuid() != 0:
            mine.chmod(0)  # what another user would find
        with process(
            AS_NOBODY + locked + SAVE_MANY, open_to_all, "service", env=environment
        ) as service:
            assert await word_of(service) == "done"
        with process(AS_NOBODY + locked + SAVE_ONE, open_to_all, env=environment) as service:
            said = [await word_of(service) for _ in range(3)]
    for operation, message in zip(("put", "scan", "get"), said, strict=True):
        assert message.startswith(f"{operation} of admin-1/")
        assert f"permission denied: {mine} belongs to user {os.getuid()} with mode 0" in message
        assert "check its owner and mode" in message
    mine.chmod(0o700)


async def test_a_lock_file_of_another_user_is_named(storage, root, monkeypatch):
    await save(storage)
    opened = os.open

    def forbid(path, *arguments, **options):
        if path == ".snapstore.lock":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return opened(path, *arguments, **options)

    monkeypatch.setattr(fcntl, "flock", fcntl.flock)
    exec(REFUSE_READ_ONLY_DESCRIPTORS, {"fcntl": fcntl, "os": os, "errno": errno})
    monkeypatch.setattr(os, "open", forbid)
    (root / DIRECTORY / ".snapstore.lock").touch(mode=0o644)

    with pytest.raises(AccessDeniedError) as caught:
        await save(storage)

    assert (
        f"{root / DIRECTORY}/.snapstore.lock belongs to user {os.getuid()} with mode 0644"
        in str(caught.value)
    )
