"""The operations of a storage on snapshots that were archived: list them, load one."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from snapstore.model.ids import validate_snapshot_id
from snapstore.model.snapshot import Snapshot, SnapshotLocation
from snapstore.storage.archive import Archive, ArchivedDocument
from snapstore.storage.listing import flatten
from snapstore.storage.sessions import SessionOperations
from snapstore.stores.base import StoredObject, Version

__all__ = ["ArchiveOperations"]


class ArchiveOperations(SessionOperations):
    """Part of `snapstore.ObjectSnapshotStorage`."""

    async def load_archived(
        self, *, location: SnapshotLocation, snapshot_id: str
    ) -> Snapshot | None:
        """Load a snapshot that `snapstore.operations.archive` has packed.

        It costs a listing of the location's packs, and a read of each whose ids lie around this
        one, which is mostly one pack. Each of these has the deadline for itself. It needs the extra
        `archive`.

        Args:
            location: Where it belongs.
            snapshot_id: Its id.

        Returns:
            The snapshot; `None` if no pack has it. What is in history only is not found.

        Raises:
            SnapshotDecodeError: A pack or the snapshot in it is damaged, or is too large.
            ModuleNotFoundError: A pack must be read, and the extra `archive` is not installed.
        """
        with self._operation("load_archived"):
            snapshot_id = validate_snapshot_id(snapshot_id)
            found = await self._archive(location).load(snapshot_id)
            return None if found is None else await self._decode_archived(found)

    def iter_archived_ids(self, *, location: SnapshotLocation) -> AsyncGenerator[str, None]:
        """Walk the ids of the snapshots that are in packs, oldest first, each once.

        Every pack is read, one at a time: their keys tell only their first and last ids. An id may
        be in history, too: see `snapstore.operations.unarchive`.

        Args:
            location: Where the snapshots belong.

        Returns:
            An async generator. Close it if you leave it early.

        Raises:
            SnapshotDecodeError: A pack is damaged.
        """
        pages = self._archive(location).iter_pages()
        if self._observer is not None:
            pages = self._observer.watch_pages("iter_archived_ids", self.layout, pages)
        return flatten(pages)

    def _archive(self, location: SnapshotLocation) -> Archive:
        return Archive(self.objects, self.layout, location, max_bytes=self.max_snapshot_bytes)

    async def _decode_archived(self, found: ArchivedDocument) -> Snapshot:
        stored = StoredObject(found.data, Version(""))
        versioned = await self._reader.decode(stored, found.key)
        assert versioned is not None  # noqa: S101 -- for type checkers
        return versioned.snapshot
