"""What the slow and the fast path have in common: the requests, and how values look on the wire."""

from __future__ import annotations

import base64
import hashlib
import re
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol

from snapstore.errors import InvalidResponseError
from snapstore.stores.base import (
    Body,
    DamagedResponseError,
    ObjectTooLargeError,
    StoredObject,
    Version,
)
from snapstore.stores.s3.conditions import S3Write

__all__ = [
    "DELETED",
    "Page",
    "Requests",
    "content_md5",
    "crc32",
    "etag_of",
    "keys_of",
    "read_object",
    "too_large",
    "xml_can_carry",
]

DELETED: Final = "Deleted"
"""Stands in place of a code: the key was deleted."""

_CHUNK: Final = 256 * 1024
_NOT_FOR_XML = re.compile("[\x00-\x1f\x7f-\x9f\ufffe\uffff]")


class Page(NamedTuple):
    """A page of a listing, as the server gave it.

    Attributes:
        keys: The keys, in the server's order.
        truncated: Whether the listing goes on; `None` where the server did not say.
        token: The continuation token; `None` where there is none.
    """

    keys: list[str]
    truncated: bool | None
    token: str | None


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

    async def put(self, key: str, data: bytes, write: S3Write) -> Version:
        """Write an object, with a CRC-32 of the body for the server to check."""
        ...

    async def list(
        self, prefix: str, page_size: int, start_after: str | None, token: str | None
    ) -> Page:
        """Fetch a page of a listing: the one at a token, or the first one."""
        ...

    async def delete(self, keys: Sequence[str]) -> dict[str, str]:
        """Delete objects. Returns the result for each key: `DELETED`, or a code."""
        ...

    async def delete_one(self, key: str) -> None:
        """Delete an object whose key is in the URL, and not in a document."""
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
        raise InvalidResponseError(
            f"ListObjectsV2 of {prefix}: an entry of the listing has no key",
            operation="ListObjectsV2",
            key=prefix,
        )
    return keys


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


def etag_of(headers: Mapping[str, Any], operation: str, key: str) -> str:
    """The etag in the headers of a response, or in what was parsed from them, without quotes.

    Raises:
        InvalidResponseError: There is none.
    """
    # A proxy that compresses marks it as weak; the server knows only the strong form.
    etag = str(headers.get("ETag", "")).strip().removeprefix("W/").strip('"')
    if not etag:
        # A write that succeeded is not repeated just for its etag.
        kind = InvalidResponseError if operation == "PutObject" else DamagedResponseError
        raise kind(f"{operation} of {key}: the response has no ETag", operation=operation, key=key)
    return etag
