"""What a conformance suite is given: the thing to test, and a way to look behind it.

A suite puts objects in place and looks at what was written without the code it tests, so that a
storage which only understands itself does not pass.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Generic, Protocol, TypeVar

from snapstore.model.protocols import SnapshotStorage
from snapstore.stores.base import ObjectStore

__all__ = ["RawObjects", "StorageSubject", "StoreSubject", "seed"]

StorageT_co = TypeVar("StorageT_co", bound=SnapshotStorage, covariant=True)

_SEEDED_AT_ONCE: Final = 32


class RawObjects(Protocol):
    """The stored objects, reached without the code under test.

    A key is what follows the storage's prefix and its `/`: a storage with the prefix `prod` keeps
    as `prod/s-1/…` what is `s-1/…` here. Any text that can be a key is one, not only those of
    snapshots.
    """

    async def put(self, key: str, data: bytes) -> None:
        """Store an object, over any there is. Up to 32 of these calls run at the same time."""
        ...

    async def get(self, key: str) -> bytes | None:
        """Read an object; `None` if there is none."""
        ...

    async def keys(self) -> list[str]:
        """List all keys, in any order."""
        ...


@dataclass(frozen=True)
class StorageSubject(Generic[StorageT_co]):
    """What the fixture `subject` of a suite for storages gives.

    Attributes:
        storage: The storage to test, open, with nothing in it.
        raw: Its objects.
    """

    storage: StorageT_co
    raw: RawObjects


@dataclass(frozen=True)
class StoreSubject:
    """What the fixture `subject` of the suite for object stores gives.

    Attributes:
        store: The store to test, open, with nothing in it.
        raw: Its objects.
    """

    store: ObjectStore
    raw: RawObjects


async def seed(raw: RawObjects, objects: Mapping[str, bytes]) -> None:
    """Store many objects, 32 at a time.

    Args:
        raw: Where to.
        objects: The bodies by key.
    """
    slots = asyncio.Semaphore(_SEEDED_AT_ONCE)

    async def put(key: str, data: bytes) -> None:
        async with slots:
            await raw.put(key, data)

    async with asyncio.TaskGroup() as tasks:
        for key, data in objects.items():
            tasks.create_task(put(key, data))
