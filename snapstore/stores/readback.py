"""Read back conditional writes whose response was lost.

A conditional PUT is not idempotent under retry: if the server applied it and the response was lost,
the retry fails its precondition against our own object (aws-sdk-java-v2 #6580). A proxy that sends
a PUT again by itself has the same effect, and nobody learns of it. So every PUT carries a *write
id* in the object's metadata, shared by all its tries. A conditional PUT also carries the *lineage*:
an entry for each version it follows, newest first, as `id=etag`, or shorter as `id:hash` where the
etag is an MD5. A later writer carries on the lineage of what it read, so a write is found also when
it has been written over.

After a refusal, or where a response is missing, the object is looked at:

    our write id is the current one, or in the lineage      applied
    the version to be replaced has another successor        not applied, and never will be
    the object is still at the version to be replaced       not applied, unless a try is on its way
    anything else                                           not applied if no response was lost;
                                                            else unknown

The version to be replaced has one successor at most, since each write of a snapshot has bytes of
its own, and so an etag of its own. Where a version has no write id, as those of other SDKs, its
etag stands for it, and may come again.

A create has no version to replace, and a delete makes room for it again. So an object that another
has created says nothing of a create whose response was lost.
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

from snapstore.errors import Outcome
from snapstore.stores.base import Version

__all__ = ["LINEAGE", "WRITE_ID", "Ending", "Verdict", "Write", "version_of"]

WRITE_ID: Final = "snapstore-write"
"""The metadata that holds the id of a write."""

LINEAGE: Final = "snapstore-lineage"
"""The metadata that holds its lineage."""

_CREATED: Final = "created"
"""The end of a lineage: there was no object before."""

_UNKNOWN: Final = "-"
"""Stands for the id of a writer that writes none, such as the Strands SDKs."""

_MAX_BYTES: Final = 1_850
"""The length of a lineage at most, some 50 writes: all metadata of an object may have 2 KB
(Amazon S3 User Guide, "Working with object metadata")."""

_REMEMBERED: Final = 600
"""Seconds after which a write is left out of a lineage: it has ended long since."""

_OUR_ID = re.compile(r"[A-Za-z0-9_-]{12}", re.ASCII)
_MD5 = re.compile(r"[0-9a-f]{32}", re.ASCII)
_ENTRY = re.compile(
    rf"{_CREATED}|(?:{_OUR_ID.pattern}|{_UNKNOWN})(?:=[!-~]+|:[A-Za-z0-9_-]{{22}})", re.ASCII
)


class Ending(enum.Enum):
    """How one try of a write has ended."""

    REJECTED = enum.auto()
    """It was not applied, and will not be: it never left, or the server has said so."""
    DOUBTFUL = enum.auto()
    """The server has ended with it, and did not say whether it was applied."""
    LOST = enum.auto()
    """There was no response of the server, which may have applied it, or may do so yet."""


class Verdict(enum.Enum):
    """What the object as it is now says of a write that is not found in it."""

    CONFLICT = enum.auto()
    """The write was not applied, and will not be: another one came first."""
    UNCHANGED = enum.auto()
    """The object is still at the version that the write was to replace."""
    UNKNOWN = enum.auto()
    """Nothing can tell."""


class Write:
    """One write of one object, however often it is sent.

    Args:
        over: The version to be replaced, where the write is conditional on one.
        create: Whether it is conditional on there being no object.
        metadata: What else to keep beside the object.

    Attributes:
        id: What it is recognised by.
        metadata: The object's metadata, with write id and lineage.
        condition: The etag to be replaced, `"*"` for no object, `None` for any.
        quoted: Whether the etag is sent in quotes.
        tried: The conditions that were refused although they held, each with its quotes.
        pending: Whether a try may be applied yet, since no response of the server ended it.
    """

    def __init__(
        self, over: Version | None, *, create: bool, metadata: Mapping[str, str] = {}
    ) -> None:
        self.id: str = _new_id()
        self.condition: str | None = "*" if create else None if over is None else over.etag
        self.quoted: bool = False
        self.tried: set[tuple[str | None, bool]] = set()
        self.pending: bool = False
        self._doubtful = False
        self._under_way = False
        self._lineage: list[str] = [_CREATED] if create else []
        if over is not None:
            last, *before = (over.lineage or _entry(_UNKNOWN, over.etag)).split()
            recent = list(takewhile(_is_recent, before))
            room = _MAX_BYTES - len(last)
            lengths = accumulate(len(entry) + 1 for entry in recent)
            self._lineage = [last, *recent[: sum(length <= room for length in lengths)]]
        self.metadata: dict[str, str] = {**metadata, WRITE_ID: self.id}
        if self._lineage:
            self.metadata[LINEAGE] = " ".join(self._lineage)

    @property
    def precondition(self) -> tuple[str, str] | None:
        """The header with the condition: its name in lower case, and its value."""
        if self.condition is None:
            return None
        if self.condition == "*":
            return "if-none-match", "*"
        # Without quotes, a comma would begin another etag (RFC 9110, section 13.1.1).
        quoted = self.quoted or "," in self.condition
        return "if-match", f'"{self.condition}"' if quoted else self.condition

    @property
    def in_doubt(self) -> bool:
        """Whether a try may have been applied, although no response says so."""
        return self._doubtful or self._under_way

    @property
    def outcome(self) -> Outcome:
        """What is known of it, unless a response says that it was applied."""
        return "unknown" if self.in_doubt else "not applied"

    def begin_try(self) -> None:
        """Get ready to be sent, for the first time or again.

        A write without condition may be applied with each try, over what others have written since
        the last one. So each of its tries makes a version of its own.
        """
        if self.condition is None:
            self.id = self.metadata[WRITE_ID] = _new_id()

    def sent(self) -> None:
        """Note that a try is being sent. Until its end is noted it may have been applied."""
        self.given_up()
        self._under_way = True

    def ended(self, ending: Ending) -> None:
        """Note how the try under way has ended."""
        self._under_way = False
        self._doubtful = self._doubtful or ending is not Ending.REJECTED
        self.pending = self.pending or ending is Ending.LOST

    def given_up(self) -> None:
        """Note that a try under way, if there is one, has ended without anybody noting how."""
        if self._under_way:
            self.ended(Ending.LOST)

    def version(self, etag: str) -> Version:
        """The version that this write has made."""
        return Version(etag, " ".join([_entry(self.id, etag), *self._lineage]))

    def classify(self, found: Version | None) -> Version | Verdict:
        """Tell from the object as it is now what became of this write.

        Args:
            found: The object's version; `None` if there is no object.

        Returns:
            The version that was written, if it was applied; else what is known.
        """
        entries = [] if found is None else found.lineage.split()
        for place, entry in enumerate(entries):
            if entry.startswith(self.id):
                return Version(_etag_in(entry), " ".join(entries[place:]))
        if self.condition == "*":
            # What is not there, or not ours, may have been ours until a delete.
            return Verdict.CONFLICT if entries and not self.in_doubt else Verdict.UNKNOWN
        replaced = self._lineage[0]
        if any(_is_replaced(entries, place, replaced) for place in range(1, len(entries))):
            return Verdict.CONFLICT
        is_copy = entries and _OUR_ID.match(replaced) and not _OUR_ID.match(entries[0])
        if entries and _is_same_version(entries[0], replaced) and not (is_copy and self.in_doubt):
            return Verdict.UNCHANGED
        return Verdict.UNKNOWN if self.in_doubt else Verdict.CONFLICT


def version_of(etag: str, metadata: Mapping[str, str]) -> Version:
    """The version of an object with this etag and metadata, its own entry in its lineage first.

    Lineage entries are kept up to the first malformed one.
    """
    write_id = metadata.get(WRITE_ID, "")
    own = _entry(write_id if _OUR_ID.fullmatch(write_id) else _UNKNOWN, etag)
    before = takewhile(_ENTRY.fullmatch, metadata.get(LINEAGE, "").split())
    return Version(etag, " ".join([own, *before]))


def _entry(write_id: str, etag: str) -> str:
    if not _MD5.fullmatch(etag):
        return f"{write_id}={etag}"
    return f"{write_id}:{base64.urlsafe_b64encode(bytes.fromhex(etag)).decode()[:22]}"


def _etag_in(entry: str) -> str:
    """The etag in an entry with an id of ours."""
    separator, etag = entry[12], entry[13:]
    return etag if separator == "=" else base64.urlsafe_b64decode(f"{etag}==").hex()


def _is_replaced(entries: list[str], place: int, version: str) -> bool:
    """Whether an entry of a lineage shows that a version was replaced, by the one before it."""
    entry = entries[place]
    if not _is_same_version(entry, version):
        return False
    if _OUR_ID.match(version):
        # Without the id it is a copy: somebody has restored the bytes of our version.
        return _OUR_ID.match(entry) is not None
    # At the end of a lineage is a write without condition, each try of which has the same etag. A
    # version known by its etag alone may be one of its tries, and this one another.
    return place < len(entries) - 1 or _OUR_ID.match(entry) is None


def _is_same_version(one: str, other: str) -> bool:
    """Whether two entries name the same version: by write id, or by etag where one has no id.

    Some servers give one etag with the response to a PUT and another with the response to a GET.
    """
    (id_of_one, etag_of_one), (id_of_other, etag_of_other) = map(_split, (one, other))
    if id_of_one and id_of_other:
        return id_of_one == id_of_other
    return etag_of_one == etag_of_other


def _split(entry: str) -> tuple[str, str]:
    """The write id in an entry, `""` where there is none of ours, and the rest."""
    return (entry[:12], entry[12:]) if _OUR_ID.match(entry) else ("", entry[1:])


def _new_id() -> str:
    """12 characters: the time in seconds, which tells its age, and 40 random bits."""
    seconds = int(time.time()).to_bytes(4, "big")
    return base64.urlsafe_b64encode(seconds + secrets.token_bytes(5)).decode()


def _is_recent(entry: str) -> bool:
    if not _OUR_ID.match(entry):
        return True
    made = int.from_bytes(base64.urlsafe_b64decode(entry[:12])[:4], "big")
    return abs(time.time() - made) < _REMEMBERED
