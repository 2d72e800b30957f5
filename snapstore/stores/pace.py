"""A pace: so many turns a second, evenly spread, and counted."""

from __future__ import annotations

import asyncio
import math

__all__ = ["Pace"]


class Pace:
    """Lets callers pass at a steady rate, in the order in which they came.

    Args:
        max_per_second: How many may pass each second; `None` for no limit.

    Attributes:
        turns: How many turns were taken, without those that were given back.

    Raises:
        ValueError: The rate is not a number above 0.
    """

    def __init__(self, max_per_second: float | None = None) -> None:
        if max_per_second is not None and not 0 < max_per_second < math.inf:
            raise ValueError("max_requests_per_second must be more than 0")
        self._interval = 0.0 if max_per_second is None else 1 / max_per_second
        self._next = 0.0
        self.turns: int = 0

    async def turn(self) -> None:
        """Wait for a turn. One that is cancelled is lost."""
        self.turns += 1
        if not self._interval:
            return
        now = asyncio.get_running_loop().time()
        at = max(self._next, now)
        self._next = at + self._interval
        if at > now:
            await asyncio.sleep(at - now)

    def give_back(self) -> None:
        """Give a turn back that was not needed, to the next caller."""
        self.turns -= 1
        self._next -= self._interval
