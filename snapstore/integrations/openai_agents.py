"""OpenAI Agents SDK: a `Session` that keeps a conversation in S3, in files, or in memory.

::

    session = SnapstoreSession("user-123", S3ObjectStore("my-bucket"), prefix="agents")
    result = await Runner.run(agent, "What is the weather?", session=session)

A conversation is a *head* and *segments*. The head has the newest items, and the names of segments
of older ones. Segments are written once and never changed, so a turn rewrites only the head,
however long the conversation is. The head is written only over the version that was read: no append
is lost, and each is there as a whole or not at all. See `docs/formats/openai-agents.md`.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import aclosing, suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar, cast

import msgspec

from snapstore.encoding.documents import decode_document, encode_document
from snapstore.errors import (
    InvalidIdentifierError,
    SnapshotConflictError,
    SnapshotDecodeError,
    SnapshotEncodeError,
)
from snapstore.integrations.adapter import StoreAdapter, delete_keys, together
from snapstore.integrations.segments import to_segment
from snapstore.model.ids import new_snapshot_id, snapshot_time
from snapstore.stores.base import ObjectStore, PreconditionFailedError, Version
from snapstore.stores.managed import ManagedStore
from snapstore.stores.retry import full_jitter

try:
    from agents.memory.session_settings import resolve_session_limit
except ImportError as _error:
    raise ImportError(
        "snapstore.integrations.openai_agents needs the OpenAI Agents SDK: "
        'pip install "snapstore[openai-agents]"'
    ) from _error

if TYPE_CHECKING:
    from agents.items import TResponseInputItem
    from agents.memory import SessionSettings

__all__ = ["SnapstoreSession"]

T = TypeVar("T")

_MAX_BYTES: Final = 64 * 2**20
"""How large an object may be: one turn, and the newest ones before it."""
_SEGMENT_BYTES: Final = 64 * 1024
"""From so many bytes on the items of the head become a segment."""
_SEGMENT_ITEMS: Final = 200
_MAX_ATTEMPTS: Final = 64
_REREADS: Final = 5
_ORPHANED: Final = timedelta(hours=1)
"""How old a segment is that nothing refers to, before it is removed: its writer is gone."""
_LONGEST: Final = 300
"""Bytes of a key after the prefix: the segment of the session, `/segments/`, and a name."""


class _Segment(msgspec.Struct, frozen=True):
    name: str
    items: int


class _Head(msgspec.Struct, frozen=True):
    """The state of a conversation.

    Attributes:
        segments: Older items, oldest first.
        tail: The newest items.
        size: Bytes of the head as it is stored.
        version: The version that is stored; `None` if there is none.
    """

    segments: tuple[_Segment, ...] = ()
    tail: tuple[Any, ...] = ()
    size: int = 0
    version: Version | None = None

    @property
    def items(self) -> int:
        """How many items there are."""
        return sum(segment.items for segment in self.segments) + len(self.tail)


class SnapstoreSession(StoreAdapter):
    """A conversation of the OpenAI Agents SDK in an object store: its `Session` protocol.

    It may be used from any thread and any event loop, by any number of processes at a time. It is
    opened by the first use, and closed by `async with`, `aclose` or `close`. For many sessions make
    one and take the others by `with_session_id`, or pass a `ManagedStore`: they share connections.

    Args:
        session_id: Any text.
        store: `S3ObjectStore("my-bucket")` or any other object store; or a `ManagedStore` that is
            open, whose event loop and timeout it shares.
        prefix: What all keys begin with, without the closing `/`; used verbatim.
        session_settings: The default settings of the SDK; `limit` is how many items are read.
        timeout: Seconds that each request may take, its retries included; `None` for no deadline.

    Attributes:
        session_id: As the argument.
        session_settings: As the argument.

    Raises:
        InvalidIdentifierError: The session id is no text, or the prefix can't be part of a key.
        TypeError: The store uses an S3 client that was passed in.
        ValueError: `timeout` is not positive.

    Every method raises `StorageError` where the store fails, `SnapshotDecodeError` where what is
    stored is no conversation, and `StorageClosedError` after it was closed.
    """

    def __init__(
        self,
        session_id: str,
        store: ObjectStore | ManagedStore,
        *,
        prefix: str = "",
        session_settings: SessionSettings | None = None,
        timeout: float | None = 60.0,
    ) -> None:
        super().__init__(store, prefix=prefix, timeout=timeout, longest=_LONGEST)
        self._prefix = _prefix_of(self._base, session_id)
        self.session_id: str = session_id
        self.session_settings: SessionSettings | None = session_settings

    def with_session_id(self, session_id: str) -> Self:
        """Another session in the same place, which shares connections and life with this one.

        Args:
            session_id: Any text.
        """
        other = copy.copy(self)
        other._prefix = _prefix_of(self._base, session_id)  # noqa: SLF001 -- it is a copy of this one
        other.session_id = session_id
        return other

    async def get_items(self, limit: int | None = None) -> list[TResponseInputItem]:
        """Read the newest items, oldest first.

        One request, and one for each segment that is needed, all at a time.

        Args:
            limit: How many at the most; `None` for the settings' limit, or all. Zero or less is
                none.
        """
        wanted = resolve_session_limit(limit, self.session_settings)
        if wanted is not None and wanted <= 0:
            return []

        async def read(store: ManagedStore) -> list[Any]:
            for _ in range(_REREADS):
                items = await self._read_items(store, await self._read_head(store), wanted)
                if items is not None:
                    return items
            raise SnapshotConflictError(
                f"{self._prefix} is rewritten all the time", key=self._prefix, operation="get"
            )

        return cast("list[TResponseInputItem]", await self._run(read))

    async def add_items(self, items: list[TResponseInputItem]) -> None:
        """Append items: all of them, or none.

        A call that is cancelled waits until it is known whether they were appended.

        Args:
            items: The items, each a JSON object.

        Raises:
            SnapshotEncodeError: JSON can't carry an item exactly.
            SnapshotConflictError: Other writers came first, 64 times.
            OutcomeUnknownError: Nothing tells whether they were appended.
        """
        added = _validated(items)
        if not added:
            return

        async def append(store: ManagedStore, head: _Head, written: list[str]) -> _Head:
            tail, segments = head.tail, head.segments
            if head.size >= _SEGMENT_BYTES or len(tail) >= _SEGMENT_ITEMS:
                name = await self._write_segment(store, tail)
                written.append(name)
                segments, tail = (*segments, _Segment(name, len(tail))), ()
            return _Head(segments, (*tail, *added))

        await self._to_the_end(lambda store: self._change(store, append))

    async def pop_item(self) -> TResponseInputItem | None:
        """Remove the newest item.

        Returns:
            The item; `None` if there is none.
        """

        async def pop(store: ManagedStore) -> Any:
            popped: list[Any] = []

            async def shorten(store: ManagedStore, head: _Head, _: list[str]) -> _Head | None:
                popped.clear()
                if not head.items:
                    return None
                shorter, removed = await self._split(store, head, head.items - 1)
                popped.extend(removed)
                return shorter

            await self._change(store, shorten)
            return popped[0] if popped else None

        return cast("TResponseInputItem | None", await self._to_the_end(pop))

    async def clear_session(self) -> None:
        """Remove all items, and the state of a run that was kept beside them."""
        await self._to_the_end(self._clear)

    async def count_items(self) -> int:
        """How many items there are: a point to which `rewind` goes back."""

        async def count(store: ManagedStore) -> int:
            return (await self._read_head(store)).items

        return await self._run(count)

    async def rewind(self, items: int) -> list[TResponseInputItem]:
        """Go back to an earlier point: remove the items that came after it.

        Args:
            items: How many stay, as `count_items` told at that point.

        Returns:
            The items that were removed, oldest first.

        Raises:
            ValueError: There are fewer items, or it is negative. Nothing was changed.
        """
        if items < 0:
            raise ValueError("items must not be negative")

        async def go_back(store: ManagedStore) -> list[Any]:
            removed: list[Any] = []

            async def shorten(store: ManagedStore, head: _Head, _: list[str]) -> _Head | None:
                removed.clear()
                if head.items < items:
                    raise ValueError(f"there are only {head.items} items")
                if head.items == items:
                    return None
                shorter, rest = await self._split(store, head, items)
                removed.extend(rest)
                return shorter

            await self._change(store, shorten)
            return removed

        return cast("list[TResponseInputItem]", await self._to_the_end(go_back))

    async def save_run_state(self, state: dict[str, Any]) -> None:
        """Keep the state of a run that waits for a human, over any there is.

        Args:
            state: What `RunState.to_json()` gives.

        Raises:
            SnapshotEncodeError: JSON can't carry it exactly.
        """
        data = encode_document(state, _MAX_BYTES)
        await self._to_the_end(lambda store: store.put(f"{self._prefix}run-state.json", data))

    async def load_run_state(self) -> dict[str, Any] | None:
        """Load the state of a run, for `RunState.from_json`; `None` if there is none."""
        key = f"{self._prefix}run-state.json"
        stored = await self._run(lambda store: store.get(key, max_bytes=_MAX_BYTES))
        return None if stored is None else decode_document(stored.data, key, "run state")

    async def delete_run_state(self) -> None:
        """Remove the state of a run, once it has been resumed."""
        await self._to_the_end(lambda store: delete_keys(store, [f"{self._prefix}run-state.json"]))

    async def _read_head(self, store: ManagedStore) -> _Head:
        key = f"{self._prefix}head.json"
        stored = await store.get(key, max_bytes=_MAX_BYTES)
        if stored is None:
            return _Head()
        document = decode_document(stored.data, key, "head of a conversation")
        with suppress(KeyError, msgspec.ValidationError):
            segments = msgspec.convert(document["segments"], tuple[_Segment, ...])
            tail = msgspec.convert(document["tail"], tuple[dict[str, Any], ...])
            return _Head(segments, tail, len(stored.data), stored.version)
        # Without the cause, which would show what is stored.
        raise SnapshotDecodeError(f"{key} is not the head of a conversation", key=key)

    async def _read_items(
        self, store: ManagedStore, head: _Head, wanted: int | None
    ) -> list[Any] | None:
        """Read the newest items; `None` if a segment has gone, so that the head is another now."""
        needed: list[_Segment] = []
        missing = head.items if wanted is None else wanted - len(head.tail)
        for segment in reversed(head.segments):
            if missing <= 0:
                break
            needed.insert(0, segment)
            missing -= segment.items
        parts = await together(self._read_segment(store, segment) for segment in needed)
        items: list[Any] = []
        for part in parts:
            if part is None:
                return None
            items += part
        items += head.tail
        return items if wanted is None else items[-wanted:]

    async def _read_segment(self, store: ManagedStore, segment: _Segment) -> list[Any] | None:
        key = f"{self._prefix}segments/{segment.name}.json"
        stored = await store.get(key, max_bytes=_MAX_BYTES)
        if stored is None:
            return None
        items: Any = decode_document(stored.data, key, "segment of a conversation").get("items")
        if not isinstance(items, list) or len(items) != segment.items:
            raise SnapshotDecodeError(f"{key} is not the segment that its head names", key=key)
        return items

    async def _write_segment(self, store: ManagedStore, items: Sequence[Any]) -> str:
        name = new_snapshot_id()
        data = encode_document({"items": list(items)}, _MAX_BYTES)
        await store.put(f"{self._prefix}segments/{name}.json", data, if_none_match=True)
        return name

    async def _split(self, store: ManagedStore, head: _Head, count: int) -> tuple[_Head, list[Any]]:
        """Divide a conversation after so many items: what comes before, and the rest."""
        segments, before = list(head.segments), head.items - len(head.tail)
        rest: list[Any] = list(head.tail)
        while segments and before > count:
            segment = segments.pop()
            before -= segment.items
            items = await self._read_segment(store, segment)
            if items is None:
                raise PreconditionFailedError(
                    f"{self._prefix} was rewritten meanwhile", operation="get", key=self._prefix
                )
            rest = items + rest
        kept = count - before
        return _Head(tuple(segments), tuple(rest[:kept])), rest[kept:]

    async def _change(
        self,
        store: ManagedStore,
        change: Callable[[ManagedStore, _Head, list[str]], Awaitable[_Head | None]],
    ) -> None:
        """Change the head, again from the start where another writer came first.

        Args:
            store: The store.
            change: Makes the new head from the one that is stored, and adds the names of segments
                that it has written to a list. `None` leaves it as it is.
        """
        key = f"{self._prefix}head.json"
        for attempt in range(_MAX_ATTEMPTS):
            head = await self._read_head(store)
            written: list[str] = []
            try:
                changed = await change(store, head, written)
                if changed is None:
                    return
                await store.put(
                    key,
                    _encoded(changed),
                    if_match=head.version,
                    if_none_match=head.version is None,
                )
            except PreconditionFailedError:
                # Certain: what was written for it alone is of no use.
                await delete_keys(store, [f"{self._prefix}segments/{one}.json" for one in written])
                await asyncio.sleep(full_jitter(min(attempt, 4)))
                continue
            gone = {one.name for one in head.segments} - {one.name for one in changed.segments}
            await delete_keys(store, [f"{self._prefix}segments/{one}.json" for one in gone])
            return
        raise SnapshotConflictError(
            f"{key} was not written: other writers came first, {_MAX_ATTEMPTS} times",
            operation="put",
            bucket=store.name,
            key=key,
            outcome="not applied",
        )

    async def _clear(self, store: ManagedStore) -> None:
        head = await self._read_head(store)
        await delete_keys(store, [f"{self._prefix}head.json", f"{self._prefix}run-state.json"])
        segments = f"{self._prefix}segments/"
        named = [f"{segments}{segment.name}.json" for segment in head.segments]
        await delete_keys(store, named)
        orphans: list[str] = []
        async with aclosing(store.scan(segments)) as pages:
            async for page in pages:
                orphans += [key for key in page if key not in named and _is_orphan(key)]
        now = await self._read_head(store)
        in_use = {f"{segments}{segment.name}.json" for segment in now.segments}
        await delete_keys(store, [key for key in orphans if key not in in_use])

    async def _to_the_end(self, work: Callable[[ManagedStore], Coroutine[Any, Any, T]]) -> T:
        """Make a change, and know what became of it before a cancellation is passed on."""
        task = asyncio.ensure_future(self._run(work, shield=True))
        cancelled: asyncio.CancelledError | None = None
        while not task.done():
            try:
                await asyncio.wait({task})
            except asyncio.CancelledError as error:
                cancelled = cancelled or error
        if cancelled is not None:
            if not task.cancelled():
                task.exception()  # it is known, and the cancellation goes first
            raise cancelled
        return task.result()


def _prefix_of(base: str, session_id: str) -> str:
    return f"{base}{to_segment(session_id, 'session_id')}/"


def _validated(items: Sequence[Any]) -> list[dict[str, Any]]:
    """The items, as they are now: a copy of each that JSON can carry.

    Raises:
        SnapshotEncodeError: One is no JSON object.
    """
    copies: list[dict[str, Any]] = []
    for place, item in enumerate(items):
        if not isinstance(item, dict):
            raise SnapshotEncodeError(f"item {place} is a {type(item).__name__}, not a JSON object")
        data = encode_document(cast("dict[str, Any]", item), _MAX_BYTES)
        copies.append(decode_document(data, "", "item"))
    return copies


def _encoded(head: _Head) -> bytes:
    # No two heads have equal bytes, so no two versions have equal etags.
    document = {
        "version": 1,
        "revision": new_snapshot_id(),
        "segments": [{"name": one.name, "items": one.items} for one in head.segments],
        "tail": list(head.tail),
    }
    return encode_document(document, _MAX_BYTES)


def _is_orphan(key: str) -> bool:
    name = key.rpartition("/")[2].removesuffix(".json")
    try:
        return snapshot_time(name) < datetime.now(UTC) - _ORPHANED
    except InvalidIdentifierError:
        return False
