"""A template: a captured request taken apart, from which others of its kind are made and signed."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple
from urllib.parse import quote, urlsplit

from snapstore.stores.readback import LINEAGE, WRITE_ID
from snapstore.stores.s3.http import SignedRequest
from snapstore.stores.s3.internals import FastPathUnsupportedError
from snapstore.stores.s3.requests import CRC32
from snapstore.stores.s3.signing import UNSIGNED_PAYLOAD, Credentials, Signer, signed_host

__all__ = ["META", "Template"]

META: Final = "x-amz-meta-"
"""The prefix of the headers with an object's metadata."""

_PER_REQUEST: Final = frozenset(
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
"""Headers that differ in each request, or are not signed."""

_CONSTANT: Final = frozenset(
    {
        *("content-type", "x-amz-checksum-mode"),
        *("x-amz-server-side-encryption", "x-amz-server-side-encryption-aws-kms-key-id"),
        *("x-amz-expected-bucket-owner", "x-amz-request-payer"),
    }
)
"""Headers that are the same in each request. A request with any other can't be a template."""

_AUTHORIZATION = re.compile(r"AWS4-HMAC-SHA256 Credential=[^,]+/\d{8}/([^/,]+)/s3/aws4_request,")
_EMPTY_SHA256: Final = hashlib.sha256(b"").hexdigest()


class Template(NamedTuple):
    """What all requests of one kind have in common.

    Attributes:
        origin: Scheme, host and port of the URL.
        path: The path up to the key, percent-encoded.
        headers: The headers that are the same each time, to be signed.
        unsigned: Those that are not signed.
        signs_body: Whether the body is part of the signature.
        signer: Signs for the region of the bucket.
    """

    origin: str
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
            FastPathUnsupportedError: It has something that a template can't have.
        """
        headers = {name.lower(): _as_text(value) for name, value in request.headers.items()}
        authorization = _AUTHORIZATION.match(headers.get("authorization", ""))
        if authorization is None:
            raise FastPathUnsupportedError("requests are not signed by Signature V4 for S3")
        unknown = headers.keys() - _PER_REQUEST - _CONSTANT
        if unknown:
            raise FastPathUnsupportedError(f"requests have the header {min(unknown)}")
        url = urlsplit(request.url)
        tail = _encoded(key)
        if not url.path.endswith(tail) or (key and url.query):
            raise FastPathUnsupportedError("the URL of an object does not end with its key")
        path = url.path.removesuffix(tail)
        constant = {
            name: " ".join(value.split()) for name, value in headers.items() if name in _CONSTANT
        }
        return cls(
            origin=f"{url.scheme}://{url.netloc}",
            path=path,
            headers={"host": signed_host(request.url), **constant},
            # aiobotocore and aiohttp add all but the first one as they send.
            unsigned={
                "user-agent": headers["user-agent"],
                "accept": "*/*",
                "accept-encoding": "identity",
            },
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
        path = self.path + _encoded(key)
        payload = UNSIGNED_PAYLOAD
        if self.signs_body:
            payload = hashlib.sha256(body).hexdigest() if body else _EMPTY_SHA256
        all_headers = self.signer.sign(
            credentials,
            method=method,
            path=path,
            query=query,
            headers={**self.headers, **headers},
            payload=payload,
        )
        all_headers.update(self.unsigned)
        if method != "GET":
            all_headers["content-length"] = str(len(body))
        return SignedRequest(method, self.origin, f"{path}?{query}" if query else path, all_headers)


def _encoded(key: str) -> str:
    return quote(key, safe="/~")


def _as_text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
