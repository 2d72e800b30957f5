"""HTTP servers on loopback that answer as a test tells them to.

- `serving`: answers are made with aiohttp, so they are well-formed HTTP.
- `serving_bytes`: an answer is the bytes that go over the wire, well-formed or not.
- `serving_connections`: a test reads and writes what goes over a connection.
"""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import NamedTuple

from aiohttp import web

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def serving(handler: Handler, *, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """Serve all paths with a handler; yields the server's URL."""
    application = web.Application(client_max_size=2**27)
    application.router.add_route("*", r"/{path:[\s\S]*}", handler)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.01)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
        yield f"http{'s' if tls else ''}://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


class Arrived(NamedTuple):
    """A request as it arrived; the names of its headers are in lower case."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes


class Answer(NamedTuple):
    """The bytes of a response, and whether the connection is closed after it."""

    data: bytes
    closes: bool = False


class ByteServer:
    """A server that sends the bytes it is told to.

    Attributes:
        url: Where it listens.
        answer: Called with each request; returns what is sent.
        arrived: The requests so far.
    """

    def __init__(self, answer: Callable[[Arrived], Answer]) -> None:
        self.url = ""
        self.answer = answer
        self.arrived: list[Arrived] = []

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of a connection until it ends."""
        closes = False
        while not closes:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            first, *lines = head.split("\r\n")
            fields = (line.partition(": ")[::2] for line in lines if line)
            headers = {name.lower(): value for name, value in fields}
            if "expect" in headers:
                writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            body = await reader.readexactly(int(headers.get("content-length", "0")))
            method, target, _ = first.split(" ")
            self.arrived.append(Arrived(method, target, headers, body))
            data, closes = self.answer(self.arrived[-1])
            writer.write(data)
            await writer.drain()


@asynccontextmanager
async def serving_bytes(answer: Callable[[Arrived], Answer]) -> AsyncIterator[ByteServer]:
    """Run a `ByteServer`."""
    server = ByteServer(answer)
    async with serving_connections(server.handle) as (server.url, _):
        yield server


@asynccontextmanager
async def serving_connections(
    handle: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
    *,
    rcvbuf: int | None = None,
) -> AsyncIterator[tuple[str, list[asyncio.StreamWriter]]]:
    """Serve each connection with a function, until it ends, or the context does.

    Args:
        handle: The function. What it raises, other than that the connection has ended, is raised
            when the context ends.
        rcvbuf: The bytes that the system buffers of what comes, about; `None` for its default.

    Yields:
        The URL, and the writers of all connections so far.
    """
    connections: list[asyncio.StreamWriter] = []
    tasks: list[asyncio.Future[None]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)
        tasks.append(asyncio.ensure_future(handle(reader, writer)))
        await asyncio.wait([tasks[-1]])
        writer.close()

    listener = socket.create_server(("127.0.0.1", 0))
    if rcvbuf is not None:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
    server = await asyncio.start_server(serve, sock=listener)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", connections
    finally:
        server.close()
        for task, writer in zip(tasks, connections, strict=True):
            task.cancel()
            writer.transport.abort()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
    usual = (asyncio.CancelledError, asyncio.IncompleteReadError, ConnectionError)
    for end in ends:
        if end is not None and not isinstance(end, usual):
            raise end
