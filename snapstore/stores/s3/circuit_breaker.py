"""A circuit breaker: after some failures in a row, do without the fast path for a while."""

from __future__ import annotations

import time
from collections import Counter
from typing import Final

__all__ = ["RESET_TIMEOUT", "CircuitBreaker"]

FAILURE_THRESHOLD: Final = 5
"""Failures in a row of one operation that open the circuit."""

RESET_TIMEOUT: Final = 60.0
"""Seconds that it stays open."""


class CircuitBreaker:
    """Opens after failures in a row of one operation, and closes after the reset timeout."""

    def __init__(self) -> None:
        self._failures: Counter[str] = Counter()
        self._open_until = 0.0

    @property
    def is_open(self) -> bool:
        """Whether the fast path is not to be used now."""
        return time.monotonic() < self._open_until

    def succeeded(self, operation: str) -> None:
        """Note a success, which starts the count for this operation again."""
        del self._failures[operation]

    def failed(self, operation: str) -> bool:
        """Note a failure.

        Returns:
            Whether it has opened the circuit.
        """
        self._failures[operation] += 1
        if self._failures[operation] < FAILURE_THRESHOLD:
            return False
        self._failures.clear()
        self._open_until = time.monotonic() + RESET_TIMEOUT
        return True
