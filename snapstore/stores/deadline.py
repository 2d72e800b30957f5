"""Deadlines: how long an operation may take, and what is left of it for the next attempt.

The deadline of the operation under way is a context variable, so that an object store can fill the
time with retries without being handed it through every call.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Final, TypeVar

from snapstore.errors import Outcome, StorageError, StorageTimeoutError

__all__ = ["Deadline", "in_time"]

T = TypeVar("T")

_SHARE_OF_AN_ATTEMPT: Final = 4
"""An attempt may take this part of the whole time, so that there is time for others."""

_LEAST_OF_AN_ATTEMPT: Final = 5.0
_LEAST_BYTES_PER_SECOND: Final = 256 * 1024
"""A large body may take longer: as long as it takes at this rate, and these seconds more."""

_current: ContextVar[Deadline | None] = ContextVar("snapstore_deadline", default=None)


class Deadline:
    """When an operation must have ended.

    Args:
        seconds: How long it may take from now on; `None` for as long as it wants.

    Attributes:
        outcome: What has become of the write that the operation makes, as far as the store has
            said; `None` where it has not.
        last_failure: The message of the last attempt that failed, and its code and status; `None`
            where none has.
    """

    def __init__(self, seconds: float | None) -> None:
        self._seconds = seconds
        self._ends = None if seconds is None else asyncio.get_running_loop().time() + seconds
        self.outcome: Outcome | None = None
        self.last_failure: tuple[str, str | None, int | None] | None = None
        self._try: asyncio.Timeout | None = None

    @classmethod
    def current(cls) -> Deadline:
        """The deadline of the operation under way; one without end where none was set."""
        return _current.get() or cls(None)

    @property
    def remaining(self) -> float | None:
        """The seconds that are left; `None` for no end."""
        return None if self._ends is None else self._ends - asyncio.get_running_loop().time()

    def note_failure(self, error: StorageError) -> None:
        """Note that an attempt has failed, without its traceback, which holds what was sent."""
        self.last_failure = str(error), error.code, error.status

    @contextmanager
    def set(self) -> Iterator[None]:
        """Make it the current deadline."""
        token = _current.set(self)
        try:
            yield
        finally:
            # A coroutine whose loop has ended is closed in another context, which has none of this.
            with suppress(ValueError):
                _current.reset(token)

    def one_attempt(self) -> asyncio.Timeout:
        """Bound one attempt of several, so that a dead connection does not take the whole time.

        Returns:
            A context manager that raises `TimeoutError` when the attempt has taken its part.
        """
        self._try = asyncio.timeout(None if self._ends is None else self._part_for(0))
        return self._try

    def allow(self, size: int) -> None:
        """Give the attempt under way the time to send or to receive a body of this many bytes."""
        if self._try is not None and self._ends is not None:
            self._try.reschedule(asyncio.get_running_loop().time() + self._part_for(size))

    def _part_for(self, size: int) -> float:
        part = (self._seconds or 0.0) / _SHARE_OF_AN_ATTEMPT
        return max(part, _LEAST_OF_AN_ATTEMPT + size / _LEAST_BYTES_PER_SECOND)


async def in_time(
    work: Awaitable[T],
    seconds: float | None,
    *,
    operation: str,
    key: str,
    place: str,
    writes: bool = False,
    taken: float = 0.0,
) -> T:
    """Wait for an operation until its deadline.

    Args:
        work: The operation.
        seconds: How long it may take; `None` for no deadline.
        operation: What it is called in errors.
        key: The key or prefix that it is about.
        place: The bucket or directory.
        writes: Whether it changes something.
        taken: The seconds of its time that are gone already.

    Raises:
        StorageTimeoutError: The deadline passed; the operation was cancelled.
    """
    deadline = Deadline(None if seconds is None else seconds - taken)
    timeout = asyncio.timeout(deadline.remaining)
    try:
        with deadline.set():
            async with timeout:
                return await work
    except TimeoutError:
        if not timeout.expired():
            raise
    # Outside of the handler: what the deadline interrupted must not be in the chain.
    failure, code, status = deadline.last_failure or ("", None, None)
    before = f"; the attempt before it failed: {failure}" if failure else ""
    raise StorageTimeoutError(
        f"{operation} of {key} in {place} did not end by its deadline, "
        f"after {seconds:g} s; timeout=… allows for more{before}",
        operation=operation,
        bucket=place,
        key=key,
        code=code,
        status=status,
        outcome=(deadline.outcome or "unknown") if writes else None,
    )
