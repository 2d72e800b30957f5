"""Do what the events of a dry run of `archive`, `unarchive` or `prune_archive` say."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from itertools import groupby

import msgspec

from snapstore.errors import shown
from snapstore.model.keys import PackName
from snapstore.model.snapshot import SnapshotLocation
from snapstore.operations.archiving.archiver import Archiver, ArchiveReport
from snapstore.operations.archiving.prune_archive import ArchivePruneReport, PackRemoval
from snapstore.operations.archiving.unarchive import Unarchiver, UnarchiveReport
from snapstore.operations.events import ArchiveEvent, Event, PackEvent, UnarchiveEvent
from snapstore.operations.locations import HistoryEntry
from snapstore.operations.planned_snapshots import is_same, located, location_of, look_up
from snapstore.storage.snapshots import ObjectSnapshotStorage
from snapstore.stores.pace import Pace

__all__ = ["PlannedArchiving"]


class PlannedArchiving:
    """Applies events that are about packs.

    Args:
        storage: Where, with a pace.
        pace: Counts requests.
    """

    def __init__(self, storage: ObjectSnapshotStorage, pace: Pace) -> None:
        self._storage = storage
        self._layout = storage.layout
        self._pace = pace

    async def apply(self, events: Sequence[Event]) -> AsyncGenerator[Event, None]:
        """Apply events of one kind.

        Raises:
            ValueError: One is not of this storage.
        """
        for work in (
            self._archive([event for event in events if isinstance(event, ArchiveEvent)]),
            self._unarchive([event for event in events if isinstance(event, UnarchiveEvent)]),
            self._delete([event for event in events if isinstance(event, PackEvent)]),
        ):
            async with aclosing(work):
                async for event in work:
                    yield event

    async def _archive(self, events: list[ArchiveEvent]) -> AsyncGenerator[ArchiveEvent, None]:
        archiver = Archiver(self._storage, ArchiveReport(), self._pace)
        if events:
            await archiver.prepare()
        for location, planned in located(events, self._layout):
            await archiver.recover(location)
            found = await look_up(self._storage.objects, self._layout, location, planned)
            same: list[HistoryEntry] = []
            for snapshot_id, event in planned.items():
                entry = found.get(snapshot_id)
                if entry is None:
                    yield msgspec.structs.replace(event, result="missing")
                elif not is_same(entry, event):
                    yield msgspec.structs.replace(event, result="changed")
                else:
                    same.append(entry)
            async with aclosing(archiver.archive(location, sorted(same))) as done:
                async for event in done:
                    yield event

    async def _unarchive(
        self, events: list[UnarchiveEvent]
    ) -> AsyncGenerator[UnarchiveEvent, None]:
        unarchiver = Unarchiver(self._storage, UnarchiveReport(), self._pace)
        for pack, group in groupby(events, lambda event: event.pack):
            for location, planned in located(group, self._layout):
                name = self._name(location, pack)
                left = dict(planned)
                async with aclosing(unarchiver.restore(location, name, planned)) as done:
                    async for event in done:
                        snapshot_id = self._layout.snapshot_id_of(event.key)
                        left.pop(snapshot_id or "", None)
                        yield event
                for event in left.values():
                    yield msgspec.structs.replace(event, result="missing")

    async def _delete(self, events: list[PackEvent]) -> AsyncGenerator[PackEvent, None]:
        removal = PackRemoval(self._storage, ArchivePruneReport(), self._pace)
        if events:
            await removal.prepare()
        for event in events:
            location = location_of(event.key, self._layout)
            name = self._name(location, event.key)
            yield await removal.remove(location, name, event.reason or "restored")

    def _name(self, location: SnapshotLocation, key: str) -> PackName:
        name = self._layout.pack_in(key, self._layout.archive_prefix(location))
        if name is None or name.key != key:
            raise ValueError(f"an event is not of this storage: {shown(key)}")
        return name
