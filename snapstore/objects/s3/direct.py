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
from contextvars import ContextVar
from typing import Any, Final, TypeVar
from urllib.parse import quote

import aiohttp
from botocore.exceptions import ClientError

from snapstore.objects.base import Body, StoredObject, Version
from snapstore.objects.s3 import xml
from snapstore.objects.s3.bounds import read_bounded
from snapstore.objects.s3.internals import Internals, UnfitError
from snapstore.objects.s3.requests import Page, Requests, content_md5, crc32, too_large
from snapstore.objects.s3.settle import LINEAGE, TOKEN, Write, version_of
from snapstore.objects.s3.template import CRC32, META, Template

__all__ = ["DirectRequests"]

T = TypeVar("T")

logger: Final = logging.getLogger("snapstore")

_CONCLUSIVE: Final = frozenset({404, 409, 412, 429})
"""Statuses that, with a code in the body, the generic call would not make anything else of."""

_LARGE: Final = 2**20
"""A body of so many bytes keeps the event loop busy; and given as bytes, aiohttp warns of it."""

_A_MOMENT: Final = 1e-6
"""Seconds for others to run: after 0, what is due by a timer would not have had its turn."""

_UNWELL: Final = frozenset({500, 502, 503, 504})
"""Statuses of a server in trouble, which the generic call would have met as well."""

_PATIENCE: Final = 5
_PAUSE: Final = 60.0

_NEVER_SENT: Final = (AttributeError, RuntimeError, ValueError)
"""What comes of a client that its owner has closed, and of a header that can't be sent."""

_BROKEN: Final = (OSError, TimeoutError, aiohttp.ClientError, *_NEVER_SENT)
_NOTHING: Final[Mapping[str, str]] = {}
_HOOK: Final[dict[str, Any]] = {"unique_id": "snapstore-direct", "unique_id_uses_count": True}


class _Captured:
    """The last request of a generic call. It holds a signature, which must not show."""

    request: Any = None


_lesson: ContextVar[_Captured | None] = ContextVar("snapstore_lesson", default=None)
"""Where the requests of the generic call under way are to be noted."""

