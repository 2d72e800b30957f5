"""What files promise beyond the suites: processes, crashes, links, full disks, a free loop."""

import asyncio
import errno
import json
import os
import signal
import stat
import subprocess
import sys
import threading
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from snapstore import (
    AccessDeniedError,
    FileStorage,
    Snapshot,
    SnapshotConflictError,
    SnapshotLocation,
    SnapshotManifest,
    SnapstoreError,
    StorageError,
)

LOCATION = SnapshotLocation.agent("session-1", "weather")
FOLDER = "session-1/scopes/agent/weather/snapshots"
LATEST = f"{FOLDER}/snapshot_latest.json"
HISTORY = f"{FOLDER}/immutable_history"
IDS = [f"01912a3b-000{n}-7000-8000-00000000000{n}" for n in range(5)]
TIMEOUT = 60
"""Seconds after which a test gives up on what would otherwise hang."""


@pytest.fixture
def root(tmp_path):
    return tmp_path / "store"


@pytest.fixture
async def storage(root):
    async with FileStorage(root) as storage:
        yield storage


def snapshot_of(data):
    return Snapshot("agent", "1.0", "2026-11-22T11:13:20.395Z", data, {})


async def save_latest(storage, data, location=LOCATION):
    return await storage.save_snapshot(
        location=location, snapshot=snapshot_of(data), is_latest=True
    )


async def load_data(storage, location=LOCATION):
    loaded = await storage.load_snapshot(location=location)
    return None if loaded is None else loaded.data


async def save_history(storage, snapshot_id):
    await storage.save_snapshot(
        location=LOCATION, snapshot=snapshot_of({}), is_latest=False, snapshot_id=snapshot_id
    )


