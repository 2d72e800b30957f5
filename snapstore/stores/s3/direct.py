"""The direct path: learn a request from aiobotocore, then replay it.

A generic call resolves endpoints, builds parameters, headers and a signing key, and parses what it
never shows, each time anew. For the four requests that a store makes all day, only the key, the
body, a handful of headers and the signature change. So one request of each kind goes through the
client, while a `before-send` hook looks at it; it is the template for those that follow, which are
signed here and sent on the client's own HTTP session. With a client of our own that one request is
made when the store is opened, and the hook keeps it from being sent.

Whatever is not as expected, a redirect or a broken connection as much as an unusual reply, is
handed to the generic call, which owns retries and the mapping of errors. Where the client is not
one to be bypassed (see `internals`) every call is generic.
"""

from __future__ import annotations

import asyncio
import io
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, TypeVar
from urllib.parse import quote

import aiohttp
from botocore.exceptions import ClientError, FlexibleChecksumError
from botocore.parsers import ResponseParserError

from snapstore.errors import InvalidResponseError
from snapstore.stores.base import DamagedReplyError, StoredObject, Version
from snapstore.stores.deadline import Deadline
from snapstore.stores.readback import Ending, Write, version_of
from snapstore.stores.s3 import xml
from snapstore.stores.s3.bounds import read_bounded
from snapstore.stores.s3.calls import Call
from snapstore.stores.s3.errors import as_botocore, ending_of, is_wrong_region
from snapstore.stores.s3.internals import Internals, UnfitError
from snapstore.stores.s3.requests import (
    Page,
    Requests,
    content_md5,
    crc32,
    etag_of,
    own_metadata,
    read_object,
    too_large,
)
from snapstore.stores.s3.template import CRC32, META, Template

__all__ = ["DirectRequests"]

T = TypeVar("T")

logger: Final = logging.getLogger("snapstore")

_REPEATED: Final = frozenset({400, 401, 403})
"""Statuses that may be the fault of a replayed request: a generic call is asked again."""

_UNDERSTOOD: Final = frozenset({404, 409, 412})
"""Statuses, beside the good ones, of requests that a server has understood."""

_OVERLOADED: Final = frozenset({429, 500, 502, 503, 504})
"""Statuses of a server in trouble, which a generic call would have met as well."""

_LARGE: Final = 2**20
"""A body of so many bytes keeps the event loop busy; and given as bytes, aiohttp warns of it."""

_YIELD: Final = 1e-6
"""Seconds of sleep that let others run, timers included: those wait for more than 0."""

_FAILURE_THRESHOLD: Final = 5
_RESET_TIMEOUT: Final = 60.0

_REFUSED: Final = (
    ClientError,
    FlexibleChecksumError,
    InvalidResponseError,
    ResponseParserError,
)
"""What a response that has arrived is refused with."""

_TRANSPORT: Final = (OSError, TimeoutError, aiohttp.ClientError, RuntimeError, ValueError)
"""What sending and receiving raises; the last two come of a closed session and of a bad header."""

_NOTHING: Final[Mapping[str, str]] = {}


