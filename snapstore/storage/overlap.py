"""The same work for each of many items, a bounded number of them at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

__all__ = ["overlap"]

T = TypeVar("T")
R = TypeVar("R")

_AT_ONCE: Final = 100
"""Fewer than `snapstore.stores.S3Options` lets be in flight by default: others may go on."""


async def overlap(items: Sequence[T], work: Callable[[T], Awaitable[R]]) -> list[R]:
    """Do some work for each item, up to 100 at the same time.

    If one fails, or this is cancelled, the others are cancelled and waited for.

    Args:
        items: The items.
        work: The work.

    Returns:
        The results, in the order of the items.
    """
    results: dict[int, R] = {}
    numbered = iter(enumerate(items))

    async def work_off() -> None:
        for number, item in numbered:
            results[number] = await work(item)

    workers = [asyncio.create_task(work_off()) for _ in range(min(_AT_ONCE, len(items)))]
    try:
        await asyncio.gather(*workers)
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
    return [results[number] for number in range(len(items))]
