"""Reads of snapshots: how large they may be, and how large ones are decoded."""

from __future__ import annotations

import asyncio
from typing import Final
from weakref import WeakKeyDictionary

from snapstore.encoding.envelope import (
    decode_raw_snapshot,
    decode_raw_snapshot_in_slices,
    decode_snapshot,
    decode_snapshot_in_slices,
)
from snapstore.encoding.padding import PADDING_BYTES, strip_padding
from snapstore.errors import SnapshotDecodeError
from snapstore.model.keys import Layout
from snapstore.model.snapshot import RawSnapshot, VersionedSnapshot
from snapstore.storage.writes import ORIGIN
from snapstore.stores.base import ObjectStore, ObjectTooLargeError, StoredObject
from snapstore.stores.recording import count_read

__all__ = ["SnapshotReader"]

_LARGE: Final = 512 * 1024
"""Bytes of JSON from which on decoding it at once would stall the event loop."""


class SnapshotReader:
    """Reads snapshots from a store.

    Args:
        store: The store. Deadlines are the caller's.
        max_bytes: How large a snapshot may be as JSON.
    """

    def __init__(self, store: ObjectStore, max_bytes: int) -> None:
        self._store = store
        self._max_bytes = max_bytes
        self._locks: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock]
        self._locks = WeakKeyDictionary()

    async def get(self, key: str) -> StoredObject | None:
        """Read an object that is not larger than a snapshot may be.

        Raises:
            SnapshotDecodeError: It is larger.
        """
        try:
            stored = await self._store.get(key, max_bytes=self._max_bytes + PADDING_BYTES)
        except ObjectTooLargeError as error:
            problem = str(error)
        else:
            if stored is None:
                return None
            count_read(len(stored.data))
            if len(stored.data) <= self._max_bytes:
                return stored
            length = len(strip_padding(stored.data))
            if length <= self._max_bytes:
                return stored
            problem = f"it has {length:,} bytes, where {self._max_bytes:,} are allowed"
        raise SnapshotDecodeError(f"{key} is too large: {problem}", key=key)

    async def load(self, key: str) -> VersionedSnapshot | None:
        """Read a snapshot; `None` if there is none.

        Raises:
            SnapshotDecodeError: What is stored is not a good snapshot, or is too large.
        """
        return await self.decode(await self.get(key), key)

    async def decode(self, stored: StoredObject | None, key: str) -> VersionedSnapshot | None:
        """Decode what was read; `None` remains `None`.

        Raises:
            SnapshotDecodeError: It is not a good snapshot.
        """
        if stored is None:
            return None
        if len(stored.data) <= _LARGE:
            snapshot = decode_snapshot(stored.data, key=key)
        else:
            async with self._turn():
                snapshot = await decode_snapshot_in_slices(stored.data, key=key)
        etag, lineage = stored.version
        origin = Layout.snapshot_id_of(key) or stored.metadata.get(ORIGIN)
        return VersionedSnapshot(snapshot, etag, lineage, key, snapshot_id=origin)

    def _turn(self) -> asyncio.Lock:
        """Decode one large snapshot at a time.

        Two that take turns would both end late, and hold the memory of both until then.
        """
        return self._locks.setdefault(asyncio.get_running_loop(), asyncio.Lock())

    async def load_raw(self, key: str) -> RawSnapshot | None:
        """Read a snapshot as its JSON, checked, without its padding; errors as `load`."""
        stored = await self.get(key)
        if stored is None:
            return None
        document = strip_padding(stored.data)
        if len(document) <= _LARGE:
            return decode_raw_snapshot(document, key=key)
        async with self._turn():
            return await decode_raw_snapshot_in_slices(document, key=key)
