"""The store: what an object store promises, made of single S3 requests."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, TypeVar

from snapstore.errors import (
    InvalidResponseError,
    OutcomeUnknownError,
    StorageError,
    StorageTimeoutError,
    StorageUnavailableError,
    UnsupportedOperationError,
    shown,
)
from snapstore.stores.base import (
    PAGE_SIZE,
    UNCONFIRMED,
    DamagedReplyError,
    Finding,
    PreconditionFailedError,
    StoredObject,
    Version,
)
from snapstore.stores.deadline import Deadline
from snapstore.stores.readback import Verdict, Write
from snapstore.stores.retry import full_jitter, retrying
from snapstore.stores.s3.calls import Call, register_hooks, unregister_hooks
from snapstore.stores.s3.options import endpoint_problem, validate_bucket, validate_client
from snapstore.stores.s3.requests import DELETED, Page, Requests, xml_can_carry
from snapstore.stores.threads import require_threads, run_in_daemon_thread

if TYPE_CHECKING:
    from snapstore.stores.s3.direct import DirectRequests

__all__ = ["S3ObjectStore"]

T = TypeVar("T")

logger: Final = logging.getLogger("snapstore")

_DELETE_ATTEMPTS: Final = 4
_TRIES_IF_DAMAGED: Final = 3
_TRIES_TO_REACH_IT: Final = 3
_SPELLINGS: Final = 4
"""Ways to write the condition of one write: two etags, with and without quotes."""
_PASSING: Final = frozenset(
    {"InternalError", "RequestTimeout", "ServiceUnavailable", "SlowDown", "UnknownError"}
)
"""Codes of a key in a delete that pass (Amazon S3 API Reference, "Error responses"); the last one
is Ceph's, for whatever has failed inside."""


