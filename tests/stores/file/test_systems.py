"""What files promise where a file system fails, keeps less than others, or holds odd things."""

import errno
import fcntl
import os
import stat
import time

import pytest

from snapstore import (
    AccessDeniedError,
    FileStorage,
    InvalidIdentifierError,
    OutcomeUnknownError,
    PartialDeleteError,
    Snapshot,
    SnapshotLocation,
    StorageError,
)
from snapstore.stores.file import inspection
from snapstore.stores.file.store import FileObjectStore

LOCATION = SnapshotLocation.agent("session-1", "weather")
DIRECTORY = "session-1/scopes/agent/weather/snapshots"
LATEST = f"{DIRECTORY}/snapshot_latest.json"
HISTORY = f"{DIRECTORY}/immutable_history"
ID = "01912a3b-0000-7000-8000-000000000000"


@pytest.fixture
def root(tmp_path):
    return tmp_path / "store"


@pytest.fixture
async def storage(root):
    async with FileStorage(root) as storage:
        yield storage


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


def fail(monkeypatch, name, code, *, only=lambda *arguments, **options: True):
    """Let a function of `os` fail from now on."""
    function = getattr(os, name)

    def failing(*arguments, **options):
        if only(*arguments, **options):
            raise OSError(code, os.strerror(code))
        return function(*arguments, **options)

    monkeypatch.setattr(os, name, failing)


def is_directory(descriptor):
    return stat.S_ISDIR(os.fstat(descriptor).st_mode)


def mode_of(path):
    return stat.S_IMODE(path.lstat().st_mode)


# Directories that can't be synced.

NO_SYNC = [errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.ENOSYS]


@pytest.mark.parametrize("code", NO_SYNC, ids=errno.errorcode.get)
async def test_a_file_system_that_syncs_no_directories_keeps_all_else(
    storage, root, monkeypatch, code
):
    fail(monkeypatch, "fsync", code, only=is_directory)

    for _ in range(4):
        await storage.update_latest(location=LOCATION, update=add_one)
    await storage.checkpoint(location=LOCATION, snapshot=snapshot_of({}), snapshot_id=ID)

    assert await storage.list_snapshot_ids(location=LOCATION) == [ID]
    assert (await storage.delete_session(session_id="session-1")).objects == 2
    assert list(root.iterdir()) == []


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.EDQUOT], ids=errno.errorcode.get)
async def test_save_whose_name_is_not_synced_is_applied(storage, monkeypatch, code):
    await storage.update_latest(location=LOCATION, update=add_one)
    fail(monkeypatch, "fsync", code, only=is_directory)

    with pytest.raises(StorageError, match="was applied, but may be undone by a crash") as caught:
        await storage.update_latest(location=LOCATION, update=add_one)

    assert caught.value.outcome == "applied"
    assert caught.value.code == errno.errorcode[code]
    assert caught.value.key == LATEST
    assert await load(storage) == {"count": 2}


async def test_a_delete_that_is_not_synced_says_that_it_was_applied(storage, monkeypatch):
    await storage.checkpoint(location=LOCATION, snapshot=snapshot_of({}), snapshot_id=ID)
    fail(monkeypatch, "fsync", errno.EIO, only=is_directory)

    with pytest.raises(StorageError, match="was applied, but may be undone by a crash") as caught:
        await storage.delete_session(session_id="session-1")

    assert caught.value.outcome == "applied"
    assert await load(storage) is None
    assert await storage.list_snapshot_ids(location=LOCATION) == []


async def test_delete_partial_and_not_synced_names_what_is_left(storage, monkeypatch):
    await storage.checkpoint(location=LOCATION, snapshot=snapshot_of({}), snapshot_id=ID)
    fail(monkeypatch, "fsync", errno.EIO, only=is_directory)
    fail(monkeypatch, "unlink", errno.EPERM, only=lambda name, **options: "latest" in name)

    with pytest.raises(PartialDeleteError) as caught:
        await storage.delete_session(session_id="session-1")

    assert caught.value.failed == {LATEST: "EPERM"}


async def test_delete_reports_an_empty_directory_that_stays(storage, root, monkeypatch):
    await storage.checkpoint(location=LOCATION, snapshot=snapshot_of({}), snapshot_id=ID)
    fail(monkeypatch, "rmdir", errno.EACCES)

    with pytest.raises(AccessDeniedError, match="all is deleted, but a directory") as caught:
        await storage.delete_session(session_id="session-1")
    monkeypatch.undo()

    assert caught.value.outcome == "applied"
    assert f"{root / DIRECTORY} belongs to" in str(caught.value)
    assert [path for path in root.rglob("*") if path.is_file()] == []
    await storage.delete_session(session_id="session-1")
    assert list(root.iterdir()) == []


