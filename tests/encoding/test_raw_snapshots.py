"""Snapshots that are moved without being looked into."""

import json

import pytest

from snapstore import (
    FileStorage,
    MemoryStorage,
    ObjectSnapshotStorage,
    RawSnapshot,
    S3Storage,
    ScopeMismatchError,
    Snapshot,
    SnapshotConflictError,
    SnapshotDecodeError,
    SnapshotEncodeError,
    SnapshotLocation,
)
from snapstore.stores.memory import MemoryObjectStore

LOCATION = SnapshotLocation.agent("s-1", "weather")
KEY = "s-1/scopes/agent/weather/snapshots/snapshot_latest.json"
CANARY = "c4n4ry"
TYPESCRIPT = {
    "scope": "agent",
    "schemaVersion": "1.0",
    "createdAt": "2026-01-02T03:04:05.678Z",
    "data": {"messages": [CANARY, 1.0, 10**30, {"ü": None}]},
    "appData": {"tenant": "acme"},
    "later": {"by": ["someone"]},
}
PYTHON = {"schema_version": "1.0", "created_at": "now", "data": {"messages": [CANARY]}}


@pytest.fixture
async def store():
    return MemoryObjectStore()


@pytest.fixture
async def storage(store):
    async with ObjectSnapshotStorage(store) as storage:
        yield storage


async def load(storage, store, body: bytes) -> RawSnapshot | None:
    await store.put(KEY, body)
    return await storage.load_raw(location=LOCATION)


@pytest.mark.parametrize("layout", [{}, {"indent": 2}, {"separators": (",", ":")}])
@pytest.mark.parametrize("before", ["", "\n ", "\ufeff"])
async def test_the_bytes_are_those_that_were_stored(layout, before, storage, store) -> None:
    text = json.dumps(TYPESCRIPT, ensure_ascii=False, **layout)
    raw = await load(storage, store, (before + text).encode())
    assert raw == RawSnapshot(
        (before.removeprefix("\ufeff") + text).encode(),
        "agent",
        "1.0",
        "2026-01-02T03:04:05.678Z",
        "typescript",
    )
    assert CANARY not in repr(raw)


async def test_what_is_saved_are_the_bytes_that_were_loaded(storage, store) -> None:
    body = json.dumps(PYTHON, indent=4).encode()
    raw = await load(storage, store, body)
    assert (raw.dialect, raw.scope) == ("python", "agent")
    other = SnapshotLocation.agent("s-2", "weather")
    saved = await storage.checkpoint(location=other, snapshot=raw, if_none_match=True)
    for snapshot_id in (None, saved.snapshot_id):
        again = await storage.load_raw(location=other, snapshot_id=snapshot_id)
        assert again.document == body
    # A repeat is the same save, as of any snapshot.
    await storage.save_snapshot(
        location=other, snapshot=raw, is_latest=False, snapshot_id=saved.snapshot_id
    )
    assert (await storage.load_snapshot(location=other)).data == PYTHON["data"]


async def test_from_s3_to_a_file_to_memory(
    tmp_path, bucket, prefix, s3_server, monkeypatch
) -> None:
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    snapshot = Snapshot.new({"messages": ["x" * 100_000] * 20}, app_data={"lone": "\ud83d"})
    async with (
        S3Storage(bucket, prefix=prefix, endpoint_url=s3_server.endpoint_url) as on_s3,
        FileStorage(tmp_path) as on_disk,
        MemoryStorage() as in_memory,
    ):
        await on_s3.save_snapshot(location=LOCATION, snapshot=snapshot, is_latest=True)
        for source, target in ((on_s3, on_disk), (on_disk, in_memory), (in_memory, on_s3)):
            raw = await source.load_raw(location=LOCATION)
            await target.save_snapshot(location=LOCATION, snapshot=raw, is_latest=True)
            assert await target.load_snapshot(location=LOCATION) == snapshot


