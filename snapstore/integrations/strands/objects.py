"""The objects of a bucket as the SDK wants them: one key at a time, in the dialect asked for.

All of this runs on the event loop of the I/O thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any, Final

from snapstore.deadline import in_time
from snapstore.errors import (
    OutcomeUnknownError,
    PartialDeleteError,
    SnapshotConflictError,
    SnapshotDecodeError,
    SnapshotEncodeError,
    StorageTimeoutError,
)
from snapstore.integrations.strands.convert import convert_snapshot, is_snapshot_key
from snapstore.integrations.strands.deletes import BatchedDeletes
from snapstore.listing import iter_keys
from snapstore.objects.base import (
    PAGE_SIZE,
    ObjectStore,
    ObjectTooLargeError,
    PreconditionFailedError,
    StoredObject,
    Version,
)
from snapstore.types import Dialect

__all__ = ["Objects", "Seen"]

_LARGE: Final = 256 * 1024
"""Bytes from which on a translation would hold up the other requests, and gets a thread."""


class Seen:
    """What somebody has seen last of an object, to write over that and nothing else.

    Attributes:
        version: Its version; `None` if there was no object.
        in_doubt: What was written last, if nobody knows whether it was applied.
        turn: Held while it is written: who writes next, sees what this one has written.
    """

    def __init__(self) -> None:
        self.version: Version | None = None
        self.in_doubt: bytes | None = None
        self.turn: asyncio.Lock = asyncio.Lock()

    def see(self, version: Version | None) -> None:
        """Take this for what was seen last; what was in doubt before is of no more interest."""
        self.version, self.in_doubt = version, None


class Objects:
    """Objects in a store, snapshots among them translated.

    Args:
        store: Where they are.
        dialect: Whose snapshots are written. Read are those of both, as Python's.
        max_bytes: How large an object may be, both ways.
        timeout: Seconds that a read, a write, a page of a listing or a batch of deletes may take;
            `None` for no deadline.
    """

    def __init__(
        self, store: ObjectStore, *, dialect: Dialect, max_bytes: int, timeout: float | None
    ) -> None:
        self._store = store
        self._dialect: Dialect = dialect
        self._max_bytes = max_bytes
        self._timeout = timeout
        self._deletes = BatchedDeletes(self._delete_all)

    async def open(self) -> None:
        """Open the store."""
        await self._store.open()

    async def aclose(self) -> None:
        """Close the store; nothing uses it any more, but for a request of deletes."""
        await self._deletes.aclose()
        await self._store.aclose()

    async def get(self, key: str) -> StoredObject | None:
        """Read an object; a snapshot as Python's SDK writes it, whoever has written it.

        Raises:
            SnapshotDecodeError: It has the key of a snapshot, and is none.
        """
        stored = await self._get(key)
        if stored is None:
            return None
        return StoredObject(await _translated(key, stored.data, "python"), stored.version)

    async def put(
        self,
        key: str,
        data: bytes,
        *,
        if_match: Version | None = None,
        if_none_match: bool = False,
    ) -> Version:
        """Write an object, as `ObjectStore.put`; a snapshot in the dialect asked for.

        Raises:
            SnapshotDecodeError: It has the key of a snapshot, and is none.
            ObjectTooLargeError: It is larger than what is read again.
        """
        data = await _translated(key, data, self._dialect)
        return await self._put(key, data, if_match=if_match, if_none_match=if_none_match)

    async def _get(self, key: str) -> StoredObject | None:
        return await in_time(
            self._store.get(key, max_bytes=self._max_bytes),
            self._timeout,
            operation="get",
            key=key,
            place=self._store.name,
        )

    async def _put(
        self, key: str, data: bytes, *, if_match: Version | None, if_none_match: bool
    ) -> Version:
        if len(data) > self._max_bytes:
            raise ObjectTooLargeError(
                f"{key} would have {len(data)} bytes, more than the {self._max_bytes} that "
                "max_snapshot_bytes=… allows",
                operation="put",
                bucket=self._store.name,
                key=key,
            )
        return await in_time(
            self._store.put(key, data, if_match=if_match, if_none_match=if_none_match),
            self._timeout,
            operation="put",
            key=key,
            place=self._store.name,
        )

    async def put_over(self, key: str, data: bytes, seen: Seen, *, anyway: bool = False) -> bool:
        """Write an object over the version that was seen of it, and no other.

        Args:
            key: The object's key.
            data: The body.
            seen: What was seen; now it is what is written.
            anyway: Write over another version too.

        Returns:
            Whether another version was written over.

        Raises:
            SnapshotConflictError: Another writer came first.
        """
        data = await _translated(key, data, self._dialect)
        async with seen.turn:
            await self._look_for_what_is_in_doubt(key, seen)
            version = seen.version
            facts: dict[str, Any] = {}
            try:
                seen.version = await self._put(
                    key, data, if_match=version, if_none_match=version is None
                )
            except PreconditionFailedError as error:
                facts = error.facts
            except (OutcomeUnknownError, StorageTimeoutError):
                seen.in_doubt = data
                raise
            else:
                return False
            if anyway:
                seen.version = await self._put(key, data, if_match=None, if_none_match=False)
                return True
        raise SnapshotConflictError(f"{key} was not written: another writer came first", **facts)

    async def _look_for_what_is_in_doubt(self, key: str, seen: Seen) -> None:
        """Who has written something without an answer has seen it, if it is there."""
        if seen.in_doubt is None:
            return
        stored = await self._get(key)
        if stored is not None and stored.data == seen.in_doubt:
            seen.version = stored.version
        seen.in_doubt = None

    async def delete(self, key: str) -> None:
        """Delete an object, together with those that are deleted at the same time.

        Raises:
            PartialDeleteError: It was not confirmed as deleted.
        """
        code = await self._deletes.delete(key)
        if code is not None:
            raise PartialDeleteError(
                f"{key} in {self._store.name} was not deleted ({code})",
                failed={key: code},
                operation="delete",
                bucket=self._store.name,
                key=key,
                code=code,
            )

    async def keys(
        self, prefix: str, *, start_after: str | None = None, limit: int | None = None
    ) -> list[str]:
        """List keys in the order of the store.

        Args:
            prefix: What they begin with.
            start_after: Leave out those up to and including this one.
            limit: How many at the most, and in a request; `None` for all.
        """
        found: list[str] = []
        if limit is not None and limit < 1:
            return found
        page_size = PAGE_SIZE if limit is None else min(limit, PAGE_SIZE)

        async def fetch(scan: AsyncGenerator[list[str], None]) -> list[str] | None:
            return await in_time(
                anext(scan, None),
                self._timeout,
                operation="scan",
                key=prefix,
                place=self._store.name,
            )

        scan = self._store.scan(prefix, start_after=start_after, page_size=page_size)
        async with aclosing(iter_keys(scan, prefix, fetch)) as pages:
            async for page in pages:
                found += page
                if limit is not None and len(found) >= limit:
                    return found[:limit]
        return found

    async def _delete_all(self, keys: list[str]) -> Mapping[str, str]:
        return await in_time(
            self._store.delete(keys),
            self._timeout,
            operation="delete",
            key=keys[0],
            place=self._store.name,
        )


async def _translated(key: str, data: bytes, to: Dialect) -> bytes:
    if not is_snapshot_key(key):
        return data
    failure: SnapshotDecodeError | SnapshotEncodeError
    try:
        if len(data) <= _LARGE:
            return convert_snapshot(data, to)
        return await asyncio.to_thread(convert_snapshot, data, to)
    except SnapshotDecodeError as error:
        failure = SnapshotDecodeError(f"{key}: {error}", key=key)
    except SnapshotEncodeError as error:
        failure = SnapshotEncodeError(f"{key}: {error}")
    raise failure
