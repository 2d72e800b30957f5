"""Large values of channels: stored once, and then as what has changed since.

A conversation grows by a message at a time, and each checkpoint has all of it. So a large value
becomes an object of its own, its *base*. Later values are compressed with the base as dictionary,
which leaves little more than what is new, and lie in their checkpoints: to read one takes one
request beside that for the checkpoint. When the checkpoints since a base have taken as many bytes
as another base would, the next value is a base. For a list that grows evenly this is least for one
base to each value: the n-th checkpoint takes the bytes of about the square root of 2 n items, where
the whole list has n. Of data that does not compress, 300 checkpoints take a ninth.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, Generic, NamedTuple, TypeVar

from snapstore.errors import SnapshotDecodeError
from snapstore.integrations.langgraph.compression import compress, decompress
from snapstore.integrations.langgraph.records import StoredValue
from snapstore.integrations.segments import to_segment

__all__ = ["LARGE", "BoundedCache", "NewBase", "decode_value", "encode_value", "repeat"]

LARGE: Final = 8 * 1024
"""From how many bytes on a value is an object of its own."""

_SMALL_PART: Final = 4
"""A value that has more than this part of its base's bytes becomes a base itself."""

Key = TypeVar("Key")
Item = TypeVar("Item")


class NewBase(NamedTuple):
    """An object to be written.

    Attributes:
        name: Its key after `v/`.
        frame: Its bytes.
    """

    name: str
    frame: bytes


def encode_value(
    channel: str,
    checkpoint_id: str,
    version: str | float,
    kind: str,
    raw: bytes,
    *,
    known: StoredValue | None,
    base: bytes | None,
) -> tuple[StoredValue, NewBase | None]:
    """Decide how a new value is stored.

    Args:
        channel: The channel.
        checkpoint_id: The checkpoint that it is new in.
        version: Its version.
        kind: The type that the serialiser gave it.
        raw: Its bytes.
        known: The value before it; `None` if there was none, or it is not known.
        base: The bytes of the base of that value; `None` if they are not known.

    Returns:
        What the checkpoint has of it, and the object to be written before the checkpoint, if any.
    """
    if len(raw) < LARGE:
        return StoredValue(version, kind, raw), None
    if known is not None and known.base is not None and base is not None:
        change = compress(raw, base)
        as_base = known.size * len(raw) // len(base)
        spent = known.spent + len(change)
        if spent <= as_base and len(change) * _SMALL_PART <= as_base:
            return StoredValue(version, kind, change, known.base, known.size, spent), None
    frame = compress(raw)
    digest = hashlib.blake2b(raw, digest_size=16).hexdigest()
    name = f"{to_segment(channel, 'channel')}/{checkpoint_id}-{digest}"
    return StoredValue(version, kind, None, name, len(frame)), NewBase(name, frame)


def repeat(known: StoredValue) -> StoredValue | None:
    """What another checkpoint has of a value that has not changed; `None` to store it anew."""
    if known.base is None or known.data is None:
        return known
    spent = known.spent + len(known.data)
    if spent > known.size:
        return None
    return StoredValue(known.version, known.kind, known.data, known.base, known.size, spent)


def decode_value(value: StoredValue, base: bytes | None, *, key: str, max_bytes: int) -> bytes:
    """The bytes of a value.

    Args:
        value: What a checkpoint has of it.
        base: The bytes of its base, if it has one.
        key: The key of the checkpoint, for messages.
        max_bytes: How many they may be.

    Raises:
        SnapshotDecodeError: They can't be restored.
    """
    if base is None:
        return value.data or b""
    if value.data is None:
        return base
    try:
        return decompress(value.data, base, max_bytes=max_bytes)
    except ValueError as error:
        why = str(error)
    raise SnapshotDecodeError(f"a value in {key} can't be restored: {why}", key=key)


class BoundedCache(Generic[Key, Item]):
    """Remembers items by key up to a number of bytes, those last used; from any thread.

    A copy or pickle of it is empty.

    Args:
        max_bytes: How many bytes all items may have.
        size: The bytes of an item.
    """

    def __init__(self, max_bytes: int, size: Callable[[Item], int]) -> None:
        self._max_bytes = max_bytes
        self._size = size
        self._items: OrderedDict[Key, Item] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def __reduce__(
        self,
    ) -> tuple[type[BoundedCache[Key, Item]], tuple[int, Callable[[Item], int]]]:
        return BoundedCache, (self._max_bytes, self._size)

    def get(self, key: Key) -> Item | None:
        """The item under a key, if it is remembered."""
        with self._lock:
            if key in self._items:
                self._items.move_to_end(key)
            return self._items.get(key)

    def put(self, key: Key, item: Item) -> None:
        """Remember an item; the least used ones are forgotten for it."""
        with self._lock:
            self._forget(key)
            self._items[key] = item
            self._bytes += self._size(item)
            while self._bytes > self._max_bytes:
                self._forget(next(iter(self._items)))

    def discard(self, is_stale: Callable[[Key], bool]) -> None:
        """Forget items.

        Args:
            is_stale: Which ones, by their keys.
        """
        with self._lock:
            for key in [key for key in self._items if is_stale(key)]:
                self._forget(key)

    def _forget(self, key: Key) -> None:
        if key in self._items:
            self._bytes -= self._size(self._items.pop(key))
