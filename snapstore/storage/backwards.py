"""Walk backwards what a store lists only forwards, with a page in memory at a time."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import TypeVar

__all__ = ["iter_backwards"]

T = TypeVar("T")


async def iter_backwards(
    forwards: Callable[[str | None, str | None], AsyncGenerator[list[T], None]],
    position_of: Callable[[T], str],
    *,
    after: str | None = None,
    last: str | None = None,
) -> AsyncGenerator[list[T], None]:
    """Read pages forwards, keep the last position of each, and read them again from the end.

    It takes at most twice the requests of the way forwards. The last page is not read again.

    Args:
        forwards: Lists what lies after one position, up to and including another one, in ascending
            order; `None` for no bound.
        position_of: The position of an item.
        after: The position before the first item.
        last: The last position.

    Returns:
        An async generator of pages, the last item first.
    """
    bounds = [after]
    newest: list[T] = []
    async with aclosing(forwards(after, last)) as pages:
        async for page in pages:
            if page:
                bounds += map(position_of, newest[-1:])
                newest = page
    yield newest[::-1]
    del newest
    last = bounds.pop()
    while bounds:
        after = bounds.pop()
        items: list[T] = []
        async with aclosing(forwards(after, last)) as pages:
            async for page in pages:
                items += page
        yield items[::-1]
        last = after
