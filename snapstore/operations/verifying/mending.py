"""Mend what a verification found, without losing a byte of it."""

from __future__ import annotations

from typing import Final

from snapstore.encoding.padding import pad
from snapstore.model.ids import new_snapshot_id
from snapstore.model.snapshot import SnapshotLocation
from snapstore.storage.snapshots import ObjectSnapshotStorage
from snapstore.storage.writes import ORIGIN
from snapstore.stores.base import PreconditionFailedError, StoredObject
from snapstore.stores.capabilities import ConditionalDeleteStore, MetadataStore, capability

__all__ = ["Mending"]

_ANY_SIZE: Final = 2**62


class Mending:
    """Mends objects, each only while it is as it was found.

    Args:
        storage: Where, open.
    """

    def __init__(self, storage: ObjectSnapshotStorage) -> None:
        self._storage = storage
        self._objects = storage.objects
        self._layout = storage.layout

    async def set_aside(
        self, location: SnapshotLocation, key: str, damaged: StoredObject
    ) -> str | None:
        """Keep damaged bytes under another key, and remove the object.

        Returns:
            What was done; `None` if the object has changed, so that it may be good by now.
        """
        aside = await self._keep(location, key, damaged)
        deleting = capability(self._objects, ConditionalDeleteStore)
        if deleting is not None and await deleting.has_conditional_deletes(f"{aside}.check"):
            try:
                await deleting.delete_if_match(key, damaged.version)
            except PreconditionFailedError:
                return None
        else:
            now = await self._objects.get(key, max_bytes=_ANY_SIZE)
            if now is None or now.version.etag != damaged.version.etag:
                return None
            if await self._objects.delete([key]):
                return None
        return f"its bytes are kept as {aside}"

    async def replace_latest(
        self, location: SnapshotLocation, snapshot_id: str, damaged: StoredObject | None
    ) -> str | None:
        """Make a snapshot of history the latest one.

        Args:
            location: Where.
            snapshot_id: The snapshot.
            damaged: The latest object as it is, whose bytes are kept; `None` if there is none.

        Returns:
            What was done; `None` if the snapshot is gone, or latest was saved meanwhile.
        """
        raw = await self._storage.load_raw(location=location, snapshot_id=snapshot_id)
        if raw is None:
            return None
        key = self._layout.latest(location)
        kept = "" if damaged is None else await self._keep(location, key, damaged)
        keeping = capability(self._objects, MetadataStore)
        version = None if damaged is None else damaged.version
        document = pad(raw.document)
        try:
            if keeping is None:
                await self._objects.put(
                    key, document, if_match=version, if_none_match=version is None
                )
            else:
                await keeping.put_with_metadata(
                    key,
                    document,
                    {ORIGIN: snapshot_id},
                    if_match=version,
                    if_none_match=version is None,
                )
        except PreconditionFailedError:
            return None
        told = f"it is {snapshot_id} of history now"
        return f"{told}; its bytes are kept as {kept}" if kept else told

    async def _keep(self, location: SnapshotLocation, key: str, damaged: StoredObject) -> str:
        """Keep damaged bytes under another key; returns it."""
        name = f"{new_snapshot_id()}_{key.rpartition('/')[2]}"
        aside = self._layout.damaged(location, name)
        await self._objects.put(aside, damaged.data, if_none_match=True)
        return aside
