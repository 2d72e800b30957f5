"""The one boundary where botocore's and aiohttp's errors become ours.

A botocore error can hold what must not leak: the signed request, the string to sign, a response.
So the errors made here have no cause; what can be said of it is in their message.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    FlexibleChecksumError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    NoRegionError,
    ParamValidationError,
    PartialCredentialsError,
    ReadTimeoutError,
    ResponseStreamingError,
    TokenRetrievalError,
)
from botocore.exceptions import ConnectionError as BotoConnectionError
from botocore.parsers import ResponseParserError

from snapstore.errors import (
    AccessDeniedError,
    BucketNotFoundError,
    InvalidResponseError,
    StorageError,
    StorageTimeoutError,
    StorageUnavailableError,
    UnsupportedOperationError,
)
from snapstore.objects.base import PreconditionFailedError

__all__ = ["translate", "was_never_sent"]

# Error codes: Amazon S3 API Reference, "Error responses".
_KINDS: Final[Mapping[str, type[StorageError]]] = {
    "NoSuchBucket": BucketNotFoundError,
    "PreconditionFailed": PreconditionFailedError,
    "ConditionalRequestConflict": StorageUnavailableError,
    "OperationAborted": StorageUnavailableError,
    "ExpiredToken": AccessDeniedError,
    "InvalidToken": AccessDeniedError,
    "TokenRefreshRequired": AccessDeniedError,
    "NotImplemented": UnsupportedOperationError,
    "MethodNotAllowed": UnsupportedOperationError,
    "SlowDown": StorageUnavailableError,
    "RequestTimeout": StorageUnavailableError,
}
_STATUS_KINDS: Final[Mapping[int, type[StorageError]]] = {
    401: AccessDeniedError,
    403: AccessDeniedError,
    409: StorageUnavailableError,
    412: PreconditionFailedError,
    429: StorageUnavailableError,
    501: UnsupportedOperationError,
}
_REASONS: Final[Mapping[str, str]] = {
    "NoSuchBucket": "the bucket does not exist",
    "InvalidBucketName": "this can't be the name of a bucket",
    "InvalidAccessKeyId": "the access key is unknown",
    "SignatureDoesNotMatch": "the secret key is wrong",
    "ExpiredToken": "the session token has expired",
    "InvalidToken": "the session token is not valid",
    "RequestTimeTooSkewed": "this machine's clock is too far from the server's",
    "SlowDown": "the server asks for fewer requests",
}
_WRONG_REGION: Final = frozenset(
    {
        "PermanentRedirect",
        "TemporaryRedirect",
        "AuthorizationHeaderMalformed",
        "IllegalLocationConstraintException",
        "301",
        "307",
    }
)


_NEVER_SENT: Final = (
    NoCredentialsError,
    PartialCredentialsError,
    CredentialRetrievalError,
    TokenRetrievalError,
    NoRegionError,
    ParamValidationError,
)


def was_never_sent(error: Exception) -> bool:
    """Whether the client gave up before it sent anything."""
    return isinstance(error, _NEVER_SENT)


def translate(
    error: Exception, *, operation: str, bucket: str, key: str | None, expired: bool = False
) -> StorageError:
    """Put an error of the client into our words.

    Args:
        error: What the client raised; or one of ours, which stays as it is.
        operation: The S3 operation, `"PutObject"`.
        bucket: The bucket.
        key: The full key or prefix.
        expired: Whether our own deadline is what ended the request.
    """
    if isinstance(error, StorageError):
        return error
    facts: dict[str, Any] = {"operation": operation, "bucket": bucket, "key": key}
    where = f"{operation} of {bucket}" if key is None else f"{operation} of {bucket}/{key}"
    if expired:
        return StorageTimeoutError(f"{where}: the deadline passed", **facts)
    if isinstance(error, ClientError):
        return _from_reply(error, where, facts)
    if isinstance(error, ReadTimeoutError | TimeoutError):
        return StorageTimeoutError(f"{where}: the server did not answer in time", **facts)
    if isinstance(error, FlexibleChecksumError):
        return InvalidResponseError(f"{where}: the reply does not match its checksum", **facts)
    if isinstance(error, ResponseStreamingError | IncompleteReadError | aiohttp.ClientPayloadError):
        facts["code"] = "Truncated"
        return InvalidResponseError(f"{where}: the reply ended before its end", **facts)
    if isinstance(error, ResponseParserError):
        return InvalidResponseError(f"{where}: the reply is not one of S3", **facts)
    if isinstance(error, NoCredentialsError | PartialCredentialsError):
        return AccessDeniedError(f"{where}: no credentials were found ({error})", **facts)
    if isinstance(error, CredentialRetrievalError | TokenRetrievalError):
        return AccessDeniedError(f"{where}: the credentials could not be had", **facts)
    if isinstance(error, NoRegionError):
        return StorageError(f"{where}: no region is configured; pass region=…", **facts)
    if isinstance(error, ParamValidationError):
        return StorageError(f"{where}: {_one_line(error)}", **facts)
    if isinstance(error, BotoConnectionError | HTTPClientError | aiohttp.ClientError | OSError):
        return StorageUnavailableError(
            f"{where}: {_server(error)} could not be reached ({type(error).__name__})", **facts
        )
    if isinstance(error, BotoCoreError):
        return StorageError(f"{where}: {_one_line(error)}", **facts)
    return StorageError(f"{where}: {type(error).__name__}", **facts)


def _from_reply(error: ClientError, where: str, facts: dict[str, Any]) -> StorageError:
    reply: Mapping[str, Any] = error.response
    details: Mapping[str, Any] = reply.get("Error", {})
    metadata: Mapping[str, Any] = reply.get("ResponseMetadata", {})
    headers: Mapping[str, str] = metadata.get("HTTPHeaders", {})
    code, status = str(details.get("Code", "")), metadata.get("HTTPStatusCode")
    facts |= {
        "code": code or None,
        "status": status,
        "request_id": metadata.get("RequestId"),
        "retry_after": _seconds(headers.get("retry-after")),
    }
    what = " ".join(dict.fromkeys(filter(None, (str(status or ""), code)))) or "without a code"
    if code in _WRONG_REGION:
        region = details.get("Region") or headers.get("x-amz-bucket-region")
        hint = f"pass region={region!r}" if region else "check region and endpoint_url"
        return StorageError(f"{where}: the bucket is elsewhere; {hint} ({what})", **facts)
    kind = _KINDS.get(code) or _STATUS_KINDS.get(status or 0)
    if kind is None:
        unavailable = status is not None and status >= 500
        kind = StorageUnavailableError if unavailable else StorageError
    reason = _REASONS.get(code)
    if reason is None and kind is AccessDeniedError and where.startswith("GetObject"):
        reason = (
            "access denied; without the permission s3:ListBucket this can also mean that "
            "the object does not exist"
        )
    return kind(f"{where}: {reason} ({what})" if reason else f"{where}: {what}", **facts)


def _seconds(header: str | None) -> float | None:
    """The wait in a Retry-After header, in its form as a number (RFC 9110, section 10.2.3)."""
    with contextlib.suppress(TypeError, ValueError):
        return max(0.0, min(float(header or ""), 60.0))
    return None


def _server(error: Exception) -> str:
    """The server that a botocore error is about, without what else is in its URL."""
    url = urlsplit(str(getattr(error, "kwargs", {}).get("endpoint_url", "")))
    return f"{url.scheme}://{url.netloc.rpartition('@')[2]}" if url.netloc else "the server"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
