"""All that the fast path uses of aiobotocore and botocore that is not public: here, and only here.

Each attribute is looked up before it is used. If one is missing, or if the client is not as
aiobotocore makes it, there is no fast path, and the reason is reported. Private names:

- `client._endpoint.http_session`: the HTTP session that requests are sent on
- `AIOHTTPSession._get_session`, `._proxy_config.proxy_url_for`: its aiohttp session, its proxies
- `client._request_signer._credentials`: the credentials, which refresh themselves
- `client._make_api_call`, `client.meta.events._emitter`: to tell whether anybody has changed either
- `botocore.httpchecksum._CHECKSUM_CLS`: the checksums that botocore can verify
- `aiohttp.ClientSession._request`: to tell whether anybody has changed what sends
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import FunctionType
from typing import Any, Final, NamedTuple

import aiobotocore
import aiohttp
import botocore
from aiobotocore.client import AioBaseClient
from aiobotocore.endpoint import AioEndpoint
from aiobotocore.httpsession import AIOHTTPSession
from botocore import httpchecksum
from botocore.exceptions import FlexibleChecksumError, HTTPClientError

from snapstore.stores.s3.client import HTTPSession
from snapstore.stores.s3.http import Connections, missing_from_aiohttp
from snapstore.stores.s3.requests import CRC32, crc32
from snapstore.stores.s3.signing import Credentials

__all__ = ["FastPathUnsupportedError", "Internals"]

_TRUSTED: Final = tuple(
    str(Path(module.__file__ or "").parent) + "/" for module in (aiobotocore, aiohttp, botocore)
)
_OWN_DIRECTORY: Final = str(Path(__file__).parent) + "/"
_STUBS: Final = ("botocore/stub.py", "aiobotocore/stub.py")
_EVENTS: Final = (
    *("provide-client-params", "before-parameter-build", "before-endpoint-resolution"),
    *("before-call", "request-created", "choose-signer", "before-sign", "before-send"),
    *("response-received", "before-parse", "needs-retry", "after-call", "after-call-error"),
)
_OPERATIONS: Final = ("PutObject", "GetObject", "ListObjectsV2", "DeleteObjects")
_CREDENTIALS_TTL: Final = 1.0
"""Seconds for which credentials are used before the client is asked for them again."""


class FastPathUnsupportedError(Exception):
    """The fast path can't be used with this client, or must not be; the message says why."""


class Current(NamedTuple):
    """What the client uses now.

    Attributes:
        connections: Those of its HTTP session.
        credentials: Its credentials.
    """

    connections: Connections
    credentials: Credentials


