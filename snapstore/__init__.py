"""Agent session snapshots in S3, on asyncio.

Start with `S3Storage`; `FileStorage` and `MemoryStorage` behave the same without a server.

A name is imported when it is first asked for: the plugin for pytest lies in this package, and runs
that don't use it should not wait for what they don't need.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from snapstore.errors import (
        AccessDeniedError,
        BucketNotFoundError,
        InvalidExportError,
        InvalidIdentifierError,
        InvalidResponseError,
        LifecycleError,
        Outcome,
        OutcomeUnknownError,
        PartialDeleteError,
        ScopeMismatchError,
        SessionDeletedError,
        SnapshotConflictError,
        SnapshotDecodeError,
        SnapshotEncodeError,
        SnapshotExistsError,
        SnapshotNotFoundError,
        SnapstoreError,
        StorageClosedError,
        StorageError,
        StorageTimeoutError,
        StorageUnavailableError,
        UnsupportedOperationError,
        WrongEventLoopError,
    )
    from snapstore.model.ids import Scope, new_snapshot_id, snapshot_id_at, snapshot_time
    from snapstore.model.protocols import SnapshotStorage, VersionedSnapshotStorage
    from snapstore.model.sessions import (
        LatestDescription,
        LocationDescription,
        ObjectTotals,
        SessionDescription,
        SessionOrder,
        SessionPage,
        SessionSummary,
    )
    from snapstore.model.snapshot import (
        DeletedSession,
        Dialect,
        RawSnapshot,
        SavedSnapshot,
        Snapshot,
        SnapshotLocation,
        SnapshotManifest,
        VersionedSnapshot,
    )
    from snapstore.storage.backends import FileStorage, MemoryStorage, S3Storage
    from snapstore.storage.check import CheckReport
    from snapstore.storage.observation import OperationHook, OperationRecord
    from snapstore.storage.snapshots import ObjectSnapshotStorage
    from snapstore.stores.base import Finding
    from snapstore.stores.recording import RequestRecord

__all__ = [
    "AccessDeniedError",
    "BucketNotFoundError",
    "CheckReport",
    "DeletedSession",
    "Dialect",
    "FileStorage",
    "Finding",
    "InvalidExportError",
    "InvalidIdentifierError",
    "InvalidResponseError",
    "LatestDescription",
    "LifecycleError",
    "LocationDescription",
    "MemoryStorage",
    "ObjectSnapshotStorage",
    "ObjectTotals",
    "OperationHook",
    "OperationRecord",
    "Outcome",
    "OutcomeUnknownError",
    "PartialDeleteError",
    "RawSnapshot",
    "RequestRecord",
    "S3Storage",
    "SavedSnapshot",
    "Scope",
    "ScopeMismatchError",
    "SessionDeletedError",
    "SessionDescription",
    "SessionOrder",
    "SessionPage",
    "SessionSummary",
    "Snapshot",
    "SnapshotConflictError",
    "SnapshotDecodeError",
    "SnapshotEncodeError",
    "SnapshotExistsError",
    "SnapshotLocation",
    "SnapshotManifest",
    "SnapshotNotFoundError",
    "SnapshotStorage",
    "SnapstoreError",
    "StorageClosedError",
    "StorageError",
    "StorageTimeoutError",
    "StorageUnavailableError",
    "UnsupportedOperationError",
    "VersionedSnapshot",
    "VersionedSnapshotStorage",
    "WrongEventLoopError",
    "new_snapshot_id",
    "snapshot_id_at",
    "snapshot_time",
]

_MODULES: Final = (
    "errors",
    "model.ids",
    "model.snapshot",
    "model.sessions",
    "model.protocols",
    "stores.base",
    "stores.recording",
    "storage.check",
    "storage.observation",
    "storage.snapshots",
    "storage.backends",
)
"""Where the names come from, lowest first: none is imported for a name that lies below it."""

__version__: str
"""The version of this package."""

if not TYPE_CHECKING:  # type checkers would take any name for one of ours

    def __getattr__(name: str) -> Any:
        if name == "__version__":
            from snapstore.version import __version__

            return globals().setdefault(name, __version__)
        if name in __all__:
            for module in _MODULES:
                home = import_module(f"{__name__}.{module}")
                if name in home.__all__:
                    return globals().setdefault(name, getattr(home, name))
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})