class DirectRequests:
    """The requests of a store, replayed where that is possible.

    Args:
        client: An entered aiobotocore client. A hook of ours is registered on it, until `close`.
        bucket: The bucket.
        generic: The generic calls, for everything else.
        timeout: Seconds after which whoever calls gives up; `None` if that is not known.

    Attributes:
        off: Why no request is replayed, for as long as this client is used; `None` if they may be.
    """

    def __init__(
        self, client: Any, bucket: str, generic: Requests, *, timeout: float | None
    ) -> None:
        self._client = client
        self._timeout = timeout
        self._bucket = bucket
        self._generic = generic
        self._templates: dict[str, Template] = {}
        self._failures: Counter[str] = Counter()
        self._resting_until = 0.0
        self.off: str | None = None
        self._look_inside()
        # Their requests are addressed and signed in ways of their own.
        if bucket.startswith("arn:"):
            self._switch_off("the bucket is named by an ARN")
        elif bucket.endswith("--x-s3"):
            self._switch_off("the bucket is a directory bucket")

    @property
    def rests(self) -> bool:
        """Whether requests are generic for a while, since too many could not be replayed."""
        return time.monotonic() < self._resting_until

    async def warm(self) -> None:
        """Do beforehand what the first requests would have to wait for. Nothing is sent."""
        if self.off is None:
            # What fails here fails again with that request, whose errors are put into words.
            with suppress(Exception):
                await self._internals.warm()
                if self._internals.has_credentials:
                    await self._capture_all()

    async def _capture_all(self) -> None:
        """Capture all requests from generic calls that are not sent."""
        calls: dict[tuple[str, str], Callable[[], Awaitable[object]]] = {
            ("PutObject", "key"): lambda: self._generic.put("key", b"", Write(None, create=False)),
            ("GetObject", "key"): lambda: self._generic.get("key", 0),
            ("ListObjectsV2", ""): lambda: self._generic.list("", 1, None, None),
            ("DeleteObjects", ""): lambda: self._generic.delete(["key"]),
        }
        for (operation, key), call in calls.items():
            with suppress(ClientError), Call(dry_run=True).watched():  # ClientError is how it ends
                await self._capture(operation, key, call())

    def close(self) -> None:
        """See `Requests.close`."""
        self._generic.close()

    async def get(self, key: str, max_bytes: int) -> StoredObject:
        """See `Requests.get`."""

        async def read(response: aiohttp.ClientResponse) -> StoredObject:
            if response.status == 206:
                raise DamagedReplyError(f"GetObject of {key}: the response is a part of the object")
            etag = etag_of(response.headers, "GetObject", key)
            length = response.content_length
            if length is not None and length > max_bytes:
                raise too_large(self._bucket, key, length, max_bytes)
            Deadline.current().allow(length or 0)
            data = await read_object(response.content, self._bucket, key, length, max_bytes)
            if len(data) >= _LARGE:
                # To put it together took milliseconds, and so will the checksum.
                await asyncio.sleep(_YIELD)
            self._internals.verify(data, response.headers)
            metadata = _metadata(response)
            return StoredObject(data, version_of(etag, metadata), own_metadata(metadata))

        found = await self._replay("GetObject", "GET", read, key=key)
        if found is None:
            return await self._capture("GetObject", key, self._generic.get(key, max_bytes))
        return found

    async def head(self, key: str) -> Version:
        """See `Requests.head`. It is rare, and always generic."""
        return await self._generic.head(key)

    async def put(self, key: str, data: bytes, write: Write) -> Version:
        """See `Requests.put`."""
        headers = {META + name: value for name, value in write.metadata.items()}
        if self._generic.sends_checksum:
            headers[CRC32] = crc32(data)
        if write.precondition is not None:
            name, value = write.precondition
            headers[name] = value

        async def read(response: aiohttp.ClientResponse) -> Version:
            _raise_if_error(response, "PutObject", await read_bounded(response))
            return write.version(etag_of(response.headers, "PutObject", key))

        version = None
        if self.off is None and not (self._internals.sends_again and len(data) >= _LARGE):
            version = await self._replay(
                "PutObject", "PUT", read, key=key, headers=headers, body=data
            )
        if version is None:
            return await self._capture("PutObject", key, self._generic.put(key, data, write))
        return version

    async def list(
        self, prefix: str, page_size: int, start_after: str | None, token: str | None
    ) -> Page:
        """See `Requests.list`. The keys are taken out of the XML as it comes."""
        position = {"start-after": start_after} if token is None else {"continuation-token": token}
        wanted = {
            "encoding-type": "url",
            "list-type": "2",
            "max-keys": str(page_size),
            "prefix": prefix,
            **position,
        }
        query = "&".join(
            f"{name}={quote(value, safe='-_.~')}"
            for name, value in sorted(wanted.items())
            if value is not None
        )

        async def read(response: aiohttp.ClientResponse) -> Page:
            body = await read_bounded(response)
            page = xml.read_page(body)
            if page is None:
                _raise_if_error(response, "ListObjectsV2", body)
                page = xml.parse_page(body, prefix)
            return page

        page = await self._replay("ListObjectsV2", "GET", read, query=query)
        if page is None:
            call = self._generic.list(prefix, page_size, start_after, token)
            return await self._capture("ListObjectsV2", "", call)
        return page

    async def delete(self, keys: Sequence[str]) -> dict[str, str]:
        """See `Requests.delete`."""

        async def read(response: aiohttp.ClientResponse) -> dict[str, str]:
            told = await read_bounded(response)
            outcome = xml.read_deleted(told, keys)
            if outcome is None:
                _raise_if_error(response, "DeleteObjects", told)
                outcome = xml.parse_deleted(told, keys)
            return outcome

        body = xml.delete_body(keys)
        headers = {CRC32: crc32(body), "content-md5": content_md5(body)}
        outcome = await self._replay(
            "DeleteObjects", "POST", read, query="delete=", headers=headers, body=body
        )
        if outcome is None:
            return await self._capture("DeleteObjects", "", self._generic.delete(keys))
        return outcome

    async def delete_one(self, key: str) -> None:
        """See `Requests.delete_one`. It is rare, and always generic."""
        await self._generic.delete_one(key)

    async def _replay(
        self,
        operation: str,
        method: str,
        read: Callable[[aiohttp.ClientResponse], Awaitable[T]],
        *,
        key: str = "",
        query: str = "",
        headers: Mapping[str, str] = _NOTHING,
        body: bytes = b"",
    ) -> T | None:
        """Make a request without the client: one try, which ends like one try of a generic call.

        Args:
            operation: The S3 operation.
            method: The HTTP method.
            read: Reads a good response.
            key: The key.
            query: The query, percent-encoded and sorted by name.
            headers: The headers of this request alone.
            body: The body.

        Returns:
            What was read; `None` where a generic call has to be made instead.
        """
        template = self._template(operation)
        if template is None:
            return None
        session, times, credentials = await self._internals.current()
        request = template.signed(
            credentials, method, key=key, query=query, headers=headers, body=body
        )
        call = Call.current()
        call.sent()
        found: T | None = None
        failure: Exception | None = None
        try:
            async with await session.request(
                method,
                request.url,
                headers=request.headers,
                # Empty bytes would be sent as a body of length 0.
                data=(body if len(body) < _LARGE else io.BytesIO(body)) if body else None,
                allow_redirects=False,
                timeout=times,
            ) as response:
                if 200 <= response.status < 300:
                    found = await read(response)
                else:
                    failure = _client_error(response, operation, await read_bounded(response))
        except _REFUSED as error:
            failure = error
        except _TRANSPORT as error:
            failure = as_botocore(error, str(request.url.origin()))
        if found is not None:
            del self._failures[operation]
            return found
        call.ended(Ending.LOST if failure is None else ending_of(failure))
        if not isinstance(failure, ClientError):
            self._fell_back(operation, type(failure).__name__)
            if failure is None:
                return None
            raise failure
        status: int = failure.response["ResponseMetadata"]["HTTPStatusCode"]
        if status in _UNDERSTOOD:
            del self._failures[operation]
            raise failure
        self._fell_back(operation, f"a response of {status}", counts=status not in _OVERLOADED)
        if is_wrong_region(failure.response) or (status in _REPEATED and not call.is_last_try):
            return None
        raise failure

    def _template(self, operation: str) -> Template | None:
        if self.off is not None or self.rests:
            return None
        if not self._internals.same_hooks:
            self._look_inside()
        return self._templates.get(operation)

    def _look_inside(self) -> None:
        self._templates.clear()  # of requests that may be made in another way now
        try:
            self._internals = Internals(self._client, self._timeout)
        except UnfitError as error:
            self._switch_off(str(error))

    async def _capture(self, operation: str, key: str, call: Awaitable[T]) -> T:
        """Make a generic call, and take what it sent for a template if it was understood."""
        try:
            result = await call
        except ClientError as error:
            if error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") in _UNDERSTOOD:
                self._store_template(operation, key)
            raise
        self._store_template(operation, key)
        return result

    def _store_template(self, operation: str, key: str) -> None:
        call = Call.current()
        if self.off is not None or not call.requests:
            return
        try:
            template = Template.of(call.requests[-1], key)
        except UnfitError as error:
            self._switch_off(str(error))
            return
        if self._internals.proxy_of(template.url) is None:
            self._templates[operation] = template
        else:
            self._switch_off("requests go through a proxy")

    def _fell_back(self, operation: str, why: str, *, counts: bool = True) -> None:
        """Note that a replay was of no use. The next call is a generic one, and captured anew.

        Args:
            operation: The S3 operation.
            why: What has happened.
            counts: Whether it brings the circuit breaker nearer to opening.
        """
        logger.debug("%s of %s falls back to a generic call: %s", operation, self._bucket, why)
        self._templates.pop(operation, None)
        if not counts:
            return
        self._failures[operation] += 1
        if self._failures[operation] >= _FAILURE_THRESHOLD:
            self._failures.clear()
            self._resting_until = time.monotonic() + _RESET_TIMEOUT
            logger.debug("the direct path to %s rests for %g s", self._bucket, _RESET_TIMEOUT)

    def _switch_off(self, why: str) -> None:
        self.off = why
        self._templates.clear()
        logger.debug("the direct path to %s is off: %s", self._bucket, why)


