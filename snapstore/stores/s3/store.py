"""The store: opened on one event loop, it makes requests to one bucket."""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, Unpack
from urllib.parse import urlsplit

from snapstore.errors import StorageError
from snapstore.stores import readback
from snapstore.stores.base import PAGE_SIZE, Finding, StoredObject, Version
from snapstore.stores.capabilities import (
    ObjectDetails,
    ObjectLock,
    ObjectVersion,
    RefusedWrite,
    validate_delimiter,
)
from snapstore.stores.s3.calls import register_hooks, unregister_hooks
from snapstore.stores.s3.conditional_deletes import ConditionalDeletes
from snapstore.stores.s3.conditions import ETagSpelling, S3Write
from snapstore.stores.s3.copies import copy
from snapstore.stores.s3.deletes import Deletes
from snapstore.stores.s3.delimiters import scan_prefixes
from snapstore.stores.s3.listing import scan
from snapstore.stores.s3.options import (
    DEFAULT_MAX_CONCURRENCY,
    S3Options,
    endpoint_problem,
    validate_bucket,
    validate_options,
)
from snapstore.stores.s3.request_loop import RequestLoop, translate
from snapstore.stores.s3.requests import Page, Requests
from snapstore.stores.s3.slow_path import SlowPath
from snapstore.stores.s3.writes import Writes
from snapstore.stores.threads import require_threads, run_in_daemon_thread

if TYPE_CHECKING:
    from snapstore.stores.s3.fast_path import FastPath

__all__ = ["S3ObjectStore"]

logger: Final = logging.getLogger("snapstore")


