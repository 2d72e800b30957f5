"""One S3 request each, made by the methods of the aiobotocore client.

What comes back is ours; what is raised is still botocore's, for `errors.translate`.
"""

from __future__ import annotations

import base64
import hashlib
import re
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from snapstore.errors import InvalidResponseError
from snapstore.stores.base import (
    UNCONFIRMED,
    Body,
    DamagedReplyError,
    ObjectTooLargeError,
    StoredObject,
    Version,
)
from snapstore.stores.deadline import Deadline
from snapstore.stores.readback import LINEAGE, WRITE_ID, Write, version_of

__all__ = [
    "DELETED",
    "Page",
    "Requests",
    "content_md5",
    "crc32",
    "etag_of",
    "keys_of",
    "own_metadata",
    "read_object",
    "too_large",
    "xml_can_carry",
]

DELETED: Final = "Deleted"
"""Stands for the code of a key that was deleted."""

_CONTENT_TYPE: Final = "application/json"
_CHUNK: Final = 256 * 1024
_NOT_FOR_XML = re.compile("[\x00-\x1f\x7f-\x9f\ufffe\uffff]")
_HOOK: Final[dict[str, Any]] = {"unique_id": "snapstore-md5", "unique_id_uses_count": True}


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


class Requests:
    """The requests that the store makes.

    Args:
        client: An entered aiobotocore client. A hook is registered on it, until `close`.
        bucket: The bucket.
        common: What goes with every request: `ExpectedBucketOwner`.
        encryption: What goes with every write: `ServerSideEncryption`, `SSEKMSKeyId`.

    Attributes:
        sends_checksum: Whether a write carries a checksum: the client's setting
            `request_checksum_calculation` is not `"when_required"`.
    """

    def __init__(
        self, client: Any, bucket: str, *, common: Mapping[str, str], encryption: Mapping[str, str]
    ) -> None:
        self._client = client
        self._bucket = bucket
        self._common = {"Bucket": bucket, **common}
        self._encryption = encryption
        calculation = client.meta.config.request_checksum_calculation
        self.sends_checksum: bool = calculation != "when_required"
        client.meta.events.register("before-call.s3.DeleteObjects", _add_content_md5, **_HOOK)

    def close(self) -> None:
        """Take the hook away again."""
        events = self._client.meta.events
        events.unregister("before-call.s3.DeleteObjects", _add_content_md5, **_HOOK)

    async def get(self, key: str, max_bytes: int) -> StoredObject:
        """Read an object. Its length is checked before its body is read."""
        reply = await self._client.get_object(Key=key, **self._common)
        async with reply["Body"] as body:
            if reply["ResponseMetadata"]["HTTPStatusCode"] == 206:
                raise DamagedReplyError(f"GetObject of {key}: the response is a part of the object")
            version = _version(reply, "GetObject", key)
            Deadline.current().allow(reply.get("ContentLength", 0))
            length = reply.get("ContentLength")
            data = await read_object(body, self._bucket, key, length, max_bytes)
            return StoredObject(data, version, own_metadata(reply.get("Metadata", {})))

    async def head(self, key: str) -> Version:
        """Ask for an object's version."""
        reply = await self._client.head_object(Key=key, **self._common)
        return _version(reply, "HeadObject", key)

    async def put(self, key: str, data: bytes, write: Write) -> Version:
        """Write an object, with a CRC-32 of the body for the server to check."""
        condition: dict[str, str] = {}
        if write.precondition is not None:
            name, value = write.precondition
            condition["IfMatch" if name == "if-match" else "IfNoneMatch"] = value
        # Given as a header it spares botocore's chunked trailer, which not every server knows.
        checksum = {"ChecksumCRC32": crc32(data)} if self.sends_checksum else {}
        reply = await self._client.put_object(
            Key=key,
            Body=data,
            ContentType=_CONTENT_TYPE,
            Metadata=write.metadata,
            **checksum,
            **self._common,
            **self._encryption,
            **condition,
        )
        return write.version(etag_of(reply, "PutObject", key))

    async def list(
        self, prefix: str, page_size: int, start_after: str | None, token: str | None
    ) -> Page:
        """Fetch a page of a listing: the one at a token, or the first one."""
        position = {"StartAfter": start_after} if start_after is not None else {}
        if token is not None:
            position = {"ContinuationToken": token}
        reply = await self._client.list_objects_v2(
            Prefix=prefix, MaxKeys=page_size, **self._common, **position
        )
        keys = keys_of([found.get("Key") for found in reply.get("Contents", ())], prefix)
        return Page(keys, reply.get("IsTruncated"), reply.get("NextContinuationToken"))

    async def delete(self, keys: Sequence[str]) -> dict[str, str]:
        """Delete objects, and say of each key what became of it: `DELETED`, or a code."""
        wanted = {"Objects": [{"Key": key} for key in keys], "Quiet": False}
        reply = await self._client.delete_objects(Delete=wanted, **self._common)
        outcome = dict.fromkeys(keys, UNCONFIRMED)
        found = [(deleted.get("Key"), DELETED) for deleted in reply.get("Deleted", ())]
        found += [(error.get("Key"), error.get("Code")) for error in reply.get("Errors", ())]
        return outcome | {key: code or UNCONFIRMED for key, code in found if key in outcome}

    async def delete_one(self, key: str) -> None:
        """Delete an object whose key is in the URL, and not in a document."""
        await self._client.delete_object(Key=key, **self._common)


def keys_of(found: Sequence[str | None], prefix: str) -> list[str]:
    """The keys of a page.

    Args:
        found: The key of each of its entries.
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


def own_metadata(metadata: Mapping[str, str]) -> dict[str, str]:
    """The metadata that a caller gave, without what the store itself keeps there."""
    return {name: text for name, text in metadata.items() if name not in (WRITE_ID, LINEAGE)}


def content_md5(body: bytes) -> str:
    """The MD5 of a body as S3 has it in the header Content-MD5."""
    return base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()


def xml_can_carry(text: str) -> bool:
    """Whether XML can carry a text without a reference to a character's number.

    There is none for most control characters, U+FFFE and U+FFFF (XML 1.0, section 2.2), and not
    every server reads the others.
    """
    return text.isprintable() or not _NOT_FOR_XML.search(text)


def _add_content_md5(params: Mapping[str, Any], **_: Any) -> None:
    """Add to DeleteObjects what some servers insist on, beside botocore's own checksum.

    Those that take the other one check both (s3fs-fuse #2639, aws-cli #400).
    """
    params["headers"]["Content-MD5"] = content_md5(params["body"])


def etag_of(headers: Mapping[str, Any], operation: str, key: str) -> str:
    """The etag in the headers of a response, or in what was parsed from them, without quotes.

    Raises:
        InvalidResponseError: There is none.
    """
    # A proxy that compresses marks it as weak; the server knows it by its strong form alone.
    etag = str(headers.get("ETag", "")).strip().removeprefix("W/").strip('"')
    if not etag:
        # What was written once is not written again for the sake of its etag.
        kind = InvalidResponseError if operation == "PutObject" else DamagedReplyError
        raise kind(f"{operation} of {key}: the response has no ETag", operation=operation, key=key)
    return etag


def _version(reply: Mapping[str, Any], operation: str, key: str) -> Version:
    return version_of(etag_of(reply, operation, key), reply.get("Metadata", {}))
