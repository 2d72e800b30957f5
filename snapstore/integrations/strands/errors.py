"""Errors that are snapstore's and the SDK's at once.

The SDK promises its users that a storage raises `strands.types.exceptions.StorageError`. snapstore
promises a `SnapstoreError` of a class that tells what is wrong. So each error that leaves
`StrandsStorage` is of a class that derives from both. For a session that can't be restored, the
SDK's session manager promises a `SnapshotException`, so a `SnapshotDecodeError` is one as well.
"""

from __future__ import annotations

from functools import cache
from typing import Any, cast

from strands.types.exceptions import SnapshotException

from snapstore.errors import SnapshotDecodeError, SnapstoreError
from snapstore.integrations.strands.sdk import SDKStorageError

__all__ = ["for_strands"]


def for_strands(error: SnapstoreError) -> SnapstoreError:
    """Make an error that is one of the SDK's, too.

    Args:
        error: One of ours. It is not changed.

    Returns:
        A new error of a class that derives from the error's and the SDK's `StorageError`, with the
        same message, attributes and cause; the error itself, if it is of such a class already.
    """
    if isinstance(error, SDKStorageError):
        return error
    kind: Any = type(error)
    both = _rebuilt(_of_both(kind), error)
    both.__cause__ = error.__cause__
    return both


@cache
def _of_both(kind: type[SnapstoreError]) -> type[SnapstoreError]:
    # It keeps the name of its own class, which is the one that users look up.
    names = {"__module__": kind.__module__, "__doc__": kind.__doc__, "__reduce__": _reduce}
    theirs: list[type[Exception]] = [SDKStorageError]
    if issubclass(kind, SnapshotDecodeError):
        theirs.append(SnapshotException)
    return cast("type[SnapstoreError]", type(kind.__name__, (kind, *theirs), names))


def _reduce(error: SnapstoreError) -> tuple[Any, ...]:
    """Pickle it as an error of ours, which becomes one of both again when it is loaded."""
    return for_strands, (_rebuilt(type(error).__mro__[1], error),)


def _rebuilt(kind: type[SnapstoreError], error: SnapstoreError) -> SnapstoreError:
    rebuilt = kind.__new__(kind, *error.args)
    rebuilt.args = error.args
    rebuilt.__dict__.update(error.__dict__)
    return rebuilt
