"""Operations on many snapshots or sessions, for those who operate a store."""

from snapstore.operations.archive_pruning import ArchivePruneReport, prune_archive
from snapstore.operations.archiving import ArchiveReport, archive
from snapstore.operations.changes import Change, Redaction, redaction
from snapstore.operations.copying import copy
from snapstore.operations.erasing import (
    EraseEvent,
    ErasureReceipt,
    RetainedVersion,
    erase_all,
    erase_session,
)
from snapstore.operations.events import (
    ArchiveEvent,
    CopyEvent,
    DeleteEvent,
    Event,
    PackEvent,
    SessionEvent,
    UnarchiveEvent,
    decode_events,
    encode_event,
)
from snapstore.operations.export_files import ExportReport, save_export
from snapstore.operations.exporting import export_session
from snapstore.operations.forking import ForkEvent, ForkReport, fork_session
from snapstore.operations.idle_sessions import SessionPruneReport, prune_sessions
from snapstore.operations.importing import import_session
from snapstore.operations.locations import iter_locations
from snapstore.operations.message_log import import_message_log
from snapstore.operations.operation import Operation
from snapstore.operations.planned_copies import apply_copies
from snapstore.operations.plans import ApplyReport, apply
from snapstore.operations.pruning import DeletionReport, PruneReport, delete_snapshots, prune
from snapstore.operations.redacting import RedactEvent, RedactReport, redact
from snapstore.operations.retention import RetentionPolicy
from snapstore.operations.transfer import CopyReport
from snapstore.operations.unarchiving import UnarchiveReport, unarchive
from snapstore.operations.verifying import VerifyFinding, VerifyReport, verify

__all__ = [
    "ApplyReport",
    "ArchiveEvent",
    "ArchivePruneReport",
    "ArchiveReport",
    "Change",
    "CopyEvent",
    "CopyReport",
    "DeleteEvent",
    "DeletionReport",
    "EraseEvent",
    "ErasureReceipt",
    "Event",
    "ExportReport",
    "ForkEvent",
    "ForkReport",
    "Operation",
    "PackEvent",
    "PruneReport",
    "RedactEvent",
    "RedactReport",
    "Redaction",
    "RetainedVersion",
    "RetentionPolicy",
    "SessionEvent",
    "SessionPruneReport",
    "UnarchiveEvent",
    "UnarchiveReport",
    "VerifyFinding",
    "VerifyReport",
    "apply",
    "apply_copies",
    "archive",
    "copy",
    "decode_events",
    "delete_snapshots",
    "encode_event",
    "erase_all",
    "erase_session",
    "export_session",
    "fork_session",
    "import_message_log",
    "import_session",
    "iter_locations",
    "prune",
    "prune_archive",
    "prune_sessions",
    "redact",
    "redaction",
    "save_export",
    "unarchive",
    "verify",
]
