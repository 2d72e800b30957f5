"""Refuse a checkpoint whose parent is not the newest one: `on_conflict="raise"`.

The object `head` of a namespace is the newest checkpoint, its very bytes. A checkpoint is written
there first, by compare-and-swap, and then under its own key. So of two runs that go on from one
checkpoint, only one can. A writer that ends between the two writes leaves a head that is not under
its own key: the next reader of the head writes it there.
"""

from __future__ import annotations

import asyncio
from typing import Final, NamedTuple

from snapstore.errors import SnapshotConflictError
from snapstore.integrations.adapter import both
from snapstore.integrations.langgraph.keys import Namespace
from snapstore.integrations.langgraph.scanning import newest_id
from snapstore.integrations.langgraph.threads import Draft, Threads
from snapstore.integrations.langgraph.values import BoundedCache
from snapstore.stores.base import PreconditionFailedError, Version
from snapstore.stores.managed import ManagedStore
from snapstore.stores.retry import full_jitter

__all__ = ["Heads"]

_ATTEMPTS: Final = 8
_CACHED_BYTES: Final = 2**20
_SUPERSEDED: Final = (
    "another run has gone on from the same checkpoint; run again, which goes on from the newest"
)
_DELETED: Final = "the checkpoint that it goes on from was deleted"
_BEHIND: Final = (
    "the newest one has a greater id, so it would never be read; the clock of this machine is "
    "behind that of another writer"
)


class _Head(NamedTuple):
    """The newest checkpoint of a namespace.

    Attributes:
        checkpoint_id: Its id; `None` if there is none.
        version: The version of the object `head`; `None` if there is no such object.
    """

    checkpoint_id: str | None
    version: Version | None


class Heads:
    """The newest checkpoint of each namespace, written by compare-and-swap.

    Args:
        threads: The checkpoints.
    """

    def __init__(self, threads: Threads) -> None:
        self._threads = threads
        self._known: BoundedCache[str, _Head] = BoundedCache(_CACHED_BYTES, _size)

    async def look(self, store: ManagedStore, space: Namespace) -> str | None:
        """Find the newest checkpoint, and write it under its own key if it is only in the head.

        Returns:
            Its id; `None` if there is none.
        """
        return (await self._look(store, space)).checkpoint_id

    async def put(
        self, store: ManagedStore, space: Namespace, draft: Draft, *, may_fork: bool
    ) -> None:
        """Store a checkpoint, and make it the newest one.

        Args:
            store: The store.
            space: Where it belongs.
            draft: The checkpoint.
            may_fork: Whether its parent may be another one than the newest.

        Raises:
            SnapshotConflictError: Its parent is not the newest one, or the newest one has a greater
                id. Nothing was changed.
            OutcomeUnknownError: Nothing can tell whether it was stored. To store it again is safe.
        """
        record, data = await self._threads.complete(store, space, draft)
        key = space.checkpoint(record.checkpoint_id)
        head = self._known.get(space.root)
        self._known.discard(lambda root: root == space.root)
        if head is None or head.checkpoint_id != record.parent_id:
            head = await self._look(store, space)
        version: Version | None = None
        for attempt in range(_ATTEMPTS):
            if head.checkpoint_id == record.checkpoint_id:
                version = head.version  # it was stored by an earlier call, whose response was lost
                break
            if head.checkpoint_id != record.parent_id and not may_fork:
                is_older = (head.checkpoint_id or "") < (record.parent_id or "")
                raise self._conflict(store, space, _DELETED if is_older else _SUPERSEDED)
            if head.checkpoint_id is not None and head.checkpoint_id > record.checkpoint_id:
                raise self._conflict(store, space, _BEHIND)
            try:
                version = await store.put(
                    space.head, data, if_match=head.version, if_none_match=head.version is None
                )
                break
            except PreconditionFailedError:
                pass
            await asyncio.sleep(full_jitter(attempt))
            head = await self._look(store, space)
        else:
            raise self._conflict(store, space, _SUPERSEDED)
        await store.put(key, data)
        self._threads.remember(space, record)
        self._known.put(space.root, _Head(record.checkpoint_id, version))

    def forget(self, root: str) -> None:
        """Forget the heads under a prefix."""
        self._known.discard(lambda known: known.startswith(root))

    async def _look(self, store: ManagedStore, space: Namespace) -> _Head:
        stored, newest = await both(
            store.get(space.head, max_bytes=self._threads.max_frame_bytes), newest_id(store, space)
        )
        version = None
        if stored is not None:
            version = stored.version
            head_id = self._threads.decode(stored.data, space.head).checkpoint_id
            if newest is None or head_id > newest:
                await store.put(space.checkpoint(head_id), stored.data)
                newest = head_id
        head = _Head(newest, version)
        self._known.put(space.root, head)
        return head

    @staticmethod
    def _conflict(store: ManagedStore, space: Namespace, why: str) -> SnapshotConflictError:
        return SnapshotConflictError(
            f"a checkpoint of {space.root} was not stored: {why}",
            operation="put",
            bucket=store.name,
            key=space.head,
            outcome="not applied",
        )


def _size(_head: _Head) -> int:
    return 200
