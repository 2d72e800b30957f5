"""The records of conversations, each an object that is written only over the version that was read.

Beside each record is a *marker*, an empty object by which the conversations of a scope are listed.
It is only ever missing for a moment: who creates a conversation writes it before the record and
once more after it, and who deletes one looks after that whether it was created anew.

A deleted record is emptied on the condition first, since few servers have one for deletes. Before
that, what it reached is noted, so that a fork which is made meanwhile keeps its entries until the
next collection of garbage finds it.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable
from contextlib import aclosing, suppress
from typing import Final, NamedTuple

import msgspec
from pydantic import TypeAdapter, ValidationError
from pydantic_ai.conversation_store import ConversationRecord

from snapstore.encoding.documents import decode_document, encode_document
from snapstore.errors import SnapshotDecodeError, StorageError
from snapstore.integrations.adapter import delete_keys
from snapstore.integrations.pydantic_ai.serializing import to_json
from snapstore.integrations.segments import to_segment
from snapstore.model.ids import new_snapshot_id
from snapstore.storage.overlap import overlap
from snapstore.stores.base import PreconditionFailedError, Version
from snapstore.stores.capabilities import ConditionalDeleteStore, capability
from snapstore.stores.managed import ManagedStore

__all__ = ["DeletedRecord", "Records", "StoredRecord", "encode_record", "ends_of"]

logger: Final = logging.getLogger("snapstore")

_MAX_BYTES: Final = 64 * 2**20
_EMPTY: Final = b"{}"
"""What markers have, and what is in the place of a deleted record."""

_NO_SCOPE: Final = "~none"
"""No segment of a text has this name."""

_RECORD: Final = TypeAdapter(ConversationRecord)


class StoredRecord(NamedTuple):
    """A record as it is stored; without one, the version of what is in its place, if anything."""

    record: ConversationRecord | None
    version: Version | None

    @property
    def revision(self) -> str | None:
        """The revision; `None` if there is no record."""
        return None if self.record is None else self.record.revision


class DeletedRecord(msgspec.Struct, frozen=True):
    """What a deleted record reached.

    Attributes:
        entries: The last entries of its history and its branches.
    """

    entries: list[str]


def encode_record(record: ConversationRecord) -> bytes:
    """The record as it is stored.

    Raises:
        SnapshotEncodeError: It holds what JSON can't carry, or is too large.
    """
    return encode_document(to_json(_RECORD, record, "the record"), _MAX_BYTES)


def ends_of(record: ConversationRecord) -> tuple[str, ...]:
    """The last entries of the history and the branches of a conversation."""
    ends = (record.head_id, *record.branches)
    return tuple(dict.fromkeys(entry_id for entry_id in ends if entry_id is not None))


class Records:
    """The records under a prefix.

    Args:
        store: Where they are.
        base: What all keys of the adapter begin with.

    Attributes:
        prefix: What their keys begin with.
        deleted: What the keys of the notes of deleted ones begin with.
    """

    def __init__(self, store: ManagedStore, base: str) -> None:
        self._store = store
        self._base = base
        self.prefix: str = f"{base}records/"
        self.deleted: str = f"{base}deleted/"

    async def read(self, conversation_id: str) -> StoredRecord:
        """Read the record of a conversation."""
        return await self.read_at(self._key_of(conversation_id))

    async def read_at(self, key: str) -> StoredRecord:
        """Read the record under a key.

        Raises:
            SnapshotDecodeError: There is something else.
        """
        stored = await self._store.get(key, max_bytes=_MAX_BYTES)
        if stored is None:
            return StoredRecord(None, None)
        if stored.data == _EMPTY:
            return StoredRecord(None, stored.version)
        document = decode_document(stored.data, key, "record of a conversation")
        with suppress(ValidationError):
            return StoredRecord(_RECORD.validate_python(document), stored.version)
        # Without the cause, which shows what is stored.
        raise SnapshotDecodeError(f"{key} is not the record of a conversation", key=key)

    async def read_all(self, scope: str | None) -> list[ConversationRecord]:
        """Read all records, or those of a scope."""
        prefix = self.prefix if scope is None else self._scope_prefix(scope)
        keys: list[str] = []
        async with aclosing(self._store.scan(prefix)) as pages:
            async for page in pages:
                keys += [self.prefix + key.removeprefix(prefix) for key in page]
        found = [stored.record for stored in await overlap(keys, self.read_at)]
        return [one for one in found if one is not None and scope in (None, one.scope)]

    async def mark(self, record: ConversationRecord) -> None:
        """Write the marker of a conversation."""
        await self._store.put(self._marker_of(record), _EMPTY)

    async def write(self, record: ConversationRecord, data: bytes, over: StoredRecord) -> None:
        """Write a record.

        Args:
            record: The record.
            data: The record as it is stored.
            over: What was read before.

        Raises:
            PreconditionFailedError: Another writer came first; nothing was changed.
            StorageError: It was not written; if its `outcome` is unknown, nothing tells.
        """
        is_new = over.record is None or over.record.scope != record.scope
        if is_new:
            await self.mark(record)
        await self._put(record, data, over.version)
        if is_new:
            await self._tidy(self.mark(record))

    async def _put(self, record: ConversationRecord, data: bytes, over: Version | None) -> None:
        key = self._key_of(record.conversation_id)
        try:
            await self._store.put(key, data, if_match=over, if_none_match=over is None)
        except StorageError as error:
            # No two records have one revision. Another one tells nothing: it may be a later one.
            now = await self._read_after(key, error)
            if now is None or now.revision != record.revision:
                raise

    async def _read_after(self, key: str, failure: StorageError) -> StoredRecord | None:
        """What is there after a write that failed; `None` if nothing can tell."""
        if failure.outcome == "not applied":
            return None
        with suppress(StorageError, SnapshotDecodeError):
            return await self.read_at(key)
        return None

    async def delete(self, record: ConversationRecord, version: Version) -> None:
        """Delete a record.

        Raises:
            PreconditionFailedError: It was changed since it was read.
            StorageError: It was not deleted; if its `outcome` is unknown, nothing tells.
        """
        note = encode_document(msgspec.to_builtins(DeletedRecord([*ends_of(record)])), _MAX_BYTES)
        await self._store.put(f"{self.deleted}{new_snapshot_id()}.json", note, if_none_match=True)
        key = self._key_of(record.conversation_id)
        emptied: Version | None
        try:
            emptied = await self._store.put(key, _EMPTY, if_match=version)
        except StorageError as error:
            now = await self._read_after(key, error)
            if now is None or now.record is not None:
                raise
            emptied = now.version
        await self._tidy(self._remove(record, key, emptied))

    async def _remove(self, record: ConversationRecord, key: str, version: Version | None) -> None:
        """Remove the marker and the emptied record, unless the conversation was created anew."""
        await delete_keys(self._store, [self._marker_of(record)])
        deleting = capability(self._store, ConditionalDeleteStore)
        scratch = f"{self._base}check-{new_snapshot_id()}.json"
        if (
            version is not None
            and deleting is not None
            and await deleting.has_conditional_deletes(scratch)
        ):
            with suppress(PreconditionFailedError):
                await deleting.delete_if_match(key, version)
        now = (await self.read_at(key)).record
        if now is not None:
            await self.mark(now)

    async def _tidy(self, work: Awaitable[None]) -> None:
        """Do what is left to do after a change; to fail at it says nothing of the change."""
        try:
            await work
        except StorageError as error:
            logger.warning("a conversation was changed, but not all that goes with it: %s", error)

    async def read_deleted(self, key: str) -> DeletedRecord | None:
        """Read what a deleted record reached.

        Raises:
            SnapshotDecodeError: There is something else.
        """
        stored = await self._store.get(key, max_bytes=_MAX_BYTES)
        if stored is None:
            return None
        document = decode_document(stored.data, key, "note of a deleted conversation")
        with suppress(msgspec.ValidationError):
            return msgspec.convert(document, DeletedRecord)
        raise SnapshotDecodeError(f"{key} is not the note of a deleted conversation", key=key)

    def _key_of(self, conversation_id: str) -> str:
        return f"{self.prefix}{to_segment(conversation_id, 'conversation_id')}.json"

    def _marker_of(self, record: ConversationRecord) -> str:
        name = to_segment(record.conversation_id, "conversation_id")
        return f"{self._scope_prefix(record.scope)}{name}.json"

    def _scope_prefix(self, scope: str | None) -> str:
        name = _NO_SCOPE if scope is None else to_segment(scope, "scope")
        return f"{self._base}by-scope/{name}/"
