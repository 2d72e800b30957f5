"""Pydantic AI: a `ConversationStore` in S3, in files, or in memory.

::

    store = SnapstoreConversationStore(S3ObjectStore("my-bucket"), prefix="conversations")
    conversation = await store.load("chat-1") or Conversation(conversation_id="chat-1")
    result = await agent.run("Hello", conversation=conversation)
    await store.save(result)

A conversation's record is one object, written only over the version that was read. The entries of a
save are one object, written once: a *batch*, which knows the batches before it. So a history is
read by a listing, a request for its last batch, and then the others all at a time. After every so
many batches one more object has their entries together. See `docs/formats/pydantic-ai.md`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, suppress
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any, Final, NamedTuple

import msgspec

from snapstore.encoding.documents import decode_document, encode_document
from snapstore.errors import (
    InvalidIdentifierError,
    OutcomeUnknownError,
    SnapshotDecodeError,
    SnapstoreError,
)
from snapstore.integrations.adapter import StoreAdapter, delete_keys, together
from snapstore.integrations.segments import to_segment
from snapstore.model.ids import new_snapshot_id, snapshot_time, validate_snapshot_id
from snapstore.stores.base import ObjectStore, PreconditionFailedError, Version
from snapstore.stores.capabilities import ConditionalDeleteStore, capability
from snapstore.stores.managed import ManagedStore

try:
    from pydantic import TypeAdapter, ValidationError
    from pydantic_ai.conversation_store import (
        ConversationConflict,
        ConversationEntry,
        ConversationRecord,
        ConversationStore,
    )
except ImportError as _error:
    raise ImportError(
        "snapstore.integrations.pydantic_ai needs Pydantic AI 2.66 or newer: "
        'pip install "snapstore[pydantic-ai]"'
    ) from _error

__all__ = ["CollectedGarbage", "EntryNotFoundError", "SnapstoreConversationStore"]

_MAX_BYTES: Final = 64 * 2**20
_LONGEST: Final = 500
"""Bytes of a key after the prefix: `by-scope/`, two segments of 200, and what is between them."""
_LOOSE: Final = 16
"""So many batches in a row become one object together."""
_CLOSE: Final = timedelta(minutes=1)
"""How far apart the ids of one save can be: they are made when it is saved."""
_GATHERED: Final = "gathered-"
"""What the names of objects with the entries of several batches begin with: after all ids."""
_DELETED: Final = b"{}"
"""What is in the place of a deleted record, where the server deletes on no condition."""
_NO_SCOPE: Final = "~none"
"""No segment of a text has this name."""

_RECORD: Final = TypeAdapter(ConversationRecord)
_ENTRY: Final = TypeAdapter(ConversationEntry)


class EntryNotFoundError(SnapstoreError, LookupError):
    """There is no such entry, or not any more."""


class CollectedGarbage(msgspec.Struct, frozen=True):
    """What a collection of garbage has removed, or in a dry run would.

    Attributes:
        batches: Objects with entries that no conversation reaches.
        bytes: Their bytes; `None` where the store's listings don't tell.
        keys: Their keys.
    """

    batches: int
    bytes: int | None
    keys: tuple[str, ...]


class _Link(msgspec.Struct, frozen=True):
    """A part of a history: the first entries of an object."""

    name: str
    entries: int


class _Stored(NamedTuple):
    """A record as it is stored; without one, the version of what is in its place, if anything."""

    record: ConversationRecord | None
    version: Version | None

    @property
    def revision(self) -> str | None:
        """The revision; `None` if there is no record."""
        return None if self.record is None else self.record.revision


class _Batch(NamedTuple):
    """An object with entries.

    Attributes:
        name: Its name.
        chain: The history before it, oldest first.
        entries: Its entries, as JSON.
    """

    name: str
    chain: tuple[_Link, ...]
    entries: list[dict[str, Any]]


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
            return (await self._read_record_at(store, self._record_key(conversation_id))).record

        return await self._run(read)

    async def read_records(
        self, *, scope: str | None = None, limit: int | None = None
    ) -> Sequence[ConversationRecord]:
        """Read records, those that were updated last first.

        A listing, and a request for each record of the scope, all at a time.

        Args:
            scope: Only those of this scope; `None` for all.
            limit: How many at the most; `None` for all.
        """

        async def read(store: ManagedStore) -> list[ConversationRecord]:
            records = f"{self._base}records/"
            prefix = records if scope is None else self._scope_prefix(scope)
            keys: list[str] = []
            async with aclosing(store.scan(prefix)) as pages:
                async for page in pages:
                    keys += [records + key.removeprefix(prefix) for key in page]
            found: list[ConversationRecord] = []
            for start in range(0, len(keys), 100):
                part = keys[start : start + 100]
                read = await together(self._read_record_at(store, key) for key in part)
                found += [one.record for one in read if one.record is not None]
            found = [one for one in found if scope is None or one.scope == scope]
            found.sort(key=lambda record: record.updated_at, reverse=True)
            return found[:limit]

        return await self._run(read)

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
            ValueError: `new_entries` is no chain.
        """
        _validate_chain(new_entries)
        data = _RECORD.dump_json(record)
        entries = [_as_json(entry) for entry in new_entries]

        async def write(store: ManagedStore) -> None:
            key = self._record_key(record.conversation_id)
            stored = await self._read_record_at(store, key)
            if stored.revision != expected_revision:
                raise ConversationConflict(record.conversation_id)
            written: list[str] = []
            is_written = False
            try:
                hints = await self._hints(store, record, stored)
                if new_entries:
                    written.append(await self._write_batch(store, new_entries, entries, hints))
                if record.head_id not in (None, *(entry.id for entry in new_entries)):
                    await self._anchor(store, str(record.head_id), hints)
                if stored.record is None:
                    marker = f"{self._scope_prefix(record.scope)}{key.rpartition('/')[2]}"
                    await store.put(marker, b"{}")
                await store.put(
                    key, data, if_match=stored.version, if_none_match=stored.version is None
                )
                is_written = True
            except OutcomeUnknownError:
                now = await self._read_record_at(store, key)
                if now.revision != record.revision:
                    raise
                is_written = True
            except (PreconditionFailedError, EntryNotFoundError):
                # Certain: nothing reaches what was written for it.
                await delete_keys(store, written)
            if not is_written:
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
            key = self._record_key(conversation_id)
            stored = await self._read_record_at(store, key)
            if stored.record is None or stored.revision != expected_revision:
                raise ConversationConflict(conversation_id)
            try:
                # Emptied on the condition first, since few servers have one for deletes.
                version = await store.put(key, _DELETED, if_match=stored.version)
            except PreconditionFailedError:
                pass
            else:
                marker = f"{self._scope_prefix(stored.record.scope)}{key.rpartition('/')[2]}"
                await delete_keys(store, [marker])
                await self._remove(store, key, version)
                return
            raise ConversationConflict(conversation_id)

        await self._run(delete, shield=True)

    async def _remove(self, store: ManagedStore, key: str, version: Version) -> None:
        """Remove an emptied record, unless the conversation was created anew meanwhile."""
        deleting = capability(store, ConditionalDeleteStore)
        if deleting is not None and await deleting.has_conditional_deletes(
            f"{self._base}check-{new_snapshot_id()}.json"
        ):
            with suppress(PreconditionFailedError):
                await deleting.delete_if_match(key, version)

    async def read_entry(self, entry_id: str) -> ConversationEntry:
        """Read one entry.

        Raises:
            EntryNotFoundError: There is none; it is a `LookupError`.
        """

        async def read(store: ManagedStore) -> ConversationEntry:
            batch, place = await self._find(store, entry_id)
            if place < 0:
                link = batch.chain[-1]
                batch, place = await self._read_batch(store, link.name), link.entries - 1
            return self._entry(batch.entries[place], batch.name)

        return await self._run(read)

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

        async def read(store: ManagedStore) -> list[ConversationEntry]:
            batch, place = await self._find(store, head_id)
            own = batch.entries[: place + 1]
            missing = None if limit is None else limit - len(own)
            needed: list[_Link] = []
            for link in reversed(batch.chain):
                if missing is not None and missing <= 0:
                    break
                needed.insert(0, link)
                missing = None if missing is None else missing - link.entries
            parts = await together(self._read_batch(store, link.name) for link in needed)
            items = [
                self._entry(entry, part.name)
                for link, part in zip(needed, parts, strict=True)
                for entry in part.entries[: link.entries]
            ]
            items += [self._entry(entry, batch.name) for entry in own]
            return items if limit is None else items[-limit:]

        return await self._run(read)

    async def collect_garbage(
        self, *, dry_run: bool = False, grace: timedelta = timedelta(hours=24)
    ) -> CollectedGarbage:
        """Remove objects with entries that no conversation reaches, by its head or its branches.

        Those of deleted conversations, of saves that were cut off, and those whose entries lie in
        another object together.

        Args:
            dry_run: Change nothing.
            grace: How old they must be: entries are written before the record that reaches them.

        Raises:
            ValueError: `grace` is negative.
        """
        if grace < timedelta():
            raise ValueError("grace must not be negative")

        async def collect(store: ManagedStore) -> CollectedGarbage:
            before = datetime.now(UTC) - grace
            # Listed before the records are read: what is written meanwhile is not among them.
            keys = [key async for key in self._batch_keys(store) if _time_of(key) < before]
            reached: set[str] = set()
            async with aclosing(store.scan(f"{self._base}records/")) as pages:
                async for page in pages:
                    for key in page:
                        await self._reach(store, key, reached)
            garbage = [key for key in keys if _name_of(key) not in reached]
            if not dry_run:
                await delete_keys(store, garbage)
            return CollectedGarbage(len(garbage), None, tuple(garbage))

        return await self._run(collect)

    async def _reach(self, store: ManagedStore, key: str, reached: set[str]) -> None:
        record = (await self._read_record_at(store, key)).record
        if record is None:
            return
        hints = () if record.head_id is None else (record.head_id,)
        for entry_id in {record.head_id, *record.branches} - {None}:
            batch, _ = await self._find(store, str(entry_id), hints)
            reached |= {batch.name, *(link.name for link in batch.chain)}

    async def _read_record_at(self, store: ManagedStore, key: str) -> _Stored:
        stored = await store.get(key, max_bytes=_MAX_BYTES)
        if stored is None:
            return _Stored(None, None)
        if stored.data == _DELETED:
            return _Stored(None, stored.version)
        with suppress(ValidationError):
            return _Stored(_RECORD.validate_json(stored.data), stored.version)
        # Without the cause, which shows what is stored.
        raise SnapshotDecodeError(f"{key} is not the record of a conversation", key=key)

    async def _hints(
        self, store: ManagedStore, record: ConversationRecord, stored: _Stored
    ) -> tuple[str, ...]:
        """Entries from which those that a record may point at are reached."""
        records = [stored.record]
        if record.forked_from is not None:
            key = self._record_key(record.forked_from)
            records.append((await self._read_record_at(store, key)).record)
        heads = [
            entry_id
            for one in records
            if one is not None
            for entry_id in (one.head_id, *one.branches)
            if entry_id is not None
        ]
        return tuple(dict.fromkeys(heads))

    async def _write_batch(
        self,
        store: ManagedStore,
        new_entries: Sequence[ConversationEntry],
        entries: list[dict[str, Any]],
        hints: Sequence[str],
    ) -> str:
        """Write entries as one object; returns its key."""
        chain: tuple[_Link, ...] = ()
        parent_id = new_entries[0].parent_id
        if parent_id is not None:
            parent, place = await self._find(store, parent_id, hints)
            chain = await self._gathered(store, _chain_to(parent, place))
        name = f"{new_entries[-1].id}_{new_entries[0].id}"
        return await self._put_batch(store, _Batch(name, chain, entries))

    async def _anchor(self, store: ManagedStore, head_id: str, hints: Sequence[str]) -> None:
        """Let a history end at an entry that is not the last one of its batch.

        An empty batch with the history up to it, under its name, so that it is found at once.
        """
        batch, place = await self._find(store, head_id, hints)
        if place != len(batch.entries) - 1 or batch.name.startswith(_GATHERED):
            chain = _chain_to(batch, place)
            await self._put_batch(store, _Batch(f"{head_id}_{head_id}", chain, []))

    async def _gathered(self, store: ManagedStore, chain: tuple[_Link, ...]) -> tuple[_Link, ...]:
        """Write the last batches of a history as one object, if there are many in a row."""
        loose = 0
        while loose < len(chain) and not chain[-1 - loose].name.startswith(_GATHERED):
            loose += 1
        if loose < _LOOSE:
            return chain
        kept, loose_links = chain[:-loose], chain[-loose:]
        parts = await together(self._read_batch(store, link.name) for link in loose_links)
        entries = [
            entry
            for link, part in zip(loose_links, parts, strict=True)
            for entry in part.entries[: link.entries]
        ]
        name = f"{_GATHERED}{entries[-1]['id']}_{entries[0]['id']}"
        await self._put_batch(store, _Batch(name, kept, entries))
        return (*kept, _Link(name, len(entries)))

    async def _put_batch(self, store: ManagedStore, batch: _Batch) -> str:
        key = f"{self._base}entries/{batch.name}.json"
        chain = [{"name": link.name, "entries": link.entries} for link in batch.chain]
        data = encode_document({"chain": chain, "entries": batch.entries}, _MAX_BYTES)
        try:
            await store.put(key, data, if_none_match=True)
        except PreconditionFailedError:
            # An entry has one history: what has the same last entry and the same first one is the
            # same, and was written by another try or another writer.
            if batch.entries and not batch.name.startswith(_GATHERED):
                raise
        return key

    async def _read_batch(self, store: ManagedStore, name: str) -> _Batch:
        key = f"{self._base}entries/{name}.json"
        stored = await store.get(key, max_bytes=_MAX_BYTES)
        if stored is None:
            raise EntryNotFoundError(f"{key} does not exist")
        document = decode_document(stored.data, key, "batch of entries")
        with suppress(KeyError, msgspec.ValidationError):
            chain = msgspec.convert(document["chain"], tuple[_Link, ...])
            return _Batch(name, chain, msgspec.convert(document["entries"], list[dict[str, Any]]))
        raise SnapshotDecodeError(f"{key} is no batch of entries", key=key)

    async def _find(
        self, store: ManagedStore, entry_id: str, hints: Sequence[str] = ()
    ) -> tuple[_Batch, int]:
        """Find a batch with an entry, and the place there; -1 if the history before it ends so.

        Args:
            store: The store.
            entry_id: The entry.
            hints: Entries whose history it may be in.
        """
        try:
            wanted = validate_snapshot_id(entry_id)
        except InvalidIdentifierError:
            raise EntryNotFoundError(f"the entry {entry_id!a} does not exist") from None
        found = await self._find_loose(store, wanted)
        for hint in hints:
            if found is None and (end := await self._find_loose(store, hint)) is not None:
                found = await self._find_in(store, wanted, [link.name for link in end[0].chain])
        if found is None:
            names = [_name_of(key) async for key in self._batch_keys(store, _GATHERED)]
            found = await self._find_in(store, wanted, names)
        if found is None:
            raise EntryNotFoundError(f"the entry {entry_id!a} does not exist")
        return found

    async def _find_loose(self, store: ManagedStore, wanted: str) -> tuple[_Batch, int] | None:
        """Find an entry by the names of batches.

        They begin with the last id: the entry's is the first one from it on or, where others saved
        in the same moment, one of the next.
        """
        prefix = f"{self._base}entries/"
        until = snapshot_time(wanted) + _CLOSE
        scan = store.scan(prefix, start_after=f"{prefix}{wanted}", page_size=20)
        async with aclosing(scan) as pages:
            async for page in pages:
                for name in map(_name_of, page):
                    last, _, first = name.partition("_")
                    if name.startswith(_GATHERED) or _time_of(last) > until:
                        return None
                    if first <= wanted <= last:
                        found = await self._find_in(store, wanted, [name])
                        if found is not None:
                            return found
        return None

    async def _find_in(
        self, store: ManagedStore, wanted: str, names: Sequence[str]
    ) -> tuple[_Batch, int] | None:
        """Find an entry in one of some batches."""
        for name in names:
            last, _, first = name.removeprefix(_GATHERED).partition("_")
            if not first <= wanted <= last:
                continue
            try:
                batch = await self._read_batch(store, name)
            except EntryNotFoundError:
                continue
            if first == last == wanted and not batch.entries:
                return batch, -1
            for place, entry in enumerate(batch.entries):
                if entry.get("id") == wanted:
                    return batch, place
        return None

    async def _batch_keys(
        self, store: ManagedStore, beginning: str = ""
    ) -> AsyncGenerator[str, None]:
        async with aclosing(store.scan(f"{self._base}entries/{beginning}")) as pages:
            async for page in pages:
                for key in page:
                    yield key

    def _entry(self, entry: dict[str, Any], name: str) -> ConversationEntry:
        with suppress(ValidationError):
            return _ENTRY.validate_python(entry)
        raise SnapshotDecodeError(f"{name} has what is no entry", key=name)

    def _record_key(self, conversation_id: str) -> str:
        return f"{self._base}records/{to_segment(conversation_id, 'conversation_id')}.json"

    def _scope_prefix(self, scope: str | None) -> str:
        name = _NO_SCOPE if scope is None else to_segment(scope, "scope")
        return f"{self._base}by-scope/{name}/"


def _chain_to(batch: _Batch, place: int) -> tuple[_Link, ...]:
    """The history up to an entry of a batch; of an empty batch, all that it ends."""
    return batch.chain if place < 0 else (*batch.chain, _Link(batch.name, place + 1))


def _validate_chain(entries: Sequence[ConversationEntry]) -> None:
    for before, after in pairwise(entries):
        if after.parent_id != before.id:
            raise ValueError("new_entries must be a chain: each after the one that it points at")
    for entry in entries:
        validate_snapshot_id(entry.id, "the id of an entry")


def _as_json(entry: ConversationEntry) -> dict[str, Any]:
    return decode_document(_ENTRY.dump_json(entry), entry.id, "entry")


def _name_of(key: str) -> str:
    return key.rpartition("/")[2].removesuffix(".json")


def _time_of(key: str) -> datetime:
    """When a batch was written, by its newest id; never, for what is no batch."""
    try:
        return snapshot_time(_name_of(key).removeprefix(_GATHERED).partition("_")[0])
    except InvalidIdentifierError:
        return datetime.max.replace(tzinfo=UTC)
