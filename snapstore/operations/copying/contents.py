"""What a session holds beside its history and latest snapshots, and what a target holds of it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing
from types import TracebackType
from typing import Self

from snapstore.model.keys import Layout
from snapstore.model.snapshot import SnapshotLocation
from snapstore.operations.listing import Listed, iter_listed
from snapstore.operations.locations import HistoryEntry, iter_history
from snapstore.storage.snapshots import ObjectSnapshotStorage

__all__ = ["TargetContents", "is_session", "iter_archive", "iter_others", "iter_stash"]


async def is_session(storage: ObjectSnapshotStorage, session_id: str) -> bool:
    """Whether there is a session: it has an object of the layout."""
    prefix = storage.layout.session_prefix(session_id)
    async with aclosing(storage.objects.scan(f"{prefix}scopes/")) as pages:
        async for page in pages:
            if any(Layout.is_own(key, prefix) for key in page):
                return True
    return False


async def iter_others(
    storage: ObjectSnapshotStorage, session_id: str
) -> AsyncGenerator[Listed, None]:
    """Walk what `delete_session` deletes beside history and latest: manifests, unknown objects.

    Empty objects whose keys end with `/`, by which consoles show directories, are left out, and so
    is the archive: see `iter_archive`.
    """
    layout = storage.layout
    prefix = layout.session_prefix(session_id)
    async with aclosing(iter_listed(storage.objects, prefix)) as listed:
        async for found in listed:
            if layout.is_nested_store(found.key, prefix) or _is_directory(found):
                continue
            place = layout.place_of(found.key, prefix)
            if place is None or place.kind not in ("latest", "history", "archive"):
                yield found


async def iter_archive(
    storage: ObjectSnapshotStorage, location: SnapshotLocation
) -> AsyncGenerator[Listed, None]:
    """Walk the archive of a location.

    It is to be copied after history: a snapshot that is archived meanwhile, and no longer in
    history, is in a pack by then.
    """
    prefix = storage.layout.archive_prefix(location)
    async with aclosing(iter_listed(storage.objects, prefix)) as listed:
        async for found in listed:
            if not _is_directory(found):
                yield found


async def iter_stash(
    storage: ObjectSnapshotStorage, session_id: str
) -> AsyncGenerator[Listed, None]:
    """Walk the stash of a session."""
    prefix = storage.layout.stash_prefix(session_id)
    async with aclosing(iter_listed(storage.objects, prefix)) as listed:
        async for found in listed:
            if storage.layout.is_stash(found.key, session_id) and not _is_directory(found):
                yield found


def _is_directory(found: Listed) -> bool:
    return found.key.endswith("/") and not found.size


class TargetContents:
    """What a target holds of a session, listed as far as it is asked for.

    Args:
        target: Where.
        session_id: The session there.
    """

    def __init__(self, target: ObjectSnapshotStorage, session_id: str) -> None:
        self._target = target
        self._session_id = session_id
        self._open = AsyncExitStack()
        self._location: SnapshotLocation | None = None
        self._entries: AsyncGenerator[HistoryEntry, None]
        self._next: HistoryEntry | None = None
        self._stash: dict[str, Listed] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._open.aclose()

    async def in_history(self, location: SnapshotLocation, snapshot_id: str) -> Listed | None:
        """Look for a snapshot in history; it is asked for in ascending order in each location."""
        if location != self._location:
            await self._open.aclose()
            self._location = location
            entries = _iter_entries(self._target, location)
            self._entries = await self._open.enter_async_context(aclosing(entries))
            self._next = await anext(self._entries, None)
        while self._next is not None and self._next.snapshot_id < snapshot_id:
            self._next = await anext(self._entries, None)
        entry = self._next
        if entry is None or entry.snapshot_id != snapshot_id:
            return None
        return Listed(entry.key, entry.size, entry.etag)

    async def in_stash(self, key: str) -> Listed | None:
        """Look for an object of the stash."""
        if self._stash is None:
            async with aclosing(iter_stash(self._target, self._session_id)) as listed:
                self._stash = {found.key: found async for found in listed}
        return self._stash.get(key)


async def _iter_entries(
    storage: ObjectSnapshotStorage, location: SnapshotLocation
) -> AsyncGenerator[HistoryEntry, None]:
    async with aclosing(iter_history(storage.objects, storage.layout, location)) as pages:
        async for page in pages:
            for entry in page:
                yield entry
