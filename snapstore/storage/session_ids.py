"""The ids of the sessions of a storage, from listings of keys.

A name is a session's if an object lies under `<session_id>/scopes/`. There are three ways to list
them, and the first that the store has is taken:

- by the delimiter `/scopes/`: the server groups the keys of a session, 1,000 sessions a request;
- by the delimiter `/`, and a listing of one key under `<name>/scopes/` for each name, where the
  server takes no other delimiter;
- by all keys, where the store knows no delimiters. The rest of a long session is skipped.

Servers go from page to page in one of two orders: by the bytes of the keys, where `s-1/` comes
before `s/`, or by the names of directories, where it comes after. SeaweedFS does the latter, and
sorts each page by bytes. A cursor needs one order on all of them, and it is that of the bytes. What
the other one brings too early is held back: no more than the ids that another one begins with, up
to a `-`, the only character of an id that is less than `/`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Final

from snapstore.errors import InvalidResponseError, UnsupportedOperationError
from snapstore.model.keys import Layout
from snapstore.storage.overlap import overlap
from snapstore.stores.capabilities import DelimiterStore, capability
from snapstore.stores.managed import ManagedStore

__all__ = ["SessionIds"]

_SCOPES: Final = "/scopes/"
_LAST: Final = "\U0010ffff"
"""The last character: in nearly every order of keys, those of a session come before its name and
this. In any other order some come again, and are dropped."""


class SessionIds:
    """The sessions of a storage.

    Args:
        objects: Where they are.
        layout: The keys.
    """

    def __init__(self, objects: ManagedStore, layout: Layout) -> None:
        self._objects = objects
        self._layout = layout
        self._prefix = layout.sessions_prefix

    async def sorted_pages(self, start_after: str | None) -> AsyncGenerator[list[str], None]:
        """Walk the ids in the order of their keys, page by page. A page may be empty.

        Args:
            start_after: Leave out this id and all before it.

        Raises:
            InvalidResponseError: The server has neither of the two orders.
        """
        held: set[str] = set()
        last = ""
        if start_after is not None:
            last = _in_keys(start_after)
            # By the names of directories they come before the cursor, and would be missing.
            ends = [end for end, letter in enumerate(start_after) if letter == "-" and end > 0]
            parents = [start_after[:end] for end in ends]
            found = await overlap(parents, self._is_session)
            held = {name for name, is_session in zip(parents, found, strict=True) if is_session}
        first, end = last, start_after or ""
        async with aclosing(self.pages(start_after)) as pages:
            async for page in pages:
                held.update(name for name in page if _in_keys(name) > first)
                end = max(page, default=end)
                ready = [name for name in held if not f"{end}-".startswith(f"{name}-")]
                held.difference_update(ready)
                ready.sort(key=_in_keys)
                if ready and _in_keys(ready[0]) <= last:
                    raise InvalidResponseError(
                        "the listing of the sessions is out of order",
                        operation="scan",
                        key=self._prefix,
                    )
                last = _in_keys(ready[-1]) if ready else last
                yield ready
        yield sorted(held, key=_in_keys)

    async def pages(self, start_after: str | None = None) -> AsyncGenerator[list[str], None]:
        """Walk the ids in the order of the server, page by page. A page may be empty.

        Args:
            start_after: Leave out this id and all that the server lists before it.
        """
        if capability(self._objects, DelimiterStore) is None:
            ways = [self._by_keys(start_after)]
        else:
            ways = [self._by_delimiter(_SCOPES, start_after), self._by_names(start_after)]
        for way in ways:
            async with aclosing(way) as pages:
                try:
                    page = await anext(pages, None)
                except UnsupportedOperationError:
                    if way is ways[-1]:
                        raise
                    continue
                while page is not None:
                    yield page
                    page = await anext(pages, None)
                return

    async def _by_delimiter(
        self, delimiter: str, start_after: str | None
    ) -> AsyncGenerator[list[str], None]:
        cursor = None if start_after is None else f"{self._prefix}{start_after}/"
        found = self._objects.scan_prefixes(self._prefix, delimiter=delimiter, start_after=cursor)
        async with aclosing(found) as pages:
            async for page in pages:
                names = (self._layout.session_id_of(key, delimiter) for key in page)
                # Keys of the session at the cursor come after the cursor.
                yield [name for name in names if name is not None and name != start_after]

    async def _by_names(self, start_after: str | None) -> AsyncGenerator[list[str], None]:
        async with aclosing(self._by_delimiter("/", start_after)) as pages:
            async for page in pages:
                found = await overlap(page, self._is_session)
                yield [name for name, is_session in zip(page, found, strict=True) if is_session]

    async def _is_session(self, name: str) -> bool:
        scan = self._objects.scan(f"{self._prefix}{name}{_SCOPES}", page_size=1)
        async with aclosing(scan) as pages:
            async for page in pages:
                if page:
                    return True
        return False

    async def _by_keys(self, start_after: str | None) -> AsyncGenerator[list[str], None]:
        last = skipped = start_after
        goes_on = True
        while goes_on:
            goes_on = False
            cursor = None if skipped is None else f"{self._prefix}{skipped}/{_LAST}"
            async with aclosing(self._objects.scan(self._prefix, start_after=cursor)) as pages:
                async for page in pages:
                    ids: list[str] = []
                    for key in page:
                        name = self._layout.session_id_of(key, _SCOPES)
                        if name is not None and name != last:
                            ids.append(name)
                            last = name
                    yield ids
                    if last != skipped and self._is_all_of(page, last):
                        skipped, goes_on = last, True
                        break

    def _is_all_of(self, page: list[str], name: str | None) -> bool:
        """Whether a whole page belongs to one session, so that more of it is likely to follow."""
        prefix = f"{self._prefix}{name}/"
        return bool(page) and page[0].startswith(prefix) and page[-1].startswith(prefix)


def _in_keys(name: str) -> str:
    """A session's id as keys have it, to be compared."""
    return f"{name}/"
