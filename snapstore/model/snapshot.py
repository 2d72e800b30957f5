"""What callers hold: snapshots, where they belong, and what operations return."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final, Literal, cast

import msgspec
from msgspec.structs import force_setattr

from snapstore.model.ids import Scope, validate_identifier, validate_scope

__all__ = [
    "SCHEMA_VERSION",
    "DeletedSession",
    "Dialect",
    "RawSnapshot",
    "SavedSnapshot",
    "Snapshot",
    "SnapshotLocation",
    "SnapshotManifest",
    "VersionedSnapshot",
]

Dialect = Literal["typescript", "python"]
"""Which Strands SDK's spelling an envelope has: `schemaVersion` or `schema_version`."""

SCHEMA_VERSION: Final = "1.0"
"""The schema version both Strands SDKs write, and the only one they load."""


class SnapshotLocation(msgspec.Struct, frozen=True):
    """Where a snapshot belongs. It is validated when it is made: one that exists is safe.

    Args:
        session_id: `[a-z0-9_-]{1,255}`.
        scope: `"agent"` or `"multiAgent"`.
        scope_id: The agent's or the orchestrator's id, `[a-z0-9_-]{1,255}`.

    Raises:
        InvalidIdentifierError: One of them is not valid.
    """

    session_id: str
    scope: Scope
    scope_id: str

    def __post_init__(self) -> None:
        force_setattr(self, "session_id", validate_identifier(self.session_id, "session_id"))
        force_setattr(self, "scope", validate_scope(self.scope))
        force_setattr(self, "scope_id", validate_identifier(self.scope_id, "scope_id"))

    @classmethod
    def agent(cls, session_id: str, agent_id: str) -> SnapshotLocation:
        """The location of one agent in a session."""
        return cls(session_id, "agent", agent_id)

    @classmethod
    def multi_agent(cls, session_id: str, orchestrator_id: str) -> SnapshotLocation:
        """The location of an orchestrator of several agents in a session."""
        return cls(session_id, "multiAgent", orchestrator_id)


class Snapshot(msgspec.Struct, frozen=True):
    """An agent's state at one time: an envelope around `data`.

    Args:
        scope: `"agent"` or `"multiAgent"`.
        schema_version: Any string; whether it can be restored is for the SDK to judge.
        created_at: A time as text, kept as it is.
        data: What the SDK saved, a JSON object. Never translated.
        app_data: What the application adds, a JSON object.
        dialect: The SDK whose spelling of the envelope was read, or is to be written.
        extra: Fields of the envelope that this version does not know, carried along unchanged.

    Example:
        `Snapshot` is frozen; a changed one is a new one::

            later = msgspec.structs.replace(snapshot, app_data={"tenant": "acme"})
    """

    scope: Scope
    schema_version: str
    created_at: str
    data: dict[str, Any]
    app_data: dict[str, Any]
    dialect: Dialect = "typescript"
    extra: dict[str, Any] = {}

    @classmethod
    def new(
        cls,
        data: dict[str, Any],
        *,
        scope: Scope = "agent",
        app_data: dict[str, Any] | None = None,
    ) -> Snapshot:
        """Make a snapshot of this moment, in schema version 1.0 and TypeScript's spelling.

        Args:
            data: The state, a JSON object.
            scope: What it is the state of.
            app_data: What the application wants kept beside it.
        """
        return cls(scope, SCHEMA_VERSION, now(), data, {} if app_data is None else app_data)

    # A snapshot holds a conversation: a log line must not, nor a traceback by rich.

    def __repr__(self) -> str:
        return f"Snapshot({', '.join(f'{name}={value!r}' for name, value in self.__rich_repr__())})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [
            ("scope", self.scope),
            ("schema_version", self.schema_version),
            ("created_at", self.created_at),
            ("dialect", self.dialect),
            ("data", _Counted(self.data)),
            ("app_data", _Counted(self.app_data)),
        ]


class RawSnapshot(msgspec.Struct, frozen=True, weakref=True):
    """A snapshot as the JSON it is stored as, to be moved as it is.

    `load_raw` makes one; whatever takes a snapshot to save takes it too. What is saved are the
    bytes that were loaded.

    Args:
        document: The whole snapshot as JSON in UTF-8. What `load_raw` returns here are bytes
            whose `repr` does not show them.
        scope: As in `Snapshot`, as are the others.
        schema_version: The envelope's.
        created_at: The envelope's.
        dialect: The SDK whose spelling the envelope has.

    Example:
        Copy the latest snapshot from one storage to another::

            raw = await source.load_raw(location=location)
            if raw is not None:
                await target.save_snapshot(location=location, snapshot=raw, is_latest=True)
    """

    document: bytes
    scope: Scope
    schema_version: str
    created_at: str
    dialect: Dialect

    # As of a Snapshot, nothing of what it holds is shown.

    def __repr__(self) -> str:
        shown = (f"{name}={value!r}" for name, value in self.__rich_repr__())
        return f"RawSnapshot({', '.join(shown)})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [
            ("document", _Counted(self.document)),
            ("scope", self.scope),
            ("schema_version", self.schema_version),
            ("created_at", self.created_at),
            ("dialect", self.dialect),
        ]


class SnapshotManifest(msgspec.Struct, frozen=True):
    """The manifest of a location.

    Args:
        schema_version: Any string; `"1.0"` today.
        updated_at: A time as text, kept as it is.
        extra: Fields that this version does not know, carried along unchanged.
    """

    schema_version: str
    updated_at: str
    extra: dict[str, Any] = {}

    def __repr__(self) -> str:
        return (
            f"SnapshotManifest(schema_version={self.schema_version!r}, "
            f"updated_at={self.updated_at!r})"
        )

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("schema_version", self.schema_version), ("updated_at", self.updated_at)]


class SavedSnapshot(msgspec.Struct, frozen=True):
    """What a save returns.

    Args:
        snapshot_id: The id in history; `None` where only latest was written.
        etag: The version that was written, without quotes. After a checkpoint, latest's.
        lineage: Given back with `if_match`, it lets the store recognise its own writes when a
            response was lost. Opaque.
        key: The key of the object that was written. After a checkpoint, latest's.
    """

    snapshot_id: str | None
    etag: str
    lineage: str = ""
    key: str = ""


class VersionedSnapshot(msgspec.Struct, frozen=True):
    """A snapshot with the version it was read at.

    Args:
        snapshot: The snapshot.
        etag: Its version, without quotes, for `if_match`.
        lineage: As in `SavedSnapshot`.
        key: The key that it was read from.
        snapshot_id: Its id in history. Of the latest snapshot, the id of the entry in history
            that it was saved from by `checkpoint` or `rewind`; `None` where that is not known.
    """

    snapshot: Snapshot
    etag: str
    lineage: str = ""
    key: str = ""
    snapshot_id: str | None = None


class DeletedSession(msgspec.Struct, frozen=True):
    """What deleting a session did.

    Args:
        objects: How many objects were deleted.
        kept: How many were left, since they belong to another store nested under the session's
            name, or since there is no session of that name.
    """

    objects: int
    kept: int


def now() -> str:
    """The present time as snapshots spell it: UTC, three decimals and `Z`."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class _Counted:
    """Stands for a value that must not be shown."""

    def __init__(self, value: object) -> None:
        if isinstance(value, dict):
            self._shown = f"<{len(cast('dict[str, Any]', value))} fields>"
        elif isinstance(value, bytes):
            self._shown = f"<{len(value)} bytes>"
        else:
            self._shown = f"<{type(value).__name__}>"

    def __repr__(self) -> str:
        return self._shown
