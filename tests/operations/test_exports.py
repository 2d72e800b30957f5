"""`export_session` and `import_session`: one file, whole, and never half imported."""

import asyncio
import io
import os
import sys
import tarfile
import threading
import tracemalloc
from contextlib import aclosing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from copies import KINDS, bodies, collected, contents, opened, results, write_session
from examples import examples
from snapstore import (
    InvalidExportError,
    InvalidIdentifierError,
    MemoryStorage,
    ObjectSnapshotStorage,
    Snapshot,
    SnapshotConflictError,
    SnapshotDecodeError,
    SnapshotLocation,
    SnapshotNotFoundError,
    StorageUnavailableError,
    UnsupportedOperationError,
)
from snapstore.operations import export_session, import_session, save_export
from snapstore.operations.exports.tar import Member, TarWriter
from snapstore.stores import MemoryObjectStore, ObjectTooLargeError
from snapstore.testing import FaultyObjectStore, StoreFault

LOCATION = SnapshotLocation.agent("s-1", "weather")
ORIGIN = "01912a3b-0001-7000-8000-000000000001"
HISTORY = f"session/s-1/scopes/agent/weather/snapshots/immutable_history/snapshot_{ORIGIN}.json"
LATER = HISTORY.replace("0001-7000", "0002-7000")
LATEST = "session/s-1/scopes/agent/weather/snapshots/snapshot_latest.json"
DOCUMENT = (
    b'{"scope":"agent","schemaVersion":"1.0","createdAt":"2026-11-22T11:13:20.395Z",'
    b'"data":{},"appData":{}}'
)


async def exported(storage, session_id="s-1", **options):
    async with aclosing(export_session(storage, session_id=session_id, **options)) as pieces:
        return b"".join([piece async for piece in pieces])


def names_of(data):
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return tar.getnames()


def tar_of(*members, session_id="s-1"):
    """A file as an export writes it, of any members."""
    writer = TarWriter(session_id)
    return b"".join([*(writer.add(member) for member in members), writer.end()])


def good_members():
    return [
        Member("session/s-1/note.txt", b"foreign"),
        Member("context/s-1/a/offloaded", b"content"),
        Member(HISTORY, DOCUMENT),
        Member(LATEST, DOCUMENT + b"  ", ORIGIN),
    ]


def names_in(directory):
    return sorted(path.name for path in directory.iterdir())


@pytest.fixture(params=KINDS)
async def storage(request, tmp_path):
    async with opened(request.param, request, tmp_path / "storage", "prod") as storage:
        yield storage


@pytest.fixture(params=KINDS)
async def target(request, tmp_path):
    async with opened(request.param, request, tmp_path / "target", "session") as storage:
        yield storage


@pytest.mark.parametrize("compress", [False, True], ids=["tar", "zst"])
async def test_an_export_is_imported_byte_for_byte(storage, target, compress, tmp_path):
    await write_session(storage)
    path = tmp_path / ("export.tar.zst" if compress else "export.tar")
    exporting = await save_export(storage, path, session_id="s-1")
    assert exporting.bytes == path.stat().st_size > 0
    assert path.stat().st_mode & 0o777 == 0o600
    assert not [name for name in names_in(tmp_path) if name.startswith(".")]
    assert (path.read_bytes()[:4] == b"\x28\xb5\x2f\xfd") is compress

    report = await import_session(target, path).run()

    assert (report.sessions, report.copied, report.ok) == (1, 12, True)
    expected, found = await contents(storage), await contents(target)
    assert bodies(found) == bodies(expected)
    if ... not in {origin for one in (found, expected) for _, origin in one.values()}:
        assert found == expected
    again = await import_session(target, path).run()
    assert (again.copied, again.equal) == (0, 12)


async def test_equal_sessions_make_equal_files_on_every_storage(storage, target):
    await write_session(target)
    first = await exported(target)
    await import_session(storage, io.BytesIO(first)).run()
    async with MemoryStorage() as other:
        await import_session(other, io.BytesIO(first)).run()
        names = [names_of(await exported(one)) for one in (target, storage, other)]
        assert names[0] == names[1] == names[2]
        assert await exported(other) == await exported(other)
    if "File" not in type(storage).__name__ + type(target).__name__:  # which keep no metadata
        assert await exported(storage) == first


