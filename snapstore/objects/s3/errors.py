"""The one boundary where botocore's and aiohttp's errors become ours.

A botocore error can hold what must not leak: the signed request, the string to sign, a response.
So the errors made here have no cause; what can be said of it is in their message.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionClosedError,
    ConnectTimeoutError,
    CredentialRetrievalError,
    EndpointConnectionError,
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
from snapstore.objects.base import DamagedReplyError
from snapstore.objects.s3.bounds import ReplyTooLargeError
from snapstore.objects.s3.codes import ELSEWHERE, meaning_of
from snapstore.objects.s3.settle import Write

__all__ = ["note_end", "translate", "was_not_connected"]

CREATE_CLIENT: Final = "CreateClient"
"""Stands for an operation in the errors of making a client."""

_OUR_OPERATIONS: Final = frozenset(
    {
        *("GetObject", "HeadObject", "PutObject", "ListObjectsV2", "ListObjectVersions"),
        *("DeleteObject", "DeleteObjects"),
    }
)
_MAX_CODE: Final = 100
"""Characters of a code, a region or a request id of a server."""

_COMPRESSED: Final = (
    "the reply is compressed, although that was not asked for; have proxies leave the replies of "
    "S3 as they are (nginx: gzip off)"
)
_MAX_SAID: Final = 2_000
"""Characters of a server's message that are looked at."""

_NEVER_SENT: Final = (
    NoCredentialsError,
    PartialCredentialsError,
    CredentialRetrievalError,
    TokenRetrievalError,
    NoRegionError,
    ParamValidationError,
    SSOError,
)


def note_end(write: Write, error: Exception, *, each_try_is_noted: bool) -> None:
    """Note in a write how it ended.

    Args:
        write: The write.
        error: What the client raised.
        each_try_is_noted: Whether the client has noted each try as it ended; if not, what became
            of those before the last one is unknown.
    """
    reply: Mapping[str, Any] | None = (getattr(error, "response", None) or {}).get(
        "ResponseMetadata"
    )
    if reply is not None:
        write.ended(reply.get("HTTPStatusCode"))
        if reply.get("RetryAttempts") and not each_try_is_noted:
            write.ended(None)
    elif (
        isinstance(error, _NEVER_SENT)
        or _is_expired(error)
        or (each_try_is_noted and was_not_connected(error))
    ):
        return
    else:
        write.ended(None)


def was_not_connected(error: Exception) -> bool:
    """Whether there was no connection to send a request on."""
    if isinstance(error, EndpointConnectionError):
        # It stands for a connection that broke, too.
        return isinstance(error.kwargs.get("error"), aiohttp.ClientConnectorError | socket.gaierror)
    if type(error) is HTTPClientError:
        # A header that can't be sent, a file of certificates that does not exist, a closed client.
        cause = getattr(error, "kwargs", {}).get("error")
        return isinstance(cause, AttributeError | FileNotFoundError | RuntimeError | ValueError)
    return isinstance(error, ConnectTimeoutError | ProxyConnectionError | SSLError)


def _is_expired(error: Exception) -> bool:
    """Whether botocore has renewed the credentials and got expired ones."""
    return isinstance(error, RuntimeError) and "credentials are still expired" in str(error)


def translate(error: Exception, *, operation: str, bucket: str, key: str | None) -> StorageError:
    """Put an error of the client into our words.

    Args:
        error: What the client raised; or one of ours, which stays as it is.
        operation: The S3 operation, `"PutObject"`.
        bucket: The bucket.
        key: The full key or prefix.
    """
    if isinstance(error, StorageError):
        return error
    facts: dict[str, Any] = {"operation": operation, "bucket": bucket, "key": key}
    where = f"{operation} of {bucket}" if key is None else f"{operation} of {bucket}/{shown(key)}"
    if isinstance(error, ClientError):
        if error.operation_name not in {operation, *_OUR_OPERATIONS}:
            return _without_credentials(error, where, facts)
        return _from_reply(error, where, facts)
    kind, why = _explain(error, operation, bucket)
    return kind(f"{where}: {why}", **facts)


def _explain(error: Exception, operation: str, bucket: str) -> tuple[type[StorageError], str]:
    """What an error without a reply is, what has happened, and what to do about it."""
    details: Mapping[str, Any] = getattr(error, "kwargs", {})
    cause = details.get("error")
    server = _origin(details.get("endpoint_url") or details.get("proxy_url"))
    if isinstance(error, ReadTimeoutError | TimeoutError):
        return StorageTimeoutError, "the server did not answer within the client's read_timeout"
    for failure in (error, cause):
        if isinstance(failure, ReplyTooLargeError):
            return InvalidResponseError, f"{failure}; check endpoint_url"
    if isinstance(error, FlexibleChecksumError):
        return DamagedReplyError, "the reply does not match its checksum"
    if isinstance(cause, aiohttp.ClientPayloadError) or isinstance(
        error, ResponseStreamingError | IncompleteReadError | aiohttp.ClientPayloadError
    ):
        return DamagedReplyError, "the reply ended before its end"
    if isinstance(error, ResponseParserError):
        return InvalidResponseError, _unreadable(str(error)[:_MAX_SAID])
    if isinstance(cause, aiohttp.ClientResponseError):
        if "Got more than" in cause.message:
            return InvalidResponseError, (
                "a header of the reply is larger than 8 KB; look for a proxy that adds to it"
            )
        return InvalidResponseError, "the reply is not one of HTTP; check endpoint_url"
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
            f"the credentials could not be had from {details['provider']}; check the profile, or "
            "log in again"
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
    if isinstance(error, HTTPClientError) and isinstance(cause, ValueError):
        return StorageError, ("a header can't be sent; is there a line break in the credentials?")
    if isinstance(error, HTTPClientError) and isinstance(cause, RuntimeError | AttributeError):
        return StorageError, (
            "the client can't be used; was it closed, or entered on another event loop?"
        )
    if isinstance(error, HTTPClientError) and isinstance(cause, FileNotFoundError):
        return StorageError, "a file of certificates does not exist; check AWS_CA_BUNDLE"
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
        return "the reply is a web page, and not one of S3; check endpoint_url and proxies"
    return "the reply is not one of S3; check endpoint_url"


def _without_credentials(error: ClientError, where: str, facts: dict[str, Any]) -> StorageError:
    """The error of a request that was made only to have credentials for another."""
    code, status, what = _summary(error)
    facts |= {"code": code or None, "status": status}
    kind = AccessDeniedError if status is not None and status < 500 else StorageUnavailableError
    return kind(
        f"{where}: the credentials could not be had: {error.operation_name} was refused ({what}); "
        "check the role and the profile",
        **facts,
    )


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
    return shown(value, _MAX_CODE) if isinstance(value, str) else ""


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
    """The wait in a Retry-After header, in its form as a number (RFC 9110, section 10.2.3)."""
    with contextlib.suppress(TypeError, ValueError):
        return max(0.0, min(float(header or ""), 60.0))
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
