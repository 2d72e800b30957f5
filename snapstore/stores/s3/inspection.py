"""Inspect a bucket and a client: the findings of `check` that only S3 has."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import suppress
from typing import Any, Final

from aiobotocore.httpsession import AIOHTTPSession
from botocore.exceptions import ClientError

from snapstore.errors import StorageError, shown
from snapstore.stores.base import Finding
from snapstore.stores.readback import WRITE_ID, Write
from snapstore.stores.s3.client import HTTPSession
from snapstore.stores.s3.fast_path import FastPath

__all__ = ["OF_BUCKET", "BucketInspection", "of_batches", "of_client", "of_fast_path"]

OF_BUCKET: Final = ("single writes", "metadata", "if-match", "keys", "versioning", "encryption")
"""The names of the findings of a `BucketInspection`, in order."""

_BODY: Final = b'{"snapstore check":"inspected"}'


class BucketInspection:
    """Tries single requests, to see what the server does with them.

    Args:
        client: The client.
        bucket: The bucket.
        key: A key without an object, in a directory of its own.
        common: Parameters of each request: `ExpectedBucketOwner`.
        encryption: Parameters of each write: `ServerSideEncryption`, `SSEKMSKeyId`.
    """

    def __init__(
        self,
        client: Any,
        bucket: str,
        key: str,
        *,
        common: Mapping[str, str],
        encryption: Mapping[str, str],
    ) -> None:
        self._client = client
        self._common = {"Bucket": bucket, **common}
        self._key = key
        self._directory = f"{key.rpartition('/')[0]}/"
        self._encryption = encryption
        self._written: list[str] = []
        self._versions: list[str | None] = []

    async def findings(self) -> AsyncGenerator[Finding, None]:
        """Try one thing after the other, then remove every version that was written.

        Raises:
            ClientError: The server refuses to write.
        """
        reply = await self._put(self._key)
        try:
            write, key = Write(None, create=True), f"{self._directory}sent-once.json"
            refusal = await self._create(key, write)
            head = await self._head(key)
            yield _single_writes(refusal, head, write.id)
            yield _metadata(head, write.id)
            yield await self._if_match(reply)
            yield await self._keys()
        finally:
            versioning = await self._clean_up()
        yield versioning
        yield _encryption(reply, self._encryption)

    async def _create(self, key: str, write: Write) -> ClientError | None:
        """Write under a key that nobody else knows; returns the error if that is refused."""
        try:
            await self._put(key, IfNoneMatch="*", Metadata=write.metadata)
        except ClientError as error:
            if _status(error) != 412:
                await self._put(key, Metadata=write.metadata)
            return error
        return None

    async def _head(self, key: str) -> Mapping[str, Any] | ClientError:
        try:
            reply: Mapping[str, Any] = await self._client.head_object(Key=key, **self._common)
        except ClientError as error:
            return error
        return reply

    async def _if_match(self, reply: Mapping[str, Any]) -> Finding:
        """Try an etag with quotes, as a response has it (RFC 9110, section 8.8.3), and without."""
        taken: list[str] = []
        refused: list[str] = []
        for quote, name in (('"', "with quotes"), ("", "without quotes")):
            etag = str(reply.get("ETag", "")).strip('"')
            try:
                reply = await self._put(self._key, IfMatch=f"{quote}{etag}{quote}")
            except ClientError as error:
                refused.append(f"not {name} ({_code(error)})")
            else:
                taken.append(name)
        if not taken:
            words = f"if_match and update_latest fail: etags are taken {', '.join(refused)}"
            return Finding("if-match", "failed", words)
        words = f"etags are taken {', '.join([' and '.join(taken), *refused])}"
        return Finding("if-match", "ok", words)

    async def _keys(self) -> Finding:
        folded: list[str] = []
        for part in ("//", "\\"):
            key = f"{self._directory}a{part}b.json"
            with suppress(ClientError):
                await self._put(key)
            listed = await self._list()
            if listed is None:
                return Finding("keys", "unknown", "can't be told, since they can't be listed")
            if key not in listed:
                folded.append(part)
        if not folded:
            return Finding("keys", "ok", "come back as they were written, with // and \\ as well")
        what = f"the server takes no key with {' or '.join(folded)}, or makes another key of it"
        if any(part in self._directory for part in folded):
            return Finding("keys", "failed", f"{what}; choose another prefix")
        return Finding("keys", "warning", f"{what}: no prefix may have that")

    async def _clean_up(self) -> Finding:
        left = ""
        for key in await self._list() or self._written:
            try:
                reply = await self._client.delete_object(Key=key, **self._common)
                self._versions.append(reply.get("VersionId"))
            except ClientError as error:
                left = f"; but {shown(key)} stays ({_code(error)})"
        if not any(self._versions):
            words = f"the bucket is not versioned: what is deleted is gone{left}"
            return Finding("versioning", "ok", words)
        try:
            pages = self._client.get_paginator("list_object_versions").paginate(
                Prefix=self._directory, **self._common
            )
            async for page in pages:
                for found in [*page.get("Versions", ()), *page.get("DeleteMarkers", ())]:
                    which = {"Key": found["Key"], "VersionId": found["VersionId"]}
                    await self._client.delete_object(**self._common, **which)
        except ClientError as error:
            left = f"; those of this check stay under {shown(self._directory)} ({_code(error)})"
        return Finding(
            "versioning",
            "warning",
            "the bucket is versioned: what is deleted or overwritten stays as a version, until a "
            f"lifecycle rule for noncurrent versions removes it{left}",
        )

    async def _put(self, key: str, **more: Any) -> Mapping[str, Any]:
        self._written.append(key)
        reply: Mapping[str, Any] = await self._client.put_object(
            Key=key, Body=_BODY, **self._common, **self._encryption, **more
        )
        self._versions.append(reply.get("VersionId"))
        return reply

    async def _list(self) -> list[str] | None:
        """The keys in the directory; `None` if they can't be listed."""
        try:
            reply = await self._client.list_objects_v2(Prefix=self._directory, **self._common)
        except ClientError:
            return None
        return [found["Key"] for found in reply.get("Contents", ())]


