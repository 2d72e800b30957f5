"""What is told of a session without its content: summaries, pages of them, descriptions."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import msgspec

from snapstore.model.snapshot import SnapshotLocation

__all__ = [
    "LatestDescription",
    "LocationDescription",
    "ObjectTotals",
    "SessionDescription",
    "SessionOrder",
    "SessionPage",
    "SessionSummary",
]

SessionOrder = Literal["id", "created", "updated"]
"""The order of a list of sessions: by id, or the newest or the last updated first."""


class SessionSummary(msgspec.Struct, frozen=True):
    """One session in a list.

    Args:
        session_id: Its id.
        updated_at: When it was last saved, in UTC. Of a location that is the time of the newest id
            in history or, without history, the time at which latest was written; of a session, that
            of its newest location. `None` where nothing tells. It is not changed by a rewind.
        locations: How many agents and orchestrators have objects in it.
        snapshots: How many snapshots there are in history.
        bytes: Bytes of its objects: latest, history, manifests and archive. `None` if the listings
            of the store don't tell.
    """

    session_id: str
    updated_at: datetime | None
    locations: int
    snapshots: int
    bytes: int | None


class SessionPage(msgspec.Struct, frozen=True):
    """A part of the list of all sessions.

    Args:
        sessions: The sessions, in the order that was asked for.
        cursor: Where the next page begins: opaque, and safe in a URL. `None` for the last page. The
            page after a full one may be empty.
    """

    sessions: tuple[SessionSummary, ...]
    cursor: str | None


class LatestDescription(msgspec.Struct, frozen=True):
    """The latest snapshot of a location, without its content.

    Args:
        etag: Its etag, without quotes; `None` if the store would have to read it.
        size: Its size in bytes.
        modified_at: When it was written, by the server's clock, in UTC; `None` if the store
            does not tell.
    """

    etag: str | None
    size: int
    modified_at: datetime | None


class LocationDescription(msgspec.Struct, frozen=True):
    """One location of a session.

    Args:
        location: The location.
        snapshots: How many snapshots there are in history.
        bytes: Bytes of latest, history and manifest.
        first_id: The oldest id in history; `None` without history.
        last_id: The newest id in history; `None` without history.
        first_at: The time of the oldest id; `None` also for one after the year 9999.
        last_at: The time of the newest id; `None` also for one after the year 9999.
        latest: The latest snapshot; `None` if there is none.
        has_manifest: Whether there is a manifest.
    """

    location: SnapshotLocation
    snapshots: int
    bytes: int
    first_id: str | None
    last_id: str | None
    first_at: datetime | None
    last_at: datetime | None
    latest: LatestDescription | None
    has_manifest: bool


class ObjectTotals(msgspec.Struct, frozen=True):
    """How many objects there are, and how large they are.

    Args:
        objects: How many objects.
        bytes: Their bytes.
    """

    objects: int = 0
    bytes: int = 0


class SessionDescription(msgspec.Struct, frozen=True):
    """One session in figures.

    Args:
        session_id: Its id.
        updated_at: As in `SessionSummary`.
        locations: Its locations, ordered by scope and scope id.
        archive: What lies in `…/snapshots/archive/`.
        stash: What the Strands SDKs keep in `context/<session_id>/` beside the sessions.
        foreign: All other objects under the session's name: objects of nobody, and those of another
            store that is nested there.
    """

    session_id: str
    updated_at: datetime | None
    locations: tuple[LocationDescription, ...]
    archive: ObjectTotals
    stash: ObjectTotals
    foreign: ObjectTotals
