"""What the operation of a storage under way has done so far, for its hook.

The recording is a context variable, as the deadline is, so that an object store adds its requests
without being handed it through every call. Without a hook it is `None`: nothing is recorded, and
nothing is allocated for it.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar, Token
from time import perf_counter, time
from typing import Final, Literal

import msgspec

from snapstore.errors import StorageError
from snapstore.stores.contexts import restore

__all__ = [
    "RecordInto",
    "Recording",
    "RequestLog",
    "RequestRecord",
    "count_conflict",
    "count_read",
    "count_written",
    "current_recording",
]


class RequestRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One HTTP request of an operation. It has no content.

    Args:
        operation: The S3 operation: `"GetObject"`.
        path: `"fast"` if it was replayed from a template, `"slow"` if the client has made it.
        attempt: 1 for the first request of this call, more where it was sent again.
        started: Seconds from the start of the operation until it was sent.
        seconds: Seconds until its response was read, or it was given up.
        status: The HTTP status; `None` without a response.
        error: The class of the error that it failed with, `"CancelledError"` if nobody waited for
            it any longer, as after a deadline; `None` if it succeeded, or if it was sent again at
            once, on the slow path or to another region.
        code: The server's code for the error; `None` where it gave none.
        key: The full key, or the prefix of a listing, if the storage was asked for keys;
            otherwise `None`.
    """

    operation: str
    path: Literal["fast", "slow"]
    attempt: int
    started: float
    seconds: float
    status: int | None = None
    error: str | None = None
    code: str | None = None
    key: str | None = None


class Recording:
    """What one operation has done so far. It is filled by the tasks of the operation.

    Args:
        with_keys: Whether requests are recorded with their keys.

    Attributes:
        with_keys: As the argument.
        began_at: When the operation began, in seconds of Unix time.
        requests: Its requests, in the order in which they ended.
        bytes_read: Bytes of the objects that it has read.
        bytes_written: Bytes of the documents that it has sent.
        conflicts: How often another writer came first.
        key: The key or prefix that it is about; `None` before its first call of the store.
    """

    def __init__(self, *, with_keys: bool) -> None:
        self.with_keys: bool = with_keys
        self.began_at: float = time()
        self._began = perf_counter()
        self.requests: list[RequestRecord] = []
        self.bytes_read: int = 0
        self.bytes_written: int = 0
        self.conflicts: int = 0
        self.key: str | None = None

    @property
    def seconds(self) -> float:
        """Seconds since it began."""
        return perf_counter() - self._began


_current: ContextVar[Recording | None] = ContextVar("snapstore_recording", default=None)

current_recording: Final[Callable[[], Recording | None]] = _current.get
"""That of the operation under way; `None` without a hook."""


class RecordInto:
    """Make a recording the current one, as a context manager.

    Args:
        recording: The recording; `None` to record nothing, while the code of a caller runs.
    """

    __slots__ = ("_recording", "_token")

    def __init__(self, recording: Recording | None) -> None:
        self._recording = recording
        self._token: Token[Recording | None] | None = None

    def __enter__(self) -> None:
        self._token = _current.set(self._recording)

    def __exit__(self, *_: object) -> None:
        restore(_current, self._token)


class RequestLog:
    """The requests of one call of an object store, for the recording.

    Args:
        recording: The recording.
        operation: The S3 operation.
        key: The key or prefix.
    """

    def __init__(self, recording: Recording, operation: str, key: str) -> None:
        self._recording = recording
        self._operation = operation
        self._key = key if recording.with_keys else None
        self._path: Literal["fast", "slow"] = "slow"
        self._attempt = 0
        self._began: float | None = None
        self._status: int | None = None

    @classmethod
    def begin(cls, operation: str, key: str) -> RequestLog | None:
        """A log for the recording of the operation under way; `None` without one."""
        recording = current_recording()
        return None if recording is None else cls(recording, operation, key)

    def sent(self, path: Literal["fast", "slow"]) -> None:
        """Note that a request is being sent. An earlier one in flight has ended."""
        self._end(None, None)
        self._attempt += 1
        self._path, self._began, self._status = path, self._recording.seconds, None

    def answered(self, status: int) -> None:
        """Note the HTTP status of the response to the request in flight."""
        self._status = status

    def ended(self, failure: StorageError | None) -> None:
        """Note that the request in flight has ended, and its failure."""
        if failure is None:
            self._end(None, None)
        else:
            self._end(type(failure).__name__, failure.code)

    def cancelled(self) -> None:
        """Note that nobody waits any longer for the request in flight, if there is one."""
        self._end("CancelledError", None)

    def _end(self, error: str | None, code: str | None) -> None:
        began, self._began = self._began, None
        if began is None:
            return
        self._recording.requests.append(
            RequestRecord(
                operation=self._operation,
                path=self._path,
                attempt=self._attempt,
                started=began,
                seconds=self._recording.seconds - began,
                status=self._status,
                error=error,
                code=code,
                key=self._key,
            )
        )


def count_read(size: int) -> None:
    """Count the bytes of an object that was read."""
    if (recording := current_recording()) is not None:
        recording.bytes_read += size


def count_written(size: int) -> None:
    """Count the bytes of a document that is sent, once for all attempts."""
    if (recording := current_recording()) is not None:
        recording.bytes_written += size


def count_conflict() -> None:
    """Count a conditional write that another writer came before."""
    if (recording := current_recording()) is not None:
        recording.conflicts += 1