def tree(folder, *, own=False):
    """All that lies in a folder; what the store keeps for itself only if it is asked for."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
        if own or not path.name.startswith(".snapstore")
    }


def files(folder, *, own=False):
    return {path: data for path, data in tree(folder, own=own).items() if data is not None}


def temporary_files(root):
    """The unfinished files of writers."""
    return [path for path in files(root, own=True) if "/.snapstore-" in path]


# On the disk.


async def test_snapshots_are_plain_json_where_the_reference_puts_them(storage, root):
    snapshot = snapshot_of({"text": "ü", "n": 1})
    await storage.checkpoint(location=LOCATION, snapshot=snapshot, snapshot_id=IDS[0])
    await storage.save_manifest(location=LOCATION, manifest=SnapshotManifest("1.0", "now"))

    document = {
        "scope": "agent",
        "schemaVersion": "1.0",
        "createdAt": "2026-11-22T11:13:20.395Z",
        "data": {"text": "ü", "n": 1},
        "appData": {},
    }
    assert {path: json.loads(data) for path, data in files(root).items()} == {
        LATEST: document,
        f"{HISTORY}/snapshot_{IDS[0]}.json": document,
        f"{FOLDER}/manifest.json": {"schemaVersion": "1.0", "updatedAt": "now"},
    }


async def test_files_that_were_put_there_by_hand_are_found(storage, root):
    (root / HISTORY).mkdir(parents=True)
    document = '{"scope":"agent","schema_version":"1.0","created_at":"","data":{"by":"hand"}}'
    (root / LATEST).write_text(document)
    (root / HISTORY / f"snapshot_{IDS[1]}.json").write_text(document)

    assert await load_data(storage) == {"by": "hand"}
    assert await storage.list_snapshot_ids(location=LOCATION) == [IDS[1]]
    assert (await storage.delete_session(session_id="session-1")).objects == 2


async def test_opening_and_closing_touches_no_file(root, monkeypatch):
    touched = []
    for name in ("open", "mkdir", "makedirs", "scandir", "listdir", "stat"):
        record(monkeypatch, name, touched.append)

    async with FileStorage(root):
        pass

    assert touched == []
    monkeypatch.undo()
    assert not root.exists()


async def test_reading_makes_nothing(storage, root):
    assert await load_data(storage) is None
    assert await storage.list_snapshot_ids(location=LOCATION) == []
    assert (await storage.load_manifest(location=LOCATION)).schema_version == "1.0"
    assert (await storage.delete_session(session_id="session-1")).objects == 0

    assert not root.exists()


async def test_a_relative_root_is_resolved_when_the_storage_is_opened(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()

    async with FileStorage("some/store") as storage:
        monkeypatch.chdir(tmp_path / "elsewhere")
        await save_latest(storage, {"n": 1})

    assert (tmp_path / "some/store" / LATEST).is_file()


async def test_names_that_begin_with_a_dot_are_no_snapshots(storage, root):
    await save_history(storage, IDS[0])
    (root / HISTORY / f".snapshot_{IDS[1]}.json").write_text("{}")
    (root / HISTORY / f".snapshot_{IDS[2]}.json.swp").write_text("{}")

    assert await storage.list_snapshot_ids(location=LOCATION) == [IDS[0]]


async def test_a_folder_with_the_name_of_a_snapshot_is_none(storage, root):
    await save_history(storage, IDS[0])
    (root / HISTORY / f"snapshot_{IDS[1]}.json" / "deeper").mkdir(parents=True)
    (root / LATEST).mkdir()

    assert await storage.list_snapshot_ids(location=LOCATION) == [IDS[0]]
    assert await storage.load_snapshot(location=LOCATION, snapshot_id=IDS[1]) is None
    assert await load_data(storage) is None


async def test_ids_are_listed_in_order_whatever_the_order_of_writing(storage):
    for snapshot_id in (IDS[3], IDS[0], IDS[4], IDS[1], IDS[2]):
        await save_history(storage, snapshot_id)

    ids = await storage.list_snapshot_ids(location=LOCATION, start_after=IDS[0], limit=3)

    assert ids == IDS[1:4]


async def test_a_listing_does_not_look_into_other_sessions(storage, root, monkeypatch):
    await save_history(storage, IDS[0])
    for name in ("a", "session-0", "session-10", "z"):
        await save_latest(storage, {}, SnapshotLocation.agent(name, "weather"))
    looked = []
    record(monkeypatch, "scandir", lambda descriptor: looked.append(os.fstat(descriptor).st_ino))

    assert await storage.list_snapshot_ids(location=LOCATION) == [IDS[0]]

    monkeypatch.undo()
    assert looked == [(root / HISTORY).stat().st_ino]


# Links: whatever lies outside of the root is never touched.


@pytest.fixture
def outside(tmp_path):
    """A store of somebody else's, with a session like ours."""
    folder = tmp_path / "outside"
    for path in (f"{HISTORY}/snapshot_{IDS[0]}.json", LATEST, f"{FOLDER}/manifest.json"):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text('{"outside": true}')
    return folder


@contextmanager
def untouched(folder):
    before = tree(folder, own=True)
    yield
    assert tree(folder, own=True) == before


LINKED_FOLDERS = [
    pytest.param("session-1", id="session"),
    pytest.param("session-1/scopes", id="scopes"),
    pytest.param("session-1/scopes/agent", id="scope"),
    pytest.param("session-1/scopes/agent/weather", id="scope id"),
    pytest.param(FOLDER, id="snapshots"),
]


def link(root, outside, path):
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).symlink_to(outside / path)


OPERATIONS = {
    "load": lambda storage: storage.load_snapshot(location=LOCATION),
    "load history": lambda storage: storage.load_snapshot(location=LOCATION, snapshot_id=IDS[0]),
    "load manifest": lambda storage: storage.load_manifest(location=LOCATION),
    "save": lambda storage: save_latest(storage, {}),
    "save history": lambda storage: save_history(storage, IDS[1]),
    "save manifest": lambda storage: storage.save_manifest(
        location=LOCATION, manifest=SnapshotManifest("1.0", "now")
    ),
    "checkpoint": lambda storage: storage.checkpoint(location=LOCATION, snapshot=snapshot_of({})),
    "update": lambda storage: storage.update_latest(
        location=LOCATION, update=lambda _: snapshot_of({})
    ),
    "list": lambda storage: storage.list_snapshot_ids(location=LOCATION),
    "delete": lambda storage: storage.delete_session(session_id="session-1"),
}
EACH_OPERATION = pytest.mark.parametrize("operation", OPERATIONS)


