"""Every error snapstore raises.

::

    SnapstoreError
    ├── InvalidIdentifierError   (ValueError)
    ├── ScopeMismatchError       (ValueError)
    ├── SnapshotEncodeError      (ValueError)
    ├── SnapshotDecodeError      (ValueError)
    ├── InvalidExportError       (ValueError)
    ├── LifecycleError           (RuntimeError)
    │   ├── StorageClosedError
    │   └── WrongEventLoopError
    └── StorageError
        ├── BucketNotFoundError
        ├── AccessDeniedError     (PermissionError)
        ├── SnapshotConflictError
        │   ├── SnapshotExistsError
        │   └── SessionDeletedError
        ├── SnapshotNotFoundError (LookupError)
        ├── OutcomeUnknownError
        ├── StorageTimeoutError   (TimeoutError)
        ├── StorageUnavailableError
        ├── InvalidResponseError
        ├── UnsupportedOperationError
        └── PartialDeleteError

Messages name keys, never what is stored under them, and are one line each. Every error can be
pickled.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Final, Literal

__all__ = [
    "AccessDeniedError",
    "BucketNotFoundError",
    "InvalidExportError",
    "InvalidIdentifierError",
    "InvalidResponseError",
    "LifecycleError",
    "Outcome",
    "OutcomeUnknownError",
    "PartialDeleteError",
    "ScopeMismatchError",
    "SessionDeletedError",
    "SnapshotConflictError",
    "SnapshotDecodeError",
    "SnapshotEncodeError",
    "SnapshotExistsError",
    "SnapshotNotFoundError",
    "SnapstoreError",
    "StorageClosedError",
    "StorageError",
    "StorageTimeoutError",
    "StorageUnavailableError",
    "UnsupportedOperationError",
    "WrongEventLoopError",
]

_MAX_MESSAGE: Final = 4_096
_MAX_NOTE: Final = 32
"""Room for the note that says how long a truncated text was, in characters."""


def shown(text: str, limit: int = 1_024) -> str:
    """Prepare text of a server or a caller for a message or a log record.

    A line break in it could forge a line of a log, and its length is up to its author.

    Args:
        text: The text: a key, a code, a region.
        limit: How many characters the result may have. The default fits every key of S3.

    Returns:
        The text, with escapes for what is not printable (line breaks, control characters,
        surrogates, marks that change the direction of writing), and cut where it is too long.
    """
    length = len(text)
    text = text[:limit]
    if not text.isprintable():
        text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    if max(length, len(text)) > limit:
        text = f"{text[: limit - _MAX_NOTE]}... ({length:,} characters)"
    return text


Outcome = Literal["not applied", "applied", "unknown"]
"""What became of a write that failed."""


class SnapstoreError(Exception):
    """Base of every error that snapstore raises on its own account.

    Args:
        message: What is wrong and what to do; it is kept as `shown` prepares it.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(shown(message, _MAX_MESSAGE))


class InvalidIdentifierError(SnapstoreError, ValueError):
    """A session, scope or snapshot id, a scope, a prefix or an etag is not a valid one.

    Raised before any request is sent.
    """


class ScopeMismatchError(SnapstoreError, ValueError):
    """A snapshot's scope is not the scope of the location it is to be saved at."""


class SnapshotEncodeError(SnapstoreError, ValueError):
    """A snapshot holds what JSON can't carry exactly, is too deep or too large.

    The message gives the path to the value, never the value.
    """


class SnapshotDecodeError(SnapstoreError, ValueError):
    """What is stored under a key is not a good snapshot or manifest.

    Attributes:
        key: The full key of the object, where one is known.
    """

    def __init__(self, message: str, *, key: str | None = None) -> None:
        super().__init__(message)
        self.key = key


class InvalidExportError(SnapstoreError, ValueError):
    """A file to be imported is no export of a session, or is damaged, or was cut.

    Nothing was imported. The message names members, never what they hold.
    """


class LifecycleError(SnapstoreError, RuntimeError):
    """A storage was opened, used or closed in the wrong state."""


