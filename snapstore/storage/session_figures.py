"""What the keys, sizes and times of a session's objects tell of it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import datetime
from typing import Final, NamedTuple

from snapstore.errors import InvalidIdentifierError
from snapstore.model.ids import snapshot_time
from snapstore.model.keys import Layout
from snapstore.model.sessions import (
    LatestDescription,
    LocationDescription,
    ObjectTotals,
    SessionDescription,
    SessionSummary,
)
from snapstore.model.snapshot import SnapshotLocation
from snapstore.stores.capabilities import DetailedListingStore, ObjectDetails, capability
from snapstore.stores.managed import ManagedStore

__all__ = ["describe_session", "summarize_session"]

_ANY_SIZE: Final = 2**63 - 1


class _Found(NamedTuple):
    """An object of a store whose listings have no details."""

    key: str
    size: int | None = None
    etag: str | None = None
    modified: None = None


async def summarize_session(
    objects: ManagedStore, layout: Layout, session_id: str
) -> SessionSummary | None:
    """Sum up a session, from a listing of its objects.

    Returns:
        The summary; `None` if there is no session.
    """
    prefix = layout.session_prefix(session_id)
    figures = _Figures(session_id, prefix)
    # What lies beside `scopes/` is not the session's own.
    await figures.add_all(objects, f"{prefix}scopes/", reads=False)
    return figures.summary()


async def describe_session(
    objects: ManagedStore, layout: Layout, session_id: str
) -> SessionDescription | None:
    """Describe a session, from listings of its objects and of its stash.

    Returns:
        The description; `None` if there is no session.
    """
    figures = _Figures(session_id, layout.session_prefix(session_id))
    await figures.add_all(objects, figures.prefix, reads=True)
    if not figures.is_session:
        return None
    stash = _Sum()
    stashed = _iter_details(objects, layout.stash_prefix(session_id), reads=True)
    async with aclosing(stashed) as pages:
        async for page in pages:
            for found in page:
                stash.add(found.size)
    return figures.description(stash.totals())


class _Sum:
    """Objects and their bytes.

    Attributes:
        objects: How many objects.
        bytes: Their bytes; `None` if the size of one is not known.
    """

    def __init__(self) -> None:
        self.objects = 0
        self.bytes: int | None = 0

    def add(self, size: int | None) -> None:
        """Add an object."""
        self.objects += 1
        self.bytes = None if size is None or self.bytes is None else self.bytes + size

    def totals(self) -> ObjectTotals:
        """The sum; all sizes are known."""
        return ObjectTotals(self.objects, self.bytes or 0)


class _Location:
    """What is known of one location."""

    def __init__(self) -> None:
        self.sum = _Sum()
        self.snapshots = 0
        self.first_id: str | None = None
        self.last_id: str | None = None
        self.latest: ObjectDetails | _Found | None = None
        self.has_manifest = False

    def add_id(self, snapshot_id: str) -> None:
        """Add a snapshot of history."""
        self.snapshots += 1
        self.first_id = min(self.first_id or snapshot_id, snapshot_id)
        self.last_id = max(self.last_id or snapshot_id, snapshot_id)

    def updated_at(self) -> datetime | None:
        """When it was last saved."""
        last_at = _time_of(self.last_id)
        if last_at is None and self.latest is not None:
            return self.latest.modified
        return last_at

    def description(self, location: SnapshotLocation) -> LocationDescription:
        """The location, described."""
        latest = self.latest
        return LocationDescription(
            location=location,
            snapshots=self.snapshots,
            bytes=self.sum.bytes or 0,
            first_id=self.first_id,
            last_id=self.last_id,
            first_at=_time_of(self.first_id),
            last_at=_time_of(self.last_id),
            latest=None
            if latest is None
            else LatestDescription(latest.etag, latest.size or 0, latest.modified),
            has_manifest=self.has_manifest,
        )


class _Figures:
    """What is known of one session.

    Args:
        session_id: Its id.
        prefix: What its keys begin with.

    Attributes:
        prefix: As the argument.
        is_session: Whether there is an object of the layout.
    """

    def __init__(self, session_id: str, prefix: str) -> None:
        self.prefix = prefix
        self.is_session = False
        self._foreign = _Sum()
        self._session_id = session_id
        self._archive = _Sum()
        self._locations: dict[SnapshotLocation, _Location] = {}

    async def add_all(self, objects: ManagedStore, prefix: str, *, reads: bool) -> None:
        """Add the objects under a prefix.

        Args:
            objects: Where they are.
            prefix: The prefix.
            reads: Whether objects are read where listings don't tell their sizes.
        """
        async with aclosing(_iter_details(objects, prefix, reads=reads)) as pages:
            async for page in pages:
                for found in page:
                    self._add(found)

    def _add(self, found: ObjectDetails | _Found) -> None:
        self.is_session = self.is_session or Layout.is_own(found.key, self.prefix)
        place = Layout.place_of(found.key, self.prefix)
        if place is None:
            self._foreign.add(found.size)
            return
        location = self._locations.setdefault(place.location, _Location())
        if place.kind == "archive":
            self._archive.add(found.size)
            return
        location.sum.add(found.size)
        if place.snapshot_id is not None:
            location.add_id(place.snapshot_id)
        elif place.kind == "latest":
            location.latest = found
        elif place.kind == "manifest":
            location.has_manifest = True

    def summary(self) -> SessionSummary | None:
        """The session, summed up; `None` if there is none."""
        if not self.is_session:
            return None
        sizes = [self._archive.bytes, *(found.sum.bytes for found in self._locations.values())]
        known = [size for size in sizes if size is not None]
        return SessionSummary(
            session_id=self._session_id,
            updated_at=self._updated_at(),
            locations=len(self._locations),
            snapshots=sum(found.snapshots for found in self._locations.values()),
            bytes=sum(known) if len(known) == len(sizes) else None,
        )

    def description(self, stash: ObjectTotals) -> SessionDescription:
        """The session, described."""
        ordered = sorted(
            self._locations.items(), key=lambda item: (item[0].scope, item[0].scope_id)
        )
        return SessionDescription(
            session_id=self._session_id,
            updated_at=self._updated_at(),
            locations=tuple(found.description(location) for location, found in ordered),
            archive=self._archive.totals(),
            stash=stash,
            foreign=self._foreign.totals(),
        )

    def _updated_at(self) -> datetime | None:
        times = (found.updated_at() for found in self._locations.values())
        return max((time for time in times if time is not None), default=None)


async def _iter_details(
    objects: ManagedStore, prefix: str, *, reads: bool
) -> AsyncGenerator[list[ObjectDetails] | list[_Found], None]:
    if capability(objects, DetailedListingStore) is not None:
        async with aclosing(objects.scan_details(prefix)) as pages:
            async for details in pages:
                yield details
        return

    async def read(key: str) -> _Found | None:
        stored = await objects.get(key, max_bytes=_ANY_SIZE)
        # One that was deleted meanwhile is none of the session's.
        return None if stored is None else _Found(key, len(stored.data), stored.version.etag)

    async with aclosing(objects.scan(prefix)) as key_pages:
        async for keys in key_pages:
            if reads:  # one after the other: each body is in memory
                yield [found for key in keys if (found := await read(key)) is not None]
            else:
                yield [_Found(key) for key in keys]


def _time_of(snapshot_id: str | None) -> datetime | None:
    """The time of an id; `None` if no date is so late."""
    try:
        return None if snapshot_id is None else snapshot_time(snapshot_id)
    except InvalidIdentifierError:
        return None
