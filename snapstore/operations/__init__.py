"""Operations on many snapshots or sessions, for those who operate a store."""

from snapstore.operations.erasing import (
    EraseEvent,
    ErasureReceipt,
    RetainedVersion,
    erase_all,
    erase_session,
)
from snapstore.operations.events import (
    DeleteEvent,
    Event,
    SessionEvent,
    decode_events,
    encode_event,
)
from snapstore.operations.forking import ForkEvent, ForkReport, fork_session
from snapstore.operations.idle_sessions import SessionPruneReport, prune_sessions
from snapstore.operations.locations import iter_locations
from snapstore.operations.operation import Operation
from snapstore.operations.plans import ApplyReport, apply
from snapstore.operations.pruning import DeletionReport, PruneReport, delete_snapshots, prune
from snapstore.operations.retention import RetentionPolicy
from snapstore.operations.verifying import VerifyFinding, VerifyReport, verify

__all__ = [
    "ApplyReport",
    "DeleteEvent",
    "DeletionReport",
    "EraseEvent",
    "ErasureReceipt",
    "Event",
    "ForkEvent",
    "ForkReport",
    "Operation",
    "PruneReport",
    "RetainedVersion",
    "RetentionPolicy",
    "SessionEvent",
    "SessionPruneReport",
    "VerifyFinding",
    "VerifyReport",
    "apply",
    "decode_events",
    "delete_snapshots",
    "encode_event",
    "erase_all",
    "erase_session",
    "fork_session",
    "iter_locations",
    "prune",
    "prune_sessions",
    "verify",
]
