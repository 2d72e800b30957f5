"""The storage that the SDK's session manager holds, which knows the agent it works for.

The SDK's manager passes bytes to its storage, but neither the agent nor the time at which the
agent's state was taken. A context variable carries both.
"""

from __future__ import annotations

import builtins
import itertools
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Final, Self, cast
from weakref import ref

from snapstore.integrations.strands.backend import Backend
from snapstore.integrations.strands.latest import Found, LastKnown
from snapstore.integrations.strands.objects import translate
from snapstore.integrations.strands.storage import StrandsStorage

if TYPE_CHECKING:
    from strands.storage.search import StorageSearchResult

__all__ = ["Action", "Agents", "Tracked", "TrackedStorage", "acting", "acting_for"]

logger: Final = logging.getLogger("snapstore")

_LATEST: Final = "snapshot_latest.json"

_counter: Final = itertools.count()


class Tracked:
    """What is known of an agent, a graph or a swarm.

    Attributes:
        known: Which version of its session it knows.
        restored: Whether a graph or a swarm has been restored, and need not be when it is invoked.
    """

    def __init__(self) -> None:
        self.known: LastKnown = LastKnown()
        self.restored: bool = False


class Agents:
    """Tracks agents, graphs and swarms for as long as they live.

    They are told apart by identity: two objects with one id are two writers, and objects that are
    equal, as dataclasses can be, are not the same.
    """

    def __init__(self) -> None:
        self._tracked: dict[_Reference, Tracked] = {}

    def __reduce__(self) -> tuple[type[Agents], tuple[()]]:
        """A copy tracks nothing, since the agents are those of the original."""
        return Agents, ()

    def of(self, agent: object) -> Tracked:
        """The record of an agent."""
        tracked = self._tracked
        reference = _Reference(agent, lambda gone: tracked.pop(gone, None))
        return tracked.setdefault(reference, Tracked())

    def all(self) -> list[Tracked]:
        """The records of all agents that are alive."""
        return list(self._tracked.values())


class _Reference(ref[object]):
    """A weak reference that is equal to others of the very same object."""

    _hash: int

    def __new__(cls, agent: object, callback: Callable[[_Reference], object]) -> Self:
        """Refer to an agent, and call back when it is gone."""
        reference = super().__new__(cls, agent, cast("Callable[[ref[object]], object]", callback))
        reference._hash = id(agent)
        return reference

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        agent = self()
        return agent is not None and isinstance(other, _Reference) and agent is other()


class Action:
    """One operation of the SDK's manager for an agent.

    Args:
        known: What the agent knows of its session.
        must_exist: Whether it is an error if a session that the agent knew is gone.

    Attributes:
        known: As the argument.
        must_exist: As the argument.
        taken: When the state that is saved was taken; `None` until `capture` was called.
        appended: Whether a snapshot was written into history.
        found: The latest snapshot that was read.
        found_history: The key of the snapshot in history that was read.
    """

    def __init__(self, known: LastKnown, *, must_exist: bool) -> None:
        self.known: LastKnown = known
        self.must_exist: bool = must_exist
        self.taken: int | None = None
        self.appended: bool = False
        self.found: Found | None = None
        self.found_history: str | None = None

    def capture(self) -> int:
        """Record that the agent's state is taken now."""
        self.taken = next(_counter)
        return self.taken


_action: Final[ContextVar[Action]] = ContextVar("snapstore_action")


@contextmanager
def acting_for(tracked: Tracked, *, must_exist: bool = False) -> Iterator[Action]:
    """Read and write for an agent inside this context."""
    action = Action(tracked.known, must_exist=must_exist)
    token = _action.set(action)
    try:
        yield action
    finally:
        _action.reset(token)


def acting() -> Action:
    """The operation under way."""
    return _action.get()


class TrackedStorage:
    """The storage that the SDK's manager holds.

    Args:
        inner: The storage that it reads and writes through.
        force: Whether another writer's snapshot is replaced.
    """

    def __init__(self, inner: StrandsStorage, *, force: bool) -> None:
        self._inner = inner
        self._force = force

    async def read(self, key: str) -> bytes | None:
        """Read for the agent of the operation under way."""
        action, full = _action.get(), self._inner.full_key(key)
        if not key.endswith(f"/{_LATEST}"):
            data = await self._inner.read(key)
            action.found_history = None if data is None else full
            return data

        async def read(backend: Backend) -> tuple[Found, bytes | None]:
            found = await backend.latest.read(full, action.known, must_exist=action.must_exist)
            if found.stored is None:
                return found, None
            return found, await translate(full, found.stored.data, "python")

        action.found, data = await self._inner.run(read)
        return data

    async def write(self, key: str, data: bytes) -> None:
        """Write for the agent of the operation under way; latest over the version it knows."""
        action, full = _action.get(), self._inner.full_key(key)
        known = action.known
        if not key.endswith(f"/{_LATEST}"):
            latest = f"{full.rpartition('/')[0].rpartition('/')[0]}/{_LATEST}"
            await self._inner.run(
                lambda backend: backend.latest.append(full, data, known, latest=latest)
            )
            action.appended = True
        else:
            taken = action.capture() if action.taken is None else action.taken
            # Shielded: after a cancelled write the agent would not know which version to replace.
            replaced = await self._inner.run(
                lambda backend: backend.latest.write(
                    full,
                    data,
                    known,
                    taken=taken,
                    force=self._force,
                    after_history=action.appended,
                ),
                shield=True,
            )
            if replaced:
                logger.warning("%s: another writer's snapshot was written over", key)
        await self._inner.index(key, data)

    async def adopt(self, action: Action) -> None:
        """Record that an agent has restored what was read for it."""
        known, found, history = action.known, action.found, action.found_history
        taken = action.capture()
        # Shielded: the agent has restored it already.
        if found is not None:
            await self._inner.run(
                lambda backend: backend.latest.adopt(known, found, taken=taken), shield=True
            )
        elif history is not None:
            await self._inner.run(
                lambda backend: backend.latest.adopt_history(known, history, taken=taken),
                shield=True,
            )

    async def wait(self, agents: builtins.list[Tracked]) -> None:
        """Wait for the operations under way of these agents."""
        known = [tracked.known for tracked in agents]
        await self._inner.run(lambda backend: backend.latest.wait(known))

    async def mark_deleted(self, agents: builtins.list[Tracked]) -> None:
        """Record that the session of these agents was deleted."""
        known = [tracked.known for tracked in agents]
        await self._inner.run(lambda backend: backend.latest.mark_deleted(known))

    async def delete(self, key: str) -> None:
        """Delete an object."""
        await self._inner.delete(key)

    async def list(
        self, query: str, *, start_after: str | None = None, limit: int | None = None
    ) -> builtins.list[str]:
        """List keys."""
        return await self._inner.list(query, start_after=start_after, limit=limit)

    async def search(self, query: str) -> builtins.list[StorageSearchResult]:
        """Search in what is stored."""
        return await self._inner.search(query)