@pytest.mark.parametrize("emptied", [True, False])
async def test_a_directory_of_the_prefix_may_belong_to_another(root, monkeypatch, emptied):
    async with FileStorage(root, prefix="eu/prod") as storage:
        await save(storage)
        if not emptied:
            await save(storage, {}, SnapshotLocation.agent("session-2", "weather"))
        fail(monkeypatch, "rmdir", errno.EACCES, only=lambda name, **options: name == "prod")
        await storage.delete_session(session_id="session-1")

    assert [path.name for path in (root / "eu/prod").iterdir()] == ["session-2"] * (not emptied)


# Renames that lie.


async def test_save_whose_rename_was_made_despite_an_error_succeeds(storage, monkeypatch):
    saved = await save(storage, {"n": 1})
    replace = os.replace

    def fail_later(*arguments, **options):
        replace(*arguments, **options)
        raise FileNotFoundError(errno.ENOENT, "as if it had been sent twice")

    monkeypatch.setattr(os, "replace", fail_later)
    await storage.save_snapshot(
        location=LOCATION, snapshot=snapshot_of({"n": 2}), is_latest=True, if_match=saved
    )

    assert await load(storage) == {"n": 2}


async def test_a_rename_that_was_not_made_is_not_applied(storage, root, monkeypatch):
    await save(storage, {"n": 1})
    fail(monkeypatch, "replace", errno.EIO)

    with pytest.raises(StorageError) as caught:
        await save(storage, {"n": 2})

    assert caught.value.outcome == "not applied"
    assert await load(storage) == {"n": 1}
    assert [path.name for path in (root / DIRECTORY).iterdir()] == ["snapshot_latest.json"]


async def test_a_rename_of_which_nothing_is_known_is_unknown(storage, monkeypatch):
    await save(storage, {"n": 1})
    status = os.stat

    def fail_both(*arguments, **options):
        monkeypatch.setattr(os, "stat", fail_to_look)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    def fail_to_look(path, **options):
        if path == "snapshot_latest.json":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return status(path, **options)

    monkeypatch.setattr(os, "replace", fail_both)
    with pytest.raises(OutcomeUnknownError, match="may have been applied") as caught:
        await save(storage, {"n": 2})

    assert caught.value.outcome == "unknown"


# A full disk.


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS], ids=errno.errorcode.get)
async def test_a_delete_makes_nothing(storage, root, monkeypatch, code):
    for path in (LATEST, f"{HISTORY}/snapshot_{ID}.json"):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text("{}")  # by another program, which keeps no locks here
    made = []

    def makes(path, flags=os.O_CREAT, *arguments, **options):
        if flags & os.O_CREAT:
            made.append(path)
            return True
        return False

    fail(monkeypatch, "open", code, only=makes)
    fail(monkeypatch, "mkdir", code, only=makes)
    deleted = await storage.delete_session(session_id="session-1")
    monkeypatch.undo()

    assert deleted.objects == 2
    assert made == []
    assert list(root.iterdir()) == []


# Who may read it.


@pytest.fixture(params=[0o000, 0o022, 0o077], ids=oct)
def umask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


async def test_what_is_saved_is_its_owner_s_alone(tmp_path, umask, monkeypatch):
    root = tmp_path / "new" / "and" / "deep"
    writing = []
    sync = os.fsync

    def see(descriptor):
        if not is_directory(descriptor):
            writing.append(stat.S_IMODE(os.fstat(descriptor).st_mode))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", see)
    async with FileStorage(root, prefix="eu/prod") as storage:
        await storage.checkpoint(location=LOCATION, snapshot=snapshot_of({}))
        await save(storage)

    made = [tmp_path / "new", *(tmp_path / "new").rglob("*")]
    assert {mode_of(path) for path in made if path.is_dir()} == {0o700}
    assert {mode_of(path) for path in made if path.is_file()} == {0o600}
    assert writing == [0o600] * 3


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o644, 0o664, 0o400], ids=oct)
async def test_a_file_keeps_its_mode(storage, root, umask, mode):
    await save(storage, {"n": 1})
    (root / LATEST).chmod(mode)
    (root / DIRECTORY).chmod(0o750)

    await save(storage, {"n": 2})

    assert await load(storage) == {"n": 2}
    assert mode_of(root / LATEST) == mode
    assert mode_of(root / DIRECTORY) == 0o750