async def test_missing_is_none(storage) -> None:
    assert await storage.load_raw(location=LOCATION) is None


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        json.dumps(TYPESCRIPT).encode()[:-1],
        json.dumps(TYPESCRIPT).encode() + b"x",
        json.dumps({**TYPESCRIPT, "data": [CANARY]}).encode(),
        json.dumps({**TYPESCRIPT, "scope": {"a": CANARY}}).encode(),
        json.dumps({**TYPESCRIPT, "schema_version": CANARY}).encode(),
        json.dumps({name: TYPESCRIPT[name] for name in TYPESCRIPT if name != "data"}).encode(),
        json.dumps(TYPESCRIPT).replace(CANARY, "\x01").encode(),
        json.dumps(TYPESCRIPT).encode().replace(CANARY.encode(), b"\xff\xfe"),
        json.dumps(TYPESCRIPT).encode().replace(b"[", b"[,"),
        json.dumps(TYPESCRIPT).encode().replace(b"1.0,", b"1.,"),
    ],
)
async def test_what_is_no_snapshot_is_refused(body, storage, store) -> None:
    with pytest.raises(SnapshotDecodeError, match="is not a snapshot") as found:
        await load(storage, store, body)
    assert found.value.key == KEY
    assert CANARY not in str(found.value)
    assert found.value.__context__ is None


@pytest.mark.parametrize("text", ["\\ud83d", "\\ud83d\\ude00", "\\u0041"])
async def test_escapes_are_moved_as_they_are(text, storage, store) -> None:
    body = json.dumps(TYPESCRIPT).replace(CANARY, text).encode()
    assert (await load(storage, store, body)).document == body


@pytest.mark.parametrize(
    "value", [b"[" * 300 + b"]" * 300, b"1e400", b"9" * 4301, b"NaN", b'{"a":1e400,"a":1}']
)
async def test_what_cannot_be_loaded_is_not_moved(value, storage, store) -> None:
    body = json.dumps(TYPESCRIPT).encode().replace(b"1.0,", value + b",")
    for load_it in (storage.load_raw, storage.load_snapshot):
        await store.put(KEY, body)
        with pytest.raises(SnapshotDecodeError) as found:
            await load_it(location=LOCATION)
        assert CANARY not in str(found.value)
    raw = RawSnapshot(body, "agent", "1.0", TYPESCRIPT["createdAt"], "typescript")
    with pytest.raises(SnapshotEncodeError):
        await storage.save_snapshot(location=LOCATION, snapshot=raw, is_latest=True)


@pytest.mark.parametrize(
    ("document", "why"),
    [
        (CANARY, "document: not bytes"),
        (CANARY.encode(), "document is not a snapshot"),
        (b"", "document is not a snapshot"),
        (json.dumps(PYTHON).encode()[:-1], "document is not a snapshot"),
        (json.dumps({**PYTHON, "created_at": CANARY}).encode(), "its envelope is not that"),
        (json.dumps({**PYTHON, "scope": "multiAgent"}).encode(), "its envelope is not that"),
        (json.dumps(TYPESCRIPT).encode(), "its envelope is not that"),
    ],
)
async def test_one_that_is_not_what_it_says_is_not_saved(document, why, storage, store) -> None:
    raw = RawSnapshot(document, "agent", "1.0", "now", "python")
    with pytest.raises(SnapshotEncodeError, match=why) as found:
        await storage.save_snapshot(location=LOCATION, snapshot=raw, is_latest=True)
    assert CANARY not in str(found.value)
    assert found.value.__context__ is None
    assert await store.get(KEY, max_bytes=1000) is None


async def test_the_rules_of_a_save_are_kept(storage, store) -> None:
    raw = await load(storage, store, json.dumps({**PYTHON, "scope": "multiAgent"}).encode())
    with pytest.raises(ScopeMismatchError):
        await storage.save_snapshot(location=LOCATION, snapshot=raw, is_latest=True)
    group = SnapshotLocation.multi_agent("s-1", "crew")
    await storage.save_snapshot(location=group, snapshot=raw, is_latest=True, if_none_match=True)
    with pytest.raises(SnapshotConflictError):
        await storage.checkpoint(location=group, snapshot=raw, if_none_match=True)
    with pytest.raises(TypeError, match="exclude each other"):
        await storage.checkpoint(location=group, snapshot=raw, if_match="1", if_none_match=True)
    async with ObjectSnapshotStorage(store, max_snapshot_bytes=20) as small:
        with pytest.raises(SnapshotEncodeError, match="too large"):
            await small.save_snapshot(location=group, snapshot=raw, is_latest=True)
        with pytest.raises(SnapshotDecodeError, match="too large"):
            await small.load_raw(location=group)
