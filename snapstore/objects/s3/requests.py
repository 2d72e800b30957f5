"""One S3 request each, made by the methods of the aiobotocore client.

What comes back is ours; what is raised is still botocore's, for `errors.translate`.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from snapstore.deadline import Deadline
from snapstore.errors import InvalidResponseError
from snapstore.objects.base import (
    UNCONFIRMED,
    DamagedReplyError,
    ObjectTooLargeError,
    StoredObject,
    Version,
)
from snapstore.objects.readback import LINEAGE, WRITE_ID, Write, version_of

__all__ = ["DELETED", "Page", "Requests", "crc32", "etag_of", "own_metadata", "too_large"]

DELETED: Final = "Deleted"
"""Stands for the code of a key that was deleted."""

_CONTENT_TYPE: Final = "application/json"
_CHUNK: Final = 256 * 1024


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
        client: An entered aiobotocore client.
        bucket: The bucket.
        common: What goes with every request: `ExpectedBucketOwner`.
        encryption: What goes with every write: `ServerSideEncryption`, `SSEKMSKeyId`.
    """

    def __init__(
        self, client: Any, bucket: str, *, common: Mapping[str, str], encryption: Mapping[str, str]
    ) -> None:
        self._client = client
        self._bucket = bucket
        self._common = {"Bucket": bucket, **common}
        self._encryption = encryption

    async def get(self, key: str, max_bytes: int) -> StoredObject:
        """Read an object. Its length is checked before its body is read."""
        reply = await self._client.get_object(Key=key, **self._common)
        async with reply["Body"] as body:
            if reply["ResponseMetadata"]["HTTPStatusCode"] == 206:
                raise DamagedReplyError(f"GetObject of {key}: the response is a part of the object")
            version = _version(reply, "GetObject", key)
            Deadline.current().allow(reply.get("ContentLength", 0))
            data = await self._read(body, reply, key, max_bytes)
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
        reply = await self._client.put_object(
            Key=key,
            Body=data,
            ContentType=_CONTENT_TYPE,
            # Given as a header it spares botocore's chunked trailer, which not every server knows.
            ChecksumCRC32=crc32(data),
            Metadata=write.metadata,
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

    async def _read(self, body: Any, reply: Mapping[str, Any], key: str, max_bytes: int) -> bytes:
        length = reply.get("ContentLength")
        if length is not None and length <= max_bytes:
            return bytes(await body.read())
        read = bytearray()
        while length is None or length <= max_bytes:
            chunk = await body.read(_CHUNK)
            if not chunk:
                return bytes(read)
            read += chunk
            if len(read) > max_bytes:
                break
        raise too_large(self._bucket, key, length or len(read), max_bytes)


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
