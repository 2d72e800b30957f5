"""The session manager: the SDK's own, with what S3 can do beyond moving bytes.

The SDK's manager reads and writes through a storage that it holds. Here it holds one that knows on
whose behalf it is asked: latest is written over what that agent has seen last, and nothing else.
"""

from __future__ import annotations

import asyncio
import builtins
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, Literal, cast
from weakref import WeakKeyDictionary

from strands.bidi.agent import BidiAgent
from strands.session import SnapshotSessionManager

from snapstore.errors import SnapshotConflictError
from snapstore.ids import validate_snapshot_id
from snapstore.integrations.strands.objects import Seen
from snapstore.integrations.strands.sdk import STASH_PREFIX, is_namespaced
from snapstore.integrations.strands.storage import StrandsStorage
from snapstore.layout import Layout
from snapstore.objects.base import Version

if TYPE_CHECKING:
    from strands.multiagent.base import MultiAgentBase
    from strands.session.snapshot_session_manager import (
        BidiAgentSaveLatestStrategy,
        MultiAgentSaveLatestStrategy,
        SaveLatestStrategy,
        SnapshotTrigger,
    )
    from strands.storage.search import StorageSearchResult
    from strands.types.agent import LocalAgent

__all__ = ["OnConflict", "SnapstoreSessionManager"]

OnConflict = Literal["raise", "reload", "overwrite"]
"""What becomes of an agent whose session another writer has saved meanwhile."""

logger: Final = logging.getLogger("snapstore")

_LATEST: Final = "/snapshot_latest.json"


class SnapstoreSessionManager(SnapshotSessionManager):
    """The SDK's `SnapshotSessionManager`, for which another writer's session is not lost silently.

    Each agent's latest snapshot is written only over the version that this agent has restored or
    saved last. Where another agent has saved the session meanwhile, in another process or in this
    one, that is a `snapstore.SnapshotConflictError` from the invocation that saves. History is
    never written over, is written before latest, and its pages are single requests.

    Args:
        session_id: The session.
        storage: Where it is kept; `None` for the one of the agent, which must be a
            `StrandsStorage`, too.
        on_conflict: What becomes of an agent that lost the race. `"raise"`: the error is raised,
            and the agent stays as it is; until `restore_snapshot(agent)`, or for a graph or a
            swarm `restore_multi_agent`, it can't be saved.
            `"reload"`: at the end of its turn the agent takes over what is stored, then the error
            is raised, so that the turn can be tried again; a graph or a swarm does so when it is
            invoked next; a `BidiAgent` stays as it is. `"overwrite"`: the agent's snapshot
            replaces the other one, which is logged as a warning.
        save_latest_on: As the SDK's.
        bidi_agent_save_latest_on: As the SDK's.
        multi_agent_save_latest_on: As the SDK's.
        snapshot_trigger: As the SDK's.
        **kwargs: As the SDK's.

    Raises:
        TypeError: The storage is not a `StrandsStorage`.
        ValueError: An argument is not one of those that there are.

    Example:
        Two workers have the session; the one that comes second tries its turn again::

            session = SnapstoreSessionManager("s-1", storage=storage, on_conflict="reload")
            agent = Agent(session_manager=session)
            try:
                result = await agent.invoke_async(question)
            except SnapshotConflictError:
                result = await agent.invoke_async(question)
    """

    def __init__(
        self,
        session_id: str = "default-session",
        *,
        storage: StrandsStorage | None = None,
        on_conflict: OnConflict = "raise",
        save_latest_on: SaveLatestStrategy = "invocation",
        bidi_agent_save_latest_on: BidiAgentSaveLatestStrategy = "message",
        multi_agent_save_latest_on: MultiAgentSaveLatestStrategy = "node",
        snapshot_trigger: SnapshotTrigger | None = None,
        **kwargs: Any,
    ) -> None:
        if on_conflict not in ("raise", "reload", "overwrite"):
            raise ValueError("on_conflict must be 'raise', 'reload' or 'overwrite'")
        super().__init__(
            session_id,
            save_latest_on=save_latest_on,
            bidi_agent_save_latest_on=bidi_agent_save_latest_on,
            multi_agent_save_latest_on=multi_agent_save_latest_on,
            snapshot_trigger=snapshot_trigger,
            **kwargs,
        )
        self._on_conflict: OnConflict = on_conflict
        # Per agent and not per key: two agents in one process are two writers.
        self._seen: WeakKeyDictionary[object, Seen] = WeakKeyDictionary()
        if storage is not None:
            self._use(storage)

    def initialize(self, agent: LocalAgent, **kwargs: Any) -> None:
        """Restore an agent from its latest snapshot, if there is one.

        Args:
            agent: The agent, just made.
            **kwargs: As the SDK's.

        Raises:
            TypeError: No storage was given, and the agent's is not a `StrandsStorage`.
        """
        if self._storage is None:
            self._use(agent.storage)
        super().initialize(agent, **kwargs)

    async def save_snapshot(self, agent: LocalAgent, *, is_latest: bool) -> str | None:
        """Save an agent as it is now.

        Args:
            agent: The agent.
            is_latest: `True` for latest, `False` for history under a new id.

        Returns:
            The id in history; `None` for latest.

        Raises:
            SnapshotConflictError: Another writer has saved latest meanwhile.
        """
        with self._acting_for(agent):
            return await super().save_snapshot(agent, is_latest=is_latest)

    async def list_snapshot_ids(
        self, agent: LocalAgent, *, limit: int | None = None, start_after: str | None = None
    ) -> builtins.list[str]:
        """List the ids in an agent's history, oldest first.

        Args:
            agent: The agent.
            limit: How many at the most; `None` for all. A page of ten costs one request, however
                long the history is.
            start_after: Leave out this id and all before it; it need not exist.

        Returns:
            The ids.

        Raises:
            InvalidIdentifierError: `start_after` is not a UUIDv7.
        """
        history = f"{self.session_id}/scopes/agent/{agent.agent_id}/snapshots/immutable_history/"
        cursor = None
        if start_after is not None:
            cursor = f"{history}snapshot_{validate_snapshot_id(start_after, 'start_after')}.json"
        storage = cast("_ManagersStorage", self._resolved_storage)
        ids: builtins.list[str] = []
        wanted = limit
        while wanted is None or wanted > 0:
            keys = await storage.list(history, start_after=cursor, limit=wanted)
            ids += Layout.snapshot_ids(keys, history)
            if limit is None or wanted is None or len(keys) < wanted:
                break
            # Where something else lies among them, there are more behind it.
            wanted, cursor = limit - len(ids), keys[-1]
        return ids

    async def delete_session(self) -> None:
        """Delete all snapshots and all stash of this session.

        Agents that are still there save it anew.

        Raises:
            StorageError: Something was not confirmed as deleted.
        """
        await super().delete_session()
        for seen in self._seen.values():
            seen.see(None)

    async def restore_multi_agent(self, orchestrator: MultiAgentBase) -> bool:
        """Restore a graph or a swarm from its latest snapshot.

        After a conflict it goes on from what another writer has saved, and can be saved again.

        Args:
            orchestrator: The graph or swarm; it must not be running.

        Returns:
            Whether there was a snapshot.

        Raises:
            StorageError: It can't be read.
        """
        return await self._restore_multi_agent(orchestrator)

    async def _delete_stash_data(self) -> None:
        # The SDK's own deletes one after the other, and only logs what fails.
        if self._agent_stash is not None:
            await self._agent_stash.clear_session()
        elif self._raw_storage is not None:
            keys = await self._raw_storage.list(f"{STASH_PREFIX}/{self.session_id}/")
            await asyncio.gather(*map(self._raw_storage.delete, keys))

    async def _restore(self, agent: LocalAgent, *, snapshot_id: str | None = None) -> bool:
        with self._acting_for(agent) as act:
            restored = await super()._restore(agent, snapshot_id=snapshot_id)
        if snapshot_id is None:
            # Only now: what the agent could not take over, it must not write over.
            act.seen.see(act.found)
        return restored

    async def _restore_multi_agent(self, orchestrator: MultiAgentBase) -> bool:
        with self._acting_for(orchestrator) as act:
            restored = await super()._restore_multi_agent(orchestrator)
        act.seen.see(act.found)
        return restored

    async def _save_immutable_and_latest(self, agent: LocalAgent) -> None:
        with self._acting_for(agent):
            await super()._save_immutable_and_latest(agent)

    async def _save_on_completion(self, agent: LocalAgent, *, save_latest: bool) -> None:
        try:
            await super()._save_on_completion(agent, save_latest=save_latest)
        except SnapshotConflictError:
            # Not before: in the midst of a turn what was taken over would be saved by its end.
            if self._on_conflict == "reload" and not isinstance(agent, BidiAgent):
                await self._restore(agent)
            raise

    async def _save_multi_agent_latest(self, orchestrator: MultiAgentBase) -> None:
        try:
            with self._acting_for(orchestrator):
                await super()._save_multi_agent_latest(orchestrator)
        except SnapshotConflictError:
            if self._on_conflict == "reload":
                # It restores itself when it is invoked next.
                self._multi_agent_restored_ids.discard(orchestrator.id)
            raise

    def _use(self, storage: object) -> None:
        if not isinstance(storage, StrandsStorage):
            raise TypeError(f"storage must be a StrandsStorage, not a {type(storage).__name__}")
        scoped = storage if is_namespaced(storage) else storage.namespace("session")
        self._raw_storage = storage
        self._storage = _ManagersStorage(scoped, overwrite=self._on_conflict == "overwrite")

    @contextmanager
    def _acting_for(self, agent: object) -> Iterator[_Act]:
        act = _Act(self._seen.setdefault(agent, Seen()))
        token = _acting.set(act)
        try:
            yield act
        finally:
            _acting.reset(token)


