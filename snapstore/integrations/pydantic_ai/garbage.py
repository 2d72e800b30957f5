"""Find and remove the batches that no conversation reaches.

Nothing that is being saved is removed:

- Batches are listed before the records are read, and those that were written within the grace are
  left alone. So a save has that long to write the record that reaches its batches.
- All else that a save comes to reach is reached by a record that it has read: its own, or that of
  the conversation that it forks. A record that was deleted within the grace still counts: it left a
  note. Notes are listed after the records were read, and written before a record is deleted.
"""

from __future__ import annotations

from contextlib import aclosing, suppress
from datetime import UTC, datetime, timedelta

import msgspec

from snapstore.errors import InvalidIdentifierError
from snapstore.integrations.adapter import delete_keys
from snapstore.integrations.pydantic_ai.batches import Batches, BatchName, EntryNotFoundError
from snapstore.integrations.pydantic_ai.records import Records, ends_of
from snapstore.model.ids import snapshot_time
from snapstore.storage.overlap import overlap
from snapstore.stores.capabilities import DetailedListingStore, capability
from snapstore.stores.managed import ManagedStore

__all__ = ["CollectedGarbage", "collect_garbage"]


class CollectedGarbage(msgspec.Struct, frozen=True):
    """What a collection of garbage has removed, or in a dry run would.

    Attributes:
        batches: Objects with entries that no conversation reaches.
        bytes: Their bytes; `None` where the store's listings don't tell.
        keys: The keys of all that was removed: those, and notes of deleted conversations.
    """

    batches: int
    bytes: int | None
    keys: tuple[str, ...]


async def collect_garbage(
    store: ManagedStore, base: str, *, dry_run: bool, grace: timedelta
) -> CollectedGarbage:
    """Remove the batches that no conversation reaches.

    Args:
        store: Where they are.
        base: What all keys of the adapter begin with.
        dry_run: Change nothing.
        grace: How old they must be.

    Raises:
        SnapshotDecodeError: A record or a batch is damaged; nothing was removed.
        EntryNotFoundError: A conversation has lost its history; nothing was removed.
    """
    before = datetime.now(UTC) - grace
    records, batches = Records(store, base), Batches(store, base)
    sizes = await _sizes(store, f"{base}entries/")
    reached: set[str] = set()

    async def reach(key: str) -> None:
        record = (await records.read_at(key)).record
        ends = () if record is None else ends_of(record)
        for end in ends:
            found = await batches.reached_from(end, ends)
            reached.update(found)

    async with aclosing(store.scan(records.prefix)) as pages:
        async for page in pages:
            await overlap(page, reach)
    notes: list[str] = []
    async with aclosing(store.scan(records.deleted)) as pages:
        async for page in pages:
            for key in page:
                if _time_of(_name_of(key)) < before:
                    notes.append(key)
                elif (note := await records.read_deleted(key)) is not None:
                    for end in note.entries:
                        with suppress(EntryNotFoundError):  # collected with a shorter grace
                            reached |= await batches.reached_from(end, note.entries)
    garbage = [
        key
        for key in sizes
        if (name := BatchName.parse(_name_of(key))) is not None
        and str(name) not in reached
        and _time_of(name.written) < before
    ]
    if not dry_run:
        await delete_keys(store, [*garbage, *notes])
    known = [size for key in garbage if (size := sizes[key]) is not None]
    total = sum(known) if len(known) == len(garbage) else None
    return CollectedGarbage(len(garbage), total, (*garbage, *notes))


async def _sizes(store: ManagedStore, prefix: str) -> dict[str, int | None]:
    """All keys under a prefix, with their bytes where listings tell."""
    sizes: dict[str, int | None] = {}
    if capability(store, DetailedListingStore) is not None:
        async with aclosing(store.scan_details(prefix)) as detailed:
            async for details in detailed:
                sizes |= {found.key: found.size for found in details}
    else:
        async with aclosing(store.scan(prefix)) as pages:
            async for page in pages:
                sizes |= dict.fromkeys(page)
    return sizes


def _name_of(key: str) -> str:
    return key.rpartition("/")[2].removesuffix(".json")


def _time_of(written: str) -> datetime:
    """When something was written, by its id; never, for what is no id."""
    try:
        return snapshot_time(written)
    except InvalidIdentifierError:
        return datetime.max.replace(tzinfo=UTC)