async def test_other_tools_read_the_file(tmp_path):
    async with MemoryStorage() as storage:
        await write_session(storage)
        await save_export(storage, tmp_path / "x.tar", session_id="s-1")
        with tarfile.open(tmp_path / "x.tar") as tar:
            names = tar.getnames()
            latest = tar.extractfile(LATEST).read()
        assert latest == storage.objects.store.objects[storage.layout.latest(LOCATION)]
    assert names[-1] == "snapstore-export.json"
    assert all(name.endswith("snapshot_latest.json") for name in names[-4:-1])
    assert names[:3] == [
        "session/s-1/note.txt",
        "session/s-1/scopes/agent/travel/snapshots/manifest.json",
        "context/s-1/a/offloaded",
    ]


async def test_under_another_session_id_it_is_a_session_of_its_own():
    async with MemoryStorage() as storage, MemoryStorage(prefix="session") as target:
        await write_session(storage)
        file = io.BytesIO(await exported(storage))
        for session_id in ("s-2", "s-3"):
            file.seek(0)
            report = await import_session(target, file, session_id=session_id).run()
            assert report.ok
            assert await contents(target, session_id) == await contents(storage)
        assert [one async for one in target.iter_sessions()] == ["s-2", "s-3"]
        assert not file.closed


@pytest.mark.parametrize("compress", [False, True], ids=["tar", "zst"])
@pytest.mark.parametrize("how", ["path", "text path", "file", "offset", "pipe", "pieces"])
async def test_any_source_of_bytes_is_imported(how, compress, tmp_path):
    async with MemoryStorage() as storage, MemoryStorage() as target:
        await write_session(storage)
        data = await exported(storage, compress=compress)
        path = tmp_path / "a name"
        path.write_bytes(data)
        if how == "path":
            await import_session(target, path).run()
        elif how == "text path":
            await import_session(target, str(path)).run()
        elif how == "file":
            with path.open("rb") as file:
                await import_session(target, file).run()
        elif how == "offset":
            file = io.BytesIO(b"before" + data)
            file.seek(6)
            await import_session(target, file).run()
        elif how == "pieces":
            pieces = export_session(storage, session_id="s-1", compress=compress)
            async with aclosing(pieces):
                await import_session(target, pieces).run()
        else:
            reading, writing = os.pipe()
            thread = threading.Thread(target=write_and_close, args=(writing, data))
            thread.start()
            with os.fdopen(reading, "rb") as file:
                await import_session(target, file).run()
            thread.join()
        assert await contents(target) == await contents(storage)


def write_and_close(descriptor, data):
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)


async def test_a_file_object_is_written_and_stays_open():
    async with MemoryStorage() as storage:
        await write_session(storage)
        file = io.BytesIO()
        report = await save_export(storage, file, session_id="s-1")
        assert file.getvalue() == await exported(storage)
        assert report.bytes == len(file.getvalue())


async def test_a_dry_run_imports_nothing():
    async with MemoryStorage() as target:
        operation = import_session(target, io.BytesIO(tar_of(*good_members())), dry_run=True)
        events = await collected(operation)
        assert results(events) == ["planned"] * 4
        assert target.objects.store.objects == {}
        with pytest.raises(InvalidExportError):
            await import_session(target, io.BytesIO(tar_of()), dry_run=True).run()


async def test_what_is_there_is_a_conflict_as_for_a_copy():
    async with MemoryStorage() as target:
        file = io.BytesIO(tar_of(*good_members()))
        await target.save_snapshot(location=LOCATION, snapshot=Snapshot.new({}), is_latest=True)
        events = await collected(import_session(target, file))
        assert {event.key: event.result for event in events if event.result != "copied"} == {
            LATEST: "conflict"
        }
        file.seek(0)
        report = await import_session(target, file, on_conflict="overwrite").run()
        assert (report.replaced, report.ok) == (1, True)
        other = DOCUMENT.replace(b"{}", b'{"n":1}', 1)
        file = io.BytesIO(tar_of(Member(HISTORY, other), Member(LATEST, other, ORIGIN)))
        events = await collected(import_session(target, file, on_conflict="overwrite"))
        assert results(events) == ["conflict", "held"]
        assert target.objects.store.objects["s-1" + LATEST[11:]] == DOCUMENT + b"  "


# What is not imported, and changes nothing.


def cut(data):
    """A file cut at every block, and within some."""
    return [data[:length] for length in range(0, len(data) - 1024 + 1, 512)] + [
        data[:100],
        data[:-1500],
        data[:-1],
    ]


def replaced(name, member):
    return [member if one.name == name else one for one in good_members()]


