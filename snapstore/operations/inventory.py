"""All objects of one session as a listing shows them, in little memory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Final

from snapstore.errors import InvalidIdentifierError, UnsupportedOperationError
from snapstore.model.ids import snapshot_time
from snapstore.model.keys import Layout
from snapstore.stores.capabilities import DetailedListingStore, ObjectDetails, capability
from snapstore.stores.managed import ManagedStore

__all__ = ["Inventory", "take_inventory"]

_END_OF_TIME: Final = datetime.max.replace(tzinfo=UTC)


class Inventory:
    """What lies under a session, and under its stash.

    A snapshot in history takes 16 bytes of memory, any other object that of its key.

    Args:
        layout: The keys.
        session_id: The session.

    Attributes:
        latests: The latest snapshots.
        objects: How many objects there are, those of the stash included.
        size: Their bytes.
        updated_at: The latest of the times in snapshot ids, and of the times at which any other
            object was written; `None` if there is no object.
    """

    def __init__(self, layout: Layout, session_id: str) -> None:
        self._layout = layout
        self._session_prefix = layout.session_prefix(session_id)
        self._stash_prefix = layout.stash_prefix(session_id)
        self._history: dict[str, bytearray] = {}
        self._others: list[str] = []
        self._stash: list[str] = []
        self._sum = self._sum_of_latests = 0
        self.latests: list[ObjectDetails] = []
        self.objects: int = 0
        self.size: int = 0
        self.updated_at: datetime | None = None

    def add(self, found: ObjectDetails) -> None:
        """Add an object under the session."""
        if self._layout.is_nested_store(found.key, self._session_prefix):
            return
        place = self._layout.place_of(found.key, self._session_prefix)
        time = found.modified
        if place is not None and place.kind == "latest":
            self.latests.append(found)
            self._sum_of_latests += _hash(found)
        elif place is not None and place.snapshot_id is not None:
            ids = self._history.setdefault(self._layout.history_prefix(place.location), bytearray())
            ids += bytes.fromhex(place.snapshot_id.replace("-", ""))
            try:
                time = snapshot_time(place.snapshot_id)
            except InvalidIdentifierError:  # later than any date
                time = _END_OF_TIME
        else:
            self._others.append(found.key)
        self._count(found, time)

    def add_stash(self, found: ObjectDetails) -> None:
        """Add an object of the stash."""
        self._stash.append(found.key)
        self._count(found, found.modified)

    def _count(self, found: ObjectDetails, time: datetime) -> None:
        # A sum, since the order of keys is the server's.
        self._sum += _hash(found)
        self.objects += 1
        self.size += found.size
        if self.updated_at is None or self.updated_at < time:
            self.updated_at = time

    @property
    def fingerprint(self) -> str:
        """A hash of all keys and their versions."""
        return _as_text(self._sum)

    @property
    def fingerprint_without_latests(self) -> str:
        """A hash of what is left when the latest snapshots are deleted."""
        return _as_text(self._sum - self._sum_of_latests)

    @property
    def is_session(self) -> bool:
        """Whether anything of it is of the layout."""
        return bool(self.latests) or self.has_rest

    def keys(self) -> Iterator[str]:
        """The keys that are no latest snapshot and not of the stash; those of the layout last."""
        foreign = [k for k in self._others if not Layout.is_own(k, self._session_prefix)]
        yield from foreign
        for prefix, ids in self._history.items():
            for start in range(0, len(ids), 16):
                digits = ids[start : start + 16].hex()
                parts = digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]
                yield f"{prefix}snapshot_{'-'.join(parts)}.json"
        yield from (k for k in self._others if Layout.is_own(k, self._session_prefix))

    @property
    def has_rest(self) -> bool:
        """Whether anything of the layout is there beside latest snapshots."""
        own = (Layout.is_own(key, self._session_prefix) for key in self._others)
        return bool(self._history) or any(own)

    @property
    def has_stash(self) -> bool:
        """Whether it has a stash."""
        return bool(self._stash)

    def stash_keys(self) -> Iterator[str]:
        """The keys of the stash."""
        yield from self._stash


async def take_inventory(objects: ManagedStore, layout: Layout, session_id: str) -> Inventory:
    """List a session and its stash.

    Args:
        objects: The store.
        layout: The keys.
        session_id: The session.

    Raises:
        UnsupportedOperationError: The store's listings don't tell when objects were written.
    """
    inventory = Inventory(layout, session_id)
    detailed = capability(objects, DetailedListingStore)
    if detailed is None:
        raise UnsupportedOperationError(
            f"{objects.name}: listings of this store don't tell when objects were written",
            operation="scan",
            bucket=objects.name,
        )
    async with aclosing(detailed.scan_details(layout.session_prefix(session_id))) as pages:
        async for page in pages:
            for found in page:
                inventory.add(found)
    async with aclosing(detailed.scan_details(layout.stash_prefix(session_id))) as pages:
        async for page in pages:
            for found in page:
                if layout.is_stash(found.key, session_id):
                    inventory.add_stash(found)
    return inventory


def _hash(found: ObjectDetails) -> int:
    told = f"{found.key}\0{found.size}\0{found.etag}\0{found.modified.isoformat()}"
    return int.from_bytes(hashlib.blake2b(told.encode(), digest_size=16).digest())


def _as_text(total: int) -> str:
    return f"{total % (1 << 128):032x}"
