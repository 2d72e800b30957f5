"""Operations on many snapshots or sessions, for those who operate a store."""

from snapstore.operations.archiving.archive import ArchiveReport, archive
from snapstore.operations.archiving.prune_archive import ArchivePruneReport, prune_archive
from snapstore.operations.archiving.unarchive import UnarchiveReport, unarchive
from snapstore.operations.copying.copy import copy
from snapstore.operations.copying.planned import apply_copies
from snapstore.operations.copying.transfer import CopyReport
from snapstore.operations.erasing.erase import erase_all, erase_session
from snapstore.operations.erasing.receipt import EraseEvent, ErasureReceipt, RetainedVersion
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
from snapstore.operations.exports.export_files import ExportReport, save_export
from snapstore.operations.exports.exporting import export_session
from snapstore.operations.exports.importing import import_session
from snapstore.operations.forking.fork import fork_session
from snapstore.operations.forking.report import ForkEvent, ForkReport
from snapstore.operations.locations import iter_locations
from snapstore.operations.message_log.import_log import import_message_log
from snapstore.operations.operation import Operation
from snapstore.operations.plans import ApplyReport, apply
from snapstore.operations.pruning.idle_sessions import prune_sessions
from snapstore.operations.pruning.prune import DeletionReport, PruneReport, delete_snapshots, prune
from snapstore.operations.pruning.retention import RetentionPolicy
from snapstore.operations.pruning.session_removal import SessionPruneReport
from snapstore.operations.redacting.changes import Change, Redaction, redaction
from snapstore.operations.redacting.redact import RedactEvent, RedactReport, redact
from snapstore.operations.verifying.findings import VerifyFinding, VerifyReport
from snapstore.operations.verifying.verify import verify

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