@EACH_OPERATION
@pytest.mark.parametrize("path", LINKED_FOLDERS)
async def test_nothing_is_reached_through_a_linked_folder(storage, root, outside, path, operation):
    link(root, outside, path)

    with untouched(outside), pytest.raises(StorageError, match="symbolic link") as caught:
        await OPERATIONS[operation](storage)

    assert caught.value.code == "ELOOP"
    assert path in str(caught.value)


@pytest.mark.parametrize("operation", ["load history", "save history", "list", "delete"])
async def test_nothing_is_reached_through_a_linked_history(storage, root, outside, operation):
    link(root, outside, HISTORY)

    with untouched(outside), pytest.raises(StorageError, match="symbolic link"):
        await OPERATIONS[operation](storage)


async def test_a_linked_file_is_not_read(storage, root, outside):
    link(root, outside, LATEST)
    link(root, outside, f"{FOLDER}/manifest.json")
    link(root, outside, f"{HISTORY}/snapshot_{IDS[0]}.json")

    with untouched(outside):
        for operation in ("load", "load history", "load manifest", "update"):
            with pytest.raises(StorageError, match="symbolic link") as caught:
                await OPERATIONS[operation](storage)
            assert caught.value.code == "ELOOP"


async def test_a_linked_file_is_replaced_and_its_target_is_not(storage, root, outside):
    link(root, outside, LATEST)

    with untouched(outside):
        await save_latest(storage, {"n": 1})

    assert not (root / LATEST).is_symlink()
    assert await load_data(storage) == {"n": 1}


async def test_a_linked_file_is_deleted_and_its_target_is_not(storage, root, outside):
    link(root, outside, LATEST)
    (root / FOLDER / "dangling").symlink_to("nowhere")

    with untouched(outside):
        deleted = await storage.delete_session(session_id="session-1")

    assert deleted.objects == 2
    assert tree(root) == {}


async def test_the_root_itself_may_be_a_link(tmp_path, root):
    (tmp_path / "real").mkdir()
    root.symlink_to(tmp_path / "real")

    async with FileStorage(root) as storage:
        await save_history(storage, IDS[0])
        assert await storage.list_snapshot_ids(location=LOCATION) == [IDS[0]]

    assert (tmp_path / "real" / HISTORY).is_dir()


# What is no file.


@EACH_OPERATION
async def test_a_root_that_is_a_file_is_an_error(root, operation):
    root.write_text("a file")

    async with FileStorage(root) as storage:
        with pytest.raises(StorageError) as caught:
            await OPERATIONS[operation](storage)

    assert str(root) in str(caught.value)
    assert root.read_text() == "a file"


@EACH_OPERATION
async def test_a_root_under_a_file_is_an_error(tmp_path, operation):
    (tmp_path / "file").write_text("a file")

    async with FileStorage(tmp_path / "file" / "store") as storage:
        with pytest.raises(StorageError):
            await OPERATIONS[operation](storage)


async def test_file_in_place_of_a_directory_holds_no_snapshot(storage, root):
    (root / "session-1/scopes").mkdir(parents=True)
    (root / "session-1/scopes/agent").write_text("a file")

    assert await load_data(storage) is None
    assert await storage.list_snapshot_ids(location=LOCATION) == []
    with pytest.raises(StorageError):
        await save_latest(storage, {})
    # Nothing shows that there is such a session.
    assert (await storage.delete_session(session_id="session-1")).kept == 1


async def test_named_pipe_in_place_of_a_snapshot_is_an_error(storage, root):
    (root / HISTORY).mkdir(parents=True)
    os.mkfifo(root / LATEST)
    os.mkfifo(root / HISTORY / f"snapshot_{IDS[0]}.json")

    async with asyncio.timeout(TIMEOUT):
        for operation in ("load", "load history", "update"):
            with pytest.raises(StorageError, match="not a regular file"):
                await OPERATIONS[operation](storage)
        await save_latest(storage, {"n": 1})
        assert await load_data(storage) == {"n": 1}
        assert (await storage.delete_session(session_id="session-1")).objects == 2
    assert tree(root) == {}


async def test_delete_removes_files_whose_names_are_no_text(storage, root):
    await save_latest(storage, {})
    (root / "session-1" / os.fsdecode(b"\xff\xfe.json")).write_text("{}")

    deleted = await storage.delete_session(session_id="session-1")

    assert deleted.objects == 2
    assert tree(root) == {}


