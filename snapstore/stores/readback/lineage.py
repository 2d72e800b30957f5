"""The metadata that identifies a write: its id, and its lineage.

::

    snapstore-write:   <id>
    snapstore-lineage: <entry> <entry> ...        newest first

    id:    12 characters of base64url: 4 bytes of time in seconds, 5 random bytes
    entry: <id>=<etag>   a version, by the write that made it
           <id>:<hash>   the same, shorter: the etag is an MD5, here as 22 characters of base64url
           -=<etag>      a version of a writer that leaves no id, such as the Strands SDKs
           -:<hash>      the same, shorter
           created       the end of a lineage: there was no object before

`Version.lineage` is the entry of the version itself, followed by those in its metadata.
"""

from __future__ import annotations

import base64
import os
import re
import time
from collections.abc import Mapping, Sequence
from itertools import accumulate, takewhile
from typing import Final

from snapstore.stores.base import Version

__all__ = [
    "CREATED",
    "LINEAGE",
    "WRITE_ID",
    "entry_of",
    "etag_in",
    "extended",
    "has_write_id",
    "is_replaced",
    "is_same_version",
    "metadata_of_caller",
    "new_write_id",
    "version_of",
]

WRITE_ID: Final = "snapstore-write"
"""The name of the metadata that holds the id of a write."""

LINEAGE: Final = "snapstore-lineage"
"""The name of the metadata that holds its lineage."""

CREATED: Final = "created"
"""The entry at the end of a lineage: there was no object before."""

_NO_ID: Final = "-"

_MAX_BYTES: Final = 1_850
"""The most bytes of a lineage, about 50 entries: all metadata of an object may have 2 KB
(Amazon S3 User Guide, "Working with object metadata")."""

_MAX_AGE: Final = 600
"""Seconds after which an entry is left out of a lineage: its write has ended long since."""

_ID = re.compile(r"[A-Za-z0-9_-]{12}", re.ASCII)
_MD5 = re.compile(r"[0-9a-f]{32}", re.ASCII)
_ENTRY = re.compile(
    rf"{CREATED}|(?:{_ID.pattern}|{_NO_ID})(?:=[!-~]+|:[A-Za-z0-9_-]{{22}})", re.ASCII
)


def new_write_id() -> str:
    """Make a write id. It holds the time, so that its age can be told."""
    seconds = int(time.time()).to_bytes(4, "big")
    return base64.urlsafe_b64encode(seconds + os.urandom(5)).decode()


def version_of(etag: str, metadata: Mapping[str, str]) -> Version:
    """The version of an object.

    Args:
        etag: Its etag, without quotes.
        metadata: Its metadata. Lineage entries are kept up to the first malformed one.
    """
    write_id = metadata.get(WRITE_ID, "")
    own = entry_of(write_id if _ID.fullmatch(write_id) else _NO_ID, etag)
    before = takewhile(_ENTRY.fullmatch, metadata.get(LINEAGE, "").split())
    return Version(etag, " ".join([own, *before]))


def metadata_of_caller(metadata: Mapping[str, str]) -> dict[str, str]:
    """The metadata of an object without write id and lineage."""
    return {name: text for name, text in metadata.items() if name not in (WRITE_ID, LINEAGE)}


def entry_of(write_id: str, etag: str) -> str:
    """The entry of a version."""
    if not _MD5.fullmatch(etag):
        return f"{write_id}={etag}"
    return f"{write_id}:{base64.urlsafe_b64encode(bytes.fromhex(etag)).decode()[:22]}"


def etag_in(entry: str) -> str:
    """The etag in an entry that has a write id."""
    separator, etag = entry[12], entry[13:]
    return etag if separator == "=" else base64.urlsafe_b64decode(f"{etag}==").hex()


def extended(replaced: Version) -> list[str]:
    """The lineage of a write that replaces a version: its recent entries, as far as there is room.

    The entry of the replaced version comes first and is always kept.
    """
    last, *before = (replaced.lineage or entry_of(_NO_ID, replaced.etag)).split()
    recent = list(takewhile(_is_recent, before))
    room = _MAX_BYTES - len(last)
    lengths = accumulate(len(entry) + 1 for entry in recent)
    return [last, *recent[: sum(length <= room for length in lengths)]]


def has_write_id(entry: str) -> bool:
    """Whether an entry names a write by its id, and not by an etag alone."""
    return _ID.match(entry) is not None


def is_replaced(entries: Sequence[str], place: int, version: str) -> bool:
    """Whether the entry at a place of a lineage proves that a version was replaced.

    Args:
        entries: The lineage.
        place: Where the entry is: the one before it replaced it.
        version: The entry of the version in question.
    """
    entry = entries[place]
    if not is_same_version(entry, version):
        return False
    if has_write_id(version):
        # Without the id it is a copy: another writer has restored the bytes of our version.
        return has_write_id(entry)
    # The last entry may be an unconditional write, all attempts of which have the same etag. A
    # version known by its etag alone may be one of these attempts, and the entry another.
    return place < len(entries) - 1 or not has_write_id(entry)


def is_same_version(one: str, other: str) -> bool:
    """Whether two entries name the same version: by write id, or by etag if one has no id.

    Some servers return one etag with the response to a PUT and another with the response to a GET.
    """
    (id_of_one, etag_of_one), (id_of_other, etag_of_other) = map(_split, (one, other))
    if id_of_one and id_of_other:
        return id_of_one == id_of_other
    return etag_of_one == etag_of_other


def _split(entry: str) -> tuple[str, str]:
    """The write id in an entry, or `""`, and the rest."""
    return (entry[:12], entry[12:]) if has_write_id(entry) else ("", entry[1:])


def _is_recent(entry: str) -> bool:
    if not has_write_id(entry):
        return True
    made = int.from_bytes(base64.urlsafe_b64decode(entry[:12])[:4], "big")
    return abs(time.time() - made) < _MAX_AGE
