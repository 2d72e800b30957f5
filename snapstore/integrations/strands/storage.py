"""The storage: what the SDK's own storages are to its users, over any object store."""

from __future__ import annotations

import builtins
import copy
from collections.abc import Awaitable, Callable
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar, Unpack, cast

from strands.storage.search import KeywordSearchStrategy

from snapstore.errors import SnapstoreError, StorageError
from snapstore.integrations.adapter import StoreTemplate
from snapstore.integrations.portal import Portal
from snapstore.integrations.strands.backend import Backend
from snapstore.integrations.strands.errors import for_strands
from snapstore.integrations.strands.keys import (
    extend_prefix,
    normalize_key,
    normalize_prefix,
    prefix_of_view,
)
from snapstore.integrations.strands.sdk import EPHEMERAL, NAMESPACED
from snapstore.model.snapshot import Dialect
from snapstore.storage.base import DEFAULT_MAX_SNAPSHOT_BYTES
from snapstore.stores.base import ObjectStore, StoredObject
from snapstore.stores.file.store import FileObjectStore
from snapstore.stores.memory import MemoryObjectStore
from snapstore.stores.s3.options import S3OwnClientOptions, validate_names
from snapstore.stores.s3.store import S3ObjectStore

if TYPE_CHECKING:
    from strands.storage.search import SearchStrategy, StorageSearchResult

__all__ = ["StrandsStorage"]

T = TypeVar("T")


