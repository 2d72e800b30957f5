"""Make one segment of a key of any text, and the text of the segment again.

Frameworks take any text as an id: `user@example.com`, `a/b`, `..`, an emoji. In a key it is one
segment between two `/`, which every object store takes, files included. Two different texts never
have the same segment.

- `A-Z`, `a-z`, `0-9`, `_`, `-` and `.` stand for themselves; of any other character, and of a dot
  that comes first, each byte of its UTF-8 is written as `%` and two hexadecimal digits in upper
  case. So there is no `.` and no `..`, and no hidden file.
- The empty text is `~`.
- Where this is longer than allowed, it is cut, and `~` and a hash of the whole text come after it.
  `~` stands for itself nowhere, so that no other text has such a segment.
"""

from __future__ import annotations

import hashlib
import re
from typing import Final

from snapstore.errors import InvalidIdentifierError

__all__ = ["MAX_SEGMENT_BYTES", "to_segment", "to_text"]

MAX_SEGMENT_BYTES: Final = 200
"""How long a segment may be. Files allow 255, S3 allows 1,024 for the whole key."""

_HASH_BYTES: Final = 20
_LEAST: Final = 2 * _HASH_BYTES + 1

_ESCAPED = re.compile(rb"[^A-Za-z0-9._-]|^\.")
_SEGMENT = re.compile(r"(?:[A-Za-z0-9_-]|%[0-9A-F]{2})(?:[A-Za-z0-9._-]|%[0-9A-F]{2})*")
_CODE = re.compile(rb"%([0-9A-F]{2})")


def to_segment(text: str, name: str, *, max_bytes: int = MAX_SEGMENT_BYTES) -> str:
    """Make a segment of a key.

    Args:
        text: Any text. Halves of surrogate pairs are taken as well.
        name: What messages call the text.
        max_bytes: How long the segment may be, at least 41; it is ASCII, so these are characters,
            too.

    Returns:
        The segment.

    Raises:
        InvalidIdentifierError: It is no `str`.

    Example:
        >>> to_segment("user@example.com", "thread_id")
        'user%40example.com'
    """
    if not isinstance(text, str):
        raise InvalidIdentifierError(f"{name} must be a str, not a {type(text).__name__}")
    data = text.encode("utf-8", "surrogatepass")
    segment = _ESCAPED.sub(lambda found: b"%%%02X" % found[0][0], data).decode("ascii") or "~"
    if len(segment) <= max_bytes:
        return segment
    digest = hashlib.blake2b(data, digest_size=_HASH_BYTES).hexdigest()
    return f"{segment[: max(max_bytes, _LEAST) - _LEAST]}~{digest}"


def to_text(segment: str) -> str | None:
    """The text that a segment was made of.

    Args:
        segment: A segment of a key.

    Returns:
        The text; `None` where the segment has a hash instead, or was not made by `to_segment`.
    """
    if segment == "~":
        return ""
    if not _SEGMENT.fullmatch(segment):
        return None
    data = _CODE.sub(lambda found: bytes([int(found[1], 16)]), segment.encode("ascii"))
    try:
        text = data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return None
    return text if to_segment(text, "text", max_bytes=len(segment)) == segment else None
