"""Objects as the SDK wants them: one key at a time, snapshots in the dialect asked for.

All of this runs on the portal's event loop.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Final

from snapstore.encoding.padding import PADDING_BYTES, pad, strip_padding
from snapstore.errors import PartialDeleteError, SnapshotDecodeError, SnapshotEncodeError
from snapstore.integrations.strands.convert import convert_snapshot, is_snapshot_key
from snapstore.integrations.strands.deletes import BatchedDeletes
from snapstore.model.snapshot import Dialect
from snapstore.stores.base import PAGE_SIZE, ObjectTooLargeError, StoredObject, Version
from snapstore.stores.managed import ManagedStore

__all__ = ["Objects", "translate"]

_LARGE: Final = 256 * 1024
"""Bytes from which on a translation would hold up other requests, and is done in a thread."""


class Objects:
    """Objects in a store, with snapshots translated between the dialects.

    Args:
        store: Where they are.
        dialect: The dialect in which snapshots are written. Both are read, as Python's.
        max_bytes: How large an object may be, both ways.

    Attributes:
        store: As the argument.
    """

    def __init__(self, store: ManagedStore, *, dialect: Dialect, max_bytes: int) -> None:
        self.store: ManagedStore = store
        self._dialect: Dialect = dialect
        self._max_bytes = max_bytes
        self._deletes = BatchedDeletes(store.delete)

    async def open(self) -> None:
        """Open the store."""
        await self.store.open()

    async def aclose(self) -> None:
        """Wait for the batch of deletes under way, and close the store."""
        await self._deletes.aclose()
        await self.store.aclose()

    async def get(self, key: str) -> StoredObject | None:
        """Read an object; a snapshot in Python's dialect.

        Raises:
            SnapshotDecodeError: It has the key of a snapshot and is none.
        """
        stored = await self.get_as_stored(key)
        if stored is None:
            return None
        return StoredObject(await translate(key, stored.data, "python"), stored.version)

    async def get_as_stored(self, key: str) -> StoredObject | None:
        """Read an object, byte for byte.

        Raises:
            ObjectTooLargeError: It is larger than `max_bytes`, the padding of a latest snapshot
                not counted.
        """
        padding = PADDING_BYTES if is_snapshot_key(key) else 0
        stored = await self.store.get(key, max_bytes=self._max_bytes + padding)
        if stored is not None and len(stored.data) > self._max_bytes:
            self._check_size(key, strip_padding(stored.data), "get")
        return stored

    async def put(self, key: str, data: bytes, *, if_none_match: bool = False) -> Version:
        """Write an object; a snapshot in the dialect asked for.

        Args:
            key: Its key.
            data: The body; for the key of a snapshot, one in either dialect.
            if_none_match: Write only if there is no object under this key.

        Raises:
            SnapshotDecodeError: It has the key of a snapshot and is none.
            SnapshotEncodeError: It is a snapshot that the dialect can't carry.
            ObjectTooLargeError: It is larger than `max_bytes`.
        """
        data = await translate(key, data, self._dialect)
        self._check_size(key, data, "put")
        return await self.store.put(key, data, if_none_match=if_none_match)

    async def encode_latest(self, key: str, document: bytes) -> bytes:
        """Encode a latest snapshot, so that no two writes have equal bytes.

        Args:
            key: Its key.
            document: The snapshot, in either dialect.

        Raises:
            SnapshotDecodeError: It is not a snapshot.
            SnapshotEncodeError: The dialect can't carry it.
            ObjectTooLargeError: It is larger than `max_bytes`.
        """
        data = await translate(key, document, self._dialect)
        self._check_size(key, data, "put")
        return pad(data)

    async def delete(self, key: str) -> None:
        """Delete an object, in one batch with others that are deleted at the same time.

        Raises:
            PartialDeleteError: The store did not confirm that it is deleted.
        """
        code = await self._deletes.delete(key)
        if code is not None:
            raise PartialDeleteError(
                f"{key} in {self.store.name} was not deleted ({code})",
                failed={key: code},
                operation="delete",
                bucket=self.store.name,
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
        scan = self.store.scan(prefix, start_after=start_after, page_size=page_size)
        async with aclosing(scan) as pages:
            async for page in pages:
                found += page
                if limit is not None and len(found) >= limit:
                    return found[:limit]
        return found

    def _check_size(self, key: str, data: bytes, operation: str) -> None:
        if len(data) > self._max_bytes:
            raise ObjectTooLargeError(
                f"{key} has {len(data):,} bytes, more than the {self._max_bytes:,} that "
                "max_snapshot_bytes=… allows",
                operation=operation,
                bucket=self.store.name,
                key=key,
            )


async def translate(key: str, data: bytes, to: Dialect) -> bytes:
    """Translate an object that has the key of a snapshot; a large one in a thread.

    Args:
        key: Its key.
        data: The object.
        to: The dialect to translate to.

    Raises:
        SnapshotDecodeError: It has the key of a snapshot and is none.
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
        except RuntimeError:  # the interpreter exits, and no thread can be started
            return convert_snapshot(data, to)
        return await converting
    except SnapshotDecodeError as error:
        failure = SnapshotDecodeError(f"{key}: {error}", key=key)
    except SnapshotEncodeError as error:
        failure = SnapshotEncodeError(f"{key}: {error}")
    raise failure
