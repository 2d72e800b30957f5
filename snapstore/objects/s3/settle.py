"""Whose write is it? Settling a conditional write whose reply was lost.

The request may have been applied all the same, and then the same request, sent again, is refused by
its own first write (aws-sdk-java-v2 #6580). So each write puts a token of its own into the object's
metadata, and beside it the *lineage*: the versions that it was written over, newest first, each as
`token=etag`, or shorter as `token:hash` where the etag is an MD5. A later writer carries on the
lineage of what it read. So a write can be found also when it has been written over since, and so
can what was there instead of it.

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

__all__ = ["LINEAGE", "TOKEN", "Verdict", "Write", "version_of"]

TOKEN: Final = "snapstore-write"  # noqa: S105 -- the name of a header
"""The metadata that holds the token of a write."""

LINEAGE: Final = "snapstore-lineage"
"""The metadata that holds its lineage."""

_CREATED: Final = "created"
"""The end of a lineage: there was no object before."""

_UNKNOWN: Final = "-"
"""Stands for the token of a writer that writes none, such as the Strands SDKs."""

_MAX_BYTES: Final = 1_950
"""The length of a lineage at most, some 54 writes: all metadata of an object may have 2 KB
(Amazon S3 User Guide, "Working with object metadata")."""

_REMEMBERED: Final = 600
"""Seconds after which a write is left out of a lineage: it has been settled long since."""

_OUR_TOKEN = re.compile(r"[A-Za-z0-9_-]{12}", re.ASCII)
_MD5 = re.compile(r"[0-9a-f]{32}", re.ASCII)
_ENTRY = re.compile(
    rf"{_CREATED}|(?:{_OUR_TOKEN.pattern}|{_UNKNOWN})(?:=[!-~]+|:[A-Za-z0-9_-]{{22}})", re.ASCII
)


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

    Attributes:
        token: What it is recognised by.
        metadata: The object's metadata, token and lineage.
        condition: The etag it is to be written over, `"*"` for no object, `None` for any.
        in_doubt: Whether it may have been applied, although no reply says so.
        pending: Whether it may even be applied yet, having been sent without an answer.
    """

    def __init__(self, over: Version | None, *, create: bool) -> None:
        self.token: str = _new_token()
        self.metadata: dict[str, str] = {TOKEN: self.token}
        self.condition: str | None = "*" if create else None if over is None else over.etag
        self.in_doubt: bool = False
        self.pending: bool = False
        lineage: list[str] = [_CREATED] if create else []
        if over is not None:
            last, *before = (over.lineage or _entry(_UNKNOWN, over.etag)).split()
            recent = list(takewhile(_is_recent, before))
            room = _MAX_BYTES - len(last)
            lengths = accumulate(len(entry) + 1 for entry in recent)
            lineage = [last, *recent[: sum(length <= room for length in lengths)]]
        if lineage:
            self.metadata[LINEAGE] = " ".join(lineage)
        self._lineage = lineage
        self._under = lineage[0] if lineage else None

    def ended(self, status: int | None) -> None:
        """Note how one try of it has ended.

        Args:
            status: The HTTP status of the reply, good or bad; `None` if there was none, although
                the request was sent.
        """
        # A gateway that gives up says nothing of the server behind it.
        self.pending = self.pending or (status is None or status in (502, 504) or status >= 520)
        self.in_doubt = self.in_doubt or status is None or (status >= 500 and status != 501)

    def version(self, etag: str) -> Version:
        """The version that this write has made."""
        return Version(etag, " ".join([_entry(self.token, etag), *self._lineage]))

    def judge(self, found: Version | None) -> Version | Verdict:
        """Judge by the object as it is now what became of this write.

        Args:
            found: The object's version; `None` if there is no object.

        Returns:
            The version that was written, if it was applied; else what is known.
        """
        entries = [] if found is None else found.lineage.split()
        for place, entry in enumerate(entries):
            if entry.startswith(self.token):
                return Version(_etag_in(entry), " ".join(entries[place:]))
        # Where the lineage reaches back to what this write was to be made over, all that has come
        # after that is known, and this write is not among it.
        if self._under in entries[1:]:
            return Verdict.OVERTAKEN
        if self._under == (entries or [_CREATED])[0]:
            return Verdict.NOT_YET
        return Verdict.UNKNOWN


def version_of(etag: str, metadata: Mapping[str, str]) -> Version:
    """The version of an object with this etag and metadata, its own place in its lineage first.

    Of a lineage that is not of our making nothing is kept from where it is not.
    """
    token = metadata.get(TOKEN, "")
    own = _entry(token if _OUR_TOKEN.fullmatch(token) else _UNKNOWN, etag)
    before = takewhile(_ENTRY.fullmatch, metadata.get(LINEAGE, "").split())
    return Version(etag, " ".join([own, *before]))


def _entry(token: str, etag: str) -> str:
    if not _MD5.fullmatch(etag):
        return f"{token}={etag}"
    return f"{token}:{base64.urlsafe_b64encode(bytes.fromhex(etag)).decode()[:22]}"


def _etag_in(entry: str) -> str:
    """The etag in an entry with a token of ours."""
    separator, etag = entry[12], entry[13:]
    return etag if separator == "=" else base64.urlsafe_b64decode(f"{etag}==").hex()


def _new_token() -> str:
    """12 characters: the time in seconds, which lets it be forgotten, and 40 random bits."""
    seconds = int(time.time()).to_bytes(4, "big")
    return base64.urlsafe_b64encode(seconds + secrets.token_bytes(5)).decode()


def _is_recent(entry: str) -> bool:
    if not _OUR_TOKEN.match(entry):
        return True
    made = int.from_bytes(base64.urlsafe_b64decode(entry[:12])[:4], "big")
    return abs(time.time() - made) < _REMEMBERED
