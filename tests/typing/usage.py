"""How users write it, as type checkers see it. Never run: `nox -s typing` checks it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, assert_type

import msgspec
import pytest
import pytest_asyncio
from aiobotocore.config import AioConfig
from aiobotocore.session import get_session

from snapstore import (
    CheckReport,
    DeletedSession,
    Dialect,
    FileStorage,
    Finding,
    LatestDescription,
    LocationDescription,
    MemoryStorage,
    ObjectSnapshotStorage,
    ObjectTotals,
    OperationRecord,
    PartialDeleteError,
    RequestRecord,
    S3Storage,
    SavedSnapshot,
    Scope,
    SessionDescription,
    SessionPage,
    SessionSummary,
    Snapshot,
    SnapshotConflictError,
    SnapshotDecodeError,
    SnapshotLocation,
    SnapshotManifest,
    SnapshotStorage,
    StorageError,
    VersionedSnapshot,
    VersionedSnapshotStorage,
    new_snapshot_id,
    snapshot_id_at,
    snapshot_time,
)
from snapstore.integrations.opentelemetry import OpenTelemetryHook
from snapstore.operations import (
    ArchiveEvent,
    ArchivePruneReport,
    ArchiveReport,
    RetentionPolicy,
    UnarchiveReport,
    archive,
    prune_archive,
    unarchive,
)
from snapstore.stores import (
    ObjectStore,
    S3Client,
    S3ObjectStore,
    S3Options,
    StoredObject,
    Version,
)
from snapstore.testing import (
    BucketObjects,
    DictObjects,
    DirectoryObjects,
    ObjectStoreTests,
    RawObjects,
    SnapshotStorageTests,
    StorageSubject,
    StoreSubject,
    VersionedSnapshotStorageTests,
)
from snapstore.testing.server import S3Server, create_bucket, running_server

LOCATION = SnapshotLocation.agent("session-1", "weather")


def values() -> None:
    assert_type(LOCATION, SnapshotLocation)
    assert_type(SnapshotLocation("session-1", "multiAgent", "graph"), SnapshotLocation)
    assert_type(SnapshotLocation.multi_agent("session-1", "graph"), SnapshotLocation)
    assert_type(LOCATION.scope, Scope)

    snapshot = Snapshot.new({"messages": []}, scope="agent", app_data={"tenant": "acme"})
    assert_type(snapshot, Snapshot)
    assert_type(snapshot.data, dict[str, Any])
    assert_type(snapshot.dialect, Dialect)
    assert_type(msgspec.structs.replace(snapshot, app_data={}), Snapshot)
    Snapshot("agent", "1.0", "2026-01-01T00:00:00.000Z", {}, {}, dialect="python")
    Snapshot(scope="agent", schema_version="1.0", created_at="", data={}, app_data={})
    # The ignored errors are the point: a checker that finds none there says so.
    Snapshot.new({}, scope="swarm")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    snapshot.data = {}  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]

    assert_type(new_snapshot_id(), str)
    assert_type(snapshot_time(new_snapshot_id()), datetime)
    assert_type(snapshot_id_at(datetime.now(UTC) - timedelta(hours=1)), str)


async def six_operations(storage: SnapshotStorage) -> None:
    snapshot = await storage.load_snapshot(location=LOCATION)
    assert_type(snapshot, Snapshot | None)
    if snapshot is not None:
        await storage.save_snapshot(location=LOCATION, snapshot=snapshot, is_latest=True)
        await storage.save_snapshot(
            location=LOCATION, snapshot=snapshot, is_latest=False, snapshot_id=new_snapshot_id()
        )
    ids = await storage.list_snapshot_ids(location=LOCATION, limit=10, start_after=None)
    assert_type(ids, list[str])
    assert_type(await storage.load_snapshot(location=LOCATION, snapshot_id=ids[0]), Snapshot | None)
    manifest = await storage.load_manifest(location=LOCATION)
    assert_type(manifest, SnapshotManifest)
    await storage.save_manifest(location=LOCATION, manifest=manifest)
    await storage.delete_session(session_id="session-1")


async def versioned_operations(storage: VersionedSnapshotStorage) -> None:
    snapshot = Snapshot.new({"messages": []})
    saved = await storage.save_snapshot(location=LOCATION, snapshot=snapshot, is_latest=False)
    assert_type(saved, SavedSnapshot)
    assert_type(saved.snapshot_id, str | None)
    assert_type(saved.etag, str)

    loaded = await storage.load_versioned(location=LOCATION, snapshot_id=saved.snapshot_id)
    assert_type(loaded, VersionedSnapshot | None)
    if loaded is not None:
        assert_type(loaded.snapshot, Snapshot)
        for version in (loaded, saved, loaded.etag):
            await storage.save_snapshot(
                location=LOCATION, snapshot=snapshot, is_latest=True, if_match=version
            )
    await storage.save_snapshot(
        location=LOCATION, snapshot=snapshot, is_latest=True, if_none_match=True
    )
    assert_type(
        await storage.checkpoint(location=LOCATION, snapshot=snapshot, if_match=saved),
        SavedSnapshot,
    )

    assert_type(
        await storage.rewind(location=LOCATION, snapshot_id=new_snapshot_id(), if_match=saved),
        SavedSnapshot,
    )

    now = datetime.now(UTC)
    assert_type(
        await storage.list_snapshot_ids(location=LOCATION, newest_first=True, limit=10, until=now),
        list[str],
    )
    assert_type(await storage.load_snapshot(location=LOCATION, as_of=now), Snapshot | None)

    async with aclosing(storage.iter_snapshot_ids(location=LOCATION, since=now)) as ids:
        async for snapshot_id in ids:
            assert_type(snapshot_id, str)


async def archives(storage: ObjectSnapshotStorage) -> None:
    found = await storage.load_archived(location=LOCATION, snapshot_id=new_snapshot_id())
    assert_type(found, Snapshot | None)
    async with aclosing(storage.iter_archived_ids(location=LOCATION)) as ids:
        async for snapshot_id in ids:
            assert_type(snapshot_id, str)
    policy = RetentionPolicy(keep_last=10)
    async with archive(storage, policy, sessions=["session-1"]) as archiving:
        async for archived in archiving:
            assert_type(archived, ArchiveEvent)
    assert_type(archiving.report, ArchiveReport)
    assert_type(await unarchive(storage, dry_run=True).run(), UnarchiveReport)
    assert_type(await prune_archive(storage, policy).run(), ArchivePruneReport)


async def sessions(storage: VersionedSnapshotStorage) -> None:
    async with aclosing(storage.iter_sessions(start_after="session-1")) as ids:
        async for session_id in ids:
            assert_type(session_id, str)

    page = await storage.list_sessions(limit=20, order="updated", cursor=None)
    assert_type(page, SessionPage)
    assert_type(page.cursor, str | None)
    for summary in page.sessions:
        assert_type(summary, SessionSummary)
        assert_type(summary.updated_at, datetime | None)
        assert_type(summary.bytes, int | None)
    await storage.list_sessions(limit=20, order="newest")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

    description = await storage.describe_session(session_id="session-1")
    assert_type(description, SessionDescription | None)
    if description is not None:
        assert_type(description.stash, ObjectTotals)
        for location in description.locations:
            assert_type(location, LocationDescription)
            assert_type(location.latest, LatestDescription | None)


async def updates(storage: VersionedSnapshotStorage) -> None:
    def renew(snapshot: Snapshot | None) -> Snapshot:
        return snapshot or Snapshot.new({"turns": 0})

    async def count(snapshot: Snapshot | None) -> Snapshot:
        turns: int = 0 if snapshot is None else snapshot.data["turns"]
        return Snapshot.new({"turns": turns + 1})

    assert_type(await storage.update_latest(location=LOCATION, update=renew), SavedSnapshot)
    assert_type(
        await storage.update_latest(location=LOCATION, update=count, max_attempts=3), SavedSnapshot
    )
    await storage.update_latest(location=LOCATION, update=lambda _: Snapshot.new({}))


async def backends(client: S3Client) -> None:
    async with S3Storage("bucket", prefix="prod", timeout=None, session=get_session()) as s3:
        assert_type(s3, S3Storage)
        await six_operations(s3)
        await versioned_operations(s3)
        await sessions(s3)
        assert_type(await s3.delete_session(session_id="session-1"), DeletedSession)
    S3Storage("bucket", client=client, server_side_encryption="aws:kms", kms_key_id="key")
    S3Storage("bucket", direct=False)
    options: S3Options = {"region": "eu-central-1", "max_concurrency": 8}
    S3Storage("bucket", prefix="prod", timeout=1, **options)
    store: ObjectStore = S3ObjectStore("bucket", **options)
    assert_type(store.name, str)
    async with get_session().create_client("s3") as entered:
        S3Storage("bucket", client=entered)
    S3Storage("bucket", config=AioConfig(max_pool_connections=10))
    # The ignored errors are the point: a checker that finds none there says so.
    S3Storage("bucket", regoin="eu-central-1")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    S3Storage("bucket", max_concurrency="8")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    S3Storage("bucket", client="client")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    # Mypy does not see aiobotocore's types.
    S3Storage("bucket", client=get_session().create_client("s3"))  # pyright: ignore[reportArgumentType]
    S3ObjectStore("bucket", regoin="eu-central-1")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    S3ObjectStore("bucket", direct="yes")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    options = {"region": 1}  # type: ignore[typeddict-item]  # pyright: ignore[reportAssignmentType]
    report = await s3.check()
    assert_type(report, CheckReport)
    assert_type(report.ok, bool)
    assert_type(report["create-only"], Finding)

    files = FileStorage("snapshots", prefix="prod", timeout=None, max_snapshot_bytes=2**20)
    await files.open()
    try:
        await updates(files)
    finally:
        await files.aclose()

    stores: list[VersionedSnapshotStorage] = [s3, files, MemoryStorage()]
    for storage in stores:
        await six_operations(storage)


async def errors(storage: ObjectSnapshotStorage) -> None:
    try:
        await storage.delete_session(session_id="session-1")
    except PartialDeleteError as error:
        assert_type(error.failed, dict[str, str])
    except SnapshotConflictError as error:
        assert_type(error.key, str | None)
    except StorageError as error:
        assert_type(error.status, int | None)
        assert_type(error.retry_after, float | None)
    except SnapshotDecodeError as error:
        assert_type(error.key, str | None)


class PlainStorage:
    """A user's own storage: its saves return nothing, as the reference's do."""

    async def save_snapshot(
        self,
        *,
        location: SnapshotLocation,
        snapshot: Snapshot,
        is_latest: bool,
        snapshot_id: str | None = None,
    ) -> None: ...

    async def load_snapshot(
        self, *, location: SnapshotLocation, snapshot_id: str | None = None
    ) -> Snapshot | None: ...

    async def list_snapshot_ids(
        self,
        *,
        location: SnapshotLocation,
        limit: int | None = None,
        start_after: str | None = None,
    ) -> list[str]:
        return []

    async def delete_session(self, *, session_id: str) -> None: ...

    async def load_manifest(self, *, location: SnapshotLocation) -> SnapshotManifest:
        return SnapshotManifest("1.0", "2026-01-01T00:00:00.000Z")

    async def save_manifest(
        self, *, location: SnapshotLocation, manifest: SnapshotManifest
    ) -> None: ...


class OwnStore:
    """A user's own object store."""

    name = "own"

    async def open(self) -> None: ...

    async def aclose(self) -> None: ...

    async def get(self, key: str, *, max_bytes: int) -> StoredObject | None:
        return StoredObject(key.encode()[:max_bytes], Version("etag"))

    async def put(
        self,
        key: str,
        data: bytes,
        *,
        if_match: Version | None = None,
        if_none_match: bool = False,
    ) -> Version:
        return Version("etag")

    async def scan(
        self, prefix: str, *, start_after: str | None = None, page_size: int = 1000
    ) -> AsyncGenerator[list[str], None]:
        yield [prefix]

    async def delete(self, keys: Sequence[str]) -> Mapping[str, str]:
        return {}


