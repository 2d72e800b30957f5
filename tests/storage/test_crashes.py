"""What a process leaves that is killed, or told to stop, while it writes."""

import asyncio
import inspect
import json
import signal
import subprocess
import sys
from contextlib import asynccontextmanager, contextmanager
from itertools import count, groupby

import pytest

from snapstore import FileStorage, S3Storage, Snapshot, SnapshotLocation
from snapstore.testing.proxy import Fault, recording_proxy

LOCATION = SnapshotLocation.agent("session-1", "weather")
OLD_ID = "01912a3b-0001-7000-8000-000000000001"
NEW_ID = "01912a3b-0002-7000-8000-000000000002"
TIMEOUT = 60
"""Seconds after which a test gives up on what would otherwise hang."""


def snapshot_of(n, size=0):
    data = {"n": n, "text": str(n) * size}
    return Snapshot("agent", "1.0", "2026-11-22T11:13:20.395Z", data, {})


PROLOGUE = f"""
import asyncio, errno, fcntl, json, os, resource, signal, stat, sys, threading, traceback
from snapstore import FileStorage, S3Storage, Snapshot, SnapshotLocation

LOCATION = SnapshotLocation.agent("session-1", "weather")
NEW_ID = "{NEW_ID}"

{inspect.getsource(snapshot_of)}

def say(word):
    print(word, flush=True)

async def save(storage, size=0):
    await storage.save_snapshot(location=LOCATION, snapshot=snapshot_of(2, size), is_latest=True)

async def checkpoint(storage, size=0):
    await storage.checkpoint(
        location=LOCATION, snapshot=snapshot_of(2, size), snapshot_id=NEW_ID
    )

async def delete(storage, size=0):
    await storage.delete_session(session_id="session-1")
"""


