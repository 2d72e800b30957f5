"""The three storages: a constructor each, over an object store."""

from __future__ import annotations

import os
from typing import Unpack

from snapstore.storage.base import DEFAULT_MAX_SNAPSHOT_BYTES
from snapstore.storage.observation import OperationHook
from snapstore.storage.snapshots import ObjectSnapshotStorage
from snapstore.stores.file.store import FileObjectStore
from snapstore.stores.memory import MemoryObjectStore
from snapstore.stores.s3.options import S3Options
from snapstore.stores.s3.store import S3ObjectStore

__all__ = ["FileStorage", "MemoryStorage", "S3Storage"]


class S3Storage(ObjectSnapshotStorage):
    """Snapshots in an S3 bucket, which is never created or reconfigured.

    Args:
        bucket: The bucket's name.
        prefix: What all keys begin with, without the closing `/`; used verbatim.
        timeout: Seconds that a save or a load may take, its retries and the wait for a connection
            included, each page of a listing, each batch of a delete, and each attempt of
            `update_latest` without the time that `update` takes; `None` for no deadline.
        max_snapshot_bytes: Largest snapshot as JSON, in bytes, for saves and loads.
        on_operation: Called with a record of each operation: see `ObjectSnapshotStorage`.
        on_operation_keys: Whether records have keys.
        options: The options of the client and of its requests: see `S3Options`.

    Raises:
        TypeError: There is no such option, or `client` is not an entered aiobotocore client, or it
            comes with options for making one; or `on_operation` is not a plain function.
        ValueError: An argument is out of its range.
        InvalidIdentifierError: The prefix can't be part of a key, or is too long.

    Example:
        ::

            async with S3Storage("my-bucket", prefix="prod") as storage:
                location = SnapshotLocation.agent("session-1", "weather")
                snapshot = await storage.load_snapshot(location=location)
    """

    def __init__(
        self,
        bucket: str,
        *,
        prefix: str = "",
        timeout: float | None = 60.0,
        max_snapshot_bytes: int = DEFAULT_MAX_SNAPSHOT_BYTES,
        on_operation: OperationHook | None = None,
        on_operation_keys: bool = False,
        **options: Unpack[S3Options],
    ) -> None:
        store = S3ObjectStore(bucket, timeout=timeout, **options)
        super().__init__(
            store,
            prefix=prefix,
            max_snapshot_bytes=max_snapshot_bytes,
            timeout=timeout,
            on_operation=on_operation,
            on_operation_keys=on_operation_keys,
        )


class FileStorage(ObjectSnapshotStorage):
    """Snapshots in files, in the layout of the Strands `FileStorage`. POSIX only.

    Several processes on one host may use one root, forked ones too: conditional writes are exact
    between them. Between hosts that share a network file system they are not. What is cancelled or
    timed out while a thread is at it may be applied all the same, until the storage is closed.

    Files and directories are made for their owner alone (modes 0600 and 0700); a file that is
    replaced keeps its mode.

    Args:
        root: The directory that holds the sessions; made by the first write.
        prefix: What all keys begin with, without the closing `/`: a directory under the root.
        timeout: Seconds that a save or a load may take, the wait for another writer included, each
            page of a listing, each batch of a delete, and each attempt of `update_latest` without
            the time that `update` takes; `None` for no deadline.
        max_snapshot_bytes: Largest snapshot as JSON, in bytes, for saves and loads.
        on_operation: Called with a record of each operation: see `ObjectSnapshotStorage`.
        on_operation_keys: Whether records have keys.

    Raises:
        ValueError: An argument is out of its range.
        InvalidIdentifierError: The prefix can't be part of a key, or is too long.
        TypeError: `on_operation` is not a plain function.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        *,
        prefix: str = "",
        timeout: float | None = 60.0,
        max_snapshot_bytes: int = DEFAULT_MAX_SNAPSHOT_BYTES,
        on_operation: OperationHook | None = None,
        on_operation_keys: bool = False,
    ) -> None:
        super().__init__(
            FileObjectStore(root),
            prefix=prefix,
            max_snapshot_bytes=max_snapshot_bytes,
            timeout=timeout,
            on_operation=on_operation,
            on_operation_keys=on_operation_keys,
        )


class MemoryStorage(ObjectSnapshotStorage):
    """Snapshots in this process's memory, for tests. They outlive closing, not the storage.

    Args:
        prefix: What all keys begin with, without the closing `/`.
        max_snapshot_bytes: Largest snapshot as JSON, in bytes, for saves and loads.
        on_operation: Called with a record of each operation: see `ObjectSnapshotStorage`.
        on_operation_keys: Whether records have keys.

    Raises:
        ValueError: `max_snapshot_bytes` is not positive.
        InvalidIdentifierError: The prefix can't be part of a key, or is too long.
        TypeError: `on_operation` is not a plain function.
    """

    def __init__(
        self,
        *,
        prefix: str = "",
        max_snapshot_bytes: int = DEFAULT_MAX_SNAPSHOT_BYTES,
        on_operation: OperationHook | None = None,
        on_operation_keys: bool = False,
    ) -> None:
        super().__init__(
            MemoryObjectStore(),
            prefix=prefix,
            max_snapshot_bytes=max_snapshot_bytes,
            on_operation=on_operation,
            on_operation_keys=on_operation_keys,
        )
