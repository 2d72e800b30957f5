"""What adapters to frameworks that keep objects of their own have in common.

An adapter is an implementation of a framework's interface over an object store. It takes the store
and a prefix, is opened with `async with` or on first use, and may be used from any thread and any
event loop.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar

from snapstore.errors import LifecycleError, PartialDeleteError, StorageError
from snapstore.integrations.portal import Portal
from snapstore.model.keys import key_base
from snapstore.stores.base import PAGE_SIZE, UNCONFIRMED, ObjectStore
from snapstore.stores.managed import ManagedStore
from snapstore.stores.s3.store import S3ObjectStore

__all__ = ["StoreAdapter", "StoreTemplate", "both", "delete_keys"]

T = TypeVar("T")
U = TypeVar("U")


class StoreTemplate:
    """Makes stores out of one that was given: first that one, then copies of it.

    A store can't be open on two event loops. A forked child and a copy of an adapter need another
    one, and get a shallow copy of the store as it was before it was opened.

    Args:
        store: The store; not open.

    Raises:
        TypeError: It uses an S3 client that was passed in, which belongs to an event loop already.
    """

    def __init__(self, store: ObjectStore) -> None:
        if isinstance(store, S3ObjectStore) and store.borrows_client:
            raise TypeError(
                "the store's client belongs to another event loop: make the S3ObjectStore with "
                "session=… and config=… instead of client=…"
            )
        self._given: ObjectStore | None = store
        self._unopened = copy.copy(store)

    def __call__(self) -> ObjectStore:
        """Make a store."""
        given, self._given = self._given, None
        return copy.copy(self._unopened) if given is None else given

    def __reduce__(self) -> tuple[type[StoreTemplate], tuple[ObjectStore]]:
        return StoreTemplate, (self._unopened,)


class StoreAdapter:
    """The life of an adapter, and the way to its store.

    With an `ObjectStore`, the adapter has a thread with an event loop of its own, on which the
    store is opened with `async with`, `with`, or the first use. It may be used from any thread and
    any loop. It is closed at the end of the `with`, by `aclose` or by `close`, and can't be used
    again then. A copy (`copy.copy`) shares the thread and the life. A forked child, a deep copy and
    one that was pickled open a store of their own.

    With a `ManagedStore`, such as the `objects` of a snapshot storage, the adapter shares its
    connections and its event loop: it is used there alone, and neither opens nor closes it.

    Args:
        store: Where the bytes go.
        prefix: What all keys begin with, without the closing `/`; used verbatim. `""` for none.
        timeout: Seconds that each request may take, its retries included; `None` for no deadline.
            A `ManagedStore` has its own instead.
        longest: How many bytes the longest key has after the prefix and its `/`.

    Raises:
        TypeError: The store uses an S3 client that was passed in.
        ValueError: `timeout` is not positive.
        InvalidIdentifierError: The prefix can't be part of a key, or leaves no room for one.
    """

    def __init__(
        self,
        store: ObjectStore | ManagedStore,
        *,
        prefix: str = "",
        timeout: float | None = 60.0,
        longest: int,
    ) -> None:
        self._base = key_base(prefix, longest)
        self._home: ManagedStore | Portal[ManagedStore]
        if isinstance(store, ManagedStore):
            self._home = store
        else:
            name = type(self).__name__
            make = partial(_manage, StoreTemplate(store), timeout, name)
            self._home = Portal(name, f"snapstore-{store.name}", make)

    async def aclose(self) -> None:
        """Wait for the requests under way, close the store and end its thread.

        To close a closed adapter does nothing, and so does closing one over a `ManagedStore`.
        """
        if isinstance(self._home, Portal):
            await asyncio.to_thread(self._home.close)

    def close(self) -> None:
        """As `aclose`, in synchronous code; it blocks the thread for as long as that takes."""
        if isinstance(self._home, Portal):
            self._home.close()

    async def __aenter__(self) -> Self:
        await self._run(_nothing)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    def __enter__(self) -> Self:
        self._call(_nothing)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    async def _run(
        self, work: Callable[[ManagedStore], Coroutine[Any, Any, T]], *, shield: bool = False
    ) -> T:
        """Run work with the store on its loop, and await it on this one.

        Args:
            work: Awaited with the store.
            shield: Whether the work goes on if the caller is cancelled.

        Raises:
            StorageClosedError: The adapter or the store is closed.
            WrongEventLoopError: The store is a `ManagedStore` of another loop.
        """
        if isinstance(self._home, Portal):
            return await self._home.run(work, shield=shield)
        using = _use(self._home, work)
        return await (asyncio.shield(using) if shield else using)

    def _call(self, work: Callable[[ManagedStore], Awaitable[T]]) -> T:
        """Run work with the store on its loop, and block this thread until it has ended.

        Args:
            work: Awaited with the store.

        Raises:
            StorageClosedError: The adapter is closed.
            LifecycleError: The store is a `ManagedStore`, or this is the adapter's own thread.
        """
        if isinstance(self._home, Portal):
            return self._home.call(work)
        raise LifecycleError(
            f"{type(self).__name__} shares the event loop of a ManagedStore, so it has no "
            "synchronous calls: give it an object store of its own"
        )


async def both(first: Coroutine[Any, Any, T], second: Coroutine[Any, Any, U]) -> tuple[T, U]:
    """Await two coroutines at a time.

    Returns:
        The result of each. If one raises, the other is cancelled and awaited, and its error is
        raised.
    """
    one, other = asyncio.ensure_future(first), asyncio.ensure_future(second)
    try:
        await asyncio.gather(one, other)
    except BaseException:
        one.cancel()
        other.cancel()
        await asyncio.gather(one, other, return_exceptions=True)
        raise
    return one.result(), other.result()


async def delete_keys(store: ManagedStore, keys: Sequence[str]) -> None:
    """Delete objects, in batches, one after the other.

    Args:
        store: Their store.
        keys: Full keys, in the order in which they are deleted; none twice.

    Raises:
        PartialDeleteError: Some were not confirmed as deleted.
        StorageError: A request failed, and no key had failed before.
    """
    failed: dict[str, str] = {}
    cause: StorageError | None = None
    for start in range(0, len(keys), PAGE_SIZE):
        try:
            failed |= await store.delete(keys[start : start + PAGE_SIZE])
        except StorageError as error:
            if not failed:
                raise
            failed |= dict.fromkeys(keys[start:], UNCONFIRMED)
            cause = error
            break
    if failed:
        raise PartialDeleteError(
            f"{len(failed):,} of {len(keys):,} objects in {store.name} were not confirmed as "
            "deleted; delete again",
            failed=failed,
            operation="delete",
            bucket=store.name,
            key=next(iter(failed)),
        ) from cause


def _manage(
    make_store: Callable[[], ObjectStore], timeout: float | None, name: str
) -> ManagedStore:
    return ManagedStore(make_store(), timeout=timeout, name=name)


async def _use(store: ManagedStore, work: Callable[[ManagedStore], Awaitable[T]]) -> T:
    with store.use():
        return await work(store)


async def _nothing(_store: ManagedStore) -> None:
    """Do nothing: the portal opens the store before any work."""
