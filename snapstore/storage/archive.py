"""The snapshots of a location that lie in packs: their ids, and each one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from datetime import datetime
from typing import NamedTuple, TypeVar

from snapstore.model.keys import Layout, PackName
from snapstore.model.snapshot import SnapshotLocation
from snapstore.storage.history import History, Interval
from snapstore.storage.packs import read_pack, whole_packs
from snapstore.stores.base import Body
from snapstore.stores.managed import ManagedStore

__all__ = ["Archive", "ArchivedDocument", "load_as_of"]

T = TypeVar("T")


class ArchivedDocument(NamedTuple):
    """A document out of a pack.

    Attributes:
        key: The key of the pack.
        data: The document.
    """

    key: str
    data: Body


class Archive:
    """The archive of a location.

    Args:
        objects: Where it is.
        layout: The keys.
        location: The location.
        max_bytes: How large a document may be.
    """

    def __init__(
        self, objects: ManagedStore, layout: Layout, location: SnapshotLocation, *, max_bytes: int
    ) -> None:
        self._objects = objects
        self._layout = layout
        self._location = location
        self._max_bytes = max_bytes
        layout.archive_prefix(location)  # validates it

    async def packs(self) -> list[PackName]:
        """The packs that are whole, by their first ids."""
        return await whole_packs(self._objects, self._layout, self._location)

    async def iter_pages(self) -> AsyncGenerator[list[str], None]:
        """Walk the ids, ascending, each once; a page for each pack."""
        waiting: set[str] = set()
        for name in await self.packs():
            # What is lower than the first id of a pack is in none of those that follow.
            if ready := sorted(found for found in waiting if found < name.first):
                waiting.difference_update(ready)
                yield ready
            pack = await read_pack(self._objects, name, max_bytes=self._max_bytes)
            if pack is not None:
                waiting.update(packed.snapshot_id for packed in pack.documents)
        yield sorted(waiting)

    async def load(self, snapshot_id: str) -> ArchivedDocument | None:
        """A document; `None` if no pack has it."""
        for name in await self.packs():
            if name.first <= snapshot_id <= name.last:
                found = await self.load_from(name, snapshot_id)
                if found is not None:
                    return found
        return None

    async def load_from(self, name: PackName, snapshot_id: str) -> ArchivedDocument | None:
        """A document of a pack; `None` if there is no such pack, or it doesn't have it."""
        pack = await read_pack(self._objects, name, max_bytes=self._max_bytes)
        if pack is None or pack.get(snapshot_id) is None:
            return None
        document = await asyncio.to_thread(pack.read, snapshot_id)
        return None if document is None else ArchivedDocument(name.key, Body(document))

    async def newest(self, until: str | None, *, without: set[str]) -> tuple[str, PackName] | None:
        """The newest document up to and including an id, and the pack that has it.

        Args:
            until: The id; `None` for the newest of all.
            without: Keys of packs that are gone.
        """
        best: tuple[str, PackName] | None = None
        # From those that reach highest on, most packs need not be read.
        for name in sorted(await self.packs(), key=lambda name: name.last, reverse=True):
            if name.key in without or (until is not None and name.first > until):
                continue
            if best is not None and name.last <= best[0]:
                continue
            found: str | None = name.last
            if until is not None and name.last > until:
                pack = await read_pack(self._objects, name, max_bytes=self._max_bytes)
                found = None if pack is None else pack.newest(until)
            if found is not None and (best is None or found > best[0]):
                best = found, name
        return best


async def load_as_of(
    history: History,
    archive: Archive,
    time: datetime,
    load: Callable[[str], Awaitable[T | None]],
    decode: Callable[[ArchivedDocument], Awaitable[T]],
) -> T | None:
    """Load the newest snapshot of a time or earlier, in history or archive; `None` without one.

    The history is looked at first: a snapshot that is not there any more is in a pack by then.

    Args:
        history: The history.
        archive: The archive.
        time: The time, in whole milliseconds.
        load: Loads a snapshot of the history; `None` if it is gone.
        decode: Decodes a document of the archive.
    """
    interval = whole = Interval.of(None, newest_first=True, since=None, until=time)
    gone: set[str] = set()
    while True:
        newest = await history.newest(interval)
        archived = await archive.newest(whole.last, without=gone)
        if archived is not None and (newest is None or archived[0] >= newest):
            snapshot_id, name = archived
            document = await archive.load_from(name, snapshot_id)
            if document is not None:
                return await decode(document)
            gone.add(name.key)
            interval = whole  # perhaps it is in history again
        elif newest is None:
            return None
        else:
            found = await load(newest)
            if found is not None:
                return found
            # Deleted, or in a pack by now.
            interval = Interval.of(newest, newest_first=True, since=None, until=None)
