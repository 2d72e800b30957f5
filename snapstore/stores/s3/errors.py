"""Translate errors of botocore and aiohttp into those of snapstore: the one boundary.

A botocore error may hold secrets: the signed request, the string to sign, a response. So the errors
made here have no cause, and their message has all that may be shown of it.
"""

from __future__ import annotations

import contextlib
import math
import os
import ssl
import time
import traceback
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp
from aiohttp.http_exceptions import HttpProcessingError
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionClosedError,
    CredentialRetrievalError,
    FlexibleChecksumError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    NoRegionError,
    ParamValidationError,
    PartialCredentialsError,
    ProfileNotFound,
    ProxyConnectionError,
    ReadTimeoutError,
    ResponseStreamingError,
    SSLError,
    SSOError,
    TokenRetrievalError,
)
from botocore.exceptions import ConnectionError as BotoConnectionError
from botocore.parsers import ResponseParserError

from snapstore.errors import (
    AccessDeniedError,
    InvalidResponseError,
    StorageError,
    StorageTimeoutError,
    StorageUnavailableError,
    shown,
)
from snapstore.stores.base import DamagedResponseError
from snapstore.stores.s3.bounds import ReplyTooLargeError
from snapstore.stores.s3.codes import ELSEWHERE, meaning_of
from snapstore.stores.threads import is_exiting

__all__ = ["translate"]

CREATE_CLIENT: Final = "CreateClient"
"""Stands for an operation in the errors of making a client."""

_OUR_OPERATIONS: Final = frozenset(
    {
        *("GetObject", "HeadObject", "PutObject", "ListObjectsV2", "ListObjectVersions"),
        *("DeleteObject", "DeleteObjects", "CopyObject"),
    }
)
_MAX_CODE: Final = 100
"""Characters of a code, a region or a request id of a server."""

_COMPRESSED: Final = (
    "the response is compressed, although that was not asked for; have proxies leave the responses "
    "of S3 as they are (nginx: gzip off)"
)
_MAX_SAID: Final = 2_000
"""Characters of a server's message that are looked at."""

_THROTTLED: Final = frozenset(
    {"PriorRequestNotComplete", "RequestLimitExceeded", "SlowDown", "TooManyRequestsException"}
)
"""Codes of services for credentials that throttle, beside those that say so."""


def _is_permanent(cause: object) -> bool:
    """Whether a failure to connect is one that no other attempt changes."""
    is_untrusted = isinstance(cause, aiohttp.ClientConnectorCertificateError)
    # To resolve a name takes a thread, and none is started any more.
    return is_untrusted or (isinstance(cause, RuntimeError) and is_exiting())


def _is_expired(error: Exception) -> bool:
    """Whether botocore has renewed the credentials and got expired ones."""
    return isinstance(error, RuntimeError) and "credentials are still expired" in str(error)


def translate(
    error: Exception, *, operation: str, bucket: str, key: str | None, sent: bool
) -> StorageError:
    """Translate an error of the client.

    Args:
        error: What the client raised; an error of snapstore is returned as it is.
        operation: The S3 operation, `"PutObject"`.
        bucket: The bucket.
        key: The full key or prefix.
        sent: Whether a request was sent. Before that, it is not the server that fails.
    """
    if isinstance(error, StorageError):
        return error
    _close_response(error)
    facts: dict[str, Any] = {"operation": operation, "bucket": bucket, "key": key}
    where = f"{operation} of {bucket}" if key is None else f"{operation} of {bucket}/{shown(key)}"
    if isinstance(error, ClientError):
        if error.operation_name not in {operation, *_OUR_OPERATIONS}:
            return _without_credentials(error, where, facts)
        return _from_reply(error, where, facts)
    kind, why = _explain(error, operation, bucket)
    if sent and isinstance(error, ValueError) and kind is StorageError:
        # Of botocore's parsers of numbers and times.
        kind, why = InvalidResponseError, "the response has a number or a time that can't be read"
    if not sent and issubclass(kind, StorageUnavailableError | StorageTimeoutError):
        # The request was not sent yet, so it is not S3 that was waited for.
        why = f"the credentials could not be obtained: {why.partition(';')[0]}"
    if _is_permanent(getattr(error, "kwargs", {}).get("error")):
        facts["retryable"] = False
    return kind(f"{where}: {why}", **facts)


def _close_response(error: Exception) -> None:
    """Release the connection of a response whose headers aiobotocore could not decode.

    Its only reference is in the frame that has failed, and the connection would never be free
    again. Clients of our own decode such headers.
    """
    if not isinstance(getattr(error, "kwargs", {}).get("error"), UnicodeError):
        return
    for frame, _ in traceback.walk_tb(error.__traceback__):
        response = frame.f_locals.get("response")
        if isinstance(response, aiohttp.ClientResponse):
            response.close()