class S3ObjectStore:
    """Objects in a bucket, which is never created or reconfigured.

    Args:
        bucket: The bucket's name.
        timeout: Seconds after which callers give up on an operation; `None` if that is not known.
            The store does not enforce it, but sets no timer of its own that would end later.
        options: See `S3Options`.

    Attributes:
        name: The bucket.

    Raises:
        TypeError: There is no such option, or `client` is not an entered aiobotocore client, or it
            comes with options for making one.
        ValueError: An argument is out of its range.
    """

    def __init__(
        self, bucket: str, *, timeout: float | None = None, **options: Unpack[S3Options]
    ) -> None:
        validate_bucket(bucket)
        validate_options(options, bucket)
        self.name = bucket
        self._timeout = timeout
        self._max_concurrency = options.get("max_concurrency", DEFAULT_MAX_CONCURRENCY)
        self._uses_fast_path = options.get("direct", True)
        self._borrowed: Any = options.get("client")
        self._options = options
        self._common = _given({"ExpectedBucketOwner": options.get("expected_bucket_owner")})
        self._encryption = _given(
            {
                "ServerSideEncryption": options.get("server_side_encryption"),
                "SSEKMSKeyId": options.get("kms_key_id"),
            }
        )
        self._spelling = ETagSpelling()
        self._client: Any = None
        # While it is open.
        self._request_loop: RequestLoop
        self._requests: Requests
        self._fast_path: FastPath | None = None
        self._writes: Writes
        self._deletes: Deletes
        self._conditional_deletes: ConditionalDeletes

    @property
    def borrows_client(self) -> bool:
        """Whether its client was passed in, and so belongs to an event loop already."""
        return self._borrowed is not None

    async def open(self) -> None:
        """Make the client, in a thread, or use the one that was passed in.

        Raises:
            StorageError: The session or the configuration gives no usable client.
            LifecycleError: No thread can be started, see `snapstore.stores.threads`.
        """
        client = await self._get_client()
        from snapstore.stores.s3.client import may_resend

        self._client = client
        register_hooks(client)
        slow_path = SlowPath(client, self.name, common=self._common, encryption=self._encryption)
        self._requests = slow_path
        if self._uses_fast_path:
            from snapstore.stores.s3.fast_path import FastPath

            self._fast_path = FastPath(client, self.name, slow_path, timeout=self._timeout)
            self._requests = self._fast_path
        self._request_loop = RequestLoop(
            client,
            self.name,
            max_concurrency=self._max_concurrency,
            single_attempts=self._borrowed is None,
        )
        self._writes = Writes(self._request_loop, self._requests, self._spelling)
        self._deletes = Deletes(self._request_loop, self._requests)
        self._conditional_deletes = ConditionalDeletes(
            self._request_loop,
            self._requests,
            self._writes,
            quoted=self._spelling.quoted,
            may_resend=may_resend(client),
        )
        if self._fast_path is not None and self._borrowed is None:
            try:
                await self._fast_path.prime()
            except BaseException:  # cancelled: nobody closes what was never open
                await self.aclose()
                raise

    async def _get_client(self) -> Any:
        if self._borrowed is not None:
            from snapstore.stores.s3.inspection import of_client

            finding = of_client(self._borrowed, True, self._max_concurrency)
            if finding.status != "ok":
                logger.warning("the S3 client is %s", finding.message)
            return self._borrowed
        failure: StorageError
        require_threads("a client for S3")
        try:
            client = await run_in_daemon_thread(self._begin_client)
        except Exception as error:  # noqa: BLE001 -- the boundary: nothing foreign passes it
            failure = translate(
                error, operation="CreateClient", bucket=self.name, key=None, sent=False
            )
        else:
            self._validate_configured_endpoint(client)
            return client
        # Outside of the handler: the output of a program for credentials is in the chain.
        raise failure

    def _begin_client(self) -> Awaitable[Any]:
        # All that is slow to import is imported in the thread that this runs in.
        import_module("snapstore.stores.s3.fast_path")
        from snapstore.stores.s3.client import make_client

        return make_client(self._options)

    def _validate_configured_endpoint(self, client: Any) -> None:
        """Check an endpoint from the configuration as one from the argument is."""
        # The client has no connection yet, and nothing to close.
        if problem := endpoint_problem(client.meta.endpoint_url, self.name):
            raise StorageError(
                f"CreateClient of {self.name}: {problem}; it comes from AWS_ENDPOINT_URL_S3, "
                "AWS_ENDPOINT_URL or the profile",
                operation="CreateClient",
                bucket=self.name,
            )

    async def aclose(self) -> None:
        """Close the client, unless it was passed in."""
        client, self._client = self._client, None
        if client is None:
            return
        self._requests.close()
        unregister_hooks(client)
        self._fast_path = None
        if self._borrowed is None:
            await client.close()

    async def locate(self) -> str:
        """See `LocatedStore`. A name of a bucket is one bucket in all regions of Amazon S3."""
        parts = urlsplit(self._client.meta.endpoint_url)
        host = re.sub(r".*\.(amazonaws\.com(?:\.cn)?)", r"\1", parts.netloc.lower())
        return f"s3://{host}{parts.path.rstrip('/')}/{self.name}/"

    async def get(self, key: str, *, max_bytes: int) -> StoredObject | None:
        """See `ObjectStore.get`. One request; the length is checked before the body is read."""
        try:
            return await self._request_loop.run(
                "GetObject", key, lambda: self._requests.get(key, max_bytes)
            )
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

        A refused or ambiguous write is read back, with one more request: see `readback`.
        """
        write = self._new_write(if_match, create=if_none_match)
        return await readback.put(self._writes, key, data, write)

    async def put_with_metadata(
        self,
        key: str,
        data: bytes | Callable[[], bytes],
        metadata: Mapping[str, str],
        *,
        if_match: Version | None = None,
        if_none_match: bool = False,
    ) -> Version:
        """See `MetadataStore`. S3 has room for 100 bytes of it beside what the store keeps."""
        write = self._new_write(if_match, create=if_none_match, metadata=metadata)
        return await readback.put(self._writes, key, data, write)

    async def try_put(
        self,
        key: str,
        data: bytes,
        *,
        if_match: Version | None = None,
        if_none_match: bool = False,
    ) -> Version | RefusedWrite:
        """See `DeferredReadbackStore.try_put`."""
        write = self._new_write(if_match, create=if_none_match)
        return await readback.try_put(self._writes, key, data, write)

    def _new_write(
        self, replaces: Version | None, *, create: bool, metadata: Mapping[str, str] = {}
    ) -> S3Write:
        write = S3Write(replaces, create=create, metadata=metadata)
        write.quoted = self._spelling.quoted
        return write

    def scan(
        self, prefix: str, *, start_after: str | None = None, page_size: int = PAGE_SIZE
    ) -> AsyncGenerator[list[str], None]:
        """See `ObjectStore.scan`. A broken chain of pages is an error, never an early end."""

        def request(token: str | None) -> Awaitable[Page[str, str]]:
            return self._requests.list(prefix, page_size, start_after, token)

        return scan(self._request_loop, self.name, prefix, request)

    def scan_details(
        self, prefix: str, *, start_after: str | None = None, page_size: int = PAGE_SIZE
    ) -> AsyncGenerator[list[ObjectDetails], None]:
        """See `DetailedListingStore`, and `scan`. The times are as exact as the server's.

        Raises:
            InvalidResponseError: The listing does not tell the size or the time of an object.
        """

        def request(token: str | None) -> Awaitable[Page[ObjectDetails, str]]:
            return self._requests.list_details(prefix, page_size, start_after, token)

        return scan(self._request_loop, self.name, prefix, request)

    async def scan_prefixes(
        self,
        prefix: str,
        *,
        delimiter: str,
        start_after: str | None = None,
        page_size: int = PAGE_SIZE,
    ) -> AsyncGenerator[list[str], None]:
        """See `DelimiterStore`, and `scan`. The order is the server's."""
        validate_delimiter(delimiter)
        found = scan_prefixes(
            self._request_loop,
            self._requests,
            self.name,
            prefix,
            delimiter=delimiter,
            start_after=start_after,
            page_size=page_size,
        )
        async with aclosing(found) as pages:
            async for page in pages:
                yield page

    async def delete(self, keys: Sequence[str]) -> Mapping[str, str]:
        """See `ObjectStore.delete`. One request, whose response must name every key.

        Where the server refuses batches, and for keys that XML can't carry, a request for each.
        """
        return await self._deletes.delete(keys)

    async def has_conditional_deletes(self, scratch_key: str) -> bool:
        """See `ConditionalDeleteStore`. Six requests, once for as long as the store is open.

        In a versioned bucket, a version of the scratch object stays.
        """
        return await self._conditional_deletes.are_kept(scratch_key)

    async def delete_if_match(self, key: str, version: Version) -> None:
        """See `ConditionalDeleteStore`. One request; what is not clear is read back, by a HEAD.

        If the server says nothing of a missing object, its delete counts as one.
        """
        await self._conditional_deletes.delete(key, version)

    async def copy(
        self, source: str, key: str, *, metadata: Mapping[str, str] | None = {}
    ) -> Version | None:
        """See `CopyingStore`. One request, with the write id and the encryption of a put.

        To keep the metadata, a HEAD goes before it.
        """
        if metadata is None:
            try:
                metadata = await self._request_loop.run(
                    "HeadObject", source, lambda: self._requests.metadata_of(source)
                )
            except StorageError as error:
                if error.code != "NoSuchKey":
                    raise
                return None
        return await copy(self._request_loop, self._requests, source, key, metadata)

    def scan_versions(
        self, prefix: str, *, page_size: int = PAGE_SIZE
    ) -> AsyncGenerator[list[ObjectVersion], None]:
        """See `VersionedStore`, and `scan`. Of a page, delete markers come last."""

        def request(
            token: tuple[str, str] | None,
        ) -> Awaitable[Page[ObjectVersion, tuple[str, str]]]:
            return self._requests.list_versions(prefix, page_size, token)

        operation = "ListObjectVersions"
        return scan(self._request_loop, self.name, prefix, request, operation=operation)

    async def delete_versions(
        self, versions: Sequence[tuple[str, str]], *, bypass_governance: bool = False
    ) -> Mapping[tuple[str, str], str]:
        """See `VersionedStore`, and `delete`."""
        return await self._deletes.delete_versions(versions, bypass_governance=bypass_governance)

    async def lock_of(self, key: str, version_id: str) -> ObjectLock | None:
        """See `VersionedStore`. A HEAD; without a lock, the bucket is asked for its MFA delete."""
        lock = await self._request_loop.run(
            "HeadObject", key, lambda: self._requests.lock_of(key, version_id)
        )
        if lock is not None:
            return lock
        needs_mfa = await self._request_loop.run(
            "GetBucketVersioning", key, self._requests.needs_mfa_to_delete
        )
        return ObjectLock("MFA delete", None) if needs_mfa else None

    async def inspect(self, key: str) -> list[Finding]:
        """See `InspectableStore.inspect`: the server, the bucket, the client, the fast path."""
        from snapstore.stores.s3 import inspection

        of_bucket = inspection.BucketInspection(
            self._client, self.name, key, common=self._common, encryption=self._encryption
        )
        findings: list[Finding] = []
        try:
            async with self._request_loop.slots, aclosing(of_bucket.findings()) as found:
                async for finding in found:
                    findings.append(finding)  # noqa: PERF401 -- what was found stays if it fails
        except Exception as error:  # noqa: BLE001 -- the boundary: nothing foreign passes it
            failure = translate(error, operation="PutObject", bucket=self.name, key=key, sent=True)
            words = f"can't be told: {failure}"
            names = inspection.OF_BUCKET[len(findings) :]
            findings += [Finding(about, "unknown", words) for about in names]
        borrowed = self._borrowed is not None
        return [
            *findings,
            inspection.of_batches(self._deletes.batches_refused),
            inspection.of_client(self._client, borrowed, self._max_concurrency),
            inspection.of_fast_path(self._fast_path),
        ]


def _given(options: Mapping[str, str | None]) -> dict[str, str]:
    return {name: value for name, value in options.items() if value is not None}
