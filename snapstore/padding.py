"""Space behind a document that makes the bytes of each write of latest its own.

On S3 an etag is mostly a hash of the bytes. If two writes of latest had equal bytes, a snapshot
that was replaced and then restored would have its old etag again. A writer who read it the first
time would then write over what has happened since (the ABA problem). So random spaces and tabs
follow the document; every reader of JSON skips them (RFC 8259, section 2).
"""

from __future__ import annotations

import secrets
from typing import Final

__all__ = ["PADDING_BYTES", "pad", "strip_padding"]

PADDING_BYTES: Final = 48
"""Bytes that a document grows by; each carries one random bit."""

_OF_BITS: Final = bytes.maketrans(b"01", b" \t")


def pad(document: bytes) -> bytes:
    """Append padding of its own to a document."""
    bits = f"{secrets.randbits(PADDING_BYTES):0{PADDING_BYTES}b}"
    return document + bits.encode().translate(_OF_BITS)


def strip_padding(data: bytes) -> bytes:
    """Take away the padding behind a document, if there is any."""
    return data.rstrip(b" \t") if data[-1:] in (b" ", b"\t") else data
