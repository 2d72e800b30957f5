"""The aiobotocore client that a store makes for itself: how it is made and tuned.

Importing aiobotocore and making a client take some 0.3 s of CPU, so `make_client` is for a thread.
All interfaces used are public, except `_get_session` of aiobotocore's HTTP session and
`_retry_connection` of aiohttp's, which a test looks for.
"""

from __future__ import annotations

import gzip
import os
from collections.abc import Awaitable, Mapping
from contextlib import AbstractAsyncContextManager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import aiobotocore
import botocore.handlers
import msgspec
from aiobotocore.config import AioConfig
from aiobotocore.httpsession import AIOHTTPSession
from aiobotocore.session import AioSession, get_session

from snapstore.stores.s3.bounds import read_bounded
from snapstore.stores.s3.options import DEFAULT_MAX_CONCURRENCY, S3OwnClientOptions
from snapstore.version import __version__

__all__ = ["HTTPSession", "make_client", "may_resend"]


def make_client(options: S3OwnClientOptions) -> Awaitable[Any]:
    """Make an S3 client. It blocks: call it in a thread.

    Args:
        options: Those of them that are about the client.

    Returns:
        An awaitable that enters the client and returns it, on any event loop: a client that has
        sent no request yet is not bound to one. It is used, and closed, on one loop.
    """
    max_concurrency = options.get("max_concurrency", DEFAULT_MAX_CONCURRENCY)
    session = options.get("session")
    if session is None:
        session = get_session()
        # The service model is 1.5 MB of JSON, and json holds the GIL while it parses.
        session.get_component("data_loader").file_loader = _ModelLoader()
        # Dates are not used, and dateutil takes a tenth of a GET's CPU to parse one.
        session.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=str)
    settings: Any = AioConfig(
        retries={"mode": "standard"},
        max_pool_connections=max_concurrency,
        # Constant, since botocore would build a longer one twice for each request.
        user_agent=f"snapstore/{__version__} aiobotocore/{aiobotocore.__version__}",
        http_session_cls=_HTTPSession,
    )
    config = options.get("config")
    if config is not None:
        settings = settings.merge(config)
    if settings.max_pool_connections < max_concurrency:
        settings = settings.merge(AioConfig(max_pool_connections=max_concurrency))
    _read_files(session)
    context = session.create_client(
        "s3",
        region_name=options.get("region"),
        endpoint_url=options.get("endpoint_url"),
        config=settings,
    )
    return _entered(context)


async def _entered(context: AbstractAsyncContextManager[Any]) -> Any:
    client = await context.__aenter__()
    _tune(client)
    return client


def _read_files(session: AioSession) -> None:
    """Let a session read its files while no event loop runs, since reading blocks one.

    The client is made on a loop of this thread alone, but tools that watch for blocking calls, such
    as blockbuster, look for any running loop. The session keeps what it has read. A failure here is
    repeated, and reported, when the client is made: credentials that must be awaited need a loop.
    """
    loader = session.get_component("data_loader")
    finding = session.get_credentials()
    with suppress(Exception):
        for name in ("endpoints", "partitions", "sdk-default-configuration"):
            loader.load_data(name)
        for name in ("service-2", "endpoint-rule-set-1"):
            loader.load_service_model("s3", name, api_version=None)
        finding.send(None)
    finding.close()


def _tune(client: Any) -> None:
    # "Expect: 100-continue" costs a round trip, and saves nothing for small bodies.
    client.meta.events.unregister("before-call.s3", botocore.handlers.add_expect_header)
    # If a redirect does not name the bucket's region, botocore asks for it by HeadBucket, and if
    # that is redirected too, by HeadBucket again, without end.
    client.meta.events.register("before-call.s3.HeadBucket", _region_unknown)
    # TLS protects the body already, and every write carries a checksum: SHA-256 adds nothing to it.
    # Over plain HTTP the signature keeps covering the body.
    s3: Mapping[str, Any] = client.meta.config.s3 or {}
    if client.meta.endpoint_url.startswith("https://") and "payload_signing_enabled" not in s3:
        client.meta.config.s3 = {**s3, "payload_signing_enabled": False}


def _region_unknown(**_: Any) -> tuple[Any, dict[str, Any]]:
    """Answer HeadBucket in place of the server."""
    response = {"Error": {"Code": "404"}, "ResponseMetadata": {"HTTPHeaders": {}}}
    return SimpleNamespace(status_code=404), response


class _ModelLoader:
    """botocore's `JSONFileLoader`, with msgspec for JSON."""

    def exists(self, file_path: str) -> bool:
        # For each client botocore asks for each of 400 services twice: too often for a `Path`.
        return any(os.path.isfile(file_path + suffix) for suffix in (".json", ".json.gz"))  # noqa: PTH113

    def load_file(self, file_path: str) -> Any:
        plain, packed = Path(file_path + ".json"), Path(file_path + ".json.gz")
        if plain.is_file():
            return msgspec.json.decode(plain.read_bytes())
        if packed.is_file():
            return msgspec.json.decode(gzip.decompress(packed.read_bytes()))
        return None


class _HTTPSession(AIOHTTPSession):  # type: ignore[misc]  # has no types
    # aiohttp would send the body and the session token wherever a `Location` points, which botocore
    # never does (botocore #2571).

    async def _get_session(self, proxy_url: str | None) -> Any:
        session = await super()._get_session(proxy_url)
        # aiohttp resends a PUT when a pooled connection has died, and nobody learns of it (aiohttp
        # #10790). botocore resends it too, and counts.
        if hasattr(session, "_retry_connection"):
            session._retry_connection = False  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        return _WithoutRedirects(session)


HTTPSession: Final[type[AIOHTTPSession]] = _HTTPSession
"""An HTTP session for aiobotocore that is safe for writes.

It follows no redirect, resends nothing on its own, and limits the size of responses. Clients that
snapstore makes use it.

Example:
    For a client of your own::

        session.create_client("s3", config=AioConfig(http_session_cls=HTTPSession))
"""


def may_resend(client: Any) -> bool:
    """Whether the HTTP session of a client may send a request again, and nobody learns of it."""
    return not issubclass(client.meta.config.http_session_cls, HTTPSession)


class _WithoutRedirects:
    def __init__(self, session: Any) -> None:
        self.followed = session

    def request(self, *args: Any, **options: Any) -> Awaitable[Any]:
        # No coroutine: its frame would hold the headers, signature included, while it waits.
        return _received(self.followed.request(*args, **options, allow_redirects=False))


async def _received(sent: Awaitable[Any]) -> Any:
    return _Response(await sent)


class _Response:
    """An `aiohttp.ClientResponse`. aiobotocore reads the body of an object from its `content`."""

    def __init__(self, response: Any) -> None:
        self._response = response

    def __getattr__(self, name: str) -> Any:
        return getattr(self._response, name)

    @property
    def raw_headers(self) -> tuple[tuple[bytes, bytes], ...]:
        # aiobotocore decodes headers as UTF-8, and leaks the connection if it can't. A gateway may
        # add one in another encoding, which says nothing about the response.
        headers = self._response.raw_headers
        return tuple((name, value.decode(errors="replace").encode()) for name, value in headers)

    async def read(self) -> bytes:
        return await read_bounded(self._response)
