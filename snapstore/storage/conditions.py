"""The condition of a write, as a caller gives it."""

from __future__ import annotations

import re
from typing import Any

from snapstore.errors import InvalidIdentifierError
from snapstore.model.snapshot import SavedSnapshot, VersionedSnapshot
from snapstore.stores.base import Version

__all__ = ["version_to_match"]

_ETAG = re.compile(r"[!#-~]+", re.ASCII)
"""What may stand between the quotes of an etag (RFC 9110, section 8.8.3), and is ASCII."""


def version_to_match(key: str, given: Any, if_none_match: bool = False) -> Version | None:
    """The version in what a caller gives for `if_match`, its etag without quotes.

    Args:
        key: The key of what is to be written; `""` where no version belongs to it.
        given: The argument.
        if_none_match: The other argument.

    Raises:
        TypeError: Both are given.
        InvalidIdentifierError: It is no version, or one of another key.
    """
    if given is None:
        return None
    if if_none_match:
        raise TypeError("if_match and if_none_match exclude each other")
    lineage = ""
    etag = given
    if isinstance(given, SavedSnapshot | VersionedSnapshot):
        etag, lineage = given.etag, given.lineage
        if key and given.key and given.key != key:
            raise InvalidIdentifierError(f"if_match is a version of {given.key}, not of {key}")
    if isinstance(etag, str):
        etag = etag.removeprefix("W/").strip('"')
        if _ETAG.fullmatch(etag) and etag != "*":
            return Version(etag, lineage)
    raise InvalidIdentifierError(
        "if_match must be an etag, a SavedSnapshot or a VersionedSnapshot (load_versioned returns "
        f"one), not {_described(given)}"
    )


def _described(given: Any) -> str:
    # An etag that is none may be anything, a secret too.
    return "this text" if isinstance(given, str) else f"a {type(given).__name__}"
