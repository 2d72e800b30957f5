"""Encodings in steps, between which the event loop runs."""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Hashable
from contextlib import closing
from dataclasses import dataclass, field
from typing import Final

__all__ = ["YIELD", "Turns"]

YIELD: Final = 1e-6
"""Seconds to sleep so that others run. After 0, callbacks of timers would not."""


@dataclass
class _Turn:
    """Encodings for the same place, which end in the order in which they began."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    encodings: int = 0


class Turns:
    """Runs encodings. Those for the same place end in the order in which they began.

    So a large snapshot is not overtaken by a small one that was saved later.
    """

    def __init__(self) -> None:
        self._turns: dict[Hashable, _Turn] = {}

    async def run(self, place: Hashable, steps: Generator[None, None, bytes]) -> bytes:
        """Take the first step at once, and the others after the event loop has run.

        Args:
            place: What it is encoded for.
            steps: The encoding.

        Returns:
            The encoded bytes. If there is one step only and no other encoding for the place, the
            event loop does not run.
        """
        with closing(steps):
            data = _step(steps)
            turn = self._turns.get(place)
            if turn is None:
                if data is not None:
                    return data
                turn = self._turns[place] = _Turn()
            turn.encodings += 1
            try:
                async with turn.lock:
                    while data is None:
                        await asyncio.sleep(YIELD)
                        data = _step(steps)
                    return data
            finally:
                turn.encodings -= 1
                if not turn.encodings:
                    del self._turns[place]


def _step(steps: Generator[None, None, bytes]) -> bytes | None:
    try:
        next(steps)
    except StopIteration as end:
        data: bytes = end.value
        return data
    return None
