"""Retries with full jitter, as long as the deadline allows.

Which errors are retried is the caller's decision: on S3, see `s3/request_loop.py`.
"""

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
_MAX_ATTEMPTS: Final = 10
"""The most attempts of an operation without a deadline; they take some 13 seconds in all."""


def full_jitter(attempt: int) -> float:
    """How long to wait after a failed attempt.

    Args:
        attempt: Its number, from 0.

    Returns:
        Seconds: evenly distributed from 0 to a bound that doubles from 50 ms up to 8 s (Marc
        Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015).
    """
    return random.uniform(0.0, min(_CAP, _BASE * 2.0 ** min(attempt, 16)))


async def retrying(
    request: Callable[[], Awaitable[T]], *, max_attempts: Callable[[StorageError], int | None]
) -> T:
    """Make a request, and again after an error that passes, until the deadline of the operation.

    If the server says how long to wait (`retry_after`), no attempt is made earlier.

    Args:
        request: Makes the request once.
        max_attempts: The most attempts of a request that fails with this error; `None` for as many
            as the deadline allows, or 10 without a deadline.

    Raises:
        StorageError: That of the last attempt: no more are allowed, or the wait for the next one
            would pass the deadline.
    """
    for attempt in count():
        try:
            return await request()
        except StorageError as error:
            limit = max_attempts(error)
            deadline = Deadline.current()
            deadline.note_failure(error)
            remaining = deadline.remaining
            if limit is None and remaining is None:
                limit = _MAX_ATTEMPTS
            wait = max(full_jitter(attempt), error.retry_after or 0.0)
            if limit is not None and attempt + 1 >= limit:
                raise
            if remaining is not None and wait >= remaining:
                raise
        await asyncio.sleep(wait)
    raise AssertionError("unreachable")
