"""Listings: the newest checkpoint, older ones, namespaces and threads."""

from __future__ import annotations

from contextlib import aclosing

from snapstore.integrations.langgraph.keys import Namespace, invert
from snapstore.stores.base import PAGE_SIZE
from snapstore.stores.capabilities import DelimiterStore, beginning_of, capability
from snapstore.stores.managed import ManagedStore

__all__ = ["all_keys", "ids_before", "namespaces", "newest_id", "roots"]


async def all_keys(store: ManagedStore, prefix: str) -> list[str]:
    """All keys under a prefix."""
    async with aclosing(store.scan(prefix)) as pages:
        return [key async for page in pages for key in page]


async def newest_id(store: ManagedStore, space: Namespace) -> str | None:
    """The id of the newest checkpoint, by one request; `None` if there is none."""
    ids = await ids_before(store, space, None, 1)
    return ids[0] if ids else None


async def ids_before(
    store: ManagedStore, space: Namespace, before: str | None, limit: int | None = None
) -> list[str]:
    """Ids of checkpoints, the newest first.

    Args:
        store: The store.
        space: Where they belong.
        before: Only those before this id; `None` for all.
        limit: How many at the most; `None` for all.
    """
    prefix, ids = space.checkpoints, list[str]()
    start_after = None if before is None else prefix + invert(before)
    size = PAGE_SIZE if limit is None else min(limit, PAGE_SIZE)
    scan = store.scan(prefix, start_after=start_after, page_size=size)
    async with aclosing(scan) as pages:
        async for page in pages:
            ids += [found for key in page if (found := space.id_of(key)) is not None]
            if limit is not None and len(ids) >= limit:
                break
    return ids[:limit]


async def namespaces(store: ManagedStore, thread: str) -> list[Namespace]:
    """The namespaces of a thread.

    Args:
        store: The store.
        thread: What the keys of the thread begin with.
    """
    return [Namespace(root) for root in await roots(store, thread)]


async def roots(store: ManagedStore, prefix: str) -> list[str]:
    """What keys under a prefix begin with, up to the next `/`: threads, or namespaces of one."""
    found: dict[str, None] = {}
    if capability(store, DelimiterStore) is not None:
        async with aclosing(store.scan_prefixes(prefix, delimiter="/")) as pages:
            async for page in pages:
                found.update(dict.fromkeys(page))
    else:
        async with aclosing(store.scan(prefix)) as pages:
            async for page in pages:
                beginnings = (beginning_of(key, prefix, "/") for key in page)
                found.update((one, None) for one in beginnings if one is not None)
    return sorted(found)
