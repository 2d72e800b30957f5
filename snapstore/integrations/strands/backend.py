"""What lives on the portal's event loop: a store under management, and what is built on it."""

from __future__ import annotations

from collections.abc import Callable

from snapstore.integrations.strands.latest import LatestSnapshots
from snapstore.integrations.strands.objects import Objects
from snapstore.model.snapshot import Dialect
from snapstore.stores.base import ObjectStore
from snapstore.stores.managed import ManagedStore

__all__ = ["Backend"]


class Backend:
    """The resource of a storage's portal.

    Args:
        make_store: Makes the object store.
        dialect: The dialect in which snapshots are written.
        max_bytes: How large an object may be, both ways.
        timeout: Seconds that a call of the store may take; `None` for no deadline.

    Attributes:
        objects: The objects, with snapshots translated.
        latest: The latest snapshots of agents among them.

    Raises:
        ValueError: An argument is out of its range.
    """

    def __init__(
        self,
        make_store: Callable[[], ObjectStore],
        *,
        dialect: Dialect,
        max_bytes: int,
        timeout: float | None,
    ) -> None:
        if dialect not in ("python", "typescript"):
            raise ValueError("dialect must be 'python' or 'typescript'")
        if max_bytes < 1:
            raise ValueError("max_snapshot_bytes must be at least 1")
        store = ManagedStore(make_store(), timeout=timeout, name="StrandsStorage")
        self.objects: Objects = Objects(store, dialect=dialect, max_bytes=max_bytes)
        self.latest: LatestSnapshots = LatestSnapshots(self.objects)

    async def open(self) -> None:
        """Open the store."""
        await self.objects.open()

    async def aclose(self) -> None:
        """Wait for the batch of deletes under way, and close the store."""
        await self.objects.aclose()