# Deleting.


async def test_a_delete_removes_the_folders_that_it_empties(storage, root):
    for location in (LOCATION, SnapshotLocation.multi_agent("session-1", "graph")):
        snapshot = Snapshot.new({}, scope=location.scope)
        await storage.checkpoint(location=location, snapshot=snapshot)

    await storage.delete_session(session_id="session-1")

    assert tree(root) == {}
    assert root.is_dir()


async def test_a_delete_leaves_every_other_folder(storage, root):
    await storage.checkpoint(location=LOCATION, snapshot=snapshot_of({}))
    await save_latest(storage, {"n": 10}, SnapshotLocation.agent("session-10", "weather"))
    nested = root / "session-1/s/scopes/agent/a/snapshots/snapshot_latest.json"
    nested.parent.mkdir(parents=True)
    nested.write_text("{}")
    (root / "session-1/somebody/elses").mkdir(parents=True)
    (root / "empty").mkdir()

    deleted = await storage.delete_session(session_id="session-1")

    assert (deleted.objects, deleted.kept) == (2, 1)
    assert not (root / "session-1/scopes").exists()
    assert (root / "session-1/somebody/elses").is_dir()
    assert (root / "empty").is_dir()
    assert set(files(root)) == {
        LATEST.replace("session-1/", "session-10/"),
        "session-1/s/scopes/agent/a/snapshots/snapshot_latest.json",
    }


async def test_names_that_begin_with_a_dot_stay_where_they_are(storage, root):
    await storage.checkpoint(location=LOCATION, snapshot=snapshot_of({}), snapshot_id=IDS[0])
    (root / FOLDER / ".DS_Store").write_text("of the desktop")
    (root / "session-1" / ".git").mkdir()
    (root / "session-1" / ".git" / "HEAD").write_text("of a tool")

    deleted = await storage.delete_session(session_id="session-1")

    assert deleted.objects == 2
    assert files(root) == {
        f"{FOLDER}/.DS_Store": b"of the desktop",
        "session-1/.git/HEAD": b"of a tool",
    }


async def test_deletes_and_writes_at_once_fail_with_nothing(storage, root):
    written = asyncio.Event()

    async def write(n):
        location = SnapshotLocation.agent("session-1", f"agent-{n}")
        for count in range(25):
            await storage.save_snapshot(
                location=location, snapshot=snapshot_of({"count": count}), is_latest=True
            )
            await storage.load_snapshot(location=location)
            await storage.list_snapshot_ids(location=location)
            await storage.save_snapshot(
                location=location, snapshot=snapshot_of({}), is_latest=False
            )

    async def delete():
        while not written.is_set():
            await storage.delete_session(session_id="session-1")

    async with asyncio.timeout(TIMEOUT):
        deleting = [asyncio.create_task(delete()) for _ in range(2)]
        await asyncio.gather(*(write(n) for n in range(3)))
        written.set()
        await asyncio.gather(*deleting)
    await storage.delete_session(session_id="session-1")

    assert tree(root) == {}
    assert temporary_files(root) == []


# Processes.