class S3ObjectStore:
    """Objects in a bucket.

    Args: as `snapstore.S3Storage`, which see; but `timeout` is only told here, and kept by whoever
    calls.

    Attributes:
        name: The bucket.

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
        max_concurrency: int = 128,
        server_side_encryption: str | None = None,
        kms_key_id: str | None = None,
        expected_bucket_owner: str | None = None,
        direct: bool = True,
        timeout: float | None = None,
    ) -> None:
        validate_bucket(bucket)
        if max_concurrency < 1:
            raise ValueError("max_concurrency must be at least 1")
        if endpoint_url is not None and (problem := endpoint_problem(endpoint_url, bucket)):
            raise ValueError(problem)
        if kms_key_id is not None and not (server_side_encryption or "").startswith("aws:kms"):
            raise ValueError("kms_key_id needs server_side_encryption='aws:kms' or 'aws:kms:dsse'")
        own = {"region": region, "endpoint_url": endpoint_url, "session": session, "config": config}
        if client is not None:
            validate_client(client)
            for name, value in own.items():
                if value is not None:
                    raise TypeError(
                        f"client and {name} exclude each other: {name} is for a client of our own"
                    )
            if problem := endpoint_problem(client.meta.endpoint_url, bucket):
                raise ValueError(f"the client can't be used: {problem}")
        self.name = bucket
        self._own_client_options = {**own, "max_concurrency": max_concurrency}
        self._borrowed = client
        self._max_concurrency = max_concurrency
        self._common = _given({"ExpectedBucketOwner": expected_bucket_owner})
        self._encryption = _given(
            {"ServerSideEncryption": server_side_encryption, "SSEKMSKeyId": kms_key_id}
        )
        self._client: Any = None
        self._slots: asyncio.Semaphore
        self._may_be_direct = direct
        self._timeout = timeout
        self._direct: DirectRequests | None = None
        self._requests: Requests | DirectRequests
        self._refused_batches: StorageError | None = None
        # How this server wants the etag of If-Match: found out by the first one that it accepts.
        self._quotes_etags = self._knows_quotes = False
        self._has_answered = False
        self._most_tries: int | None = None

    async def open(self) -> None:
        """Make the client, in a thread, or take the borrowed one.

        Raises:
            StorageError: The session or the configuration gives no usable client.
            LifecycleError: No thread can be had, see `snapstore.stores.threads`.
        """
        if self._borrowed is not None:
            self._client = self._borrowed
            from snapstore.stores.s3.inspection import of_client

            finding = of_client(self._client, True, self._max_concurrency)
            if finding.status != "ok":
                logger.warning("the S3 client is %s", finding.words)
        else:
            failure: StorageError | None = None
            require_threads("a client for S3")
            try:
                self._client = await run_in_daemon_thread(self._begin_client)
            except Exception as error:  # noqa: BLE001 -- the boundary: nothing foreign passes it
                failure = self._translated(error, "CreateClient", None, sent=False)
            # Outside of the handler: what a program for credentials has printed is in the chain.
            if failure is not None:
                raise failure
            self._refuse_configured_endpoint()
        # More requests at once than connections would only wait for each other unseen.
        config = self._client.meta.config
        self._slots = asyncio.Semaphore(min(self._max_concurrency, config.max_pool_connections))
        self._most_tries = (config.retries or {}).get("total_max_attempts")
        self._has_answered = False
        self._refused_batches = None
        register_hooks(self._client)
        self._requests = Requests(
            self._client, self.name, common=self._common, encryption=self._encryption
        )
        if self._may_be_direct:
            from snapstore.stores.s3.direct import DirectRequests

            self._direct = DirectRequests(
                self._client, self.name, self._requests, timeout=self._timeout
            )
            self._requests = self._direct
            if self._borrowed is None:
                try:
                    await self._direct.warm()
                except BaseException:  # cancelled: nobody closes what was never open
                    await self.aclose()
                    raise

    def _begin_client(self) -> Awaitable[Any]:
        # Slow to import, so in the thread that this runs in: with all that is imported later on.
        import_module("snapstore.stores.s3.direct")
        from snapstore.stores.s3.client import make_client

        return make_client(**self._own_client_options)

    def _refuse_configured_endpoint(self) -> None:
        """Refuse of an endpoint that was configured what is refused in the argument."""
        problem = endpoint_problem(self._client.meta.endpoint_url, self.name)
        if problem is not None:
            self._client = None  # it has no connection yet, and nothing to close
            raise StorageError(
                f"CreateClient of {self.name}: {problem}; it comes from AWS_ENDPOINT_URL_S3, "
                "AWS_ENDPOINT_URL or the profile",
                operation="CreateClient",
                bucket=self.name,
            )

    async def aclose(self) -> None:
        """Close our own client; a borrowed one stays open."""
        client, self._client = self._client, None
        if client is None:
            return
        self._requests.close()
        unregister_hooks(client)
        self._direct = None
        if self._borrowed is None:
            await client.close()

    async def get(self, key: str, *, max_bytes: int) -> StoredObject | None:
        """See `ObjectStore.get`. One request; the length is checked before the body is read."""
        try:
            return await self._run("GetObject", key, lambda: self._requests.get(key, max_bytes))
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

        A refused write is read back, with one request more: see `readback`.
        """
        return await self.put_with_metadata(
            key, data, {}, if_match=if_match, if_none_match=if_none_match
        )

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
        result = await self._send_put(key, data, write)
        while not isinstance(result, Version):
            found = await self._read_back(key, result.write, result.failure)
            if result.write.classify(found) is not Verdict.UNCHANGED or not result.respell(found):
                return result.resolve(found)
            result = await self._send_put(key, data, result.write)
        return result

    async def try_put(
        self,
        key: str,
        data: bytes,
        *,
        if_match: Version | None = None,
        if_none_match: bool = False,
    ) -> Version | _RefusedPut:
        """See `RefusingStore.try_put`."""
        return await self._send_put(key, data, self._new_write(if_match, create=if_none_match))

    def _new_write(
        self, over: Version | None, *, create: bool, metadata: Mapping[str, str] = {}
    ) -> Write:
        write = Write(over, create=create, metadata=metadata)
        write.quoted = self._quotes_etags
        return write

    async def _send_put(
        self, key: str, data: bytes | Callable[[], bytes], write: Write
    ) -> Version | _RefusedPut:
        async def request() -> Version:
            body = data() if callable(data) else data
            Deadline.current().allow(len(body))
            return await self._requests.put(key, body, write)

        try:
            version = await self._run("PutObject", key, request, write=write)
        except asyncio.CancelledError:
            Deadline.current().outcome = write.outcome
            raise
        except StorageError as error:
            failure = error
        else:
            if write.condition not in (None, "*"):
                self._quotes_etags, self._knows_quotes = write.quoted, True
            return version
        failure.outcome = write.outcome
        if write.condition is None:
            raise failure
        # What is said of a condition in a form that the server does not read.
        is_misread = type(failure) is StorageError and failure.status == 400
        if is_misread and self.respell(write, write.condition):
            return await self._send_put(key, data, write)
        if _is_refusal(failure):
            return _RefusedPut(self, write, failure)
        if write.in_doubt:
            verdict = write.classify(await self._read_back(key, write, failure))
            if isinstance(verdict, Version):
                return verdict
            if verdict is Verdict.CONFLICT:
                raise _precondition_failed(failure)
            if verdict is Verdict.UNKNOWN or write.pending:
                raise _unknown(failure, write)
            failure.outcome = "not applied"
        raise failure

    def respell(self, write: Write, etag: str) -> bool:
        """Spell the condition of a write in another way, since the server does not take this one.

        Some servers want quotes, some refuse them, and some give another etag with the response to
        a PUT than with one to a GET.

        Args:
            write: The write.
            etag: The etag of the version to be replaced, as the server gave it last.

        Returns:
            Whether there is a way that was not tried yet.
        """
        if write.condition == "*":
            return False
        write.tried.add((write.condition, write.quoted))
        for quoted in (write.quoted, not write.quoted):
            is_possible = quoted == self._quotes_etags or not self._knows_quotes
            if is_possible and (etag, quoted) not in write.tried and len(write.tried) < _SPELLINGS:
                write.condition, write.quoted = etag, quoted
                if not self._knows_quotes:
                    self._quotes_etags = quoted
                return True
        return False

    async def _read_back(self, key: str, write: Write, failure: StorageError) -> Version | None:
        """The version of an object as it is now, to tell what became of a write.

        Args:
            key: The object's key.
            write: The write.
            failure: How its last try ended.

        Raises:
            OutcomeUnknownError: The object can't be looked at.
        """
        try:
            return await self._run("HeadObject", key, lambda: self._requests.head(key))
        except asyncio.CancelledError:
            Deadline.current().outcome = "unknown"
            raise
        except StorageError as error:
            if error.status == 404:
                return None
        raise _unknown(failure, write)

    async def scan(
        self, prefix: str, *, start_after: str | None = None, page_size: int = PAGE_SIZE
    ) -> AsyncGenerator[list[str], None]:
        """See `ObjectStore.scan`. A broken chain of pages is an error, never an early end."""
        token: str | None = None
        seen: set[str | None] = {None, ""}

        async def request() -> Page:
            return await self._requests.list(prefix, page_size, start_after, token)

        while True:
            page = await self._run("ListObjectsV2", prefix, request)
            if page.truncated is None:
                raise self._broken_listing(prefix, "it does not say whether it goes on")
            if page.truncated and page.token in seen:
                raise self._broken_listing(prefix, "it goes on, but does not say where")
            seen.add(page.token)
            yield page.keys
            if not page.truncated:
                return
            token = page.token

    async def delete(self, keys: Sequence[str]) -> Mapping[str, str]:
        """See `ObjectStore.delete`. One request, whose reply must name every key.

        A key that XML can't carry needs a request of its own (boto3 #2005), and so does each where
        the server refuses DeleteObjects as such.
        """
        together = [key for key in keys if xml_can_carry(key)]
        outcome: dict[str, str] = {}
        refusal: StorageError | None = None
        if together and self._refused_batches is None:
            try:
                outcome = await self._delete_together(together)
            except StorageError as error:
                if not _refuses_batches(error):
                    raise
                refusal = error
        if refusal is not None:
            outcome = await self._delete_alone(together[:1])
            if DELETED not in outcome.values():
                raise refusal  # what is wrong is not that they are many
            self._refused_batches = refusal
        outcome |= await self._delete_alone([key for key in keys if key not in outcome])
        return {key: shown(code, 100) for key, code in outcome.items() if code != DELETED}

    async def _delete_together(self, keys: Sequence[str]) -> dict[str, str]:
        """Delete by one request; those that could not be deleted just now are tried again.

        Returns:
            What became of each key: `DELETED`, or a code.
        """
        outcome = dict.fromkeys(keys, UNCONFIRMED)
        again = list(keys)

        async def request() -> dict[str, str]:
            return await self._requests.delete(again)

        for attempt in range(_DELETE_ATTEMPTS):
            if attempt:
                await asyncio.sleep(full_jitter(attempt))
            try:
                outcome |= await self._run("DeleteObjects", again[0], request)
            except StorageError:
                if not attempt:
                    raise
                break  # what the earlier replies said must not be lost
            again = [key for key in again if outcome[key] in _PASSING]
            if not again:
                break
        return outcome

    async def _delete_alone(self, keys: Sequence[str]) -> dict[str, str]:
        """Delete each key by a request of its own; returns as `_delete_together`."""

        async def delete(key: str) -> str:
            try:
                await self._run("DeleteObject", key, lambda: self._requests.delete_one(key))
            except StorageError as error:
                return error.code or UNCONFIRMED
            return DELETED

        return dict(zip(keys, await asyncio.gather(*map(delete, keys)), strict=True))

    async def inspect(self, key: str) -> list[Finding]:
        """See `InspectableStore.inspect`: the server, the bucket, the client, the direct path."""
        from snapstore.stores.s3 import inspection

        of_bucket = inspection.BucketInspection(
            self._client, self.name, key, common=self._common, encryption=self._encryption
        )
        findings: list[Finding] = []
        try:
            async with self._slots, aclosing(of_bucket.findings()) as found:
                async for finding in found:
                    findings.append(finding)  # noqa: PERF401 -- what was found stays if it fails
        except Exception as error:  # noqa: BLE001 -- the boundary: nothing foreign passes it
            words = f"can't be told: {self._translated(error, 'PutObject', key, sent=True)}"
            names = inspection.OF_BUCKET[len(findings) :]
            findings += [Finding(about, "unknown", words) for about in names]
        borrowed = self._borrowed is not None
        return [
            *findings,
            inspection.of_batches(self._refused_batches),
            inspection.of_client(self._client, borrowed, self._max_concurrency),
            inspection.of_direct_path(self._direct),
        ]

    async def _run(
        self,
        operation: str,
        key: str,
        request: Callable[[], Awaitable[T]],
        *,
        write: Write | None = None,
    ) -> T:
        """Make a request in its turn, and again until the deadline where its failure passes.

        Args:
            operation: The S3 operation.
            key: The key or prefix.
            request: Makes it once.
            write: The write that it makes.
        """
        tries = 0

        async def once() -> T:
            nonlocal tries
            left = None if self._most_tries is None else self._most_tries - tries
            # Writes make one try a call, and so does an own client, so that waits are of one kind.
            one_try = write is not None or self._borrowed is None
            call = Call(write=write, tries_left=left, one_try=one_try)
            if write is not None:
                write.begin_try()
            try:
                with call.watched():
                    # Given back while the next try is waited for.
                    async with self._slots, Deadline.current().one_try():
                        result = await request()
            except Exception as error:  # noqa: BLE001 -- the boundary: nothing foreign passes it
                failure = self._translated(error, operation, key, sent=call.tries > 0)
                if write is not None:
                    write.given_up()
            else:
                self._has_answered = True
                return result
            finally:
                tries += max(call.tries, 1)
            # Outside of the handler: what was caught must not be in the chain, see errors.py.
            self._has_answered = self._has_answered or failure.status is not None
            raise failure

        def most_tries(error: StorageError) -> int | None:
            if self._most_tries is not None and tries >= self._most_tries:
                return 1
            return self._tries_for(error)

        return await retrying(once, most_tries=most_tries)

    def _tries_for(self, error: StorageError) -> int | None:
        """How often a request may be made that fails so; `None` until the deadline."""
        if isinstance(error, DamagedReplyError):
            return _TRIES_IF_DAMAGED
        if not isinstance(error, StorageUnavailableError | StorageTimeoutError):
            return 1
        if not error.retryable:
            return 1
        # What has never been reached is more likely a wrong address than a server that is down.
        return None if self._has_answered else _TRIES_TO_REACH_IT

    def _translated(
        self, error: Exception, operation: str, key: str | None, *, sent: bool
    ) -> StorageError:
        # Imported where it is needed, since it imports botocore; by then a client has done so.
        from snapstore.stores.s3.errors import translate

        return translate(error, operation=operation, bucket=self.name, key=key, sent=sent)

    def _broken_listing(self, prefix: str, why: str) -> InvalidResponseError:
        return InvalidResponseError(
            f"ListObjectsV2 of {self.name}/{prefix}: the listing is broken: {why}",
            operation="ListObjectsV2",
            bucket=self.name,
            key=prefix,
        )


