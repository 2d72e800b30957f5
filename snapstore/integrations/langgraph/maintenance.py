"""Delete, prune and copy threads.

Checkpoints are deleted first, then what belongs to them. So a delete that was cut off leaves no
checkpoint without its values, and the next one removes the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from typing import NamedTuple

import msgspec

from snapstore.integrations.adapter import delete_keys
from snapstore.integrations.langgraph.history import ancestors
from snapstore.integrations.langgraph.keys import Namespace, thread_root
from snapstore.integrations.langgraph.records import StoredCheckpoint, encode
from snapstore.integrations.langgraph.scanning import all_keys, ids_before, namespaces, roots
from snapstore.integrations.langgraph.threads import Threads
from snapstore.storage.overlap import overlap
from snapstore.stores.capabilities import CopyingStore, SweepableStore, capability
from snapstore.stores.managed import ManagedStore

__all__ = ["copy_thread", "delete_for_runs", "delete_thread", "prune_thread"]


class _Kept(NamedTuple):
    """What stays of a checkpoint, beside itself: the objects that have its values."""

    checkpoint_id: str
    bases: frozenset[str]

    @classmethod
    def of(cls, record: StoredCheckpoint) -> _Kept:
        bases = (value.base for value in record.values.values())
        return cls(record.checkpoint_id, frozenset(base for base in bases if base))


async def delete_thread(store: ManagedStore, threads: Threads, base: str, thread_id: str) -> None:
    """Delete all of a thread.

    Raises:
        PartialDeleteError: Some objects were not confirmed as deleted.
    """
    root = thread_root(base, thread_id)
    keys = await all_keys(store, root)
    await delete_keys(store, sorted(keys, key=lambda key: _rank(root, key)))
    threads.forget(root)
    sweepable = capability(store, SweepableStore)
    if sweepable is not None:
        await store.run("delete", root, lambda: sweepable.sweep(root), writes=True)


def _rank(root: str, key: str) -> int:
    """When an object of a thread is deleted: heads first, which would bring checkpoints back."""
    kind = key.removeprefix(root).split("/", 2)[1:2]
    return {"head": 0, "c": 1}.get(kind[0] if kind else "", 2)


async def prune_thread(
    store: ManagedStore,
    threads: Threads,
    base: str,
    thread_id: str,
    counters: Callable[[StoredCheckpoint], Collection[str]],
) -> None:
    """Delete all checkpoints but the newest of each namespace and those that it needs.

    Args:
        store: The store.
        threads: The checkpoints.
        base: What all keys begin with.
        thread_id: The thread.
        counters: The delta channels that a checkpoint counts the steps of.
    """
    for space in await namespaces(store, thread_root(base, thread_id)):
        ids = await ids_before(store, space, None)
        newest = await threads.record(store, space, ids[0]) if ids else None
        if newest is None:
            continue
        needed = set(counters(newest)) - newest.values.keys()
        kept = [newest, *await ancestors(store, threads, space, newest, needed)]
        await _keep_only(store, threads, space, [*map(_Kept.of, kept)], newest.checkpoint_id)


async def delete_for_runs(
    store: ManagedStore,
    threads: Threads,
    base: str,
    run_of: Callable[[StoredCheckpoint], object],
    run_ids: Collection[str],
) -> None:
    """Delete the checkpoints of runs, in all threads.

    Args:
        store: The store.
        threads: The checkpoints.
        base: What all keys begin with.
        run_of: The run that a checkpoint is of.
        run_ids: The runs.
    """
    for thread in await roots(store, base):
        for space in await namespaces(store, thread):

            async def look(one: str, space: Namespace = space) -> _Kept | None:
                record = await threads.record(store, space, one)
                return None if record is None or run_of(record) in run_ids else _Kept.of(record)

            ids = await ids_before(store, space, None)
            kept = [found for found in await overlap(ids, look) if found is not None]
            if len(kept) < len(ids):
                await _keep_only(store, threads, space, kept, ids[0])


async def _keep_only(
    store: ManagedStore,
    threads: Threads,
    space: Namespace,
    kept: Collection[_Kept],
    newest: str,
) -> None:
    """Delete what no kept checkpoint needs, but not what runs under way have written since.

    Args:
        store: The store.
        threads: The checkpoints.
        space: The namespace.
        kept: The checkpoints that stay.
        newest: The greatest id that was listed. What has a greater one stays.
    """
    ids = {one.checkpoint_id for one in kept}
    bases = {base for one in kept for base in one.bases}
    gone: list[str] = []
    if newest not in ids and await store.get(space.head, max_bytes=threads.max_frame_bytes):
        gone.append(space.head)
    for prefix in (space.checkpoints, space.all_writes, space.values):
        for key in await all_keys(store, prefix):
            owner = space.id_of(key)
            if owner is None or owner > newest:
                continue
            is_kept = owner in ids
            if prefix == space.values:
                is_kept = key.removeprefix(space.values) in bases
            if not is_kept:
                gone.append(key)
    await delete_keys(store, gone)
    threads.forget(space.root)


async def copy_thread(
    store: ManagedStore, threads: Threads, base: str, source_id: str, target_id: str
) -> None:
    """Copy all of a thread, its checkpoints last and the newest of them at the end.

    Args:
        store: The store.
        threads: The checkpoints.
        base: What all keys begin with.
        source_id: The thread.
        target_id: The thread that the copy becomes.
    """
    source, target = thread_root(base, source_id), thread_root(base, target_id)
    threads.forget(target)
    thread = target_id.encode("utf-8", "surrogatepass")

    async def copy(key: str) -> None:
        copied = target + key.removeprefix(source)
        copying = capability(store, CopyingStore)
        if copying is not None:
            await copying.copy(key, copied)
        elif stored := await store.get(key, max_bytes=threads.max_frame_bytes):
            await store.put(copied, stored.data)

    async def rewrite(space: Namespace, checkpoint_id: str) -> None:
        record = await threads.record(store, space, checkpoint_id)
        if record is not None:
            copied = Namespace(target + space.root.removeprefix(source))
            data = encode(msgspec.structs.replace(record, thread=thread), threads.max_bytes)
            await store.put(copied.checkpoint(checkpoint_id), data)

    for space in await namespaces(store, source):
        # Listed first: what is written meanwhile may be copied, but no checkpoint without it.
        ids = (await ids_before(store, space, None))[::-1]
        keys = [*await all_keys(store, space.values), *await all_keys(store, space.all_writes)]
        await overlap(keys, copy)
        for some in (ids[:-1], ids[-1:]):
            await overlap(some, partial(rewrite, space))
