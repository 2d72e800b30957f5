"""Send requests made of templates on the client's own connections, without the client.

One attempt, which ends as one attempt of a slow call would. Where the result is not clear the
caller makes a slow call instead, which captures a new template.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, TypeVar

from botocore.exceptions import ClientError, FlexibleChecksumError
from botocore.parsers import ResponseParserError

from snapstore.errors import InvalidResponseError
from snapstore.stores.readback import AttemptOutcome
from snapstore.stores.s3.attempts import is_wrong_region, outcome_of
from snapstore.stores.s3.botocore_errors import client_error, transport_error
from snapstore.stores.s3.bounds import read_bounded
from snapstore.stores.s3.calls import Call
from snapstore.stores.s3.capture import UNDERSTOOD, CapturedTemplates
from snapstore.stores.s3.circuit_breaker import RESET_TIMEOUT, CircuitBreaker
from snapstore.stores.s3.http import TRANSPORT_ERRORS, Response
from snapstore.stores.s3.internals import FastPathUnsupportedError

__all__ = ["Replay"]

T = TypeVar("T")

logger: Final = logging.getLogger("snapstore")

_FAULT_OF_TEMPLATE: Final = frozenset({400, 401, 403})
"""Statuses that the template may be the reason for: a slow call asks again."""

_SERVER_ERRORS: Final = frozenset({429, 500, 502, 503, 504})
"""Statuses of a server in trouble, which a slow call would have got as well."""

_BAD_RESPONSE: Final = (
    ClientError,
    FlexibleChecksumError,
    InvalidResponseError,
    ResponseParserError,
)
"""What reading a response raises."""

_NO_HEADERS: Final[Mapping[str, str]] = {}


class Replay:
    """Replays requests to one bucket.

    Args:
        templates: The templates.
        bucket: The bucket, for the log.

    Attributes:
        breaker: Keeps from replaying while it is open.
    """

    def __init__(self, templates: CapturedTemplates, bucket: str) -> None:
        self._templates = templates
        self._bucket = bucket
        self.breaker: CircuitBreaker = CircuitBreaker()

    async def request(
        self,
        operation: str,
        method: str,
        read: Callable[[Response], Awaitable[T]],
        *,
        key: str = "",
        query: str = "",
        headers: Mapping[str, str] = _NO_HEADERS,
        body: bytes = b"",
    ) -> T | None:
        """Make a request.

        Args:
            operation: The S3 operation.
            method: The HTTP method.
            read: Reads a good response.
            key: The key.
            query: The query, percent-encoded and sorted by name.
            headers: The headers of this request alone.
            body: The body.

        Returns:
            What was read; `None` if a slow call is to be made instead.

        Raises:
            Exception: What botocore would raise.
        """
        template = None if self.breaker.is_open else self._templates.get(operation)
        if template is None:
            return None
        try:
            connections, credentials = await self._templates.internals.current()
        except FastPathUnsupportedError as error:
            self._templates.disable(str(error))
            return None
        request = template.signed(
            credentials, method, key=key, query=query, headers=headers, body=body
        )
        call = Call.current()
        call.sent("fast")
        found: T | None = None
        failure: Exception | None = None

        async def read_any(response: Response) -> T | ClientError:
            if call.log is not None:
                call.log.answered(response.status)
            if 200 <= response.status < 300:
                return await read(response)
            return client_error(response, operation, await read_bounded(response))

        try:
            result = await connections.request(request, body, read_any)
            if isinstance(result, ClientError):
                failure = result
            else:
                found = result
        except _BAD_RESPONSE as error:
            failure = error
        except TRANSPORT_ERRORS as error:
            failure = transport_error(error, request.origin)
        if found is not None:
            self.breaker.succeeded(operation)
            return found
        call.ended(AttemptOutcome.LOST if failure is None else outcome_of(failure))
        if not isinstance(failure, ClientError):
            self._fall_back(operation, type(failure).__name__)
            if failure is None:
                return None
            raise failure
        status: int = failure.response["ResponseMetadata"]["HTTPStatusCode"]
        if status in UNDERSTOOD:
            self.breaker.succeeded(operation)
            raise failure
        is_server_error = status in _SERVER_ERRORS
        self._fall_back(operation, f"a response of {status}", is_server_error=is_server_error)
        may_be_template = status in _FAULT_OF_TEMPLATE and not call.is_last_attempt
        if is_wrong_region(failure.response) or may_be_template:
            return None
        raise failure

    def _fall_back(self, operation: str, why: str, *, is_server_error: bool = False) -> None:
        """Drop the template, so that the next call of this operation is slow and captured."""
        logger.debug("%s of %s falls back to the slow path: %s", operation, self._bucket, why)
        self._templates.drop(operation)
        if not is_server_error and self.breaker.failed(operation):
            logger.debug("no fast path to %s for %g s: circuit open", self._bucket, RESET_TIMEOUT)