PROLOGUE = """
import asyncio, os, stat, sys
from snapstore import *

root, name = sys.argv[1:]
location = SnapshotLocation.agent("session-1", "weather")

def snapshot_of(data):
    return Snapshot("agent", "1.0", "2026-11-22T11:13:20.395Z", data, {})

def say(word):
    print(word, flush=True)
"""
COUNT = """
def add_one(snapshot):
    return snapshot_of({"count": 1 if snapshot is None else snapshot.data["count"] + 1})

async def main():
    async with FileStorage(root) as storage:
        say("ready")
        sys.stdin.readline()
        for _ in range(50):
            await storage.update_latest(location=location, update=add_one)
    say("done")

asyncio.run(main())
"""
RACE = """
async def main():
    async with FileStorage(root) as storage:
        say("ready")
        sys.stdin.readline()
        for n in range(25):
            agent = SnapshotLocation.agent("session-1", f"agent-{n}")
            try:
                await storage.save_snapshot(
                    location=agent,
                    snapshot=snapshot_of({"by": name}),
                    is_latest=True,
                    if_none_match=True,
                )
                say(f"latest {n}")
            except SnapshotConflictError:
                pass
            try:
                await storage.save_snapshot(
                    location=agent,
                    snapshot=snapshot_of({"by": name}),
                    is_latest=False,
                    snapshot_id="01912a3b-0000-7000-8000-000000000000",
                )
                say(f"history {n}")
            except SnapshotExistsError:
                pass
    say("done")

asyncio.run(main())
"""
STOP_IN_SYNC = """
sync = os.fsync

def stop(descriptor):
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        say("stopped")
        sys.stdin.readline()
    sync(descriptor)

os.fsync = stop
"""
STOP_IN_REPLACE = """
def stop(*arguments, **options):
    say("stopped")
    sys.stdin.readline()

os.replace = stop
"""
WRITE = """
async def main():
    async with FileStorage(root) as storage:
        await storage.save_snapshot(
            location=location, snapshot=snapshot_of({"big": "x" * 5_000_000}), is_latest=True
        )

asyncio.run(main())
"""
FAIL_HALF_WAY = """
import resource, signal

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

async def main():
    async with FileStorage(root) as storage:
        try:
            await storage.save_snapshot(
                location=location, snapshot=snapshot_of({"big": "x" * 1_000_000}), is_latest=True
            )
        except StorageError as error:
            say(error.code)

asyncio.run(main())
"""


