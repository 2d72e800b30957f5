"""The session: the SDK's `Session` protocol over an object store."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar, cast

from agents.memory.session_settings import resolve_session_limit

from snapstore.encoding.documents import decode_document, encode_document
from snapstore.integrations.adapter import StoreAdapter, delete_keys
from snapstore.integrations.openai_agents.conversation import Conversation, validate_items
from snapstore.integrations.openai_agents.head import Head
from snapstore.integrations.segments import to_segment
from snapstore.stores.base import ObjectStore
from snapstore.stores.managed import ManagedStore

if TYPE_CHECKING:
    from agents.items import TResponseInputItem
    from agents.memory import SessionSettings

__all__ = ["SnapstoreSession"]

T = TypeVar("T")

_MAX_STATE_BYTES: Final = 64 * 2**20
_RUN_STATE: Final = "run-state.json"
_LONGEST: Final = 300
"""Bytes of a key after the prefix: the segment of the session, `/segments/`, and a name."""


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
        items = await self._run(lambda store: self._conversation(store).read(wanted))
        return cast("list[TResponseInputItem]", items)

    async def add_items(self, items: list[TResponseInputItem]) -> None:
        """Append items: all of them, or none.

        A call that is cancelled waits until it is known whether they were appended.

        Args:
            items: The items, each a JSON object.

        Raises:
            SnapshotEncodeError: JSON can't carry an item exactly, or they have more than 32 MiB.
            SnapshotConflictError: Other writers came first, 64 times.
            OutcomeUnknownError: Nothing tells whether they were appended.
        """
        added = validate_items(items)
        if added:
            await self._to_the_end(lambda store: self._conversation(store).append(added))

    async def pop_item(self) -> TResponseInputItem | None:
        """Remove the newest item.

        Returns:
            The item; `None` if there is none.
        """
        popped = await self._shorten(lambda head: max(head.items - 1, 0))
        return popped[0] if popped else None

    async def clear_session(self) -> None:
        """Remove all items, and the state of a run that was kept beside them."""
        await self._to_the_end(lambda store: self._conversation(store).clear(_RUN_STATE))

    async def count_items(self) -> int:
        """How many items there are: a point to which `rewind` goes back."""

        async def count(store: ManagedStore) -> int:
            return (await self._conversation(store).read_head()).items

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

        def keep(head: Head) -> int:
            if head.items < items:
                raise ValueError(f"there are only {head.items} items")
            return items

        return await self._shorten(keep)

    async def save_run_state(self, state: dict[str, Any]) -> None:
        """Keep the state of a run that waits for a human, over any there is.

        Args:
            state: What `RunState.to_json()` gives.

        Raises:
            SnapshotEncodeError: JSON can't carry it exactly.
        """
        data = encode_document(state, _MAX_STATE_BYTES)
        await self._to_the_end(lambda store: store.put(f"{self._prefix}{_RUN_STATE}", data))

    async def load_run_state(self) -> dict[str, Any] | None:
        """Load the state of a run, for `RunState.from_json`; `None` if there is none."""
        key = f"{self._prefix}{_RUN_STATE}"
        stored = await self._run(lambda store: store.get(key, max_bytes=_MAX_STATE_BYTES))
        return None if stored is None else decode_document(stored.data, key, "run state")

    async def delete_run_state(self) -> None:
        """Remove the state of a run, once it has been resumed."""
        await self._to_the_end(lambda store: delete_keys(store, [f"{self._prefix}{_RUN_STATE}"]))

    def _conversation(self, store: ManagedStore) -> Conversation:
        return Conversation(store, self._prefix)

    async def _shorten(self, count: Callable[[Head], int]) -> list[TResponseInputItem]:
        items = await self._to_the_end(lambda store: self._conversation(store).shorten(count))
        return cast("list[TResponseInputItem]", items)

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
