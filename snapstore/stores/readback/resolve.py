"""Send a write, and read it back when its outcome is not clear."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from snapstore.errors import OutcomeUnknownError, StorageError
from snapstore.stores.base import PreconditionFailedError, Version
from snapstore.stores.deadline import Deadline
from snapstore.stores.readback.write import Classification, Write

__all__ = ["RefusedPut", "WriteBackend", "put", "try_put"]

WriteT = TypeVar("WriteT", bound=Write)
WriteT_contra = TypeVar("WriteT_contra", bound=Write, contravariant=True)


class WriteBackend(Protocol[WriteT_contra]):
    """What reading back needs of a backend that has conditional writes and metadata."""

    async def send(
        self, key: str, data: bytes | Callable[[], bytes], write: WriteT_contra
    ) -> Version:
        """Send a write, and again after failures that pass, as the backend does with any request.

        It notes each attempt in `write`.

        Args:
            key: The object's key.
            data: The body; or a function that makes it for each attempt.
            write: Its `metadata` is stored with the object, its `condition` holds for it.

        Returns:
            `write.version` of the new etag.

        Raises:
            PreconditionFailedError: The condition was refused, perhaps because an earlier attempt
                of this write was applied.
            StorageError: The last attempt failed.
        """
        ...

    async def head(self, key: str) -> Version | None:
        """The version of an object, made by `version_of`; `None` if there is no object.

        Raises:
            StorageError: It can't be told.
        """
        ...

    def respell(self, write: WriteT_contra, etag: str) -> bool:
        """Change the condition of a write that was refused although it holds.

        Servers differ in how they want an etag to be written.

        Args:
            write: The write.
            etag: The etag of the version to be replaced, as the server returned it last.

        Returns:
            Whether the write is to be sent again; `False` if there is nothing left to change.
        """
        ...


class RefusedPut(Generic[WriteT]):
    """A conditional write that was refused, see `RefusedWrite`.

    Attributes:
        write: The write.
        failure: How its last attempt failed.
    """

    def __init__(
        self, backend: WriteBackend[WriteT], write: WriteT, failure: PreconditionFailedError
    ) -> None:
        self.write = write
        self.failure = failure
        self._backend = backend

    def resolve(self, found: Version | None) -> Version:
        """See `RefusedWrite.resolve`."""
        classified = self.write.classify(found)
        if isinstance(classified, Version):
            return classified
        is_unchanged = classified is Classification.NOT_APPLIED
        if is_unchanged:
            self.respell(found)  # for the next write
        if classified is Classification.UNKNOWN or (is_unchanged and self.write.may_still_apply):
            raise _unknown(self.failure, self.write)
        raise _precondition_failed(self.failure, is_missing=found is None)

    def respell(self, found: Version | None) -> bool:
        """Change the condition, see `WriteBackend.respell`."""
        return found is not None and self._backend.respell(self.write, found.etag)


async def put(
    backend: WriteBackend[WriteT],
    key: str,
    data: bytes | Callable[[], bytes],
    write: WriteT,
) -> Version:
    """Write an object. A refused or ambiguous write is read back, with one HEAD.

    Args:
        backend: What sends it.
        key: The object's key.
        data: The body; or a function that makes it for each attempt.
        write: The write.

    Returns:
        The version that was written.

    Raises:
        PreconditionFailedError: The condition does not hold, and nothing was changed.
        OutcomeUnknownError: The write was conditional, and nothing can tell whether it was applied.
        StorageError: It failed; `outcome` says what is known.
    """
    result = await try_put(backend, key, data, write)
    while not isinstance(result, Version):
        found = await _read_back(backend, key, write, result.failure)
        is_unchanged = write.classify(found) is Classification.NOT_APPLIED
        if not (is_unchanged and result.respell(found)):
            return result.resolve(found)
        result = await try_put(backend, key, data, write)
    return result


async def try_put(
    backend: WriteBackend[WriteT],
    key: str,
    data: bytes | Callable[[], bytes],
    write: WriteT,
) -> Version | RefusedPut[WriteT]:
    """Write as `put` does, but return a refused write: for a caller who reads the object anyway."""
    try:
        return await backend.send(key, data, write)
    except asyncio.CancelledError:
        Deadline.current().outcome = write.outcome
        raise
    except StorageError as error:
        failure = error
    failure.outcome = write.outcome
    if write.condition is None:
        raise failure
    if isinstance(failure, PreconditionFailedError):
        return RefusedPut(backend, write, failure)
    if write.may_be_applied:
        classified = write.classify(await _read_back(backend, key, write, failure))
        if isinstance(classified, Version):
            return classified
        if classified is Classification.SUPERSEDED:
            raise _precondition_failed(failure)
        if classified is Classification.UNKNOWN or write.may_still_apply:
            raise _unknown(failure, write)
        failure.outcome = "not applied"
    raise failure


async def _read_back(
    backend: WriteBackend[WriteT], key: str, write: WriteT, failure: StorageError
) -> Version | None:
    """The version of an object now, to tell whether a write was applied.

    Raises:
        OutcomeUnknownError: The object can't be looked at.
    """
    try:
        return await backend.head(key)
    except asyncio.CancelledError:
        Deadline.current().outcome = "unknown"
        raise
    except StorageError:
        pass
    raise _unknown(failure, write)


def _precondition_failed(
    failure: StorageError, *, is_missing: bool = False
) -> PreconditionFailedError:
    return PreconditionFailedError(str(failure), is_missing=is_missing, **failure.facts)


def _unknown(failure: StorageError, write: Write) -> OutcomeUnknownError:
    when = "may yet be applied" if write.may_still_apply else "may have been applied"
    facts = failure.facts
    facts["outcome"] = "unknown"
    return OutcomeUnknownError(f"{failure}; it {when}", **facts)
