"""Read and write checkpoints and writes: from LangGraph's ids to objects and back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final, NamedTuple

from snapstore.errors import SnapshotDecodeError, SnapshotEncodeError, StorageUnavailableError
from snapstore.integrations.adapter import both
from snapstore.integrations.langgraph.compression import decompress
from snapstore.integrations.langgraph.keys import Namespace
from snapstore.integrations.langgraph.records import (
    Serialized,
    StoredCheckpoint,
    StoredValue,
    StoredWrites,
    decode,
    encode,
)
from snapstore.integrations.langgraph.scanning import all_keys
from snapstore.integrations.langgraph.stamps import Stamps
from snapstore.integrations.langgraph.values import (
    BoundedCache,
    NewBase,
    decode_value,
    encode_value,
    repeat,
)
from snapstore.storage.overlap import overlap
from snapstore.stores.managed import ManagedStore

__all__ = ["Draft", "Loaded", "Threads", "WriteOf"]

_CACHED_BYTES: Final = 64 * 2**20
"""Of the bases of large values, and as much again of what checkpoints have of them."""

_OFF_LOOP: Final = 256 * 1024
"""From how many bytes on a value is compressed on another thread than the event loop's."""


class WriteOf(NamedTuple):
    """A write as it counts: the first one of its place, or the last one.

    Attributes:
        task_id: The task.
        channel: The channel.
        value: The value.
    """

    task_id: str
    channel: str
    value: Serialized


class Loaded(NamedTuple):
    """A checkpoint with all that belongs to it.

    Attributes:
        record: The checkpoint.
        values: The value of each channel.
        writes: Its pending writes, in their order.
    """

    record: StoredCheckpoint
    values: dict[str, Serialized]
    writes: list[WriteOf]


class Draft(NamedTuple):
    """A checkpoint to be stored.

    Attributes:
        record: The checkpoint, with the values that need no work.
        parent: The values of its parent, as far as they are known.
        new: Version, type and bytes of the other values.
    """

    record: StoredCheckpoint
    parent: dict[str, StoredValue]
    new: dict[str, tuple[str | int | float, str, bytes]]


