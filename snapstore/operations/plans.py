"""Do what the events of a dry run say, and no more."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Iterator
from contextlib import aclosing
from itertools import groupby, islice

import msgspec

from snapstore.errors import shown
from snapstore.model.keys import Layout
from snapstore.model.snapshot import SnapshotLocation
from snapstore.operations.events import CopyEvent, DeleteEvent, Event, SessionEvent
from snapstore.operations.idle_sessions import SessionPruneReport, SessionRemoval
from snapstore.operations.inventory import Inventory
from snapstore.operations.locations import HistoryEntry, iter_history
from snapstore.operations.operation import Operation, with_pace
from snapstore.operations.pruning import DeletionReport, delete_batches
from snapstore.storage.snapshots import ObjectSnapshotStorage
from snapstore.stores.base import PAGE_SIZE
from snapstore.stores.pace import Pace

__all__ = ["ApplyReport", "apply"]


class ApplyReport(msgspec.Struct, kw_only=True):
    """Totals of what was applied.

    Attributes:
        done: Objects and sessions that were deleted.
        changed: Those that are no longer what the events say, and were left alone.
        missing: Objects that were gone already.
        failed: Those that could not be deleted.
        requests: Calls of the store: on S3 a request each, without retries.
    """

    done: int = 0
    changed: int = 0
    missing: int = 0
    failed: int = 0
    requests: int = 0

    @property
    def ok(self) -> bool:
        """Whether all was done or is gone."""
        return not (self.changed or self.failed)


def apply(
    storage: ObjectSnapshotStorage,
    events: Iterable[Event],
    *,
    unconditional: bool = False,
    max_requests_per_second: float | None = None,
) -> Operation[Event, ApplyReport]:
    """Delete what the events of a dry run say, where it is still the same.

    A snapshot is the same by its size, etag and time of writing, as far as the store tells them; a
    session by those of all its objects. They are looked at once more just before.

    Args:
        storage: The storage of the dry run, open.
        events: The events of `prune`, `delete_snapshots` or `prune_sessions`, such as those of
            `decode_events`. They are read as they are needed.
        unconditional: For sessions: as in `prune_sessions`.
        max_requests_per_second: Keeps it from slowing saves; `None` for no limit.

    Returns:
        The operation. It raises `ValueError` at an event that is not one of a dry run, or of
        another storage; what came before is done then.

    Raises:
        ValueError: `max_requests_per_second` is not more than 0.
    """
    pace = Pace(max_requests_per_second)
    report = ApplyReport()
    applying = _Applying(with_pace(storage, pace), report, pace, unconditional=unconditional)
    return Operation(applying.run(events), report)


class _Applying:
    def __init__(
        self,
        storage: ObjectSnapshotStorage,
        report: ApplyReport,
        pace: Pace,
        *,
        unconditional: bool,
    ) -> None:
        self._storage = storage
        self._layout = storage.layout
        self._report = report
        self._pace = pace
        self._unconditional = unconditional

    async def run(self, events: Iterable[Event]) -> AsyncGenerator[Event, None]:
        for kind, group in groupby(events, type):
            while batch := [_planned(event) for event in islice(group, PAGE_SIZE)]:
                deletes = [event for event in batch if isinstance(event, DeleteEvent)]
                sessions = [event for event in batch if isinstance(event, SessionEvent)]
                done: AsyncGenerator[Event, None]
                done = self._delete(deletes) if kind is DeleteEvent else self._remove(sessions)
                async with aclosing(done):
                    async for event in done:
                        self._count(event.result)
                        yield event

    def _count(self, result: str) -> None:
        self._report.done += result in ("deleted", "removed")
        self._report.changed += result in ("changed", "kept")
        self._report.missing += result == "missing"
        self._report.failed += result == "failed"
        self._report.requests = self._pace.turns

    async def _delete(self, events: list[DeleteEvent]) -> AsyncGenerator[DeleteEvent, None]:
        same: list[HistoryEntry] = []
        for location, group in groupby(_located(events, self._layout), lambda item: item[0]):
            planned = {snapshot_id: event for _, snapshot_id, event in group}
            found = await self._look_up(location, planned)
            for snapshot_id, event in planned.items():
                entry = found.get(snapshot_id)
                if entry is None:
                    yield msgspec.structs.replace(event, result="missing")
                elif not _is_same(entry, event):
                    yield msgspec.structs.replace(event, result="changed")
                else:
                    same.append(entry)

        async def pages() -> AsyncGenerator[list[HistoryEntry], None]:
            yield same

        deleted = delete_batches(self._storage.objects, pages(), DeletionReport(), self._pace)
        async with aclosing(deleted):
            async for event in deleted:
                yield event

    async def _look_up(
        self, location: SnapshotLocation, planned: dict[str, DeleteEvent]
    ) -> dict[str, HistoryEntry]:
        objects, first, last = self._storage.objects, min(planned), max(planned)
        entries = iter_history(objects, self._layout, location, first=first, last=last)
        found: dict[str, HistoryEntry] = {}
        async with aclosing(entries):
            async for page in entries:
                found |= {
                    entry.snapshot_id: entry for entry in page if entry.snapshot_id in planned
                }
        return found

    async def _remove(self, events: list[SessionEvent]) -> AsyncGenerator[SessionEvent, None]:
        expected = {event.session_id: event.fingerprint for event in events}
        removal = SessionRemoval(
            self._storage, SessionPruneReport(), self._pace, unconditional=self._unconditional
        )

        def is_same(session_id: str, found: Inventory) -> bool | None:
            return True if found.fingerprint == expected[session_id] else None

        async def ids() -> AsyncGenerator[str, None]:
            for session_id in expected:
                yield session_id

        removed = removal.of_sessions(ids(), is_same)
        async with aclosing(removed):
            async for event in removed:
                yield event


def _planned(event: Event) -> DeleteEvent | SessionEvent:
    if isinstance(event, CopyEvent):
        raise ValueError("an event is of a copy: apply_copies does what it says")  # noqa: TRY004 -- the events are wrong
    if event.result != "planned":
        raise ValueError(f"an event is not of a dry run: its result is {event.result!r}")
    return event


def _located(
    events: Iterable[DeleteEvent], layout: Layout
) -> Iterator[tuple[SnapshotLocation, str, DeleteEvent]]:
    for event in events:
        session_id = layout.session_id_of(event.key, "/scopes/")
        place = session_id and layout.place_of(event.key, layout.session_prefix(session_id))
        if not place or place.snapshot_id is None:
            raise ValueError(f"an event is not of this storage: {shown(event.key)}")
        yield place.location, place.snapshot_id, event


def _is_same(entry: HistoryEntry, event: DeleteEvent) -> bool:
    """Whether a snapshot is what an event says, as far as it says anything."""
    told = zip((event.size, event.etag, event.modified), entry[2:], strict=True)
    return all(planned is None or planned == found for planned, found in told)
