"""The TypeScript SDK of Strands, in Node: a process of its own, which waits for commands."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.measure import Block, Operation
from benchmarks.peers import POOL
from benchmarks.stub import BUCKET
from benchmarks.workload import Workload

FOLDER = Path(__file__).parent


class NodeProgram:
    """A program in Node that obeys commands: one a line on stdin, an answer a line on stdout.

    Args:
        program: Its file.
        endpoint: Where S3 is.
        certificate: The file of the certificate to trust.
        folder: A folder whose `node_modules` has the SDK.
    """

    def __init__(self, program: Path, endpoint: str, certificate: Path, folder: Path) -> None:
        self._program = program
        self._environment = {
            "AWS_ENDPOINT_URL_S3": endpoint,
            "NODE_EXTRA_CA_CERTS": str(certificate),
            "NODE_NO_WARNINGS": "1",
        }
        self._folder = folder

    async def start(self, stack: AsyncExitStack) -> None:
        """Start Node; the stack ends it."""
        # Its imports are found from the folder it runs in; as a file, from beside the file.
        text = self._program.read_text()
        program = ["node", "--expose-gc", "--input-type=module", "--eval", text]
        process = await asyncio.create_subprocess_exec(
            *program,
            cwd=self._folder,
            env=os.environ | self._environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            limit=2**30,
        )
        if process.stdin is None or process.stdout is None:
            raise AssertionError("unreachable")
        self._stdin, self._stdout = process.stdin, process.stdout
        stack.push_async_callback(process.wait)
        stack.callback(process.stdin.close)

    async def run(self, command: str, **options: Any) -> Any:
        """Have a command done; its result.

        Raises:
            RuntimeError: It has failed, or Node has ended.
        """
        self._stdin.write(msgspec.json.encode({"command": command, **options}) + b"\n")
        await self._stdin.drain()
        line = await self._stdout.readline()
        answer = json.loads(line) if line else {"error": "Node has ended"}
        if "error" in answer:
            raise RuntimeError(f"{command}: {answer['error']}")
        return answer["result"]


class StrandsTypeScript:
    """The TypeScript SDK's `S3Storage` for sessions.

    Args:
        name: What the tables call it.
        endpoint: Where S3 is.
        certificate: The file of the certificate to trust.
        folder: A folder whose `node_modules` has the SDK.
    """

    prefix = "Strands-TypeScript"

    def __init__(self, name: str, endpoint: str, certificate: Path, folder: Path) -> None:
        self.name = name
        program = FOLDER / "strands.mjs"
        self._node = NodeProgram(program, endpoint, certificate, folder)
        self._known: set[str] = set()

    async def start(self, stack: AsyncExitStack) -> None:
        """Start Node; the stack ends it."""
        await self._node.start(stack)
        await self._node.run("open", bucket=BUCKET, prefix=self.prefix, pool=POOL)

    def key(self, slot: int) -> str:
        """The key that slot number `slot` saves to."""
        return f"{self.prefix}/session-{slot}/scopes/agent/weather/snapshots/snapshot_latest.json"

    async def block(
        self, operation: Operation, workload: Workload, count: int, concurrency: int
    ) -> Block:
        """Save or load `count` times, each slot one after the other, and measure it there."""
        await self._hand_over(workload)
        figures = await self._node.run(
            "block",
            operation=operation,
            workload=workload.name,
            count=count,
            concurrency=concurrency,
        )
        return Block(**figures)

    async def load_content(self, workload: Workload) -> Any:
        """What slot 0 holds, as it loads it."""
        await self._hand_over(workload)
        loaded = await self._node.run("load", slot=0)
        return {"data": loaded["data"], "appData": loaded["appData"]}

    async def delete_session(self, session_id: str) -> float:
        """Delete a session; how long it took, in seconds."""
        figures = await self._node.run("deleteSession", sessionId=session_id)
        return float(figures["wall"])

    async def _hand_over(self, workload: Workload) -> None:
        if workload.name not in self._known:
            self._known.add(workload.name)
            await self._node.run("take", name=workload.name, document=workload.document)
