"""The errors of the system, as errors of a store."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from typing import Final, TypeVar

from snapstore.errors import AccessDeniedError, Outcome, OutcomeUnknownError, StorageError

__all__ = ["call", "translate"]

T = TypeVar("T")

_REASONS: Final = {
    errno.ENOSPC: "the disk is full; free some space, or choose another root",
    errno.EDQUOT: "the disk quota is used up; free some space, or choose another root",
    errno.EROFS: "the file system is read-only; choose another root",
    errno.EMFILE: "this process has too many open files; raise its limit (ulimit -n)",
}

_WRITES: Final = frozenset({"put", "copy"})
"""Operations whose errors say that nothing was written, where they say nothing else."""


def call(root: str, operation: str, key: str, work: Callable[[], T]) -> T:
    """Do something, and turn an `OSError` into a `StorageError`.

    Args:
        root: The root of the store.
        operation: What errors call it.
        key: The key or prefix that errors name.
        work: What is to be done.
    """
    try:
        return work()
    except StorageError as error:
        if operation in _WRITES and error.outcome is None:  # what stands in the way of it
            error.outcome = "not applied"
        raise
    except OSError as error:
        raise translate(error, root, operation, key) from error


def translate(
    error: OSError,
    root: str,
    operation: str,
    key: str,
    *,
    happened: str = "failed",
    outcome: Outcome | None = None,
) -> StorageError:
    """The error of a store for an error of the system.

    Args:
        error: The error; its `filename` is an absolute path.
        root: The root of the store.
        operation: What the error calls the operation.
        key: The key or prefix that the error names.
        happened: What has happened to the operation.
        outcome: What became of a write.
    """
    kind = AccessDeniedError if isinstance(error, PermissionError) else StorageError
    if outcome == "unknown":
        kind = OutcomeUnknownError
    elif outcome is None and operation in _WRITES:
        outcome = "not applied"
    return kind(
        f"{operation} of {key} in {root} {happened}: {_reason(error)}",
        operation=operation,
        bucket=root,
        key=key,
        code=errno.errorcode.get(error.errno or 0),
        outcome=outcome,
    )


def _reason(error: OSError) -> str:
    """What went wrong, in words that say what to do."""
    path = error.filename if isinstance(error.filename, str) else ""
    if isinstance(error, PermissionError):
        return f"permission denied{_owner(path)}; check its owner and mode"
    reason = _REASONS.get(error.errno or 0)
    if reason is not None:
        return reason
    return (error.strerror or type(error).__name__) + (f" ({path})" if path else "")


def _owner(path: str) -> str:
    """Who owns a path, or the deepest directory above it that can be looked at."""
    while os.path.isabs(path):
        try:
            status = os.lstat(path)
        except OSError:
            path = os.path.dirname(path)
            continue
        return (
            f": {path} belongs to user {status.st_uid} with mode {stat.S_IMODE(status.st_mode):04o}"
            f", and this process runs as user {os.geteuid()}"
        )
    return ""