class StorageClosedError(LifecycleError):
    """A storage was used before it was opened or after it was closed."""


class WrongEventLoopError(LifecycleError):
    """A storage was used from another event loop than the one it was opened on."""


class StorageError(SnapstoreError):
    """A request to an object store failed. The base of all errors of object stores.

    Attributes:
        operation: The request that failed, as the object store names it (`"PutObject"`).
        bucket: The bucket, or the root directory of a file store.
        key: The full key, or the prefix of a listing.
        code: The server's error code (`"AccessDenied"`).
        status: The HTTP status.
        request_id: The server's id of the request, to quote to its owner.
        retry_after: Seconds the server asked to wait.
        outcome: What became of a write: `"not applied"` and it will not be, `"applied"`, or
            `"unknown"`. `None` for a read.
        retryable: Whether the same call may succeed later and has no effect twice. For a write
            to history it is the call with `snapshot_id`.
        snapshot_id: The id of the snapshot that was to be saved in history, also where it was
            made by the call; `None` for any other operation.
    """

    _transient: ClassVar[bool] = False
    """Whether this kind of failure may be over at the next call."""

    def __init__(
        self,
        message: str,
        *,
        operation: str | None = None,
        bucket: str | None = None,
        key: str | None = None,
        code: str | None = None,
        status: int | None = None,
        request_id: str | None = None,
        retry_after: float | None = None,
        outcome: Outcome | None = None,
        retryable: bool | None = None,
        snapshot_id: str | None = None,
    ) -> None:
        super().__init__(message)
        self.operation = operation
        self.bucket = bucket
        self.key = key
        self.code = code
        self.status = status
        self.request_id = request_id
        self.retry_after = retry_after
        self.outcome = outcome
        self.retryable: bool = self._transient if retryable is None else retryable
        self.snapshot_id = snapshot_id

    @property
    def facts(self) -> dict[str, Any]:
        """The attributes above as keyword arguments, to raise the same in other words.

        Without `retryable`, which depends on the class of the error.
        """
        return {
            "operation": self.operation,
            "bucket": self.bucket,
            "key": self.key,
            "code": self.code,
            "status": self.status,
            "request_id": self.request_id,
            "retry_after": self.retry_after,
            "outcome": self.outcome,
            "snapshot_id": self.snapshot_id,
        }


class BucketNotFoundError(StorageError):
    """The bucket does not exist."""


class AccessDeniedError(StorageError, PermissionError):
    """The credentials are missing, wrong, expired or not allowed to do this."""


class SnapshotConflictError(StorageError):
    """A conditional write lost its race and changed nothing."""


class SnapshotExistsError(SnapshotConflictError):
    """Another snapshot is already stored under this id; history is never overwritten."""


class SessionDeletedError(SnapshotConflictError):
    """There is no object where one was to be replaced. Usually the session was deleted.

    Nothing was written, so that a retry does not bring back what was deleted.
    """


class SnapshotNotFoundError(StorageError, LookupError):
    """History has no snapshot under the id that an operation needs. Nothing was changed."""


class OutcomeUnknownError(StorageError):
    """The response to a write was lost, and nothing can tell whether it was applied."""


class StorageTimeoutError(StorageError, TimeoutError):
    """The deadline passed. `outcome` says whether a write may have been applied."""

    _transient = True


class StorageUnavailableError(StorageError):
    """The server is down, throttling, failing or contended, after retries.

    `outcome` says whether a write may have been applied.
    """

    _transient = True


class InvalidResponseError(StorageError):
    """The server's answer was broken: protocol, length, checksum or order."""


class UnsupportedOperationError(StorageError):
    """The server refuses the feature that the request needs."""


class PartialDeleteError(StorageError):
    """Some objects could not be confirmed as deleted.

    Attributes:
        failed: The full key of each, with the server's code; `"Unconfirmed"` where it gave none.
    """

    _transient = True

    def __init__(
        self, message: str, *, failed: Mapping[str, str] | None = None, **facts: Any
    ) -> None:
        super().__init__(message, **facts)
        self.failed: dict[str, str] = dict(failed or {})
