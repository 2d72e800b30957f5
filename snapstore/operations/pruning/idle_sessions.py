"""Remove whole sessions that were not updated for long."""

from __future__ import annotations

from collections.abc import AsyncIterable, Iterable
from datetime import UTC, datetime, timedelta

from snapstore.operations.events import SessionEvent
from snapstore.operations.inventory import Inventory
from snapstore.operations.operation import Operation, with_pace
from snapstore.operations.pruning.session_removal import SessionPruneReport, SessionRemoval
from snapstore.operations.selection import session_ids
from snapstore.storage.snapshots import ObjectSnapshotStorage
from snapstore.stores.pace import Pace

__all__ = ["prune_sessions"]


def prune_sessions(
    storage: ObjectSnapshotStorage,
    *,
    idle_for: timedelta,
    sessions: Iterable[str] | AsyncIterable[str] | None = None,
    dry_run: bool = False,
    unconditional: bool = False,
    max_requests_per_second: float | None = None,
) -> Operation[SessionEvent, SessionPruneReport]:
    """Remove sessions that were not updated for long, with their stash.

    A session is idle if the times in the ids of its snapshots, and the times at which its other
    objects were written, all lie further back. A session that is updated while it is being removed
    is kept, and no save of it is lost. That needs a server that deletes on a condition: whether it
    does is tried first.

    A stash that is written anew under a key that was there before, and is needed by a save within
    the moment in which the stash is deleted, can be lost: only the latest snapshots can be deleted
    on a condition that others keep.

    Args:
        storage: Where, open.
        idle_for: For how long a session was not updated.
        sessions: Only of these sessions; `None` for all.
        dry_run: Change nothing: the events tell which sessions would be removed.
        unconditional: Do it also where deletes have no conditions. What is saved in the moment
            between the last look at a session and its removal is then lost.
        max_requests_per_second: Keeps it from slowing saves; `None` for no limit.

    Returns:
        The operation, with an event about each idle session. It raises
        `UnsupportedOperationError` before anything is changed, if the server ignores conditions of
        deletes, or listings don't tell when objects were written.

    Raises:
        TypeError: `idle_for` is no `timedelta`, or `sessions` is a single text.
        InvalidIdentifierError: One of `sessions` is no session id.
        ValueError: `idle_for` or `max_requests_per_second` is not positive.
    """
    if not isinstance(idle_for, timedelta):
        raise TypeError(f"idle_for must be a timedelta, not a {type(idle_for).__name__}")
    if idle_for <= timedelta():
        raise ValueError("idle_for must be positive")
    pace = Pace(max_requests_per_second)
    report = SessionPruneReport(dry_run=dry_run)
    view = with_pace(storage, pace)
    removal = SessionRemoval(view, report, pace, unconditional=unconditional)
    try:
        before = datetime.now(UTC) - idle_for
    except OverflowError:
        raise ValueError("idle_for is longer than there are dates") from None

    def is_idle(_: str, found: Inventory) -> bool:
        return found.is_session and found.updated_at is not None and found.updated_at < before

    ids = session_ids(view, sessions)
    return Operation(removal.of_sessions(ids, is_idle), report)
