"""Read transcripts: list their parts, leave out what a compaction has replaced, read the rest.

A compaction writes its record first, then the new part, then deletes the parts that it replaces.
So where the new part is listed, the replaced ones that still are there are left out. The record is
read after the listing and before the parts: if another compaction has overwritten it, the parts
that the earlier one replaced are gone, and reading them fails and begins anew.
"""

from __future__ import annotations

import logging
from contextlib import aclosing, suppress
from functools import partial
from typing import Final

import msgspec

from snapstore.encoding.documents import decode_document, encode_json
from snapstore.errors import SnapshotDecodeError, StorageUnavailableError, shown
from snapstore.integrations.claude.entries import (
    MAX_PART_BYTES,
    Entry,
    decode_part,
    without_repeated,
)
from snapstore.integrations.claude.layout import Transcript, is_part, name_of
from snapstore.storage.overlap import overlap
from snapstore.stores.base import StoredObject, Version
from snapstore.stores.managed import ManagedStore

__all__ = [
    "CompactionRecord",
    "get_part",
    "list_parts",
    "read_entries",
    "read_record",
    "read_transcript",
    "without_replaced",
]

logger: Final = logging.getLogger("snapstore")

_MAX_RECORD_BYTES: Final = 2**26
_ATTEMPTS: Final = 10


class CompactionRecord(msgspec.Struct, frozen=True):
    """What a compaction replaces by what.

    Args:
        part: The key of the new part, without what all keys of the session begin with.
        replaces: The keys of the parts that it replaces, likewise.
    """

    part: str
    replaces: list[str]

    def encode(self) -> bytes:
        """The record as JSON."""
        return encode_json({"part": self.part, "replaces": self.replaces})


async def list_parts(
    store: ManagedStore, transcript: Transcript, *, after: str | None = None
) -> list[str]:
    """List the parts of a transcript.

    Args:
        store: Where they are.
        transcript: The transcript.
        after: Only those whose name comes after this text.

    Returns:
        Their keys, in the order of their names.
    """
    keys: list[str] = []
    for directory in filter(None, (transcript.directory, transcript.nested)):
        prefix = f"{directory}part-"
        start_after = None if after is None else directory + after
        async with aclosing(store.scan(prefix, start_after=start_after)) as pages:
            async for page in pages:
                keys += [key for key in page if "/" not in key[len(prefix) :] and is_part(key)]
    return sorted(keys, key=lambda key: (name_of(key), key))


async def read_record(
    store: ManagedStore, transcript: Transcript
) -> tuple[CompactionRecord | None, Version | None]:
    """Read the record of the last compaction, and its version; `None` where there is none.

    Raises:
        SnapshotDecodeError: It is damaged.
    """
    key = transcript.compaction
    stored = await store.get(key, max_bytes=_MAX_RECORD_BYTES)
    if stored is None:
        return None, None
    document = decode_document(stored.data, key, "record of a compaction")
    record = None
    with suppress(msgspec.ValidationError):
        record = msgspec.convert(document, CompactionRecord)
    if record is None or not record.replaces:
        raise SnapshotDecodeError(f"{key} is not a record of a compaction", key=key)
    return record, stored.version


def without_replaced(
    keys: list[str], record: CompactionRecord | None, transcript: Transcript
) -> list[str]:
    """The keys without those that a compaction has replaced."""
    if record is None or transcript.session + record.part not in keys:
        return keys
    replaced = {transcript.session + key for key in record.replaces}
    return [key for key in keys if key not in replaced]


async def get_part(store: ManagedStore, key: str) -> StoredObject | None:
    """Read a part as it is stored; `None` if it was deleted."""
    return await store.get(key, max_bytes=MAX_PART_BYTES)


async def read_entries(store: ManagedStore, keys: list[str]) -> list[list[Entry]] | None:
    """Read parts, many at a time.

    Returns:
        The entries of each part; `None` if one was deleted since it was listed.

    Raises:
        SnapshotDecodeError: One is damaged.
    """
    parts: list[list[Entry]] = []
    for key, stored in zip(keys, await overlap(keys, partial(get_part, store)), strict=True):
        if stored is None:
            return None
        parts.append(decode_part(stored.data, key))
    return parts


async def read_transcript(
    store: ManagedStore, transcript: Transcript
) -> tuple[list[Entry], str] | None:
    """Read a transcript.

    Returns:
        Its entries, and the name of its newest part; `None` if it has no part.

    Raises:
        SnapshotDecodeError: A part or the record is damaged.
        StorageUnavailableError: Parts were deleted each time before they were read.
    """
    for _ in range(_ATTEMPTS):
        keys = await list_parts(store, transcript)
        if not keys:
            return None
        if len(keys) > 1:
            record, _version = await read_record(store, transcript)
            keys = without_replaced(keys, record, transcript)
        parts = await read_entries(store, keys)
        if parts is not None:
            return without_repeated(parts), name_of(keys[-1])
        logger.debug("parts of %s were deleted while they were read", shown(transcript.directory))
    raise StorageUnavailableError(
        f"the transcript {transcript.directory} could not be read: parts were deleted or compacted "
        f"{_ATTEMPTS} times while it was read",
        operation="get",
        bucket=store.name,
        key=transcript.directory,
    )
