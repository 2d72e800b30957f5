"""Listings with as much as a store tells of each object."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import NamedTuple

from snapstore.stores.capabilities import DetailedListingStore, capability
from snapstore.stores.managed import ManagedStore

__all__ = ["Listed", "iter_listed"]


class Listed(NamedTuple):
    """An object, as a listing tells of it.

    Attributes:
        key: Its full key.
        size: Its bytes; `None` where listings don't tell.
        etag: Its etag; `None` where listings don't tell.
    """

    key: str
    size: int | None = None
    etag: str | None = None


async def iter_listed(objects: ManagedStore, prefix: str) -> AsyncGenerator[Listed, None]:
    """Walk the objects under a prefix.

    Args:
        objects: The store.
        prefix: What their keys begin with.
    """
    detailed = capability(objects, DetailedListingStore)
    if detailed is None:
        async with aclosing(objects.scan(prefix)) as pages:
            async for page in pages:
                for key in page:
                    yield Listed(key)
        return
    async with aclosing(detailed.scan_details(prefix)) as details:
        async for found in details:
            for one in found:
                yield Listed(one.key, one.size, one.etag)