async def own_kinds() -> None:
    await six_operations(PlainStorage())
    await versioned_operations(PlainStorage())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    store: ObjectStore = OwnStore()
    async with ObjectSnapshotStorage(store, prefix="prod") as storage:
        assert_type(storage, ObjectSnapshotStorage)
        await versioned_operations(storage)


class Objects:
    """A user's own look behind a storage."""

    async def put(self, key: str, data: bytes) -> None: ...

    async def get(self, key: str) -> bytes | None: ...

    async def keys(self) -> list[str]:
        return []


class TestPlainStorage(SnapshotStorageTests):
    pytestmark = pytest.mark.asyncio

    @pytest.fixture
    def subject(self) -> StorageSubject[PlainStorage]:
        return StorageSubject(PlainStorage(), Objects())


class TestOwnStorage(VersionedSnapshotStorageTests):
    pytestmark = pytest.mark.asyncio

    @pytest_asyncio.fixture
    async def subject(self) -> AsyncIterator[StorageSubject[ObjectSnapshotStorage]]:
        async with ObjectSnapshotStorage(OwnStore()) as storage:
            yield StorageSubject(storage, Objects())


class TestOwnStore(ObjectStoreTests):
    pytestmark = pytest.mark.asyncio

    @pytest.fixture
    def subject(self) -> StoreSubject:
        return StoreSubject(OwnStore(), DictObjects({}))


async def raw_objects(client: object, directory: Path) -> list[RawObjects]:
    bucket = BucketObjects(client, "bucket", prefix="prod")
    await bucket.clear()
    return [bucket, DirectoryObjects(directory), DictObjects({}, "prod")]


async def conformance(subject: StorageSubject[VersionedSnapshotStorage], raw: RawObjects) -> None:
    assert_type(subject.storage, VersionedSnapshotStorage)
    assert_type(await raw.keys(), list[str])
    # What is versioned passes for what is plain.
    plain: StorageSubject[SnapshotStorage] = subject
    await six_operations(plain.storage)


def server() -> None:
    with running_server() as running:
        assert_type(running, S3Server)
        create_bucket(running, "bucket")
        assert_type(running.endpoint_url, str)


def on_operation(record: OperationRecord) -> None:
    assert_type(record.seconds, float)
    assert_type(record.requests, tuple[RequestRecord, ...])
    assert_type(record.key, str | None)


MemoryStorage(on_operation=on_operation)
FileStorage("sessions", on_operation=on_operation, on_operation_keys=True)
S3Storage("my-bucket", on_operation=print, direct=False)
S3Storage("my-bucket", on_operation=OpenTelemetryHook())
