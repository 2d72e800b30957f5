"""The checkpointer: LangGraph's interface over an object store, and its synchronous twins."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any, Final, Literal

from langchain_core.runnables import RunnableConfig  # noqa: TC002 -- `get_type_hints` needs it
from langgraph.checkpoint.base import (
    BaseCheckpointSaver,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    DeltaChannelHistory,
)
from langgraph.checkpoint.serde.base import SerializerProtocol  # noqa: TC002 -- as above

from snapstore.integrations.adapter import StoreAdapter
from snapstore.integrations.langgraph.configs import config_of, names_in
from snapstore.integrations.langgraph.heads import Heads
from snapstore.integrations.langgraph.keys import LONGEST_KEY
from snapstore.integrations.langgraph.operations import Operations
from snapstore.integrations.langgraph.threads import Threads
from snapstore.stores.base import ObjectStore
from snapstore.stores.managed import ManagedStore

__all__ = ["DEFAULT_MAX_BYTES", "SnapstoreSaver"]

DEFAULT_MAX_BYTES: Final = 256 * 2**20


class SnapstoreSaver(StoreAdapter, BaseCheckpointSaver[str]):
    """A LangGraph checkpointer over an object store: S3, files, memory, or your own.

    It is opened with `async with` or `with`, or on first use, and works for `invoke`, `ainvoke` and
    their kin from any thread and any event loop: the store lives on a thread of its own. It is
    closed at the end of the `with`, by `aclose` or by `close`, and can't be used again then. A copy
    (`copy.copy`) shares its life; a forked child and a deep copy open a store of their own.

    Args:
        store: Where the bytes go: an `S3ObjectStore`, a `FileObjectStore`, a `MemoryObjectStore`,
            any other `ObjectStore`; or an open `ManagedStore`, such as the `objects` of a snapshot
            storage, whose connections and event loop it shares then, without synchronous calls.
        prefix: What all keys begin with, without the closing `/`. Nothing else may lie there.
        serde: How values are serialised; `None` for LangGraph's own.
        on_conflict: What happens if two runs go on from one checkpoint of a thread. `"ignore"`, as
            all of LangGraph's own checkpointers: both are stored, and the newest one counts.
            `"raise"`: the one that comes second gets a `SnapshotConflictError`. A run that was
            given an older `checkpoint_id`, and a fork, may go on from it. All who write to a
            thread have to choose the same.
        timeout: Seconds that each request may take, its retries included; `None` for no deadline.
        max_bytes: How large a checkpoint without large values, each of those, and the writes of a
            task may be, in bytes, both ways.

    Raises:
        TypeError: The store uses an S3 client that was passed in.
        ValueError: An argument is out of its range.
        InvalidIdentifierError: The prefix can't be part of a key, or leaves no room for one.

    Example:
        ::

            async with SnapstoreSaver(S3ObjectStore("my-bucket"), prefix="threads") as saver:
                graph = builder.compile(checkpointer=saver)
                await graph.ainvoke(state, {"configurable": {"thread_id": "chat-1"}})
    """

    def __init__(
        self,
        store: ObjectStore | ManagedStore,
        *,
        prefix: str = "",
        serde: SerializerProtocol | None = None,
        on_conflict: Literal["ignore", "raise"] = "ignore",
        timeout: float | None = 60.0,
        max_bytes: int = DEFAULT_MAX_BYTES,
    ) -> None:
        if on_conflict not in ("ignore", "raise"):
            raise ValueError("on_conflict must be 'ignore' or 'raise'")
        BaseCheckpointSaver.__init__(self, serde=serde)
        self._threads = Threads(max_bytes)
        self._heads = Heads(self._threads) if on_conflict == "raise" else None
        StoreAdapter.__init__(self, store, prefix=prefix, timeout=timeout, longest=LONGEST_KEY)

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """The checkpoint that a config names, or the newest one of its thread.

        It takes a listing of one key, then the checkpoint and a listing of its writes at a time,
        and then one request for each large value and each object of writes, at a time as well.

        Args:
            config: With `thread_id`, and maybe `checkpoint_ns` and `checkpoint_id`.

        Returns:
            The checkpoint with its pending writes; `None` if there is none, for no other reason.

        Raises:
            InvalidIdentifierError: The config names no thread, or something that is no id.
            SnapshotDecodeError: What is stored is damaged.
            StorageError: It can't be read.
        """
        return self._operations.found(config, await self._run(self._operations.get(config)))

    def get_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """As `aget_tuple`."""
        return self._operations.found(config, self._call(self._operations.get(config)))

    async def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,  # noqa: A002 -- LangGraph's name
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        """The checkpoints of a thread, newest first; of all threads, one after the other.

        Args:
            config: With `thread_id`, and maybe `checkpoint_ns` (without it, all namespaces) and
                `checkpoint_id`; `None` for all threads.
            filter: What their metadata must have.
            before: Only checkpoints before the `checkpoint_id` of this config.
            limit: How many at the most.

        Returns:
            An async iterator of the checkpoints, read up to 16 at a time.

        Raises:
            InvalidIdentifierError: A config names no thread, or something that is no id.
            SnapshotDecodeError: What is stored is damaged.
            StorageError: They can't be read.
        """
        listing = self._operations.listing(config, filter, before, limit)
        while (batch := await self._run(self._operations.next_batch(listing, before))) is not None:
            for found, newest in batch:
                yield self._operations.listed(found, newest)

    def list(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,  # noqa: A002 -- LangGraph's name
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> Iterator[CheckpointTuple]:
        """As `alist`."""
        listing = self._operations.listing(config, filter, before, limit)
        while (batch := self._call(self._operations.next_batch(listing, before))) is not None:
            for found, newest in batch:
                yield self._operations.listed(found, newest)

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Store a checkpoint. The state stored is the state at the call.

        It takes one request, and one more for a large value that becomes an object of its own; with
        `on_conflict="raise"` one more again. To store the same checkpoint again is safe.

        Args:
            config: With `thread_id`, `checkpoint_ns`, and the parent's `checkpoint_id`, if any.
            checkpoint: The checkpoint.
            metadata: Its metadata.
            new_versions: The channels whose values are not those of the parent.

        Returns:
            A config that names the checkpoint.

        Raises:
            InvalidIdentifierError: The config names no thread, or something that is no id.
            SnapshotEncodeError: It is too large.
            SnapshotConflictError: Its parent is not the newest checkpoint; only with
                `on_conflict="raise"`.
            StorageError: It can't be stored. `outcome` tells whether it may have been.
        """
        await self._run(self._operations.put(config, checkpoint, metadata, new_versions))
        return config_of(names_in(config), checkpoint["id"])

    def put(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """As `aput`."""
        self._call(self._operations.put(config, checkpoint, metadata, new_versions))
        return config_of(names_in(config), checkpoint["id"])

    async def aput_writes(
        self,
        config: RunnableConfig,
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str = "",
    ) -> None:
        """Store the writes of a task beside a checkpoint, by one request.

        Args:
            config: It names the checkpoint.
            writes: Channels and values.
            task_id: The task.
            task_path: The path of the task, by which writes are ordered.

        Raises:
            InvalidIdentifierError: The config names no checkpoint, or something that is no id.
            SnapshotEncodeError: They are too large.
            StorageError: They can't be stored. To store them again is safe.
        """
        await self._run(self._operations.put_writes(config, writes, task_id, task_path))

    def put_writes(
        self,
        config: RunnableConfig,
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str = "",
    ) -> None:
        """As `aput_writes`."""
        self._call(self._operations.put_writes(config, writes, task_id, task_path))

    async def adelete_thread(self, thread_id: str) -> None:
        """Delete a thread. What a run under way stores meanwhile may stay.

        Args:
            thread_id: The thread; nothing happens if there is none.

        Raises:
            InvalidIdentifierError: The id is no `str`.
            PartialDeleteError: Some objects were not confirmed as deleted. Delete it again.
        """
        await self._run(self._operations.delete_thread(thread_id))

    def delete_thread(self, thread_id: str) -> None:
        """As `adelete_thread`."""
        self._call(self._operations.delete_thread(thread_id))

    async def adelete_for_runs(self, run_ids: Sequence[str]) -> None:
        """Delete the checkpoints of runs, and their writes, in all threads.

        It reads every checkpoint under the prefix, one request each. Delta channels whose history
        had writes of these runs can't be rebuilt any more.

        Args:
            run_ids: The `run_id` in the metadata of the checkpoints.

        Raises:
            PartialDeleteError: Some objects were not confirmed as deleted. Delete them again.
        """
        if run_ids:
            await self._run(self._operations.delete_for_runs(run_ids))

    def delete_for_runs(self, run_ids: Sequence[str]) -> None:
        """As `adelete_for_runs`."""
        if run_ids:
            self._call(self._operations.delete_for_runs(run_ids))

    async def acopy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """Copy a thread: all checkpoints, values and writes.

        Args:
            source_thread_id: The thread; nothing happens if there is none.
            target_thread_id: The thread that the copy becomes. It should not exist.

        Raises:
            InvalidIdentifierError: An id is no `str`.
            ValueError: They are the same.
            StorageError: It can't be copied. To copy it again is safe.
        """
        await self._run(self._operations.copy_thread(source_thread_id, target_thread_id))

    def copy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """As `acopy_thread`."""
        self._call(self._operations.copy_thread(source_thread_id, target_thread_id))

    async def aprune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """Delete the older checkpoints of threads.

        Args:
            thread_ids: The threads.
            strategy: `"keep_latest"` keeps the newest checkpoint of each namespace, and the
                ancestors that its delta channels are rebuilt from. `"delete"` keeps nothing.

        Raises:
            InvalidIdentifierError: An id is no `str`.
            ValueError: There is no such strategy.
            PartialDeleteError: Some objects were not confirmed as deleted. Prune again.
        """
        await self._run(self._operations.prune(thread_ids, strategy))

    def prune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """As `aprune`."""
        self._call(self._operations.prune(thread_ids, strategy))

    async def aget_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """What delta channels are rebuilt from: a value of an ancestor, and the writes since.

        Ancestors are read 32 at a time, and then the writes of up to 100 at a time.

        Args:
            config: It names the checkpoint.
            channels: The channels.

        Returns:
            For each channel its writes, the oldest first, and `seed`, if an ancestor has its value.

        Raises:
            InvalidIdentifierError: The config names no thread, or something that is no id.
            SnapshotDecodeError: What is stored is damaged.
            StorageError: It can't be read.
        """
        if not channels:
            return {}
        return self._operations.histories(
            channels, await self._run(self._operations.trace(config, channels))
        )

    def get_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """As `aget_delta_channel_history`."""
        if not channels:
            return {}
        return self._operations.histories(
            channels, self._call(self._operations.trace(config, channels))
        )

    def get_next_version(self, current: str | None, channel: None) -> str:  # noqa: ARG002
        """The version that follows one: greater as text, and like no other.

        Args:
            current: The version; `None` for none yet. A number is taken as well.
            channel: Not used.
        """
        number = int(str(current).partition(".")[0]) if current is not None else 0
        return f"{number + 1:032}.{random.random():016}"  # noqa: S311 -- no secret

    @property
    def _operations(self) -> Operations:
        # Made anew, since LangGraph gives a copy of the saver another serialiser.
        return Operations(self.serde, self._threads, self._heads, self._base)
