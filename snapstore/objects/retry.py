"""Waiting and trying again, with full jitter.

botocore's `standard` mode retries what it knows. What it does not know is tried again here: 429 by
any name, 409 on writes, reads that arrive damaged. The waits serve two loops elsewhere as well: the
single keys of a delete, and `update_latest` of the storage above.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from itertools import count
from typing import Final, TypeVar

from snapstore.errors import StorageError

__all__ = ["full_jitter", "retrying"]

T = TypeVar("T")

_BASE: Final = 0.02
_CAP: Final = 2.0


def full_jitter(attempt: int) -> float:
    """How long to wait after a failed attempt.

    Args:
        attempt: Its number, from 0.

    Returns:
        Seconds: evenly spread from 0 to a bound that doubles from 20 ms up to 2 s (Marc Brooker,
        "Exponential Backoff And Jitter", AWS Architecture Blog, 2015).
    """
    return random.uniform(0.0, min(_CAP, _BASE * 2.0 ** min(attempt, 16)))


async def retrying(
    request: Callable[[], Awaitable[T]], *, attempts: Callable[[StorageError], int]
) -> T:
    """Make a request, again where its error is worth it.

    Args:
        request: Makes the request once.
        attempts: How often a request that fails so may be made in all; 1 for no other try.

    Raises:
        StorageError: The last attempt's.
    """
    for attempt in count():
        try:
            return await request()
        except StorageError as error:
            if attempt + 1 >= attempts(error):
                raise
            wait = max(full_jitter(attempt), error.retry_after or 0.0)
        await asyncio.sleep(wait)
    raise AssertionError("unreachable")
