"""The latest snapshot of an agent: a compare-and-swap on the version that the agent knows.

Several saves and restores of one agent may be under way at once, on several event loops. They run
one after the other here, on the portal's event loop, which no other loop can block. A save is left
out if a newer state of the same agent has been saved already.

A write may be applied although its response was lost, and even later on. So each write is recorded
before it is sent, and an agent that finds its own write stored knows that version. A process that
is forked off while a write is in flight has the record as well, and recognises the write.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Final, NamedTuple, TypeVar
from weakref import WeakKeyDictionary

from snapstore.errors import SessionDeletedError, SnapshotConflictError
from snapstore.integrations.strands.objects import Objects
from snapstore.stores.base import (
    ObjectTooLargeError,
    PreconditionFailedError,
    StoredObject,
    Version,
)

__all__ = ["Found", "LastKnown", "LatestSnapshots"]

T = TypeVar("T")

_ATTEMPTS: Final = 16
"""How often one save is tried if another version is found each time."""


class _Write(NamedTuple):
    """A write that was sent.

    Attributes:
        digest: Identifies its bytes.
        taken: When the agent's state was taken.
        over: The etag of the version that it is to replace; `None` where it creates the object.
    """

    digest: bytes
    taken: int
    over: str | None


class LastKnown:
    """What an agent knows of its session in the store. Only `LatestSnapshots` changes it.

    Attributes:
        version: The version of latest that it restored or saved last; `None` if it found none.
        history: The key of a snapshot in history that it restored or saved, while `version` is
            `None`.
        deleted: Whether what it knew was found to be gone.
        saved: When the state was taken that it saved last.
        restored: When it restored what was stored.
        sent: How many writes of latest it has sent.
        unconfirmed: Its writes that may have replaced `version`, or may still do so.
    """

    def __init__(self) -> None:
        self.version: Version | None = None
        self.history: str | None = None
        self.deleted: bool = False
        self.saved: int = -1
        self.restored: int = -1
        self.sent: int = 0
        self.unconfirmed: list[_Write] = []

    def set_version(self, version: Version | None) -> None:
        """Set the version, and forget writes that can't be applied any more."""
        # In this order: a process that is forked in between must recognise its write.
        self.version = version
        etag = _etag_of(version)
        self.unconfirmed = [write for write in self.unconfirmed if write.over == etag]
        if version is not None:
            self.history = None

    def recognise(self, stored: StoredObject) -> bool:
        """Adopt the stored version if this agent has written it; return whether it has."""
        digest = _digest_of(stored.data)
        for write in self.unconfirmed:
            if write.digest == digest:
                self.saved = max(self.saved, write.taken)
                self.set_version(stored.version)
                return True
        return False


class Found(NamedTuple):
    """The latest snapshot as it was read for an agent.

    Attributes:
        stored: The latest snapshot as it is stored; `None` if there is none.
        sent: How many writes the agent had sent by then.
    """

    stored: StoredObject | None
    sent: int


