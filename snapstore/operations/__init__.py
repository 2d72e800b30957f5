"""Operations on many snapshots or sessions, for those who operate a store."""

from snapstore.operations.archive_pruning import ArchivePruneReport, prune_archive
from snapstore.operations.archiving import ArchiveReport, archive
from snapstore.operations.erasing import (
    EraseEvent,
    ErasureReceipt,
    RetainedVersion,
    erase_all,
    erase_session,
)
from snapstore.operations.events import (
    ArchiveEvent,
    DeleteEvent,
    Event,
    PackEvent,
    SessionEvent,
    UnarchiveEvent,
    decode_events,
    encode_event,
)
from snapstore.operations.idle_sessions import SessionPruneReport, prune_sessions
from snapstore.operations.locations import iter_locations
from snapstore.operations.operation import Operation
from snapstore.operations.plans import ApplyReport, apply
from snapstore.operations.pruning import DeletionReport, PruneReport, delete_snapshots, prune
from snapstore.operations.retention import RetentionPolicy
from snapstore.operations.unarchiving import UnarchiveReport, unarchive

__all__ = [
    "ApplyReport",
    "ArchiveEvent",
    "ArchivePruneReport",
    "ArchiveReport",
    "DeleteEvent",
    "DeletionReport",
    "EraseEvent",
    "ErasureReceipt",
    "Event",
    "Operation",
    "PackEvent",
    "PruneReport",
    "RetainedVersion",
    "RetentionPolicy",
    "SessionEvent",
    "SessionPruneReport",
    "UnarchiveEvent",
    "UnarchiveReport",
    "apply",
    "archive",
    "decode_events",
    "delete_snapshots",
    "encode_event",
    "erase_all",
    "erase_session",
    "iter_locations",
    "prune",
    "prune_archive",
    "prune_sessions",
    "unarchive",
]
