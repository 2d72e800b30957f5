"""Lists of sessions: pages of summaries in three orders.

Nothing keeps an index. By id, and by the time of UUIDv7 ids, only the sessions of the page are
looked at. By the time of the last update, all are, and only as many summaries are kept as a page
holds.
"""

from __future__ import annotations

import heapq
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Final, get_args

from snapstore.errors import InvalidIdentifierError, InvalidResponseError
from snapstore.model.ids import END_OF_IDS, number_from_id, validate_snapshot_id
from snapstore.model.keys import Layout
from snapstore.model.sessions import SessionOrder, SessionPage, SessionSummary
from snapstore.storage.check import CHECK_SESSION
from snapstore.storage.newest import find_newest
from snapstore.storage.overlap import overlap
from snapstore.storage.session_cursor import Position, decode_cursor, encode_cursor
from snapstore.storage.session_figures import summarize_session
from snapstore.storage.session_ids import SessionIds
from snapstore.stores.base import PAGE_SIZE
from snapstore.stores.managed import ManagedStore

__all__ = ["SessionPages"]

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_NEVER: Final = -1
"""The time of a session of which nothing tells when it was updated: it comes last."""


class SessionPages:
    """Lists of the sessions of a storage.

    Args:
        objects: Where they are.
        layout: The keys.
    """

    def __init__(self, objects: ManagedStore, layout: Layout) -> None:
        self._objects = objects
        self._layout = layout
        self._ids = SessionIds(objects, layout)

    async def page(self, limit: int, order: SessionOrder, cursor: str | None) -> SessionPage:
        """List a page of sessions.

        Args:
            limit: How many at the most; 1 to 1,000.
            order: Their order.
            cursor: Where the page before this one ended; `None` for the first page.

        Raises:
            TypeError: `limit` is no whole number. As with the next one, no request was sent.
            ValueError: An argument is not valid.
            InvalidIdentifierError: In the order `"created"`, an id is no UUIDv7.
        """
        if isinstance(limit, bool) or not isinstance(limit, int):
            raise TypeError(f"limit must be an int, not a {type(limit).__name__}")
        if not 1 <= limit <= PAGE_SIZE:
            raise ValueError(f"limit must be 1 to {PAGE_SIZE:,}, not {limit}")
        if order not in get_args(SessionOrder):
            raise ValueError(f"order must be 'id', 'created' or 'updated', not {order!r}")
        position = None if cursor is None else decode_cursor(order, cursor)
        if order == "updated":
            return await self._last_updated(limit, position)
        after = None if position is None else position.session_id
        if order == "created":
            return await self._last_created(limit, after)
        return await self._by_id(limit, after)

    async def _by_id(self, limit: int, after: str | None) -> SessionPage:
        found: list[SessionSummary] = []
        async with aclosing(self._ids.sorted_pages(after)) as pages:
            async for page in pages:
                ids = page
                while ids:
                    missing = limit - len(found)
                    if not missing:
                        return _page(found, encode_cursor("id", found[-1].session_id))
                    found += await self._summaries(ids[:missing])
                    ids = ids[missing:]
        return _page(found, None)

    async def _last_created(self, limit: int, before: str | None) -> SessionPage:
        found: list[SessionSummary] = []
        end = END_OF_IDS if before is None else number_from_id(_uuid7(before))
        while missing := limit - len(found):
            ids = await find_newest(self._created_after, missing, after=-1, end=end)
            found += await self._summaries(ids[::-1])
            if len(ids) < missing:
                return _page(found, None)
            end = number_from_id(ids[0])
        return _page(found, encode_cursor("created", found[-1].session_id))

    async def _last_updated(self, limit: int, before: Position | None) -> SessionPage:
        bound = None if before is None else (before.microseconds, before.session_id)
        # The first one is the one to be dropped for a better one.
        newest: list[tuple[tuple[int, str], SessionSummary]] = []
        is_last = True
        async with aclosing(self._ids.pages()) as pages:
            async for page in pages:
                for summary in await self._summaries(page):
                    rank = _rank(summary)
                    if bound is not None and rank >= bound:
                        continue
                    heapq.heappush(newest, (rank, summary))
                    if len(newest) > limit:
                        heapq.heappop(newest)
                        is_last = False
        newest.sort(reverse=True)
        found = [summary for _, summary in newest]
        if is_last:
            return _page(found, None)
        microseconds, session_id = newest[-1][0]
        return _page(found, encode_cursor("updated", session_id, microseconds))

    async def _summaries(self, ids: Sequence[str]) -> list[SessionSummary]:
        """Summaries, in the order of the ids, of those that are sessions still."""

        async def summarize(session_id: str) -> SessionSummary | None:
            return await summarize_session(self._objects, self._layout, session_id)

        return [found for found in await overlap(ids, summarize) if found is not None]

    async def _created_after(self, after: str | None) -> AsyncGenerator[list[str], None]:
        last = after or ""
        async with aclosing(self._ids.pages(after)) as pages:
            async for page in pages:
                ids = [_uuid7(name) for name in page if not name.startswith(CHECK_SESSION)]
                if any(first >= second for first, second in pairwise([last, *ids])):
                    raise InvalidResponseError(
                        "the listing of the sessions is out of order",
                        operation="scan",
                        key=self._layout.sessions_prefix,
                    )
                last = ids[-1] if ids else last
                yield ids


def _page(found: Sequence[SessionSummary], cursor: str | None) -> SessionPage:
    return SessionPage(tuple(found), cursor)


def _rank(summary: SessionSummary) -> tuple[int, str]:
    """What the last updated are sorted by; no two sessions have the same."""
    updated_at = summary.updated_at
    if updated_at is None:
        return _NEVER, summary.session_id
    return (updated_at - _EPOCH) // timedelta(microseconds=1), summary.session_id


def _uuid7(session_id: str) -> str:
    try:
        return validate_snapshot_id(session_id, "the session id")
    except InvalidIdentifierError:
        raise InvalidIdentifierError(
            f"the order 'created' is for session ids that new_snapshot_id() has made, and there is "
            f"a session {session_id}; use the order 'id' or 'updated'"
        ) from None
