"""Snapshots in history that are moved into a pack: read, looked at again, and deleted."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import aclosing
from typing import Final, Literal, NamedTuple

from snapstore.encoding.packs import PackReader
from snapstore.errors import StorageError
from snapstore.model.keys import Layout
from snapstore.model.snapshot import SnapshotLocation
from snapstore.operations.locations import HistoryEntry
from snapstore.operations.planned_snapshots import look_up
from snapstore.storage.claims import Ownership
from snapstore.storage.overlap import overlap
from snapstore.stores.base import (
    PAGE_SIZE,
    ObjectTooLargeError,
    PreconditionFailedError,
    StoredObject,
    Version,
)
from snapstore.stores.managed import ManagedStore

__all__ = ["Gone", "Original", "Originals", "raise_not_deleted"]

Gone = Literal["changed", "missing", "busy"]
"""What may have become of a snapshot since it was read: `"busy"` if another run sees to it."""

_READ_AHEAD_BYTES: Final = 8 * 2**20


class Original(NamedTuple):
    """A snapshot in history, as it was read.

    Attributes:
        entry: As it was listed.
        stored: What was read; `None` if it is gone, or too large.
        is_too_large: Whether it is larger than a snapshot may be.
    """

    entry: HistoryEntry
    stored: StoredObject | None
    is_too_large: bool = False

    @property
    def is_missing(self) -> bool:
        """Whether it is gone."""
        return self.stored is None and not self.is_too_large

    def is_in(self, pack: PackReader) -> bool:
        """Whether a pack has it, byte for byte."""
        packed = pack.get(self.entry.snapshot_id)
        return (
            packed is not None
            and self.stored is not None
            and len(self.stored.data) == packed.length
            and hashlib.sha256(self.stored.data).hexdigest() == packed.sha256
        )


class Originals:
    """The history of a location, of which snapshots are moved into packs.

    Args:
        objects: Where it is.
        layout: The keys.
        location: The location.
        max_bytes: How large a snapshot may be.
        conditional: Whether the store deletes on a condition.
    """

    def __init__(
        self,
        objects: ManagedStore,
        layout: Layout,
        location: SnapshotLocation,
        *,
        max_bytes: int,
        conditional: bool,
    ) -> None:
        self._objects = objects
        self._layout = layout
        self._location = location
        self._max_bytes = max_bytes
        self._conditional = conditional

    async def read(self, entries: list[HistoryEntry]) -> AsyncGenerator[Original, None]:
        """Read snapshots in their order, small ones several at a time."""
        batch: list[HistoryEntry] = []
        size = 0
        for entry in entries:
            # One of unknown size is read by itself.
            own = _READ_AHEAD_BYTES if entry.size is None else entry.size
            if batch and size + own > _READ_AHEAD_BYTES:
                for original in await overlap(batch, self._read_one):
                    yield original
                batch, size = [], 0
            batch.append(entry)
            size += own
        for original in await overlap(batch, self._read_one):
            yield original

    async def _read_one(self, entry: HistoryEntry) -> Original:
        try:
            stored = await self._objects.get(entry.key, max_bytes=self._max_bytes)
        except ObjectTooLargeError:
            return Original(entry, None, is_too_large=True)
        return Original(entry, stored)

    async def find(self, ids: Iterable[str]) -> dict[str, HistoryEntry]:
        """Look which of some snapshots there are; oldest first."""
        return await look_up(self._objects, self._layout, self._location, ids)

    async def look(self, versions: Mapping[str, Version]) -> dict[str, Gone]:
        """Look whether snapshots are still as they were read.

        Args:
            versions: Their versions, by their ids.

        Returns:
            Those that are not.
        """
        found = await self.find(versions)
        gone: dict[str, Gone] = {}
        unknown: list[HistoryEntry] = []
        for snapshot_id, version in versions.items():
            entry = found.get(snapshot_id)
            if entry is None:
                gone[snapshot_id] = "missing"
            elif entry.etag is None:
                unknown.append(entry)
            elif entry.etag != version.etag:
                gone[snapshot_id] = "changed"
        async with aclosing(self.read(unknown)) as originals:
            async for original in originals:
                snapshot_id, stored = original.entry.snapshot_id, original.stored
                if original.is_missing:
                    gone[snapshot_id] = "missing"
                elif stored is None or stored.version.etag != versions[snapshot_id].etag:
                    gone[snapshot_id] = "changed"
        return gone

    async def differing(self, pack: PackReader) -> dict[str, Gone]:
        """Look which snapshots of a pack history does not have, byte for byte.

        Args:
            pack: The pack.
        """
        found = await self.find(packed.snapshot_id for packed in pack.documents)
        gone: dict[str, Gone] = {
            packed.snapshot_id: "missing"
            for packed in pack.documents
            if packed.snapshot_id not in found
        }
        async with aclosing(self.read([*found.values()])) as originals:
            async for original in originals:
                if original.is_missing:
                    gone[original.entry.snapshot_id] = "missing"
                elif not original.is_in(pack):
                    gone[original.entry.snapshot_id] = "changed"
        return gone

    async def delete(
        self, versions: Mapping[str, Version], ownership: Ownership
    ) -> tuple[dict[str, Gone], dict[str, str]]:
        """Delete snapshots, each only while it is as it was read.

        Where the store has no conditional deletes, they are looked at just before.

        Args:
            versions: Their versions, by their ids.
            ownership: Of the claim on the pack that has them: nothing is deleted without it.

        Returns:
            Those that were not deleted since they are not as they were read, or the claim is lost;
            and those that could not be deleted, each with the server's code.
        """
        if not self._conditional:
            return await self._delete_without_condition(versions, ownership)
        gone: dict[str, Gone] = {}

        async def delete_one(snapshot_id: str) -> None:
            if not await ownership.is_kept():
                gone[snapshot_id] = "busy"
                return
            key = self._layout.history(self._location, snapshot_id)
            try:
                await self._objects.delete_if_match(key, versions[snapshot_id])
            except PreconditionFailedError as error:
                # If the outcome is unknown, an earlier try may well have deleted it.
                if not error.is_missing:
                    gone[snapshot_id] = "changed"
                elif error.outcome != "unknown":
                    gone[snapshot_id] = "missing"

        await overlap([*versions], delete_one)
        return gone, {}

    async def _delete_without_condition(
        self, versions: Mapping[str, Version], ownership: Ownership
    ) -> tuple[dict[str, Gone], dict[str, str]]:
        gone: dict[str, Gone] = {}
        failed: dict[str, str] = {}
        ids = [*versions]
        for start in range(0, len(ids), PAGE_SIZE):
            batch = {found: versions[found] for found in ids[start : start + PAGE_SIZE]}
            gone |= await self.look(batch)
            left = [found for found in batch if found not in gone]
            if not await ownership.is_kept():
                gone |= dict.fromkeys(left, "busy")
                continue
            keys = {self._layout.history(self._location, found): found for found in left}
            codes = await self._objects.delete([*keys])
            failed |= {keys[key]: code for key, code in codes.items()}
        return gone, failed


def raise_not_deleted(objects: ManagedStore, failed: Mapping[str, str]) -> None:
    """Raise an error if an object could not be deleted.

    Raises:
        StorageError: One is named in `failed`.
    """
    for key, code in failed.items():
        raise StorageError(
            f"{key} was not deleted: {code}",
            operation="delete",
            bucket=objects.name,
            key=key,
            code=code,
        )
