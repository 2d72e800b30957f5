"""The ids in the history of one location: intervals of them, in both directions."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import datetime
from typing import NamedTuple, Self

from snapstore.model.ids import (
    END_OF_IDS,
    RANDOM_BITS,
    id_from_number,
    milliseconds_since_epoch,
    number_from_id,
    validate_snapshot_id,
)
from snapstore.model.keys import Layout
from snapstore.model.snapshot import SnapshotLocation
from snapstore.storage.backwards import iter_backwards
from snapstore.storage.listing import iter_id_pages
from snapstore.storage.newest import find_newest
from snapstore.stores.base import PAGE_SIZE
from snapstore.stores.managed import ManagedStore

__all__ = ["History", "Interval"]


class Interval(NamedTuple):
    """An interval of ids.

    Attributes:
        after: The id before the first one; `None` from the beginning.
        last: The last id; `None` to the end.
    """

    after: str | None = None
    last: str | None = None

    @classmethod
    def of(
        cls,
        start_after: str | None,
        *,
        newest_first: bool,
        since: datetime | None,
        until: datetime | None,
    ) -> Self:
        """The interval that the arguments of a listing describe.

        Args:
            start_after: The cursor: all before it where the newest come first, else all after it.
            newest_first: The direction.
            since: The time of the oldest id, in whole milliseconds.
            until: The time of the newest id, in whole milliseconds.

        Raises:
            InvalidIdentifierError: The cursor is no id.
            TypeError: A time is no datetime.
            ValueError: A time is naive or before 1970, or `since` is later than `until`.
        """
        after, end = -1, END_OF_IDS
        if start_after is not None:
            cursor = number_from_id(validate_snapshot_id(start_after, "start_after"))
            after, end = (after, cursor) if newest_first else (cursor, end)
        first = -1 if since is None else milliseconds_since_epoch(since, "since")
        if since is not None:
            after = max(after, (first << RANDOM_BITS) - 1)
        if until is not None:
            last = milliseconds_since_epoch(until, "until")
            if last < first:
                raise ValueError("since must not be later than until")
            end = min(end, last + 1 << RANDOM_BITS)
        if end == 0:  # no id is before the lowest one
            return cls(id_from_number(0), id_from_number(0))
        return cls(
            None if after < 0 else id_from_number(after),
            None if end == END_OF_IDS else id_from_number(end - 1),
        )


class History:
    """The history of a location.

    Args:
        objects: Where it is.
        layout: The keys.
        location: The location.
    """

    def __init__(self, objects: ManagedStore, layout: Layout, location: SnapshotLocation) -> None:
        self._objects = objects
        self._layout = layout
        self._location = location
        self._prefix = layout.history_prefix(location)

    async def list_ids(
        self, interval: Interval, limit: int | None, *, newest_first: bool
    ) -> list[str]:
        """List ids.

        Args:
            interval: Which ones.
            limit: How many at the most; `None` for all. Zero or less is none.
            newest_first: The direction.
        """
        if limit is not None and limit <= 0:
            return []
        if not newest_first:
            return await self._oldest(interval, limit)
        if limit is not None and limit <= PAGE_SIZE:
            ids = await self._newest(interval, limit)
        else:
            kept: deque[str] = deque(maxlen=limit)
            async with aclosing(self._forwards(interval)) as pages:
                async for page in pages:
                    kept += page
            ids = [*kept]
        ids.reverse()
        return ids

    def iter_pages(
        self, interval: Interval, *, newest_first: bool
    ) -> AsyncGenerator[list[str], None]:
        """Walk ids, page by page.

        Args:
            interval: Which ones.
            newest_first: The direction.
        """
        return self._backwards(interval) if newest_first else self._forwards(interval)

    async def newest(self, interval: Interval) -> str | None:
        """The newest id in an interval; `None` if there is none."""
        ids = await self._newest(interval, 1)
        return ids[0] if ids else None

    async def _oldest(self, interval: Interval, limit: int | None) -> list[str]:
        ids: list[str] = []
        page_size = PAGE_SIZE if limit is None else min(limit, PAGE_SIZE)
        async with aclosing(self._forwards(interval, page_size)) as pages:
            async for page in pages:
                ids += page
                if limit is not None and len(ids) >= limit:
                    break
        return ids[:limit]

    async def _newest(self, interval: Interval, count: int) -> list[str]:
        after, last = interval
        return await find_newest(
            self._pages_after,
            count,
            after=-1 if after is None else number_from_id(after),
            end=END_OF_IDS if last is None else number_from_id(last) + 1,
        )

    async def _forwards(
        self, interval: Interval, page_size: int = PAGE_SIZE
    ) -> AsyncGenerator[list[str], None]:
        after, last = interval
        async with aclosing(self._pages_after(after, page_size)) as pages:
            async for page in pages:
                if last is None or not page or page[-1] < last:
                    yield page
                else:
                    yield [snapshot_id for snapshot_id in page if snapshot_id <= last]
                    return

    def _backwards(self, interval: Interval) -> AsyncGenerator[list[str], None]:
        def forwards(after: str | None, last: str | None) -> AsyncGenerator[list[str], None]:
            return self._forwards(Interval(after, last))

        return iter_backwards(forwards, str, after=interval.after, last=interval.last)

    def _pages_after(
        self, after: str | None, page_size: int = PAGE_SIZE
    ) -> AsyncGenerator[list[str], None]:
        cursor = None if after is None else self._layout.history(self._location, after)
        pages = self._objects.scan(self._prefix, start_after=cursor, page_size=page_size)
        return iter_id_pages(pages, self._prefix, start_after=after or "")
