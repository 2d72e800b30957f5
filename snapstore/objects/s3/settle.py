"""Whose write is it? Settling a conditional write whose reply was lost.

The request may have been applied all the same, and then the same request, sent again, is refused by
its own first write (aws-sdk-java-v2 #6580). So each write puts a token of its own into the object's
metadata, and beside it the *lineage*: the versions that it was written over, newest first, each as
`token=etag`. A later writer carries on the lineage of what it read. So a write can be found also
when it has been written over since, and so can what was there instead of it.

One case can't be told: a write was applied, its reply was lost, another writer saved the very bytes
from before it again, and a third one, who had read them the first time, wrote over those. The write
is then taken for one that came too late.
"""

from __future__ import annotations

import base64
import enum
import re
import secrets
import time
from collections.abc import Mapping
from itertools import accumulate, takewhile
from typing import Final

from snapstore.objects.base import Version

__all__ = ["Verdict", "Write", "version_of"]

_TOKEN: Final = "snapstore-write"  # noqa: S105 -- the name of a header
_LINEAGE: Final = "snapstore-lineage"
_CREATED: Final = "created"
"""The end of a lineage: there was no object before."""

_UNKNOWN: Final = "-"
"""Stands for the token of a writer that writes none, such as the Strands SDKs."""

_MAX_BYTES: Final = 1_800
"""The length of a lineage at most, some 35 writes: all metadata of an object may have 2 KB
(Amazon S3 User Guide, "Working with object metadata")."""

_REMEMBERED: Final = 600
"""Seconds after which a write is left out of a lineage: it has been settled long since."""

_OUR_TOKEN = re.compile(r"[A-Za-z0-9_-]{16}", re.ASCII)


class Verdict(enum.Enum):
    """What is known of a write that is not found."""

    OVERTAKEN = enum.auto()
    """Another write came first, so that this one can't be applied any more."""
    NOT_YET = enum.auto()
    """The object is as it was before."""
    UNKNOWN = enum.auto()


class Write:
    """One write of one object, however often it is sent.

    Args:
        over: The version it is to be written over, where it is conditional on one.
        create: Whether it is conditional on there being no object.
    """

    def __init__(self, over: Version | None, *, create: bool) -> None:
        self._token = _new_token()
        self.metadata: dict[str, str] = {_TOKEN: self._token}
        lineage = [_CREATED] if create else []
        if over is not None:
            last, *before = (over.lineage or f"{_UNKNOWN}={over.etag}").split()
            recent = list(takewhile(_is_recent, before))
            room = _MAX_BYTES - len(last)
            lengths = accumulate(len(entry) + 1 for entry in recent)
            lineage = [last, *recent[: sum(length <= room for length in lengths)]]
        if lineage:
            self.metadata[_LINEAGE] = " ".join(lineage)
        self._under = lineage[0] if lineage else None

    def version(self, etag: str) -> Version:
        """The version that this write has made."""
        return version_of(etag, self.metadata)

    def judge(self, found: Version | None) -> Version | Verdict:
        """Judge by the object as it is now what became of this write.

        Args:
            found: The object's version; `None` if there is no object.

        Returns:
            The version that was written, if it was applied; else what is known.
        """
        entries = [] if found is None else found.lineage.split()
        for place, entry in enumerate(entries):
            token, _, etag = entry.partition("=")
            if token == self._token:
                return Version(etag, " ".join(entries[place:]))
        # Where the lineage reaches back to what this write was to be made over, all that has come
        # after that is known, and this write is not among it.
        if self._under in entries[1:]:
            return Verdict.OVERTAKEN
        if self._under == (entries or [_CREATED])[0]:
            return Verdict.NOT_YET
        return Verdict.UNKNOWN


def version_of(etag: str, metadata: Mapping[str, str]) -> Version:
    """The version of an object with this etag and metadata, its own place in its lineage first."""
    own = f"{metadata.get(_TOKEN, _UNKNOWN)}={etag}"
    return Version(etag, f"{own} {metadata.get(_LINEAGE, '')}".rstrip())


def _new_token() -> str:
    """16 characters: the time in seconds, which lets it be forgotten, and 56 random bits."""
    seconds = int(time.time()).to_bytes(5, "big")
    return base64.urlsafe_b64encode(seconds + secrets.token_bytes(7)).decode()


def _is_recent(entry: str) -> bool:
    token = entry.partition("=")[0]
    if not _OUR_TOKEN.fullmatch(token):
        return True
    made = int.from_bytes(base64.urlsafe_b64decode(token)[:5], "big")
    return abs(time.time() - made) < _REMEMBERED
