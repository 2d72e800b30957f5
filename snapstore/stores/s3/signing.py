"""AWS Signature Version 4 for requests whose path and query are encoded already.

Amazon S3 API Reference, "Authenticating Requests: Using the Authorization Header". botocore signs
any request; this signs only those of a store, and keeps the signing key of the day.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Mapping
from functools import lru_cache
from typing import Final
from urllib.parse import urlsplit

import msgspec

__all__ = ["UNSIGNED_PAYLOAD", "Credentials", "Signer", "signed_host"]

UNSIGNED_PAYLOAD: Final = "UNSIGNED-PAYLOAD"
"""Stands for the hash of a body that is not part of the signature."""


class Credentials(msgspec.Struct, frozen=True):
    """Frozen credentials. Not a tuple: error trackers show the items of those one by one.

    Attributes:
        access_key: The access key id.
        secret_key: Its secret.
        token: The session token; `None` for long-lived credentials.
    """

    access_key: str
    secret_key: str
    token: str | None

    def __repr__(self) -> str:
        return "Credentials(…)"


def signed_host(url: str) -> str:
    """The host of a URL as botocore signs it: in lower case, with its port where it is unusual."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    host = f"[{host}]" if ":" in host else host
    usual = {"http": 80, "https": 443}.get(parts.scheme)
    return host if parts.port in (None, usual) else f"{host}:{parts.port}"


@lru_cache(maxsize=1)
def _timestamp(seconds: int) -> str:
    return time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(seconds))


class Signer:
    """Signs requests to S3 in one region.

    Args:
        region: The region.
    """

    def __init__(self, region: str) -> None:
        self._region = region
        self._mac = _MAC(b"")
        self._mac_is_of = ("", "")

    def sign(
        self,
        credentials: Credentials,
        *,
        method: str,
        path: str,
        query: str,
        headers: Mapping[str, str],
        payload: str,
        at: float | None = None,
    ) -> dict[str, str]:
        """Sign a request.

        Args:
            credentials: Whose request it is.
            method: The HTTP method.
            path: The path, percent-encoded as it is sent.
            query: The query, percent-encoded and sorted by name; `""` for none.
            headers: The headers to sign, `host` among them: names in lower case, values without
                blanks around them or two in a row.
            payload: The SHA-256 of the body in hexadecimal, or `UNSIGNED_PAYLOAD`.
            at: Seconds since the epoch; `None` for now.

        Returns:
            All headers to send.
        """
        now = _timestamp(int(time.time() if at is None else at))
        signed = {**headers, "x-amz-content-sha256": payload, "x-amz-date": now}
        if credentials.token:
            signed["x-amz-security-token"] = credentials.token
        names = sorted(signed)
        lines = "".join([f"{name}:{signed[name]}\n" for name in names])
        of = ";".join(names)
        request = f"{method}\n{path}\n{query}\n{lines}\n{of}\n{payload}"
        scope = f"{now[:8]}/{self._region}/s3/aws4_request"
        digest = hashlib.sha256(request.encode()).hexdigest()
        text = f"AWS4-HMAC-SHA256\n{now}\n{scope}\n{digest}"
        signature = self._signing_mac(credentials.secret_key, now[:8]).hexdigest(text.encode())
        signed["authorization"] = (
            f"AWS4-HMAC-SHA256 Credential={credentials.access_key}/{scope}, "
            f"SignedHeaders={of}, Signature={signature}"
        )
        return signed

    def _signing_mac(self, secret_key: str, date: str) -> _MAC:
        """The MAC by the signing key of a day."""
        if self._mac_is_of != (secret_key, date):
            key = f"AWS4{secret_key}".encode()
            for part in (date, self._region, "s3", "aws4_request"):
                key = hmac.digest(key, part.encode(), "sha256")
            self._mac, self._mac_is_of = _MAC(key), (secret_key, date)
        return self._mac


class _MAC:
    """HMAC-SHA256 by one key, for many messages (RFC 2104, section 4).

    The two hashes are kept as they are after the key. `hmac.digest` begins anew with each message,
    and takes as long as all the rest of a signature.

    Args:
        key: The key, of at most 64 bytes.
    """

    def __init__(self, key: bytes) -> None:
        block = key.ljust(64, b"\0")
        self._inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in block))
        self._outer = hashlib.sha256(bytes(byte ^ 0x5C for byte in block))

    def hexdigest(self, message: bytes) -> str:
        """The MAC of a message, in hexadecimal."""
        inner, outer = self._inner.copy(), self._outer.copy()
        inner.update(message)
        outer.update(inner.digest())
        return outer.hexdigest()
