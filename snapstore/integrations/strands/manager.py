"""The SDK's session manager, with a compare-and-swap for each agent's latest snapshot.

The SDK's manager reads and writes through a storage that it holds. Here that is a `TrackedStorage`,
which knows for which agent it reads and writes, and so which version the agent may replace.
"""

from __future__ import annotations

import asyncio
import builtins
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Literal, cast

from strands.bidi.agent import BidiAgent
from strands.session import SnapshotSessionManager

from snapstore.errors import SessionDeletedError, SnapshotConflictError
from snapstore.integrations.strands.sdk import STASH_PREFIX, is_namespaced
from snapstore.integrations.strands.storage import StrandsStorage
from snapstore.integrations.strands.tracked import Agents, TrackedStorage, acting, acting_for
from snapstore.model.ids import validate_snapshot_id
from snapstore.model.keys import Layout

if TYPE_CHECKING:
    from strands.hooks.events import BeforeMultiAgentInvocationEvent
    from strands.multiagent.base import MultiAgentBase
    from strands.session.snapshot_session_manager import (
        BidiAgentSaveLatestStrategy,
        MultiAgentSaveLatestStrategy,
        SaveLatestStrategy,
        SnapshotTrigger,
    )
    from strands.types._snapshot import Snapshot
    from strands.types.agent import LocalAgent

__all__ = ["OnConflict", "SnapstoreSessionManager"]

OnConflict = Literal["raise", "reload", "overwrite"]
"""What happens to an agent when another writer has saved its session meanwhile."""


class SnapstoreSessionManager(SnapshotSessionManager):
    """The SDK's `SnapshotSessionManager`, that never silently overwrites another writer's session.

    Each agent's latest snapshot is written only over the version that this agent has restored or
    saved last. Where another agent has saved the session meanwhile, in another process or in this
    one, that is a `snapstore.SnapshotConflictError` from the invocation that saves. Where the
    session was deleted, it is a `SessionDeletedError`, whatever `on_conflict` is, until
    `restore_snapshot(agent)`, or for a graph or a swarm `restore_multi_agent`. History is never
    written over, is written before latest, and its pages are single requests.

    One manager may serve a whole process: it tracks agents, graphs and swarms for as long as they
    live, and tells those with the same id apart.

    Args:
        session_id: The session.
        storage: Where it is kept; `None` for the one of the agent, which must be a
            `StrandsStorage`, too.
        on_conflict: What happens to an agent that lost the race. `"raise"`: the error is raised,
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
        self._agents = Agents()
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

        Where a later save of the same agent has been written already, latest stays as it is.

        Args:
            agent: The agent.
            is_latest: `True` for latest, `False` for history under a new id.

        Returns:
            The id in history; `None` for latest.

        Raises:
            SessionDeletedError: The session was deleted since the agent restored or saved it.
            SnapshotConflictError: Another writer has saved latest meanwhile.
        """
        with acting_for(self._agents.of(agent)):
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
        # The SDK takes ids that `SnapshotLocation` refuses ("User 1"), so this is no `Layout`.
        history = f"{self.session_id}/scopes/agent/{agent.agent_id}/snapshots/immutable_history/"
        cursor = None
        if start_after is not None:
            cursor = f"{history}snapshot_{validate_snapshot_id(start_after, 'start_after')}.json"
        storage = self._tracked_storage
        ids: builtins.list[str] = []
        wanted = limit
        while wanted is None or wanted > 0:
            keys = await storage.list(history, start_after=cursor, limit=wanted)
            ids += Layout.snapshot_ids(keys, history)
            if limit is None or wanted is None or len(keys) < wanted:
                break
            # Keys that are not snapshots took places on the page: fetch the rest.
            wanted, cursor = limit - len(ids), keys[-1]
        return ids

    async def delete_session(self) -> None:
        """Delete all snapshots and all stash of this session.

        Saves of this manager's agents that are under way end first. An agent that is still there
        can't save the session again: see `SessionDeletedError`.

        Raises:
            StorageError: Something was not confirmed as deleted.
        """
        agents = self._agents.all()
        await self._tracked_storage.wait(agents)
        await super().delete_session()
        await self._tracked_storage.mark_deleted(agents)

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

    def _capture(self, agent: LocalAgent) -> Snapshot:
        acting().capture()
        return super()._capture(agent)

    async def _restore(self, agent: LocalAgent, *, snapshot_id: str | None = None) -> bool:
        with acting_for(self._agents.of(agent)) as action:
            restored = await super()._restore(agent, snapshot_id=snapshot_id)
            # Not before: the agent must not replace a version that it could not restore.
            await self._tracked_storage.adopt(action)
        return restored

    async def _reload(self, agent: LocalAgent) -> None:
        """Restore an agent that has lost a race, unless what it lost against is gone, too."""
        with acting_for(self._agents.of(agent), must_exist=True) as action:
            if await super()._restore(agent):
                await self._tracked_storage.adopt(action)

    async def _restore_multi_agent(self, orchestrator: MultiAgentBase) -> bool:
        return await self._restored(orchestrator, must_exist=False)

    async def _restored(self, orchestrator: MultiAgentBase, *, must_exist: bool) -> bool:
        tracked = self._agents.of(orchestrator)
        with acting_for(tracked, must_exist=must_exist) as action:
            restored = await super()._restore_multi_agent(orchestrator)
            await self._tracked_storage.adopt(action)
        tracked.restored = True
        return restored

    async def _on_before_multi_agent_invocation(
        self, event: BeforeMultiAgentInvocationEvent
    ) -> None:
        # The SDK asks whether this id was restored, which another object may have had.
        orchestrator = event.source
        if not self._agents.of(orchestrator).restored:
            await self._restored(orchestrator, must_exist=True)

    def _get_multi_agent_save_lock(self, orchestrator_id: str) -> asyncio.Lock:  # noqa: ARG002
        # Saves are ordered where they are written, and the SDK would keep a lock for each id.
        return cast("asyncio.Lock", nullcontext())

    async def _save_immutable_and_latest(self, agent: LocalAgent) -> None:
        with acting_for(self._agents.of(agent)):
            await super()._save_immutable_and_latest(agent)

    async def _save_on_completion(self, agent: LocalAgent, *, save_latest: bool) -> None:
        try:
            await super()._save_on_completion(agent, save_latest=save_latest)
        except SnapshotConflictError as error:
            # Not earlier: the end of the turn would save what was restored in the middle of it.
            if self._reloads_after(error) and not isinstance(agent, BidiAgent):
                await self._reload(agent)
            raise

    async def _save_multi_agent_latest(self, orchestrator: MultiAgentBase) -> None:
        tracked = self._agents.of(orchestrator)
        try:
            with acting_for(tracked):
                await super()._save_multi_agent_latest(orchestrator)
        except SnapshotConflictError as error:
            if self._reloads_after(error):
                # It restores itself when it is invoked next.
                tracked.restored = False
            raise

    def _reloads_after(self, error: SnapshotConflictError) -> bool:
        return self._on_conflict == "reload" and not isinstance(error, SessionDeletedError)

    @property
    def _tracked_storage(self) -> TrackedStorage:
        return cast("TrackedStorage", self._resolved_storage)

    def _use(self, storage: object) -> None:
        if not isinstance(storage, StrandsStorage):
            raise TypeError(f"storage must be a StrandsStorage, not a {type(storage).__qualname__}")
        scoped = storage if is_namespaced(storage) else storage.namespace("session")
        self._raw_storage = storage
        self._storage = TrackedStorage(scoped, force=self._on_conflict == "overwrite")
