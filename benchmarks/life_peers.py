"""Who lives the life of `life.py`: each saves, resumes, rewinds, prunes and archives as it can.

Each has two workers with clients of their own. A resume is one by the other worker: it loads what
the first one saved, and goes on from that.
"""

from __future__ import annotations

import importlib
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, Protocol, TypeVar

import msgspec

from benchmarks.conversation import Message
from benchmarks.peers import AGENT, CONTENT_TYPE, Botocore, Snapstore, StrandsPython
from benchmarks.stub import BUCKET
from benchmarks.workload import CREATED_AT
from snapstore import Snapshot, SnapshotLocation
from snapstore.model.ids import new_snapshot_id
from snapstore.operations import RetentionPolicy, archive, prune

T = TypeVar("T")

CONSTANT: dict[str, Any] = {
    "state": {"customer": "c-1042", "locale": "en", "open_orders": [17, 18], "vip": False},
    "systemPrompt": "You help customers of a shop, and look up what you don't know.",
    "modelState": {},
    "interrupts": {},
}
NEWEST = RetentionPolicy(keep_last=1)


@dataclass(frozen=True)
class Cost:
    """What a step cost its client.

    Attributes:
        cpu: Seconds of CPU of the process.
        wall: Seconds.
    """

    cpu: float
    wall: float


Kind = Literal["save", "resume", "rewind", "prune", "archive"]
Ending = Callable[[], Awaitable[Cost]]


class Life(Protocol):
    """A way to keep a session, wherever it runs. Only what gives a `Cost` is measured.

    Attributes:
        name: What tables call it.
        endings: What it can do with a history that has grown long: `prune` deletes all but the
            newest, `archive` packs all but the newest.
    """

    name: str
    endings: dict[Kind, Ending]

    async def start(self, stack: AsyncExitStack) -> None:
        """Open both workers; the stack closes them."""

    async def begin(self, session: str) -> None:
        """Begin a session without messages."""

    async def add(self, messages: list[Message]) -> None:
        """Let the agent have a turn."""

    async def messages(self) -> list[Message]:
        """What the agent has now."""
        ...

    async def save(self, number: int) -> Cost:
        """Save in history and as latest, as save number `number`."""
        ...

    async def resume(self) -> Cost:
        """Go on with the other worker, from what it loads."""
        ...

    async def rewind(self, number: int) -> Cost:
        """Go on from save number `number`, and make it latest."""
        ...

    async def stored(self) -> int | None:
        """Bytes stored; `None` if the stub has them."""


class InProcess(ABC):
    """A life in this process.

    Args:
        name: What tables call it.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.endings: dict[Kind, Ending] = {}
        self.worker = 0
        self.ids: dict[int, str] = {}
        self.now: list[Message] = []

    @abstractmethod
    async def start(self, stack: AsyncExitStack) -> None:
        """See `Life.start`."""

    async def begin(self, session: str) -> None:
        """See `Life.begin`."""
        self.worker, self.ids, self.now = 0, {}, []
        self.use(session)

    @abstractmethod
    def use(self, session: str) -> None:
        """Take a session."""

    async def add(self, messages: list[Message]) -> None:
        """See `Life.add`."""
        self.now += messages

    async def messages(self) -> list[Message]:
        """See `Life.messages`."""
        return self.now

    async def save(self, number: int) -> Cost:
        """See `Life.save`."""
        self.ids[number], cost = await measured(self.checkpoint())
        return cost

    async def resume(self) -> Cost:
        """See `Life.resume`."""
        self.worker = 1 - self.worker
        self.now, cost = await measured(self.load())
        return cost

    async def rewind(self, number: int) -> Cost:
        """See `Life.rewind`."""
        self.now, cost = await measured(self.go_back(self.ids[number]))
        return cost

    async def stored(self) -> int | None:
        """See `Life.stored`."""
        return None

    @abstractmethod
    async def checkpoint(self) -> str:
        """Save the messages in history and as latest; returns the id."""

    @abstractmethod
    async def load(self) -> list[Message]:
        """Load latest."""

    @abstractmethod
    async def go_back(self, saved: str) -> list[Message]:
        """Load from history, and make it latest."""


class SnapstoreLife(InProcess):
    """snapstore's `S3Storage`."""

    def __init__(self, name: str, endpoint: str, certificate: Path) -> None:
        super().__init__(name)
        self._workers = [Snapstore(name, endpoint, certificate, direct=True) for _ in range(2)]
        self.endings = {"prune": self.prune, "archive": self.archive}

    @property
    def _storage(self) -> Any:
        return self._workers[self.worker].storage

    async def start(self, stack: AsyncExitStack) -> None:
        """See `Life.start`."""
        for worker in self._workers:
            await worker.start(stack)

    def use(self, session: str) -> None:
        """See `InProcess.use`."""
        self._location = SnapshotLocation.agent(session, AGENT)

    async def checkpoint(self) -> str:
        """See `InProcess.checkpoint`."""
        snapshot = Snapshot("agent", "1.0", CREATED_AT, {"messages": self.now, **CONSTANT}, {})
        saved = await self._storage.checkpoint(location=self._location, snapshot=snapshot)
        return str(saved.snapshot_id)

    async def load(self) -> list[Message]:
        """See `InProcess.load`."""
        return _messages(await self._storage.load_snapshot(location=self._location))

    async def go_back(self, saved: str) -> list[Message]:
        """See `InProcess.go_back`."""
        await self._storage.rewind(location=self._location, snapshot_id=saved)
        return await self.load()

    async def prune(self) -> Cost:
        """Delete all of history but the newest."""
        session = self._location.session_id
        report, cost = await measured(prune(self._storage, NEWEST, sessions=[session]).run())
        _expect(report.deleted, len(self.ids) - 1, report.failed)
        return cost

    async def archive(self) -> Cost:
        """Pack all of history but the newest."""
        session = self._location.session_id
        report, cost = await measured(archive(self._storage, NEWEST, sessions=[session]).run())
        _expect(report.archived, len(self.ids) - 1, report.failed)
        return cost

    async def archived(self, number: int) -> list[Message]:
        """The messages of save number `number`, out of the archive."""
        where, saved = self._location, self.ids[number]
        return _messages(await self._storage.load_archived(location=where, snapshot_id=saved))


