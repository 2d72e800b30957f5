"""Capture the requests of slow calls, and keep a template of each kind.

A slow call passes through the client, whose `before-send` hook (see `calls`) captures the signed
request. If the server has understood it, it becomes the template for the requests that follow. When
a store with a client of its own is opened, dry runs prime all templates: calls whose requests are
captured and not sent.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final, TypeVar

from botocore.exceptions import ClientError

from snapstore.stores.s3.calls import Call
from snapstore.stores.s3.conditions import S3Write
from snapstore.stores.s3.internals import FastPathUnsupportedError, Internals
from snapstore.stores.s3.requests import Requests
from snapstore.stores.s3.template import Template

__all__ = ["UNDERSTOOD", "CapturedTemplates"]

T = TypeVar("T")

logger: Final = logging.getLogger("snapstore")

UNDERSTOOD: Final = frozenset({404, 409, 412})
"""Statuses, besides the good ones, of requests that the server has understood."""


class CapturedTemplates:
    """The templates for the requests of one client to one bucket.

    Args:
        client: An entered aiobotocore client.
        bucket: The bucket.
        timeout: Seconds after which callers give up; `None` if that is not known.

    Attributes:
        disabled: Why there is no fast path on this client; `None` if there is one.
        internals: The client's internals; only to be used while `disabled` is `None`.
    """

    def __init__(self, client: Any, bucket: str, *, timeout: float | None) -> None:
        self._client = client
        self._bucket = bucket
        self._timeout = timeout
        self._templates: dict[str, Template] = {}
        self.internals: Internals
        self.disabled: str | None = None
        self._inspect_client()
        # Their requests are addressed and signed in other ways.
        if bucket.startswith("arn:"):
            self.disable("the bucket is named by an ARN")
        elif bucket.endswith("--x-s3"):
            self.disable("the bucket is a directory bucket")

    def get(self, operation: str) -> Template | None:
        """The template for an operation; `None` if there is none."""
        if self.disabled is not None:
            return None
        if not self.internals.hooks_unchanged:
            self._inspect_client()
        return self._templates.get(operation)

    def drop(self, operation: str) -> None:
        """Forget a template: the next call of this operation is slow, and captured."""
        self._templates.pop(operation, None)

    async def capture(self, operation: str, key: str, call: Awaitable[T]) -> T:
        """Make a slow call, and keep its request as a template if the server understood it.

        Args:
            operation: The S3 operation.
            key: The key that it is about; `""` if it is about the bucket.
            call: The slow call.

        Returns:
            The result of the call.
        """
        try:
            result = await call
        except ClientError as error:
            if error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") in UNDERSTOOD:
                self._store(operation, key)
            raise
        self._store(operation, key)
        return result

    async def prime(self, slow: Requests) -> None:
        """Capture all templates by dry runs, and make the HTTP session. Nothing is sent.

        Args:
            slow: Makes the slow calls.
        """
        if self.disabled is not None:
            return
        # A failure here is repeated, and reported, by the first request that is made.
        with suppress(Exception):
            await self.internals.open_session()
            if not self.internals.has_credentials:
                return
            calls: dict[tuple[str, str], Callable[[], Awaitable[object]]] = {
                ("PutObject", "key"): lambda: slow.put("key", b"", S3Write(None, create=False)),
                ("GetObject", "key"): lambda: slow.get("key", 0),
                ("ListObjectsV2", ""): lambda: slow.list("", 1, None, None),
                ("DeleteObjects", ""): lambda: slow.delete(["key"]),
            }
            for (operation, key), call in calls.items():
                # A dry run ends with ClientError, see `calls`.
                with suppress(ClientError), Call(dry_run=True):
                    await self.capture(operation, key, call())

    def _store(self, operation: str, key: str) -> None:
        call = Call.current()
        if self.disabled is not None or not call.requests:
            return
        try:
            template = Template.of(call.requests[-1], key)
        except FastPathUnsupportedError as error:
            self.disable(str(error))
            return
        if self.internals.proxy_of(template.origin) is None:
            self._templates[operation] = template
        else:
            self.disable("requests go through a proxy")

    def _inspect_client(self) -> None:
        self._templates.clear()  # the client may build its requests in another way now
        try:
            self.internals = Internals(self._client, self._timeout)
        except FastPathUnsupportedError as error:
            self.disable(str(error))

    def disable(self, why: str) -> None:
        """Let all requests take the slow path from now on.

        Args:
            why: The reason.
        """
        self.disabled = why
        self._templates.clear()
        logger.debug("the fast path to %s is disabled: %s", self._bucket, why)
