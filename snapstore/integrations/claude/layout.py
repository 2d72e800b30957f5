"""Where transcripts lie: the layout of the reference adapter for TypeScript.

::

    <prefix><project>/<session>/part-<milliseconds>-<suffix>.jsonl             the main transcript
    <prefix><project>/<session>/<subpath>/part-<milliseconds>-<suffix>.jsonl   one of a subagent
    <prefix>@snapstore/summaries/<project>/<session>.json
    <prefix>@snapstore/compactions/<project>/<session>/transcript.json
    <prefix>@snapstore/compactions/<project>/<session>/subpaths/<subpath>.json

Each id is one segment, percent-encoded as by `encodeURIComponent` (ECMA-262, section 19.2.6.4); in
what is our own, under `@snapstore`, a segment as `to_segment` makes it. No project has the segment
`@snapstore`, since that would be `%40snapstore`. The reference adapter for Python writes ids as
they are, so that the `/` of a subpath makes directories: those are read, too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple
from urllib.parse import quote, unquote

from snapstore.errors import InvalidIdentifierError
from snapstore.integrations.segments import to_segment
from snapstore.model.keys import MAX_KEY_BYTES

__all__ = [
    "LONGEST",
    "Layout",
    "Transcript",
    "decode_segment",
    "is_part",
    "milliseconds_of",
    "name_of",
    "name_within",
    "part_name",
]

LONGEST: Final = 512
"""Bytes that keys have at least, after the prefix: the SDK's ids need about 400."""

_UNRESERVED: Final = "-_.!~*'()"
"""What `encodeURIComponent` leaves as it is, beside letters and digits."""

_OWN: Final = "@snapstore/"
_PART = re.compile(r"part-([0-9]{13})-[^/]+\.jsonl", re.ASCII)
_EXACT_PART = re.compile(r"part-([0-9]{13})-([0-9a-f]{6})\.jsonl", re.ASCII)
_LONGEST_PART: Final = len("part-0000000000000-000000.jsonl")
_SUFFIXES: Final = 16**6


class Transcript(NamedTuple):
    """Where one transcript lies.

    Attributes:
        session: What all keys of its session begin with.
        directory: What the keys of its parts begin with, when we write them.
        nested: What they begin with where the adapter for Python wrote them; `None` if that is
            the same, or could be another transcript.
        compaction: The key of the record of its compaction.
        summary: The key of the summary of its session; `None` for a subpath.
    """

    session: str
    directory: str
    nested: str | None
    compaction: str
    summary: str | None


class Layout:
    """The keys of a store of transcripts.

    Args:
        base: What all keys begin with: `""`, or the prefix and its `/`.
    """

    def __init__(self, base: str) -> None:
        self._base = base

    def transcript(self, key: Mapping[str, Any]) -> Transcript:
        """Where a transcript lies.

        Args:
            key: The SDK's `SessionKey`.

        Raises:
            InvalidIdentifierError: An id is no text, or empty, or can't be part of a key, or is
                too long.
        """
        project, session = _segment(key, "project_key"), _segment(key, "session_id")
        directory = f"{self._base}{project}/{session}/"
        records = self.compactions(key)
        if key.get("subpath") is None:
            summary = f"{self.summaries(key['project_key'])}{_own_segment(key, 'session_id')}.json"
            found = Transcript(directory, directory, None, f"{records}transcript.json", summary)
        else:
            subpath = _segment(key, "subpath")
            nested = f"{directory}{key['subpath']}/" if _is_nested(key["subpath"]) else None
            record = f"{records}subpaths/{_own_segment(key, 'subpath')}.json"
            found = Transcript(directory, f"{directory}{subpath}/", nested, record, None)
        longest = max(len(found.directory) + _LONGEST_PART, len(found.compaction))
        longest += len(self._base.encode()) - len(self._base)
        if longest > MAX_KEY_BYTES:
            raise InvalidIdentifierError(
                f"project_key, session_id and subpath are too long: a key would have {longest:,} "
                f"bytes, where {MAX_KEY_BYTES:,} are allowed"
            )
        return found

    def project(self, project_key: str) -> str:
        """What the keys of all transcripts of a project begin with."""
        return f"{self._base}{_segment({'project_key': project_key}, 'project_key')}/"

    def summaries(self, project_key: str) -> str:
        """What the keys of all summaries of a project begin with."""
        project = _own_segment({"project_key": project_key}, "project_key")
        return f"{self._base}{_OWN}summaries/{project}/"

    def compactions(self, key: Mapping[str, Any]) -> str:
        """What the keys of all records of compactions of a session begin with."""
        project, session = _own_segment(key, "project_key"), _own_segment(key, "session_id")
        return f"{self._base}{_OWN}compactions/{project}/{session}/"


def decode_segment(segment: str) -> str | None:
    """The id that a segment was made of, by us or a reference adapter; `None` if there is none."""
    try:
        text = unquote(segment, errors="strict")
    except UnicodeDecodeError:
        return None
    return text or None


def part_name(milliseconds: int, suffix: int) -> str:
    """The name of a part.

    Args:
        milliseconds: Since the epoch.
        suffix: Keeps parts of several writers apart; less than 16**6.
    """
    return f"part-{milliseconds:013d}-{suffix:06x}.jsonl"


def name_of(key: str) -> str:
    """The name of the part that a key is of. Parts are in the order of their names."""
    return key.rpartition("/")[2]


def is_part(key: str) -> bool:
    """Whether a key is that of a part."""
    return _PART.fullmatch(name_of(key)) is not None


def milliseconds_of(key: str) -> int:
    """When a part was written by the clock of its writer, in milliseconds since the epoch."""
    match = _PART.fullmatch(name_of(key))
    return int(match[1]) if match else 0


def name_within(key: str, following: str | None) -> str | None:
    """A name between two parts, with the time of the first one.

    Args:
        key: The first one.
        following: The part that comes next; `None` if there is none.

    Returns:
        The name; `None` if there is none in between, or the first one is named in another way.
    """
    match = _EXACT_PART.fullmatch(name_of(key))
    if match is None or int(match[2], 16) + 1 == _SUFFIXES:
        return None
    name = part_name(int(match[1]), int(match[2], 16) + 1)
    return name if following is None or name < name_of(following) else None


def _segment(key: Mapping[str, Any], name: str) -> str:
    if not isinstance(key, Mapping):
        raise InvalidIdentifierError(f"the key must be a dict, not a {type(key).__name__}")
    text = key.get(name)
    if not isinstance(text, str):
        raise InvalidIdentifierError(f"{name} must be a str, not a {type(text).__name__}")
    if not text:
        raise InvalidIdentifierError(f"{name} must not be empty")
    try:
        segment = quote(text, safe=_UNRESERVED)
    except UnicodeEncodeError:
        raise InvalidIdentifierError(f"{name} can't be written in UTF-8") from None
    # As a segment of a path they would be another directory.
    return segment.replace(".", "%2E") if segment in {".", ".."} else segment


def _own_segment(key: Mapping[str, Any], name: str) -> str:
    """A segment that a file can have as its name, with an ending: the layout gives none for it."""
    _segment(key, name)
    return to_segment(key[name], name)


def _is_nested(subpath: str) -> bool:
    """Whether a subpath as it is makes directories that no other subpath is encoded to."""
    segments = subpath.split("/")
    return len(segments) > 1 and all(
        segment not in {"", ".", ".."} and quote(segment, safe=_UNRESERVED) == segment
        for segment in segments
    )
