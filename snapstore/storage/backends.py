"""The three storages: a constructor each, over an object store."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from snapstore.storage.snapshots import DEFAULT_MAX_SNAPSHOT_BYTES, ObjectSnapshotStorage
from snapstore.stores.file.store import FileObjectStore
from snapstore.stores.memory import MemoryObjectStore
from snapstore.stores.s3.store import S3ObjectStore

if TYPE_CHECKING:
    from aiobotocore.session import AioSession

__all__ = ["FileStorage", "MemoryStorage", "S3Storage"]


class S3Storage(ObjectSnapshotStorage):
    """Snapshots in an S3 bucket, which is never created or reconfigured.

    Args:
        bucket: The bucket's name.
        prefix: What all keys begin with, without the closing `/`; used verbatim.
        region: The bucket's region; `None` for botocore's resolution, as for all of the next.
        endpoint_url: Where the server is, for an S3 that is not Amazon's.
        session: An aiobotocore session to take credentials and configuration from.
        config: An `AioConfig`; what it sets goes before our settings (`standard` retries, a pool
            of `max_concurrency` connections, no redirects).
        client: An entered aiobotocore S3 client to use instead of one of our own. It is never
            closed here. Excludes `region`, `endpoint_url`, `session` and `config`.
        timeout: Seconds that a save or a load may take, its retries and the wait for a connection
            included, each page of a listing, each batch of a delete, and each attempt of
            `update_latest` without the time that `update` takes; `None` for no deadline.
        max_concurrency: Requests in flight at the most. An own client's pool is at least as large;
            of a borrowed client no more are used than its pool has connections.
        max_snapshot_bytes: How large a snapshot may be as JSON, in bytes, both ways.
        server_side_encryption: `"AES256"`, `"aws:kms"` or `"aws:kms:dsse"`, for each write.
        kms_key_id: The KMS key for each write; needs a `server_side_encryption` by KMS.
        expected_bucket_owner: The account id that must own the bucket, checked by the server.
        direct: Whether requests may be replayed on the client's HTTP session without the client,
            which costs a fraction of the CPU. Where that can't be done it is not, and `check` says
            why.

    Raises:
        TypeError: `client` is not an entered aiobotocore client, or is given with what is for a
            client of our own.
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
        region: str | None = None,
        endpoint_url: str | None = None,
        session: AioSession | None = None,
        config: Any = None,
        client: Any = None,
        timeout: float | None = 60.0,
        max_concurrency: int = 128,
        max_snapshot_bytes: int = DEFAULT_MAX_SNAPSHOT_BYTES,
        server_side_encryption: str | None = None,
        kms_key_id: str | None = None,
        expected_bucket_owner: str | None = None,
        direct: bool = True,
    ) -> None:
        store = S3ObjectStore(
            bucket,
            region=region,
            endpoint_url=endpoint_url,
            session=session,
            config=config,
            client=client,
            max_concurrency=max_concurrency,
            server_side_encryption=server_side_encryption,
            kms_key_id=kms_key_id,
            expected_bucket_owner=expected_bucket_owner,
            direct=direct,
            timeout=timeout,
        )
        super().__init__(
            store, prefix=prefix, max_snapshot_bytes=max_snapshot_bytes, timeout=timeout
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
        max_snapshot_bytes: How large a snapshot may be as JSON, in bytes, both ways.

    Raises:
        ValueError: An argument is out of its range.
        InvalidIdentifierError: The prefix can't be part of a key, or is too long.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        *,
        prefix: str = "",
        timeout: float | None = 60.0,
        max_snapshot_bytes: int = DEFAULT_MAX_SNAPSHOT_BYTES,
    ) -> None:
        super().__init__(
            FileObjectStore(root),
            prefix=prefix,
            max_snapshot_bytes=max_snapshot_bytes,
            timeout=timeout,
        )


class MemoryStorage(ObjectSnapshotStorage):
    """Snapshots in this process's memory, for tests. They outlive closing, not the storage.

    Args:
        prefix: What all keys begin with, without the closing `/`.
        max_snapshot_bytes: How large a snapshot may be as JSON, in bytes, both ways.

    Raises:
        ValueError: `max_snapshot_bytes` is not positive.
        InvalidIdentifierError: The prefix can't be part of a key, or is too long.
    """

    def __init__(
        self, *, prefix: str = "", max_snapshot_bytes: int = DEFAULT_MAX_SNAPSHOT_BYTES
    ) -> None:
        super().__init__(MemoryObjectStore(), prefix=prefix, max_snapshot_bytes=max_snapshot_bytes)
