"""Update latest: read, change, write on the condition that nobody else has written, and again."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from snapstore.encoding.envelope import decode_snapshot_in_slices
from snapstore.errors import (
    OutcomeUnknownError,
    SnapshotConflictError,
    SnapshotDecodeError,
    StorageError,
)
from snapstore.model.snapshot import SavedSnapshot, Snapshot
from snapstore.storage.reading import SnapshotReader
from snapstore.storage.writes import put_latest, run_write, try_latest
from snapstore.stores.base import PreconditionFailedError, StoredObject, Version
from snapstore.stores.capabilities import RefusedWrite
from snapstore.stores.managed import ManagedStore
from snapstore.stores.recording import count_conflict
from snapstore.stores.retry import full_jitter

__all__ = ["LatestUpdate", "Update"]

Update: TypeAlias = Callable[[Snapshot | None], Snapshot | Awaitable[Snapshot]]
"""Makes the new snapshot from the latest one, or from `None` if there is none."""


class LatestUpdate:
    """An update of the latest snapshot of a location.

    Args:
        objects: The store.
        reader: Reads snapshots from it.
        key: The key of the latest snapshot.
        update: Makes the new snapshot. Where it returns the one it was given, unchanged, nothing
            is written.
        encode: Encodes a snapshot.
    """

    def __init__(
        self,
        objects: ManagedStore,
        reader: SnapshotReader,
        key: str,
        *,
        update: Update,
        encode: Callable[[Snapshot], Awaitable[bytes]],
    ) -> None:
        self._objects = objects
        self._reader = reader
        self._key = key
        self._update = update
        self._encode = encode
        self._refused: RefusedWrite | None = None

    async def run(self, max_attempts: int) -> SavedSnapshot:
        """Try until an attempt wins its race.

        Raises:
            SnapshotConflictError: Every attempt lost it.
        """
        for attempt in range(max_attempts - 1):
            saved = await self._attempt()
            if saved is not None:
                return saved
            await asyncio.sleep(full_jitter(attempt))
        saved = await self._attempt(is_last=True)
        if saved is None:
            raise AssertionError("unreachable")
        return saved

    async def _attempt(self, *, is_last: bool = False) -> SavedSnapshot | None:
        """Try once; `None` where another writer came first."""
        key, began = self._key, time.monotonic()
        stored = await self._read()
        version = None if stored is None else stored.version
        if (applied := self._resolved(version)) is not None:
            return SavedSnapshot(None, applied.etag, applied.lineage, key)
        taken = time.monotonic() - began
        read = await self._objects.run(
            "get", key, lambda: self._reader.decode(stored, key), taken=taken
        )
        # The time that `update` takes is the caller's.
        taken = time.monotonic() - began
        updated = self._update(None if read is None else read.snapshot)
        if inspect.isawaitable(updated):
            updated = await updated
        data = await self._encode(updated)
        if stored is not None and read is not None and updated is read.snapshot:
            before = await self._encode(await decode_snapshot_in_slices(stored.data, key=key))
            if data == before:
                return SavedSnapshot(None, read.etag, read.lineage, key)

        def write() -> Awaitable[SavedSnapshot | RefusedWrite]:
            store = self._objects.store
            if not is_last:
                return try_latest(store, key, data, if_match=version)
            return put_latest(store, key, data, if_match=version, if_none_match=version is None)

        try:
            result = await run_write(self._objects, key, write, repeatable=False, taken=taken)
        except SnapshotConflictError:
            if is_last:
                raise
            self._refused = None
            count_conflict()
            return None
        if isinstance(result, SavedSnapshot):
            return result
        self._refused = result
        return None

    async def _read(self) -> StoredObject | None:
        """Read the object, also to tell what became of a refused write."""
        is_in_doubt = self._refused is not None
        try:
            return await self._objects.run("get", self._key, lambda: self._reader.get(self._key))
        except StorageError as error:
            error.outcome = "unknown" if is_in_doubt else "not applied"
            error.retryable = error.retryable and not is_in_doubt
            raise
        except SnapshotDecodeError as error:
            if not is_in_doubt:
                raise
            problem = str(error)
        raise OutcomeUnknownError(
            f"{self._key}: the write before may have been applied, and can't be read back: "
            f"{problem}",
            operation="put",
            bucket=self._objects.name,
            key=self._key,
            outcome="unknown",
        )

    def _resolved(self, found: Version | None) -> Version | None:
        """The version that the refused write has made after all, if it was applied."""
        if self._refused is None:
            return None
        try:
            return self._refused.resolve(found)
        except PreconditionFailedError:
            count_conflict()
            return None