def _single_writes(
    refusal: ClientError | None, head: Mapping[str, Any] | ClientError, token: str
) -> Finding:
    if refusal is None:
        words = "a new object was written once: nothing was seen that sends a write again"
        return Finding("single writes", "ok", words)
    if _status(refusal) == 412 and _token(head) == token:
        return Finding(
            "single writes",
            "warning",
            "a write was refused by itself: something between here and the server sends a PUT "
            "again (nginx does, without proxy_next_upstream off). Each refused write is read back, "
            "so that no result is wrong, but that takes a request more",
        )
    words = f"can't be told, since a new object was refused ({_code(refusal)})"
    return Finding("single writes", "unknown", words)


def _metadata(head: Mapping[str, Any] | ClientError, token: str) -> Finding:
    if isinstance(head, ClientError):
        return Finding(
            "metadata",
            "failed",
            f"HEAD is refused ({_code(head)}), so a conditional write whose reply was lost can't "
            "be read back; allow s3:GetObject, and HEAD in gateways",
        )
    if _token(head) != token:
        return Finding(
            "metadata",
            "failed",
            "x-amz-meta-… of objects is lost, so a conditional write whose reply was lost is not "
            "recognized; have gateways pass these headers on",
        )
    words = "kept, and HEAD is allowed: a write whose reply was lost is recognized"
    return Finding("metadata", "ok", words)


def _token(head: Mapping[str, Any] | ClientError) -> str | None:
    if isinstance(head, ClientError):
        return None
    token: str | None = head.get("Metadata", {}).get(WRITE_ID)
    return token


def _status(error: ClientError) -> Any:
    return error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")


def _code(error: ClientError) -> str:
    return shown(str(error.response.get("Error", {}).get("Code")), 100)


def _encryption(reply: Mapping[str, Any], asked: Mapping[str, str]) -> Finding:
    got = reply.get("ServerSideEncryption")
    wanted = asked.get("ServerSideEncryption")
    if wanted is not None and got != wanted:
        said = "nothing" if got is None else repr(got)
        return Finding(
            "encryption",
            "failed",
            f"{wanted!r} is asked for with every write, and the server confirms {said}",
        )
    key, wanted_key = reply.get("SSEKMSKeyId"), asked.get("SSEKMSKeyId")
    if wanted_key is not None and (key is None or not key.endswith(wanted_key.rpartition("/")[2])):
        words = f"the server confirms {got!r}, and not the key that is asked for with every write"
        return Finding("encryption", "failed", words)
    if got is None:
        words = "none is asked for, and the server does not say that it encrypts what it stores"
        return Finding("encryption", "warning", words)
    return Finding("encryption", "ok", f"the server encrypts what it stores: {got}")


def of_client(client: Any, borrowed: bool, max_concurrency: int) -> Finding:
    """Report which settings of a client weaken the guarantees.

    Args:
        client: The client.
        borrowed: Whether it was passed in.
        max_concurrency: The most requests in flight.
    """
    config = client.meta.config
    lacking: list[str] = []
    session = config.http_session_cls
    if issubclass(session, AIOHTTPSession) and not issubclass(session, HTTPSession):
        lacking.append(
            "it follows redirects, and takes body and session token along, and it reads replies "
            "of any size: give it "
            "AioConfig(http_session_cls=snapstore.stores.HTTPSession)"
        )
    retries = (config.retries or {}).get("mode", "legacy")
    if retries != "standard":
        lacking.append(f"it retries in mode {retries!r}, where 'standard' waits less")
    if config.max_pool_connections < max_concurrency:
        lacking.append(
            f"its pool of {config.max_pool_connections} bounds the requests at once, where "
            f"max_concurrency allows {max_concurrency}"
        )
    whose = "borrowed, so what it does is its owner's" if borrowed else "our own"
    if not lacking:
        words = "follows no redirect, retries in mode 'standard', and has a connection for each"
        return Finding("client", "ok", f"{whose}: it {words} request")
    return Finding("client", "warning", f"{whose}: {'; '.join(lacking)}")


def of_fast_path(fast_path: FastPath | None) -> Finding:
    """Report whether requests are replayed without the client.

    Args:
        fast_path: The fast path; `None` with `direct=False`.
    """
    if fast_path is None:
        return Finding("fast path", "ok", "off: direct=False")
    if fast_path.disabled is not None:
        return Finding("fast path", "warning", f"off: {fast_path.disabled}")
    if fast_path.is_suspended:
        words = "off for a while: too many responses were not as expected"
        return Finding("fast path", "warning", words)
    return Finding("fast path", "ok", "on: requests cost a fraction of the client's CPU")


def of_batches(refused: StorageError | None) -> Finding:
    """Report how many objects are deleted by one request.

    Args:
        refused: How the server refused DeleteObjects; `None` if it did not.
    """
    if refused is None:
        return Finding("batch delete", "ok", "up to 1,000 objects are deleted by one request")
    words = f"each object is deleted by a request of its own, since a batch is refused: {refused}"
    return Finding("batch delete", "warning", words)
