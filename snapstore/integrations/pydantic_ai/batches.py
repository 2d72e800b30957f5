"""The entries of conversations, in objects that are written once: *batches*.

A batch has the entries of one save, and knows the batches before it. So a history is read by a
listing, a request for its last batch, and then the others all at a time. When so many small batches
follow each other, one more object gets all of their entries: they are *gathered*.

The name of a batch has the range of its ids, by which an entry is found, and an id of its own: no
two tries to save share one, and its time tells garbage from what is being saved.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, suppress
from datetime import timedelta
from typing import Any, Final, NamedTuple, Self

import msgspec

from snapstore.encoding.documents import check_size, decode_document, encode_json
from snapstore.errors import InvalidIdentifierError, SnapshotDecodeError, SnapstoreError
from snapstore.model.ids import new_snapshot_id, snapshot_time, validate_snapshot_id
from snapstore.storage.overlap import overlap
from snapstore.stores.managed import ManagedStore

__all__ = ["MAX_ADDED_BYTES", "BatchName", "Batches", "EntryNotFoundError", "Found"]

_MAX_OBJECT_BYTES: Final = 64 * 2**20

MAX_ADDED_BYTES: Final = _MAX_OBJECT_BYTES // 2
"""How many bytes of entries one save may add."""

_LOOSE: Final = 16
"""So many small batches in a row are gathered."""

_SMALL_BYTES: Final = 512 * 1024
"""Batches of more bytes are not gathered: they are read in requests of their own as well."""

_CLOSE: Final = timedelta(minutes=1)
"""How far apart the ids of one save are at most: they are made when it is saved."""

_GATHERED: Final = "gathered-"
"""What the names of gathered batches begin with: after all ids."""

_FORMAT: Final = 1


class EntryNotFoundError(SnapstoreError, LookupError):
    """There is no such entry, or not any more."""


class BatchName(NamedTuple):
    """The name of a batch.

    Attributes:
        last: The greatest id of its entries.
        first: The least one.
        written: An id that was made when the batch was written.
        is_gathered: Whether it has the entries of other batches.
    """

    last: str
    first: str
    written: str
    is_gathered: bool

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """The name that a text is; `None` if it is none."""
        parts = text.removeprefix(_GATHERED).split("_")
        try:
            last, first, written = map(validate_snapshot_id, parts)
        except (InvalidIdentifierError, ValueError):
            return None
        return cls(last, first, written, text.startswith(_GATHERED))

    def __str__(self) -> str:
        gathered = _GATHERED if self.is_gathered else ""
        return f"{gathered}{self.last}_{self.first}_{self.written}"

    def spans(self, entry_id: str) -> bool:
        """Whether an entry may be in it."""
        return self.first <= entry_id <= self.last


class _Link(msgspec.Struct, frozen=True):
    """A part of a history: the first entries of a batch, and the bytes of all of them."""

    name: str
    entries: int
    bytes: int

    @property
    def is_loose(self) -> bool:
        """Whether it is to be gathered."""
        return not self.name.startswith(_GATHERED) and self.bytes <= _SMALL_BYTES


class _Batch(NamedTuple):
    """A batch.

    Attributes:
        name: Its name.
        chain: The history before it, oldest first.
        entries: Its entries, as JSON.
        bytes: How many bytes they have.
    """

    name: str
    chain: tuple[_Link, ...]
    entries: list[dict[str, Any]]
    bytes: int


class Found(NamedTuple):
    """An entry as it is stored.

    Attributes:
        entry: The entry, as JSON.
        key: The key of the object that has it.
    """

    entry: dict[str, Any]
    key: str


class Batches:
    """The batches under a prefix.

    Args:
        store: Where they are.
        base: What all keys of the adapter begin with.
    """

    def __init__(self, store: ManagedStore, base: str) -> None:
        self._store = store
        self._prefix = f"{base}entries/"

    async def add(
        self, ids: Sequence[str], entries: bytes, parent_id: str | None, hints: Sequence[str]
    ) -> str:
        """Write entries.

        Args:
            ids: Their ids, ascending.
            entries: The entries, as a JSON array.
            parent_id: The entry before them.
            hints: Entries whose history that may be in.

        Returns:
            The key of the new batch.

        Raises:
            EntryNotFoundError: There is no such entry before them.
        """
        chain: tuple[_Link, ...] = ()
        if parent_id is not None:
            chain = await self._gathered(_chain_to(*await self._find(parent_id, hints)))
        name = BatchName(ids[-1], ids[0], new_snapshot_id(), is_gathered=False)
        return await self._put(name, chain, entries)

    async def end_at(self, entry_id: str, hints: Sequence[str]) -> None:
        """Let a history end at an entry.

        If that is not the last one of its batch, an empty batch is written with the history up to
        it, under its name, so that it is found at once.

        Raises:
            EntryNotFoundError: There is no such entry.
        """
        batch, place = await self._find(entry_id, hints)
        if place != len(batch.entries) - 1 or batch.name.startswith(_GATHERED):
            name = BatchName(entry_id, entry_id, new_snapshot_id(), is_gathered=False)
            await self._put(name, _chain_to(batch, place), b"[]")

    async def read_entry(self, entry_id: str) -> Found:
        """Read one entry.

        Raises:
            EntryNotFoundError: There is none.
        """
        batch, place = await self._find(entry_id)
        if place < 0:
            link = batch.chain[-1]
            batch, place = await self._read(link.name), link.entries - 1
        return Found(batch.entries[place], self._key_of(batch.name))

    async def read_history(self, head_id: str, limit: int | None) -> list[Found]:
        """Read the entries up to one, in order.

        Args:
            head_id: The last entry.
            limit: Only the last so many.

        Raises:
            EntryNotFoundError: One of them is gone.
        """
        batch, place = await self._find(head_id)
        own = [Found(entry, self._key_of(batch.name)) for entry in batch.entries[: place + 1]]
        missing = None if limit is None else limit - len(own)
        needed: list[_Link] = []
        for link in reversed(batch.chain):
            if missing is not None and missing <= 0:
                break
            needed.insert(0, link)
            missing = None if missing is None else missing - link.entries
        found = [
            Found(entry, self._key_of(link.name))
            for link, entries in zip(needed, await self._entries_of(needed), strict=True)
            for entry in entries
        ]
        found += own
        return found if limit is None else found[-limit:]

    async def reached_from(self, entry_id: str, hints: Sequence[str]) -> set[str]:
        """The names of the batches that the history up to an entry is in.

        Raises:
            EntryNotFoundError: There is no such entry.
        """
        batch, _ = await self._find(entry_id, hints)
        return {batch.name, *(link.name for link in batch.chain)}

    async def _gathered(self, chain: tuple[_Link, ...]) -> tuple[_Link, ...]:
        """Gather the last batches of a history, if there are many small ones in a row."""
        loose = 0
        while loose < len(chain) and chain[-1 - loose].is_loose:
            loose += 1
        if loose < _LOOSE:
            return chain
        kept, links = chain[:-loose], chain[-loose:]
        try:
            entries = [entry for part in await self._entries_of(links) for entry in part]
        except EntryNotFoundError as error:
            # A conflict would be tried again.
            raise SnapshotDecodeError(
                f"a conversation has lost a part of its history: {error}"
            ) from None
        # By clocks that differ, the entries of a later save may have smaller ids.
        ids = sorted(entry["id"] for entry in entries)
        name = BatchName(ids[-1], ids[0], new_snapshot_id(), is_gathered=True)
        data = encode_json(entries)
        await self._put(name, kept, data)
        return (*kept, _Link(str(name), len(entries), len(data)))

    async def _entries_of(self, links: Sequence[_Link]) -> list[list[dict[str, Any]]]:
        """The entries that each of these parts of a history has."""
        batches = await overlap(links, lambda link: self._read(link.name))
        for link, batch in zip(links, batches, strict=True):
            if len(batch.entries) < link.entries:
                key = self._key_of(link.name)
                raise SnapshotDecodeError(f"{key} has fewer entries than it had", key=key)
        return [batch.entries[: link.entries] for link, batch in zip(links, batches, strict=True)]

    async def _put(self, name: BatchName, chain: Sequence[_Link], entries: bytes) -> str:
        key = self._key_of(str(name))
        links = encode_json([msgspec.to_builtins(link) for link in chain])
        data = b'{"version":%d,"chain":%b,"entries":%b}' % (_FORMAT, links, entries)
        await self._store.put(key, check_size(data, _MAX_OBJECT_BYTES), if_none_match=True)
        return key

    async def _read(self, name: str) -> _Batch:
        key = self._key_of(name)
        stored = await self._store.get(key, max_bytes=_MAX_OBJECT_BYTES)
        if stored is None:
            raise EntryNotFoundError(f"{key} does not exist")
        document = decode_document(stored.data, key, "batch of entries")
        if document.get("version") != _FORMAT:
            raise SnapshotDecodeError(
                f"{key} is no batch of entries in format {_FORMAT}, the only one that this "
                "version of snapstore knows",
                key=key,
            )
        with suppress(KeyError, msgspec.ValidationError):
            chain = msgspec.convert(document["chain"], tuple[_Link, ...])
            entries = msgspec.convert(document["entries"], list[dict[str, Any]])
            ids = [msgspec.convert(entry["id"], str) for entry in entries]
            parsed = BatchName.parse(name)
            if parsed is not None and all(map(parsed.spans, ids)) and (chain or entries):
                size = len(stored.data) - len(encode_json(document["chain"]))
                return _Batch(name, chain, entries, size)
        raise SnapshotDecodeError(f"{key} is no batch of entries", key=key)

    async def _find(self, entry_id: str, hints: Sequence[str] = ()) -> tuple[_Batch, int]:
        """Find a batch with an entry, and the place there; -1 if the history before it ends so.

        Args:
            entry_id: The entry.
            hints: Entries whose history it may be in.
        """
        try:
            wanted = validate_snapshot_id(entry_id)
        except InvalidIdentifierError:
            raise EntryNotFoundError(f"the entry {entry_id!a} does not exist") from None
        found = await self._find_by_name(wanted)
        for hint in hints:
            if found is None and (end := await self._find_by_name(hint)) is not None:
                batch, _ = end
                found = await self._find_in(
                    wanted, [batch.name, *(link.name for link in batch.chain)]
                )
        # Entries that their conversation left behind, or that were not made when they were saved.
        for beginning in (_GATHERED, ""):
            if found is None:
                names = [name async for name in self.names(beginning)]
                found = await self._find_in(wanted, names)
        if found is None:
            raise EntryNotFoundError(f"the entry {entry_id!a} does not exist")
        return found

    async def _find_by_name(self, wanted: str) -> tuple[_Batch, int] | None:
        """Find an entry by the names of batches.

        They begin with the last id: the entry's is the first one from it on or, where others saved
        in the same moment, one of the next.
        """
        until = snapshot_time(wanted) + _CLOSE
        start_after = f"{self._prefix}{wanted}"
        scan = self._store.scan(self._prefix, start_after=start_after, page_size=20)
        async with aclosing(scan) as pages:
            async for page in pages:
                for text in map(self._name_of, page):
                    name = BatchName.parse(text)
                    if name is None:
                        continue
                    if name.is_gathered or snapshot_time(name.last) > until:
                        return None
                    found = await self._find_in(wanted, [text])
                    if found is not None:
                        return found
        return None

    async def _find_in(self, wanted: str, names: Sequence[str]) -> tuple[_Batch, int] | None:
        """Find an entry in one of some batches."""
        for text in names:
            name = BatchName.parse(text)
            if name is None or not name.spans(wanted):
                continue
            try:
                batch = await self._read(text)
            except EntryNotFoundError:
                continue
            if not batch.entries:
                return batch, -1
            for place, entry in enumerate(batch.entries):
                if entry["id"] == wanted:
                    return batch, place
        return None

    async def names(self, beginning: str = "") -> AsyncGenerator[str, None]:
        """The names of all batches.

        Args:
            beginning: What they begin with.
        """
        async with aclosing(self._store.scan(f"{self._prefix}{beginning}")) as pages:
            async for page in pages:
                for name in map(self._name_of, page):
                    yield name

    def _key_of(self, name: str) -> str:
        return f"{self._prefix}{name}.json"

    def _name_of(self, key: str) -> str:
        return key.removeprefix(self._prefix).removesuffix(".json")


def _chain_to(batch: _Batch, place: int) -> tuple[_Link, ...]:
    """The history up to an entry of a batch; of an empty batch, all that it ends."""
    own = _Link(batch.name, place + 1, batch.bytes)
    return batch.chain if place < 0 else (*batch.chain, own)