def _explain(error: Exception, operation: str, bucket: str) -> tuple[type[StorageError], str]:
    """The class for an error without a response, what has happened, and what to do about it."""
    details: Mapping[str, Any] = getattr(error, "kwargs", {})
    cause = details.get("error")
    server = _origin(details.get("endpoint_url") or details.get("proxy_url"))
    if isinstance(error, ReadTimeoutError | TimeoutError):
        return StorageTimeoutError, "the server did not answer within the client's read_timeout"
    for failure in (error, cause):
        if isinstance(failure, ReplyTooLargeError):
            return InvalidResponseError, f"{failure}; check endpoint_url"
    if isinstance(error, FlexibleChecksumError):
        return DamagedResponseError, "the response does not match its checksum"
    if isinstance(cause, aiohttp.ClientPayloadError) or isinstance(
        error, ResponseStreamingError | IncompleteReadError | aiohttp.ClientPayloadError
    ):
        return DamagedResponseError, "the response was cut short"
    if isinstance(error, ResponseParserError):
        return InvalidResponseError, _unreadable(str(error)[:_MAX_SAID])
    if isinstance(cause, aiohttp.ClientResponseError | HttpProcessingError):
        if "Got more than" in cause.message:
            return InvalidResponseError, (
                "a header of the response is larger than 8 KB; look for a proxy that adds to it"
            )
        return InvalidResponseError, "the response is not HTTP; check endpoint_url"
    if isinstance(error, NoCredentialsError):
        return AccessDeniedError, (
            "no credentials were found; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or "
            "AWS_PROFILE, or pass session=…"
        )
    if isinstance(error, PartialCredentialsError):
        return AccessDeniedError, (
            f"the credentials from {details['provider']} are incomplete; set {details['cred_var']}"
        )
    if isinstance(error, CredentialRetrievalError):
        return AccessDeniedError, (
            f"the credentials could not be obtained from {details['provider']}; "
            "check the profile, or log in again"
        )
    if isinstance(error, SSOError | TokenRetrievalError):
        return AccessDeniedError, "nobody is logged in, or no longer; use: aws sso login"
    if _is_expired(error):
        return AccessDeniedError, "the credentials have expired; renew them"
    if isinstance(error, ProfileNotFound):
        return StorageError, (
            f"the profile {details['profile']!r} does not exist; check AWS_PROFILE"
        )
    if isinstance(error, NoRegionError):
        return StorageError, "no region is configured; pass region=… or set AWS_DEFAULT_REGION"
    if isinstance(error, ParamValidationError) and "Invalid bucket name" in str(error):
        return StorageError, f"{bucket!r} can't be the name of a bucket; check it"
    if isinstance(error, ProxyConnectionError):
        return StorageUnavailableError, (
            f"the proxy {server} could not be reached: {_reason(cause)}; "
            "check HTTP_PROXY and HTTPS_PROXY"
        )
    if isinstance(cause, aiohttp.ClientConnectorCertificateError):
        return StorageUnavailableError, (
            f"the certificate of {server} is not trusted: {_reason(cause.certificate_error)}; "
            "check endpoint_url, or name a file with the certificate in AWS_CA_BUNDLE"
        )
    if isinstance(error, SSLError):
        return StorageUnavailableError, (
            f"no TLS with {server}; if it speaks plain HTTP, begin endpoint_url with http://"
        )
    if isinstance(error, ConnectionClosedError):
        hint = "; if it speaks TLS, begin endpoint_url with https://"
        plain = server.startswith("http://")
        return StorageUnavailableError, (
            f"{server} closed the connection without an answer{hint if plain else ''}"
        )
    if isinstance(error, BotoConnectionError):
        return StorageUnavailableError, (
            f"{server} could not be reached: {_reason(cause)}; check endpoint_url"
        )
    if isinstance(error, HTTPClientError) and isinstance(cause, UnicodeError):
        return InvalidResponseError, "a header of the response is not UTF-8; check what is between"
    if isinstance(error, HTTPClientError) and isinstance(cause, ValueError):
        return StorageError, ("a header can't be sent; is there a line break in the credentials?")
    if isinstance(cause, RuntimeError) and is_exiting():
        return StorageUnavailableError, (
            "the server's name can't be resolved while the interpreter exits; save before"
        )
    if isinstance(error, HTTPClientError) and isinstance(cause, RuntimeError | AttributeError):
        return StorageError, (
            "the client can't be used; was it closed, or entered on another event loop?"
        )
    if isinstance(error, HTTPClientError) and (
        isinstance(cause, FileNotFoundError | IsADirectoryError)
        or (isinstance(cause, ssl.SSLError) and cause.library == "X509")
    ):
        return StorageError, "there are no certificates in a file; check AWS_CA_BUNDLE"
    if operation == CREATE_CLIENT and "Invalid endpoint" in str(error):
        return StorageError, (
            "endpoint_url must begin with http:// or https:// and have a host; check "
            "AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL and the profile"
        )
    if operation == CREATE_CLIENT and isinstance(error, OSError):
        return StorageError, f"{error.filename}: {_reason(error)}; check the AWS configuration"
    if isinstance(error, HTTPClientError | aiohttp.ClientError | OSError):
        return StorageUnavailableError, f"{server} could not be reached ({type(error).__name__})"
    if isinstance(error, BotoCoreError):
        return StorageError, _one_line(error)
    if operation == CREATE_CLIENT:
        return StorageError, f"{type(error).__name__}; check the AWS configuration"
    return StorageError, type(error).__name__


