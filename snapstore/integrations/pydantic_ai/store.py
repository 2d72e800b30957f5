"""The conversation store: Pydantic AI's `ConversationStore` over an object store."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import timedelta
from itertools import pairwise
from typing import Final

from pydantic import TypeAdapter, ValidationError
from pydantic_ai.conversation_store import (
    ConversationConflict,
    ConversationEntry,
    ConversationRecord,
    ConversationStore,
)

from snapstore.encoding.documents import check_size, encode_json
from snapstore.errors import InvalidIdentifierError, SnapshotDecodeError, StorageError
from snapstore.integrations.adapter import StoreAdapter, delete_keys
from snapstore.integrations.pydantic_ai.batches import (
    MAX_ADDED_BYTES,
    Batches,
    EntryNotFoundError,
    Found,
)
from snapstore.integrations.pydantic_ai.garbage import CollectedGarbage, collect_garbage
from snapstore.integrations.pydantic_ai.records import (
    Records,
    StoredRecord,
    encode_record,
    ends_of,
)
from snapstore.integrations.pydantic_ai.serializing import to_json
from snapstore.model.ids import validate_snapshot_id
from snapstore.stores.base import ObjectStore, PreconditionFailedError
from snapstore.stores.managed import ManagedStore

__all__ = ["SnapstoreConversationStore"]

_LONGEST: Final = 500
"""Bytes of a key after the prefix: `by-scope/`, two segments of 200, and what is between them."""

_ENTRY: Final = TypeAdapter(ConversationEntry)


class SnapstoreConversationStore(StoreAdapter, ConversationStore):
    """Conversations of Pydantic AI in an object store: its `ConversationStore`.

    It may be used from any thread and any event loop, by any number of processes at a time. It is
    opened by the first use, and closed by `async with`, `aclose` or `close`.

    A save that lost its race is a `ConversationConflict`, as the interface has it. Other errors are
    `StorageError`s, and `SnapshotDecodeError` where what is stored is no conversation.

    `delete` removes the record of a conversation at once. Its entries, which forks may share, stay
    until `collect_garbage` finds that no conversation reaches them.

    Args:
        store: `S3ObjectStore("my-bucket")` or any other object store; or a `ManagedStore` that is
            open, whose event loop and timeout it shares.
        prefix: What all keys begin with, without the closing `/`; used verbatim.
        timeout: Seconds that each request may take, its retries included; `None` for no deadline.

    Raises:
        TypeError: The store uses an S3 client that was passed in.
        ValueError: `timeout` is not positive.
        InvalidIdentifierError: The prefix can't be part of a key, or leaves no room for one.
    """

    def __init__(
        self,
        store: ObjectStore | ManagedStore,
        *,
        prefix: str = "",
        timeout: float | None = 60.0,
    ) -> None:
        super().__init__(store, prefix=prefix, timeout=timeout, longest=_LONGEST)

    async def read_record(self, conversation_id: str) -> ConversationRecord | None:
        """Read the record of a conversation; `None` if there is none. One request."""

        async def read(store: ManagedStore) -> ConversationRecord | None:
            return (await Records(store, self._base).read(conversation_id)).record

        return await self._run(read)

    async def read_records(
        self, *, scope: str | None = None, limit: int | None = None
    ) -> Sequence[ConversationRecord]:
        """Read records, those that were updated last first.

        A listing, and a request for each record of the scope, up to 100 at a time.

        Args:
            scope: Only those of this scope; `None` for all.
            limit: How many at the most; `None` for all.
        """
        found = await self._run(lambda store: Records(store, self._base).read_all(scope))
        found.sort(key=lambda record: record.updated_at, reverse=True)
        return found[:limit]

    async def write_record(
        self,
        record: ConversationRecord,
        *,
        new_entries: Sequence[ConversationEntry] = (),
        expected_revision: str | None,
    ) -> None:
        """Write a record, and the entries that it adds, over the one with a revision.

        Entries are written before the record that reaches them, and removed again if it is certain
        that the record was not written.

        Args:
            record: The record.
            new_entries: The entries, each after the one that it points at.
            expected_revision: The revision that is stored; `None` if there is no record yet.

        Raises:
            ConversationConflict: Another record is stored, or `record.head_id` does not exist.
            OutcomeUnknownError: Nothing tells whether it was written.
            SnapshotEncodeError: JSON can't carry it, or the entries have more than 32 MiB.
            ValueError: `new_entries` is no chain with ascending ids, or an id is no UUIDv7 in
                lower case.
        """
        _validate_chain(new_entries)
        _validate_ids(record.branches)
        ids = [entry.id for entry in new_entries]
        data = encode_record(record)
        added = encode_json([to_json(_ENTRY, entry, "an entry") for entry in new_entries])
        check_size(added, MAX_ADDED_BYTES)

        async def write(store: ManagedStore) -> None:
            records, batches = Records(store, self._base), Batches(store, self._base)
            stored = await records.read(record.conversation_id)
            is_conflict = stored.revision != expected_revision
            written: list[str] = []
            try:
                if not is_conflict:
                    hints = await _hints(records, record, stored)
                    if ids:
                        parent_id = new_entries[0].parent_id
                        written.append(await batches.add(ids, added, parent_id, hints))
                    if record.head_id is not None and record.head_id not in ids:
                        await batches.end_at(record.head_id, hints)
                    await records.write(record, data, stored)
            except (PreconditionFailedError, EntryNotFoundError):
                is_conflict = True
                with suppress(StorageError):  # `collect_garbage` removes what stays
                    await delete_keys(store, written)
            if is_conflict:
                raise ConversationConflict(record.conversation_id)

        await self._run(write, shield=True)

    async def delete_record(self, conversation_id: str, *, expected_revision: str) -> None:
        """Delete the record of a conversation. Its entries stay until `collect_garbage`.

        Args:
            conversation_id: The conversation.
            expected_revision: The revision that is stored.

        Raises:
            ConversationConflict: Another record is stored, or none.
        """

        async def delete(store: ManagedStore) -> None:
            records = Records(store, self._base)
            stored = await records.read(conversation_id)
            is_deleted = False
            record, version = stored
            if record and version and record.revision == expected_revision:
                with suppress(PreconditionFailedError):
                    await records.delete(record, version)
                    is_deleted = True
            if not is_deleted:
                raise ConversationConflict(conversation_id)

        await self._run(delete, shield=True)

    async def read_entry(self, entry_id: str) -> ConversationEntry:
        """Read one entry.

        Raises:
            EntryNotFoundError: There is none; it is a `LookupError`.
        """
        found = await self._run(lambda store: Batches(store, self._base).read_entry(entry_id))
        return _decode(found)

    async def read_history(
        self, head_id: str | None, *, limit: int | None = None
    ) -> list[ConversationEntry]:
        """Read the entries up to one, in order.

        A listing, a request for the last batch, and one for each other object, all at a time.

        Args:
            head_id: The last entry; `None` for no history.
            limit: Only the last so many.

        Raises:
            EntryNotFoundError: One of the entries is gone; it is a `LookupError`.
        """
        if head_id is None or limit == 0:
            return []
        found = await self._run(
            lambda store: Batches(store, self._base).read_history(head_id, limit)
        )
        return [_decode(one) for one in found]

    async def collect_garbage(
        self, *, dry_run: bool = False, grace: timedelta = timedelta(hours=24)
    ) -> CollectedGarbage:
        """Remove objects with entries that no conversation reaches, by its head or its branches.

        Those of deleted conversations, of saves that were cut off, and those whose entries lie in
        another object together. It may run beside saves.

        Args:
            dry_run: Change nothing.
            grace: How long ago they must have been written, and their conversation deleted, by the
                clocks of those who did. Longer than a save or a fork may take.

        Raises:
            ValueError: `grace` is negative.
            SnapshotDecodeError: A record or a batch is damaged; nothing was removed.
            EntryNotFoundError: A conversation has lost its history; nothing was removed.
        """
        if grace < timedelta():
            raise ValueError("grace must not be negative")
        return await self._run(
            lambda store: collect_garbage(store, self._base, dry_run=dry_run, grace=grace)
        )


async def _hints(
    records: Records, record: ConversationRecord, stored: StoredRecord
) -> tuple[str, ...]:
    """Entries from which those that a record may point at are reached."""
    source = stored.record
    if source is None and record.forked_from is not None:
        source = (await records.read(record.forked_from)).record
    return () if source is None else ends_of(source)


def _validate_ids(entry_ids: Iterable[str]) -> None:
    for entry_id in entry_ids:
        if validate_snapshot_id(entry_id, "the id of an entry") != entry_id:
            raise InvalidIdentifierError("the id of an entry must be in lower case")


def _validate_chain(entries: Sequence[ConversationEntry]) -> None:
    _validate_ids(entry.id for entry in entries)
    for before, after in pairwise(entries):
        if after.parent_id != before.id:
            raise ValueError("new_entries must be a chain: each after the one that it points at")
        if after.id <= before.id:
            raise ValueError("new_entries must have ascending ids")


def _decode(found: Found) -> ConversationEntry:
    with suppress(ValidationError):
        return _ENTRY.validate_python(found.entry)
    # Without the cause, which shows what is stored.
    raise SnapshotDecodeError(f"{found.key} has what is no entry", key=found.key)