def _raise_if_error(response: aiohttp.ClientResponse, operation: str, body: bytes) -> None:
    """Raise for an error in a good response, or for what is no XML.

    As botocore does: in a 200 it is a 500, and in any other one it can't be read.
    """
    if body and xml.is_error(body):
        if response.status == 200:
            raise _client_error(response, operation, body, status=500)
        raise ResponseParserError(f"{operation}: no XML in a response of {response.status}")


def _client_error(
    response: aiohttp.ClientResponse, operation: str, body: bytes, status: int | None = None
) -> ClientError:
    """The error that botocore makes of a response.

    Args:
        response: The response.
        operation: The S3 operation.
        body: Its body.
        status: The status to be told, where it is not the response's own.
    """
    status = status or response.status
    headers = {name.lower(): value for name, value in response.headers.items()}
    details = xml.read_error(body)
    # For what is no XML, botocore takes the status for the code.
    error = {"Code": str(status)} if details is None else {"Code": "", **details}
    metadata = {
        "HTTPStatusCode": status,
        "HTTPHeaders": headers,
        "RequestId": headers.get("x-amz-request-id"),
    }
    return ClientError({"Error": error, "ResponseMetadata": metadata}, operation)


def _metadata(response: aiohttp.ClientResponse) -> dict[str, str]:
    start = len(META)
    return {
        name[start:].lower(): value
        for name, value in response.headers.items()
        if name[:start].lower() == META
    }
