"""The head of a conversation: its newest items, and the segments that have the older ones."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, Final

import msgspec

from snapstore.encoding.documents import decode_document, encode_document, encode_json
from snapstore.errors import SnapshotDecodeError
from snapstore.model.ids import new_snapshot_id
from snapstore.stores.base import StoredObject, Version

__all__ = ["MAX_OBJECT_BYTES", "Head", "Segment"]

MAX_OBJECT_BYTES: Final = 64 * 2**20
"""How large a head or a segment may be."""

_SEGMENT_BYTES: Final = 64 * 1024
"""From so many bytes on, the items of the head become a segment."""

_SEGMENT_ITEMS: Final = 200
_FORMAT: Final = 1


class Segment(msgspec.Struct, frozen=True):
    """Items that follow each other, in an object that is written once.

    Attributes:
        name: Its name.
        items: How many items it has.
    """

    name: str
    items: int


class Head(msgspec.Struct, frozen=True):
    """The state of a conversation.

    Attributes:
        segments: Older items, oldest first.
        tail: The newest items.
        tail_bytes: How many bytes of JSON those are, as they are stored.
        version: The version that is stored; `None` if there is none.
    """

    segments: tuple[Segment, ...] = ()
    tail: tuple[Any, ...] = ()
    tail_bytes: int = 0
    version: Version | None = None

    @property
    def items(self) -> int:
        """How many items there are."""
        return sum(segment.items for segment in self.segments) + len(self.tail)

    @property
    def is_full(self) -> bool:
        """Whether the tail should become a segment before something is added."""
        return self.tail_bytes >= _SEGMENT_BYTES or len(self.tail) >= _SEGMENT_ITEMS

    def encode(self) -> bytes:
        """The head as it is stored."""
        # No two heads have equal bytes, so no two versions have equal etags.
        document = {
            "version": _FORMAT,
            "revision": new_snapshot_id(),
            "segments": [msgspec.to_builtins(segment) for segment in self.segments],
            "tail": list(self.tail),
        }
        return encode_document(document, MAX_OBJECT_BYTES)

    @classmethod
    def decode(cls, stored: StoredObject, key: str) -> Head:
        """The head that was stored.

        Raises:
            SnapshotDecodeError: It is none, or is of a format that is not known.
        """
        document = decode_document(stored.data, key, "head of a conversation")
        if document.get("version") != _FORMAT:
            # A newer snapstore may keep what this one would drop when it writes the head anew.
            raise SnapshotDecodeError(
                f"{key} is not the head of a conversation in format {_FORMAT}, the only one that "
                "this version of snapstore knows",
                key=key,
            )
        with suppress(KeyError, msgspec.ValidationError):
            segments = msgspec.convert(document["segments"], tuple[Segment, ...])
            tail = msgspec.convert(document["tail"], tuple[dict[str, Any], ...])
            if all(segment.items > 0 for segment in segments):
                tail_bytes = len(stored.data) - len(encode_json(document["segments"]))
                return cls(segments, tail, tail_bytes, stored.version)
        # Without the cause, which would show what is stored.
        raise SnapshotDecodeError(f"{key} is not the head of a conversation", key=key)