class _Act:
    """What the SDK's manager is doing, on behalf of one agent.

    Attributes:
        seen: What this agent has seen last of its latest snapshot.
        found: The version that has been read.
    """

    def __init__(self, seen: Seen) -> None:
        self.seen = seen
        self.found: Version | None = None


_acting: Final[ContextVar[_Act]] = ContextVar("snapstore_acting")


class _ManagersStorage:
    """The storage that the SDK's manager holds.

    Args:
        behind: Where everything is.
        overwrite: Whether another writer's snapshot is written over.
    """

    def __init__(self, behind: StrandsStorage, *, overwrite: bool) -> None:
        self._behind = behind
        self._overwrite = overwrite

    async def read(self, key: str) -> bytes | None:
        stored = await self._behind.read_version(key)
        _acting.get().found = None if stored is None else stored.version
        return None if stored is None else stored.data

    async def write(self, key: str, data: bytes) -> None:
        if not key.endswith(_LATEST):
            await self._behind.create(key, data)
            return
        seen = _acting.get().seen
        if await self._behind.write_over(key, data, seen, anyway=self._overwrite):
            logger.warning("%s: another writer's snapshot was written over", key)

    async def delete(self, key: str) -> None:
        await self._behind.delete(key)

    async def list(
        self, query: str, *, start_after: str | None = None, limit: int | None = None
    ) -> builtins.list[str]:
        return await self._behind.list(query, start_after=start_after, limit=limit)

    async def search(self, query: str) -> builtins.list[StorageSearchResult]:
        return await self._behind.search(query)
