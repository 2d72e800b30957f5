"""The storage: what the SDK's own S3 storage is to its users, over snapstore's object store."""

from __future__ import annotations

import builtins
import copy
from collections.abc import Awaitable, Callable
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self, TypeVar, Unpack

from strands.storage.search import KeywordSearchStrategy

from snapstore.errors import InvalidIdentifierError, SnapstoreError, StorageError
from snapstore.integrations.strands.anywhere import Anywhere
from snapstore.integrations.strands.errors import for_strands
from snapstore.integrations.strands.objects import Objects
from snapstore.integrations.strands.sdk import (
    NAMESPACED,
    SDKStorageError,
    normal_key,
    normal_prefix,
)
from snapstore.model.snapshot import Dialect
from snapstore.storage.snapshots import DEFAULT_MAX_SNAPSHOT_BYTES
from snapstore.stores.base import StoredObject
from snapstore.stores.s3.options import S3OwnClientOptions, validate_names
from snapstore.stores.s3.store import S3ObjectStore

if TYPE_CHECKING:
    from strands.storage.search import SearchStrategy, StorageSearchResult

__all__ = ["StrandsStorage"]

T = TypeVar("T")

_NAME: Final = "StrandsStorage"


class StrandsStorage:
    """A storage in an S3 bucket for the Strands SDK: for sessions, stash, offloading and memory.

    It stands where the SDK's own `strands.storage.S3Storage` does, and its keys are the same. It
    may be used from any thread and any event loop, also while another one is blocked: its client
    lives on a thread of its own, which begins with the first request and ends with `close`.

    A snapshot that an agent in TypeScript has saved is read as Python's SDK writes it, and
    snapshots are written in the dialect asked for. All other objects are left as they are.

    Args:
        bucket: The bucket's name.
        prefix: What all keys begin with. As with the SDK's own, `/` is added to it: `agents/`
            becomes `agents//`.
        dialect: Whose snapshots are written: `"typescript"` for a session that agents in
            TypeScript go on with. Reading needs no choice.
        timeout: Seconds that a read, a write, each page of a listing and each batch of deletes may
            take; `None` for no deadline.
        max_snapshot_bytes: How large an object may be, in bytes, both ways.
        search_strategy: How `search` searches, and what is told of each write; `None` for the
            SDK's search for words.
        options: The options of the client and of its requests: see `S3OwnClientOptions`.

    Raises:
        TypeError: There is no such option.
        ValueError: An argument is out of its range.
        InvalidIdentifierError: The prefix has a `..` or a backslash.

    Every operation raises errors that are ours and the SDK's `StorageError` at once:
    `snapstore.StorageError`, mostly one of its subclasses, where the bucket fails;
    `InvalidIdentifierError` for a key that the SDK does not take; `SnapshotDecodeError` where a
    snapshot should be and none is; `StorageClosedError` after it was closed.

    Example:
        ::

            with StrandsStorage("my-bucket", prefix="agents") as storage:
                session = SnapshotSessionManager("session-1", storage=storage)
                agent = Agent(session_manager=session)
                agent("Hello!")
    """

    _is_scoped = False

    def __init__(
        self,
        bucket: str,
        *,
        prefix: str = "",
        dialect: Dialect = "python",
        timeout: float | None = 60.0,
        max_snapshot_bytes: int = DEFAULT_MAX_SNAPSHOT_BYTES,
        search_strategy: SearchStrategy[StrandsStorage] | None = None,
        **options: Unpack[S3OwnClientOptions],
    ) -> None:
        validate_names(options, S3OwnClientOptions.__optional_keys__)
        if dialect not in ("python", "typescript"):
            raise ValueError("dialect must be 'python' or 'typescript'")
        if max_snapshot_bytes < 1:
            raise ValueError("max_snapshot_bytes must be at least 1")
        if timeout is not None and not timeout > 0:
            raise ValueError("timeout must be more than 0 seconds, or None")
        make_store = partial(S3ObjectStore, bucket, timeout=timeout, **options)
        make_store()  # refuses what can't be, now and not at the first request
        make_objects = partial(
            _make_objects,
            make_store,
            dialect=dialect,
            max_bytes=max_snapshot_bytes,
            timeout=timeout,
        )
        self._prefix = _closed(_spelled(normal_prefix, prefix))
        self._search_strategy = search_strategy
        self._objects = Anywhere(_NAME, f"snapstore-{bucket}", make_objects)

    async def write(self, key: str, data: bytes) -> None:
        """Write an object, over any there is.

        Args:
            key: Its key, without the prefix.
            data: The body; for the key of a snapshot, one of either SDK's.

        Raises:
            StorageError: It can't be written.
        """
        full, data = self.full_key(key), bytes(data)
        await self.run(lambda objects: objects.put(full, data))
        await self.index(key, data)

    async def read(self, key: str) -> bytes | None:
        """Read an object.

        Args:
            key: Its key, without the prefix.

        Returns:
            The body; `None` if there is no object, and for no other reason.

        Raises:
            StorageError: It can't be read.
        """
        stored = await self.read_version(key)
        return None if stored is None else stored.data

    async def delete(self, key: str) -> None:
        """Delete an object; one that does not exist counts as deleted.

        Deletes at the same time become few requests, of up to 1,000 keys each.

        Args:
            key: Its key, without the prefix.

        Raises:
            StorageError: It was not confirmed as deleted.
        """
        full = self.full_key(key)
        await self.run(lambda objects: objects.delete(full))

    async def list(
        self, query: str = "", *, start_after: str | None = None, limit: int | None = None
    ) -> builtins.list[str]:
        """List keys.

        Args:
            query: What they begin with; `""` for all.
            start_after: Leave out this key and all before it, in the order of the bucket.
            limit: How many at the most, the first ones in the order of the bucket; within one
                folder that is the order of the keys. A page of ten costs one request.

        Returns:
            The keys, without the prefix, in ascending order.

        Raises:
            StorageError: They can't be listed.
        """
        prefix = self._prefix + _spelled(normal_prefix, query)
        cursor = None
        if start_after is not None:
            self.full_key(start_after)  # refuses what leads out of the prefix
            # As it is: spelled like a key, that of a folder would come before what it follows.
            cursor = self._prefix + start_after
        keys = await self.run(lambda objects: objects.keys(prefix, start_after=cursor, limit=limit))
        return sorted(key.removeprefix(self._prefix) for key in keys)

    async def search(self, query: str) -> builtins.list[StorageSearchResult]:
        """Search in what is stored.

        Args:
            query: What to look for.

        Returns:
            What was found, best first.

        Raises:
            StorageError: The keys can't be listed. What can't be read is left out.
        """
        strategy = self._search_strategy
        if strategy is None:
            return await KeywordSearchStrategy().search(self, query)
        return await strategy.search(self, query)

    def namespace(self, prefix: str) -> Self:
        """A view of what lies under a prefix, with the same thread and client.

        To close one of them is to close all. The SDK puts nothing of its own before its keys.

        Args:
            prefix: What all keys of the view begin with.
        """
        scoped = copy.copy(self)
        normal = _spelled(normal_prefix, prefix).rstrip("/")
        scoped._prefix = self._prefix + _closed(normal)  # noqa: SLF001 -- it is one of its own
        scoped._is_scoped = True  # noqa: SLF001
        return scoped

    async def read_version(self, key: str) -> StoredObject | None:
        """Read an object with its version, as `read`."""
        full = self.full_key(key)
        return await self.run(lambda objects: objects.get(full))

    async def create(self, key: str, data: bytes) -> None:
        """Write an object where there is none, as `write`.

        Raises:
            PreconditionFailedError: There is one, and it was not changed.
        """
        full, data = self.full_key(key), bytes(data)
        await self.run(lambda objects: objects.put(full, data, if_none_match=True))
        await self.index(key, data)

    def close(self) -> None:
        """Wait for what is under way, close the client and end the thread.

        It blocks as long as that takes, also the event loop that it is called on, if any: nothing
        of what it waits for needs that loop. A closed storage can't be used again; to close it
        again does nothing.
        """
        self._objects.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def _namespaced(self) -> object:
        # Not an attribute, since the mark of a copy would be another object.
        return NAMESPACED if self._is_scoped else None

    def full_key(self, key: str) -> str:
        """The key in the bucket, for `run`.

        Raises:
            InvalidIdentifierError: The key has a `..`, a backslash or half of a surrogate pair, or
                is empty.
        """
        return self._prefix + _spelled(normal_key, key)

    async def index(self, key: str, data: bytes) -> None:
        """Tell the search strategy of what was written.

        Raises:
            StorageError: It can't be indexed.
        """
        if self._search_strategy is None:
            return
        try:
            await self._search_strategy.index(self, normal_key(key), data)
        except Exception as error:
            failure = StorageError(
                f"{key} was written, but not indexed", operation="index", key=key
            )
            raise for_strands(failure) from error

    async def run(self, work: Callable[[Objects], Awaitable[T]], *, shield: bool = False) -> T:
        """Run something with the objects, on the event loop of the I/O thread.

        Args:
            work: What to run.
            shield: Whether it goes on if the caller is cancelled.
        """
        try:
            return await self._objects.run(work, to_the_end=shield)
        except SnapstoreError as error:
            failure = for_strands(error)
        raise failure


# The SDK writes the name of a storage's class into snapshots, and warns of a stash out of reach if
# another one reads them. The objects lie where its `S3Storage` has them, in both languages.
StrandsStorage.__name__ = "S3Storage"


def _make_objects(
    make_store: Callable[[], S3ObjectStore],
    *,
    dialect: Dialect,
    max_bytes: int,
    timeout: float | None,
) -> Objects:
    return Objects(make_store(), dialect=dialect, max_bytes=max_bytes, timeout=timeout)


def _closed(prefix: str) -> str:
    return f"{prefix}/" if prefix else ""


def _spelled(normal: Callable[[str], str], key: str) -> str:
    """A key or prefix in the SDK's spelling."""
    try:
        normalized = normal(key)
        normalized.encode()
    except SDKStorageError as error:
        failure = InvalidIdentifierError(str(error))
    except UnicodeEncodeError as error:
        failure = InvalidIdentifierError(
            f"Invalid storage key: character {error.start} is half of a surrogate pair, as of an "
            "emoji cut in two; cut texts between characters"
        )
    else:
        return normalized
    raise for_strands(failure)
