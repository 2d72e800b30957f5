"""One HTTP request and its response, on a connection of aiohttp's pool.

aiohttp connects, pools, writes and parses. What is left out is its `ClientSession.request`, which
takes twice the CPU of all these: it looks for cookies, redirects, proxies, encodings and forms,
and none of them has a place in a request that is signed already.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar, cast

import aiohttp
import msgspec
from aiohttp.client_proto import ResponseHandler
from aiohttp.http import StreamWriter
from aiohttp.http_exceptions import HttpProcessingError
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

__all__ = [
    "LARGE",
    "TRANSPORT_ERRORS",
    "Connections",
    "Response",
    "SignedRequest",
    "missing_from_aiohttp",
]

T = TypeVar("T")

LARGE: Final = 2**20
"""Bytes of a body that keeps the event loop busy."""

_CHUNK: Final = 256 * 1024
"""Bytes of a large body that are handed over at once."""

_SMALL: Final = 64 * 1024
"""Bytes of a body that a server reads even if it refuses the request."""

TRANSPORT_ERRORS: Final = (
    OSError,
    TimeoutError,
    aiohttp.ClientError,
    HttpProcessingError,
    RuntimeError,
    ValueError,
)
"""What sending and receiving raises; the last two for a closed session and for a bad header."""

_USED: Final[tuple[tuple[type, str, set[str]], ...]] = (
    (aiohttp.ClientSession, "_request", set()),
    (aiohttp.ClientRequest, "__init__", {"loop", "session"}),
    (aiohttp.BaseConnector, "connect", {"traces", "timeout"}),
    (aiohttp.connector.Connection, "release", set()),
    (ResponseHandler, "set_response_params", {"read_until_eof", "auto_decompress", "read_timeout"}),
    (ResponseHandler, "read", set()),
    (ResponseHandler, "should_close", set()),
    (ResponseHandler, "writing_paused", set()),
    (ResponseHandler, "set_exception", set()),
    (ResponseHandler, "start_timeout", set()),
    (StreamWriter, "write_headers", set()),
    (StreamWriter, "write", {"drain"}),
)
"""What is used of aiohttp beyond its documented interface: class, member, arguments."""


def missing_from_aiohttp() -> str | None:
    """The first member in `_USED` that this version of aiohttp lacks; `None` if it has all."""
    for owner, name, arguments in _USED:
        found: Any = getattr(owner, name, None)
        takes = set(inspect.signature(found).parameters) if found and arguments else arguments
        if found is None or not arguments <= takes:
            return f"{owner.__name__}.{name}"
    return None


class SignedRequest(msgspec.Struct, frozen=True):
    """A request without its body. Its `repr` does not show the headers, which hold a signature.

    Attributes:
        method: The HTTP method.
        origin: Scheme, host and port of its URL.
        target: The rest of it: the path, and the query with its question mark.
        headers: All headers.
    """

    method: str
    origin: str
    target: str
    headers: dict[str, str]

    def __repr__(self) -> str:
        return f"SignedRequest({self.method!r}, {self.origin + self.target!r})"


class Response:
    """The head of a response, and where its body is read.

    Args:
        method: The method of the request.
        status: The status.
        headers: The headers.
        content: Its body, as it comes.
        connection: What it comes on.
    """

    def __init__(
        self,
        method: str,
        status: int,
        headers: CIMultiDictProxy[str],
        content: aiohttp.StreamReader,
        connection: aiohttp.connector.Connection,
    ) -> None:
        self.method: str = method
        self.status: int = status
        self.headers: CIMultiDictProxy[str] = headers
        self.content: aiohttp.StreamReader = content
        self._connection = connection

    @property
    def content_length(self) -> int | None:
        """The bytes of the body, as the headers have it; `None` where they do not say."""
        length = self.headers.get("Content-Length")
        return None if length is None else int(length)

    def close(self) -> None:
        """Close the connection, since the rest of the body is not read."""
        _abort(self._connection)


class Connections:
    """Sends requests on the connections of a session.

    Args:
        session: The session.
        timeout: How long it may take to connect, and between two reads.
    """

    def __init__(self, session: aiohttp.ClientSession, timeout: aiohttp.ClientTimeout) -> None:
        self._session = session
        self._timeout = timeout
        self._targets: dict[str, aiohttp.ClientRequest] = {}
        connector = session.connector
        closes = connector is not None and connector.force_close
        self._more_headers: dict[str, str] = {"connection": "close"} if closes else {}

    async def request(
        self, request: SignedRequest, body: bytes, read: Callable[[Response], Awaitable[T]]
    ) -> T:
        """Make a request.

        Nothing is sent twice, and no redirect is followed.

        Args:
            request: The request.
            body: Its body.
            read: Reads the response, whatever its status. The connection is used again if that has
                come to its end.

        Returns:
            What was read.

        Raises:
            Exception: One of `TRANSPORT_ERRORS`, or what `read` raises.
        """
        connection = await self._connect(request.origin)
        protocol = _protocol_of(connection)
        writing: asyncio.Task[None] | None = None
        is_reusable = False
        try:
            protocol.set_response_params(
                read_until_eof=True, auto_decompress=False, read_timeout=self._timeout.sock_read
            )
            writer = StreamWriter(protocol, asyncio.get_running_loop())
            await writer.write_headers(
                f"{request.method} {request.target} HTTP/1.1",
                CIMultiDict(request.headers, **self._more_headers),
            )
            view = memoryview(body)
            begin = len(body) if len(body) < LARGE else _CHUNK
            await writer.write(view[:begin], drain=False)
            if begin < len(body) or protocol.writing_paused:
                # The server may answer, and stop reading, before it has all of it.
                writing = asyncio.create_task(_write_rest(writer, protocol, view[begin:]))
            else:
                protocol.start_timeout()
            message, content = await protocol.read()
            while 100 <= message.code < 200 and message.code != 101:
                if writing is None or writing.done():
                    protocol.start_timeout()
                message, content = await protocol.read()
            is_sent = writing is None or writing.done()
            try:
                return await read(
                    Response(request.method, message.code, message.headers, content, connection)
                )
            finally:
                # A server that refuses a request may leave its body unread. The next request on the
                # connection would wait behind it.
                is_read = message.code < 300 or len(body) <= _SMALL
                is_reusable = is_sent and is_read and content.is_eof()
        finally:
            if is_reusable:
                connection.release()
            else:
                _abort(connection)
            if writing is not None and not writing.done():
                writing.cancel()
                await asyncio.wait([writing])

    async def _connect(self, origin: str) -> aiohttp.connector.Connection:
        connector = self._session.connector
        if connector is None or self._session.closed:
            raise RuntimeError("Session is closed")  # as aiohttp says it
        target = self._targets.get(origin)
        if target is None:
            # It is never sent. The connector takes the address from it, and the key of the pool.
            target = self._targets[origin] = aiohttp.ClientRequest(
                "GET",
                URL(origin, encoded=True),
                loop=asyncio.get_running_loop(),
                session=self._session,
            )
        try:
            connection = await connector.connect(target, [], self._timeout)
            # A pooled connection may have received data after its last response.
            while _protocol_of(connection).should_close:
                _abort(connection)
                connection = await connector.connect(target, [], self._timeout)
        except TimeoutError as error:
            raise aiohttp.ConnectionTimeoutError(f"connecting to {origin} took too long") from error
        return connection


async def _write_rest(writer: StreamWriter, protocol: ResponseHandler, rest: memoryview) -> None:
    """Wait until what was written has been sent, and write the rest of a body."""
    try:
        await writer.drain()
        for start in range(0, len(rest), _CHUNK):
            await writer.write(rest[start : start + _CHUNK])
            await writer.drain()
    except TRANSPORT_ERRORS as error:
        # If the server has answered, that is read first.
        protocol.set_exception(error)
    else:
        protocol.start_timeout()


def _protocol_of(connection: aiohttp.connector.Connection) -> ResponseHandler:
    return cast("ResponseHandler", connection.protocol)  # None only after the release


def _abort(connection: aiohttp.connector.Connection) -> None:
    """Close a connection at once, where `close` would first send what it still has to send."""
    if connection.transport is not None:
        connection.transport.abort()
    connection.close()
