"""A pace: so many turns a second, evenly spread."""

from __future__ import annotations

import asyncio
import math

__all__ = ["Pace"]


class Pace:
    """Lets callers pass at a steady rate, in the order in which they came.

    Args:
        per_second: How many may pass each second.

    Raises:
        ValueError: It is not a number above 0.
    """

    def __init__(self, per_second: float) -> None:
        if not (per_second > 0 and math.isfinite(per_second)):
            raise ValueError("max_requests_per_second must be more than 0")
        self._interval = 1 / per_second
        self._next = 0.0

    async def turn(self) -> None:
        """Wait for a turn. One that is cancelled is lost."""
        now = asyncio.get_running_loop().time()
        at = max(self._next, now)
        self._next = at + self._interval
        if at > now:
            await asyncio.sleep(at - now)
