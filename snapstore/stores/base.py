"""What an object store is: bytes under keys, conditional writes, pages of keys.

`ObjectStore` is all a backend has to be; `snapstore.ObjectSnapshotStorage` makes a snapshot
storage of it, and `snapstore.testing.ObjectStoreTests` tells whether it is one. What some stores
can do beside that is in `snapstore.stores.capabilities`.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple, Protocol

import msgspec

from snapstore.errors import InvalidResponseError, StorageError

__all__ = [
    "PAGE_SIZE",
    "UNCONFIRMED",
    "Body",
    "DamagedResponseError",
    "Finding",
    "ObjectStore",
    "ObjectTooLargeError",
    "PreconditionFailedError",
    "StoredObject",
    "Version",
    "content_version",
]

PAGE_SIZE: Final = 1000
"""Keys in a page, and keys deleted in one request, at the most (Amazon S3 API Reference,
"ListObjectsV2" and "DeleteObjects")."""

UNCONFIRMED: Final = "Unconfirmed"
"""The code of a key whose result the server did not report."""


class PreconditionFailedError(StorageError):
    """A conditional write found another version, or one where there should be none.

    Attributes:
        is_missing: Whether there is no object any more, where one was to be replaced.
    """

    def __init__(self, message: str, *, is_missing: bool = False, **facts: Any) -> None:
        facts["outcome"] = "not applied"
        super().__init__(message, **facts)
        self.is_missing = is_missing


class ObjectTooLargeError(StorageError):
    """An object is larger than the reader allows. Its body has not been read."""


class DamagedResponseError(InvalidResponseError):
    """A reply was cut short, or does not match its checksum; the next one may well be whole."""


class Version(NamedTuple):
    """A version of an object, to be named as the condition of a write.

    Attributes:
        etag: The etag, without quotes.
        lineage: Opaque to callers. The store needs it when this version is overwritten; `""` if it
            needs nothing.
    """

    etag: str
    lineage: str = ""


class Body(bytes):
    """The body of an object: bytes that don't show what they hold.

    A body is a conversation. It lies in local variables of the frames that move it, and error
    trackers send the `repr` of those along with a traceback. To make one of bytes copies them.

    Example:
        >>> Body(b"hello")
        <5 bytes>
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<{len(self):,} bytes>"

    __str__ = __repr__

    def __getitem__(self, index: Any) -> Any:
        # Tools that bound what they show take the `repr` of a slice (rich, structlog).
        found = super().__getitem__(index)
        return Body(found) if isinstance(found, bytes) else found


class StoredObject(msgspec.Struct, frozen=True):
    """An object as it was read. Its `repr` does not show the body.

    Args:
        data: The whole body.
        version: Its version.
        metadata: What was kept beside it, as far as the store keeps such.
    """

    # Not a tuple: error trackers show the items of those one by one.

    data: bytes
    version: Version
    metadata: Mapping[str, str] = {}

    def __repr__(self) -> str:
        return f"StoredObject(data=<{len(self.data):,} bytes>, version={self.version!r})"

    def __rich_repr__(self) -> list[tuple[str, object]]:
        return [("data", f"<{len(self.data):,} bytes>"), ("version", self.version)]


class Finding(NamedTuple):
    """What a check has found out about one thing.

    Attributes:
        check: The thing: `"read"`, `"create-only"`, …
        status: `"ok"`; `"failed"` if something that snapstore promises does not hold; `"warning"`
            if it does, but something should be known; `"unknown"` if nothing can tell.
        message: What was found, what it means, and what to do.
    """

    check: str
    status: Literal["ok", "warning", "failed", "unknown"]
    message: str


class ObjectStore(Protocol):
    """Moves bytes under keys. Every failure is a `snapstore.errors.StorageError`.

    A store is opened once before it is used, used from one event loop, and closed; the snapshot
    storage over it sees to that, waits for what is in flight before it closes, and cancels what
    does not end by its deadline.
    """

    @property
    def name(self) -> str:
        """The place in messages, such as a bucket or a directory."""
        ...

    async def open(self) -> None:
        """Get ready. What was acquired is released again if this fails or is cancelled."""
        ...

    async def aclose(self) -> None:
        """Release everything. A closed store may be opened again, on any loop.

        If the loop that it was opened on was closed before, this is called on another one.
        """
        ...

    async def get(self, key: str, *, max_bytes: int) -> StoredObject | None:
        """Read an object.

        Args:
            key: Its full key.
            max_bytes: How large it may be.

        Returns:
            The object; `None` if there is none under this key, and for no other reason.

        Raises:
            ObjectTooLargeError: It is larger than `max_bytes`.
        """
        ...

    async def put(
        self,
        key: str,
        data: bytes,
        *,
        if_match: Version | None = None,
        if_none_match: bool = False,
    ) -> Version:
        """Write an object, whole or not at all.

        Args:
            key: Its full key.
            data: The body.
            if_match: Write only over this version: compared by its etag.
            if_none_match: Write only if there is no object under this key.

        Returns:
            The version that was written.

        Raises:
            PreconditionFailedError: The condition does not hold, a missing object included for
                `if_match`; nothing was changed.
            OutcomeUnknownError: The write was conditional, its reply was lost, and nothing can
                tell whether it was applied.
        """
        ...

    def scan(
        self, prefix: str, *, start_after: str | None = None, page_size: int = PAGE_SIZE
    ) -> AsyncGenerator[list[str], None]:
        """List keys, page by page; close the generator if you leave it early.

        Args:
            prefix: What the keys begin with; any text, `""` for all.
            start_after: Leave out all keys up to and including this one.
            page_size: Keys in a page, at the most; 1 to 1,000.

        Returns:
            An async generator of pages, a request each, made when the page is asked for. Keys that
            share everything up to their last `/` come in ascending order. Every key that is there
            all the while comes once, also if others are deleted meanwhile.
        """
        ...

    async def delete(self, keys: Sequence[str]) -> Mapping[str, str]:
        """Delete objects. One that does not exist counts as deleted.

        Args:
            keys: Full keys, at most 1,000, none twice.

        Returns:
            The keys that were not deleted, each with the server's code, or `UNCONFIRMED`.
        """
        ...


def content_version(data: bytes) -> Version:
    """The version of a body, for stores that keep none: its etag is a hash of the content."""
    return Version(hashlib.blake2b(data, digest_size=16).hexdigest())
