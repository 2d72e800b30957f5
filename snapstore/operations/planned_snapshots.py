"""Snapshots in history that the events of a dry run name: where they lie, and how they are now."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import aclosing
from itertools import groupby
from typing import TypeVar

from snapstore.errors import shown
from snapstore.model.keys import Layout
from snapstore.model.snapshot import SnapshotLocation
from snapstore.operations.events import ArchiveEvent, DeleteEvent, UnarchiveEvent
from snapstore.operations.locations import HistoryEntry, iter_history
from snapstore.stores.managed import ManagedStore

__all__ = ["is_same", "located", "location_of", "look_up"]

EventT = TypeVar("EventT", DeleteEvent, ArchiveEvent, UnarchiveEvent)


def location_of(key: str, layout: Layout) -> SnapshotLocation:
    """The location that a key lies in.

    Raises:
        ValueError: It is not of this storage.
    """
    session_id = layout.session_id_of(key, "/scopes/")
    prefix = session_id and layout.session_prefix(session_id)
    location = prefix and key.startswith(prefix) and layout.location_in(key, prefix)
    if not location:
        raise ValueError(f"an event is not of this storage: {shown(key)}")
    return location


def located(
    events: Iterable[EventT], layout: Layout
) -> Iterator[tuple[SnapshotLocation, dict[str, EventT]]]:
    """Events that follow each other and are of one location, by the ids of their snapshots.

    Raises:
        ValueError: One is not of a snapshot in history of this storage.
    """
    for location, group in groupby(events, lambda event: location_of(event.key, layout)):
        planned: dict[str, EventT] = {}
        for event in group:
            snapshot_id = layout.snapshot_id_of(event.key)
            if snapshot_id is None or layout.history(location, snapshot_id) != event.key:
                raise ValueError(f"an event is not of this storage: {shown(event.key)}")
            planned[snapshot_id] = event
        yield location, planned


async def look_up(
    objects: ManagedStore, layout: Layout, location: SnapshotLocation, ids: Iterable[str]
) -> dict[str, HistoryEntry]:
    """Those of some snapshots that there are, by their ids, oldest first."""
    wanted = set(ids)
    found: dict[str, HistoryEntry] = {}
    if wanted:
        entries = iter_history(objects, layout, location, first=min(wanted), last=max(wanted))
        async with aclosing(entries) as pages:
            async for page in pages:
                found |= {entry.snapshot_id: entry for entry in page if entry.snapshot_id in wanted}
    return found


def is_same(entry: HistoryEntry, event: DeleteEvent | ArchiveEvent) -> bool:
    """Whether a snapshot is what an event says, as far as it says anything."""
    told = zip((event.size, event.etag, event.modified), entry[2:], strict=True)
    return all(planned is None or planned == found for planned, found in told)
