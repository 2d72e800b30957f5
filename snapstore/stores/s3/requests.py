"""What the slow and the fast path have in common: the requests, and how values look on the wire."""

from __future__ import annotations

import base64
import hashlib
import re
import zlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, Generic, NamedTuple, Protocol, TypeVar

from snapstore.errors import InvalidResponseError, StorageError, UnsupportedOperationError
from snapstore.stores.base import (
    Body,
    DamagedResponseError,
    ObjectTooLargeError,
    StoredObject,
    Version,
)
from snapstore.stores.capabilities import ObjectDetails, ObjectLock, ObjectVersion
from snapstore.stores.s3.conditions import S3Write

__all__ = [
    "CRC32",
    "DELETED",
    "Page",
    "Requests",
    "bare_etag",
    "content_md5",
    "crc32",
    "details_of",
    "etag_of",
    "invalid_entry",
    "is_refused_as_such",
    "keys_of",
    "read_object",
    "time_of",
    "too_large",
    "xml_can_carry",
]

T = TypeVar("T")
Token = TypeVar("Token")

CRC32: Final = "x-amz-checksum-crc32"
"""The header with the CRC-32 of a body."""

DELETED: Final = "Deleted"
"""Stands in place of a code: the key was deleted."""

_CHUNK: Final = 256 * 1024
_NOT_FOR_XML = re.compile("[\x00-\x1f\x7f-\x9f\ufffe\uffff]")


class Page(NamedTuple, Generic[T, Token]):
    """A page of a listing, as the server gave it.

    Attributes:
        items: What is listed, in the server's order.
        truncated: Whether the listing goes on; `None` where the server did not say.
        token: Where the next page begins; `None` where the server did not say.
    """

    items: list[T]
    truncated: bool | None
    token: Token | None


class Requests(Protocol):
    """One S3 request each, made by the slow path or the fast one."""

    def close(self) -> None:
        """Remove the hooks from the client."""
        ...

    async def get(self, key: str, max_bytes: int) -> StoredObject:
        """Read an object. Its length is checked before its body is read."""
        ...

    async def head(self, key: str) -> Version:
        """Ask for an object's version."""
        ...

    async def metadata_of(self, key: str) -> tuple[Mapping[str, str], Version]:
        """Ask for what a caller keeps beside an object, and of which version."""
        ...

    async def put(self, key: str, data: bytes, write: S3Write) -> Version:
        """Write an object, with a CRC-32 of the body for the server to check."""
        ...

    async def list(
        self, prefix: str, page_size: int, start_after: str | None, token: str | None
    ) -> Page[str, str]:
        """Fetch a page of a listing: the one at a token, or the first one."""
        ...

    async def list_details(
        self, prefix: str, page_size: int, start_after: str | None, token: str | None
    ) -> Page[ObjectDetails, str]:
        """Fetch a page as `list` does, with what it tells of each object."""
        ...

    async def list_prefixes(
        self,
        prefix: str,
        delimiter: str,
        page_size: int,
        start_after: str | None,
        token: str | None,
    ) -> Page[tuple[str, bool], str]:
        """Fetch a page of a listing by a delimiter.

        Returns:
            The page: common prefixes and keys, and of each whether it is a common prefix.
        """
        ...

    async def delete(self, keys: Sequence[str]) -> dict[str, str]:
        """Delete objects. Returns the result for each key: `DELETED`, or a code."""
        ...

    async def delete_one(
        self,
        key: str,
        condition: tuple[str, str] | None = None,
        *,
        version_id: str | None = None,
        bypass_governance: bool = False,
    ) -> None:
        """Delete an object whose key is in the URL, and not in a document.

        Args:
            key: The key.
            condition: The header of the condition, as `S3Write.precondition`.
            version_id: The version that is deleted for good; `None` for the object.
            bypass_governance: Whether one locked in governance mode is deleted, too.
        """
        ...

    async def copy(self, source: str, key: str, write: S3Write) -> Version:
        """Copy an object, with the metadata of a write in place of its own."""
        ...

    async def list_versions(
        self, prefix: str, page_size: int, token: tuple[str, str] | None
    ) -> Page[ObjectVersion, tuple[str, str]]:
        """Fetch a page of versions. Its token is a key, and a version id that may be `""`."""
        ...

    async def delete_versions(
        self, versions: Sequence[tuple[str, str]], *, bypass_governance: bool = False
    ) -> dict[tuple[str, str], str]:
        """Delete versions, each a key and a version id. Returns as `delete`."""
        ...

    async def lock_of(self, key: str, version_id: str) -> ObjectLock | None:
        """Ask for the object lock of a version."""
        ...

    async def needs_mfa_to_delete(self) -> bool:
        """Ask whether the bucket's versions are deleted only with a code (MFA delete)."""
        ...


