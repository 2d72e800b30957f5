"""Deadlines: how long an operation may take, and what is left of it for the next attempt.

The deadline of the operation under way is a context variable, so that an object store can fill the
time with retries without being handed it through every call.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from contextvars import Context, ContextVar, Token
from typing import Final, TypeVar

from snapstore.errors import Outcome, StorageError, StorageTimeoutError
from snapstore.stores.contexts import restore

__all__ = ["Deadline", "in_time"]

T = TypeVar("T")

_SHARE_OF_AN_ATTEMPT: Final = 4
"""An attempt may take this part of the whole time, so that there is time for others."""

_LEAST_OF_AN_ATTEMPT: Final = 5.0
_LEAST_BYTES_PER_SECOND: Final = 256 * 1024
"""A large body may take longer: as long as it takes at this rate, and these seconds more."""

_current: ContextVar[Deadline | None] = ContextVar("snapstore_deadline", default=None)


class Deadline:
    """When an operation must have ended. As a context manager, it is the current deadline.

    Args:
        seconds: How long it may take from now on; `None` for as long as it wants.

    Attributes:
        ends: When that is, as the event loop tells time; `None` for no end.
        outcome: What has become of the write that the operation makes, as far as the store has
            said; `None` where it has not.
        last_failure: The message of the last attempt that failed, and its code and status; `None`
            where none has.
    """

    def __init__(self, seconds: float | None) -> None:
        self._seconds = seconds
        self.ends: float | None = (
            None if seconds is None else asyncio.get_running_loop().time() + seconds
        )
        self.outcome: Outcome | None = None
        self.last_failure: tuple[str, str | None, int | None] | None = None
        self._attempt: asyncio.Timeout | None = None
        self._token: Token[Deadline | None] | None = None

    @classmethod
    def current(cls) -> Deadline:
        """The deadline of the operation under way; one without end where none was set."""
        return _current.get() or cls(None)

    @property
    def remaining(self) -> float | None:
        """The seconds that are left; `None` for no end."""
        return None if self.ends is None else self.ends - asyncio.get_running_loop().time()

    def note_failure(self, error: StorageError) -> None:
        """Note that an attempt has failed, without its traceback, which holds what was sent."""
        self.last_failure = str(error), error.code, error.status

    def __enter__(self) -> None:
        self._token = _current.set(self)

    def __exit__(self, *_: object) -> None:
        token, self._token = self._token, None
        restore(_current, token)

    def begin_attempt(self, attempt: asyncio.Timeout) -> None:
        """Bound one attempt of several, so that a dead connection does not take the whole time.

        Args:
            attempt: The context manager around it, which has no end yet.
        """
        self._attempt = attempt
        if self._seconds is not None:
            seconds = max(self._seconds / _SHARE_OF_AN_ATTEMPT, _LEAST_OF_AN_ATTEMPT)
            _end_at(attempt, asyncio.get_running_loop().time() + seconds)

    def allow(self, size: int) -> None:
        """Give the attempt under way the time to send or to receive a body of this many bytes."""
        ends = None if self._attempt is None else self._attempt.when()
        if self._attempt is None or ends is None:
            return
        least = _LEAST_OF_AN_ATTEMPT + size / _LEAST_BYTES_PER_SECOND
        least += asyncio.get_running_loop().time()
        if least > ends:
            _end_at(self._attempt, least)


def _end_at(timeout: asyncio.Timeout, ends: float) -> None:
    """Set the end of a timeout that has been entered."""
    # Most timers are cancelled, and stay for a while. Each has a copy of the context that it was
    # set in, so that all that an operation has put there would stay, too.
    Context().run(timeout.reschedule, ends)


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
    timeout = asyncio.timeout(None)
    try:
        with deadline:
            async with timeout:
                if deadline.ends is not None:
                    _end_at(timeout, deadline.ends)
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