def _unreadable(problem: str) -> str:
    """What is wrong with a reply that botocore can't parse, whose error shows its beginning."""
    if r"\x1f\x8b" in problem:
        return _COMPRESSED
    if "<html" in problem.lower():
        return "the response is a web page, not from an S3 server; check endpoint_url and proxies"
    return "the response is not from an S3 server; check endpoint_url"


def _without_credentials(error: ClientError, where: str, facts: dict[str, Any]) -> StorageError:
    """The error of a request that was made only to obtain credentials."""
    code, status, what = _summary(error)
    facts |= {"code": code or None, "status": status}
    why = f"{where}: the credentials could not be obtained: {error.operation_name}"
    if status is None or status >= 500 or status == 429 or "Thrott" in code or code in _THROTTLED:
        return StorageUnavailableError(f"{why} failed ({what}); try again later", **facts)
    return AccessDeniedError(f"{why} was refused ({what}); check the role and the profile", **facts)


def _summary(error: ClientError) -> tuple[str, int | None, str]:
    code = _text(_details(error).get("Code"))
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    what = " ".join(dict.fromkeys(filter(None, (str(status or ""), code)))) or "without a code"
    return code, status, what


def _details(error: ClientError) -> Mapping[str, Any]:
    details = error.response.get("Error")
    return details if isinstance(details, Mapping) else {}


def _text(value: object) -> str:
    """A short text of a server. What a server nests or leaves empty is no text."""
    return shown(value.strip(), _MAX_CODE) if isinstance(value, str) else ""


def _from_reply(error: ClientError, where: str, facts: dict[str, Any]) -> StorageError:
    details = _details(error)
    metadata: Mapping[str, Any] = error.response.get("ResponseMetadata", {})
    headers: Mapping[str, str] = metadata.get("HTTPHeaders", {})
    code, status, what = _summary(error)
    facts |= {
        "code": code or None,
        "status": status,
        "request_id": _text(metadata.get("RequestId")) or None,
        "retry_after": _seconds(headers.get("retry-after")),
    }
    if code in ELSEWHERE:
        region = _text(details.get("Region") or headers.get("x-amz-bucket-region"))
        hint = f"pass region={region!r}" if region else "check region and endpoint_url"
        return StorageError(f"{where}: the bucket is elsewhere; {hint} ({what})", **facts)
    # Of a reply that is no XML, botocore makes a 500.
    if headers.get("content-encoding", "identity") != "identity" and (not code or code.isdigit()):
        return InvalidResponseError(f"{where}: {_COMPRESSED} ({what})", **facts)
    message = details.get("Message")
    said = message[:_MAX_SAID] if isinstance(message, str) else ""
    kind, reason = meaning_of(code, status, str(facts["operation"]), said)
    return kind(f"{where}: {reason} ({what})", **facts)


def _seconds(header: str | None) -> float | None:
    """The wait in a Retry-After header: seconds, or a date (RFC 9110, section 10.2.3)."""
    if not header:
        return None
    with contextlib.suppress(ValueError):
        seconds = float(header)
        return max(0.0, seconds) if math.isfinite(seconds) else None
    with contextlib.suppress(ValueError):
        return max(0.0, parsedate_to_datetime(header).timestamp() - time.time())
    return None


def _origin(url_of_request: str | None) -> str:
    """The server in a URL, without what else is in it."""
    url = urlsplit(url_of_request or "")
    return f"{url.scheme}://{url.netloc.rpartition('@')[2]}" if url.netloc else "the server"


def _reason(error: Any) -> str:
    """What the system says of a connection that could not be made, without addresses."""
    failure = getattr(error, "os_error", error)
    if isinstance(failure, ssl.SSLCertVerificationError):
        return failure.verify_message.rstrip(".")
    if isinstance(failure, OSError) and (failure.errno or 0) > 0:
        return os.strerror(failure.errno or 0).lower()
    return getattr(failure, "strerror", None) or type(error).__name__


def _one_line(error: Exception) -> str:
    return shown(" ".join(str(error).split()))