@contextmanager
def process(script, *arguments):
    """A Python process of its own that runs the script."""
    command = [sys.executable, "-W", "always::ResourceWarning", "-c", PROLOGUE + script]
    child = subprocess.Popen(
        [*command, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with child:
        try:
            yield child
        finally:
            child.kill()


async def word_of(child):
    return (await asyncio.to_thread(child.stdout.readline)).strip()


async def kill(child):
    child.kill()
    assert await asyncio.to_thread(child.wait, TIMEOUT) == -signal.SIGKILL


async def latest(storage):
    return await storage.load_snapshot(location=LOCATION)


async def history(storage):
    return {
        snapshot_id: await storage.load_snapshot(location=LOCATION, snapshot_id=snapshot_id)
        for snapshot_id in await storage.list_snapshot_ids(location=LOCATION)
    }


# Killed beside S3.


@pytest.fixture
def place(bucket, prefix):
    """Where snapshots lie on S3, as arguments of a process."""
    return bucket, prefix


@pytest.fixture
async def storage(s3_server, place, monkeypatch):
    """A storage on S3; processes find the server and the credentials in the environment."""
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    bucket, prefix = place
    async with S3Storage(bucket, prefix=prefix) as storage:
        yield storage


CHECKPOINT_ON_S3 = """
async def main(bucket, prefix, url):
    async with S3Storage(bucket, prefix=prefix, endpoint_url=url) as storage:
        await checkpoint(storage)

asyncio.run(main(*sys.argv[1:]))
"""
WRITE_TO_S3 = """
async def main(bucket, prefix, url, write):
    async with S3Storage(bucket, prefix=prefix, endpoint_url=url) as storage:
        await globals()[write](storage, size=3_000_000)

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.parametrize(
    ("held_back", "ids"), [("immutable_history", [OLD_ID]), ("snapshot_latest", [OLD_ID, NEW_ID])]
)
async def test_checkpoint_cut_short_is_repeatable(s3_server, storage, place, held_back, ids):
    await storage.checkpoint(location=LOCATION, snapshot=snapshot_of(1), snapshot_id=OLD_ID)
    held, killed = asyncio.Event(), asyncio.Event()

    async def hold(request):
        if held_back not in request.path:
            return None
        held.set()
        await killed.wait()
        return Fault(forward=False)

    async with asyncio.timeout(TIMEOUT), recording_proxy(s3_server.endpoint_url) as proxy:
        proxy.fault = hold
        with process(CHECKPOINT_ON_S3, *place, proxy.endpoint_url) as writer:
            await held.wait()
            await kill(writer)
        killed.set()

    assert await latest(storage) == snapshot_of(1)
    whole = {OLD_ID: snapshot_of(1), NEW_ID: snapshot_of(2)}
    assert await history(storage) == {snapshot_id: whole[snapshot_id] for snapshot_id in ids}

    await storage.checkpoint(location=LOCATION, snapshot=snapshot_of(2), snapshot_id=NEW_ID)
    assert await latest(storage) == snapshot_of(2)
    assert await history(storage) == whole


@asynccontextmanager
async def breaking_off(endpoint_url, part):
    """A tunnel through which only a part of the first body goes, until its sender has gone."""
    held, gone, finished = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def carry(reader, writer):
        head = await reader.readuntil(b"\r\n\r\n")
        fields = dict(line.split(": ", 1) for line in head.decode().splitlines()[1:] if line)
        body = await reader.readexactly(int(int(fields["Content-Length"]) * part))
        host, port = endpoint_url.removeprefix("http://").split(":")
        answer, server = await asyncio.open_connection(host, int(port))
        try:
            server.write(head + body)
            await server.drain()
            held.set()
            await gone.wait()
            server.write_eof()
            await answer.read()  # until the server has given up, too
        finally:
            server.close()
            writer.close()
            finished.set()

    listening = await asyncio.start_server(carry, "127.0.0.1", 0, limit=2**24)
    host, port = listening.sockets[0].getsockname()
    async with listening:
        yield f"http://{host}:{port}", held
        gone.set()
        await finished.wait()


@pytest.mark.seaweedfs  # moto takes what has come for the whole
@pytest.mark.parametrize(
    ("write", "part"), [("save", 0.0), ("save", 0.5), ("save", 0.999_999), ("checkpoint", 0.5)]
)
async def test_a_body_cut_short_is_never_there(s3_server, storage, place, write, part):
    await storage.checkpoint(location=LOCATION, snapshot=snapshot_of(1), snapshot_id=OLD_ID)

    async with (
        asyncio.timeout(TIMEOUT),
        breaking_off(s3_server.endpoint_url, part) as (url, held),
    ):
        with process(WRITE_TO_S3, *place, url, write) as writer:
            await held.wait()
            await kill(writer)

    assert await latest(storage) == snapshot_of(1)
    assert await history(storage) == {OLD_ID: snapshot_of(1)}


# Killed beside files.

DIE = """
async def act(root, write):
    async with FileStorage(root) as storage:
        await globals()[write](storage, size=200_000)

CHANGING = (
    "open", "mkdir", "fsync", "write", "truncate", "replace", "rename", "link", "unlink", "rmdir"
)

def flock(descriptor, operation, flock=fcntl.flock):
    if stat.S_ISDIR(os.fstat(descriptor).st_mode) and not directories_are_locked:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    flock(descriptor, operation)

def dying(function):
    # Before the step, so that what is left is what all the steps before it have made.
    def step(*arguments, **options):
        global steps
        reads = function.__name__ == "open" and not arguments[1] & os.O_CREAT
        if threading.current_thread() is not threading.main_thread() and not reads:
            steps -= 1
            if steps == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **options)

    return step

for line in sys.stdin:
    root, write, steps, most_bytes, directories_are_locked = json.loads(line)
    child = os.fork()
    if not child:
        ended = 1
        try:
            for name in CHANGING:
                setattr(os, name, dying(getattr(os, name)))
            fcntl.flock = dying(flock)
            if most_bytes is not None:
                signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
                resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
                resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))
            asyncio.run(act(root, write))
            ended = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(ended)
    say(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@contextmanager
def mortals():
    """Lets processes write: each dies at a step, or at a byte. Gives how one has ended."""
    with process(DIE) as parent:

        async def write(root, write, *, step=0, most_bytes=None, locked="directory"):
            arguments = [str(root), write, step, most_bytes, locked == "directory"]
            parent.stdin.write(json.dumps(arguments) + "\n")
            parent.stdin.flush()
            return int(await word_of(parent))

        yield write


def snapshots_in(root):
    """All files but what the store keeps for itself: each is a whole document."""
    paths = [path for path in root.rglob("*.json") if path.is_file()]
    return {path.name: json.loads(path.read_bytes()) for path in paths}


async def check_what_is_left(storage, root, *, may_be, delete_at_once=True):
    """That all is whole, free and can be erased, at once or after another save."""
    lasting = await latest(storage)
    kept = await history(storage)
    for snapshot in (lasting, *kept.values()):
        assert snapshot in may_be
    names = {f"snapshot_{snapshot_id}.json" for snapshot_id in kept} | {"snapshot_latest.json"}
    assert snapshots_in(root).keys() <= names
    async with asyncio.timeout(TIMEOUT):
        if delete_at_once:
            await storage.delete_session(session_id="session-1")
            assert list(root.iterdir()) == []
        await storage.save_snapshot(location=LOCATION, snapshot=snapshot_of(3), is_latest=True)
        assert await latest(storage) == snapshot_of(3)
        await storage.delete_session(session_id="session-1")
    assert await history(storage) == {}
    assert list(root.iterdir()) == []
    return lasting, kept


@pytest.mark.parametrize("locked", ["directory", "file"])
@pytest.mark.parametrize(
    ("before", "write"),
    [
        ("nothing", "save"),
        ("nothing", "checkpoint"),
        ("a snapshot", "save"),
        ("a snapshot", "checkpoint"),
        ("a snapshot", "delete"),
    ],
)
async def test_killed_at_any_step_a_process_leaves_the_old_or_the_new(
    tmp_path, before, write, locked
):
    size = 200_000
    old = None if before == "nothing" else snapshot_of(1, size)
    new = None if write == "delete" else snapshot_of(2, size)
    seen = []
    with mortals() as writing:
        for step in count(1):
            root = tmp_path / str(step)
            root.mkdir()
            async with FileStorage(root) as storage:
                if old is not None:
                    await storage.checkpoint(location=LOCATION, snapshot=old, snapshot_id=OLD_ID)
                ended = await writing(root, write, step=step, locked=locked)
                lasting, kept = await check_what_is_left(
                    storage, root, may_be=(old, new), delete_at_once=step % 2
                )
            if write == "checkpoint" and lasting == new:
                assert NEW_ID in kept
            seen.append(lasting)
            if ended == 0:
                break
            assert ended == -signal.SIGKILL
    assert seen[0] == old
    assert seen[-1] == new
    # What was once written is not taken back.
    assert [lasting for lasting, _ in groupby(seen, key=lambda lasting: lasting == new)] == [
        False,
        True,
    ]
    assert len(seen) > 5


@pytest.mark.parametrize("write", ["save", "checkpoint"])
@pytest.mark.parametrize("most_bytes", [1, 100_000, 200_000])
async def test_killed_in_the_middle_of_a_file_a_process_leaves_the_old(tmp_path, write, most_bytes):
    old = snapshot_of(1, 200_000)
    async with FileStorage(tmp_path) as storage:
        await storage.checkpoint(location=LOCATION, snapshot=old, snapshot_id=OLD_ID)
        with mortals() as writing:
            assert await writing(tmp_path, write, most_bytes=most_bytes) == -signal.SIGXFSZ
        left = await check_what_is_left(storage, tmp_path, may_be=(old,))
    assert left == (old, {OLD_ID: old})


STOP = """
sync = os.fsync

def stop(descriptor):
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        say("stopped")
        sys.stdin.readline()
    sync(descriptor)

os.fsync = stop
"""
WRITE_TO_FILES = """
async def main(root, write):
    async with FileStorage(root) as storage:
        await globals()[write](storage)

asyncio.run(main(*sys.argv[1:]))
"""


async def test_a_lock_is_free_when_its_holder_is_killed(tmp_path):
    async with asyncio.timeout(TIMEOUT), FileStorage(tmp_path) as storage:
        with process(STOP + WRITE_TO_FILES, tmp_path, "save") as holder:
            assert await word_of(holder) == "stopped"
            saving = asyncio.create_task(
                storage.save_snapshot(location=LOCATION, snapshot=snapshot_of(3), is_latest=True)
            )
            # However long it waited, it would not be done.
            assert await asyncio.wait([saving], timeout=0.1) == (set(), {saving})
            await kill(holder)
        await saving
        assert await latest(storage) == snapshot_of(3)


# Told to stop.

STOPPABLE = """
async def main(*arguments):
    say("ready")
    async with open_storage(*arguments) as storage:
        await save(storage)

async def until_terminated(work):
    task = asyncio.ensure_future(work)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    try:
        await task
    except asyncio.CancelledError:
        say("cancelled")

# Whoever is started in the background by a shell ignores it.
signal.signal(signal.SIGINT, signal.default_int_handler)
how, *arguments = sys.argv[1:]
work = main(*arguments)
asyncio.run(until_terminated(work) if how == "SIGTERM" else work)
"""
ON_S3 = """
def open_storage(bucket, prefix, url):
    return S3Storage(bucket, prefix=prefix, endpoint_url=url)
"""
ON_FILES = """
def open_storage(root):
    return FileStorage(root)
"""


async def stop(child, how):
    """Tell a process to stop; it may complain of nothing but that."""
    child.send_signal(how)
    said, complained = await asyncio.to_thread(child.communicate, "go on\n", TIMEOUT)
    if how == signal.SIGTERM:
        assert (child.returncode, said, complained) == (0, "cancelled\n", "")
        return
    assert child.returncode == -signal.SIGINT
    assert complained.endswith("KeyboardInterrupt\n")
    for words in ("nclosed", "never", "destroyed", "Warning", "ignored", "snapstore.errors"):
        assert words not in complained


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("moment", ["opening", "saving"])
async def test_told_to_stop_beside_s3_a_process_goes_without_complaint(
    s3_server, storage, place, moment, how
):
    held, gone = asyncio.Event(), asyncio.Event()

    async def hold(request):
        held.set()
        await gone.wait()
        return Fault(forward=False)

    async with asyncio.timeout(TIMEOUT), recording_proxy(s3_server.endpoint_url) as proxy:
        proxy.fault = hold
        with process(ON_S3 + STOPPABLE, how.name, *place, proxy.endpoint_url) as child:
            assert await word_of(child) == "ready"
            if moment == "saving":
                await held.wait()
            await stop(child, how)
        gone.set()
    assert await latest(storage) is None


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
async def test_process_told_to_stop_finishes_its_write_to_files(tmp_path, how):
    with process(STOP + ON_FILES + STOPPABLE, how.name, tmp_path) as child:
        assert await word_of(child) == "ready"
        assert await word_of(child) == "stopped"
        await stop(child, how)
    async with FileStorage(tmp_path) as storage:
        left, _ = await check_what_is_left(storage, tmp_path, may_be=(None, snapshot_of(2)))
    assert left == snapshot_of(2)