async def test_a_link_lends_its_mode_to_nothing(storage, root):
    (root / DIRECTORY).mkdir(parents=True)
    (root / LATEST).symlink_to("elsewhere")

    await save(storage)

    assert mode_of(root / LATEST) == 0o600


async def test_a_mode_that_cannot_be_kept_is_an_error_before_the_write(storage, root, monkeypatch):
    await save(storage, {"n": 1})
    (root / LATEST).chmod(0o640)
    fail(monkeypatch, "fchmod", errno.EPERM)

    with pytest.raises(AccessDeniedError) as caught:
        await save(storage, {"n": 2})

    assert caught.value.outcome == "not applied"
    assert await load(storage) == {"n": 1}


@pytest.mark.skipif(os.geteuid() != 0, reason="only the superuser can give files away")
async def test_the_superuser_leaves_a_file_to_its_owner(storage, root):
    await save(storage, {"n": 1})
    os.chown(root / LATEST, 65534, 65534)

    await save(storage, {"n": 2})

    status = (root / LATEST).stat()
    assert (status.st_uid, status.st_gid) == (65534, 65534)
    assert mode_of(root / LATEST) == 0o600


async def test_an_owner_that_cannot_be_kept_is_no_error(storage, root, monkeypatch):
    await save(storage, {"n": 1})
    status = os.stat
    own = (root / LATEST).stat()

    def of_another(path, **options):
        found = status(path, **options)
        if path == "snapshot_latest.json":
            fields = list(found)
            fields[stat.ST_UID] = own.st_uid + 1
            return os.stat_result(fields)
        return found

    asked = []

    def refuse(descriptor, *owner):
        asked.append(owner)
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "stat", of_another)
    monkeypatch.setattr(os, "fchown", refuse)
    await save(storage, {"n": 2})

    assert asked == [(own.st_uid + 1, own.st_gid)]
    assert await load(storage) == {"n": 2}


# Odd things in a session.


