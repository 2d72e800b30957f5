"""Writes to a bucket, as `snapstore.stores.readback` needs them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from snapstore.errors import StorageError
from snapstore.stores.base import PreconditionFailedError, Version
from snapstore.stores.deadline import Deadline
from snapstore.stores.s3.conditions import ETagSpelling, S3Write
from snapstore.stores.s3.request_loop import RequestLoop
from snapstore.stores.s3.requests import Requests

__all__ = ["Writes"]


class Writes:
    """Sends writes, and looks at what became of them: a `WriteBackend`.

    Args:
        loop: Makes the requests.
        requests: One request each.
        spelling: How the server wants etags.
    """

    def __init__(self, loop: RequestLoop, requests: Requests, spelling: ETagSpelling) -> None:
        self._loop = loop
        self._requests = requests
        self._spelling = spelling

    async def send(self, key: str, data: bytes | Callable[[], bytes], write: S3Write) -> Version:
        """See `WriteBackend.send`. A CRC-32 of the body goes with it for the server to check."""

        def request() -> Awaitable[Version]:
            body = data() if callable(data) else data
            Deadline.current().allow(len(body))
            return self._requests.put(key, body, write)

        try:
            version = await self._loop.run("PutObject", key, request, write=write)
        except StorageError as error:
            failure = error
        else:
            self._spelling.accepted(write)
            return version
        if write.condition is None:
            raise failure
        # The answer to a condition in a spelling that the server can't read.
        is_misread = type(failure) is StorageError and failure.status == 400
        if is_misread and self.respell(write, write.condition):
            return await self.send(key, data, write)
        # For a missing object, S3 says NoSuchKey; for an existing one, early MinIO says 304.
        if failure.status in (304, 412) or failure.code == "NoSuchKey":
            raise PreconditionFailedError(str(failure), **failure.facts)
        raise failure

    async def head(self, key: str) -> Version | None:
        """See `WriteBackend.head`."""
        try:
            return await self._loop.run("HeadObject", key, lambda: self._requests.head(key))
        except StorageError as error:
            if error.status != 404:
                raise
        return None

    def respell(self, write: S3Write, etag: str) -> bool:
        """See `WriteBackend.respell`."""
        return self._spelling.respell(write, etag)
