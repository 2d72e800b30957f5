"""What is stored of checkpoints and writes: MessagePack in a Zstandard frame.

What LangGraph hands over is serialised by the saver's `serde` and kept as that made it: the name
of a type and bytes.
"""

from __future__ import annotations

from typing import Final, Literal, TypeVar

import msgspec

from snapstore.errors import SnapshotDecodeError, SnapshotEncodeError
from snapstore.integrations.langgraph.compression import compress, decompress

__all__ = [
    "Serialized",
    "StoredCheckpoint",
    "StoredValue",
    "StoredWrite",
    "StoredWrites",
    "decode",
    "encode",
]

Serialized = tuple[str, bytes]
"""What `dumps_typed` returns: the name of a type, and the bytes."""

_FORMAT: Final = 1


class StoredValue(msgspec.Struct, frozen=True, array_like=True):
    """The value of a channel in a checkpoint.

    Args:
        version: Its version.
        kind: The type that the serialiser gave it.
        data: Its bytes, where there is no `base`; else a frame with the base as dictionary, or
            `None` where it equals the base.
        base: The object that has its bytes, or those of an earlier value: the key after `v/`.
        size: How many bytes that object has.
        spent: How many bytes checkpoints have stored since beside that object.
    """

    version: str | int | float
    kind: str
    data: bytes | None
    base: str | None = None
    size: int = 0
    spent: int = 0


class StoredCheckpoint(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """A checkpoint.

    Args:
        format: The version of the format.
        thread: The thread's id, in UTF-8.
        namespace: The namespace, in UTF-8.
        checkpoint_id: Its id.
        parent_id: The id of its parent; `None` for a first one.
        checkpoint: The checkpoint without the values of its channels.
        metadata: The metadata.
        values: The value of each channel that has one.
    """

    format: Literal[1] = _FORMAT
    thread: bytes
    namespace: bytes
    checkpoint_id: str
    parent_id: str | None
    checkpoint: Serialized
    metadata: Serialized
    values: dict[str, StoredValue]


class StoredWrite(msgspec.Struct, frozen=True, array_like=True):
    """One write of a task.

    Args:
        index: Its place among the writes of the task; negative for those that replace each other.
        channel: The channel.
        value: The value.
    """

    index: int
    channel: str
    value: Serialized


class StoredWrites(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """The writes of a task, those of one call.

    Args:
        format: The version of the format.
        task_id: The task.
        task_path: The path of the task.
        writes: The writes.
    """

    format: Literal[1] = _FORMAT
    task_id: str
    task_path: str
    writes: list[StoredWrite]


Record = TypeVar("Record", StoredCheckpoint, StoredWrites)

_encoder = msgspec.msgpack.Encoder()


def encode(record: StoredCheckpoint | StoredWrites, max_bytes: int) -> bytes:
    """The bytes that are stored.

    Args:
        record: The record.
        max_bytes: How many bytes it may have before it is compressed.

    Raises:
        SnapshotEncodeError: It has a text that UTF-8 can't carry, or is too large.
    """
    try:
        data = _encoder.encode(record)
    except UnicodeEncodeError:
        raise SnapshotEncodeError(
            "the name of a channel or of a task has half of a surrogate pair"
        ) from None
    if len(data) > max_bytes:
        raise SnapshotEncodeError(
            f"a checkpoint or its writes have {len(data):,} bytes, where {max_bytes:,} are "
            "allowed; max_bytes=… allows for more"
        )
    return compress(data)


def decode(kind: type[Record], frame: bytes, *, key: str, max_bytes: int) -> Record:
    """The record that was stored.

    Args:
        kind: What it has to be.
        frame: What is stored.
        key: The key of the object, for messages.
        max_bytes: How many bytes it may have.

    Raises:
        SnapshotDecodeError: It is none.
    """
    try:
        return msgspec.msgpack.decode(decompress(frame, max_bytes=max_bytes), type=kind)
    except msgspec.MsgspecError:
        why = "it has another shape"
    except ValueError as error:
        why = str(error)
    # Outside of the handler: the error in the chain could show what is stored.
    what = "checkpoint" if kind is StoredCheckpoint else "set of writes"
    raise SnapshotDecodeError(f"{key} is no {what} of this version: {why}", key=key)
