"""The ancestors of a checkpoint, which delta channels are rebuilt from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from snapstore.integrations.adapter import both
from snapstore.integrations.langgraph.keys import Namespace
from snapstore.integrations.langgraph.records import StoredCheckpoint
from snapstore.integrations.langgraph.scanning import ids_before
from snapstore.integrations.langgraph.threads import Threads, WriteOf
from snapstore.storage.overlap import overlap
from snapstore.stores.managed import ManagedStore

__all__ = ["ancestors", "writes_of_all"]

_AT_A_TIME: Final = 32


async def ancestors(
    store: ManagedStore,
    threads: Threads,
    space: Namespace,
    record: StoredCheckpoint,
    wanted: set[str],
) -> list[StoredCheckpoint]:
    """The ancestors of a checkpoint that some channels are rebuilt from.

    Args:
        store: The store.
        threads: The checkpoints.
        space: Where it belongs.
        record: The checkpoint.
        wanted: The channels; an ancestor that has the value of one ends the search for it.

    Returns:
        The ancestors, the nearest first.
    """
    found: list[StoredCheckpoint] = []
    ahead: dict[str, StoredCheckpoint] = {}
    missing, parent_id = set(wanted), record.parent_id
    seen = {record.checkpoint_id}
    while missing and parent_id is not None and parent_id not in seen:
        seen.add(parent_id)
        parent = ahead.get(parent_id)
        if parent is None:
            ahead = await _read_ahead(store, threads, space, parent_id)
            parent = ahead.get(parent_id)
        if parent is None:
            break
        found.append(parent)
        missing -= parent.values.keys()
        parent_id = parent.parent_id
    return found


async def _read_ahead(
    store: ManagedStore, threads: Threads, space: Namespace, checkpoint_id: str
) -> dict[str, StoredCheckpoint]:
    """A checkpoint, and some that are older, among which its ancestors are."""
    first, ids = await both(
        threads.record(store, space, checkpoint_id),
        ids_before(store, space, checkpoint_id, _AT_A_TIME - 1),
    )
    others = await overlap(ids, lambda one: threads.record(store, space, one))
    return {found.checkpoint_id: found for found in (first, *others) if found is not None}


async def writes_of_all(
    store: ManagedStore, threads: Threads, space: Namespace, records: Sequence[StoredCheckpoint]
) -> list[list[WriteOf]]:
    """The writes of each of these checkpoints."""
    return await overlap(records, lambda record: threads.writes(store, space, record.checkpoint_id))
