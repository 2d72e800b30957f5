"""Space behind a document that makes the bytes of each write of latest its own.

On S3 an etag is mostly a hash of the bytes. If two writes of latest had equal bytes, a snapshot
that was replaced and then restored would have its old etag again. A writer who read it the first
time would then write over what has happened since (the ABA problem). So random spaces and tabs
follow the document; every reader of JSON skips them (RFC 8259, section 2).
"""

from __future__ import annotations

import secrets
from typing import Final, TypeVar

__all__ = ["PADDING_BYTES", "pad", "strip_padding"]

BytesT = TypeVar("BytesT", bound=bytes)
"""Bytes, or a class of bytes that don't show themselves."""

PADDING_BYTES: Final = 48
"""Bytes that a document grows by; each carries one random bit."""

_OF_BITS: Final = bytes.maketrans(b"01", b" \t")


def pad(document: BytesT) -> BytesT:
    """Append padding of its own to a document."""
    bits = f"{secrets.randbits(PADDING_BYTES):0{PADDING_BYTES}b}"
    return type(document)(document + bits.encode().translate(_OF_BITS))


def strip_padding(data: BytesT) -> BytesT:
    """Take away the padding behind a document, if there is any."""
    return type(data)(data.rstrip(b" \t")) if data.endswith((b" ", b"\t")) else data
