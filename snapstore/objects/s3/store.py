"""The store: five S3 operations, each by its deadline and in its turn."""

from __future__ import annotations

import asyncio
import base64
import inspect
import zlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

from snapstore.errors import (
    InvalidResponseError,
    OutcomeUnknownError,
    StorageError,
    StorageTimeoutError,
)
from snapstore.objects.base import (
    PAGE_SIZE,
    UNCONFIRMED,
    ObjectTooLargeError,
    PreconditionFailedError,
    StoredObject,
    Version,
)
from snapstore.objects.retry import full_jitter, retrying
from snapstore.objects.s3.settle import Verdict, Write, version_of

__all__ = ["S3ObjectStore"]

T = TypeVar("T")

_CONTENT_TYPE: Final = "application/json"
_CHUNK: Final = 256 * 1024
_DELETED: Final = "Deleted"
_DELETE_ATTEMPTS: Final = 4
_PASSING: Final = frozenset({"InternalError", "RequestTimeout", "ServiceUnavailable", "SlowDown"})
"""Codes of a key in a delete that pass (Amazon S3 API Reference, "Error responses")."""


class S3ObjectStore:
    """Objects in a bucket.

    Args: as `snapstore.S3Storage`, which see.

    Raises:
        TypeError: `client` is not an entered aiobotocore client, or comes with what is for a
            client of our own.
        ValueError: An argument is out of its range.
    """

    def __init__(
        self,
        bucket: str,
        *,
        region: str | None = None,
        endpoint_url: str | None = None,
        session: Any = None,
        config: Any = None,
        client: Any = None,
        timeout: float | None = 60.0,
        max_concurrency: int = 128,
        server_side_encryption: str | None = None,
        kms_key_id: str | None = None,
        expected_bucket_owner: str | None = None,
    ) -> None:
        if not bucket:
            raise ValueError("bucket must be the name of a bucket")
        if timeout is not None and not timeout > 0:
            raise ValueError("timeout must be more than 0 seconds, or None")
        if max_concurrency < 1:
            raise ValueError("max_concurrency must be at least 1")
        if endpoint_url is not None and not endpoint_url.startswith(("http://", "https://")):
            raise ValueError("endpoint_url must begin with http:// or https://")
        if kms_key_id is not None and not (server_side_encryption or "").startswith("aws:kms"):
            raise ValueError("kms_key_id needs server_side_encryption='aws:kms' or 'aws:kms:dsse'")
        own = {"region": region, "endpoint_url": endpoint_url, "session": session, "config": config}
        if client is not None:
            _refuse_unusable(client)
            for name, value in own.items():
                if value is not None:
                    raise TypeError(
                        f"client and {name} exclude each other: {name} is for a client of our own"
                    )
        self._bucket = bucket
        self._own_client_options = {**own, "max_concurrency": max_concurrency}
        self._borrowed = client
        self._timeout = timeout
        self._max_concurrency = max_concurrency
        owner = {"ExpectedBucketOwner": expected_bucket_owner}
        encryption = {"ServerSideEncryption": server_side_encryption, "SSEKMSKeyId": kms_key_id}
        self._common = _given({"Bucket": bucket, **owner})
        self._encryption = _given(encryption)
        self._client: Any = None
        self._slots: asyncio.Semaphore

    async def open(self) -> None:
        """Make the client, in a thread, or take the borrowed one.

        Raises:
            StorageError: The session or the configuration gives no usable client.
        """
        self._slots = asyncio.Semaphore(self._max_concurrency)
        if self._borrowed is not None:
            self._client = self._borrowed
            return
        try:
            self._client = await asyncio.to_thread(_make_client, self._own_client_options)
        except Exception as error:
            # No snapshot has been seen yet, so the cause may be shown.
            raise self._translated(error, "CreateClient", None) from error

    async def aclose(self) -> None:
        """Close our own client; a borrowed one stays open."""
        client, self._client = self._client, None
        if self._borrowed is None and client is not None:
            await client.close()

    async def get(self, key: str, *, max_bytes: int) -> StoredObject | None:
        """See `ObjectStore.get`. One request; the length is checked before the body is read."""

        async def request() -> StoredObject | None:
            response = await self._client.get_object(Key=key, **self._common)
            async with response["Body"] as body:
                version = _version(response, "GetObject", key)
                return StoredObject(await self._read(body, response, key, max_bytes), version)

        try:
            return await self._run("GetObject", key, request)
        except StorageError as error:
            if error.code != "NoSuchKey":
                raise
        return None

    async def put(
        self,
        key: str,
        data: bytes,
        *,
        if_match: Version | None = None,
        if_none_match: bool = False,
    ) -> Version:
        """See `ObjectStore.put`. One request, with a CRC-32 of the body for the server to check.

        A conditional write whose reply was lost is settled by one request more: see `settle`.
        """
        write = Write(if_match, create=if_none_match)
        condition = {"IfMatch": if_match.etag} if if_match is not None else {}
        if if_none_match:
            condition["IfNoneMatch"] = "*"
        # Given as a header it spares botocore's chunked trailer, which not every server knows.
        checksum = base64.b64encode(zlib.crc32(data).to_bytes(4, "big")).decode()
        at_once = True

        async def request() -> Version:
            nonlocal at_once
            try:
                response = await self._client.put_object(
                    Key=key,
                    Body=data,
                    ContentType=_CONTENT_TYPE,
                    ChecksumCRC32=checksum,
                    Metadata=write.metadata,
                    **self._common,
                    **self._encryption,
                    **condition,
                )
                return write.version(_etag(response, "PutObject", key))
            except Exception as error:
                at_once = at_once and self._was_refused_at_once(error)
                raise

        deadline = self._deadline()
        try:
            return await self._run("PutObject", key, request, deadline)
        except StorageError as error:
            failure = error
        if not condition:
            raise failure
        refused = _is_refusal(failure)
        # Through a borrowed client, aiohttp may have sent it twice without a word (aiohttp #10790).
        if not at_once or (refused and self._borrowed is not None):
            version = await self._settle(key, write, failure, deadline, lost=not at_once)
            if version is not None:
                return version
        raise _precondition_failed(failure) if refused else failure

    async def _settle(
        self, key: str, write: Write, failure: StorageError, deadline: float | None, *, lost: bool
    ) -> Version | None:
        """Find out from the object as it is now what became of a write.

        Args:
            key: The object's key.
            write: The write.
            failure: How its last request ended.
            deadline: When the whole of it must end.
            lost: Whether the reply to an earlier request is known to be lost.

        Returns:
            The version that was written; `None` if none was, and `failure` tells why.

        Raises:
            PreconditionFailedError: Another write came first.
            OutcomeUnknownError: Nothing can tell.
        """

        async def request() -> Version:
            response = await self._client.head_object(Key=key, **self._common)
            return _version(response, "HeadObject", key)

        found, seen = None, True
        try:
            found = await self._run("HeadObject", key, request, deadline)
        except StorageError as error:
            seen = error.status == 404
        verdict = write.judge(found) if seen else Verdict.UNKNOWN
        if isinstance(verdict, Version):
            return verdict
        if verdict is Verdict.OVERTAKEN:
            raise _precondition_failed(failure)
        if found is None and _is_refusal(failure):
            verdict = Verdict.UNKNOWN  # there was an object: perhaps ours, and deleted since
        if lost and not isinstance(failure, StorageTimeoutError):
            if verdict is Verdict.UNKNOWN:
                raise OutcomeUnknownError(f"{failure}; it may have been applied", **failure.facts)
            if failure.status is None:
                raise OutcomeUnknownError(f"{failure}; it may yet be applied", **failure.facts)
        return None

    async def scan(
        self, prefix: str, *, start_after: str | None = None, page_size: int = PAGE_SIZE
    ) -> AsyncGenerator[list[str], None]:
        """See `ObjectStore.scan`. A broken chain of pages is an error, never an early end."""
        position = _given({"StartAfter": start_after})

        async def request() -> Any:
            return await self._client.list_objects_v2(
                Prefix=prefix, MaxKeys=page_size, **self._common, **position
            )

        while True:
            page = await self._run("ListObjectsV2", prefix, request)
            truncated, token = page.get("IsTruncated"), page.get("NextContinuationToken")
            if truncated is None:
                raise self._broken_listing(prefix, "it does not say whether it goes on")
            if truncated and (not token or token == position.get("ContinuationToken")):
                raise self._broken_listing(prefix, "it goes on, but does not say where")
            yield [found["Key"] for found in page.get("Contents", ())]
            if not truncated:
                return
            position = {"ContinuationToken": token}

    async def delete(self, keys: Sequence[str]) -> Mapping[str, str]:
        """See `ObjectStore.delete`. One request, whose reply must name every key.

        Keys that the server could not delete just now are tried again.
        """
        failed = dict.fromkeys(keys, UNCONFIRMED)
        again = list(keys)
        deadline = self._deadline()
        for attempt in range(_DELETE_ATTEMPTS):
            if not again:
                break
            if attempt:
                await asyncio.sleep(full_jitter(attempt))
            failed |= await self._delete(again, deadline)
            again = [key for key in again if failed[key] in _PASSING]
        return {key: code for key, code in failed.items() if code != _DELETED}

    async def _delete(self, keys: Sequence[str], deadline: float | None) -> dict[str, str]:
        """Delete objects by one request, and say of each key what became of it."""
        wanted = {"Objects": [{"Key": key} for key in keys], "Quiet": False}

        async def request() -> Any:
            return await self._client.delete_objects(Delete=wanted, **self._common)

        reply = await self._run("DeleteObjects", keys[0], request, deadline)
        outcome = dict.fromkeys(keys, UNCONFIRMED)
        found = [(deleted.get("Key"), _DELETED) for deleted in reply.get("Deleted", ())]
        found += [(error.get("Key"), error.get("Code")) for error in reply.get("Errors", ())]
        return outcome | {key: code or UNCONFIRMED for key, code in found if key in outcome}

    def _deadline(self) -> float | None:
        """When an operation that begins now must end, on the loop's clock."""
        return None if self._timeout is None else asyncio.get_running_loop().time() + self._timeout

    async def _run(
        self,
        operation: str,
        key: str,
        request: Callable[[], Awaitable[T]],
        until: float | None = None,
    ) -> T:
        """Make a request in its turn and by its deadline, again where that is worth it."""

        async def once() -> T:
            try:
                return await request()
            except Exception as error:  # noqa: BLE001 -- the boundary: nothing foreign passes it
                failure = self._translated(error, operation, key)
            # Outside of the handler: what was caught must not be in the chain, see errors.py.
            raise failure

        deadline = asyncio.timeout_at(until or self._deadline())
        try:
            async with deadline, self._slots:
                return await retrying(once, attempts=_attempts)
        except TimeoutError as error:
            failure = self._translated(error, operation, key, expired=deadline.expired())
        raise failure

    def _translated(
        self, error: Exception, operation: str, key: str | None, *, expired: bool = False
    ) -> StorageError:
        # Imported where it is needed, since it imports botocore; by then a client has done so.
        from snapstore.objects.s3.errors import translate

        return translate(error, operation=operation, bucket=self._bucket, key=key, expired=expired)

    def _was_refused_at_once(self, error: Exception) -> bool:
        """Whether a request was not sent at all, or was refused the first time it was sent."""
        from snapstore.objects.s3.errors import was_never_sent

        response: Mapping[str, Any] = getattr(error, "response", None) or {}
        reply = response.get("ResponseMetadata", {})
        refused = reply.get("HTTPStatusCode", 500) < 500 and not reply.get("RetryAttempts")
        return refused or was_never_sent(error)

    async def _read(
        self, body: Any, response: Mapping[str, Any], key: str, max_bytes: int
    ) -> bytes:
        length = response.get("ContentLength")
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
        raise ObjectTooLargeError(
            f"{key} has {length or len(read):,} bytes or more, where {max_bytes:,} are allowed",
            operation="GetObject",
            bucket=self._bucket,
            key=key,
        )

    def _broken_listing(self, prefix: str, why: str) -> InvalidResponseError:
        return InvalidResponseError(
            f"ListObjectsV2 of {self._bucket}/{prefix}: the listing is broken: {why}",
            operation="ListObjectsV2",
            bucket=self._bucket,
            key=prefix,
        )