class _RefusedPut:
    """See `RefusedWrite`."""

    def __init__(self, store: S3ObjectStore, write: Write, failure: StorageError) -> None:
        self.write = write
        self.failure = failure
        self._store = store

    def resolve(self, found: Version | None) -> Version:
        """See `RefusedWrite.resolve`."""
        verdict = self.write.classify(found)
        if isinstance(verdict, Version):
            return verdict
        if verdict is Verdict.UNCHANGED:
            self.respell(found)
        if verdict is Verdict.UNKNOWN or (verdict is Verdict.UNCHANGED and self.write.pending):
            raise _unknown(self.failure, self.write)
        raise _precondition_failed(self.failure, is_missing=found is None)

    def respell(self, found: Version | None) -> bool:
        """Spell the condition in another way: this one was refused although it holds.

        Returns:
            Whether there is another way.
        """
        return found is not None and self._store.respell(self.write, found.etag)


def _refuses_batches(error: StorageError) -> bool:
    """Whether it is DeleteObjects that a server refuses, and not these keys or credentials."""
    is_of_request = type(error) in (StorageError, UnsupportedOperationError)
    return is_of_request and error.status in (400, 405, 501)


def _is_refusal(error: StorageError) -> bool:
    """Whether the condition of a write did not hold.

    For a missing object, S3 says NoSuchKey; for an existing one, early MinIO says 304.
    """
    return error.status in (304, 412) or error.code == "NoSuchKey"


def _precondition_failed(
    error: StorageError, *, is_missing: bool = False
) -> PreconditionFailedError:
    return PreconditionFailedError(str(error), is_missing=is_missing, **error.facts)


def _unknown(failure: StorageError, write: Write) -> OutcomeUnknownError:
    when = "may yet be applied" if write.pending else "may have been applied"
    facts = failure.facts
    facts["outcome"] = "unknown"
    return OutcomeUnknownError(f"{failure}; it {when}", **facts)


def _given(options: Mapping[str, str | None]) -> dict[str, str]:
    return {name: value for name, value in options.items() if value is not None}
