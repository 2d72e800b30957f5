"""What the direct path needs of an aiobotocore client that is not public: here, and only here.

Each attribute is looked for before it is used. Where one is missing, or the client is not as
aiobotocore makes it, there is no direct path, and the reason is said.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import FunctionType
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import aiobotocore
import botocore
from aiobotocore.client import AioBaseClient
from aiobotocore.endpoint import AioEndpoint
from aiobotocore.httpsession import AIOHTTPSession
from botocore import httpchecksum
from botocore.exceptions import FlexibleChecksumError, HTTPClientError

from snapstore.stores.s3.client import HTTPSession
from snapstore.stores.s3.requests import crc32
from snapstore.stores.s3.signing import Credentials

if TYPE_CHECKING:
    import aiohttp

__all__ = ["Internals", "UnfitError"]

_TRUSTED: Final = tuple(
    str(Path(module.__file__ or "").parent) + "/" for module in (aiobotocore, botocore)
)
_OUR_ROOM: Final = str(Path(__file__).parent) + "/"
_STUBS: Final = ("botocore/stub.py", "aiobotocore/stub.py")
_EVENTS: Final = (
    *("provide-client-params", "before-parameter-build", "before-endpoint-resolution"),
    *("before-call", "request-created", "choose-signer", "before-sign", "before-send"),
    *("response-received", "before-parse", "needs-retry", "after-call", "after-call-error"),
)
_OPERATIONS: Final = ("PutObject", "GetObject", "ListObjectsV2", "DeleteObjects")
_GOOD_FOR: Final = 1.0  # seconds


class UnfitError(Exception):
    """The client is not one that the direct path may be used with; the message says why."""


class Current(NamedTuple):
    """What the client has at present.

    Attributes:
        session: Its HTTP session.
        times: How long a request on it may take.
        credentials: Its credentials.
    """

    session: aiohttp.ClientSession
    times: aiohttp.ClientTimeout
    credentials: Credentials


class Internals:
    """The inside of a client.

    Args:
        client: An entered aiobotocore client.
        timeout: Seconds after which whoever calls gives up; `None` if that is not known.

    Raises:
        UnfitError: It can't be used, or must not be, since somebody has changed what it does.
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
            self._checksums = httpchecksum._CHECKSUM_CLS  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        except AttributeError as error:
            raise UnfitError(f"this version of aiobotocore has no {error.name}") from None
        if type(client._endpoint) is not AioEndpoint:  # noqa: SLF001
            raise UnfitError("the client's endpoint is not aiobotocore's")
        if type(self._http_session) not in (AIOHTTPSession, HTTPSession):
            raise UnfitError(f"its HTTP session is a {type(self._http_session).__name__}")
        if self._credentials is None:
            raise UnfitError("the client has no credentials")
        for function in (self._call, AioEndpoint.make_request, type(self._http_session).send):
            _refuse_patch(function)
        if "_make_api_call" in vars(client):
            raise UnfitError("somebody has patched the client's _make_api_call")
        if not isinstance(client, AioBaseClient):
            raise UnfitError(f"the client is a {type(client).__name__}")
        self._refuse_foreign_handlers()
        self._current: Current
        self._good_until = 0.0

    @property
    def sends_again(self) -> bool:
        """Whether aiohttp may send a request again by itself.

        Of a body that it reads like a file, it may send only the rest then (aiohttp #13330).
        """
        return type(self._http_session) is not HTTPSession

    @property
    def same_hooks(self) -> bool:
        """Whether nobody has patched `_make_api_call` or registered a handler since."""
        return (
            self._emitter._lookup_cache is self._lookups  # noqa: SLF001
            and type(self._client)._make_api_call is self._call  # noqa: SLF001
            and "_make_api_call" not in vars(self._client)
        )

    def proxy_of(self, url: str) -> str | None:
        """The proxy that a URL is reached through."""
        return self._proxy_url_for(url=url)  # type: ignore[no-any-return]

    @property
    def has_credentials(self) -> bool:
        """Whether credentials are at hand, and needn't be fetched from anywhere."""
        is_due = getattr(self._credentials, "refresh_needed", None)
        return is_due is None or not is_due()

    async def warm(self) -> None:
        """Make the HTTP session with its TLS context, which takes a thread some 30 ms."""
        await self._get_session(None)

    async def current(self) -> Current:
        """The client's HTTP session, and its credentials, refreshed as botocore does.

        They are asked for once a second.
        """
        if time.monotonic() >= self._good_until:
            # Not bound to a name: they show themselves, as the locals of a traceback do.
            credentials = Credentials(*(await self._credentials.get_frozen_credentials())[:3])
            try:
                session: Any = await self._get_session(None)
            except (AttributeError, OSError) as error:  # a closed client, no certificates
                raise HTTPClientError(error=error) from None
            session = getattr(session, "followed", session)
            self._current = Current(session, self._times_of(session), credentials)
            self._good_until = time.monotonic() + _GOOD_FOR
        return self._current

    def verify(self, data: bytes, headers: Mapping[str, str]) -> None:
        """Check a body by the checksums that came with it, as far as botocore knows them.

        Raises:
            FlexibleChecksumError: It does not match one of them.
        """
        for name, checksum in self._checksums.items():
            expected = headers.get(f"x-amz-checksum-{name}")
            # That of an object of several parts has their number, and is not one of the body.
            if expected is None or "-" in expected:
                continue
            found = crc32(data) if name == "crc32" else checksum().handle(data)
            if found != expected:
                raise FlexibleChecksumError(error_msg=f"the {name} differs")

    def _times_of(self, session: aiohttp.ClientSession) -> aiohttp.ClientTimeout:
        """Those of the session, without a watch over each read that would end no request sooner."""
        times = session.timeout
        if self._timeout is None or times.sock_read is None or times.sock_read < self._timeout:
            return times
        return type(times)(
            total=times.total, connect=times.connect, sock_connect=times.sock_connect
        )

    def _refuse_foreign_handlers(self) -> None:
        for operation in _OPERATIONS:
            for event in _EVENTS:
                for handler in self._handlers_of(f"{event}.s3.{operation}") or ():
                    place = _file_of(handler)
                    known = place.startswith((*_TRUSTED, _OUR_ROOM)) and not place.endswith(_STUBS)
                    if not known:
                        name = getattr(handler, "__qualname__", type(handler).__qualname__)
                        raise UnfitError(f"{name} is registered for {event}")


def _refuse_patch(function: Any) -> None:
    name = getattr(function, "__name__", "a method")
    while function is not None:
        # A proxy for a function, as tracing libraries make them, would show the file of what it is
        # a proxy for.
        if type(function) is not FunctionType or not _file_of(function).startswith(_TRUSTED):
            raise UnfitError(f"somebody has patched aiobotocore's {name}")
        function = getattr(function, "__wrapped__", None)


def _file_of(handler: Any) -> str:
    """The file with the code of an event handler; `""` where it has none."""
    while isinstance(handler, partial):
        handler = handler.func
    code = getattr(handler, "__code__", None) or getattr(type(handler).__call__, "__code__", None)
    return "" if code is None else str(code.co_filename)