@contextmanager
def process(script, root, name=""):
    """A Python process of its own that runs the script."""
    child = subprocess.Popen(
        [sys.executable, "-c", PROLOGUE + script, str(root), name],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with child:
        try:
            yield child
        finally:
            child.kill()


async def start_at_once(children):
    for child in children:
        assert await asyncio.to_thread(child.stdout.readline) == "ready\n"
    for child in children:
        child.stdin.write("go\n")
        child.stdin.flush()


async def words_of(child):
    said, _ = await asyncio.to_thread(child.communicate, timeout=TIMEOUT)
    assert child.returncode == 0
    return said.splitlines()


async def test_two_processes_that_count_together_lose_no_count(storage, root):
    with process(COUNT, root) as one, process(COUNT, root) as other:
        await start_at_once([one, other])
        assert await asyncio.gather(words_of(one), words_of(other)) == [["done"], ["done"]]

    assert await load_data(storage) == {"count": 100}


async def test_one_of_three_processes_creates(storage, root):
    with (
        process(RACE, root, "a") as a,
        process(RACE, root, "b") as b,
        process(RACE, root, "c") as c,
    ):
        await start_at_once([a, b, c])
        said = dict(
            zip("abc", await asyncio.gather(words_of(a), words_of(b), words_of(c)), strict=True)
        )

    for n in range(25):
        location = SnapshotLocation.agent("session-1", f"agent-{n}")
        for kind, snapshot_id in (("latest", None), ("history", IDS[0])):
            winners = [name for name, words in said.items() if f"{kind} {n}" in words]
            loaded = await storage.load_snapshot(location=location, snapshot_id=snapshot_id)
            assert [loaded.data["by"]] == winners


@pytest.mark.parametrize("stop", [STOP_IN_SYNC, STOP_IN_REPLACE], ids=["fsync", "replace"])
async def test_process_killed_while_writing_leaves_the_old_snapshot(storage, root, stop):
    await save_latest(storage, {"n": 1})
    before = files(root)

    with process(stop + WRITE, root) as writer:
        assert await asyncio.to_thread(writer.stdout.readline) == "stopped\n"
        os.kill(writer.pid, signal.SIGKILL)
        assert await asyncio.to_thread(writer.wait, TIMEOUT) == -signal.SIGKILL

    assert files(root) == before
    assert await load_data(storage) == {"n": 1}
    assert len(temporary_files(root)) == 1

    async with asyncio.timeout(TIMEOUT):
        await save_latest(storage, {"n": 2})
        assert await load_data(storage) == {"n": 2}
        await storage.delete_session(session_id="session-1")
    assert temporary_files(root) == []
    assert tree(root) == {}


async def test_delete_leaves_the_temporary_file_of_a_live_writer(storage, root, monkeypatch):
    other = SnapshotLocation.agent("session-2", "weather")
    await save_latest(storage, {"n": 2}, other)
    stopped, go_on = threading.Event(), threading.Event()
    replace = os.replace

    def wait(*arguments, **options):
        stopped.set()
        assert go_on.wait(TIMEOUT)
        replace(*arguments, **options)

    monkeypatch.setattr(os, "replace", wait)
    async with asyncio.timeout(TIMEOUT):
        writing = asyncio.create_task(save_latest(storage, {"n": 1}))
        assert await asyncio.to_thread(stopped.wait, TIMEOUT)
        try:
            await storage.delete_session(session_id="session-2")
            assert len(temporary_files(root)) == 1
        finally:
            go_on.set()
        await writing

    assert await load_data(storage) == {"n": 1}
    assert await load_data(storage, other) is None
    assert temporary_files(root) == []


# Failing disks.


def record(monkeypatch, name, see):
    """Let calls of a function of `os` be seen, by their first argument or as their name."""
    function = getattr(os, name)

    def recorded(*arguments, **options):
        see(arguments[0] if arguments else name)
        return function(*arguments, **options)

    monkeypatch.setattr(os, name, recorded)


def fail(monkeypatch, name, code, *, only=lambda *arguments, **options: True):
    """Let a function of `os` fail from now on."""
    function = getattr(os, name)

    def failing(*arguments, **options):
        if only(*arguments, **options):
            raise OSError(code, os.strerror(code))
        return function(*arguments, **options)

    monkeypatch.setattr(os, name, failing)


def is_file(descriptor):
    return stat.S_ISREG(os.fstat(descriptor).st_mode)


def creates(path, flags, mode=0o777, **options):
    return flags & os.O_CREAT


def creates_exclusively(path, flags, mode=0o777, **options):
    return flags & os.O_EXCL


REASONS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "the file system is read-only",
    errno.EIO: os.strerror(errno.EIO),
}
STEPS = {
    "creating any file": ("open", creates),
    "creating the temporary file": ("open", creates_exclusively),
    "writing": ("fsync", is_file),
    "renaming": ("replace", lambda *arguments, **options: True),
}


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("code", REASONS, ids=errno.errorcode.get)
async def test_a_write_that_fails_says_why_and_leaves_the_old_snapshot(
    storage, root, monkeypatch, step, code
):
    await save_latest(storage, {"n": 1})
    before = files(root)

    name, only = STEPS[step]
    fail(monkeypatch, name, code, only=only)
    with pytest.raises(StorageError, match=REASONS[code]) as caught:
        await save_latest(storage, {"n": 2, "big": "x" * 100_000})
    monkeypatch.undo()

    assert type(caught.value) is StorageError
    assert caught.value.code == errno.errorcode[code]
    assert caught.value.key == LATEST
    assert caught.value.bucket == str(root)
    assert files(root) == before
    assert temporary_files(root) == []
    await save_latest(storage, {"n": 3})
    assert await load_data(storage) == {"n": 3}


async def test_a_disk_that_is_full_of_folders_takes_no_new_session(storage, root, monkeypatch):
    await save_latest(storage, {"n": 1})

    fail(monkeypatch, "mkdir", errno.ENOSPC)
    with pytest.raises(StorageError, match="disk is full"):
        await save_latest(storage, {"n": 2}, SnapshotLocation.agent("session-2", "weather"))
    monkeypatch.undo()

    assert set(files(root)) == {LATEST}


async def test_write_that_breaks_off_leaves_nothing(storage, root):
    await save_latest(storage, {"n": 1})
    before = files(root)

    with process(FAIL_HALF_WAY, root) as writer:
        assert await words_of(writer) == ["EFBIG"]

    assert files(root) == before
    assert temporary_files(root) == []
    assert await load_data(storage) == {"n": 1}


@EACH_OPERATION
@pytest.mark.parametrize("code", [errno.EACCES, errno.EPERM])
async def test_a_missing_permission_is_access_denied(storage, root, monkeypatch, code, operation):
    await storage.checkpoint(location=LOCATION, snapshot=snapshot_of({}), snapshot_id=IDS[0])
    before = files(root)

    fail(monkeypatch, "open", code)
    with pytest.raises(AccessDeniedError) as caught:
        await OPERATIONS[operation](storage)
    monkeypatch.undo()

    assert caught.value.code == errno.errorcode[code]
    assert files(root) == before