class LatestSnapshots:
    """The latest snapshots of agents, one operation of an agent at a time.

    Every operation ends by the deadline of the store, which covers the wait for the operations
    before it.

    Args:
        objects: Where the snapshots are.
    """

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        # Not in LastKnown, which outlives this event loop when a process is forked off.
        self._locks: WeakKeyDictionary[LastKnown, asyncio.Lock] = WeakKeyDictionary()

    async def read(self, key: str, known: LastKnown, *, must_exist: bool) -> Found:
        """Read the latest snapshot for an agent. Call `adopt` when the agent has restored it.

        Args:
            key: Its key.
            known: What the agent knows.
            must_exist: Whether it is an error that there is none, if the agent knew one.

        Raises:
            SessionDeletedError: The agent knew a snapshot, and there is none any more.
        """

        async def read() -> Found:
            stored = await self._objects.get_as_stored(key)
            if stored is None and must_exist and (known.deleted or known.version is not None):
                raise self._deleted(key, known)
            return Found(stored, known.sent)

        return await self._locked(known, read, "get", key)

    async def adopt(self, known: LastKnown, found: Found, *, taken: int) -> None:
        """Record that an agent has restored what was read for it.

        Args:
            known: What the agent knows.
            found: What was read.
            taken: When it was restored: a number that grows.
        """
        known.deleted = False
        known.restored = taken
        # If the agent has saved since the read, what it saved is what it knows.
        if known.sent == found.sent and (found.stored is None or not known.recognise(found.stored)):
            known.set_version(None if found.stored is None else found.stored.version)
            known.history = None

    async def adopt_history(self, known: LastKnown, key: str, *, taken: int) -> None:
        """Record that an agent has restored a snapshot in history.

        What the agent knows of latest stays, unless that is gone.

        Args:
            known: What the agent knows.
            key: The key of the snapshot.
            taken: When it was restored: a number that grows.
        """
        known.restored = taken
        if known.deleted:
            known.deleted = False
            known.set_version(None)
        if known.version is None:
            known.history = key

    async def write(
        self,
        key: str,
        document: bytes,
        known: LastKnown,
        *,
        taken: int,
        force: bool,
        after_history: bool = False,
    ) -> bool:
        """Write the latest snapshot over the version that the agent knows, and no other.

        Args:
            key: Its key.
            document: The snapshot, of either SDK.
            known: What the agent knows; then the version that was written.
            taken: When the agent's state was taken: a number that grows.
            force: Replace another writer's version as well. A snapshot that is gone is not
                written again.
            after_history: Whether the same snapshot was written into history just now.

        Returns:
            Whether another writer's version was replaced.

        Raises:
            SessionDeletedError: The agent knew a snapshot, and there is none any more.
            SnapshotConflictError: Another writer came first.
        """

        async def write() -> bool:
            if known.deleted or (known.version is None and not after_history):
                await self._check_not_deleted(key, known)
            return await self._compare_and_swap(key, document, known, taken, force=force)

        return await self._locked(known, write, "put", key)

    async def append(self, key: str, document: bytes, known: LastKnown, *, latest: str) -> None:
        """Write a snapshot into history.

        Args:
            key: Its key.
            document: The snapshot, of either SDK.
            known: What the agent knows.
            latest: The key of the latest snapshot.

        Raises:
            SessionDeletedError: The agent knew a snapshot, and it is gone.
            PreconditionFailedError: There is a snapshot under this key.
        """

        async def append() -> None:
            await self._check_not_deleted(latest, known)
            await self._objects.put(key, document, if_none_match=True)
            if known.version is None:
                known.history = key

        await self._locked(known, append, "put", key)

    async def wait(self, agents: Iterable[LastKnown]) -> None:
        """Wait for the operations of these agents that are under way."""
        for known in agents:
            async with self._lock_of(known):
                pass

    async def mark_deleted(self, agents: Iterable[LastKnown]) -> None:
        """Record that the session of these agents was deleted, of those that had a part in it."""
        for known in agents:
            if known.version is not None or known.history is not None or known.unconfirmed:
                known.deleted = True

    async def _compare_and_swap(
        self, key: str, document: bytes, known: LastKnown, taken: int, *, force: bool
    ) -> bool:
        if taken < known.saved:
            return False
        if taken < known.restored:
            raise SnapshotConflictError(
                f"{key} was not written: the agent was restored after its state was taken",
                bucket=self._objects.store.name,
                key=key,
            )
        data = await self._objects.encode_latest(key, document)
        digest = _digest_of(data)
        over, replaced = known.version, False
        facts: dict[str, Any] = {}
        for _ in range(_ATTEMPTS):
            known.sent += 1
            known.unconfirmed.append(_Write(digest, taken, _etag_of(over)))
            try:
                version = await self._objects.store.put(
                    key, data, if_match=over, if_none_match=over is None
                )
            except PreconditionFailedError as error:
                known.unconfirmed.pop()
                facts = error.facts
            else:
                known.saved = taken
                known.set_version(version)
                return replaced
            try:
                stored = await self._objects.get_as_stored(key)
            except ObjectTooLargeError:
                break  # this agent could not have written it
            if stored is None:
                if known.version is not None:
                    raise self._deleted(key, known, facts)
                over = None
            elif known.recognise(stored):
                if taken < known.saved:
                    return False
                over = known.version
            elif force:
                over, replaced = stored.version, True
            else:
                break
        raise SnapshotConflictError(f"{key} was not written: another writer came first", **facts)

    async def _check_not_deleted(self, latest: str, known: LastKnown) -> None:
        """Raise if what an agent knows is gone, where the condition of a write would not tell."""
        evidence = known.history if known.version is None else latest
        if known.deleted or (
            evidence is not None and evidence not in await self._objects.keys(evidence, limit=1)
        ):
            raise self._deleted(latest, known)

    def _deleted(
        self, key: str, known: LastKnown, facts: Mapping[str, Any] | None = None
    ) -> SessionDeletedError:
        known.deleted = True
        return SessionDeletedError(
            f"{key} is gone: the session was deleted, and nothing was written. To begin it anew, "
            "make another agent, or call restore_snapshot or restore_multi_agent",
            **facts or {"bucket": self._objects.store.name, "key": key},
        )

    async def _locked(
        self, known: LastKnown, work: Callable[[], Awaitable[T]], operation: str, key: str
    ) -> T:
        """Run one operation of an agent when those before it have ended."""

        async def run() -> T:
            async with self._lock_of(known):
                return await work()

        return await self._objects.store.run(operation, key, run, writes=operation == "put")

    def _lock_of(self, known: LastKnown) -> asyncio.Lock:
        return self._locks.setdefault(known, asyncio.Lock())


def _etag_of(version: Version | None) -> str | None:
    return None if version is None else version.etag


def _digest_of(data: bytes) -> bytes:
    """Identify a document by its bytes, without trailing whitespace."""
    return hashlib.blake2b(data.rstrip(b" \t\r\n"), digest_size=16).digest()