def keys_of(found: Sequence[str | None], prefix: str) -> list[str]:
    """The keys of a page.

    Args:
        found: The key of each entry.
        prefix: The prefix of the listing, for the error.

    Raises:
        InvalidResponseError: An entry has none.
    """
    keys = [key for key in found if key is not None]
    if len(keys) < len(found):
        raise invalid_entry(prefix, "key")
    return keys


def details_of(found: Mapping[str, Any], prefix: str) -> ObjectDetails:
    """What the entry of a listing tells of an object.

    Args:
        found: The texts of the entry's elements by name, or what the client made of them.
        prefix: The prefix of the listing, for the error.

    Raises:
        InvalidResponseError: The entry has no key, no size or no time, or they can't be read.
    """
    key, size = found.get("Key"), str(found.get("Size", ""))
    if key is None:
        raise invalid_entry(prefix, "key")
    if not (size.isascii() and size.isdigit()):
        raise invalid_entry(prefix, "size", key)
    etag = found.get("ETag")
    modified = time_of(found, prefix)
    return ObjectDetails(key, int(size), modified, bare_etag(str(etag or "")) or None)


def time_of(found: Mapping[str, Any], prefix: str, operation: str = "ListObjectsV2") -> datetime:
    """The time in an entry of a listing, in UTC. See `details_of`."""
    told = found.get("LastModified")
    if isinstance(told, str):
        try:
            told = datetime.fromisoformat(told.strip())
        except ValueError:
            told = None
    if not isinstance(told, datetime) or told.tzinfo is None:
        raise invalid_entry(prefix, "time", found.get("Key"), operation)
    return told.astimezone(UTC)


def invalid_entry(
    prefix: str, lacking: str, key: str | None = None, operation: str = "ListObjectsV2"
) -> InvalidResponseError:
    """The error for an entry of a listing that lacks something.

    Args:
        prefix: The prefix of the listing.
        lacking: What it lacks: `"size"`.
        key: The key of the entry, if it has one.
        operation: The S3 operation.
    """
    of_key = "" if key is None else f" for {key}"
    return InvalidResponseError(
        f"{operation} of {prefix}: an entry of the listing has no {lacking}{of_key}",
        operation=operation,
        key=prefix,
    )


async def read_object(
    content: Any, bucket: str, key: str, length: int | None, max_bytes: int
) -> Body:
    """Read the body of an object, unless it is larger than allowed.

    Args:
        content: What it is read from.
        bucket: The bucket, for the error.
        key: The key, for the error.
        length: The bytes that it has; `None` where the response does not say.
        max_bytes: How many it may have.
    """
    if length is not None and length <= max_bytes:
        return Body(await content.read())
    read: int = length or 0
    chunks: list[Body] = []
    while read <= max_bytes:
        chunk = Body(await content.read(_CHUNK))
        if not chunk:
            return Body(b"".join(chunks))
        chunks.append(chunk)
        read += len(chunk)
    raise too_large(bucket, key, read, max_bytes)


def too_large(bucket: str, key: str, length: int, max_bytes: int) -> ObjectTooLargeError:
    """The error for an object that has so many bytes, or more."""
    return ObjectTooLargeError(
        f"{key} has {length:,} bytes or more, where {max_bytes:,} are allowed",
        operation="GetObject",
        bucket=bucket,
        key=key,
    )


def crc32(data: bytes) -> str:
    """The CRC-32 of a body as S3 has it in headers."""
    return base64.b64encode(zlib.crc32(data).to_bytes(4, "big")).decode()


def content_md5(body: bytes) -> str:
    """The MD5 of a body as S3 has it in the header Content-MD5."""
    return base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()


def xml_can_carry(text: str) -> bool:
    """Whether XML can carry a text without a reference to a character's number.

    There is none for most control characters, U+FFFE and U+FFFF (XML 1.0, section 2.2), and not
    every server reads the others.
    """
    return text.isprintable() or not _NOT_FOR_XML.search(text)


def is_refused_as_such(error: StorageError) -> bool:
    """Whether a server refuses a kind of request, and not what it is about or credentials."""
    is_of_request = type(error) in (StorageError, UnsupportedOperationError)
    return is_of_request and error.status in (400, 405, 501)


def bare_etag(etag: str) -> str:
    """An etag without quotes; `""` for none."""
    # A proxy that compresses marks it as weak; the server knows only the strong form.
    return etag.strip().removeprefix("W/").strip('"')


def etag_of(headers: Mapping[str, Any], operation: str, key: str) -> str:
    """The etag in the headers of a response, or in what was parsed from them, without quotes.

    Raises:
        InvalidResponseError: There is none.
    """
    etag = bare_etag(str(headers.get("ETag", "")))
    if not etag:
        # A write that succeeded is not repeated just for its etag.
        kind = (
            InvalidResponseError
            if operation in ("PutObject", "CopyObject")
            else DamagedResponseError
        )
        raise kind(f"{operation} of {key}: the response has no ETag", operation=operation, key=key)
    return etag
