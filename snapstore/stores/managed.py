"""An object store under management: opened once, on one loop, each call under a deadline."""

from __future__ import annotations

import copy
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from types import TracebackType
from typing import Self, TypeVar, cast

from snapstore.errors import InvalidResponseError
from snapstore.stores.base import PAGE_SIZE, ObjectStore, StoredObject, Version
from snapstore.stores.capabilities import (
    ConditionalDeleteStore,
    CopyingStore,
    DelimiterStore,
    DetailedListingStore,
    MetadataStore,
    ObjectDetails,
    ObjectLock,
    ObjectVersion,
    VersionedStore,
    capability,
)
from snapstore.stores.deadline import in_time
from snapstore.stores.lifecycle import Lifecycle, Use
from snapstore.stores.pace import Pace
from snapstore.stores.recording import current_recording

__all__ = ["ManagedStore"]

T = TypeVar("T")
Kind = TypeVar("Kind")


class ManagedStore:
    """An object store with a life cycle and deadlines, for code that keeps objects in it.

    It is opened once, and used on the event loop it was opened on. Closing waits for the calls
    under way. Each call has a deadline, and one that is misused raises before any request is sent:
    `StorageClosedError` before `open` and after `aclose`, `WrongEventLoopError` from another loop.

    Args:
        store: Where the bytes go.
        timeout: Seconds that a call may take, its retries included: a get, a put, a page of a scan,
            a batch of deletes. Opening may take as long, and at least 15 seconds. Closing waits so
            long for the calls under way, and then so long for the release. `None` for no deadline.
        name: What messages call it.

    Attributes:
        store: As the argument.
        timeout: As the argument.

    Raises:
        ValueError: `timeout` is not positive.

    Example:
        ::

            async with ManagedStore(FileObjectStore("/var/lib/notes")) as store:
                version = await store.put("a/b.json", b"{}", if_none_match=True)
    """

    def __init__(
        self, store: ObjectStore, *, timeout: float | None = 60.0, name: str | None = None
    ) -> None:
        if timeout is not None and not timeout > 0:
            raise ValueError("timeout must be more than 0 seconds, or None")
        self.store: ObjectStore = store
        self.timeout: float | None = timeout
        self._lifecycle = Lifecycle(
            name or f"ManagedStore of {store.name}", store.open, store.aclose, timeout=timeout
        )
        self._pace: Pace | None = None

    @property
    def name(self) -> str:
        """The place in messages, such as a bucket or a directory."""
        return self.store.name

    async def open(self) -> None:
        """Get ready for use on the running event loop. A closed store may be opened again.

        Raises:
            LifecycleError: It is open already.
            StorageError: It can't be opened; `StorageTimeoutError` if not in time.
        """
        await self._lifecycle.open()

    async def aclose(self) -> None:
        """Refuse new calls, wait for those under way, and release what is held.

        Closing a closed store does nothing. A call that has not ended after `timeout` seconds is
        not waited for any longer, and fails.

        Raises:
            WrongEventLoopError: It was opened on another loop.
            LifecycleError: This is called inside of an operation, which closing would wait for.
        """
        await self._lifecycle.aclose()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    def use(self) -> Use:
        """An operation of several calls, as a context manager: closing waits for all of it.

        Raises:
            StorageClosedError: On entering: the store is not open.
            WrongEventLoopError: On entering: it was opened on another loop.
        """
        return self._lifecycle.use()

    async def run(
        self,
        operation: str,
        key: str,
        work: Callable[[], Awaitable[T]],
        *,
        writes: bool = False,
        taken: float = 0.0,
    ) -> T:
        """Do some work on the store as one call, under one deadline.

        Args:
            operation: What it is called in errors.
            key: The key or prefix that it is about.
            work: Called once; its result is awaited.
            writes: Whether it changes something.
            taken: Seconds of the deadline that earlier steps have used.

        Raises:
            StorageTimeoutError: The deadline passed; the work was cancelled.
        """
        recording = current_recording()
        if recording is not None and recording.key is None:
            recording.key = key
        if self._pace is not None:
            await self._pace.turn()
        with self._lifecycle.step():
            return await in_time(
                work(),
                self.timeout,
                operation=operation,
                key=key,
                place=self.name,
                writes=writes,
                taken=taken,
            )

    async def get(self, key: str, *, max_bytes: int) -> StoredObject | None:
        """Read an object: see `ObjectStore.get`."""
        return await self.run("get", key, lambda: self.store.get(key, max_bytes=max_bytes))

    async def put(
        self,
        key: str,
        data: bytes,
        *,
        if_match: Version | None = None,
        if_none_match: bool = False,
    ) -> Version:
        """Write an object: see `ObjectStore.put`."""
        return await self.run(
            "put",
            key,
            lambda: self.store.put(key, data, if_match=if_match, if_none_match=if_none_match),
            writes=True,
        )

    def paced(self, pace: Pace) -> Self:
        """A view of this store whose calls wait for a turn each, and are counted.

        It shares everything else with this store, its life included.

        Args:
            pace: Gives the turns, to all views that share it.
        """
        view = copy.copy(self)
        view._pace = pace  # noqa: SLF001 -- it is a copy of this one
        return view

    def capability(self, kind: Callable[..., Kind]) -> Kind | None:
        """See `snapstore.stores.capability`: what the store that is managed can do."""
        found = capability(self.store, kind)
        is_own = found is not None and isinstance(self, cast("type", kind))
        return cast("Kind", self) if is_own else found

    def _inner(self, kind: Callable[..., Kind], lacking: str) -> Kind:
        store = capability(self.store, kind)
        if store is None:
            raise TypeError(f"{type(self.store).__name__} {lacking}")
        return store

    async def put_with_metadata(
        self,
        key: str,
        data: bytes | Callable[[], bytes],
        metadata: Mapping[str, str],
        *,
        if_match: Version | None = None,
        if_none_match: bool = False,
    ) -> Version:
        """Write an object with metadata: see `MetadataStore`.

        Raises:
            TypeError: The store keeps none.
        """
        store = self._inner(MetadataStore, "keeps no metadata")
        return await self.run(
            "put",
            key,
            lambda: store.put_with_metadata(
                key, data, metadata, if_match=if_match, if_none_match=if_none_match
            ),
            writes=True,
        )

    async def scan(
        self, prefix: str, *, start_after: str | None = None, page_size: int = PAGE_SIZE
    ) -> AsyncGenerator[list[str], None]:
        """List keys, page by page: see `ObjectStore.scan`.

        The deadline is each page's, and closing waits only for the page that is being fetched: its
        consumer has all the time it wants.

        Raises:
            InvalidResponseError: A key is not under the prefix.
        """
        pages = self.store.scan(prefix, start_after=start_after, page_size=page_size)
        async with aclosing(self._pages(prefix, pages, str)) as checked:
            async for page in checked:
                yield page

    async def scan_details(
        self, prefix: str, *, start_after: str | None = None, page_size: int = PAGE_SIZE
    ) -> AsyncGenerator[list[ObjectDetails], None]:
        """List objects: see `DetailedListingStore`, and `scan` for deadlines and errors.

        Raises:
            TypeError: The store can't.
        """
        store = self._inner(DetailedListingStore, "lists keys only")
        pages = store.scan_details(prefix, start_after=start_after, page_size=page_size)
        async with aclosing(self._pages(prefix, pages, _key)) as checked:
            async for page in checked:
                yield page

    async def scan_prefixes(
        self,
        prefix: str,
        *,
        delimiter: str,
        start_after: str | None = None,
        page_size: int = PAGE_SIZE,
    ) -> AsyncGenerator[list[str], None]:
        """List what keys begin with: see `DelimiterStore`, and `scan` for deadlines and errors.

        Raises:
            TypeError: The store can't.
        """
        store = self._inner(DelimiterStore, "knows no delimiters")
        pages = store.scan_prefixes(
            prefix, delimiter=delimiter, start_after=start_after, page_size=page_size
        )
        async with aclosing(self._pages(prefix, pages, str)) as checked:
            async for page in checked:
                yield page

    async def scan_versions(
        self, prefix: str, *, page_size: int = PAGE_SIZE
    ) -> AsyncGenerator[list[ObjectVersion], None]:
        """List versions: see `VersionedStore`, and `scan` for deadlines and errors.

        Raises:
            TypeError: The store can't.
        """
        pages = self._inner(VersionedStore, "keeps no versions").scan_versions(
            prefix, page_size=page_size
        )
        async with aclosing(self._pages(prefix, pages, _key)) as checked:
            async for page in checked:
                yield page

    async def _pages(
        self, prefix: str, pages: AsyncGenerator[list[T], None], key_of: Callable[[T], str]
    ) -> AsyncGenerator[list[T], None]:
        async with aclosing(pages):
            while (page := await self.run("scan", prefix, lambda: anext(pages, None))) is not None:
                # If the least and the greatest key have the prefix, all have.
                keys = [key_of(item) for item in page]
                if keys and not (min(keys).startswith(prefix) and max(keys).startswith(prefix)):
                    raise InvalidResponseError(
                        f"the listing of {prefix} has a key that is not under it",
                        operation="scan",
                        key=prefix,
                    )
                yield page
            if self._pace is not None:
                self._pace.give_back()  # a store that has given its last page knows that

    async def delete(self, keys: Sequence[str]) -> Mapping[str, str]:
        """Delete objects: see `ObjectStore.delete`."""
        if not keys:
            return {}
        return await self.run("delete", keys[0], lambda: self.store.delete(keys), writes=True)

    async def copy(
        self, source: str, key: str, *, metadata: Mapping[str, str] | None = {}
    ) -> Version | None:
        """Copy an object: see `CopyingStore`.

        Raises:
            TypeError: The store can't.
        """
        store = self._inner(CopyingStore, "copies no objects by itself")
        return await self.run(
            "copy", key, lambda: store.copy(source, key, metadata=metadata), writes=True
        )

    async def delete_versions(
        self, versions: Sequence[tuple[str, str]], *, bypass_governance: bool = False
    ) -> Mapping[tuple[str, str], str]:
        """Delete versions for good: see `VersionedStore`.

        Raises:
            TypeError: The store can't.
        """
        store = self._inner(VersionedStore, "keeps no versions")
        if not versions:
            return {}
        return await self.run(
            "delete",
            versions[0][0],
            lambda: store.delete_versions(versions, bypass_governance=bypass_governance),
            writes=True,
        )

    async def lock_of(self, key: str, version_id: str) -> ObjectLock | None:
        """Find out what keeps a version: see `VersionedStore`.

        Raises:
            TypeError: The store can't.
        """
        store = self._inner(VersionedStore, "keeps no versions")
        return await self.run("head", key, lambda: store.lock_of(key, version_id))

    async def has_conditional_deletes(self, scratch_key: str) -> bool:
        """Find out whether conditions of deletes are kept: see `ConditionalDeleteStore`."""
        store = capability(self.store, ConditionalDeleteStore)
        if store is None:
            return False
        return await self.run(
            "delete", scratch_key, lambda: store.has_conditional_deletes(scratch_key), writes=True
        )

    async def delete_if_match(self, key: str, version: Version) -> None:
        """Delete an object at a version: see `ConditionalDeleteStore`.

        Raises:
            TypeError: The store can't.
        """
        store = self._inner(ConditionalDeleteStore, "has no conditional deletes")
        await self.run("delete", key, lambda: store.delete_if_match(key, version), writes=True)


def _key(found: ObjectDetails | ObjectVersion) -> str:
    return found.key
