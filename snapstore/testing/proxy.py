"""An HTTP proxy in front of an S3 server that records what arrives, and fails if it is told to.

It tells what a storage really sends, from the other side of the wire: how many requests, which
headers, which bytes. And it does what no server does on demand: it loses a reply, resets a
connection, lets it stall, cuts a body short, answers with an error.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Self

import aiohttp
from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

__all__ = ["Fault", "RecordedRequest", "RecordingProxy", "recording_proxy"]

_HOP_BY_HOP: Final = ("Connection", "Keep-Alive", "Transfer-Encoding")
_LARGE: Final = 2**20
_MAX_BODY: Final = 128 * 2**20
_DROP: Final = 16
"""Bytes of a body that drips."""

_NO_LINGERING: Final = struct.pack("ii", 1, 0)


class RecordedRequest(NamedTuple):
    """A request as it arrived.

    Attributes:
        operation: The S3 operation it is, by its method, query and headers: `"PutObject"`.
        method: The HTTP method.
        path: The path, percent-encoded as it was sent.
        query: The query parameters.
        headers: The headers; names in any case.
        body: The whole body.
    """

    operation: str
    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """What is done to a request and to its reply. `Fault()` does nothing to either.

    Attributes:
        delay: Seconds before the server gets the request.
        forward: Whether the server gets it at all. If not, the reply is an empty 200, until the
            next fields make another of it.
        repeat: Whether the server gets it a second time, whose reply it is then: what a proxy does
            that turns to its next server when the first one has not answered.
        held: Whether the connection is reset at once, and the server gets the request later, by
            `RecordingProxy.release`.
        status: The status of the reply instead of its own.
        headers: Headers laid over those of the reply; `None` takes one away.
        body: The body instead of its own.
        stall: Seconds before the reply begins.
        lost: Whether the connection is reset instead of a reply.
        drip: Seconds before each 16 bytes of the body.
        cut: Bytes of the body after which the connection is closed, whatever length was told.
        length: Whether the length of the body is told. If not, the body ends with the connection.

    Example:
        ::

            Fault(lost=True)                 # the server has done it, but the reply is lost
            Fault(lost=True, forward=False)  # the connection is reset before the server hears of it
            Fault(cut=20)                    # of a reply of any length, only 20 bytes come
            Fault(headers={"x-amz-checksum-crc32": "AAAAAA=="})  # a reply with a wrong checksum
            Fault.error(307, "TemporaryRedirect", headers={"Location": "http://127.0.0.1:1/"})
    """

    delay: float = 0.0
    forward: bool = True
    repeat: bool = False
    held: bool = False
    status: int | None = None
    headers: Mapping[str, str | None] = field(default_factory=dict[str, str | None])
    body: bytes | None = None
    stall: float = 0.0
    lost: bool = False
    drip: float = 0.0
    cut: int | None = None
    length: bool = True

    @classmethod
    def error(
        cls, status: int, code: str, *, headers: Mapping[str, str | None] | None = None
    ) -> Self:
        """An error of S3, of which the server hears nothing.

        Args:
            status: The HTTP status.
            code: The S3 error code, in the body.
            headers: More headers of the reply.
        """
        return cls(
            forward=False,
            status=status,
            headers={"Content-Type": "application/xml", **(headers or {})},
            body=f"<Error><Code>{code}</Code></Error>".encode(),
        )


class RecordingProxy:
    """A running proxy; `recording_proxy` makes one.

    Attributes:
        endpoint_url: Where it listens.
        requests: What has arrived, in order of arrival. Clear it at will.
        held: The requests that the server has not got yet, each as a function that sends it.
        fault: Asked about each request as it arrives; `None` from it lets the request pass.
    """

    def __init__(self, endpoint_url: str) -> None:
        self.endpoint_url = endpoint_url
        self.requests: list[RecordedRequest] = []
        self.held: list[Callable[[], Awaitable[object]]] = []
        self.fault: Callable[[RecordedRequest], Awaitable[Fault | None]] = _no_fault

    @property
    def operations(self) -> list[str]:
        """The operations of `requests`."""
        return [request.operation for request in self.requests]

    async def release(self) -> None:
        """Send the server what was held, in order. It has answered when this returns."""
        while self.held:
            await self.held.pop(0)()


@asynccontextmanager
async def recording_proxy(target: str) -> AsyncIterator[RecordingProxy]:
    """Run a proxy on a free loopback port for as long as the context lasts.

    Args:
        target: The endpoint URL of the S3 server behind it.

    Example:
        ::

            async def lose_the_first_reply(request: RecordedRequest) -> Fault | None:
                return Fault(lost=True) if len(proxy.requests) == 1 else None

            async with recording_proxy(server.endpoint_url) as proxy:
                proxy.fault = lose_the_first_reply
                async with S3Storage("bucket", endpoint_url=proxy.endpoint_url) as storage:
                    await storage.load_snapshot(location=location)
                assert proxy.operations == ["GetObject", "GetObject"]
    """

    async def handle(request: web.Request) -> web.StreamResponse:
        body = await request.read()
        recorded = RecordedRequest(
            operation=_operation(request),
            method=request.method,
            path=request.raw_path.partition("?")[0],
            query=request.query,
            headers=request.headers,
            body=body,
        )
        proxy.requests.append(recorded)
        fault = await proxy.fault(recorded) or Fault()
        await asyncio.sleep(fault.delay)
        if fault.held:
            proxy.held.append(lambda: pass_on(request, body))
            return _reset(request)
        if fault.forward:
            reply = await pass_on(request, body)
            if fault.repeat:
                reply = await pass_on(request, body)
        else:
            reply = _Reply(200, CIMultiDict({"Content-Length": "0"}), b"")
        await asyncio.sleep(fault.stall)
        if fault.lost:
            return _reset(request)
        return await _send(request, _changed(reply, fault), fault)

    async def pass_on(request: web.Request, body: bytes) -> _Reply:
        headers = _end_to_end(request.headers)
        headers.popall("Content-Length", None)
        # The signature covers the Host header, so it goes on as it came.
        async with upstream.request(
            request.method,
            URL(target + request.raw_path, encoded=True),
            headers=headers,
            # Of large bytes aiohttp warns.
            data=body if len(body) < _LARGE else io.BytesIO(body),
            allow_redirects=False,
        ) as reply:
            return _Reply(reply.status, _end_to_end(reply.headers), await reply.read())

    application = web.Application(client_max_size=_MAX_BODY)
    application.router.add_route("*", r"/{path:[\s\S]*}", handle)
    # Nobody waits any more for what is delayed when the proxy is closed.
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.01)
    async with aiohttp.ClientSession(
        auto_decompress=False,
        skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
        connector=aiohttp.TCPConnector(limit=0),
    ) as upstream:
        await runner.setup()
        try:
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            host, port = runner.addresses[0][:2]
            proxy = RecordingProxy(f"http://{host}:{port}")
            yield proxy
        finally:
            await runner.cleanup()


async def _no_fault(_: RecordedRequest) -> None:
    """Let every request pass."""


class _Reply(NamedTuple):
    status: int
    headers: CIMultiDict[str]
    body: bytes


class _WithoutLength(web.StreamResponse):
    """A response that is not chunked where its length is not told."""

    _length_check = False


def _changed(reply: _Reply, fault: Fault) -> _Reply:
    status, headers, body = reply
    if fault.body is not None:
        body = fault.body
        headers["Content-Length"] = str(len(body))
    for name, value in fault.headers.items():
        headers.popall(name, None)
        if value is not None:
            headers[name] = value
    return _Reply(fault.status or status, headers, body)


async def _send(request: web.Request, reply: _Reply, fault: Fault) -> web.StreamResponse:
    status, headers, body = reply
    if fault.length:
        # Without a Content-Length from the server it becomes a chunked one.
        response = web.StreamResponse(status=status, headers=headers)
    else:
        headers.popall("Content-Length", None)
        response = _WithoutLength(status=status, headers=headers)
        response.force_close()
    body = b"" if request.method == "HEAD" else body[: fault.cut]
    step = _DROP if fault.drip else max(len(body), 1)
    with contextlib.suppress(ConnectionError):  # the client has gone
        await response.prepare(request)
        for start in range(0, len(body), step):
            await asyncio.sleep(fault.drip)
            await response.write(body[start : start + step])
    if fault.cut is not None and request.transport is not None:
        request.transport.close()
    return response


def _reset(request: web.Request) -> web.Response:
    if request.transport is not None:
        connection = request.transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGERING)
        request.transport.abort()
    return web.Response()  # goes nowhere


def _operation(request: web.Request) -> str:
    query = request.query
    # A key lies behind the bucket in the path; without one the request is about the bucket.
    on_object = "/" in request.path.strip("/")
    if request.method == "GET":
        if on_object:
            return "GetObject"
        if "versions" in query:
            return "ListObjectVersions"
        return "ListObjectsV2" if query.get("list-type") == "2" else "GetBucket"
    if request.method == "POST" and "delete" in query:
        return "DeleteObjects"
    if "x-amz-copy-source" in request.headers:
        return "CopyObject"
    kind = "Object" if on_object else "Bucket"
    return f"{request.method.capitalize()}{kind}"


def _end_to_end(headers: Mapping[str, str]) -> CIMultiDict[str]:
    kept = CIMultiDict(headers)
    for name in _HOP_BY_HOP:
        kept.popall(name, None)
    return kept
