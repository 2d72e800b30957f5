"""The TypeScript SDK of Strands lives the life of `life.py`, in Node."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path

from benchmarks.conversation import Message
from benchmarks.life_peers import CONSTANT, Cost, Ending, Kind
from benchmarks.node import FOLDER, NodeProgram
from benchmarks.stub import BUCKET
from benchmarks.workload import CREATED_AT
from snapstore.model.ids import new_snapshot_id


class StrandsTypeScriptLife:
    """The TypeScript SDK's `S3Storage` for sessions.

    Args:
        name: What the tables call it.
        endpoint: Where S3 is.
        certificate: The file of the certificate to trust.
        folder: A folder whose `node_modules` has the SDK.
    """

    def __init__(self, name: str, endpoint: str, certificate: Path, folder: Path) -> None:
        self.name = name
        self._node = NodeProgram(FOLDER / "life.mjs", endpoint, certificate, folder)
        self._ids: dict[int, str] = {}
        self.endings: dict[Kind, Ending] = {}

    async def start(self, stack: AsyncExitStack) -> None:
        """See `Life.start`."""
        await self._node.start(stack)
        fixed = {"constant": CONSTANT, "createdAt": CREATED_AT}
        await self._node.run("open", bucket=BUCKET, prefix="Strands-TypeScript", **fixed)

    async def begin(self, session: str) -> None:
        """See `Life.begin`."""
        self._ids.clear()
        await self._node.run("begin", sessionId=session)

    async def add(self, messages: list[Message]) -> None:
        """See `Life.add`."""
        await self._node.run("add", added=messages)

    async def messages(self) -> list[Message]:
        """See `Life.messages`."""
        messages: list[Message] = await self._node.run("messages")
        return messages

    async def save(self, number: int) -> Cost:
        """See `Life.save`."""
        self._ids[number] = new_snapshot_id()
        return Cost(**await self._node.run("save", snapshotId=self._ids[number]))

    async def resume(self) -> Cost:
        """See `Life.resume`."""
        return Cost(**await self._node.run("resume"))

    async def rewind(self, number: int) -> Cost:
        """See `Life.rewind`."""
        return Cost(**await self._node.run("rewind", snapshotId=self._ids[number]))

    async def stored(self) -> int | None:
        """See `Life.stored`."""
        return None
