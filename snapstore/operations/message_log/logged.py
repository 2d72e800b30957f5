"""What a message log of the Strands SDK holds, as data of snapshots."""

from __future__ import annotations

import hashlib
import sys
from datetime import UTC, datetime
from typing import Any

from snapstore.encoding.envelope import encode_snapshot
from snapstore.model.ids import RANDOM_BITS, Scope, id_from_number, milliseconds_since_epoch
from snapstore.model.snapshot import SCHEMA_VERSION, Snapshot

__all__ = [
    "InvalidLogError",
    "LoggedAgent",
    "encode_logged",
    "logged_snapshot_id",
    "orchestrator_data",
    "time_of",
]


class InvalidLogError(Exception):
    """A document of the log is not as the SDK writes it."""


class LoggedAgent:
    """An agent, as its document and its messages tell of it.

    What the SDK's older managers would restore is what its newer one finds in the snapshot.

    Args:
        document: Its `agent.json`.
        agent_id: Its id by the key.

    Attributes:
        removed: How many messages at the beginning its conversation manager has removed.
        time: When it was written for the last time.

    Raises:
        InvalidLogError: The document is not as the SDK writes it.
    """

    def __init__(self, document: dict[str, Any], agent_id: str) -> None:
        if document.get("agent_id") != agent_id:
            raise InvalidLogError
        self._state = _object(document, "state")
        self._manager = _object(document, "conversation_manager_state")
        internal = _object(document, "_internal_state") if "_internal_state" in document else {}
        self._internal: dict[str, Any] = {
            name: _object(internal, name)
            for name in ("interrupt_state", "model_state")
            if name in internal
        }
        removed = self._manager.get("removed_message_count", 0)
        if type(removed) is not int or removed < 0:
            raise InvalidLogError
        self.removed: int = removed
        self.time: datetime = time_of(document)
        # The summary of what was removed stands before the rest (SummarizingConversationManager).
        summary = self._manager.get("summary_message")
        self._messages: list[Any] = [summary] if summary else []

    def add(self, record: dict[str, Any]) -> None:
        """Add the next message.

        Raises:
            InvalidLogError: The record is not as the SDK writes it.
        """
        redacted = record.get("redact_message")
        message = record.get("message") if redacted is None else redacted
        if not isinstance(message, dict):
            raise InvalidLogError
        self._messages.append(message)
        self.time = max(self.time, time_of(record))

    def data(self) -> dict[str, Any]:
        """The data of its snapshot."""
        # A model that keeps the conversation is given no messages by the SDK.
        is_kept_by_model = bool(self._internal.get("model_state", {}).get("response_id"))
        return {
            "messages": [] if is_kept_by_model else self._messages,
            "state": self._state,
            "conversation_manager_state": self._manager,
            **self._internal,
        }


def orchestrator_data(document: dict[str, Any], orchestrator_id: str) -> dict[str, Any]:
    """The data of an orchestrator's snapshot.

    Args:
        document: Its `multi_agent.json`.
        orchestrator_id: Its id by the key.

    Raises:
        InvalidLogError: The document is of another one.
    """
    if document.get("id", orchestrator_id) != orchestrator_id:
        raise InvalidLogError
    return {"orchestrator_id": orchestrator_id, "state": document}


def encode_logged(scope: Scope, data: dict[str, Any], time: datetime) -> bytes:
    """The document of a snapshot, in Python's envelope. Equal logs make equal ones.

    Raises:
        SnapshotEncodeError: It is too deep.
    """
    created_at = time.isoformat().replace("+00:00", "Z")
    snapshot = Snapshot(scope, SCHEMA_VERSION, created_at, data, {}, "python")
    return encode_snapshot(snapshot, max_bytes=sys.maxsize)


def logged_snapshot_id(document: bytes, time: datetime) -> str:
    """A snapshot id of a time that is the same for the same document.

    Raises:
        InvalidLogError: The time is before 1970.
    """
    try:
        milliseconds = milliseconds_since_epoch(time, "time")
    except ValueError:
        raise InvalidLogError from None
    digest = int.from_bytes(hashlib.sha256(document).digest()) % (1 << RANDOM_BITS)
    return id_from_number(milliseconds << RANDOM_BITS | digest)


def time_of(document: dict[str, Any]) -> datetime:
    """When a document of the log was written for the last time.

    Raises:
        InvalidLogError: It does not tell.
    """
    try:
        times = [datetime.fromisoformat(document[name]) for name in ("created_at", "updated_at")]
        return max(time.astimezone(UTC) for time in times if time.utcoffset() is not None)
    except (KeyError, OverflowError, TypeError, ValueError):
        raise InvalidLogError from None


def _object(document: dict[str, Any], name: str) -> dict[str, Any]:
    found = document.get(name)
    if not isinstance(found, dict):
        raise InvalidLogError
    return found
