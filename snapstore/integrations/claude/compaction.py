"""Compact a transcript: write many parts as few, and delete the many.

For each group of parts that follow each other:

1. The record is written: the name of the new part, and the names of those it replaces.
2. The new part is created, with their lines in their order, and read back. If the record is gone
   by then, the transcript was deleted, and so is the new part.
3. They are deleted.

Readers of this package leave the replaced parts out as soon as the new one is there, so a
compaction that is cut off anywhere loses and repeats nothing. The next one finishes what the record
says, also while the first is at work: each step does the same again. The record stays, for a slow
writer that brings a replaced part back.

The new part has the time of the last one that it replaces, and comes right after it: a listing that
lacks a replaced part has the new one, and no other part changes its place. The record is an object,
since the metadata of an object in S3 has room for 2 KB, some 60 names, and files have none.
"""

from __future__ import annotations

import math
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, suppress
from functools import partial
from typing import Final, NamedTuple

from snapstore.errors import OutcomeUnknownError, StorageUnavailableError
from snapstore.integrations.adapter import delete_keys
from snapstore.integrations.claude.entries import decode_part
from snapstore.integrations.claude.layout import Transcript, milliseconds_of, name_within
from snapstore.integrations.claude.parts import (
    CompactionRecord,
    get_part,
    list_parts,
    read_record,
    without_replaced,
)
from snapstore.storage.overlap import overlap
from snapstore.stores.base import PreconditionFailedError, Version
from snapstore.stores.managed import ManagedStore

__all__ = ["CompactedTranscript", "compact"]

TARGET_BYTES: Final = 2**23
"""How large a part that a compaction writes may be, in bytes: it is read in one request."""

_AT_ONCE: Final = 64
_NEWLINE: Final = b"\n"


class CompactedTranscript(NamedTuple):
    """How many parts a transcript had, and has.

    Attributes:
        before: Parts before the compaction, without those that were replaced already.
        after: Parts after it.
    """

    before: int
    after: int


class _Group(NamedTuple):
    """Parts that follow each other, the new part's name, and its body."""

    keys: list[str]
    name: str
    body: bytes


async def compact(
    store: ManagedStore, transcript: Transcript, *, grace: float
) -> CompactedTranscript:
    """Compact a transcript.

    Args:
        store: Where it is.
        transcript: The transcript.
        grace: Parts of the last so many seconds are left alone; 0 for none.

    Raises:
        SnapshotDecodeError: A part or the record is damaged; it is not touched.
        StorageError: A request failed, or parts were deleted or compacted by others meanwhile;
            nothing was lost.
    """
    record, version = await read_record(store, transcript)
    keys = await list_parts(store, transcript)
    if record is not None:
        await _finish(store, transcript, record, keys)
        keys = await list_parts(store, transcript)
        keys = without_replaced(keys, record, transcript)
    before = after = len(keys)
    async with aclosing(_groups(store, keys, _last_before(grace))) as groups:
        async for group in groups:
            version = await _replace(store, transcript, group, version)
            after -= len(group.keys) - 1
    return CompactedTranscript(before, after)


async def _finish(
    store: ManagedStore, transcript: Transcript, record: CompactionRecord, keys: list[str]
) -> None:
    """Finish a compaction that was cut off, or is under way."""
    listed = set(keys)
    left = [key for name in record.replaces if (key := transcript.session + name) in listed]
    new = transcript.session + record.part
    if len(left) == len(record.replaces):
        body = await _read(store, left)
        if body is None:
            raise _changed(store, new)
        await _create(store, transcript, new, body)
    elif new not in listed:
        return  # the transcript was deleted
    await delete_keys(store, left)


async def _groups(
    store: ManagedStore, keys: list[str], last: float
) -> AsyncGenerator[_Group, None]:
    """Find parts that follow each other and make one together."""
    group: list[str] = []
    bodies: list[bytes] = []
    size = 0
    for start in range(0, len(keys), _AT_ONCE):
        window = keys[start : start + _AT_ONCE]
        stored = await overlap(window, partial(get_part, store))
        for key, part in zip(window, stored, strict=True):
            if part is None:
                raise _changed(store, key)
            lines = _lines(part.data, key)
            is_left = milliseconds_of(key) > last or len(lines) > TARGET_BYTES // 2
            if is_left or size + len(lines) > TARGET_BYTES:
                if made := _group(group, bodies, key):
                    yield made
                group, bodies, size = [], [], 0
            if not is_left:
                group.append(key)
                bodies.append(lines)
                size += len(lines)
    if made := _group(group, bodies, None):
        yield made


def _group(keys: list[str], bodies: list[bytes], following: str | None) -> _Group | None:
    """The parts as a group, as far as there is a name for the new part."""
    while len(keys) > 1:
        name = name_within(keys[-1], following)
        if name is not None:
            return _Group(keys, name, b"".join(bodies))
        following = keys[-1]
        keys, bodies = keys[:-1], bodies[:-1]
    return None


async def _replace(
    store: ManagedStore, transcript: Transcript, group: _Group, version: Version | None
) -> Version:
    """Replace a group by one part.

    Returns:
        The version of the record.
    """
    new = transcript.directory + group.name
    session = transcript.session
    record = CompactionRecord(
        new.removeprefix(session), [key.removeprefix(session) for key in group.keys]
    )
    try:
        version = await store.put(
            transcript.compaction,
            record.encode(),
            if_match=version,
            if_none_match=version is None,
        )
    except PreconditionFailedError:
        raise _changed(store, transcript.compaction) from None
    # If the transcript was deleted before there was a record, nothing else would tell.
    if not set(group.keys) <= set(await list_parts(store, transcript)):
        raise _changed(store, transcript.directory)
    await _create(store, transcript, new, group.body)
    await delete_keys(store, group.keys)
    return version


async def _create(store: ManagedStore, transcript: Transcript, key: str, body: bytes) -> None:
    """Create a part, or find that it is there, and read it back.

    Raises:
        StorageUnavailableError: Something else is there, or the transcript was deleted.
    """
    with suppress(PreconditionFailedError, OutcomeUnknownError):  # what is read next tells
        await store.put(key, body, if_none_match=True)
    stored = await get_part(store, key)
    if stored is None or stored.data != body:
        raise _changed(store, key)
    _record, version = await read_record(store, transcript)
    if version is None:
        # Who deletes a transcript deletes the record last, and then lists what there is.
        await delete_keys(store, [key])
        raise _changed(store, key)


async def _read(store: ManagedStore, keys: Sequence[str]) -> bytes | None:
    """The lines of parts, in their order; `None` if one was deleted."""
    stored = await overlap(keys, partial(get_part, store))
    bodies: list[bytes] = []
    for key, part in zip(keys, stored, strict=True):
        if part is None:
            return None
        bodies.append(_lines(part.data, key))
    return b"".join(bodies)


def _lines(data: bytes, key: str) -> bytes:
    """The body of a part, with a line break at its end.

    Raises:
        SnapshotDecodeError: It is damaged.
    """
    decode_part(data, key)
    return data if data.endswith(_NEWLINE) else data + _NEWLINE


def _last_before(grace: float) -> float:
    """Until when a part must have been written, in milliseconds since the epoch."""
    # Names of parts that follow each other fast are ahead of the clock.
    return (time.time() - grace) * 1000 if grace else math.inf


def _changed(store: ManagedStore, key: str) -> StorageUnavailableError:
    return StorageUnavailableError(
        f"{key} was changed by others while its transcript was compacted; compact it again",
        operation="put",
        bucket=store.name,
        key=key,
        outcome="not applied",
    )
