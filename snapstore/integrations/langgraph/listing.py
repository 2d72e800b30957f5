"""List checkpoints, newest first, a batch at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple

from snapstore.integrations.langgraph.keys import Namespace, thread_root
from snapstore.integrations.langgraph.records import StoredCheckpoint
from snapstore.integrations.langgraph.scanning import all_keys, ids_before, namespaces, roots
from snapstore.integrations.langgraph.threads import Loaded, Threads
from snapstore.storage.overlap import overlap
from snapstore.stores.base import PAGE_SIZE
from snapstore.stores.managed import ManagedStore

__all__ = ["Listing", "Wanted"]

_AT_A_TIME: Final = 16


class Wanted(NamedTuple):
    """What is to be listed.

    Attributes:
        base: What all keys begin with.
        thread_id: The thread; `None` for all.
        checkpoint_ns: The namespace; `None` for all.
        checkpoint_id: The only checkpoint; `None` for all.
        before: Only checkpoints before this id; `None` for all.
        matches: Whether a checkpoint is one of them.
        limit: How many at the most; `None` for all.
    """

    base: str
    thread_id: str | None
    checkpoint_ns: str | None
    checkpoint_id: str | None
    before: str | None
    matches: Callable[[StoredCheckpoint], bool]
    limit: int | None


class Listing:
    """Goes through the checkpoints of one thread after the other, each from its newest one on.

    Args:
        threads: The checkpoints.
        wanted: What is to be listed.
    """

    def __init__(self, threads: Threads, wanted: Wanted) -> None:
        self._threads = threads
        self._wanted = wanted
        self._left = wanted.limit
        self._roots: deque[str] | None = None
        self._found: deque[tuple[str, Namespace]] = deque()
        self._more: tuple[Namespace, str] | None = None

    async def next_batch(self, store: ManagedStore) -> list[Loaded] | None:
        """The next checkpoints, maybe none of them; `None` at the end."""
        if self._left is not None and self._left <= 0:
            return None
        if not self._found and not await self._find(store):
            return None
        size = _AT_A_TIME if self._left is None else min(self._left, _AT_A_TIME)
        some = [self._found.popleft() for _ in range(min(size, len(self._found)))]
        records = await overlap(some, lambda one: self._threads.record(store, one[1], one[0]))
        matching = [
            (space, record)
            for (_, space), record in zip(some, records, strict=True)
            if record is not None and self._wanted.matches(record)
        ]
        if self._left is not None:
            self._left -= len(matching)
        loaded = await overlap(matching, lambda found: self._complete(store, *found))
        return [one for one in loaded if one is not None]

    async def _complete(
        self, store: ManagedStore, space: Namespace, record: StoredCheckpoint
    ) -> Loaded | None:
        writes = await all_keys(store, space.writes(record.checkpoint_id))
        return await self._threads.load_rest(store, space, record, writes)

    async def _find(self, store: ManagedStore) -> bool:
        """Find ids that come next; whether there are any."""
        wanted = self._wanted
        if self._more is not None:
            await self._page(store, *self._more)
        if self._roots is None:
            if wanted.thread_id is None:
                self._roots = deque(await roots(store, wanted.base))
            else:
                self._roots = deque([thread_root(wanted.base, wanted.thread_id)])
        while not self._found and self._roots:
            await self._find_in(store, self._roots.popleft())
        return bool(self._found)

    async def _find_in(self, store: ManagedStore, thread: str) -> None:
        wanted = self._wanted
        if wanted.checkpoint_ns is None:
            spaces = await namespaces(store, thread)
        else:
            spaces = [Namespace.in_thread(thread, wanted.checkpoint_ns)]
        if wanted.checkpoint_id is not None:
            if wanted.before is None or wanted.checkpoint_id < wanted.before:
                self._found.extend((wanted.checkpoint_id, space) for space in spaces)
        elif len(spaces) == 1:
            await self._page(store, spaces[0], wanted.before)
        else:
            ids = await overlap(spaces, lambda space: ids_before(store, space, wanted.before))
            pairs = [(one, space) for space, some in zip(spaces, ids, strict=True) for one in some]
            self._found.extend(sorted(pairs, reverse=True))

    async def _page(self, store: ManagedStore, space: Namespace, before: str | None) -> None:
        left = PAGE_SIZE if self._left is None else self._left
        limit = min(max(left, _AT_A_TIME), PAGE_SIZE)
        ids = await ids_before(store, space, before, limit)
        self._found.extend((one, space) for one in ids)
        self._more = (space, ids[-1]) if len(ids) == limit else None
