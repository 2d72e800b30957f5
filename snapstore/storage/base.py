"""What every storage is made of: a store under management, a layout, a life, a hook."""

from __future__ import annotations

import copy
from types import TracebackType
from typing import Final, Self

from snapstore.model.keys import Layout
from snapstore.storage.observation import Observer, OperationHook, Watch
from snapstore.storage.reading import SnapshotReader
from snapstore.storage.writes import SnapshotWriter
from snapstore.stores.base import ObjectStore
from snapstore.stores.lifecycle import Use
from snapstore.stores.managed import ManagedStore

__all__ = ["DEFAULT_MAX_SNAPSHOT_BYTES", "StorageBase"]

DEFAULT_MAX_SNAPSHOT_BYTES: Final = 64 * 2**20
"""64 MiB: how large a snapshot may be as JSON, unless it is said otherwise."""


class StorageBase:
    """The base of `snapstore.ObjectSnapshotStorage`, which documents its arguments."""

    def __init__(
        self,
        store: ObjectStore,
        *,
        prefix: str = "",
        max_snapshot_bytes: int = DEFAULT_MAX_SNAPSHOT_BYTES,
        timeout: float | None = None,
        on_operation: OperationHook | None = None,
        on_operation_keys: bool = False,
    ) -> None:
        if max_snapshot_bytes < 1:
            raise ValueError("max_snapshot_bytes must be at least 1")
        self.max_snapshot_bytes: int = max_snapshot_bytes
        self.layout: Layout = Layout(prefix)
        self.objects: ManagedStore = ManagedStore(store, timeout=timeout, name=type(self).__name__)
        self._reader = SnapshotReader(store, max_snapshot_bytes)
        self._writer = SnapshotWriter(self.objects, max_snapshot_bytes)
        self._observer = Observer.of(
            on_operation, with_keys=on_operation_keys, objects=self.objects
        )
        self._is_view = False

    async def open(self) -> None:
        """Get ready for use on the running event loop. A closed storage may be opened again.

        Raises:
            LifecycleError: It is open already.
            StorageError: The store can't be opened.
        """
        if not self._is_view:
            await self.objects.open()

    async def aclose(self) -> None:
        """Refuse new operations, wait for those under way, and release what is held.

        Closing a closed storage does nothing. An operation that has not ended after `timeout`
        seconds is not waited for any longer, and fails at its next request.

        Raises:
            WrongEventLoopError: It was opened on another loop.
            LifecycleError: This is called inside of an operation of the storage, as in the `update`
                of `update_latest`: closing would wait for itself.
        """
        if not self._is_view:
            await self.objects.aclose()

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

    def namespace(self, name: str) -> Self:
        """A view of this storage under a longer prefix: for a tenant, say.

        It shares everything but the prefix with the storage it came from: the client, the event
        loop, the limits and the life. It is open while that is open; `open`, `aclose` and
        `async with` on it do nothing.

        Args:
            name: One more segment of the prefix, without `/`.

        Raises:
            InvalidIdentifierError: The name is empty or can't be one segment of a key, or the
                prefix becomes too long.

        Example:
            ::

                tenant = storage.namespace("tenant-7")
                await tenant.delete_session(session_id="session-1")
        """
        view = copy.copy(self)
        view.layout = self.layout.namespace(name)
        view._is_view = True  # noqa: SLF001 -- it is a copy of this one
        return view

    def _operation(self, name: str) -> Use | Watch:
        """A use of the store, reported to the hook if there is one."""
        use = self.objects.use()
        return use if self._observer is None else self._observer.watch(name, self.layout, use)
