"""A request taken apart, so that others of its kind can be made of it, and signed, at once."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple
from urllib.parse import quote, urlsplit

import msgspec
from yarl import URL

from snapstore.stores.readback import LINEAGE, WRITE_ID
from snapstore.stores.s3.internals import UnfitError
from snapstore.stores.s3.signing import UNSIGNED_PAYLOAD, Credentials, Signer, signed_host

__all__ = ["CRC32", "META", "SignedRequest", "Template"]

META: Final = "x-amz-meta-"
"""What the headers of an object's metadata begin with."""

CRC32: Final = "x-amz-checksum-crc32"
"""The header with the CRC-32 of a body."""

_MADE_ANEW: Final = frozenset(
    {
        *("authorization", "host", "content-length", "x-amz-date", "x-amz-content-sha256"),
        *("x-amz-security-token", "if-match", "if-none-match", "user-agent", CRC32),
        "content-md5",
        *(META + WRITE_ID, META + LINEAGE),
        # What these tell the server is optional, and true only of a request of botocore's.
        *("amz-sdk-invocation-id", "amz-sdk-request", "expect", "x-amzn-trace-id"),
        "x-amz-sdk-checksum-algorithm",
    }
)
"""Headers that are of one request alone, or not signed."""

_REPEATED: Final = frozenset(
    {
        *("content-type", "x-amz-checksum-mode"),
        *("x-amz-server-side-encryption", "x-amz-server-side-encryption-aws-kms-key-id"),
        *("x-amz-expected-bucket-owner", "x-amz-request-payer"),
    }
)
"""Headers that are sent each time. A request with any other can't be repeated."""

_AUTHORIZATION = re.compile(r"AWS4-HMAC-SHA256 Credential=[^,]+/\d{8}/([^/,]+)/s3/aws4_request,")
_EMPTY_SHA256: Final = hashlib.sha256(b"").hexdigest()


class SignedRequest(msgspec.Struct, frozen=True):
    """What is sent of a request before its body. Its headers hold a signature, and do not show.

    Attributes:
        url: The URL.
        headers: All headers.
    """

    url: URL
    headers: dict[str, str]

    def __repr__(self) -> str:
        return f"SignedRequest({str(self.url)!r})"


class Template(NamedTuple):
    """What is known of each request of a kind.

    Attributes:
        url: The URL before the key, or the whole of it but the query.
        path: Its path, percent-encoded.
        headers: The headers that are the same each time, to be signed.
        unsigned: Those that are not signed.
        signs_body: Whether the body is part of the signature.
        signer: Signs for the region of the bucket.
    """

    url: str
    path: str
    headers: dict[str, str]
    unsigned: dict[str, str]
    signs_body: bool
    signer: Signer

    @classmethod
    def of(cls, request: Any, key: str) -> Template:
        """Take a request apart.

        Args:
            request: An `AWSPreparedRequest`, as it was sent.
            key: The key that it was about; `""` if it was about the bucket.

        Raises:
            UnfitError: It has something that can't be repeated.
        """
        headers = {name.lower(): _as_text(value) for name, value in request.headers.items()}
        authorization = _AUTHORIZATION.match(headers.get("authorization", ""))
        if authorization is None:
            raise UnfitError("requests are not signed by Signature V4 for S3")
        unknown = headers.keys() - _MADE_ANEW - _REPEATED
        if unknown:
            raise UnfitError(f"requests have the header {min(unknown)}")
        url = urlsplit(request.url)
        tail = _encoded(key)
        if not url.path.endswith(tail) or (key and url.query):
            raise UnfitError("the URL of an object does not end with its key")
        path = url.path.removesuffix(tail)
        repeated = {
            name: " ".join(value.split()) for name, value in headers.items() if name in _REPEATED
        }
        return cls(
            url=f"{url.scheme}://{url.netloc}{path}",
            path=path,
            headers={"host": signed_host(request.url), **repeated},
            # aiobotocore adds the second one as it sends.
            unsigned={"user-agent": headers["user-agent"], "accept-encoding": "identity"},
            signs_body=headers["x-amz-content-sha256"] != UNSIGNED_PAYLOAD,
            signer=Signer(authorization[1]),
        )

    def signed(
        self,
        credentials: Credentials,
        method: str,
        *,
        key: str,
        query: str,
        headers: Mapping[str, str],
        body: bytes,
    ) -> SignedRequest:
        """Make another request of this kind, and sign it.

        Args:
            credentials: Whose request it is.
            method: The HTTP method.
            key: The key that it is about; `""` if it is about the bucket.
            query: The query, percent-encoded and sorted by name; `""` for none.
            headers: The headers of this request alone, to be signed: names in lower case.
            body: The body.

        """
        tail = _encoded(key)
        payload = UNSIGNED_PAYLOAD
        if self.signs_body:
            payload = hashlib.sha256(body).hexdigest() if body else _EMPTY_SHA256
        signed = self.signer.sign(
            credentials,
            method=method,
            path=self.path + tail,
            query=query,
            headers={**self.headers, **headers},
            payload=payload,
        )
        url = URL(f"{self.url}{tail}{'?' if query else ''}{query}", encoded=True)
        return SignedRequest(url, {**signed, **self.unsigned})


def _encoded(key: str) -> str:
    return quote(key, safe="/~")


def _as_text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
