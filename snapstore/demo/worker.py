"""The agent's worker process, from within and as the demo sees it.

Run as `python -m snapstore.demo.worker`, this module is the process: it learns from the first line
of its input where to work, and plays one turn of the session for each further line.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import perf_counter
from typing import Final

import msgspec

from snapstore import Snapshot, SnapstoreError
from snapstore.demo.output import since
from snapstore.demo.session import messages_of, original, shown
from snapstore.demo.target import DemoError, Target, present

__all__ = ["Report", "Worker", "running_worker"]

_PATIENCE: Final = 5.0
"""Seconds for a worker to end by itself when the demo stops early."""


class Report(msgspec.Struct):
    """What a worker process says, in a line of JSON: after it has loaded, and after each turn."""

    turn: int = 0
    message: str = ""
    snapshot_id: str | None = None
    ms: float = 0.0
    error: str | None = None


class Worker:
    """A worker process, as the demo sees it."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.pid: int = process.pid

    def tell(self, line: bytes) -> None:
        """Write it a line."""
        present(self._process.stdin).write(line + b"\n")

    async def report(self) -> Report:
        """Read what it says next; raise `DemoError` if it has failed."""
        line = await present(self._process.stdout).readline()
        if not line:
            status = await self._process.wait()
            raise DemoError(f"worker process {self.pid} ended too early, with status {status}")
        report = msgspec.json.decode(line, type=Report)
        if report.error is not None:
            raise DemoError(f"in worker process {self.pid}: {report.error}")
        return report

    async def play(self) -> Report:
        """Let it play its next turn."""
        self.tell(b"")
        return await self.report()

    async def kill(self) -> int:
        """Kill it, and give its status."""
        self._process.kill()
        return await self.end()

    async def end(self) -> int:
        """Let it end, as it does when there is nothing more to read, and give its status."""
        present(self._process.stdin).close()
        await present(self._process.stdout).read()
        return await self._process.wait()


@asynccontextmanager
async def running_worker(target: Target) -> AsyncIterator[Worker]:
    """Start a worker process. It finds its credentials in the environment, as we do."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "snapstore.demo.worker"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        start_new_session=True,  # Ctrl-C is for us to act upon
    )
    worker = Worker(process)
    try:
        worker.tell(msgspec.json.encode(target))
        yield worker
    finally:
        if process.returncode is None:
            # Killed in the middle of a save, it could leave an object after all are deleted.
            try:
                async with asyncio.timeout(_PATIENCE):
                    await worker.end()
            except TimeoutError:
                await worker.kill()


async def _work(target: Target) -> None:
    """Resume the session where it is, and play one turn for each line of input."""
    whole = original()
    async with target.storage() as storage:
        started = perf_counter()
        found = await storage.load_snapshot(location=target.location)
        data = {**whole.data, "messages": []} if found is None else found.data
        turn = len(data["messages"])
        last = shown(data["messages"][-1]) if turn else ""
        _tell(Report(turn, last, ms=since(started)))
        while await asyncio.to_thread(sys.stdin.buffer.readline):
            message = messages_of(whole)[turn]
            data = {**data, "messages": [*data["messages"], message]}
            turn += 1
            snapshot = Snapshot.new(data, app_data=whole.app_data)
            started = perf_counter()
            saved = await storage.checkpoint(location=target.location, snapshot=snapshot)
            _tell(Report(turn, shown(message), saved.snapshot_id, since(started)))


def _tell(report: Report) -> None:
    # Bytes: what a terminal can show says nothing about a pipe between our own processes.
    sys.stdout.buffer.write(msgspec.json.encode(report) + b"\n")
    sys.stdout.buffer.flush()


def _be_worker() -> int:
    target = msgspec.json.decode(sys.stdin.buffer.readline(), type=Target)
    try:
        asyncio.run(_work(target))
    except SnapstoreError as error:
        _tell(Report(error=str(error)))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(_be_worker())