def plain_tar(**fields):
    """A tar as anybody makes one, with one member of our name, or another."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo(LATEST)
        for name, value in fields.items():
            setattr(info, name, value)
        tar.addfile(info, io.BytesIO(b"x" * info.size))
    return file.getvalue()


def with_type(kind):
    """An export whose first member is something else than a file."""
    info = tarfile.TarInfo(LATEST)
    info.type = kind
    info.linkname = "/etc/passwd"
    info.pax_headers = {"path": LATEST}
    return info.tobuf(tarfile.PAX_FORMAT) + tar_of(*good_members())


def with_header(**headers):
    info = tarfile.TarInfo(HISTORY)
    info.size = len(DOCUMENT)
    info.pax_headers = {"path": HISTORY, **headers}
    body = DOCUMENT + bytes(-len(DOCUMENT) % 512)
    return info.tobuf(tarfile.PAX_FORMAT) + body + tar_of(*good_members())


def flipped(data, at):
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def of_name(name, data=b"x"):
    return tar_of(*good_members()[:1], Member(name, data), *good_members()[1:])


GOOD = tar_of(*good_members())
BAD = {
    "nothing": b"",
    "text": b"hello",
    "zeros": bytes(10_240),
    "an empty export": tar_of(),
    "no session": tar_of(Member("session/s-1/note.txt", b"x")),
    "only a stash": tar_of(Member("context/s-1/a", b"x")),
    "a tar of others": plain_tar(size=2),
    "a tar of others without pax": plain_tar(size=2, pax_headers={}),
    "a parent": of_name("session/s-1/../s-2/x"),
    "a parent of all": of_name("../session/s-1/x"),
    "a dot": of_name("session/s-1/./x"),
    "absolute": of_name("/session/s-1/x"),
    "an empty segment": of_name("session/s-1//x"),
    "a directory": of_name("session/s-1/x/"),
    "a line break": of_name("session/s-1/a\nb"),
    "a NUL": of_name("session/s-1/a\0b"),
    "no session id": of_name("session/S 1/x"),
    "the session itself": of_name("session/s-1"),
    "foreign": of_name("etc/passwd"),
    "another session": of_name("session/s-2/x"),
    "the stash of another": of_name("context/s-2/x"),
    "a store nested there": of_name("session/s-1/inner/scopes/agent/a/snapshots/x"),
    "the seal of another": tar_of(*good_members(), session_id="s-2"),
    "twice": tar_of(*[one for one in good_members() for _ in range(2)]),
    "history twice": tar_of(Member(HISTORY, DOCUMENT), Member(HISTORY, DOCUMENT)),
    "history out of order": tar_of(Member(LATER, DOCUMENT), Member(HISTORY, DOCUMENT)),
    "history of two mixed": tar_of(
        Member(HISTORY, DOCUMENT),
        Member(HISTORY.replace("weather", "x"), DOCUMENT),
        Member(LATER, DOCUMENT),
    ),
    "latest first": tar_of(*reversed(good_members())),
    "latest twice": tar_of(*good_members(), good_members()[-1]),
    "no snapshot": tar_of(*replaced(HISTORY, Member(HISTORY, b"[]"))),
    "an empty snapshot": tar_of(*replaced(LATEST, Member(LATEST, b""))),
    "half a snapshot": tar_of(*replaced(LATEST, Member(LATEST, DOCUMENT[:-1]))),
    "of another scope": tar_of(Member(HISTORY.replace("/agent/", "/multiAgent/"), DOCUMENT)),
    "no manifest": of_name(LATEST.replace("snapshot_latest", "manifest"), b"[1]"),
    "no origin": tar_of(*replaced(LATEST, Member(LATEST, DOCUMENT, "../x"))),
    "too large": of_name("session/s-1/large", bytes(200_000)),
    "a symbolic link": with_type(tarfile.SYMTYPE),
    "a hard link": with_type(tarfile.LNKTYPE),
    "a device": with_type(tarfile.CHRTYPE),
    "a FIFO": with_type(tarfile.FIFOTYPE),
    "a sparse file": with_type(tarfile.GNUTYPE_SPARSE),
    "a long name of GNU": with_type(tarfile.GNUTYPE_LONGNAME),
    "a global header": with_type(tarfile.XGLTYPE),
    "a size in the header": with_header(size="3"),
    "a sparse map in the header": with_header(**{"GNU.sparse.major": "1"}),
    "a huge header": with_header(comment="x" * 1_000_000),
    "a second file behind": GOOD + GOOD,
    "something behind": GOOD + b"x",
    "no end": GOOD[:-1024],
    "much behind": GOOD + bytes(1_000_000),
    "damaged compressed": b"\x28\xb5\x2f\xfd" + b"damaged",
}


async def refused(data, **options):
    async with MemoryStorage(max_snapshot_bytes=100_000) as target:
        await write_session(target, "s-2")
        before = dict(target.objects.store.objects)
        with pytest.raises((InvalidExportError, SnapshotDecodeError)) as caught:
            await import_session(target, io.BytesIO(data), **options).run()
        assert target.objects.store.objects == before
    return caught.value


@pytest.mark.parametrize("name", BAD)
async def test_a_bad_file_is_refused_before_anything_changes(name):
    error = await refused(BAD[name])
    assert "passwd" not in str(error) or name == "foreign"
    assert len(str(error)) < 500
    assert "\n" not in str(error)


async def test_a_file_cut_anywhere_is_refused():
    for data in cut(GOOD):
        await refused(data)


async def test_all_of_a_long_file_is_checked_before_anything_changes():
    """More than is read at a time, and damaged at its very end."""
    history = HISTORY.replace("01912a3b-0001", "{:08x}-0001")
    members = [Member(history.format(n), DOCUMENT) for n in range(500)]
    data = tar_of(*members, Member(LATEST, DOCUMENT, ORIGIN))
    for bad in (data[:-1024], data + b"x", flipped(data, len(data) - 3_000)):
        await refused(bad)
    last = Member(LATEST, DOCUMENT[:-1], ORIGIN)
    await refused(tar_of(*members, last))


async def test_a_compressed_file_cut_anywhere_is_refused():
    async with MemoryStorage() as storage:
        await write_session(storage)
        data = await exported(storage, compress=True)
    for length in range(len(data)):
        await refused(data[:length])
    await refused(data + b"x")


async def test_a_byte_flipped_anywhere_is_refused():
    for at in range(0, len(GOOD) - 1024, 7):
        await refused(flipped(GOOD, at))


@given(data=st.data())
@examples(100)
async def test_no_mixture_of_blocks_is_imported_unless_it_is_the_file(data):
    blocks = [GOOD[start : start + 512] for start in range(0, len(GOOD), 512)]
    mixed = data.draw(st.lists(st.sampled_from(blocks), max_size=len(blocks) + 2))
    if b"".join(mixed).rstrip(b"\0") != GOOD.rstrip(b"\0"):
        await refused(b"".join(mixed))


@given(
    bodies=st.dictionaries(
        st.from_regex(r"[a-z0-9 \u00e9_.-]{1,40}(/[a-z]{1,150}){0,6}", fullmatch=True).filter(
            lambda name: (
                not {"", ".", ".."} & set(name.split("/"))
                and not name.startswith(("scopes", "context", "memory", "offloader"))
                and "/scopes/" not in name
            )
        ),
        st.binary(max_size=3_000),
        max_size=8,
    ),
    compress=st.booleans(),
)
@examples(60)
async def test_any_names_and_any_bytes_go_there_and_back(bodies, compress):
    async with MemoryStorage(prefix="a") as storage, MemoryStorage() as target:
        await storage.save_snapshot(location=LOCATION, snapshot=Snapshot.new({}), is_latest=True)
        for name, body in bodies.items():
            await storage.objects.put(f"a/s-1/{name}", body)
            await storage.objects.put(f"a/context/s-1/{name}", body)
        data = await exported(storage, compress=compress)
        assert (await import_session(target, io.BytesIO(data)).run()).ok
        kept = {key.removeprefix("a/"): body for key, body in storage.objects.store.objects.items()}
        assert target.objects.store.objects == kept


# While others write, and where something fails.


async def test_checkpoints_at_every_step_never_yield_a_latest_without_its_history():
    store = FaultyObjectStore(MemoryObjectStore())
    async with ObjectSnapshotStorage(store) as storage, MemoryStorage() as target:
        await write_session(storage)

        async def write(call):
            # The writer's own calls are not written before.
            fault, store.fault = store.fault, nothing
            await storage.checkpoint(location=LOCATION, snapshot=Snapshot.new({"n": 1}))
            store.fault = fault

        store.fault = write
        data = await exported(storage)
        assert (await import_session(target, io.BytesIO(data)).run()).ok
        latest = target.objects.store.objects[target.layout.latest(LOCATION)]
        assert latest.rstrip(b" \t") in {
            body for key, body in target.objects.store.objects.items() if "history" in key
        }


async def nothing(call):
    return None


async def test_a_session_deleted_at_any_step_is_an_error_or_exported_whole():
    store = FaultyObjectStore(MemoryObjectStore())
    async with ObjectSnapshotStorage(store) as storage:
        await write_session(storage)
        store.calls.clear()
        await exported(storage)
        steps = len(store.calls)
    outcomes = []
    for step in range(steps):
        store = FaultyObjectStore(MemoryObjectStore())
        async with ObjectSnapshotStorage(store) as storage, MemoryStorage() as target:
            await write_session(storage)
            store.calls.clear()

            async def delete(call, store=store, storage=storage, step=step):
                if len(store.calls) == step + 1:
                    store.fault = nothing
                    await storage.delete_session(session_id="s-1")

            store.fault = delete
            try:
                data = await exported(storage)
            except (SnapshotConflictError, SnapshotNotFoundError) as error:
                outcomes.append(type(error))
                continue
            outcomes.append(None)
            await import_session(target, io.BytesIO(data)).run()
            for agent in ("weather", "travel"):
                location = SnapshotLocation.agent("s-1", agent)
                latest = await target.load_snapshot(location=location)
                ids = await target.list_snapshot_ids(location=location)
                assert latest is None or len(ids) == 3
    assert set(outcomes) >= {SnapshotConflictError, SnapshotNotFoundError}


async def test_history_that_goes_while_latest_stays_is_an_error():
    """As in the middle of a delete, which takes history first."""
    store = FaultyObjectStore(MemoryObjectStore())
    async with ObjectSnapshotStorage(store) as storage:
        await write_session(storage)
        ids = await storage.list_snapshot_ids(location=LOCATION)

        async def delete(call):
            if call.keys == (storage.layout.history(LOCATION, ids[0]),):
                for snapshot_id in ids:
                    store.inner.objects.pop(storage.layout.history(LOCATION, snapshot_id), None)

        store.fault = delete
        with pytest.raises(SnapshotConflictError, match="export it again"):
            await exported(storage)
        store.fault = nothing
        assert await exported(storage)


@pytest.mark.parametrize("fault", [StoreFault(), StoreFault(applied=True)])
async def test_an_import_killed_at_every_call_and_run_again_ends_the_same(fault):
    async with MemoryStorage() as storage:
        await write_session(storage)
        data = await exported(storage)
        expected = await contents(storage)
    step = 0
    while True:
        store = FaultyObjectStore(MemoryObjectStore())
        async with ObjectSnapshotStorage(store) as target:

            async def fail(call, store=store, step=step):
                return fault if len(store.calls) > step else None

            store.fault = fail
            try:
                await import_session(target, io.BytesIO(data)).run()
            except StorageUnavailableError:
                pass
            else:
                break
            store.fault = nothing
            latest = await target.load_snapshot(location=LOCATION)
            assert latest is None or len(await target.list_snapshot_ids(location=LOCATION)) == 3
            assert (await import_session(target, io.BytesIO(data)).run()).ok
            assert await contents(target) == expected
        step += 1
    assert step > 10


@pytest.mark.parametrize("failing", ["get", "cancel", "disk"])
async def test_an_export_that_fails_leaves_no_file_and_keeps_the_old_one(
    failing, tmp_path, monkeypatch
):
    store = FaultyObjectStore(MemoryObjectStore())
    path = tmp_path / "x.tar"
    path.write_bytes(b"the old one")
    async with ObjectSnapshotStorage(store) as storage:
        await write_session(storage)
        reached = asyncio.Event()

        async def fail(call):
            if call.operation == "get" and "immutable" in call.keys[0]:
                reached.set()
                return StoreFault(stall=failing == "cancel")
            return None

        if failing == "disk":
            monkeypatch.setattr(os, "fsync", no_space)
        else:
            store.fault = fail
        saving = asyncio.create_task(save_export(storage, path, session_id="s-1"))
        if failing == "cancel":
            async with asyncio.timeout(60):
                await reached.wait()
            saving.cancel()
        with pytest.raises((StorageUnavailableError, asyncio.CancelledError, OSError)):
            await saving
    assert path.read_bytes() == b"the old one"
    assert names_in(tmp_path) == ["x.tar"]


def no_space(descriptor):
    raise OSError(28, "No space left on device")


async def test_what_can_t_be_exported_is_an_error_that_names_it(tmp_path):
    async with MemoryStorage(max_snapshot_bytes=1_000) as storage:
        with pytest.raises(SnapshotNotFoundError, match="no session s-1"):
            await exported(storage)
        with pytest.raises(SnapshotNotFoundError):
            await save_export(storage, tmp_path / "x.tar", session_id="s-1")
        assert names_in(tmp_path) == []
        await write_session(storage)
        await storage.objects.put("s-1/directory/", b"")
        await exported(storage)
        await storage.objects.put("s-1/a//b", b"x")
        with pytest.raises(UnsupportedOperationError, match="s-1/a//b"):
            await exported(storage)
        await storage.objects.delete(["s-1/a//b"])
        await storage.objects.put("s-1/large", bytes(2_000))
        with pytest.raises(ObjectTooLargeError, match="s-1/large"):
            await exported(storage)


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda storage: export_session(storage, session_id="S 1"), InvalidIdentifierError),
        (lambda storage: import_session(storage, "x", session_id="S 1"), InvalidIdentifierError),
        (lambda storage: import_session(storage, 5), TypeError),
        (lambda storage: import_session(storage, b"bytes"), TypeError),
        (lambda storage: import_session(storage, "x", on_conflict="no"), ValueError),
        (lambda storage: import_session(storage, "x", max_requests_per_second=-1), ValueError),
    ],
)
async def test_bad_arguments_are_errors_at_once(call, error):
    async with MemoryStorage() as storage:
        with pytest.raises(error):
            call(storage)


async def test_what_can_t_be_read_or_written_is_said(tmp_path):
    async with MemoryStorage() as storage:
        with pytest.raises(FileNotFoundError):
            await import_session(storage, tmp_path / "missing").run()
        with pytest.raises(TypeError, match="bytes"):
            await import_session(storage, io.StringIO("text")).run()
        with pytest.raises(TypeError, match="path or a binary file"):
            await save_export(storage, 5, session_id="s-1")

        async def texts():
            yield "text"

        with pytest.raises(TypeError, match="bytes"):
            await import_session(storage, texts()).run()
        await write_session(storage)
        with pytest.raises(FileNotFoundError):
            await save_export(storage, tmp_path / "missing" / "x.tar", session_id="s-1")


async def test_without_the_extra_compression_says_what_to_install(monkeypatch):
    for package in ("backports", "compression"):
        monkeypatch.setitem(sys.modules, f"{package}.zstd", None)
        if package in sys.modules:
            monkeypatch.delattr(sys.modules[package], "zstd", raising=False)
    async with MemoryStorage() as storage:
        with pytest.raises(ModuleNotFoundError, match=r"snapstore\[archive\]"):
            export_session(storage, session_id="s-1", compress=True)
        with pytest.raises(ModuleNotFoundError, match=r"snapstore\[archive\]"):
            await import_session(storage, io.BytesIO(b"\x28\xb5\x2f\xfd....")).run()


SIZE = 32_768


async def test_a_long_session_takes_the_memory_of_a_few_objects(tmp_path):
    """64 MiB of history are exported and imported."""

    class Long(MemoryObjectStore):
        def __init__(self, objects):
            super().__init__()
            prefix = "s-1/scopes/agent/weather/snapshots/immutable_history/snapshot_"
            self.keys = [
                f"{prefix}{n:08x}-0000-7000-8000-000000000000.json" for n in range(objects)
            ]
            self.written = 0

        def capability(self, kind):
            return None

        async def scan(self, prefix, *, start_after=None, page_size=1000):
            keys = [key for key in self.keys if key.startswith(prefix)]
            for first in range(0, len(keys), page_size):
                yield keys[first : first + page_size]

        async def get(self, key, *, max_bytes):
            await asyncio.sleep(0)
            if not self.keys or "immutable_history" not in key:
                return None
            filled = MemoryObjectStore()
            filled.objects[key] = DOCUMENT + b" " * (SIZE - len(DOCUMENT))
            return await filled.get(key, max_bytes=max_bytes)

        async def put(self, key, data, **options):
            await asyncio.sleep(0)
            self.written += 1

    path = tmp_path / "x.tar"
    there = Long(0)
    async with (
        ObjectSnapshotStorage(Long(2_000)) as storage,
        ObjectSnapshotStorage(there) as target,
    ):
        for work in (
            lambda: save_export(storage, path, session_id="s-1"),
            lambda: import_session(target, path).run(),
        ):
            tracemalloc.start()
            try:
                before, _ = tracemalloc.get_traced_memory()
                tracemalloc.reset_peak()
                await work()
                _, peak = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
            assert peak - before < 8 * 2**20
    assert there.written == 2_000
