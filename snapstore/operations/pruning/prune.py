"""Delete snapshots from history: those that a policy does not keep, or given ones."""

from __future__ import annotations

from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Sequence,
)
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Final, Protocol

import msgspec

from snapstore.model.ids import validate_snapshot_id
from snapstore.model.snapshot import SnapshotLocation
from snapstore.operations.events import DeleteEvent
from snapstore.operations.locations import HistoryEntry, iter_history_backwards, iter_locations
from snapstore.operations.operation import Operation, with_pace
from snapstore.operations.parallel import overlapped
from snapstore.operations.pruning.retention import Retention, RetentionPolicy, validate_policy
from snapstore.operations.selection import session_ids
from snapstore.storage.snapshots import ObjectSnapshotStorage
from snapstore.storage.writes import ORIGIN
from snapstore.stores.base import PAGE_SIZE
from snapstore.stores.managed import ManagedStore
from snapstore.stores.pace import Pace

__all__ = [
    "Candidates",
    "DeletionReport",
    "Looked",
    "PruneReport",
    "delete_batches",
    "delete_snapshots",
    "prune",
    "without_origins",
]

_ANY_SIZE: Final = 2**62


class DeletionReport(msgspec.Struct, kw_only=True):
    """Totals of snapshots that were deleted, or in a dry run would be.

    Attributes:
        dry_run: Whether nothing was changed.
        deleted: Snapshots deleted, or to be deleted. One that does not exist counts.
        bytes: Their bytes, as far as the store's listings tell.
        failed: Snapshots whose deletion was not confirmed.
        requests: Calls of the store: on S3 a request each, without retries.
        requests_needed: In a dry run, how many more would delete them.
    """

    dry_run: bool = False
    deleted: int = 0
    bytes: int = 0
    failed: int = 0
    requests: int = 0
    requests_needed: int = 0

    @property
    def ok(self) -> bool:
        """Whether nothing has failed."""
        return not self.failed


class PruneReport(DeletionReport, kw_only=True):
    """Totals of a prune.

    Attributes:
        sessions: Sessions that were looked at.
        locations: Locations that were looked at.
        kept: Snapshots in history that are kept.
    """

    sessions: int = 0
    locations: int = 0
    kept: int = 0


def prune(
    storage: ObjectSnapshotStorage,
    policy: RetentionPolicy,
    *,
    sessions: Iterable[str] | AsyncIterable[str] | None = None,
    dry_run: bool = False,
    max_requests_per_second: float | None = None,
) -> Operation[DeleteEvent, PruneReport]:
    """Delete the snapshots in history that a policy does not keep.

    The policy is applied to each location by itself. Latest and manifests are never touched, nor is
    the snapshot in history that latest was saved from, where latest's metadata names it. What is
    saved meanwhile is not deleted. A prune that was cut off can be made again, and ends the same.
    The id of a deleted snapshot is free again.

    Args:
        storage: Where, open.
        policy: Which snapshots are kept.
        sessions: The sessions; `None` for all.
        dry_run: Change nothing: the events tell what would be deleted.
        max_requests_per_second: Keeps it from slowing saves; `None` for no limit.

    Returns:
        The operation. Its events are of deleted snapshots; one that could not be deleted is an
        event, and no error.

    Raises:
        TypeError: `policy` is none, or `sessions` is a single text.
        InvalidIdentifierError: One of `sessions` is no session id. Raised while it runs for an
            async iterable.
        ValueError: `max_requests_per_second` is not more than 0.
    """
    validate_policy(policy)
    pace = Pace(max_requests_per_second)
    report = PruneReport(dry_run=dry_run)
    view = with_pace(storage, pace)
    candidates = Candidates(view, policy, report)
    batches = overlapped(session_ids(view, sessions), candidates.of_session)

    async def spare(batch: list[HistoryEntry]) -> list[HistoryEntry]:
        spared = await without_origins(view, batch)
        report.kept += len(batch) - len(spared)
        return spared

    return Operation(delete_batches(view.objects, batches, report, pace, spare=spare), report)


def delete_snapshots(
    storage: ObjectSnapshotStorage,
    location: SnapshotLocation,
    snapshot_ids: Iterable[str],
    *,
    dry_run: bool = False,
    max_requests_per_second: float | None = None,
) -> Operation[DeleteEvent, DeletionReport]:
    """Delete snapshots from history.

    Latest and the manifest are not touched. The ids are free again afterwards. One that does not
    exist counts as deleted.

    Args:
        storage: Where, open.
        location: Where the snapshots belong.
        snapshot_ids: Their ids.
        dry_run: Change nothing. Whether the snapshots exist is not looked up.
        max_requests_per_second: Keeps it from slowing saves; `None` for no limit.

    Returns:
        The operation.

    Raises:
        TypeError: `location` is no location, or `snapshot_ids` is a single text.
        InvalidIdentifierError: One is no snapshot id.
        ValueError: `max_requests_per_second` is not more than 0.
    """
    if isinstance(snapshot_ids, str):
        raise TypeError("snapshot_ids must be several ids, not one text")
    storage.layout.history_prefix(location)  # validates it, where there are no ids as well
    ids = list(dict.fromkeys(map(validate_snapshot_id, snapshot_ids)))
    pace = Pace(max_requests_per_second)
    report = DeletionReport(dry_run=dry_run)
    view = with_pace(storage, pace)
    layout = view.layout
    entries = [HistoryEntry(found, layout.history(location, found)) for found in ids]

    async def batches() -> AsyncGenerator[list[HistoryEntry], None]:
        yield entries

    return Operation(delete_batches(view.objects, batches(), report, pace), report)


