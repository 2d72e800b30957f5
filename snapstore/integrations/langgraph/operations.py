"""What each method of the checkpointer does on the store's loop, for both of its twins.

A method here validates and serialises at once, in the caller's thread, and returns what is to be
awaited with the store.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from contextvars import ContextVar
from typing import Any, Final, NamedTuple, TypeVar, cast

from langchain_core.runnables import RunnableConfig  # noqa: TC002 -- `get_type_hints` needs it
from langgraph.checkpoint.base import (
    WRITES_IDX_MAP,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    DeltaChannelHistory,
    get_checkpoint_metadata,
)
from langgraph.checkpoint.serde.base import SerializerProtocol  # noqa: TC002 -- as above

from snapstore.errors import InvalidIdentifierError
from snapstore.integrations.langgraph.configs import (
    checkpoint_id_of,
    config_of,
    configurable_of,
    names_in,
    names_of,
    thread_id_of,
)
from snapstore.integrations.langgraph.heads import Heads
from snapstore.integrations.langgraph.history import ancestors, writes_of_all
from snapstore.integrations.langgraph.keys import Namespace, thread_root, validate_checkpoint_id
from snapstore.integrations.langgraph.listing import Listing, Wanted
from snapstore.integrations.langgraph.maintenance import (
    copy_thread,
    delete_for_runs,
    delete_thread,
    prune_thread,
)
from snapstore.integrations.langgraph.records import (
    Serialized,
    StoredCheckpoint,
    StoredWrite,
    StoredWrites,
    encode,
)
from snapstore.integrations.langgraph.scanning import newest_id
from snapstore.integrations.langgraph.threads import Loaded, Threads, WriteOf
from snapstore.storage.overlap import overlap
from snapstore.stores.managed import ManagedStore

__all__ = ["History", "Operation", "Operations"]

T = TypeVar("T")
Operation = Callable[[ManagedStore], Coroutine[Any, Any, T]]

_COUNTERS: Final = "counters_since_delta_snapshot"

_addressed: Final[ContextVar[frozenset[str]]] = ContextVar(
    "snapstore_addressed", default=frozenset()
)
"""Keys of checkpoints that this run has asked for, though they are not the newest."""


class History(NamedTuple):
    """What delta channels are rebuilt from.

    Attributes:
        writes: The writes of each channel, in their order.
        seeds: The value that they are applied to, where there is one.
    """

    writes: dict[str, list[WriteOf]]
    seeds: dict[str, Serialized]


class Operations:
    """Makes the operation of each method.

    Args:
        serde: The serialiser.
        threads: The checkpoints.
        heads: The newest of them; `None` where any parent will do.
        base: What all keys begin with.
    """

    def __init__(
        self, serde: SerializerProtocol, threads: Threads, heads: Heads | None, base: str
    ) -> None:
        self._serde = serde
        self._threads = threads
        self._heads = heads
        self._base = base

    def get(self, config: RunnableConfig) -> Operation[tuple[Loaded | None, str | None]]:
        """Read a checkpoint; the result goes to `found`."""
        space, wanted = self._space(config), checkpoint_id_of(config)

        async def work(store: ManagedStore) -> tuple[Loaded | None, str | None]:
            tried = None
            while True:
                if self._heads is not None:
                    newest = await self._heads.look(store, space)
                else:
                    newest = wanted or await newest_id(store, space)
                checkpoint_id = wanted or newest
                if checkpoint_id is None or checkpoint_id == tried:
                    return None, None
                found = await self._threads.load(store, space, checkpoint_id)
                if found is not None or wanted is not None:
                    return found, newest
                # It was deleted since it was listed: by a prune, there is a newer one.
                tried = checkpoint_id

        return work

    def found(
        self, config: RunnableConfig, result: tuple[Loaded | None, str | None]
    ) -> CheckpointTuple | None:
        """The checkpoint that `get` has read."""
        found, newest = result
        if found is None:
            return None
        self._address(self._space(config), found.record.checkpoint_id, newest)
        return self._tuple(found)

    def _address(self, space: Namespace, checkpoint_id: str, newest: str | None) -> None:
        """Note that a run may go on from a checkpoint though it is not the newest, or not so."""
        if self._heads is not None:
            key = {space.checkpoint(checkpoint_id)}
            before = _addressed.get()
            after = before | key if checkpoint_id != newest else before - key
            if after != before:
                _addressed.set(frozenset(after))

    def listing(
        self,
        config: RunnableConfig | None,
        wanted: dict[str, Any] | None,
        before: RunnableConfig | None,
        limit: int | None,
    ) -> Listing:
        """Begin a listing."""

        def matches(record: StoredCheckpoint) -> bool:
            metadata = self._metadata(record)
            return all(metadata.get(name) == value for name, value in (wanted or {}).items())

        in_thread = None if config is None else configurable_of(config)
        return Listing(
            self._threads,
            Wanted(
                base=self._base,
                thread_id=None if in_thread is None else thread_id_of(in_thread),
                checkpoint_ns=None if in_thread is None else in_thread.get("checkpoint_ns"),
                checkpoint_id=None if config is None else checkpoint_id_of(config),
                before=None if before is None else checkpoint_id_of(before),
                matches=matches,
                limit=limit,
            ),
        )

    def next_batch(
        self, listing: Listing, before: RunnableConfig | None
    ) -> Operation[Sequence[tuple[Loaded, str | None]] | None]:
        """Read the next checkpoints of a listing; each goes to `listed`. `None` at the end."""

        async def work(store: ManagedStore) -> Sequence[tuple[Loaded, str | None]] | None:
            batch = await listing.next_batch(store)
            if batch is None:
                return None
            newest: dict[str, str | None] = {}
            if self._heads is not None and before is not None:
                # A replayed subgraph goes on from what it finds by `before`.
                roots = {self._space_of(found.record).root for found in batch}
                for root in roots:
                    newest[root] = await self._heads.look(store, Namespace(root))
            return [
                (
                    found,
                    newest.get(self._space_of(found.record).root, found.record.checkpoint_id),
                )
                for found in batch
            ]

        return work

    def listed(self, found: Loaded, newest: str | None) -> CheckpointTuple:
        """A checkpoint that `next_batch` has read."""
        if newest != found.record.checkpoint_id:
            self._address(self._space_of(found.record), found.record.checkpoint_id, newest)
        return self._tuple(found)

    def put(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> Operation[None]:
        """Store a checkpoint."""
        space, parent_id = self._space(config), checkpoint_id_of(config)
        thread_id, checkpoint_ns = names_in(config)
        rest: dict[str, Any] = {**checkpoint}
        values: dict[str, Any] = rest.pop("channel_values")
        record = StoredCheckpoint(
            thread=thread_id.encode("utf-8", "surrogatepass"),
            namespace=checkpoint_ns.encode("utf-8", "surrogatepass"),
            checkpoint_id=validate_checkpoint_id(checkpoint["id"]),
            parent_id=parent_id,
            checkpoint=self._dumps(rest),
            metadata=self._dumps(get_checkpoint_metadata(config, metadata)),
            values={},
        )
        draft = self._threads.draft(
            space,
            record,
            versions=checkpoint["channel_versions"],
            is_new=new_versions.__contains__,
            serialize=lambda channel: self._dumps(values[channel]),
            channels=[*values],
        )
        heads, threads = self._heads, self._threads
        if heads is None:
            return lambda store: threads.put(store, space, draft)
        may_fork = metadata.get("source") == "fork" or (
            parent_id is not None and space.checkpoint(parent_id) in _addressed.get()
        )
        return lambda store: heads.put(store, space, draft, may_fork=may_fork)

    def put_writes(
        self,
        config: RunnableConfig,
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str,
    ) -> Operation[object]:
        """Store the writes of a task."""
        space, checkpoint_id = self._space(config), checkpoint_id_of(config)
        if checkpoint_id is None:
            raise InvalidIdentifierError("config must have a checkpoint_id, whose writes they are")
        record = StoredWrites(
            task_id=task_id,
            task_path=task_path,
            writes=[
                StoredWrite(WRITES_IDX_MAP.get(channel, index), channel, self._dumps(value))
                for index, (channel, value) in enumerate(writes)
            ],
        )
        data = encode(record, self._threads.max_bytes)
        key = space.new_writes(checkpoint_id, task_id, self._threads.stamp())
        return lambda store: store.put(key, data)

    def delete_thread(self, thread_id: str) -> Operation[None]:
        """Delete a thread."""
        thread_root("", thread_id)

        async def work(store: ManagedStore) -> None:
            await delete_thread(store, self._threads, self._base, thread_id)
            self._forget_heads(thread_id)

        return work

    def delete_for_runs(self, run_ids: Sequence[str]) -> Operation[None]:
        """Delete the checkpoints of runs."""
        wanted = frozenset(run_ids)

        async def work(store: ManagedStore) -> None:
            await delete_for_runs(
                store,
                self._threads,
                self._base,
                lambda record: self._metadata(record).get("run_id"),
                wanted,
            )
            self._forget_heads(None)

        return work

    def copy_thread(self, source: str, target: str) -> Operation[None]:
        """Copy a thread."""
        if thread_root("", source) == thread_root("", target):
            raise ValueError("a thread can't be copied onto itself")

        async def work(store: ManagedStore) -> None:
            await copy_thread(store, self._threads, self._base, source, target)
            self._forget_heads(target)

        return work

    def prune(self, thread_ids: Sequence[str], strategy: str) -> Operation[None]:
        """Delete older checkpoints."""
        if strategy not in ("keep_latest", "delete"):
            raise ValueError(f"strategy must be 'keep_latest' or 'delete', not {strategy!r}")
        for thread_id in thread_ids:
            thread_root("", thread_id)

        def counted(record: StoredCheckpoint) -> Sequence[str]:
            return [*(self._metadata(record).get(_COUNTERS) or ())]

        async def work(store: ManagedStore) -> None:
            for thread_id in thread_ids:
                if strategy == "delete":
                    await delete_thread(store, self._threads, self._base, thread_id)
                else:
                    await prune_thread(store, self._threads, self._base, thread_id, counted)
                self._forget_heads(thread_id)

        return work

    def trace(self, config: RunnableConfig, channels: Sequence[str]) -> Operation[History]:
        """Read what delta channels are rebuilt from; the result goes to `histories`."""
        space, wanted, threads = self._space(config), checkpoint_id_of(config), self._threads

        async def work(store: ManagedStore) -> History:
            history = History({channel: [] for channel in channels}, {})
            checkpoint_id = wanted or await newest_id(store, space)
            record = checkpoint_id and await threads.record(store, space, checkpoint_id)
            if not record:
                return history
            path = await ancestors(store, threads, space, record, set(channels))
            written = await writes_of_all(store, threads, space, path)
            left, seeded = set(channels), dict[str, StoredCheckpoint]()
            for ancestor, writes in zip(path, written, strict=True):
                for write in reversed(writes):
                    if write.channel in left:
                        history.writes[write.channel].append(write)
                seeded |= dict.fromkeys(left & ancestor.values.keys(), ancestor)
                left -= ancestor.values.keys()
            seeds = await overlap(
                [*seeded], lambda channel: threads.seed(store, space, seeded[channel], channel)
            )
            history.seeds.update(zip(seeded, seeds, strict=True))
            return history

        return work

    def histories(
        self, channels: Sequence[str], history: History
    ) -> dict[str, DeltaChannelHistory]:
        """What `trace` has read."""
        found: dict[str, DeltaChannelHistory] = {}
        for channel in channels:
            writes = [self._write(write) for write in reversed(history.writes[channel])]
            found[channel] = {"writes": writes}
            if channel in history.seeds:
                found[channel]["seed"] = self._serde.loads_typed(history.seeds[channel])
        return found

    def _space(self, config: RunnableConfig) -> Namespace:
        return Namespace.of(self._base, *names_in(config))

    def _space_of(self, record: StoredCheckpoint) -> Namespace:
        return Namespace.of(self._base, *names_of(record))

    def _dumps(self, value: object) -> Serialized:
        kind, data = self._serde.dumps_typed(value)
        return kind, bytes(data)

    def _metadata(self, record: StoredCheckpoint) -> dict[str, Any]:
        return cast("dict[str, Any]", self._serde.loads_typed(record.metadata))

    def _write(self, write: WriteOf) -> tuple[str, str, Any]:
        return write.task_id, write.channel, self._serde.loads_typed(write.value)

    def _tuple(self, found: Loaded) -> CheckpointTuple:
        record = found.record
        names = names_of(record)
        checkpoint = self._serde.loads_typed(record.checkpoint)
        values = {
            channel: self._serde.loads_typed(value) for channel, value in found.values.items()
        }
        parent = record.parent_id
        return CheckpointTuple(
            config=config_of(names, record.checkpoint_id),
            checkpoint=cast("Checkpoint", {**checkpoint, "channel_values": values}),
            metadata=cast("CheckpointMetadata", self._metadata(record)),
            parent_config=None if parent is None else config_of(names, parent),
            pending_writes=[self._write(write) for write in found.writes],
        )

    def _forget_heads(self, thread_id: str | None) -> None:
        if self._heads is not None:
            self._heads.forget(
                self._base if thread_id is None else thread_root(self._base, thread_id)
            )
