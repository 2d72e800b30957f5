"""Listings of history, page by page: in order, or an error."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from operator import lt

from snapstore.errors import InvalidResponseError
from snapstore.model.keys import Layout

__all__ = ["flatten", "iter_id_pages"]


async def iter_id_pages(
    pages: AsyncGenerator[list[str], None], prefix: str, *, start_after: str
) -> AsyncGenerator[list[str], None]:
    """Walk the ids of the snapshots in a history, page by page, oldest first.

    Args:
        pages: The keys under `prefix`. It is closed at the end.
        prefix: The history's prefix.
        start_after: The id that all must be greater than; `""` for all.

    Raises:
        InvalidResponseError: The ids are out of order, or one is not after `start_after`.
    """
    last = start_after
    async with aclosing(pages):
        async for page in pages:
            ids = Layout.snapshot_ids(page, prefix)
            if not all(map(lt, [last, *ids], ids)):
                raise InvalidResponseError(
                    f"the listing of {prefix} is out of order", operation="scan", key=prefix
                )
            last = ids[-1] if ids else last
            yield ids


async def flatten(pages: AsyncGenerator[list[str], None]) -> AsyncGenerator[str, None]:
    """Walk what the pages hold, one after the other.

    Args:
        pages: The pages. It is closed at the end.
    """
    async with aclosing(pages):
        async for page in pages:
            for item in page:
                yield item