class Looked(Protocol):
    """A report that counts what was looked at: see `PruneReport`."""

    sessions: int
    locations: int
    kept: int


class Candidates:
    """The snapshots that a policy does not keep. One that latest was saved from can be among them.

    Args:
        storage: Where.
        policy: The policy.
        report: Counts what is looked at.
    """

    def __init__(
        self, storage: ObjectSnapshotStorage, policy: RetentionPolicy, report: Looked
    ) -> None:
        self._objects = storage.objects
        self._layout = storage.layout
        self._policy = policy
        self._report = report
        self._now = datetime.now(UTC)

    async def of_session(self, session_id: str) -> AsyncGenerator[list[HistoryEntry], None]:
        """Those of one session, page by page."""
        async with aclosing(self.locations(session_id)) as locations:
            async for location in locations:
                async with aclosing(self.of_location(location)) as pages:
                    async for page in pages:
                        yield page

    async def locations(self, session_id: str) -> AsyncGenerator[SnapshotLocation, None]:
        """The locations of a session, counted."""
        self._report.sessions += 1
        async with aclosing(iter_locations(self._objects, self._layout, session_id)) as locations:
            async for location in locations:
                self._report.locations += 1
                yield location

    async def of_location(
        self, location: SnapshotLocation
    ) -> AsyncGenerator[list[HistoryEntry], None]:
        """Those of one location, page by page, newest first."""
        retention = Retention(self._policy, self._now)
        async with aclosing(self._backwards(location)) as pages:
            async for page, is_last in pages:
                oldest = page[-1].snapshot_id if is_last else None
                rejected = [
                    entry
                    for entry in page
                    if not retention.keeps(entry.snapshot_id, is_oldest=entry.snapshot_id == oldest)
                ]
                self._report.kept += len(page) - len(rejected)
                if rejected:
                    yield rejected

    async def _backwards(
        self, location: SnapshotLocation
    ) -> AsyncGenerator[tuple[list[HistoryEntry], bool], None]:
        """Pages that are not empty, newest first, and of each whether it is the last one."""
        held: list[HistoryEntry] = []
        async with aclosing(iter_history_backwards(self._objects, self._layout, location)) as pages:
            async for page in pages:
                if page:
                    if held:
                        yield held, False
                    held = page
        if held:
            yield held, True


async def without_origins(
    storage: ObjectSnapshotStorage, entries: Sequence[HistoryEntry]
) -> list[HistoryEntry]:
    """Leave out what latest snapshots were saved from, as they are now.

    To be asked just before snapshots are deleted: a rewind may have made one of them the latest.

    Args:
        storage: Where.
        entries: The snapshots.
    """
    objects, layout = storage.objects, storage.layout
    locations = {
        place.location: None
        for entry in entries
        if (place := layout.place_in_any(entry.key)) is not None
    }
    origins: set[str] = set()

    async def given() -> AsyncGenerator[SnapshotLocation, None]:
        for location in locations:
            yield location

    async def origin_of(location: SnapshotLocation) -> AsyncGenerator[str, None]:
        latest = await objects.get(layout.latest(location), max_bytes=_ANY_SIZE)
        origin = None if latest is None else latest.metadata.get(ORIGIN)
        if origin is not None:
            yield layout.history(location, origin)

    async with aclosing(overlapped(given(), origin_of)) as found:
        async for key in found:
            origins.add(key)
    return [entry for entry in entries if entry.key not in origins]


async def delete_batches(
    objects: ManagedStore,
    pages: AsyncGenerator[list[HistoryEntry], None],
    report: DeletionReport,
    pace: Pace,
    *,
    spare: Callable[[list[HistoryEntry]], Awaitable[list[HistoryEntry]]] | None = None,
) -> AsyncGenerator[DeleteEvent, None]:
    """Delete snapshots in as few requests as possible, each key confirmed.

    Args:
        objects: The store.
        pages: The snapshots. It is closed at the end.
        report: Counts them; in a dry run they stay.
        pace: Counts requests.
        spare: Says just before a request which of its snapshots are deleted; `None` for all.

    Returns:
        An async generator of events.
    """
    waiting: list[HistoryEntry] = []
    async with aclosing(pages):
        async for page in pages:
            waiting += page
            while len(waiting) >= PAGE_SIZE:
                batch, waiting = waiting[:PAGE_SIZE], waiting[PAGE_SIZE:]
                batch = batch if spare is None else await spare(batch)
                for event in await _delete(objects, batch, report, pace):
                    yield event
    waiting = waiting if spare is None else await spare(waiting)
    for event in await _delete(objects, waiting, report, pace):
        yield event
    report.requests = pace.turns


async def _delete(
    objects: ManagedStore, batch: list[HistoryEntry], report: DeletionReport, pace: Pace
) -> list[DeleteEvent]:
    failed: dict[str, str] = {}
    if not batch:
        return []
    if report.dry_run:
        report.requests_needed += 1
    else:
        failed = dict(await objects.delete([entry.key for entry in batch]))
    report.failed += len(failed)
    report.deleted += len(batch) - len(failed)
    report.bytes += sum(entry.size or 0 for entry in batch if entry.key not in failed)
    report.requests = pace.turns
    return [*_events(batch, failed, dry_run=report.dry_run)]


def _events(
    batch: list[HistoryEntry], failed: dict[str, str], *, dry_run: bool
) -> Iterator[DeleteEvent]:
    for _, key, size, etag, modified in batch:
        code = failed.get(key)
        yield DeleteEvent(
            key=key,
            result="planned" if dry_run else "deleted" if code is None else "failed",
            size=size,
            etag=etag,
            modified=modified,
            code=code,
        )
