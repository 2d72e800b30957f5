"""Operations on many snapshots or sessions, for those who operate a store."""

from snapstore.operations.events import (
    DeleteEvent,
    Event,
    SessionEvent,
    decode_events,
    encode_event,
)
from snapstore.operations.operation import Operation
from snapstore.operations.prune import DeletionReport, PruneReport, delete_snapshots, prune
from snapstore.operations.retention import RetentionPolicy

__all__ = [
    "DeleteEvent",
    "DeletionReport",
    "Event",
    "Operation",
    "PruneReport",
    "RetentionPolicy",
    "SessionEvent",
    "decode_events",
    "delete_snapshots",
    "encode_event",
    "prune",
]
