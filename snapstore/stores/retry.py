"""Trying again, with full jitter, for as long as the deadline allows."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from itertools import count
from typing import Final, TypeVar

from snapstore.errors import StorageError
from snapstore.stores.deadline import Deadline

__all__ = ["full_jitter", "retrying"]

T = TypeVar("T")

_BASE: Final = 0.05
_CAP: Final = 8.0
_MOST_TRIES: Final = 10
"""Tries of an operation without a deadline, some 13 seconds in all."""


def full_jitter(attempt: int) -> float:
    """How long to wait after a failed attempt.

    Args:
        attempt: Its number, from 0.

    Returns:
        Seconds: evenly spread from 0 to a bound that doubles from 50 ms up to 8 s (Marc Brooker,
        "Exponential Backoff And Jitter", AWS Architecture Blog, 2015).
    """
    return random.uniform(0.0, min(_CAP, _BASE * 2.0 ** min(attempt, 16)))


async def retrying(
    request: Callable[[], Awaitable[T]], *, most_tries: Callable[[StorageError], int | None]
) -> T:
    """Make a request, and again where its error passes, until the deadline of the operation.

    Where the server says how long to wait (`retry_after`), it is given that long.

    Args:
        request: Makes the request once.
        most_tries: How often a request that fails with this error may be made in all; `None` for
            as often as the deadline allows, or 10 times where there is none.

    Raises:
        StorageError: The last try's: none is left, or the wait for the next one would pass the
            deadline.
    """
    for attempt in count():
        try:
            return await request()
        except StorageError as error:
            most = most_tries(error)
            remaining = Deadline.current().remaining
            if most is None and remaining is None:
                most = _MOST_TRIES
            wait = max(full_jitter(attempt), error.retry_after or 0.0)
            if most is not None and attempt + 1 >= most:
                raise
            if remaining is not None and wait >= remaining:
                raise
        await asyncio.sleep(wait)
    raise AssertionError("unreachable")
