"""Move snapshots from history into packs: those that a policy does not keep."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Iterable
from contextlib import aclosing

from snapstore.encoding.packs import MAX_DOCUMENTS, MAX_TOTAL_BYTES
from snapstore.encoding.zstandard import require as require_zstandard
from snapstore.operations.archiving.archiver import Archiver, ArchiveReport
from snapstore.operations.events import ArchiveEvent
from snapstore.operations.locations import HistoryEntry
from snapstore.operations.operation import Operation, with_pace
from snapstore.operations.parallel import overlapped
from snapstore.operations.pruning.prune import Candidates, without_origins
from snapstore.operations.pruning.retention import RetentionPolicy, validate_policy
from snapstore.operations.selection import session_ids
from snapstore.storage.snapshots import ObjectSnapshotStorage
from snapstore.stores.pace import Pace

__all__ = ["ArchiveReport", "archive"]


def archive(
    storage: ObjectSnapshotStorage,
    policy: RetentionPolicy,
    *,
    sessions: Iterable[str] | AsyncIterable[str] | None = None,
    dry_run: bool = False,
    max_requests_per_second: float | None = None,
) -> Operation[ArchiveEvent, ArchiveReport]:
    """Move the snapshots that a policy does not keep from history into packs.

    It is `prune`, but that what would be deleted is packed before: full snapshots of a growing
    conversation become hundreds of times smaller. Latest, manifests and the snapshot that latest
    was saved from stay as with `prune`. `load_archived`, `iter_archived_ids` and
    `load_snapshot(as_of=…)` read packs; `unarchive` writes their snapshots to history again.

    A pack is written and read back, and every snapshot compared, before an original is deleted;
    and it is deleted only while it is what was packed. Where the store has no conditional deletes,
    it is looked at just before. A run that was cut off can be made again, and ends the same: it
    finds what was left. Of two that meet at a location, one leaves the rest to the other. It takes
    about 90 MB of memory, and 180 MB where a pack is written anew, since an original was changed
    meanwhile.

    Args:
        storage: Where, open.
        policy: Which snapshots stay in history.
        sessions: The sessions; `None` for all.
        dry_run: Change nothing: the events tell what would be moved.
        max_requests_per_second: Keeps it from slowing saves; `None` for no limit.

    Returns:
        The operation. Its events are of snapshots.

    Raises:
        TypeError: `policy` is none, or `sessions` is a single text.
        InvalidIdentifierError: One of `sessions` is no session id; raised while it runs for an
            async iterable, and where the prefix is so long that the key of a pack does not fit.
        ValueError: `max_requests_per_second` is not more than 0.
        ModuleNotFoundError: The extra `archive` is not installed.
    """
    validate_policy(policy)
    require_zstandard()
    pace = Pace(max_requests_per_second)
    report = ArchiveReport(dry_run=dry_run)
    view = with_pace(storage, pace)
    archiver = Archiver(view, report, pace)
    candidates = Candidates(view, policy, report)
    ids = session_ids(view, sessions)

    async def of_session(session_id: str) -> AsyncGenerator[ArchiveEvent, None]:
        async with aclosing(candidates.locations(session_id)) as locations:
            async for location in locations:
                await archiver.recover(location)
                batches = _batches(candidates.of_location(location))
                async with aclosing(batches):
                    async for found in batches:
                        batch = await without_origins(view, found)
                        report.kept += len(found) - len(batch)
                        events = archiver.archive(location, batch)
                        async with aclosing(events):
                            async for event in events:
                                yield event

    async def run() -> AsyncGenerator[ArchiveEvent, None]:
        await archiver.prepare()
        async with aclosing(overlapped(ids, of_session)) as events:
            async for event in events:
                yield event
        report.requests = pace.turns

    return Operation(run(), report)


async def _batches(
    pages: AsyncGenerator[list[HistoryEntry], None],
) -> AsyncGenerator[list[HistoryEntry], None]:
    """As many snapshots as are packed together, from the newest on; oldest first in each batch."""
    batch: list[HistoryEntry] = []
    size = 0
    async with aclosing(pages):
        async for page in pages:
            for entry in page:
                own = entry.size or 0
                if batch and (len(batch) >= MAX_DOCUMENTS or size + own > MAX_TOTAL_BYTES):
                    yield batch[::-1]
                    batch, size = [], 0
                batch.append(entry)
                size += own
    if batch:
        yield batch[::-1]
