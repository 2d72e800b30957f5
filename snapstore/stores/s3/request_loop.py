"""Run a request: limit concurrency, retry what passes, translate errors.

The attempts of one operation, whichever path makes them, are bounded by its deadline and by the
client's `total_max_attempts`. The client's own retries are switched off where that is possible, so
that waits are of one kind.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, TypeVar

from snapstore.errors import StorageError, StorageTimeoutError, StorageUnavailableError
from snapstore.stores.base import DamagedResponseError
from snapstore.stores.deadline import Deadline
from snapstore.stores.readback import Write
from snapstore.stores.recording import RequestLog
from snapstore.stores.retry import retrying
from snapstore.stores.s3.calls import Call

__all__ = ["RequestLoop", "translate"]

T = TypeVar("T")

_MAX_ATTEMPTS_IF_DAMAGED: Final = 3
_MAX_ATTEMPTS_TO_CONNECT: Final = 3


class RequestLoop:
    """Runs the requests of one client.

    Args:
        client: The client.
        bucket: The bucket, for errors.
        max_concurrency: The most requests in flight. No more than the client's pool has
            connections, for which they would only wait unseen.
        single_attempts: Whether the client is ours, and makes one attempt a call; somebody else's
            may do so only for writes.

    Attributes:
        slots: One for each request that may be in flight.
    """

    def __init__(
        self, client: Any, bucket: str, *, max_concurrency: int, single_attempts: bool
    ) -> None:
        config = client.meta.config
        self.slots: asyncio.Semaphore = asyncio.Semaphore(
            min(max_concurrency, config.max_pool_connections)
        )
        self._bucket = bucket
        self._max_attempts: int | None = (config.retries or {}).get("total_max_attempts")
        self._single_attempts = single_attempts
        self._was_reached = False

    def run(
        self,
        operation: str,
        key: str,
        request: Callable[[], Awaitable[T]],
        *,
        write: Write | None = None,
    ) -> Coroutine[Any, Any, T]:
        """Make a request, and again until the deadline while its failure passes.

        Args:
            operation: The S3 operation.
            key: The key or prefix.
            request: Makes it once.
            write: The write that it makes.

        Returns:
            A coroutine with the result of the request.
        """
        attempts = 0
        log = RequestLog.begin(operation, key)

        async def once() -> T:
            nonlocal attempts
            call = Call(
                write=write,
                attempts_left=None if self._max_attempts is None else self._max_attempts - attempts,
                single_attempt=self._single_attempts or write is not None,
                log=log,
            )
            if write is not None:
                write.begin_attempt()
            try:
                with call:
                    # Released while the next attempt is waited for.
                    async with self.slots, asyncio.timeout(None) as attempt:
                        Deadline.current().begin_attempt(attempt)
                        result = await request()
            except Exception as error:  # noqa: BLE001 -- the boundary: nothing foreign passes it
                failure = translate(
                    error, operation=operation, bucket=self._bucket, key=key, sent=call.attempts > 0
                )
                if write is not None:
                    write.abandoned()
                if log is not None:
                    log.ended(failure)
            else:
                self._was_reached = True
                if log is not None:
                    log.ended(None)
                return result
            finally:
                attempts += max(call.attempts, 1)
                if log is not None:
                    log.cancelled()
            # Outside of the handler: what was caught must not be in the chain, see errors.py.
            self._was_reached = self._was_reached or failure.status is not None
            raise failure

        def max_attempts(error: StorageError) -> int | None:
            if self._max_attempts is not None and attempts >= self._max_attempts:
                return 1
            return self._max_attempts_after(error)

        return retrying(once, max_attempts=max_attempts)

    def _max_attempts_after(self, error: StorageError) -> int | None:
        """The most attempts of a request that fails like this; `None` for no limit."""
        if isinstance(error, DamagedResponseError):
            return _MAX_ATTEMPTS_IF_DAMAGED
        is_transient = isinstance(error, StorageUnavailableError | StorageTimeoutError)
        if not (is_transient and error.retryable):
            return 1
        # A server that was never reached is more likely a wrong address than one that is down.
        return None if self._was_reached else _MAX_ATTEMPTS_TO_CONNECT


def translate(
    error: Exception, *, operation: str, bucket: str, key: str | None, sent: bool
) -> StorageError:
    """See `errors.translate`, which is imported when it is needed: it imports botocore."""
    from snapstore.stores.s3 import errors

    return errors.translate(error, operation=operation, bucket=bucket, key=key, sent=sent)
