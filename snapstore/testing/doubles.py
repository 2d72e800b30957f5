"""Object stores for tests without HTTP: one that fails where it is told to, and a slow one.

Each wraps any other object store, so a test has the failures of S3 in memory and in microseconds.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing, suppress
from typing import Literal, NamedTuple, TypeVar, cast

from snapstore.errors import OutcomeUnknownError, StorageError, StorageUnavailableError
from snapstore.stores.base import PAGE_SIZE, ObjectStore, StoredObject, Version
from snapstore.stores.capabilities import (
    ConditionalDeleteStore,
    CopyingStore,
    DeferredReadbackStore,
    DelimiterStore,
    DetailedListingStore,
    MetadataStore,
    ObjectDetails,
    ObjectLock,
    ObjectVersion,
    VersionedStore,
    capability,
)

__all__ = [
    "FaultyObjectStore",
    "LatencyObjectStore",
    "StoreCall",
    "StoreFault",
    "faults_in_turn",
]

T = TypeVar("T")
Kind = TypeVar("Kind")


class StoreCall(NamedTuple):
    """A call of an object store; of a scan, one page.

    Attributes:
        operation: The method.
        keys: The full key; of a scan the prefix, of a delete all that it names, of a copy the new
            key.
        conditional: Whether it is a put or a delete with a condition.
    """

    operation: Literal["get", "put", "scan", "delete", "copy"]
    keys: tuple[str, ...]
    conditional: bool = False


class StoreFault(NamedTuple):
    """How a call fails.

    `StoreFault()` fails it before it reaches the store, `StoreFault(applied=True)` when the store
    has done it: the reply is lost.

    Attributes:
        applied: Whether the store does what fails.
        error: The class of the error; `None` for the one that a good store raises, which is
            `OutcomeUnknownError` where the reply to a conditional call is lost, and else
            `StorageUnavailableError`. `PreconditionFailedError` is a race that another won.
        stall: No error: the call never ends, until it is cancelled.
        failed: No exception: a delete reports these keys as failed, with these codes. With
            `applied` they are deleted all the same.
    """

    applied: bool = False
    error: type[StorageError] | None = None
    stall: bool = False
    failed: Mapping[str, str] = {}


class _Wrapped:
    """Forwards all of `ObjectStore`, and metadata. A subclass says how a call goes through."""

    def __init__(self, store: ObjectStore) -> None:
        self.inner = store

    @property
    def name(self) -> str:
        return self.inner.name

    async def open(self) -> None:
        await self.inner.open()

    async def aclose(self) -> None:
        await self.inner.aclose()

    async def get(self, key: str, *, max_bytes: int) -> StoredObject | None:
        call = StoreCall("get", (key,))
        return await self._through(call, lambda: self.inner.get(key, max_bytes=max_bytes))

    async def put(
        self,
        key: str,
        data: bytes,
        *,
        if_match: Version | None = None,
        if_none_match: bool = False,
    ) -> Version:
        return await self._through(
            StoreCall("put", (key,), conditional=if_none_match or if_match is not None),
            lambda: self.inner.put(key, data, if_match=if_match, if_none_match=if_none_match),
        )

    async def scan(
        self, prefix: str, *, start_after: str | None = None, page_size: int = PAGE_SIZE
    ) -> AsyncGenerator[list[str], None]:
        scan = self.inner.scan(prefix, start_after=start_after, page_size=page_size)
        async with aclosing(self._pages(prefix, scan)) as pages:
            async for page in pages:
                yield page

    async def _pages(self, prefix: str, scan: AsyncGenerator[T, None]) -> AsyncGenerator[T, None]:
        call = StoreCall("scan", (prefix,))
        first = True
        async with aclosing(scan) as pages:
            # Only the store knows whether a page follows: to find that none does is no request.
            while (page := await anext(pages, None)) is not None or first:
                await self._through(call, _nothing)
                if page is None:
                    return
                yield page
                first = False

    async def delete(self, keys: Sequence[str]) -> Mapping[str, str]:
        call = StoreCall("delete", tuple(keys))
        return await self._through(call, lambda: self.inner.delete(keys))

    def capability(self, kind: Callable[..., Kind]) -> Kind | None:
        """See `snapstore.stores.capability`: what the inner store can do, but for `try_put`."""
        if kind is DeferredReadbackStore:
            return None
        found = capability(self.inner, kind)
        is_own = found is not None and isinstance(self, cast("type", kind))
        return cast("Kind", self) if is_own else found

    def _inner(self, kind: Callable[..., Kind]) -> Kind:
        store = capability(self.inner, kind)
        if store is None:
            raise TypeError(f"{type(self.inner).__name__} is no {kind.__name__}")
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
        store = self._inner(MetadataStore)
        return await self._through(
            StoreCall("put", (key,), conditional=if_none_match or if_match is not None),
            lambda: store.put_with_metadata(
                key, data, metadata, if_match=if_match, if_none_match=if_none_match
            ),
        )

    async def scan_details(
        self, prefix: str, *, start_after: str | None = None, page_size: int = PAGE_SIZE
    ) -> AsyncGenerator[list[ObjectDetails], None]:
        scan = self._inner(DetailedListingStore).scan_details(
            prefix, start_after=start_after, page_size=page_size
        )
        async with aclosing(self._pages(prefix, scan)) as pages:
            async for page in pages:
                yield page

    async def scan_prefixes(
        self,
        prefix: str,
        *,
        delimiter: str,
        start_after: str | None = None,
        page_size: int = PAGE_SIZE,
    ) -> AsyncGenerator[list[str], None]:
        scan = self._inner(DelimiterStore).scan_prefixes(
            prefix, delimiter=delimiter, start_after=start_after, page_size=page_size
        )
        async with aclosing(self._pages(prefix, scan)) as pages:
            async for page in pages:
                yield page

    async def scan_versions(
        self, prefix: str, *, page_size: int = PAGE_SIZE
    ) -> AsyncGenerator[list[ObjectVersion], None]:
        scan = self._inner(VersionedStore).scan_versions(prefix, page_size=page_size)
        async with aclosing(self._pages(prefix, scan)) as pages:
            async for page in pages:
                yield page

    async def copy(
        self, source: str, key: str, *, metadata: Mapping[str, str] | None = {}
    ) -> Version | None:
        store = self._inner(CopyingStore)
        return await self._through(
            StoreCall("copy", (key,)), lambda: store.copy(source, key, metadata=metadata)
        )

    async def delete_versions(
        self, versions: Sequence[tuple[str, str]], *, bypass_governance: bool = False
    ) -> Mapping[tuple[str, str], str]:
        store = self._inner(VersionedStore)
        call = StoreCall("delete", tuple(key for key, _ in versions))
        return await self._through(
            call, lambda: store.delete_versions(versions, bypass_governance=bypass_governance)
        )

    async def lock_of(self, key: str, version_id: str) -> ObjectLock | None:
        store = self._inner(VersionedStore)
        return await self._through(StoreCall("get", (key,)), lambda: store.lock_of(key, version_id))

    async def has_conditional_deletes(self, scratch_key: str) -> bool:
        store = self._inner(ConditionalDeleteStore)
        call = StoreCall("delete", (scratch_key,), conditional=True)
        return await self._through(call, lambda: store.has_conditional_deletes(scratch_key))

    async def delete_if_match(self, key: str, version: Version) -> None:
        store = self._inner(ConditionalDeleteStore)
        call = StoreCall("delete", (key,), conditional=True)
        await self._through(call, lambda: store.delete_if_match(key, version))

    async def _through(self, call: StoreCall, act: Callable[[], Awaitable[T]]) -> T:
        raise NotImplementedError


class LatencyObjectStore(_Wrapped):
    """An object store that is far away: each call, and each page of a scan, takes its time.

    Half of it passes before the wrapped store is reached and half after, so a call that is
    cancelled may have been applied or not.

    Args:
        store: The store behind it, which it opens and closes.
        seconds: How long a round trip takes.

    Example:
        ::

            store = LatencyObjectStore(MemoryObjectStore(), 0.03)
            async with ObjectSnapshotStorage(store) as storage:
                ...
    """

    def __init__(self, store: ObjectStore, seconds: float) -> None:
        super().__init__(store)
        self.seconds = seconds

    async def _through(self, call: StoreCall, act: Callable[[], Awaitable[T]]) -> T:  # noqa: ARG002 -- every call takes as long
        await asyncio.sleep(self.seconds / 2)
        result = await act()
        await asyncio.sleep(self.seconds / 2)
        return result


class FaultyObjectStore(_Wrapped):
    """An object store that records what it is asked, and fails if it is told to.

    Args:
        store: The store behind it, which it opens and closes.
        fault: Asked about each call before it is made, and about a page before it is handed on;
            `None` from it lets the call pass. It may itself save something first, as another
            writer would. It may be changed at any time.

    Attributes:
        inner: The store behind it, to go past the faults.
        calls: What has been asked, in this order. Clear it at will.

    Example:
        The reply to a save into history is lost, and what is stored shows that it was applied::

            store = FaultyObjectStore(MemoryObjectStore())
            async with ObjectSnapshotStorage(store) as storage:
                store.fault = faults_in_turn("put", StoreFault(applied=True))
                await storage.save_snapshot(location=location, snapshot=snapshot, is_latest=False)
            assert [call.operation for call in store.calls] == ["put", "get"]
    """

    def __init__(
        self,
        store: ObjectStore,
        fault: Callable[[StoreCall], Awaitable[StoreFault | None]] | None = None,
    ) -> None:
        super().__init__(store)
        self.fault: Callable[[StoreCall], Awaitable[StoreFault | None]] = fault or _nothing
        self.calls: list[StoreCall] = []

    async def _through(self, call: StoreCall, act: Callable[[], Awaitable[T]]) -> T:
        return await self._done(call, await self._ask(call), act)

    async def delete(self, keys: Sequence[str]) -> Mapping[str, str]:
        """See `ObjectStore.delete`."""
        call = StoreCall("delete", tuple(keys))
        fault = await self._ask(call)
        if fault is None or not fault.failed:
            return await self._done(call, fault, lambda: self.inner.delete(keys))
        failed = {key: fault.failed[key] for key in keys if key in fault.failed}
        rest = [key for key in keys if fault.applied or key not in failed]
        return {**await self.inner.delete(rest), **failed}

    async def _ask(self, call: StoreCall) -> StoreFault | None:
        self.calls.append(call)
        return await self.fault(call)

    async def _done(
        self, call: StoreCall, fault: StoreFault | None, act: Callable[[], Awaitable[T]]
    ) -> T:
        if fault is None:
            return await act()
        if fault.applied:
            # Where the store refuses it, that reply is lost too.
            with suppress(StorageError):
                await act()
        if fault.stall:
            await asyncio.get_running_loop().create_future()
        lost = fault.applied and call.conditional
        error = fault.error or (OutcomeUnknownError if lost else StorageUnavailableError)
        why = "its reply was lost" if fault.applied else "it did not reach the store"
        key = next(iter(call.keys), "")
        raise error(
            f"{call.operation} of {key} in {self.name} failed: {why}",
            operation=call.operation,
            bucket=self.name,
            key=key,
        )


def faults_in_turn(
    operation: Literal["get", "put", "scan", "delete", "copy"], *faults: StoreFault | None
) -> Callable[[StoreCall], Awaitable[StoreFault | None]]:
    """A `fault` for the first calls of an operation, one after the other; all others pass.

    Args:
        operation: The operation. Each page of a scan is a call.
        faults: How each call fails; `None` lets it pass.
    """
    plan = iter(faults)

    async def fault(call: StoreCall) -> StoreFault | None:
        return next(plan, None) if call.operation == operation else None

    return fault


async def _nothing(_: object = None) -> None:
    """Let every call pass; and, of a page that has been fetched, what is left to do."""
