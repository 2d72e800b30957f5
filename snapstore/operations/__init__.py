"""Operations on many snapshots or sessions, for those who operate a store."""

from snapstore.operations.events import (
    DeleteEvent,
    Event,
    SessionEvent,
    decode_events,
    encode_event,
)
from snapstore.operations.idle_sessions import SessionPruneReport, prune_sessions
from snapstore.operations.locations import iter_locations
from snapstore.operations.operation import Operation
from snapstore.operations.plans import ApplyReport, apply
from snapstore.operations.pruning import DeletionReport, PruneReport, delete_snapshots, prune
from snapstore.operations.retention import RetentionPolicy

__all__ = [
    "ApplyReport",
    "DeleteEvent",
    "DeletionReport",
    "Event",
    "Operation",
    "PruneReport",
    "RetentionPolicy",
    "SessionEvent",
    "SessionPruneReport",
    "apply",
    "decode_events",
    "delete_snapshots",
    "encode_event",
    "iter_locations",
    "prune",
    "prune_sessions",
]
