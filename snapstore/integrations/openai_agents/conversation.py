"""A conversation in an object store: a *head* and *segments*.

The head has the newest items, and the names of segments with the older ones. Segments are written
once and never changed, so a turn rewrites only the head, however long the conversation is. The head
is written only over the version that was read: no append is lost, and each is there as a whole or
not at all. A segment is written before the head that names it, and deleted after the last one that
does. See `docs/formats/openai-agents.md`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any, Final, cast

from snapstore.encoding.documents import decode_document, encode_document
from snapstore.errors import (
    SnapshotConflictError,
    SnapshotDecodeError,
    SnapshotEncodeError,
    StorageError,
    StorageUnavailableError,
)
from snapstore.integrations.adapter import delete_keys
from snapstore.integrations.openai_agents.head import MAX_OBJECT_BYTES, Head, Segment
from snapstore.model.ids import new_snapshot_id
from snapstore.storage.overlap import overlap
from snapstore.stores.base import PreconditionFailedError
from snapstore.stores.managed import ManagedStore
from snapstore.stores.retry import full_jitter

__all__ = ["Change", "Conversation", "validate_items"]

logger: Final = logging.getLogger("snapstore")

_MAX_ADDED_BYTES: Final = MAX_OBJECT_BYTES // 2
"""How many bytes of items one call may add: with what is in the head, they fit into an object."""

_ATTEMPTS: Final = 64

Change = Callable[[Head], Awaitable[Head | None]]
"""Makes a new head of the one that is stored; `None` leaves it as it is."""


class Conversation:
    """One conversation.

    Args:
        store: Where it is.
        prefix: What all its keys begin with; ends with `/`.
    """

    def __init__(self, store: ManagedStore, prefix: str) -> None:
        self._store = store
        self._prefix = prefix
        self._head_key = f"{prefix}head.json"

    async def read_head(self) -> Head:
        """Read the head; an empty one if there is none."""
        stored = await self._store.get(self._head_key, max_bytes=MAX_OBJECT_BYTES)
        return Head() if stored is None else Head.decode(stored, self._head_key)

    async def read(self, wanted: int | None) -> list[Any]:
        """Read the newest items, oldest first.

        Args:
            wanted: How many at the most, and at least 1; `None` for all.

        Raises:
            SnapshotDecodeError: What is stored is damaged.
            StorageUnavailableError: It was rewritten each time that it was read.
        """
        gone: _SegmentGoneError | None = None
        for _ in range(_ATTEMPTS):
            head = await self.read_head()
            if gone is not None:
                gone.check(head, self._head_key)
            try:
                return await self._items(head, wanted)
            except _SegmentGoneError as error:
                gone = error
        raise StorageUnavailableError(
            f"{self._head_key} was rewritten each of {_ATTEMPTS} times that its items were read",
            operation="get",
            bucket=self._store.name,
            key=self._head_key,
        )

    async def append(self, added: Sequence[Any]) -> None:
        """Append items: all of them, or none."""
        written: list[Segment] = []

        async def add(head: Head) -> Head:
            await self._discard(written)  # what an attempt before this one has written
            written.clear()
            if not head.is_full:
                return Head(head.segments, (*head.tail, *added))
            segment = await self._write_segment(head.tail)
            written.append(segment)
            return Head((*head.segments, segment), tuple(added))

        await self._change(add)

    async def shorten(self, count: Callable[[Head], int]) -> list[Any]:
        """Remove the newest items.

        Args:
            count: Tells how many items stay; what it raises leaves them as they are.

        Returns:
            The items that were removed, oldest first.
        """
        removed: list[Any] = []

        async def cut(head: Head) -> Head | None:
            kept = count(head)
            shorter, removed[:] = await self._split(head, kept)
            return shorter if removed else None

        await self._change(cut)
        return removed

    async def clear(self, *others: str) -> None:
        """Delete all.

        Args:
            others: Names of other objects of the conversation, which go with it.
        """
        segments: list[str] = []
        async with aclosing(self._store.scan(f"{self._prefix}segments/")) as pages:
            async for page in pages:
                segments += page
        # A writer whose new head would name one of them is refused once this head is gone.
        heads = [self._head_key, *(f"{self._prefix}{name}" for name in others)]
        await delete_keys(self._store, heads)
        await delete_keys(self._store, segments)

    async def _items(self, head: Head, wanted: int | None) -> list[Any]:
        needed: list[Segment] = []
        missing = head.items if wanted is None else wanted - len(head.tail)
        for segment in reversed(head.segments):
            if missing <= 0:
                break
            needed.insert(0, segment)
            missing -= segment.items
        parts = await overlap(needed, partial(self._read_segment, head))
        items = [*(item for part in parts for item in part), *head.tail]
        return items if wanted is None else items[-wanted:]

    async def _split(self, head: Head, count: int) -> tuple[Head, list[Any]]:
        """Divide a conversation after so many items: what comes before, and the rest."""
        segments, before = list(head.segments), head.items - len(head.tail)
        divided: list[Segment] = []
        while segments and before > count:
            divided.insert(0, segments.pop())
            before -= divided[0].items
        parts = await overlap(divided, partial(self._read_segment, head))
        rest = [*(item for part in parts for item in part), *head.tail]
        kept = count - before
        return Head(tuple(segments), tuple(rest[:kept])), rest[kept:]

    async def _read_segment(self, head: Head, segment: Segment) -> list[Any]:
        key = self._key_of(segment)
        stored = await self._store.get(key, max_bytes=MAX_OBJECT_BYTES)
        if stored is None:
            raise _SegmentGoneError(head, key)
        items: Any = decode_document(stored.data, key, "segment of a conversation").get("items")
        if not isinstance(items, list) or len(items) != segment.items:
            raise SnapshotDecodeError(f"{key} is not the segment that its head names", key=key)
        return items

    async def _write_segment(self, items: Sequence[Any]) -> Segment:
        segment = Segment(new_snapshot_id(), len(items))
        data = encode_document({"items": list(items)}, MAX_OBJECT_BYTES)
        await self._store.put(self._key_of(segment), data, if_none_match=True)
        return segment

    async def _change(self, change: Change) -> None:
        """Change the head, again from the start where another writer came first."""
        gone: _SegmentGoneError | None = None
        for attempt in range(_ATTEMPTS):
            head = await self.read_head()
            if gone is not None:
                gone.check(head, self._head_key)
            try:
                changed = await change(head)
                if changed is None:
                    return
                await self._store.put(
                    self._head_key,
                    changed.encode(),
                    if_match=head.version,
                    if_none_match=head.version is None,
                )
            except _SegmentGoneError as error:
                gone = error
            except PreconditionFailedError:
                await asyncio.sleep(full_jitter(min(attempt, 4)))
            else:
                await self._discard(set(head.segments) - set(changed.segments))
                return
        raise SnapshotConflictError(
            f"{self._head_key} was not written: other writers came first, {_ATTEMPTS} times",
            operation="put",
            bucket=self._store.name,
            key=self._head_key,
            outcome="not applied",
        )

    async def _discard(self, segments: Iterable[Segment]) -> None:
        """Delete segments that no head names; to fail at that says nothing of the change."""
        try:
            await delete_keys(self._store, [self._key_of(segment) for segment in segments])
        except StorageError as error:
            logger.warning("left for clear_session to delete: %s", error)

    def _key_of(self, segment: Segment) -> str:
        return f"{self._prefix}segments/{segment.name}.json"


class _SegmentGoneError(Exception):
    """A segment that a head names does not exist: the head is another one by now, or damaged."""

    def __init__(self, head: Head, key: str) -> None:
        super().__init__(key)
        self._head = head
        self._key = key

    def check(self, now: Head, head_key: str) -> None:
        """Find out which of the two it is.

        Args:
            now: The head that was read after that.
            head_key: Its key.

        Raises:
            SnapshotDecodeError: The head is the same.
        """
        before = self._head.version
        if before is not None and now.version is not None and before.etag == now.version.etag:
            raise SnapshotDecodeError(
                f"{head_key} needs {self._key}, which does not exist", key=self._key
            )


def validate_items(items: Sequence[Any]) -> list[dict[str, Any]]:
    """The items, as they are now: a copy of each that JSON can carry.

    Raises:
        SnapshotEncodeError: One is no JSON object, or all are too large.
    """
    copies: list[dict[str, Any]] = []
    size = 0
    for place, item in enumerate(items):
        if not isinstance(item, dict):
            raise SnapshotEncodeError(f"item {place} is a {type(item).__name__}, not a JSON object")
        data = encode_document(cast("dict[str, Any]", item), _MAX_ADDED_BYTES)
        size += len(data) + 1
        copies.append(decode_document(data, "", "item"))
    if size > _MAX_ADDED_BYTES:
        raise SnapshotEncodeError(
            f"items: too large: {size:,} bytes of JSON, where {_MAX_ADDED_BYTES:,} are allowed"
        )
    return copies