class Threads:
    """The checkpoints of all threads under a prefix.

    Args:
        max_bytes: How large a checkpoint, a value, and the writes of a call may be.

    Attributes:
        max_bytes: As the argument.
        max_frame_bytes: How large an object may be.
    """

    def __init__(self, max_bytes: int) -> None:
        if max_bytes < 1:
            raise ValueError("max_bytes must be at least 1")
        self.max_bytes: int = max_bytes
        # What does not compress becomes a little longer.
        self.max_frame_bytes: int = max_bytes + max_bytes // 128 + 1024
        self._stamps = Stamps()
        self._bases: BoundedCache[str, bytes] = BoundedCache(_CACHED_BYTES, len)
        self._known: BoundedCache[str, dict[str, StoredValue]] = BoundedCache(
            _CACHED_BYTES, _bytes_of
        )

    def stamp(self) -> str:
        """A name for the writes of a call, greater than those of earlier calls."""
        return self._stamps.next()

    def draft(
        self,
        space: Namespace,
        record: StoredCheckpoint,
        *,
        versions: Mapping[str, str | int | float],
        is_new: Callable[[str], bool],
        serialize: Callable[[str], Serialized],
        channels: Sequence[str],
    ) -> Draft:
        """Take the values of a checkpoint, without I/O.

        Args:
            space: Where it belongs.
            record: The checkpoint; it has no values yet.
            versions: The version of each channel.
            is_new: Whether the value of a channel is not that of the parent.
            serialize: Serialises the value of a channel.
            channels: The channels that have a value.

        Raises:
            SnapshotEncodeError: A value is too large.
        """
        known: dict[str, StoredValue] = {}
        if record.parent_id is not None:
            known = self._known.get(space.checkpoint(record.parent_id)) or known
        new: dict[str, tuple[str | int | float, str, bytes]] = {}
        for channel in channels:
            version = versions.get(channel, 0)
            before = known.get(channel)
            if before is not None and before.version == version and not is_new(channel):
                same = repeat(before)
                if same is not None:
                    record.values[channel] = same
                    continue
            kind, raw = serialize(channel)
            if len(raw) > self.max_bytes:
                raise SnapshotEncodeError(
                    f"the value of the channel {channel!r} has {len(raw):,} bytes, where "
                    f"{self.max_bytes:,} are allowed; max_bytes=… allows for more"
                )
            new[channel] = version, kind, bytes(raw)
        return Draft(record, known, new)

    async def complete(
        self, store: ManagedStore, space: Namespace, draft: Draft
    ) -> tuple[StoredCheckpoint, bytes]:
        """Write the large values of a checkpoint that is to be stored.

        Returns:
            The checkpoint, and the bytes to be stored.

        Raises:
            StorageError: A value can't be written.
        """
        record = draft.record
        written: list[tuple[NewBase, bytes]] = []
        for channel, (version, kind, raw) in draft.new.items():
            known = draft.parent.get(channel)
            base = None
            if known is not None and known.base is not None:
                base = self._bases.get(space.values + known.base)

            encode_it = partial(
                encode_value,
                channel,
                record.checkpoint_id,
                version,
                kind,
                raw,
                known=known,
                base=base,
            )
            is_long = len(raw) >= _OFF_LOOP
            value, new = await asyncio.to_thread(encode_it) if is_long else encode_it()
            record.values[channel] = value
            if new is not None:
                written.append((new, raw))
        data = encode(record, self.max_bytes)
        await overlap(written, lambda one: store.put(space.values + one[0].name, one[0].frame))
        for new, raw in written:
            self._bases.put(space.values + new.name, raw)
        return record, data

    async def put(self, store: ManagedStore, space: Namespace, draft: Draft) -> None:
        """Store a checkpoint.

        Raises:
            StorageError: It can't be stored. To store it again is safe.
        """
        record, data = await self.complete(store, space, draft)
        await store.put(space.checkpoint(record.checkpoint_id), data)
        self.remember(space, record)

    def remember(self, space: Namespace, record: StoredCheckpoint) -> None:
        """Remember the values of a checkpoint, for its children."""
        self._known.put(space.checkpoint(record.checkpoint_id), record.values)

    def forget(self, root: str) -> None:
        """Forget what lies under a prefix."""
        self._known.discard(lambda key: key.startswith(root))
        self._bases.discard(lambda key: key.startswith(root))

    async def record(
        self, store: ManagedStore, space: Namespace, checkpoint_id: str
    ) -> StoredCheckpoint | None:
        """A checkpoint alone; `None` if there is none of this id."""
        key = space.checkpoint(checkpoint_id)
        stored = await store.get(key, max_bytes=self.max_frame_bytes)
        return None if stored is None else self.decode(stored.data, key)

    def decode(self, data: bytes, key: str) -> StoredCheckpoint:
        """The checkpoint that an object has.

        Raises:
            SnapshotDecodeError: It has none.
        """
        return decode(StoredCheckpoint, data, key=key, max_bytes=self.max_bytes)

    async def load(
        self, store: ManagedStore, space: Namespace, checkpoint_id: str
    ) -> Loaded | None:
        """A checkpoint with its values and writes; `None` if there is none of this id."""
        record, writes = await both(
            self.record(store, space, checkpoint_id),
            all_keys(store, space.writes(checkpoint_id)),
        )
        return None if record is None else await self.load_rest(store, space, record, writes)

    async def load_rest(
        self,
        store: ManagedStore,
        space: Namespace,
        record: StoredCheckpoint,
        writes: Sequence[str],
    ) -> Loaded | None:
        """The values and the writes of a checkpoint; `None` if it was deleted meanwhile.

        Args:
            store: The store.
            space: Where it belongs.
            record: The checkpoint.
            writes: The keys of its writes.

        Raises:
            SnapshotDecodeError: What is stored is damaged, or a value is missing.
        """
        try:
            return await self._load_rest(store, space, record, writes)
        except _ValueGoneError as error:
            gone = error.key
        await self._check_deleted(store, space, record, gone)
        return None

    async def _check_deleted(
        self, store: ManagedStore, space: Namespace, record: StoredCheckpoint, gone: str
    ) -> None:
        """Find out whether a checkpoint was deleted, a value of which is gone.

        Raises:
            SnapshotDecodeError: It was not.
        """
        key = space.checkpoint(record.checkpoint_id)
        if await store.get(key, max_bytes=self.max_frame_bytes) is not None:
            raise SnapshotDecodeError(f"{key} needs {gone}, which does not exist", key=key)

    async def _load_rest(
        self,
        store: ManagedStore,
        space: Namespace,
        record: StoredCheckpoint,
        writes: Sequence[str],
    ) -> Loaded:
        values, found = await both(
            overlap([*record.values], lambda channel: self._value(store, space, record, channel)),
            self.read_writes(store, writes),
        )
        self.remember(space, record)
        return Loaded(record, dict(zip(record.values, values, strict=True)), found)

    async def seed(
        self, store: ManagedStore, space: Namespace, record: StoredCheckpoint, channel: str
    ) -> Serialized:
        """The value of a channel in an ancestor of a checkpoint.

        Raises:
            SnapshotDecodeError: It is damaged, or missing.
            StorageUnavailableError: The ancestor was deleted since it was read.
        """
        try:
            return await self._value(store, space, record, channel)
        except _ValueGoneError as error:
            gone = error.key
        await self._check_deleted(store, space, record, gone)
        raise StorageUnavailableError(
            f"{space.checkpoint(record.checkpoint_id)} was deleted while it was read",
            operation="get",
            bucket=store.name,
            key=gone,
        )

    async def _value(
        self, store: ManagedStore, space: Namespace, record: StoredCheckpoint, channel: str
    ) -> Serialized:
        """The value of a channel in a checkpoint."""
        value = record.values[channel]
        base = None
        if value.base is not None:
            base = await self._base(store, space.values + value.base)
        key = space.checkpoint(record.checkpoint_id)
        if value.data is not None and len(value.data) >= _OFF_LOOP:
            raw = await asyncio.to_thread(
                decode_value, value, base, key=key, max_bytes=self.max_bytes
            )
        else:
            raw = decode_value(value, base, key=key, max_bytes=self.max_bytes)
        return value.kind, raw

    async def _base(self, store: ManagedStore, key: str) -> bytes:
        known = self._bases.get(key)
        if known is not None:
            return known
        stored = await store.get(key, max_bytes=self.max_frame_bytes)
        if stored is None:
            raise _ValueGoneError(key)
        try:
            raw = await asyncio.to_thread(decompress, stored.data, max_bytes=self.max_bytes)
        except ValueError as error:
            why = str(error)
        else:
            self._bases.put(key, raw)
            return raw
        raise SnapshotDecodeError(f"{key} is no value of a channel: {why}", key=key)

    async def writes(
        self, store: ManagedStore, space: Namespace, checkpoint_id: str
    ) -> list[WriteOf]:
        """The writes of a checkpoint, in the order in which they count."""
        return await self.read_writes(store, await all_keys(store, space.writes(checkpoint_id)))

    async def read_writes(self, store: ManagedStore, keys: Sequence[str]) -> list[WriteOf]:
        """The writes under these keys, in the order in which they count.

        Of those with one index of one task, the first one counts, and for a negative index the last
        one; the order is that of task path, task and index.
        """
        # The stamp tells the order of calls; keys of different tasks are never compared.
        ordered = sorted(keys, key=_stamp_of)
        for key in ordered[-1:]:
            self._stamps.see(_stamp_of(key))
        objects = await overlap(ordered, partial(self._read_writes, store))
        counting: dict[tuple[str, int], tuple[str, WriteOf]] = {}
        for found in objects:
            if found is None:
                continue
            for write in found.writes:
                place = found.task_id, write.index
                if write.index < 0 or place not in counting:
                    value = WriteOf(found.task_id, write.channel, write.value)
                    counting[place] = found.task_path, value
        order = sorted(counting, key=lambda place: (counting[place][0], *place))
        return [counting[place][1] for place in order]

    async def _read_writes(self, store: ManagedStore, key: str) -> StoredWrites | None:
        stored = await store.get(key, max_bytes=self.max_frame_bytes)
        if stored is None:  # it was deleted since it was listed
            return None
        return decode(StoredWrites, stored.data, key=key, max_bytes=self.max_bytes)


class _ValueGoneError(Exception):
    """An object that a checkpoint names does not exist."""

    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.key = key


def _stamp_of(key: str) -> str:
    return key.rpartition("/")[2]


def _bytes_of(values: dict[str, StoredValue]) -> int:
    return sum(len(value.data or b"") + 200 for value in values.values())
