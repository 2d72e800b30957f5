"""What operations tell of each object or session: as structs, and as lines of JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Literal

import msgspec

__all__ = [
    "ArchiveEvent",
    "ArchiveResult",
    "CopyEvent",
    "DeleteEvent",
    "Event",
    "PackEvent",
    "SessionEvent",
    "UnarchiveEvent",
    "decode_events",
    "encode_event",
]


class DeleteEvent(msgspec.Struct, frozen=True, kw_only=True, tag="delete", omit_defaults=True):
    """A snapshot in history that a policy, or a caller, does not keep.

    Attributes:
        key: The full key.
        result: `"planned"` in a dry run; `"deleted"`; `"failed"`, with the server's code;
            `"changed"` where a plan was applied and another object was found under the key;
            `"missing"` where there was none any more.
        size: Its bytes; `None` where the store's listings don't tell.
        etag: Its etag; `None` where the store's listings don't tell.
        modified: When it was written; `None` where the store's listings don't tell.
        code: Why it failed.
    """

    key: str
    result: Literal["planned", "deleted", "failed", "changed", "missing"]
    size: int | None = None
    etag: str | None = None
    modified: datetime | None = None
    code: str | None = None


class SessionEvent(msgspec.Struct, frozen=True, kw_only=True, tag="session", omit_defaults=True):
    """A session that was not updated for long.

    Attributes:
        session_id: The session.
        result: `"planned"` in a dry run; `"removed"`; `"kept"` where it was updated meanwhile;
            `"partly"` where it was updated after most of it was removed: what has come stays;
            `"changed"` where a plan was applied and the session is no longer what it says;
            `"failed"` where some objects could not be deleted, with the server's code.
        updated_at: When it was updated for the last time; `None` if there is nothing of it.
        objects: How many objects it has.
        size: Their bytes.
        fingerprint: A hash of their keys and versions.
        code: Why it failed.
    """

    session_id: str
    result: Literal["planned", "removed", "partly", "kept", "changed", "failed"]
    updated_at: datetime | None
    objects: int
    size: int
    fingerprint: str
    code: str | None = None


ArchiveResult = Literal["planned", "archived", "changed", "missing", "conflict", "busy", "failed"]
"""What became of a snapshot that was to be archived: see `ArchiveEvent`."""


class ArchiveEvent(msgspec.Struct, frozen=True, kw_only=True, tag="archive", omit_defaults=True):
    """A snapshot in history that is moved into a pack.

    Attributes:
        key: Its full key in history.
        result: What became of it:

            - `"planned"` in a dry run;
            - `"archived"`: a pack has it, and it is no longer in history;
            - `"changed"`: it was changed meanwhile, or is not as the plan that was applied says. It
              is still in history;
            - `"missing"`: it was deleted meanwhile. Where `pack` is given, it is in that pack;
            - `"conflict"`: a pack has another snapshot under its id. Both stay;
            - `"busy"`: another operation is at work on its pack. A later run archives it, if it is
              still in history then;
            - `"failed"`: see `code`.

        pack: The full key of the pack that has it.
        size: Its bytes; `None` where that is not known.
        etag: Its etag; `None` where the store's listings don't tell.
        modified: When it was written; `None` where the store's listings don't tell.
        code: Why it failed: `"TooLarge"`, or the server's code.
    """

    key: str
    result: ArchiveResult
    pack: str | None = None
    size: int | None = None
    etag: str | None = None
    modified: datetime | None = None
    code: str | None = None


class UnarchiveEvent(
    msgspec.Struct, frozen=True, kw_only=True, tag="unarchive", omit_defaults=True
):
    """A snapshot in a pack that is written to history again.

    Attributes:
        key: Its full key in history.
        pack: The full key of the pack that has it.
        result: `"planned"` in a dry run; `"restored"`; `"present"` where history has it already,
            byte for byte; `"conflict"` where history has another one under its id, which stays;
            `"missing"` where a plan was applied and the pack is gone, or does not have it.
        size: Its bytes; `None` where it was not read.
    """

    key: str
    pack: str
    result: Literal["planned", "restored", "present", "conflict", "missing"]
    size: int | None = None


class PackEvent(msgspec.Struct, frozen=True, kw_only=True, tag="pack", omit_defaults=True):
    """A pack that is not needed any more.

    Attributes:
        key: Its full key.
        result: `"planned"` in a dry run; `"deleted"`; `"kept"` where a plan was applied and history
            no longer has every snapshot of it, or the pack is gone; `"busy"` where another
            operation is at work on it, or took it over less than an hour ago; `"damaged"` where it
            can't be read: it stays.
        reason: `"restored"`: history has every snapshot of it, byte for byte; `"policy"`: the
            policy keeps none of them.
        documents: How many snapshots it has.
    """

    key: str
    result: Literal["planned", "deleted", "kept", "busy", "damaged"]
    reason: Literal["restored", "policy"] | None = None
    documents: int = 0


class CopyEvent(msgspec.Struct, frozen=True, kw_only=True, tag="copy", omit_defaults=True):
    """An object that the target of a copy or an import does not have as the source has it.

    Attributes:
        session_id: The session at the source.
        key: The full key at the source; of an import, the name in the file; of a message log, the
            key at the target, or of a document that can't be imported.
        result: What became of it:

            - `"planned"` in a dry run: it would be written;
            - `"copied"`: there was no object under its key at the target;
            - `"replaced"`: it was written over another object, as `on_conflict="overwrite"` asks;
            - `"conflict"`: another object is there, and was not touched;
            - `"held"`: a latest snapshot that was not written, since its history at the target is
              not whole: an event before this one says why;
            - `"missing"`: the source does not have it any more; or, where `key` ends with `/`, a
              session that does not exist;
            - `"changed"`: the source or the target is not as the plan that was applied says; or
              history was deleted at the source meanwhile, and its latest is a newer one by now;
            - `"failed"`: it can't be copied, see `code`.

        size: Its bytes; `None` where that is not known.
        etag: Its etag at the source; `None` where that is not known.
        replaces: In a dry run, the etag of the object that it would replace at the target.
        code: Why it failed: `"TooLarge"`, `"InvalidKey"` where the target can't have such a key,
            `"InvalidIdentifier"` and `"InvalidDocument"` in a message log, or the server's code.
    """

    session_id: str
    key: str
    result: Literal[
        "planned", "copied", "replaced", "conflict", "held", "missing", "changed", "failed"
    ]
    size: int | None = None
    etag: str | None = None
    replaces: str | None = None
    code: str | None = None


Event = DeleteEvent | SessionEvent | CopyEvent | ArchiveEvent | UnarchiveEvent | PackEvent
"""An event of any operation that can be applied later."""


def encode_event(event: Event) -> bytes:
    """An event as a line of JSON."""
    try:
        return msgspec.json.encode(event) + b"\n"
    except UnicodeEncodeError:  # the name of a foreign file need not be UTF-8
        return json.dumps(msgspec.to_builtins(event)).encode() + b"\n"


def decode_events(lines: Iterable[str | bytes]) -> Iterator[Event]:
    """Read events from lines of JSON, such as an open file.

    Args:
        lines: The lines. Empty ones are left out.

    Raises:
        ValueError: A line is no event.
    """
    decoder: msgspec.json.Decoder[Event] = msgspec.json.Decoder(Event)
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        event: Event | None
        try:
            event = decoder.decode(line)
        except (msgspec.DecodeError, UnicodeError):
            event = _decode_half_surrogates(line)
        if event is None:
            raise ValueError(f"line {number} is no event of an operation")
        yield event


def _decode_half_surrogates(line: str | bytes) -> Event | None:
    """Decode an event that has what `encode_event` has escaped; `None` if it is none."""
    try:
        event: Event = msgspec.convert(json.loads(line), type=Event)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    return event
