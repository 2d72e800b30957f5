"""Names of writes, which tell the order of calls."""

from __future__ import annotations

import os
import threading
import time

__all__ = ["Stamps"]


class Stamps:
    """Makes names that grow with time, also where the clock does not. A copy is a new one."""

    def __init__(self) -> None:
        self._last = 0
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type[Stamps], tuple[()]]:
        return Stamps, ()

    def next(self) -> str:
        """A name that is greater than all that were made or seen: microseconds, and a tail."""
        with self._lock:
            self._last = max(time.time_ns() // 1000, self._last + 1)
            return f"{self._last:014x}-{os.urandom(4).hex()}"

    def see(self, stamp: str) -> None:
        """Take note of a name that another writer has made, whose clock may be ahead."""
        try:
            seen = int(stamp.partition("-")[0], 16)
        except ValueError:
            return
        with self._lock:
            self._last = max(self._last, seen)