def _make_client(options: dict[str, Any]) -> Any:
    # Slow to import, so in the thread that this runs in; it brings all that `errors` needs.
    from snapstore.objects.s3.client import make_client

    return make_client(**options)


def _attempts(error: StorageError) -> int:
    """How often a request may be made that botocore's `standard` mode does not make again."""
    if error.status == 429:
        return 5
    if error.status == 409 and error.operation == "PutObject":
        return 8
    if error.code == "Truncated" and error.operation == "GetObject":
        return 3
    return 1


def _is_refusal(error: StorageError) -> bool:
    """Whether the condition of a write did not hold; for a missing object, S3 says NoSuchKey."""
    return error.status == 412 or error.code == "NoSuchKey"


def _precondition_failed(error: StorageError) -> PreconditionFailedError:
    return PreconditionFailedError(str(error), **error.facts)


def _version(response: Mapping[str, Any], operation: str, key: str) -> Version:
    return version_of(_etag(response, operation, key), response.get("Metadata", {}))


def _etag(response: Mapping[str, Any], operation: str, key: str) -> str:
    etag: str = response.get("ETag", "").strip('"')
    if not etag:
        raise InvalidResponseError(
            f"{operation} of {key}: the reply has no ETag", operation=operation, key=key
        )
    return etag


def _given(options: Mapping[str, str | None]) -> dict[str, str]:
    return {name: value for name, value in options.items() if value is not None}


def _refuse_unusable(client: Any) -> None:
    if not hasattr(client, "put_object"):
        hint = "enter it first: async with session.create_client('s3') as client: …"
        entered = "" if not hasattr(client, "__aenter__") else f"; {hint}"
        raise TypeError(
            f"client must be an entered aiobotocore S3 client, not a {type(client).__name__}"
            + entered
        )
    call = getattr(client, "_make_api_call", None)
    if call is not None and not inspect.iscoroutinefunction(call):
        raise TypeError("client must be a client of aiobotocore: one of boto3 or botocore blocks")
