"""Entries of transcripts: to the lines of a part, and back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, cast

from snapstore.encoding.documents import (
    UTF8_BOM,
    NotJSONError,
    decode_value,
    encode_document,
    raise_decode_error,
)
from snapstore.encoding.frames import drop_frames
from snapstore.errors import SnapshotEncodeError

__all__ = ["MAX_PART_BYTES", "Entry", "decode_part", "encode_part", "without_repeated"]

Entry = dict[str, Any]

MAX_PART_BYTES: Final = 2**26
"""How large a part may be, in bytes. The SDK sends about 1 MiB at a time."""

_WHAT: Final = "part of a transcript"


@drop_frames
def encode_part(entries: Sequence[Any]) -> bytes:
    """Write entries as lines of JSON.

    Raises:
        SnapshotEncodeError: One is no dict, or holds what JSON can't carry exactly, or all are too
            large. The message has the path, never the value.
    """
    lines: list[bytes] = []
    for number, entry in enumerate(entries):
        if type(entry) is not dict:
            raise SnapshotEncodeError(
                f"entries[{number}] must be a dict, not a {type(entry).__name__}"
            )
        problem = ""
        try:
            lines.append(encode_document(cast("Entry", entry), MAX_PART_BYTES))
        except SnapshotEncodeError as error:
            problem = str(error)
        if problem:
            raise SnapshotEncodeError(f"entries[{number}]: {problem}")
    data = b"\n".join([*lines, b""])
    if len(data) > MAX_PART_BYTES:
        raise SnapshotEncodeError(
            f"entries: too large: {len(data):,} bytes of JSON, where {MAX_PART_BYTES:,} are allowed"
        )
    return data


@drop_frames
def decode_part(data: bytes, key: str) -> list[Entry]:
    """Read the entries of a part.

    Args:
        data: The stored bytes.
        key: Where they were stored, for the error.

    Raises:
        SnapshotDecodeError: A line is not a JSON object in UTF-8, or there is no line.
    """
    entries: list[Entry] = []
    for number, line in enumerate(data.removeprefix(UTF8_BOM).split(b"\n"), 1):
        text = line.strip()
        if not text:
            continue
        entry, problem = None, ""
        try:
            entry = decode_value(text)
        except NotJSONError as error:
            problem = str(error)
        if not problem and type(entry) is not dict:
            problem = "it is not a JSON object"
        if problem:
            raise_decode_error(key, _WHAT, f"line {number}: {problem}")
        entries.append(cast("Entry", entry))
    if not entries:
        raise_decode_error(key, _WHAT, "it has no line")
    return entries


def without_repeated(parts: Iterable[list[Entry]]) -> list[Entry]:
    """The entries of a transcript: of those with the same uuid, the first one."""
    seen: set[str] = set()
    entries: list[Entry] = []
    for part in parts:
        for entry in part:
            uuid = entry.get("uuid")
            if isinstance(uuid, str):
                if uuid in seen:
                    continue
                seen.add(uuid)
            entries.append(entry)
    return entries
