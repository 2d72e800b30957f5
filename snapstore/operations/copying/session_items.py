"""The objects of one session that is copied, as items that are to be written."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import partial

from snapstore.errors import StorageError
from snapstore.model.keys import Layout
from snapstore.model.snapshot import SnapshotLocation
from snapstore.operations.copying.contents import (
    TargetContents,
    is_session,
    iter_archive,
    iter_others,
    iter_stash,
)
from snapstore.operations.copying.held import HeldLatest, HeldLatests
from snapstore.operations.copying.transfer import Item, code_of_object
from snapstore.operations.events import CopyEvent
from snapstore.operations.listing import Listed
from snapstore.operations.locations import iter_history, iter_locations
from snapstore.storage.snapshots import ObjectSnapshotStorage
from snapstore.storage.writes import ORIGIN
from snapstore.stores.base import Body, StoredObject, Version

__all__ = ["SessionItems"]


class SessionItems:
    """The objects of one session, as items that are to be written.

    Args:
        source: Where from.
        target: Where to.
        session_id: The session, on both sides.
        max_bytes: How large an object may be.
    """

    def __init__(
        self,
        source: ObjectSnapshotStorage,
        target: ObjectSnapshotStorage,
        session_id: str,
        max_bytes: int,
    ) -> None:
        self._source = source
        self._target = target
        self._session_id = session_id
        self._max_bytes = max_bytes
        self._locations: list[SnapshotLocation] = []
        self._origins: dict[SnapshotLocation, str | None] = {}
        # Where what latest was saved from is in history; where history has gone meanwhile.
        self._seen: set[SnapshotLocation] = set()
        self._lost: set[SnapshotLocation] = set()

    async def find(self) -> bool:
        """Look for the locations; returns whether there is a session."""
        source = self._source
        found = iter_locations(source.objects, source.layout, self._session_id)
        async with aclosing(found) as locations:
            self._locations = [location async for location in locations]
        return bool(self._locations) or await is_session(source, self._session_id)

    async def read_latests(self, held: HeldLatests) -> list[CopyEvent]:
        """Read all latest snapshots; returns events about those that can't be read."""
        failed: list[CopyEvent] = []
        for location in self._locations:
            key = self._source.layout.latest(location)
            try:
                stored = await self._read(key)
            except StorageError as error:
                code = code_of_object(error)
                if code is None:
                    raise
                item = self._item(key, self._target.layout.latest(location), location)
                failed.append(item.event("failed", code=code))
                continue
            if stored is not None:
                await held.add(location, key, stored)
        return failed

    async def items(
        self, held: HeldLatests, there: TargetContents
    ) -> AsyncGenerator[tuple[Item, Listed | None], None]:
        """All but latest snapshots and archive, each with what the target has under its key."""
        prefix = self._source.layout.session_prefix(self._session_id)
        to = self._target.layout.session_prefix(self._session_id)
        async with aclosing(iter_others(self._source, self._session_id)) as others:
            async for found in others:
                target = to + found.key.removeprefix(prefix)
                yield self._item(found.key, target, None, found), Listed(target)
        prefix = self._source.layout.stash_prefix(self._session_id)
        to = self._target.layout.stash_prefix(self._session_id)
        async with aclosing(iter_stash(self._source, self._session_id)) as stash:
            async for found in stash:
                target = to + found.key.removeprefix(prefix)
                yield self._item(found.key, target, None, found), await there.in_stash(target)
        self._origins = {latest.location: latest.origin for latest in held.held}
        for location in self._locations:
            pages = iter_history(self._source.objects, self._source.layout, location)
            async with aclosing(pages):
                async for page in pages:
                    for entry in page:
                        target = self._target.layout.history(location, entry.snapshot_id)
                        if entry.snapshot_id == self._origins.get(location):
                            self._seen.add(location)
                        found = Listed(entry.key, entry.size, entry.etag)
                        item = self._item(entry.key, target, location, found, is_history=True)
                        yield item, await there.in_history(location, entry.snapshot_id)

    async def archive(self) -> AsyncGenerator[tuple[Item, Listed | None], None]:
        """The archive, to be asked for when all the others have been read: see `iter_archive`."""
        for location in self._locations:
            prefix = self._source.layout.archive_prefix(location)
            to = self._target.layout.archive_prefix(location)
            async with aclosing(iter_archive(self._source, location)) as archive:
                async for found in archive:
                    target = to + found.key.removeprefix(prefix)
                    yield self._item(found.key, target, None, found), Listed(target)

    def note(self, event: CopyEvent) -> None:
        """Note where history has gone before it could be copied."""
        if event.result == "missing":
            prefix = self._source.layout.session_prefix(self._session_id)
            place = Layout.place_of(event.key, prefix)
            if place is not None and place.kind == "history":
                self._lost.add(place.location)
                if place.snapshot_id == self._origins.get(place.location):
                    self._seen.discard(place.location)

    async def has_its_history(self, latest: HeldLatest) -> bool:
        """Whether what a latest snapshot was saved from was copied, or was never there."""
        if latest.location in self._seen:
            return True
        now = await self._read(latest.key)
        is_lost = latest.location in self._lost
        return not latest.may_lack_its_history(now, is_lost=is_lost)

    def latest(self, latest: HeldLatest, body: Body) -> Item:
        """A latest snapshot that was read."""
        metadata = {} if latest.origin is None else {ORIGIN: latest.origin}
        stored = StoredObject(body, Version(latest.etag), metadata)

        async def read() -> StoredObject | None:
            return stored

        target = self._target.layout.latest(latest.location)
        found = Listed(latest.key, latest.size, latest.etag)
        return self._item(latest.key, target, latest.location, found)._replace(read=read)

    def _item(
        self,
        key: str,
        target: str,
        location: SnapshotLocation | None,
        found: Listed | None = None,
        *,
        is_history: bool = False,
    ) -> Item:
        return Item(
            self._session_id,
            key,
            target,
            partial(self._read, key),
            None if found is None else found.size,
            None if found is None else found.etag,
            location,
            is_history=is_history,
        )

    async def _read(self, key: str) -> StoredObject | None:
        return await self._source.objects.get(key, max_bytes=self._max_bytes)
