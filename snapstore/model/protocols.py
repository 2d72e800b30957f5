"""The two shapes of a snapshot storage, for type annotations and for storages of one's own."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from datetime import datetime
from typing import Protocol

from snapstore.model.sessions import SessionDescription, SessionOrder, SessionPage
from snapstore.model.snapshot import (
    SavedSnapshot,
    Snapshot,
    SnapshotLocation,
    SnapshotManifest,
    VersionedSnapshot,
)

__all__ = ["SnapshotStorage", "VersionedSnapshotStorage"]


class SnapshotStorage(Protocol):
    """The six operations of the Strands Agents `SnapshotStorage`, as Python has them.

    `ObjectSnapshotStorage` documents each.
    """

    async def save_snapshot(
        self,
        *,
        location: SnapshotLocation,
        snapshot: Snapshot,
        is_latest: bool,
        snapshot_id: str | None = None,
    ) -> object:
        """Save a snapshot as the latest one, or in history."""
        ...

    async def load_snapshot(
        self, *, location: SnapshotLocation, snapshot_id: str | None = None
    ) -> Snapshot | None:
        """Load the latest snapshot, or one in history; `None` if there is none."""
        ...

    async def list_snapshot_ids(
        self,
        *,
        location: SnapshotLocation,
        limit: int | None = None,
        start_after: str | None = None,
    ) -> list[str]:
        """List the ids in history, oldest first, after an exclusive cursor."""
        ...

    async def delete_session(self, *, session_id: str) -> object:
        """Delete everything of a session."""
        ...

    async def load_manifest(self, *, location: SnapshotLocation) -> SnapshotManifest:
        """Load the manifest, or a default one."""
        ...

    async def save_manifest(
        self, *, location: SnapshotLocation, manifest: SnapshotManifest
    ) -> object:
        """Save the manifest."""
        ...


class VersionedSnapshotStorage(SnapshotStorage, Protocol):
    """A snapshot storage with compare-and-swap, checkpoints, streamed listings, lists of sessions.

    `ObjectSnapshotStorage` documents each operation.
    """

    async def save_snapshot(
        self,
        *,
        location: SnapshotLocation,
        snapshot: Snapshot,
        is_latest: bool,
        snapshot_id: str | None = None,
        if_match: str | SavedSnapshot | VersionedSnapshot | None = None,
        if_none_match: bool = False,
    ) -> SavedSnapshot:
        """Save a snapshot, for latest also on a condition."""
        ...

    async def checkpoint(
        self,
        *,
        location: SnapshotLocation,
        snapshot: Snapshot,
        snapshot_id: str | None = None,
        if_match: str | SavedSnapshot | VersionedSnapshot | None = None,
        if_none_match: bool = False,
    ) -> SavedSnapshot:
        """Save a snapshot in history, then as the latest one."""
        ...

    async def load_snapshot(
        self,
        *,
        location: SnapshotLocation,
        snapshot_id: str | None = None,
        as_of: datetime | None = None,
    ) -> Snapshot | None:
        """Load a snapshot, also as of a time."""
        ...

    async def load_versioned(
        self, *, location: SnapshotLocation, snapshot_id: str | None = None
    ) -> VersionedSnapshot | None:
        """Load a snapshot with its etag."""
        ...

    async def rewind(
        self,
        *,
        location: SnapshotLocation,
        snapshot_id: str,
        if_match: str | SavedSnapshot | VersionedSnapshot | None = None,
        if_none_match: bool = False,
    ) -> SavedSnapshot:
        """Make a snapshot of history the latest one."""
        ...

    async def update_latest(
        self,
        *,
        location: SnapshotLocation,
        update: Callable[[Snapshot | None], Snapshot | Awaitable[Snapshot]],
        max_attempts: int = 64,
    ) -> SavedSnapshot:
        """Change the latest snapshot, losing no other writer's change."""
        ...

    async def list_snapshot_ids(
        self,
        *,
        location: SnapshotLocation,
        limit: int | None = None,
        start_after: str | None = None,
        newest_first: bool = False,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> list[str]:
        """List the ids in history between two times, in either direction."""
        ...

    def iter_snapshot_ids(
        self,
        *,
        location: SnapshotLocation,
        start_after: str | None = None,
        newest_first: bool = False,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> AsyncGenerator[str, None]:
        """Walk the ids in history between two times, in either direction."""
        ...

    def iter_sessions(self, *, start_after: str | None = None) -> AsyncGenerator[str, None]:
        """Walk the ids of the sessions, ascending as their keys do."""
        ...

    async def list_sessions(
        self, *, limit: int, order: SessionOrder = "id", cursor: str | None = None
    ) -> SessionPage:
        """List summaries of sessions, page by page."""
        ...

    async def describe_session(self, *, session_id: str) -> SessionDescription | None:
        """Describe a session in figures; `None` if there is none."""
        ...