class Internals:
    """The internals of a client.

    Args:
        client: An entered aiobotocore client.
        timeout: Seconds after which callers give up; `None` if that is not known.

    Raises:
        FastPathUnsupportedError: They are not as expected, or somebody has changed the client.
    """

    def __init__(self, client: Any, timeout: float | None) -> None:
        self._client = client
        self._timeout = timeout
        try:
            self._http_session = client._endpoint.http_session  # noqa: SLF001
            self._get_session = self._http_session._get_session  # noqa: SLF001
            self._proxy_url_for = self._http_session._proxy_config.proxy_url_for  # noqa: SLF001
            self._credentials = client._request_signer._credentials  # noqa: SLF001
            self._emitter = client.meta.events._emitter  # noqa: SLF001
            self._lookups = self._emitter._lookup_cache  # noqa: SLF001
            self._handlers_of = self._emitter._handlers.prefix_search  # noqa: SLF001
            self._call = type(client)._make_api_call  # noqa: SLF001
            checksums = httpchecksum._CHECKSUM_CLS  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        except AttributeError as error:
            raise FastPathUnsupportedError(
                f"this version of aiobotocore has no {error.name}"
            ) from None
        missing = missing_from_aiohttp()
        if missing is not None:
            raise FastPathUnsupportedError(f"{missing} of this aiohttp is not as expected")
        self._send = aiohttp.ClientSession._request  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        self._checksums = {f"x-amz-checksum-{name}": checksums[name] for name in checksums}
        if type(client._endpoint) is not AioEndpoint:  # noqa: SLF001
            raise FastPathUnsupportedError("the client's endpoint is not aiobotocore's")
        if type(self._http_session) not in (AIOHTTPSession, HTTPSession):
            raise FastPathUnsupportedError(
                f"its HTTP session is a {type(self._http_session).__name__}"
            )
        if (client.meta.config.retries or {}).get("mode") == "adaptive":
            raise FastPathUnsupportedError("the retry mode 'adaptive' limits the client's requests")
        if self._credentials is None:
            raise FastPathUnsupportedError("the client has no credentials")
        for function in (
            *(self._call, AioEndpoint.make_request, type(self._http_session).send),
            *(aiohttp.ClientSession.__init__, self._send, aiohttp.TCPConnector.connect),
        ):
            _require_unpatched(function)
        if "_make_api_call" in vars(client):
            raise FastPathUnsupportedError("somebody has patched the client's _make_api_call")
        if not isinstance(client, AioBaseClient):
            raise FastPathUnsupportedError(f"the client is a {type(client).__name__}")
        self._require_known_handlers()
        self._current: Current
        self._expires = 0.0

    @property
    def hooks_unchanged(self) -> bool:
        """Whether nobody has since patched `_make_api_call` or registered a handler."""
        return (
            self._emitter._lookup_cache is self._lookups  # noqa: SLF001
            and type(self._client)._make_api_call is self._call  # noqa: SLF001
            and "_make_api_call" not in vars(self._client)
            and aiohttp.ClientSession._request is self._send  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        )

    def proxy_of(self, url: str) -> str | None:
        """The proxy that a URL is reached through."""
        return self._proxy_url_for(url=url)  # type: ignore[no-any-return]

    @property
    def has_credentials(self) -> bool:
        """Whether credentials are there, and needn't be fetched from anywhere."""
        is_due = getattr(self._credentials, "refresh_needed", None)
        return is_due is None or not is_due()

    async def open_session(self) -> None:
        """Make the HTTP session with its TLS context, which takes a thread some 30 ms."""
        await self._get_session(None)

    async def current(self) -> Current:
        """The client's connections, and its credentials, refreshed as botocore does.

        The client is asked for them once a second.

        Raises:
            FastPathUnsupportedError: Somebody traces what its HTTP session sends.
        """
        if time.monotonic() >= self._expires:
            # Not bound to a name: a tuple of secrets would show in the locals of a traceback.
            credentials = Credentials(*(await self._credentials.get_frozen_credentials())[:3])
            try:
                session: Any = await self._get_session(None)
            except (AttributeError, OSError) as error:  # a closed client, no certificates
                raise HTTPClientError(error=error) from None
            session = getattr(session, "followed", session)
            if session.trace_configs:
                raise FastPathUnsupportedError("its HTTP session has trace_configs")
            self._current = Current(Connections(session, self._timeout_of(session)), credentials)
            self._expires = time.monotonic() + _CREDENTIALS_TTL
        return self._current

    def verify(self, data: bytes, headers: Mapping[str, str]) -> None:
        """Verify a body by the checksums that came with it, as far as botocore knows them.

        Raises:
            FlexibleChecksumError: It does not match one of them.
        """
        for name, checksum in self._checksums.items():
            expected = headers.get(name)
            # That of a multipart object ends with the number of parts, and is not one of the body.
            if expected is None or "-" in expected:
                continue
            found = crc32(data) if name == CRC32 else checksum().handle(data)
            if found != expected:
                raise FlexibleChecksumError(error_msg=f"{name} differs")

    def _timeout_of(self, session: aiohttp.ClientSession) -> aiohttp.ClientTimeout:
        """The session's timeout, without one for each read if that would end no request sooner."""
        own = session.timeout
        if self._timeout is None or own.sock_read is None or own.sock_read < self._timeout:
            return own
        return type(own)(total=own.total, connect=own.connect, sock_connect=own.sock_connect)

    def _require_known_handlers(self) -> None:
        for operation in _OPERATIONS:
            for event in _EVENTS:
                for handler in self._handlers_of(f"{event}.s3.{operation}") or ():
                    place = _file_of(handler)
                    known = place.startswith((*_TRUSTED, _OWN_DIRECTORY)) and not place.endswith(
                        _STUBS
                    )
                    if not known:
                        name = getattr(handler, "__qualname__", type(handler).__qualname__)
                        raise FastPathUnsupportedError(f"{name} is registered for {event}")


def _require_unpatched(function: Any) -> None:
    name = getattr(function, "__name__", "a method")
    while function is not None:
        # A proxy for a function, as tracing libraries make them, shows the file of that function.
        if type(function) is not FunctionType or not _file_of(function).startswith(_TRUSTED):
            raise FastPathUnsupportedError(f"somebody has patched {name}")
        function = getattr(function, "__wrapped__", None)


def _file_of(handler: Any) -> str:
    """The file with the code of an event handler; `""` where it has none."""
    while isinstance(handler, partial):
        handler = handler.func
    code = getattr(handler, "__code__", None) or getattr(type(handler).__call__, "__code__", None)
    return "" if code is None else str(code.co_filename)
