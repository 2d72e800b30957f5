"""How long an operation on a store may take."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from snapstore.errors import StorageTimeoutError

__all__ = ["in_time"]

T = TypeVar("T")


async def in_time(
    work: Awaitable[T],
    seconds: float | None,
    *,
    operation: str,
    key: str,
    place: str,
    taken: float = 0.0,
) -> T:
    """Wait for an operation until its deadline.

    Args:
        work: The operation.
        seconds: How long it may take; `None` for no deadline.
        operation: What it is called in errors.
        key: The key or prefix that it is about.
        place: The bucket or folder.
        taken: The seconds of its time that are gone already.

    Raises:
        StorageTimeoutError: The deadline passed; the operation was cancelled.
    """
    deadline = asyncio.timeout(None if seconds is None else seconds - taken)
    try:
        async with deadline:
            return await work
    except TimeoutError:
        if not deadline.expired():
            raise
    # Outside of the handler: what the deadline interrupted must not be in the chain.
    raise StorageTimeoutError(
        f"{operation} of {key} in {place} did not end by its deadline, "
        f"after {seconds:g} s; timeout=… allows for more",
        operation=operation,
        bucket=place,
        key=key,
    )
