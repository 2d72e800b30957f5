"""What the demo prints, and how long each thing took."""

from __future__ import annotations

from time import perf_counter
from typing import Final

__all__ = ["Step", "say", "since"]

_TEXT_WIDTH: Final = 86
_TIME_WIDTH: Final = 8


class Step:
    """A step and its time: a heading, and at the end what was proved."""

    def __init__(self, heading: str) -> None:
        say()
        say(heading)
        self._started = perf_counter()

    def proved(self, what: str) -> None:
        """Say what the step has proved, and how long it took."""
        say(f"  ✓ {what}", self._started)


def say(text: str = "", started: float | None = None, *, ms: float | None = None) -> None:
    """Print a line, with the milliseconds that it took or that have passed since it was started."""
    if started is not None:
        ms = since(started)
    time = "" if ms is None else f"{ms:,.0f} ms".rjust(_TIME_WIDTH)
    print(f"{text:<{_TEXT_WIDTH}}{time}".rstrip(), flush=True)


def since(started: float) -> float:
    """The milliseconds since a time of `perf_counter`."""
    return (perf_counter() - started) * 1000
