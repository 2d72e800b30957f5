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
from snapstore.objects.base import UNCONFIRMED, Body, ObjectTooLargeError, StoredObject, Version
from snapstore.objects.s3.settle import Write, version_of

__all__ = ["DELETED", "Page", "Requests", "content_md5", "crc32", "too_large", "xml_can_carry"]

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
            version = _version(reply, "GetObject", key)
            return StoredObject(await self._read(body, reply, key, max_bytes), version)

    async def head(self, key: str) -> Version:
        """Ask for an object's version."""
        reply = await self._client.head_object(Key=key, **self._common)
        return _version(reply, "HeadObject", key)

    async def put(self, key: str, data: bytes, write: Write) -> Version:
        """Write an object, with a CRC-32 of the body for the server to check."""
        condition: dict[str, str] = {}
        if write.condition is not None:
            condition["IfNoneMatch" if write.condition == "*" else "IfMatch"] = write.condition
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
        return write.version(_etag(reply, "PutObject", key))

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
        keys = [found["Key"] for found in reply.get("Contents", ())]
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

    async def _read(self, body: Any, reply: Mapping[str, Any], key: str, max_bytes: int) -> Body:
        length = reply.get("ContentLength")
        if length is not None and length <= max_bytes:
            return Body(await body.read())
        read: int = length or 0
        chunks: list[Body] = []
        while read <= max_bytes:
            chunk = Body(await body.read(_CHUNK))
            if not chunk:
                return Body(b"".join(chunks))
            chunks.append(chunk)
            read += len(chunk)
        raise too_large(self._bucket, key, read, max_bytes)


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


def _add_content_md5(params: Mapping[str, Any], **_: Any) -> None:
    """Add to DeleteObjects what some servers insist on, beside botocore's own checksum.

    Those that take the other one check both (s3fs-fuse #2639, aws-cli #400).
    """
    params["headers"]["Content-MD5"] = content_md5(params["body"])


def _version(reply: Mapping[str, Any], operation: str, key: str) -> Version:
    return version_of(_etag(reply, operation, key), reply.get("Metadata", {}))


def _etag(reply: Mapping[str, Any], operation: str, key: str) -> str:
    etag: str = reply.get("ETag", "").strip('"')
    if not etag:
        raise InvalidResponseError(
            f"{operation} of {key}: the reply has no ETag", operation=operation, key=key
        )
    return etag