_rehearsing: ContextVar[bool] = ContextVar("snapstore_rehearsing", default=False)
"""Whether the generic call under way is not to be sent."""


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
        client.meta.events.register("before-send.s3", _note, **_HOOK)
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
                    await self._rehearse()

    async def _rehearse(self) -> None:
        """Learn all requests from generic calls that are not sent."""
        calls: dict[tuple[str, str], Callable[[], Awaitable[object]]] = {
            ("PutObject", "key"): lambda: self._generic.put("key", b"", Write(None, create=False)),
            ("GetObject", "key"): lambda: self._generic.get("key", 0),
            ("ListObjectsV2", ""): lambda: self._generic.list("", 1, None, None),
            ("DeleteObjects", ""): lambda: self._generic.delete(["key"]),
        }
        token = _rehearsing.set(True)
        try:
            for (operation, key), call in calls.items():
                with suppress(ClientError):  # which is how such a call ends
                    await self._learn(operation, key, call())
        finally:
            _rehearsing.reset(token)

    def close(self) -> None:
        """Take the hooks away again."""
        self._generic.close()
        self._client.meta.events.unregister("before-send.s3", _note, **_HOOK)

    async def get(self, key: str, max_bytes: int) -> StoredObject:
        """See `Requests.get`."""
        template = self._template("GetObject")
        if template is None:
            return await self._learn("GetObject", key, self._generic.get(key, max_bytes))
        try:
            async with await self._send(template, "GET", key=key) as reply:
                length, etag = reply.content_length, _etag(reply)
                if reply.status == 200 and length is not None and etag:
                    if length > max_bytes:
                        raise too_large(self._bucket, key, length, max_bytes)
                    data = Body(await reply.read())
                    if length >= _LARGE:
                        # To put it together took milliseconds, and so will the checksum.
                        await asyncio.sleep(_A_MOMENT)
                    if len(data) == length and _is_intact(data, reply.headers.get(CRC32)):
                        del self._failures["GetObject"]
                        return StoredObject(data, version_of(etag, _metadata(reply)))
                await self._raise_if_conclusive(reply, "GetObject")
                why: object = reply.status
        except _BROKEN as error:
            why = error
        self._fell_back("GetObject", why)
        return await self._learn("GetObject", key, self._generic.get(key, max_bytes))

    async def head(self, key: str) -> Version:
        """See `Requests.head`. It is rare, and always generic."""
        return await self._generic.head(key)

    async def put(self, key: str, data: bytes, write: Write) -> Version:
        """See `Requests.put`."""
        template = self._template("PutObject")
        if template is None or (self._internals.sends_again and len(data) >= _LARGE):
            return await self._learn("PutObject", key, self._generic.put(key, data, write))
        headers = {META + name: value for name, value in write.metadata.items()}
        if self._generic.sends_checksum:
            headers[CRC32] = crc32(data)
        if write.condition is not None:
            headers["if-none-match" if write.condition == "*" else "if-match"] = write.condition
        try:
            async with await self._send(template, "PUT", key, headers=headers, body=data) as reply:
                etag = _etag(reply)
                if reply.status == 200 and etag and await _is_empty(reply):
                    del self._failures["PutObject"]
                    return write.version(etag)
                await self._raise_if_conclusive(reply, "PutObject")
                # After a good status that is not as expected, it has most likely been applied.
                write.ended(reply.status if reply.status >= 300 else None)
                why: object = reply.status
        except (aiohttp.ClientConnectorError, *_NEVER_SENT) as error:
            why = error
        except _BROKEN as error:
            write.ended(None)
            why = error
        self._fell_back("PutObject", why)
        return await self._learn("PutObject", key, self._generic.put(key, data, write))

    async def list(
        self, prefix: str, page_size: int, start_after: str | None, token: str | None
    ) -> Page:
        """See `Requests.list`. The keys are taken out of the XML as it comes."""

        def generic() -> Awaitable[Page]:
            return self._generic.list(prefix, page_size, start_after, token)

        template = self._template("ListObjectsV2")
        if template is None:
            return await self._learn("ListObjectsV2", "", generic())
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
        sent = self._send(template, "GET", query=query)
        page = await self._read("ListObjectsV2", sent, xml.read_page)
        return await self._learn("ListObjectsV2", "", generic()) if page is None else page

    async def delete(self, keys: Sequence[str]) -> dict[str, str]:
        """See `Requests.delete`."""
        template = self._template("DeleteObjects")
        if template is None:
            return await self._learn("DeleteObjects", "", self._generic.delete(keys))
        body = xml.delete_body(keys)
        headers = {CRC32: crc32(body), "content-md5": content_md5(body)}
        sent = self._send(template, "POST", query="delete=", headers=headers, body=body)
        outcome = await self._read("DeleteObjects", sent, lambda text: xml.read_deleted(text, keys))
        if outcome is None:
            return await self._learn("DeleteObjects", "", self._generic.delete(keys))
        return outcome

    async def delete_one(self, key: str) -> None:
        """See `Requests.delete_one`. It is rare, and always generic."""
        await self._generic.delete_one(key)

    async def _send(
        self,
        template: Template,
        method: str,
        key: str = "",
        *,
        query: str = "",
        headers: Mapping[str, str] = _NOTHING,
        body: bytes = b"",
    ) -> aiohttp.ClientResponse:
        session, times, credentials = await self._internals.current()
        request = template.signed(
            credentials, method, key=key, query=query, headers=headers, body=body
        )
        return await session.request(
            method,
            request.url,
            headers=request.headers,
            # Empty bytes would be sent as a body of length 0.
            data=(body if len(body) < _LARGE else io.BytesIO(body)) if body else None,
            allow_redirects=False,
            timeout=times,
        )

    async def _read(
        self,
        operation: str,
        sent: Awaitable[aiohttp.ClientResponse],
        read: Callable[[str], T | None],
    ) -> T | None:
        """What is read out of a good reply; `None` if that can't be done."""
        try:
            async with await sent as reply:
                if reply.status == 200:
                    found = read((await read_bounded(reply)).decode())
                    if found is not None:
                        del self._failures[operation]
                        return found
                await self._raise_if_conclusive(reply, operation)
                why: object = reply.status
        except _BROKEN as error:
            why = error
        self._fell_back(operation, why)
        return None

    async def _raise_if_conclusive(self, reply: aiohttp.ClientResponse, operation: str) -> None:
        if reply.status not in _CONCLUSIVE:
            return
        code = xml.error_code((await read_bounded(reply)).decode(errors="replace"))
        if not code:
            return
        del self._failures[operation]
        headers = {name.lower(): value for name, value in reply.headers.items()}
        metadata = {
            "HTTPStatusCode": reply.status,
            "HTTPHeaders": headers,
            "RequestId": headers.get("x-amz-request-id"),
        }
        error = {"Code": code, "Message": ""}
        raise ClientError({"Error": error, "ResponseMetadata": metadata}, operation)

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

    async def _learn(self, operation: str, key: str, call: Awaitable[T]) -> T:
        """Make a generic call, and take what it sent for a template if it was understood."""
        captured = _Captured()
        token = _lesson.set(captured)
        try:
            result = await call
        except ClientError as error:
            if error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") in _CONCLUSIVE:
                self._take(operation, key, captured)
            raise
        finally:
            _lesson.reset(token)
        self._take(operation, key, captured)
        return result

    def _take(self, operation: str, key: str, captured: _Captured) -> None:
        if self.off is not None or captured.request is None:
            return
        try:
            template = Template.of(captured.request, key)
        except UnfitError as error:
            self._switch_off(str(error))
            return
        if self._internals.proxy_of(template.url) is None:
            self._templates[operation] = template
        else:
            self._switch_off("requests go through a proxy")

    def _fell_back(self, operation: str, why: object) -> None:
        """Note that a replay was of no use: for what it raised, or for the status of its reply."""
        reason = f"an answer of {why}" if isinstance(why, int) else type(why).__name__
        logger.debug("%s of %s falls back to a generic call: %s", operation, self._bucket, reason)
        if isinstance(why, int) and why in _UNWELL:
            return
        self._failures[operation] += 1
        if self._failures[operation] >= _PATIENCE:
            self._failures.clear()
            self._resting_until = time.monotonic() + _PAUSE
            logger.debug("the direct path to %s rests for %g s", self._bucket, _PAUSE)

    def _switch_off(self, why: str) -> None:
        self.off = why
        self._templates.clear()
        logger.debug("the direct path to %s is off: %s", self._bucket, why)


class _Unsent:
    """Stands for the reply to a request that is not sent."""

    status_code = 412
    headers: Mapping[str, str] = _NOTHING

    @property
    async def content(self) -> bytes:
        return b"<Error><Code>Unsent</Code></Error>"


def _note(request: Any, **_: Any) -> _Unsent | None:
    """Look at a request as it is sent, and leave it as it is. A reply is one to do without it."""
    lesson = _lesson.get()
    if lesson is not None:
        lesson.request = request
    return _Unsent() if _rehearsing.get() else None


def _etag(reply: aiohttp.ClientResponse) -> str:
    return reply.headers.get("ETag", "").strip('"')


async def _is_empty(reply: aiohttp.ClientResponse) -> bool:
    return reply.content_length == 0 or not await read_bounded(reply)


def _metadata(reply: aiohttp.ClientResponse) -> dict[str, str]:
    return {name: reply.headers.get(META + name, "") for name in (TOKEN, LINEAGE)}


def _is_intact(data: bytes, checksum: str | None) -> bool:
    """Whether a body matches its CRC-32. One of several parts, with their number, is none of it."""
    return checksum is None or "-" in checksum or checksum == crc32(data)
