"""The meaning of error codes and statuses of S3 servers, and what to do about each.

Codes: Amazon S3 API Reference, "Error responses". Others are those of Ceph and MinIO, and those
that botocore takes for throttling. A code tells more than its status: a 403 may be an archived
object or an exhausted quota, which no permission changes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, NamedTuple

from snapstore.errors import (
    AccessDeniedError,
    BucketNotFoundError,
    StorageError,
    StorageUnavailableError,
    UnsupportedOperationError,
)

__all__ = ["ELSEWHERE", "Meaning", "meaning_of"]


class Meaning(NamedTuple):
    """What an error reply means.

    Attributes:
        kind: The class of the error.
        reason: What has happened and what to do, for the message.
    """

    kind: type[StorageError]
    reason: str


ELSEWHERE: Final = frozenset(
    {
        "PermanentRedirect",
        "TemporaryRedirect",
        "AuthorizationHeaderMalformed",
        "IllegalLocationConstraintException",
        "301",
        "307",
    }
)
"""Codes of a bucket in another region."""

_EXPIRED: Final = Meaning(AccessDeniedError, "the session token has expired; renew the credentials")
_NOT_AN_ACCESS_POINT: Final = Meaning(
    StorageError, "this is not the name of an access point; check it"
)
_THROTTLED: Final = Meaning(
    StorageUnavailableError, "the server asks for fewer requests; try again later"
)
_BUSY: Final = Meaning(StorageUnavailableError, "the server can't do it now; try again later")
_FULL: Final = Meaning(
    StorageUnavailableError, "the server has no space left; free some, then try again"
)
_DAMAGED: Final = Meaning(
    StorageUnavailableError, "what arrived at the server is not what was sent; try again"
)
_QUOTA: Final = Meaning(StorageError, "a quota is used up; free some of it, or have it raised")
_KMS: Final = Meaning(
    StorageError,
    "the key for encryption can't be used; check kms_key_id or the bucket's default key, and the "
    "key's state and policy in KMS",
)
_TOO_LARGE: Final = Meaning(
    StorageError,
    "it is larger than the server, or a proxy before it, allows (nginx: client_max_body_size)",
)
_HEADERS_TOO_LARGE: Final = Meaning(
    StorageError,
    "the headers are larger than the server, or a proxy before it, allows (nginx: "
    "large_client_header_buffers)",
)
_KEY_TOO_LONG: Final = Meaning(
    StorageError, "the key is longer than the server, or a proxy before it, allows"
)
_UNSUPPORTED: Final = Meaning(
    UnsupportedOperationError,
    "the server does not support this request, or a header of it (a condition, a checksum, "
    "encryption)",
)
_NOT_S3: Final = "this is not what an S3 server says; check endpoint_url"

_CODES: Final[Mapping[str, Meaning]] = {
    "NoSuchBucket": Meaning(
        BucketNotFoundError, "the bucket does not exist; check its name and endpoint_url"
    ),
    "NoSuchAccessPoint": Meaning(
        BucketNotFoundError, "the access point does not exist; check its name"
    ),
    "InvalidBucketName": Meaning(StorageError, "this can't be the name of a bucket; check it"),
    "InvalidAccessPoint": _NOT_AN_ACCESS_POINT,
    "InvalidAccessPointAliasError": _NOT_AN_ACCESS_POINT,
    # Credentials.
    "InvalidAccessKeyId": Meaning(
        AccessDeniedError,
        "the access key is unknown; check AWS_ACCESS_KEY_ID or the profile; a temporary key needs "
        "its session token",
    ),
    "SignatureDoesNotMatch": Meaning(
        AccessDeniedError,
        "the secret key is wrong; check AWS_SECRET_ACCESS_KEY or the profile",
    ),
    "ExpiredToken": _EXPIRED,
    "TokenRefreshRequired": _EXPIRED,
    "InvalidToken": Meaning(
        AccessDeniedError, "the session token is not valid; renew the credentials"
    ),
    "InvalidSecurity": Meaning(
        AccessDeniedError, "the credentials are not valid; check them, or renew them"
    ),
    "RequestTimeTooSkewed": Meaning(
        AccessDeniedError, "this machine's clock is too far from the server's; set it"
    ),
    # Not a matter of permissions.
    "AccountProblem": Meaning(
        AccessDeniedError, "there is a problem with the account of the credentials; ask its owner"
    ),
    "UserSuspended": Meaning(AccessDeniedError, "the user of the credentials is suspended"),
    "NotSignedUp": Meaning(
        AccessDeniedError, "the account of the credentials is not signed up for S3"
    ),
    "AllAccessDisabled": Meaning(
        AccessDeniedError, "all access to the bucket is disabled; ask the provider's support"
    ),
    "InvalidPayer": Meaning(
        AccessDeniedError, "all access to the bucket is disabled; ask the provider's support"
    ),
    "InvalidObjectState": Meaning(
        StorageError, "the object is archived; restore it first, or take it out of its archive tier"
    ),
    "XMinioStorageFull": _FULL,
    # The object can't be stored like this.
    "EntityTooLarge": _TOO_LARGE,
    "MaxMessageLengthExceeded": _TOO_LARGE,
    "MetadataTooLarge": _HEADERS_TOO_LARGE,
    "RequestHeaderSectionTooLarge": _HEADERS_TOO_LARGE,
    "KeyTooLongError": _KEY_TOO_LONG,
    "InvalidEncryptionAlgorithmError": Meaning(
        StorageError, "the server does not know this server_side_encryption"
    ),
    "BadDigest": _DAMAGED,
    "InvalidDigest": _DAMAGED,
    "XAmzContentChecksumMismatch": _DAMAGED,
    "XAmzContentSHA256Mismatch": _DAMAGED,
    "IncompleteBody": _DAMAGED,
    # Transient.
    "ConditionalRequestConflict": _BUSY,
    "OperationAborted": _BUSY,
    "RequestTimeout": _BUSY,
    **dict.fromkeys(
        (
            *("SlowDown", "Throttling", "ThrottlingException", "ThrottledException"),
            *("RequestThrottled", "RequestThrottledException", "RequestLimitExceeded"),
            *("TooManyRequests", "TooManyRequestsException", "BandwidthLimitExceeded"),
            *("ProvisionedThroughputExceededException", "KMS.ThrottlingException"),
        ),
        _THROTTLED,
    ),
    "NotImplemented": _UNSUPPORTED,
    "MethodNotAllowed": Meaning(UnsupportedOperationError, _NOT_S3),
}

_STATUSES: Final[Mapping[int, Meaning]] = {
    401: Meaning(AccessDeniedError, "the credentials are not accepted; check them"),
    407: Meaning(
        StorageError, "a proxy wants credentials; put them into HTTP_PROXY and HTTPS_PROXY"
    ),
    408: _BUSY,
    409: _BUSY,
    413: _TOO_LARGE,
    414: _KEY_TOO_LONG,
    429: _THROTTLED,
    431: _HEADERS_TOO_LARGE,
    501: _UNSUPPORTED,
    507: _FULL,
    511: Meaning(StorageError, "the network wants a login first (a captive portal)"),
}

_PERMISSIONS: Final[Mapping[str, str]] = {
    "GetObject": "s3:GetObject",
    "HeadObject": "s3:GetObject",
    "PutObject": "s3:PutObject",
    "CopyObject": "s3:PutObject, and s3:GetObject for the source",
    "ListObjectsV2": "s3:ListBucket",
    "ListObjectVersions": "s3:ListBucketVersions",
    "DeleteObject": "s3:DeleteObject",
    "DeleteObjects": "s3:DeleteObject",
}
_ACTION = re.compile(r"not authorized to perform: ([a-z0-9-]{1,40}:[A-Za-z]{1,60})\b")


def meaning_of(code: str, status: int | None, operation: str, message: str) -> Meaning:
    """Tell what an error reply means.

    Args:
        code: The error code; the status as digits, or `""`, where there is none.
        status: The HTTP status, if it is known.
        operation: The S3 operation that was refused.
        message: The server's message. Of it only the name of a permission is used.
    """
    known = _CODES.get(code)
    if known is not None:
        return known
    if "Quota" in code:
        return _QUOTA
    if code.startswith("KMS."):
        return _KMS
    if code == "AccessDenied" or (status == 403 and _is_none(code)):
        return _denied(code, operation, message)
    known = _STATUSES.get(status or 0)
    if known is not None:
        return known
    if status is not None and status >= 500:
        return _BUSY
    if _is_none(code):
        return Meaning(StorageError, _NOT_S3)
    kind = AccessDeniedError if status == 403 else StorageError
    return Meaning(kind, "the server refuses it")


def _denied(code: str, operation: str, message: str) -> Meaning:
    named = _ACTION.search(message)
    permission = named[1] if named else _PERMISSIONS.get(operation, "s3:*")
    reason = f"the permission needed is {permission}"
    if operation == "GetObject" and not named:
        reason += ", and s3:ListBucket, or an object that does not exist is refused too"
    if _is_none(code) and operation != "HeadObject":
        reason = f"if it is the server that says so, and not a proxy or a firewall, {reason}"
    return Meaning(AccessDeniedError, f"access denied; {reason}")


def _is_none(code: str) -> bool:
    return not code or code.isdigit()
