"""The objects of a bucket as the SDK wants them: one key at a time, in the dialect asked for.

All of this runs on the event loop of the I/O thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Final

from snapstore.encoding.padding import PADDING_BYTES, pad
from snapstore.errors import PartialDeleteError, SnapshotDecodeError, SnapshotEncodeError
from snapstore.integrations.strands.convert import convert_snapshot, is_snapshot_key
from snapstore.integrations.strands.deletes import BatchedDeletes
from snapstore.integrations.strands.latest import LatestSnapshots
from snapstore.model.snapshot import Dialect
from snapstore.storage.listing import iter_keys
from snapstore.stores.base import (
    PAGE_SIZE,
    ObjectStore,
    ObjectTooLargeError,
    StoredObject,
    Version,
)
from snapstore.stores.deadline import in_time

__all__ = ["Objects"]

_LARGE: Final = 256 * 1024
"""Bytes from which on a translation would hold up the other requests, and gets a thread."""


class Objects:
    """Objects in a store, snapshots among them translated.

    Args:
        store: Where they are.
        dialect: Whose snapshots are written. Read are those of both, as Python's.
        max_bytes: How large an object may be, both ways.
        timeout: Seconds that a read, a write, a page of a listing or a batch of deletes may take;
            `None` for no deadline.

    Attributes:
        latest: The latest snapshots, for agents that know which version they replace.
        timeout: As the argument.
        place: What errors call the store.
    """

    def __init__(
        self, store: ObjectStore, *, dialect: Dialect, max_bytes: int, timeout: float | None
    ) -> None:
        self._store = store
        self._dialect: Dialect = dialect
        self._max_bytes = max_bytes
        self.timeout: float | None = timeout
        self.place: str = store.name
        self.latest: LatestSnapshots = LatestSnapshots(self)
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
        stored = await self.get_as_stored(key)
        if stored is None:
            return None
        return StoredObject(await translated(key, stored.data, "python"), stored.version)

    async def get_as_stored(self, key: str) -> StoredObject | None:
        """Read an object, byte for byte."""
        return await in_time(
            self._store.get(key, max_bytes=self._max_bytes + PADDING_BYTES),
            self.timeout,
            operation="get",
            key=key,
            place=self.place,
        )

    async def put(self, key: str, data: bytes, *, if_none_match: bool = False) -> Version:
        """Write an object; a snapshot in the dialect asked for.

        Args:
            key: Its key.
            data: The body; for the key of a snapshot, one of either SDK's.
            if_none_match: Write only if there is no object under this key.

        Raises:
            SnapshotDecodeError: It has the key of a snapshot, and is none.
            SnapshotEncodeError: It is a snapshot that the dialect asked for can't carry.
            ObjectTooLargeError: It is larger than what is read again.
        """
        data = await translated(key, data, self._dialect)
        return await self.put_as_stored(key, data, if_none_match=if_none_match)

    async def encode_latest(self, key: str, document: bytes) -> bytes:
        """The bytes to be written of a latest snapshot, which no other write of it has.

        Args:
            key: Its key.
            document: The snapshot, of either SDK.

        Raises:
            SnapshotDecodeError: It is no snapshot.
            SnapshotEncodeError: The dialect asked for can't carry it.
        """
        return pad(await translated(key, document, self._dialect))

    async def put_as_stored(
        self,
        key: str,
        data: bytes,
        *,
        if_match: Version | None = None,
        if_none_match: bool = False,
    ) -> Version:
        """Write an object as `ObjectStore.put`, byte for byte.

        Raises:
            ObjectTooLargeError: It is larger than what is read again.
        """
        if len(data) > self._max_bytes + PADDING_BYTES:
            raise ObjectTooLargeError(
                f"{key} would have {len(data)} bytes, more than the {self._max_bytes} that "
                "max_snapshot_bytes=… allows",
                operation="put",
                bucket=self.place,
                key=key,
            )
        return await in_time(
            self._store.put(key, data, if_match=if_match, if_none_match=if_none_match),
            self.timeout,
            operation="put",
            key=key,
            place=self.place,
            writes=True,
        )

    async def delete(self, key: str) -> None:
        """Delete an object, together with those that are deleted at the same time.

        Raises:
            PartialDeleteError: It was not confirmed as deleted.
        """
        code = await self._deletes.delete(key)
        if code is not None:
            raise PartialDeleteError(
                f"{key} in {self.place} was not deleted ({code})",
                failed={key: code},
                operation="delete",
                bucket=self.place,
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
                self.timeout,
                operation="scan",
                key=prefix,
                place=self.place,
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
            self.timeout,
            operation="delete",
            key=keys[0],
            place=self.place,
            writes=True,
        )


async def translated(key: str, data: bytes, to: Dialect) -> bytes:
    """Translate what has the key of a snapshot; a large one in a thread.

    Args:
        key: Its key.
        data: The object.
        to: The dialect to be had.

    Raises:
        SnapshotDecodeError: It has the key of a snapshot, and is none.
        SnapshotEncodeError: The dialect can't carry it.
    """
    if not is_snapshot_key(key):
        return data
    failure: SnapshotDecodeError | SnapshotEncodeError
    try:
        if len(data) <= _LARGE:
            return convert_snapshot(data, to)
        try:
            converting = asyncio.get_running_loop().run_in_executor(
                None, convert_snapshot, data, to
            )
        except RuntimeError:  # the interpreter exits, and no thread is to be had
            return convert_snapshot(data, to)
        return await converting
    except SnapshotDecodeError as error:
        failure = SnapshotDecodeError(f"{key}: {error}", key=key)
    except SnapshotEncodeError as error:
        failure = SnapshotEncodeError(f"{key}: {error}")
    raise failure
