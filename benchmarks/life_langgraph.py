"""LangGraph lives the life of `life.py`, with three checkpointers."""

from __future__ import annotations

import importlib
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from langgraph.checkpoint.base import BaseCheckpointSaver, Checkpoint, copy_checkpoint
from langgraph.checkpoint.base.id import uuid6

from benchmarks.conversation import Message
from benchmarks.life_peers import CONSTANT, Cost, InProcess, measured
from benchmarks.stub import BUCKET, REGION
from snapstore.integrations.langgraph import SnapstoreSaver
from snapstore.stores import S3ObjectStore


class LangGraphLife(InProcess):
    """A checkpointer of LangGraph, called as a graph calls it that stores once a turn.

    Such a graph runs with `durability="exit"`. The graph itself is left out.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.savers: list[BaseCheckpointSaver[str]] = []
        self._stored: Checkpoint | None = None

    def use(self, session: str) -> None:
        """See `InProcess.use`."""
        self.session, self._stored = session, None

    async def checkpoint(self) -> str:
        """See `InProcess.checkpoint`."""
        saver, parent = self._saver, self._stored
        versions: dict[str, Any] = dict(parent["channel_versions"]) if parent else {}
        changed = ["messages"] if parent else ["messages", *CONSTANT]
        new = {name: saver.get_next_version(versions.get(name), None) for name in changed}
        checkpoint = Checkpoint(
            v=4,
            id=str(uuid6()),
            ts=datetime.now(UTC).isoformat(),
            channel_values={"messages": self.now, **CONSTANT},
            channel_versions=versions | new,
            versions_seen={},
            updated_channels=changed,
        )
        await self._put(checkpoint, parent, "loop", new)
        return checkpoint["id"]

    async def load(self) -> list[Message]:
        """See `InProcess.load`."""
        self._stored = await self._get(None)
        return list(self._stored["channel_values"]["messages"])

    async def go_back(self, saved: str) -> list[Message]:
        """See `InProcess.go_back`."""
        old = await self._get(saved)
        checkpoint = copy_checkpoint(old)
        checkpoint["id"] = str(uuid6())
        # No channel has a new value: the versions are those of the old checkpoint.
        await self._put(checkpoint, old, "fork", {})
        return list(old["channel_values"]["messages"])

    @property
    def _saver(self) -> BaseCheckpointSaver[str]:
        return self.savers[self.worker]

    def _config(self, checkpoint_id: str | None) -> Any:
        config = {"thread_id": self.session, "checkpoint_ns": ""}
        if checkpoint_id is not None:
            config["checkpoint_id"] = checkpoint_id
        return {"configurable": config}

    async def _put(
        self, checkpoint: Checkpoint, parent: Checkpoint | None, source: Any, new: dict[str, Any]
    ) -> None:
        metadata: Any = {"source": source, "step": len(self.ids), "parents": {}}
        config = self._config(None if parent is None else parent["id"])
        await self._saver.aput(config, checkpoint, metadata, new)
        self._stored = checkpoint

    async def _get(self, checkpoint_id: str | None) -> Checkpoint:
        found = await self._saver.aget_tuple(self._config(checkpoint_id))
        if found is None:
            raise AssertionError(f"{self.name} has lost a checkpoint")
        return found.checkpoint


class SaverLife(LangGraphLife):
    """LangGraph with snapstore's `SnapstoreSaver`."""

    def __init__(self, name: str, endpoint: str) -> None:
        super().__init__(name)
        self._endpoint = endpoint
        self.endings = {"prune": self.prune}

    async def start(self, stack: AsyncExitStack) -> None:
        """See `Life.start`."""
        for _ in range(2):
            store = S3ObjectStore(BUCKET, region=REGION, endpoint_url=self._endpoint)
            saver = SnapstoreSaver(store, prefix="langgraph")
            self.savers.append(await stack.enter_async_context(saver))

    async def prune(self) -> Cost:
        """Delete all of history but the newest."""
        _, cost = await measured(self._saver.aprune([self.session]))
        return cost


class SqliteLife(LangGraphLife):
    """LangGraph with its `AsyncSqliteSaver`, over a file."""

    def __init__(self, name: str, folder: Path) -> None:
        super().__init__(name)
        self._folder = folder

    async def start(self, stack: AsyncExitStack) -> None:
        """See `Life.start`."""
        sqlite: Any = importlib.import_module("langgraph.checkpoint.sqlite.aio")
        for _ in range(2):
            saver = sqlite.AsyncSqliteSaver.from_conn_string(str(self._folder / "threads.db"))
            self.savers.append(await stack.enter_async_context(saver))

    async def stored(self) -> int | None:
        """See `Life.stored`: the file and its log."""
        return sum(path.stat().st_size for path in self._folder.iterdir())


class PostgresLife(LangGraphLife):
    """LangGraph with its `AsyncPostgresSaver`."""

    def __init__(self, name: str, address: str) -> None:
        super().__init__(name)
        self._address = address
        self.endings = {"prune": self.prune}

    async def start(self, stack: AsyncExitStack) -> None:
        """See `Life.start`."""
        postgres: Any = importlib.import_module("langgraph.checkpoint.postgres.aio")
        psycopg: Any = importlib.import_module("psycopg")
        for _ in range(2):
            opening = postgres.AsyncPostgresSaver.from_conn_string(self._address)
            saver = await stack.enter_async_context(opening)
            await saver.setup()
            self.savers.append(saver)
        connecting = psycopg.AsyncConnection.connect(self._address, autocommit=True)
        self._connection = await stack.enter_async_context(await connecting)

    async def prune(self) -> Cost:
        """Delete all of history but the newest."""
        _, cost = await measured(self._saver.aprune([self.session]))
        return cost

    async def stored(self) -> int | None:
        """See `Life.stored`: the tables with their indexes, without the write-ahead log."""
        tables = "select sum(pg_total_relation_size(relid)) from pg_stat_user_tables"
        found = await (await self._connection.execute(tables)).fetchone()
        return int(found[0])
