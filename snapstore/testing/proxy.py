"""An HTTP proxy in front of an S3 server that records what arrives, and fails if it is told to.

It tells what a storage really sends, from the other side of the wire: how many requests, which
headers, which bytes. And it does what no server does on demand: lose a reply, break a connection,
answer with an error.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import NamedTuple

import aiohttp
from aiohttp import web
from yarl import URL

__all__ = ["Fault", "RecordedRequest", "RecordingProxy", "recording_proxy"]

_HOP_BY_HOP = frozenset({"connection", "content-length", "keep-alive", "transfer-encoding"})
_MAX_BODY = 128 * 2**20


class RecordedRequest(NamedTuple):
    """A request as it arrived.

    Attributes:
        operation: The S3 operation it is, by its method and query: `"PutObject"`.
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


class Fault(NamedTuple):
    """What happens to a request.

    `Fault()` breaks the connection, and the server never sees the request. `Fault(forward=True)`
    breaks it when the server has answered: the reply is lost. With a status, the proxy answers.

    Attributes:
        forward: Whether the server gets the request.
        status: The HTTP status of the proxy's own answer; `None` for a broken connection.
        code: The S3 error code in it.
    """

    forward: bool = False
    status: int | None = None
    code: str = ""


class RecordingProxy:
    """A running proxy; `recording_proxy` makes one.

    Attributes:
        endpoint_url: Where it listens.
        requests: What has arrived, in order of arrival. Clear it at will.
        fault: Asked about each request as it arrives; `None` from it lets the request pass.
    """

    def __init__(self, endpoint_url: str) -> None:
        self.endpoint_url = endpoint_url
        self.requests: list[RecordedRequest] = []
        self.fault: Callable[[RecordedRequest], Awaitable[Fault | None]] = _no_fault

    @property
    def operations(self) -> list[str]:
        """The operations of `requests`."""
        return [request.operation for request in self.requests]


@asynccontextmanager
async def recording_proxy(target: str) -> AsyncIterator[RecordingProxy]:
    """Run a proxy on a free loopback port for as long as the context lasts.

    Args:
        target: The endpoint URL of the S3 server behind it.

    Example:
        ::

            async with recording_proxy(server.endpoint_url) as proxy:
                async with S3Storage("bucket", endpoint_url=proxy.endpoint_url) as storage:
                    await storage.load_snapshot(location=location)
                assert proxy.operations == ["GetObject"]
    """

    async def forward(request: web.Request) -> web.Response:
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
        fault = await proxy.fault(recorded)
        if fault is None:
            return await pass_on(request, body)
        if fault.forward:
            await pass_on(request, body)
        if fault.status is None and request.transport is not None:
            request.transport.close()
        return web.Response(
            status=fault.status or 500,
            text=f"<Error><Code>{fault.code}</Code></Error>",
            content_type="application/xml",
        )

    async def pass_on(request: web.Request, body: bytes) -> web.Response:
        # The signature covers the Host header, so it goes on as it came.
        async with upstream.request(
            request.method,
            URL(target + request.raw_path, encoded=True),
            headers=_end_to_end(request.headers),
            data=body,
            allow_redirects=False,
        ) as reply:
            return web.Response(
                status=reply.status, headers=_end_to_end(reply.headers), body=await reply.read()
            )

    application = web.Application(client_max_size=_MAX_BODY)
    application.router.add_route("*", "/{path:.*}", forward)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=1.0)
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


def _operation(request: web.Request) -> str:
    query = request.query
    # A key lies behind the bucket in the path; without one the request is about the bucket.
    on_object = "/" in request.path.strip("/")
    if request.method == "GET":
        if on_object:
            return "GetObject"
        return "ListObjectsV2" if query.get("list-type") == "2" else "GetBucket"
    if request.method == "POST" and "delete" in query:
        return "DeleteObjects"
    kind = "Object" if on_object else "Bucket"
    return f"{request.method.capitalize()}{kind}"


def _end_to_end(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name.lower() not in _HOP_BY_HOP}