async def test_a_file_that_cannot_be_deleted_is_named(storage, root, monkeypatch):
    await storage.checkpoint(location=LOCATION, snapshot=snapshot_of({}), snapshot_id=IDS[0])

    fail(monkeypatch, "unlink", errno.EPERM, only=lambda name, **options: "latest" in name)
    with pytest.raises(StorageError) as caught:
        await storage.delete_session(session_id="session-1")
    monkeypatch.undo()

    assert caught.value.failed == {LATEST: "EPERM"}
    assert set(files(root)) == {LATEST}
    assert (await storage.delete_session(session_id="session-1")).objects == 1


async def test_save_syncs_the_file_then_the_name_then_returns(storage, monkeypatch):
    await save_latest(storage, {})
    steps = []
    record(
        monkeypatch,
        "fsync",
        lambda descriptor: steps.append("file" if is_file(descriptor) else "folder"),
    )
    record(monkeypatch, "replace", lambda _: steps.append("name"))

    await save_latest(storage, {"n": 1})

    assert steps == ["file", "name", "folder"]


async def test_new_folders_are_on_the_disk_before_the_return(storage, root, monkeypatch):
    synced = set()
    record(monkeypatch, "fsync", lambda descriptor: synced.add(os.fstat(descriptor).st_ino))

    await save_latest(storage, {"n": 1})

    folders = [root.parent, root]
    for part in FOLDER.split("/"):
        folders.append(folders[-1] / part)
    assert {folder.stat().st_ino for folder in folders} <= synced


# The event loop.


@EACH_OPERATION
async def test_no_file_is_touched_on_the_thread_of_the_loop(storage, monkeypatch, operation):
    await storage.checkpoint(location=LOCATION, snapshot=snapshot_of({}), snapshot_id=IDS[0])
    threads = set()
    for name in ("open", "fsync", "replace", "scandir", "listdir", "unlink", "rmdir", "mkdir"):
        record(monkeypatch, name, lambda _: threads.add(threading.get_ident()))

    await OPERATIONS[operation](storage)

    assert threads
    assert threading.get_ident() not in threads


async def test_the_loop_is_free_while_a_write_waits(storage, monkeypatch):
    go_on = threading.Event()
    record(monkeypatch, "fsync", lambda _: go_on.wait(TIMEOUT))
    writing = asyncio.create_task(save_latest(storage, {"n": 1}))

    # Were the loop blocked in the write, nobody would ever end the wait.
    asyncio.get_running_loop().call_soon(go_on.set)
    async with asyncio.timeout(TIMEOUT):
        await writing

    assert go_on.is_set()


def open_descriptors():
    return sum(1 for _ in Path("/dev/fd").iterdir())


@pytest.mark.parametrize("lies_there", ["nothing", "file", "folder", "pipe", "link", "nonsense"])
async def test_no_descriptor_stays_open(storage, root, lies_there):
    (root / FOLDER).mkdir(parents=True)
    if lies_there == "file":
        await save_latest(storage, {})
    elif lies_there == "folder":
        (root / LATEST).mkdir()
    elif lies_there == "pipe":
        os.mkfifo(root / LATEST)
    elif lies_there == "link":
        (root / LATEST).symlink_to("elsewhere")
    elif lies_there == "nonsense":
        (root / LATEST).write_text("nonsense")
    before = open_descriptors()

    for operation in ("load", "update", "load manifest", "save", "list", "delete"):
        with suppress(SnapstoreError):
            await OPERATIONS[operation](storage)

    assert open_descriptors() == before


async def test_every_failure_of_a_lost_race_is_one_of_ours(storage):
    saved = await save_latest(storage, {"n": 1})
    results = await asyncio.gather(
        *(
            storage.save_snapshot(
                location=LOCATION, snapshot=snapshot_of({"n": n}), is_latest=True, if_match=saved
            )
            for n in range(10, 20)
        ),
        return_exceptions=True,
    )

    lost = [result for result in results if isinstance(result, SnapstoreError)]
    assert len(lost) == 9
    assert {type(error) for error in lost} == {SnapshotConflictError}
