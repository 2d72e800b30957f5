"""Deletes on a condition: `If-Match` of a DeleteObject, where the server keeps it.

Many servers know no such condition and ignore it: they delete. So whether this one keeps it is
found out first, with an object that nobody else knows. Batches are not used: a server that keeps
the condition of a single delete may ignore those in a batch (moto 5.2).
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Final

from snapstore.errors import OutcomeUnknownError, StorageError, UnsupportedOperationError
from snapstore.stores import readback
from snapstore.stores.base import PreconditionFailedError, Version
from snapstore.stores.deadline import Deadline
from snapstore.stores.readback import Classification
from snapstore.stores.s3.conditions import ETagSpelling, S3Write
from snapstore.stores.s3.request_loop import RequestLoop
from snapstore.stores.s3.requests import Requests, is_refused_as_such
from snapstore.stores.s3.writes import Writes

__all__ = ["ConditionalDeletes"]

_ANOTHER_ETAG: Final = "00000000000000000000000000000000"
_BODY: Final = b'{"snapstore":"conditional deletes"}'
_REFUSED: Final = (304, 412)


class ConditionalDeletes:
    """Deletes objects of one bucket at a version.

    Args:
        loop: Makes the requests.
        requests: One request each.
        writes: Writes the scratch object, and looks at what became of a delete.
        quoted: Whether etags are tried in quotes first.
        may_resend: Whether the HTTP client may send a request again, and nobody learns of it.
    """

    def __init__(
        self,
        loop: RequestLoop,
        requests: Requests,
        writes: Writes,
        *,
        quoted: bool,
        may_resend: bool,
    ) -> None:
        self._loop = loop
        self._requests = requests
        self._writes = writes
        # Not that of writes: a server may have another rule for deletes.
        self._spelling = ETagSpelling()
        self._spelling.quoted = quoted
        self._may_resend = may_resend
        self._are_kept: bool | None = None
        self._probing = asyncio.Lock()

    async def are_kept(self, scratch_key: str) -> bool:
        """See `ConditionalDeleteStore.has_conditional_deletes`."""
        async with self._probing:
            if self._are_kept is None:
                self._are_kept = await self._probe(scratch_key)
            return self._are_kept

    async def delete(self, key: str, version: Version) -> None:
        """See `ConditionalDeleteStore.delete_if_match`."""
        if not self._are_kept:
            why = "ignores the condition" if self._are_kept is False else "was not asked before"
            raise UnsupportedOperationError(
                f"DeleteObject of {key} at a version: the server {why} (has_conditional_deletes)",
                operation="DeleteObject",
                key=key,
                outcome="not applied",
            )
        delete = self._new_delete(version)
        try:
            while (failure := await self._send(key, delete)) is not None:
                await self._respell_or_raise(key, delete, failure)
        except asyncio.CancelledError:
            Deadline.current().outcome = delete.outcome
            raise

    def _new_delete(self, version: Version) -> S3Write:
        delete = S3Write(version, create=False)
        delete.quoted = self._spelling.quoted
        return delete

    async def _send(self, key: str, delete: S3Write) -> StorageError | None:
        """Send a delete, and again after failures that pass.

        Returns:
            How the last attempt failed; `None` if it did not.
        """
        try:
            await self._loop.run(
                "DeleteObject",
                key,
                lambda: self._requests.delete_one(key, delete.precondition),
                write=delete,
            )
        except StorageError as error:
            error.outcome = delete.outcome
            return error
        return None

    async def _respell_or_raise(self, key: str, delete: S3Write, failure: StorageError) -> None:
        """Tell what became of a delete that failed.

        Returns:
            If its condition holds, but was refused, and is spelled in another way now.

        Raises:
            StorageError: What became of it.
        """
        is_refused = failure.status in _REFUSED
        found = None
        if failure.code != "NoSuchKey":
            if not (is_refused or delete.may_be_applied):
                raise failure
            found, is_read = await self._read_back(key)
            if not is_read and delete.may_be_applied:
                raise _unknown(failure, delete)
            if not is_read:
                raise _refused(failure, is_missing=False, is_known=True)
        classified = delete.classify(found)
        if found is not None and classified is Classification.NOT_APPLIED:
            if is_refused and self._spelling.respell(delete, found.etag):
                return
            if delete.may_still_apply:
                raise _unknown(failure, delete)
            if not is_refused:
                failure.outcome = "not applied"
                raise failure
            raise _refused(failure, is_missing=False, is_known=True)
        is_missing = found is None
        is_known = classified is not Classification.UNKNOWN and not (
            is_missing and self._may_resend
        )
        raise _refused(failure, is_missing=is_missing, is_known=is_known)

    async def _read_back(self, key: str) -> tuple[Version | None, bool]:
        """The version of an object now, and whether that could be read."""
        try:
            return await self._writes.head(key), True
        except StorageError:
            return None, False

    async def _probe(self, key: str) -> bool:
        try:
            if await self._find_spelling(key):
                return True  # by which it was deleted
        except BaseException:
            with suppress(StorageError):
                await self._remove(key)
            raise
        await self._remove(key)
        return False

    async def _remove(self, key: str) -> None:
        await self._loop.run("DeleteObject", key, lambda: self._requests.delete_one(key))

    async def _find_spelling(self, key: str) -> bool:
        """Find the spelling in which another etag is refused, and the object's own is taken."""
        for quoted in (self._spelling.quoted, not self._spelling.quoted):
            self._spelling.quoted = quoted
            await readback.put(self._writes, key, _BODY, S3Write(None, create=False))
            version = await self._writes.head(key)
            refusal = await self._try(key, Version(_ANOTHER_ETAG))
            if refusal not in _REFUSED or version is None or await self._writes.head(key) is None:
                continue
            await self._try(key, version)
            if await self._writes.head(key) is None:
                self._spelling.accepted(self._new_delete(version))
                return True
        return False

    async def _try(self, key: str, version: Version) -> int | None:
        """Delete the scratch object at a version. Returns the status of a refusal."""
        failure = await self._send(key, self._new_delete(version))
        if failure is None:
            return None
        if not (
            failure.status in _REFUSED or failure.code == "NoSuchKey" or is_refused_as_such(failure)
        ):
            raise failure
        return failure.status


def _refused(failure: StorageError, *, is_missing: bool, is_known: bool) -> PreconditionFailedError:
    words = str(failure) if is_known else f"{failure}; an attempt before may have deleted it"
    error = PreconditionFailedError(words, is_missing=is_missing, **failure.facts)
    error.outcome = "not applied" if is_known else "unknown"
    return error


def _unknown(failure: StorageError, delete: S3Write) -> OutcomeUnknownError:
    when = "may yet be applied" if delete.may_still_apply else "may have been applied"
    facts = failure.facts
    facts["outcome"] = "unknown"
    return OutcomeUnknownError(f"{failure}; it {when}", **facts)
