"""Do what the events of a dry run say, and no more."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing
from itertools import groupby, islice
from typing import Final

import msgspec

from snapstore.encoding.packs import MAX_DOCUMENTS
from snapstore.operations.archiving.planned import PlannedArchiving
from snapstore.operations.events import (
    ArchiveEvent,
    CopyEvent,
    DeleteEvent,
    Event,
    PackEvent,
    SessionEvent,
    UnarchiveEvent,
)
from snapstore.operations.inventory import Inventory
from snapstore.operations.locations import HistoryEntry
from snapstore.operations.operation import Operation, with_pace
from snapstore.operations.planned_snapshots import is_same, located, look_up
from snapstore.operations.pruning.prune import DeletionReport, delete_batches, without_origins
from snapstore.operations.pruning.session_removal import SessionPruneReport, SessionRemoval
from snapstore.storage.snapshots import ObjectSnapshotStorage
from snapstore.stores.base import PAGE_SIZE
from snapstore.stores.pace import Pace

__all__ = ["ApplyReport", "apply"]


PlannedEvent = DeleteEvent | SessionEvent | ArchiveEvent | UnarchiveEvent | PackEvent
_DONE: Final = ("deleted", "removed", "archived", "restored", "present")
_CHANGED: Final = ("changed", "kept", "partly", "conflict", "busy")


class ApplyReport(msgspec.Struct, kw_only=True):
    """Totals of what was applied.

    Attributes:
        done: Objects and sessions that were deleted, snapshots that were archived or restored.
        changed: Those that are no longer what the events say, and were left alone.
        missing: Objects that were gone already.
        failed: Those that could not be deleted or archived.
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
    """Do what the events of a dry run say, where things are still the same.

    A snapshot is the same by its size, etag and time of writing, as far as the store tells them; a
    session by those of all its objects. They are looked at once more just before. A snapshot that
    latest was saved from is left alone, since a rewind may have made it the latest.

    Args:
        storage: The storage of the dry run, open.
        events: The events of `prune`, `delete_snapshots`, `prune_sessions`, `archive`, `unarchive`
            or `prune_archive`, such as those of `decode_events`. They are read as they are needed.
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
            # As many snapshots as are packed together belong into one pack.
            size = MAX_DOCUMENTS if kind is ArchiveEvent else PAGE_SIZE
            while batch := [_planned(event) for event in islice(group, size)]:
                async with aclosing(self._apply(batch)) as done:
                    async for event in done:
                        self._count(event.result)
                        yield event

    def _apply(self, batch: Sequence[PlannedEvent]) -> AsyncGenerator[Event, None]:
        """Apply events of one kind."""
        deletes = [event for event in batch if isinstance(event, DeleteEvent)]
        if deletes:
            return self._delete(deletes)
        sessions = [event for event in batch if isinstance(event, SessionEvent)]
        if sessions:
            return self._remove(sessions)
        return PlannedArchiving(self._storage, self._pace).apply(batch)

    def _count(self, result: str) -> None:
        self._report.done += result in _DONE
        self._report.changed += result in _CHANGED
        self._report.missing += result == "missing"
        self._report.failed += result == "failed"
        self._report.requests = self._pace.turns

    async def _delete(self, events: list[DeleteEvent]) -> AsyncGenerator[DeleteEvent, None]:
        same: list[HistoryEntry] = []
        told = {event.key: event for event in events}
        for location, planned in located(events, self._layout):
            found = await look_up(self._storage.objects, self._layout, location, planned)
            for snapshot_id, event in planned.items():
                entry = found.get(snapshot_id)
                if entry is None:
                    yield msgspec.structs.replace(event, result="missing")
                elif not is_same(entry, event):
                    yield msgspec.structs.replace(event, result="changed")
                else:
                    same.append(entry)

        spared = await without_origins(self._storage, same)
        for entry in same:
            if entry not in spared:
                yield msgspec.structs.replace(told[entry.key], result="changed")

        async def pages() -> AsyncGenerator[list[HistoryEntry], None]:
            yield spared

        deleted = delete_batches(self._storage.objects, pages(), DeletionReport(), self._pace)
        async with aclosing(deleted):
            async for event in deleted:
                yield event

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


def _planned(event: Event) -> PlannedEvent:
    if isinstance(event, CopyEvent):
        raise ValueError("an event is of a copy: apply_copies does what it says")  # noqa: TRY004 -- the events are wrong
    if event.result != "planned":
        raise ValueError(f"an event is not of a dry run: its result is {event.result!r}")
    return event