class StrandsStorage:
    """A storage for the Strands SDK: for sessions, stash, offloaded results and memory.

    `StrandsStorage("my-bucket")` is one in an S3 bucket. It takes the place of the SDK's own
    `strands.storage.S3Storage`, and its keys are the same. `StrandsStorage.over` makes one over any
    object store: files, memory, or your own.

    It may be used from any thread and any event loop, also while another one is blocked: its store
    lives on a thread of its own, which begins with the first request and ends with `close`. A
    forked process opens a store of its own.

    A snapshot that an agent in TypeScript has saved is read in Python's dialect, and snapshots are
    written in the dialect asked for. All other objects are left as they are.

    Args:
        bucket: The bucket's name.
        prefix: What all keys begin with. As with the SDK's own, `/` is added to it: `agents/`
            becomes `agents//`.
        dialect: The dialect in which snapshots are written: `"typescript"` for a session that
            agents in TypeScript go on with. Reading needs no choice.
        timeout: Seconds that a read, a write, each page of a listing and each batch of deletes may
            take; `None` for no deadline.
        max_snapshot_bytes: How large an object may be, in bytes, both ways.
        search_strategy: How `search` searches, and what is told of each write; `None` for the
            SDK's search for words.
        options: The options of the client and of its requests: see `S3OwnClientOptions`.

    Raises:
        TypeError: There is no such option.
        ValueError: An argument is out of its range.
        InvalidIdentifierError: The prefix can't be part of a key.

    Each error of an operation is ours and the SDK's `StorageError` at once:
    `snapstore.StorageError`, mostly one of its subclasses, where the store fails;
    `InvalidIdentifierError` for a key that the SDK does not take; `SnapshotDecodeError` where a
    snapshot should be and none is; `StorageClosedError` after it was closed.

    Example:
        ::

            with StrandsStorage("my-bucket", prefix="agents") as storage:
                session = SnapshotSessionManager("session-1", storage=storage)
                agent = Agent(session_manager=session)
                agent("Hello!")
    """

    _is_namespaced = False
    _is_view = False

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
        make_store = partial(S3ObjectStore, bucket, timeout=timeout, **options)
        make_backend = partial(
            Backend, make_store, dialect=dialect, max_bytes=max_snapshot_bytes, timeout=timeout
        )
        self._set_up(bucket, make_backend, prefix, search_strategy)

    @classmethod
    def over(
        cls,
        store: ObjectStore,
        *,
        prefix: str = "",
        dialect: Dialect = "python",
        timeout: float | None = 60.0,
        max_snapshot_bytes: int = DEFAULT_MAX_SNAPSHOT_BYTES,
        search_strategy: SearchStrategy[StrandsStorage] | None = None,
    ) -> Self:
        """Make a storage over an object store.

        Over a `FileObjectStore`, it takes the place of the SDK's `LocalFileStorage`, and its keys
        are the same, but no segment may begin with a dot. Over a `MemoryObjectStore`, it takes the
        place of the SDK's `InMemoryStorage`.

        Args:
            store: The store. It is opened on the storage's own thread, and belongs to the storage:
                it must not be open, and nothing else may open it. A forked child opens a shallow
                copy (`copy.copy`) of it, as it was when it was given, and so does a storage that
                was pickled or deep-copied.
            prefix: As of `StrandsStorage`.
            dialect: As of `StrandsStorage`.
            timeout: As of `StrandsStorage`.
            max_snapshot_bytes: As of `StrandsStorage`.
            search_strategy: As of `StrandsStorage`.

        Returns:
            A storage that differs from one in a bucket in nothing but the store.

        Raises:
            TypeError: The store uses an S3 client that was passed in: it belongs to your event
                loop. Pass a `session` and a `config` to the `S3ObjectStore` instead.
            ValueError: An argument is out of its range.
            InvalidIdentifierError: The prefix can't be part of a key.

        Example:
            ::

                from snapstore.stores import FileObjectStore

                with StrandsStorage.over(FileObjectStore("/var/lib/agents")) as storage:
                    agent = Agent(session_manager=SnapstoreSessionManager("s-1", storage=storage))
        """
        template = StoreTemplate(store)
        kind: type[StrandsStorage] = cls
        if cls is StrandsStorage and isinstance(store, FileObjectStore):
            kind = _FileStorage
        elif cls is StrandsStorage and isinstance(store, MemoryObjectStore):
            kind = _MemoryStorage
        storage = cast("Self", object.__new__(kind))
        make_backend = partial(
            Backend,
            template,
            dialect=dialect,
            max_bytes=max_snapshot_bytes,
            timeout=timeout,
        )
        storage._set_up(store.name, make_backend, prefix, search_strategy)  # noqa: SLF001
        return storage

    def _set_up(
        self,
        name: str,
        make_backend: Callable[[], Backend],
        prefix: str,
        search_strategy: SearchStrategy[StrandsStorage] | None,
    ) -> None:
        self._prefix = extend_prefix("", prefix)
        self._search_strategy = search_strategy
        self._portal = Portal("StrandsStorage", f"snapstore-{name}", make_backend)

    async def write(self, key: str, data: bytes) -> None:
        """Write an object, over any there is.

        Args:
            key: Its key, without the prefix.
            data: The body; for the key of a snapshot, one of either SDK's.

        Raises:
            StorageError: It can't be written.
        """
        full, data = self.full_key(key), bytes(data)
        await self.run(lambda backend: backend.objects.put(full, data))
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
        await self.run(lambda backend: backend.objects.delete(full))

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
        prefix = self._prefix + normalize_prefix(query)
        cursor = None
        if start_after is not None:
            self.full_key(start_after)  # raises for what leads out of the prefix
            # Verbatim: without its closing "/", a marker of a directory would come before itself.
            cursor = self._prefix + start_after
        keys = await self.run(
            lambda backend: backend.objects.keys(prefix, start_after=cursor, limit=limit)
        )
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
        """A view of this storage under a longer prefix: for a tenant, say.

        It shares everything but the prefix with the storage it came from: the client, the thread,
        the limits and the life. It is open while that is open; `close` and `with` on it do nothing.
        The SDK takes a view as it is, and puts no prefix of its own before its keys.

        Args:
            prefix: What all keys of the view begin with, after the prefix of this storage: one
                segment, or several between `/`.

        Raises:
            InvalidIdentifierError: The prefix is empty, or can't be part of a key, or leaves no
                room for one.

        Example:
            ::

                tenant = storage.namespace("tenant-7")
                session = SnapstoreSessionManager("session-1", storage=tenant)
        """
        view = copy.copy(self)
        view._prefix = prefix_of_view(self._prefix, prefix)  # noqa: SLF001 -- it is a copy of this
        view._is_namespaced = view._is_view = True  # noqa: SLF001
        return view

    async def read_version(self, key: str) -> StoredObject | None:
        """Read an object with its version, as `read`."""
        full = self.full_key(key)
        return await self.run(lambda backend: backend.objects.get(full))

    async def create(self, key: str, data: bytes) -> None:
        """Write an object where there is none, as `write`.

        Raises:
            PreconditionFailedError: There is one, and it was not changed.
        """
        full, data = self.full_key(key), bytes(data)
        await self.run(lambda backend: backend.objects.put(full, data, if_none_match=True))
        await self.index(key, data)

    def close(self) -> None:
        """Wait for the requests under way, close the client and end the thread.

        It blocks as long as that takes, also the event loop that it is called on, if any: nothing
        that it waits for needs that loop. A closed storage can't be used again; to close it again
        does nothing. To close a view does nothing, see `namespace`.
        """
        if not self._is_view:
            self._portal.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __copy__(self) -> Self:
        twin = object.__new__(type(self))
        vars(twin).update(vars(self))
        return twin

    def __getstate__(self) -> dict[str, object]:
        # A deep copy of a view is no view: it has no origin that closes what it opens.
        return {name: value for name, value in vars(self).items() if name != "_is_view"}

    @property
    def _namespaced(self) -> object:
        # Not an attribute, since in a copy the SDK's mark would be another object.
        return NAMESPACED if self._is_namespaced else None

    def full_key(self, key: str) -> str:
        """The key in the store, for `run`.

        Raises:
            InvalidIdentifierError: The key is empty, or has a `..` segment, a backslash or half of
                a surrogate pair.
        """
        return self._prefix + normalize_key(key)

    async def index(self, key: str, data: bytes) -> None:
        """Tell the search strategy of what was written.

        Raises:
            StorageError: It can't be indexed.
        """
        if self._search_strategy is None:
            return
        try:
            await self._search_strategy.index(self, normalize_key(key), data)
        except Exception as error:
            failure = StorageError(
                f"{key} was written, but not indexed", operation="index", key=key
            )
            raise for_strands(failure) from error

    async def run(self, work: Callable[[Backend], Awaitable[T]], *, shield: bool = False) -> T:
        """Run work on the event loop of the storage's own thread.

        Args:
            work: Awaited with what lives there.
            shield: Whether it goes on if the caller is cancelled.
        """
        try:
            return await self._portal.run(work, shield=shield)
        except SnapstoreError as error:
            failure = for_strands(error)
        raise failure


class _FileStorage(StrandsStorage):
    """A storage over files."""


class _MemoryStorage(StrandsStorage):
    """A storage over memory."""

    _ephemeral = EPHEMERAL


# The SDK writes the name of a storage's class into snapshots, and warns that a stash may be out of
# reach if one of another name reads them. The objects lie where the SDK's storages have them.
StrandsStorage.__name__ = "S3Storage"
_FileStorage.__name__ = "LocalFileStorage"
_MemoryStorage.__name__ = "InMemoryStorage"