def make_deep(directory, levels, name="deep"):
    """Make directories in each other, more than a path may name."""
    descriptor = os.open(directory, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir(name, dir_fd=descriptor)
        child = os.open(name, os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = child
    os.close(os.open("bottom.json", os.O_WRONLY | os.O_CREAT, dir_fd=descriptor))
    os.close(descriptor)


async def test_directories_may_be_deeper_than_a_stack_and_a_path(storage, root):
    await save(storage)
    make_deep(root / DIRECTORY, 1100)

    deleted = await storage.delete_session(session_id="session-1")

    assert deleted.objects == 2
    assert list(root.iterdir()) == []


@pytest.mark.parametrize("target", ["loop", "../immutable_history/loop"])
async def test_a_link_to_itself_is_named(storage, root, target):
    await storage.checkpoint(location=LOCATION, snapshot=snapshot_of({}), snapshot_id=ID)
    (root / HISTORY / "loop").symlink_to(target)

    for operation in (
        storage.list_snapshot_ids(location=LOCATION),
        storage.delete_session(session_id="session-1"),
    ):
        with pytest.raises(StorageError, match="is a symbolic link") as caught:
            await operation
        assert caught.value.code == "ELOOP"
        assert f"{HISTORY}/loop" in str(caught.value)

    (root / HISTORY / "loop").unlink()
    assert await storage.list_snapshot_ids(location=LOCATION) == [ID]


async def test_every_level_of_a_new_root_is_synced(tmp_path, monkeypatch):
    synced = set()
    sync = os.fsync

    def see(descriptor):
        synced.add(os.fstat(descriptor).st_ino)
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", see)
    async with FileStorage(tmp_path / "a" / "b" / "c") as storage:
        await save(storage)

    levels = [tmp_path, tmp_path / "a", tmp_path / "a" / "b", tmp_path / "a" / "b" / "c"]
    assert {path.stat().st_ino for path in levels} <= synced


async def test_empty_directories_of_a_session_go_with_it(storage, root):
    (root / HISTORY).mkdir(parents=True)
    (root / "session-10" / "scopes" / "agent").mkdir(parents=True)

    assert (await storage.delete_session(session_id="session-1")).objects == 0

    assert [path.name for path in root.iterdir()] == ["session-10"]


async def test_a_conditional_save_that_fails_leaves_no_directory(storage, root):
    saved = await save(storage)
    await storage.delete_session(session_id="session-1")

    with pytest.raises(StorageError):
        await storage.save_snapshot(
            location=LOCATION, snapshot=snapshot_of({}), is_latest=True, if_match=saved
        )

    assert list(root.iterdir()) == []


# What a check finds out.


async def findings(storage):
    report = await storage.check()
    return {finding.check: finding for finding in report.findings}


async def test_a_check_leaves_nothing(storage, root):
    assert (await storage.check()).ok
    assert list(root.iterdir()) == []


async def test_a_check_finds_locks_that_are_not_kept(storage, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", lambda *arguments: None)

    found = (await findings(storage))["locks"]

    assert found.status == "failed"
    assert "lose updates" in found.message


async def test_a_check_finds_that_there_are_no_locks(storage, root, monkeypatch):
    def refuse(descriptor, operation):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)

    found = await findings(storage)

    assert found["write"].status == "failed"
    assert os.strerror(errno.ENOLCK) in found["write"].message


async def test_a_check_finds_a_replacement_that_is_not_atomic(storage, monkeypatch):
    replace = os.replace

    def in_two_steps(source, target, *, src_dir_fd, dst_dir_fd):
        if os.access(target, os.F_OK, dir_fd=dst_dir_fd):
            os.unlink(target, dir_fd=dst_dir_fd)
            time.sleep(0.01)
        replace(source, target, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)

    monkeypatch.setattr(os, "replace", in_two_steps)

    found = (await findings(storage))["replacing"]

    assert found.status == "failed"
    assert os.strerror(errno.ENOENT) in found.message


async def test_a_check_finds_directories_that_are_not_synced(storage, monkeypatch):
    fail(monkeypatch, "fsync", errno.EINVAL, only=is_directory)

    found = (await findings(storage))["durability"]

    assert found.status == "warning"
    assert "after a crash" in found.message


async def test_a_check_finds_a_file_system_without_modes(storage, monkeypatch):
    status = os.fstat

    def all_may_read(descriptor):
        fields = list(status(descriptor))
        fields[stat.ST_MODE] |= 0o055
        return os.stat_result(fields)

    monkeypatch.setattr(os, "fstat", all_may_read)

    found = (await findings(storage))["permissions"]

    assert found.status == "warning"
    assert "keeps no modes" in found.message


async def test_a_check_finds_a_root_that_is_open_to_others(storage, root):
    root.mkdir()
    root.chmod(0o755)

    found = (await findings(storage))["permissions"]

    assert found.status == "warning"
    assert f"chmod -R go= {root}" in found.message


MOUNTS = """\
21 28 0:20 / / rw,relatime shared:1 - ext4 /dev/sda rw
22 21 0:21 / {point} rw,relatime shared:2 master:1 - {kind} server:/export rw
"""


@pytest.mark.parametrize(
    ("kind", "hosts", "durability"),
    [
        ("nfs4", "warning", "ok"),
        ("cifs", "warning", "ok"),
        ("xfs", "ok", "ok"),
        ("tmpfs", "ok", "warning"),
        (None, "unknown", "ok"),
    ],
)
async def test_a_check_finds_the_type_of_the_file_system(
    tmp_path, monkeypatch, kind, hosts, durability
):
    mounted = tmp_path / "a disk"
    mounted.mkdir()
    mounts = tmp_path / "mountinfo"
    if kind is not None:
        point = str(mounted).replace(" ", "\\040")
        mounts.write_text(MOUNTS.format(point=point, kind=kind))
    monkeypatch.setattr(inspection, "_MOUNTS", str(mounts))

    async with FileStorage(mounted / "root") as storage:
        found = await findings(storage)

    assert found["hosts"].status == hosts
    assert ("lose updates between hosts" in found["hosts"].message) == (hosts != "ok")
    assert found["durability"].status == durability
    if kind is not None:
        assert kind in found["hosts"].message


async def test_a_key_that_no_file_can_have_is_an_error_of_ours(tmp_path):
    store = FileObjectStore(tmp_path)
    await store.open()
    try:
        for key in ("a\ud800", "a\0b", "a//b", ".a", "a/../b", "x" * 256):
            with pytest.raises(InvalidIdentifierError):
                await store.put(key, b"")
            with pytest.raises(InvalidIdentifierError):
                await store.get(key, max_bytes=1)
            with pytest.raises(InvalidIdentifierError):
                await store.delete([key])
    finally:
        await store.aclose()
    assert list(tmp_path.iterdir()) == []