class BotocoreLife(InProcess):
    """aiobotocore and msgspec: an object for each turn, and latest."""

    def __init__(self, name: str, endpoint: str, certificate: Path) -> None:
        super().__init__(name)
        self._workers = [Botocore(name, endpoint, certificate) for _ in range(2)]

    async def start(self, stack: AsyncExitStack) -> None:
        """See `Life.start`."""
        for worker in self._workers:
            await worker.start(stack)

    def use(self, session: str) -> None:
        """See `InProcess.use`."""
        self._session = f"{self._workers[0].prefix}/{session}"

    async def checkpoint(self) -> str:
        """See `InProcess.checkpoint`."""
        document = {
            "scope": "agent",
            "schemaVersion": "1.0",
            "createdAt": CREATED_AT,
            "data": {"messages": self.now, **CONSTANT},
            "appData": {},
        }
        body, saved = msgspec.json.encode(document), new_snapshot_id()
        await self._put(saved, body)
        await self._put("latest", body)
        return saved

    async def load(self) -> list[Message]:
        """See `InProcess.load`."""
        return self._decoded(await self._get("latest"))

    async def go_back(self, saved: str) -> list[Message]:
        """See `InProcess.go_back`."""
        body = await self._get(saved)
        await self._put("latest", body)
        return self._decoded(body)

    def _decoded(self, body: bytes) -> list[Message]:
        messages: list[Message] = msgspec.json.decode(body)["data"]["messages"]
        return messages

    async def _put(self, name: str, body: bytes) -> None:
        client = self._workers[self.worker].client
        key = f"{self._session}/{name}.json"
        await client.put_object(Bucket=BUCKET, Key=key, Body=body, ContentType=CONTENT_TYPE)

    async def _get(self, name: str) -> bytes:
        client = self._workers[self.worker].client
        response = await client.get_object(Bucket=BUCKET, Key=f"{self._session}/{name}.json")
        async with response["Body"] as body:
            data: bytes = await body.read()
        return data


class StrandsPythonLife(InProcess):
    """The Python SDK's `SnapshotSessionManager` over its `S3Storage`."""

    def __init__(self, name: str, endpoint: str, certificate: Path) -> None:
        super().__init__(name)
        self._workers = [StrandsPython(name, endpoint, certificate) for _ in range(2)]

    async def start(self, stack: AsyncExitStack) -> None:
        """See `Life.start`."""
        for worker in self._workers:
            await worker.start(stack)
        self._snapshots: Any = importlib.import_module("strands.types._snapshot")

    def use(self, session: str) -> None:
        """See `InProcess.use`."""
        self._managers = [worker.manager(session) for worker in self._workers]

    async def checkpoint(self) -> str:
        """See `InProcess.checkpoint`."""
        data = {"messages": self.now, **CONSTANT}
        saved = await self._save(self._snapshots.Snapshot("agent", "1.0", data, {}, CREATED_AT))
        return str(saved)

    async def load(self) -> list[Message]:
        """See `InProcess.load`."""
        return _messages(await self._restore(None))

    async def go_back(self, saved: str) -> list[Message]:
        """See `InProcess.go_back`."""
        snapshot = await self._restore(saved)
        await self._manager.save_snapshot(_agent(snapshot), is_latest=True)
        return _messages(snapshot)

    @property
    def _manager(self) -> Any:
        return self._managers[self.worker]

    async def _save(self, snapshot: Any) -> Any:
        agent = _agent(snapshot)
        saved = await self._manager.save_snapshot(agent, is_latest=False)
        await self._manager.save_snapshot(agent, is_latest=True)
        return saved

    async def _restore(self, saved: str | None) -> Any:
        loaded: list[Any] = []
        agent = SimpleNamespace(agent_id=AGENT, context_manager=None, load_snapshot=loaded.append)
        await self._manager.restore_snapshot(agent, snapshot_id=saved)
        return loaded[0]


async def measured(work: Awaitable[T]) -> tuple[T, Cost]:
    """Await something; what it gives, and what it cost."""
    cpu, wall = time.process_time(), time.perf_counter()
    result = await work
    return result, Cost(time.process_time() - cpu, time.perf_counter() - wall)


def _messages(snapshot: Any) -> list[Message]:
    messages: list[Message] = snapshot.data["messages"]
    return messages


def _agent(snapshot: Any) -> SimpleNamespace:
    return SimpleNamespace(agent_id=AGENT, context_manager=None, take_snapshot=lambda **_: snapshot)


def _expect(found: int, expected: int, failed: int) -> None:
    if found != expected or failed:
        raise AssertionError(f"{found} snapshots instead of {expected}, {failed} failed")
