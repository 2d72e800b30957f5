"""What a session holds: its locations, and the history of each."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import datetime
from itertools import pairwise
from typing import NamedTuple

from snapstore.errors import InvalidResponseError, UnsupportedOperationError
from snapstore.model.ids import id_from_number, number_from_id
from snapstore.model.keys import Layout
from snapstore.model.snapshot import SnapshotLocation
from snapstore.storage.backwards import iter_backwards
from snapstore.stores.capabilities import DelimiterStore, DetailedListingStore, capability
from snapstore.stores.managed import ManagedStore

__all__ = [
    "HistoryEntry",
    "exists",
    "iter_history",
    "iter_history_backwards",
    "iter_locations",
]


class HistoryEntry(NamedTuple):
    """A snapshot in history, as a listing tells of it.

    Attributes:
        snapshot_id: Its id.
        key: Its full key.
        size: Its bytes; `None` where listings don't tell.
        etag: Its etag; `None` where listings don't tell.
        modified: When it was written; `None` where listings don't tell.
    """

    snapshot_id: str
    key: str
    size: int | None = None
    etag: str | None = None
    modified: datetime | None = None


async def exists(objects: ManagedStore, key: str) -> bool:
    """Whether there is an object, by a listing: its content is not read."""
    async with aclosing(objects.scan(key, page_size=1)) as pages:
        async for page in pages:
            return page[:1] == [key]
    return False


async def iter_locations(
    objects: ManagedStore, layout: Layout, session_id: str
) -> AsyncGenerator[SnapshotLocation, None]:
    """Walk the locations of a session, each once.

    Args:
        objects: The store.
        layout: The keys.
        session_id: The session.
    """
    prefix = layout.session_prefix(session_id)
    seen: set[SnapshotLocation] = set()
    async with aclosing(_beginnings(objects, prefix)) as pages:
        async for page in pages:
            for beginning in page:
                location = Layout.location_in(beginning, prefix)
                if location is not None and location not in seen:
                    seen.add(location)
                    yield location


async def _beginnings(objects: ManagedStore, prefix: str) -> AsyncGenerator[list[str], None]:
    """List the keys of a session, or what they begin with where the store can do that."""
    own = f"{prefix}scopes/"
    with_delimiter = capability(objects, DelimiterStore)
    if with_delimiter is not None:
        try:
            async with aclosing(
                with_delimiter.scan_prefixes(own, delimiter="/snapshots/")
            ) as pages:
                async for page in pages:
                    yield page
                return
        except UnsupportedOperationError:
            pass  # every key is listed instead
    async with aclosing(objects.scan(own)) as pages:
        async for page in pages:
            yield page


async def iter_history(
    objects: ManagedStore,
    layout: Layout,
    location: SnapshotLocation,
    *,
    after: str | None = None,
    first: str | None = None,
    last: str | None = None,
) -> AsyncGenerator[list[HistoryEntry], None]:
    """Walk the history of a location, page by page, oldest first.

    Args:
        objects: The store.
        layout: The keys.
        location: The location.
        after: The id before the first one; `None` from the beginning.
        first: The first id; `None` if there is an `after`, or from the beginning.
        last: The last id; `None` to the end.

    Raises:
        InvalidResponseError: The listing is out of order.
    """
    prefix = layout.history_prefix(location)
    if first is not None:
        after = _id_before(first)
    cursor = None if after is None else layout.history(location, after)
    previous = after or ""
    async with aclosing(_entries(objects, prefix, cursor)) as pages:
        async for page in pages:
            ids = [previous, *(entry.snapshot_id for entry in page)]
            if not all(one < other for one, other in pairwise(ids)):
                raise InvalidResponseError(
                    f"the listing of {prefix} is out of order", operation="scan", key=prefix
                )
            previous = ids[-1]
            if last is None or previous < last:
                yield page
            else:
                yield [entry for entry in page if entry.snapshot_id <= last]
                return


def _id_before(snapshot_id: str) -> str | None:
    place = number_from_id(snapshot_id)
    return id_from_number(place - 1) if place else None


def iter_history_backwards(
    objects: ManagedStore, layout: Layout, location: SnapshotLocation
) -> AsyncGenerator[list[HistoryEntry], None]:
    """Walk the history of a location, page by page, newest first. See `iter_history`."""

    def forwards(after: str | None, last: str | None) -> AsyncGenerator[list[HistoryEntry], None]:
        return iter_history(objects, layout, location, after=after, last=last)

    return iter_backwards(forwards, lambda entry: entry.snapshot_id)


async def _entries(
    objects: ManagedStore, prefix: str, start_after: str | None
) -> AsyncGenerator[list[HistoryEntry], None]:
    detailed = capability(objects, DetailedListingStore)
    if detailed is None:
        async with aclosing(objects.scan(prefix, start_after=start_after)) as pages:
            async for page in pages:
                yield [
                    HistoryEntry(snapshot_id, key)
                    for key in page
                    if (snapshot_id := Layout.snapshot_id_in(key, prefix)) is not None
                ]
        return
    async with aclosing(detailed.scan_details(prefix, start_after=start_after)) as details:
        async for found in details:
            yield [
                HistoryEntry(snapshot_id, key, size, etag, modified)
                for key, size, modified, etag in found
                if (snapshot_id := Layout.snapshot_id_in(key, prefix)) is not None
            ]
