"""Agent session snapshots in S3, on asyncio.

Start with `S3Storage`; `FileStorage` and `MemoryStorage` behave the same without a server.
"""

from snapstore.backends import FileStorage, MemoryStorage, S3Storage
from snapstore.check import CheckReport
from snapstore.errors import (
    AccessDeniedError,
    BucketNotFoundError,
    InvalidIdentifierError,
    InvalidResponseError,
    LifecycleError,
    OutcomeUnknownError,
    PartialDeleteError,
    ScopeMismatchError,
    SnapshotConflictError,
    SnapshotDecodeError,
    SnapshotEncodeError,
    SnapshotExistsError,
    SnapstoreError,
    StorageClosedError,
    StorageError,
    StorageTimeoutError,
    StorageUnavailableError,
    UnsupportedOperationError,
    WrongEventLoopError,
)
from snapstore.ids import Scope, new_snapshot_id, snapshot_id_at, snapshot_time
from snapstore.objects.base import (
    Finding,
    ObjectStore,
    ObjectTooLargeError,
    PreconditionFailedError,
    StoredObject,
    Version,
)
from snapstore.protocols import SnapshotStorage, VersionedSnapshotStorage
from snapstore.storage import ObjectSnapshotStorage
from snapstore.types import (
    DeletedSession,
    Dialect,
    RawSnapshot,
    SavedSnapshot,
    Snapshot,
    SnapshotLocation,
    SnapshotManifest,
    VersionedSnapshot,
)

__all__ = [
    "AccessDeniedError",
    "BucketNotFoundError",
    "CheckReport",
    "DeletedSession",
    "Dialect",
    "FileStorage",
    "Finding",
    "InvalidIdentifierError",
    "InvalidResponseError",
    "LifecycleError",
    "MemoryStorage",
    "ObjectSnapshotStorage",
    "ObjectStore",
    "ObjectTooLargeError",
    "OutcomeUnknownError",
    "PartialDeleteError",
    "PreconditionFailedError",
    "RawSnapshot",
    "S3Storage",
    "SavedSnapshot",
    "Scope",
    "ScopeMismatchError",
    "Snapshot",
    "SnapshotConflictError",
    "SnapshotDecodeError",
    "SnapshotEncodeError",
    "SnapshotExistsError",
    "SnapshotLocation",
    "SnapshotManifest",
    "SnapshotStorage",
    "SnapstoreError",
    "StorageClosedError",
    "StorageError",
    "StorageTimeoutError",
    "StorageUnavailableError",
    "StoredObject",
    "UnsupportedOperationError",
    "Version",
    "VersionedSnapshot",
    "VersionedSnapshotStorage",
    "WrongEventLoopError",
    "new_snapshot_id",
    "snapshot_id_at",
    "snapshot_time",
]
