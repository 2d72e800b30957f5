"""Several processes work on sessions for a while, on a network that breaks and on files.

Each notes what its storage told it. At the end all of it is compared with what is stored: each
acknowledged write is there, and none that was refused. Memory, descriptors, tasks and connections
must not grow while it lasts.

    python tests/soak/soak.py --seconds 600
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, TextIO, TypeVar

from snapstore import (
    FileStorage,
    ObjectSnapshotStorage,
    S3Storage,
    SavedSnapshot,
    Snapshot,
    SnapshotLocation,
    StorageError,
    VersionedSnapshot,
    new_snapshot_id,
)
from snapstore.testing.proxy import Fault, RecordedRequest, recording_proxy
from snapstore.testing.server import create_bucket, running_server

T = TypeVar("T")

WORKERS = 3
AT_ONCE = 8
BUCKET = "soak"
COUNTER = SnapshotLocation.agent("shared", "counter")
MEBIBYTE = 2**20
MOST_GROWTH = {"memory": 32 * MEBIBYTE, "descriptors": 24, "tasks": 4}
"""What may be more at the end than after the first third."""


class Usage(NamedTuple):
    """What a process holds."""

    memory: int
    descriptors: int
    tasks: int


def usage() -> Usage:
    gc.collect()
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return Usage(resident, len(list(Path("/proc/self/fd").iterdir())), len(asyncio.all_tasks()))


# A worker


class Session:
    """What one task works on: a latest snapshot that it alone writes, and a history.

    Attributes:
        latest: Where the latest snapshot is. It is never deleted.
        history: Where the history is. Now and then it is deleted.
        version: The version of latest that was saved or loaded last; `None` where that is not
            known.
        number: The number of the save of latest that was made last.
    """

    def __init__(self, name: str) -> None:
        self.latest = SnapshotLocation.agent(f"{name}-latest", "a")
        self.history = SnapshotLocation.agent(f"{name}-history", "a")
        self.version: SavedSnapshot | VersionedSnapshot | None = None
        self.number = 0


class Worker:
    """One process: several tasks with a session each, and one counter that all share.

    Args:
        name: What its sessions begin with.
        storage: The storage.
        log: Where each outcome is noted, one JSON object a line.
        chance: Decides what is done.
    """

    def __init__(
        self, name: str, storage: ObjectSnapshotStorage, log: TextIO, chance: random.Random
    ) -> None:
        self.name, self.storage, self.log, self.chance = name, storage, log, chance

    async def run(self, until: float) -> None:
        async with asyncio.TaskGroup() as tasks:
            for number in range(AT_ONCE):
                tasks.create_task(self.work(Session(f"{self.name}-{number}"), until))

    async def work(self, session: Session, until: float) -> None:
        while time.monotonic() < until:
            act = self.chance.choice([self.count, self.keep, self.keep, self.save, self.list])
            if self.chance.random() < 0.02:
                act = self.delete
            task = asyncio.create_task(act(session))
            if self.chance.random() < 0.1:
                asyncio.get_running_loop().call_later(self.chance.uniform(0, 0.3), task.cancel)
            with suppress(asyncio.CancelledError):
                await task

    async def write(self, call: Awaitable[T], **facts: Any) -> T | None:
        """Make a write, and note what the storage says of it."""
        outcome: str = "unknown"
        try:
            result = await call
            outcome = "applied"
        except StorageError as error:
            outcome = error.outcome or "unknown"
        else:
            return result
        finally:
            print(json.dumps({"outcome": outcome, **facts}), file=self.log, flush=True)
        return None

    async def count(self, _: Session) -> None:
        def add_one(current: Snapshot | None) -> Snapshot:
            return Snapshot.new({"n": (current.data["n"] if current else 0) + 1})

        await self.write(self.storage.update_latest(location=COUNTER, update=add_one), kind="count")

    async def keep(self, session: Session) -> None:
        snapshot_id = new_snapshot_id()
        save = self.storage.save_snapshot(
            location=session.history,
            snapshot=self.snapshot(snapshot_id),
            is_latest=False,
            snapshot_id=snapshot_id,
        )
        await self.write(save, kind="keep", session=session.history.session_id, id=snapshot_id)

    async def save(self, session: Session) -> None:
        version, session.version = session.version, None
        if version is None:
            with suppress(StorageError):
                session.version = await self.storage.load_versioned(location=session.latest)
            if session.version is not None or session.number:
                return
        session.number += 1
        save = self.storage.save_snapshot(
            location=session.latest,
            snapshot=self.snapshot(session.number),
            is_latest=True,
            if_match=version,
            if_none_match=version is None,
        )
        facts = {"session": session.latest.session_id, "number": session.number}
        session.version = await self.write(save, kind="save", **facts)

    def snapshot(self, mark: str | int) -> Snapshot:
        return Snapshot.new({"mark": mark, "text": "x" * self.chance.choice([10, 1000, 100_000])})

    async def list(self, session: Session) -> None:
        with suppress(StorageError):
            await self.storage.list_snapshot_ids(location=session.history)

    async def delete(self, session: Session) -> None:
        session_id = session.history.session_id
        delete = self.storage.delete_session(session_id=session_id)
        await self.write(delete, kind="delete", session=session_id)


def forking(chance: random.Random) -> int:
    """Fork a child that holds what it has inherited for a while, and ends without touching it."""
    child = os.fork()
    if child == 0:
        time.sleep(chance.uniform(0, 2))
        os._exit(0)
    return child


async def worker(options: argparse.Namespace) -> None:
    chance = random.Random(options.seed)
    storage: ObjectSnapshotStorage = (
        FileStorage(options.root)
        if options.root
        else S3Storage(BUCKET, endpoint_url=options.endpoint, timeout=20.0, max_concurrency=16)
    )
    until = time.monotonic() + options.seconds
    early: Usage | None = None
    with options.log.open("w") as log:
        async with storage:
            work = Worker(options.name, storage, log, chance).run(until)
            working = asyncio.create_task(work)
            while not working.done():
                await asyncio.wait([working], timeout=1.0)
                child = forking(chance)
                if early is None and time.monotonic() > until - options.seconds * 2 / 3:
                    early = usage()
                await asyncio.to_thread(os.waitpid, child, 0)
            await working
            late = usage()
    assert early is not None
    grown = {
        name: now - then
        for name, then, now in zip(Usage._fields, early, late, strict=True)
        if now - then > MOST_GROWTH[name]
    }
    print(json.dumps({"early": early, "late": late, "grown": grown}))
    sys.exit(bool(grown))


# The whole


def breaking(chance: random.Random, requests: list[RecordedRequest]) -> Any:
    """What the network does to a request: to most nothing."""

    async def decide(_: RecordedRequest) -> Fault | None:
        requests.clear()  # nobody looks at them
        if chance.random() < 0.8:
            return None
        return chance.choice(
            [
                Fault(lost=True),
                Fault(lost=True, forward=False),
                Fault(repeat=True),
                Fault(held=True),
                Fault(cut=10),
                Fault(delay=0.3),
                Fault(stall=0.3),
                Fault.error(503, "SlowDown"),
                Fault.error(500, "InternalError"),
                Fault.error(409, "ConditionalRequestConflict"),
            ]
        )

    return decide


@asynccontextmanager
async def running(target: str, name: str, options: argparse.Namespace) -> AsyncIterator[None]:
    """Run the workers, as processes, for as long as they take."""
    own = [target, "--seconds", str(options.seconds)]
    environment = {**os.environ, "PYTHONWARNINGS": "error"}
    workers = [
        await asyncio.create_subprocess_exec(
            *(sys.executable, __file__, *own, "--seed", str(options.seed + number)),
            *("--name", f"{name}{number}", "--log", str(options.logs / f"{name}{number}.jsonl")),
            env=environment,
            stdout=subprocess.PIPE,
        )
        for number in range(WORKERS)
    ]
    yield
    for process in workers:
        said, _ = await process.communicate()
        print(f"{name}: {said.decode().strip() or 'nothing'}")
        if process.returncode:
            sys.exit(f"a worker on {name} has failed")


async def on_s3(options: argparse.Namespace) -> None:
    with running_server() as server:
        os.environ |= server.environment()
        create_bucket(server, BUCKET)
        chance = random.Random(options.seed)
        async with recording_proxy(server.endpoint_url) as proxy:
            proxy.fault = breaking(chance, proxy.requests)
            async with running(f"--endpoint={proxy.endpoint_url}", "s3", options):
                for _ in range(max(options.seconds // 2, 1)):
                    await asyncio.sleep(2.0)
                    await proxy.release()
            await proxy.release()
        async with S3Storage(BUCKET) as storage:
            await compare(storage, "s3", options.logs)


async def on_files(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as root:
        async with running(f"--root={root}", "files", options):
            pass
        async with FileStorage(root) as storage:
            await compare(storage, "files", options.logs)


def noted(name: str, logs: Path) -> Iterator[dict[str, Any]]:
    for log in sorted(logs.glob(f"{name}*.jsonl")):
        yield from map(json.loads, log.read_text().splitlines())


async def compare(storage: ObjectSnapshotStorage, name: str, logs: Path) -> None:
    """Compare what was told with what is stored."""
    told = Counter[str]()
    counted = Counter[str]()
    kept: dict[str, dict[str, str]] = {}
    latest: dict[str, list[tuple[int, str]]] = {}
    for line in noted(name, logs):
        kind, outcome, session = line["kind"], line["outcome"], line.get("session", "")
        told[f"{kind} {outcome}"] += 1
        if kind == "count":
            counted[outcome] += 1
        elif kind == "keep":
            kept.setdefault(session, {})[line["id"]] = outcome
        elif kind == "save":
            latest.setdefault(session, []).append((line["number"], outcome))
        else:  # a create that the network holds may land after a delete
            before = kept.get(session, {})
            kept[session] = {i: "unknown" for i, o in before.items() if o != "not applied"}
    print(f"{name}: {dict(sorted(told.items()))}")

    read = await storage.load_snapshot(location=COUNTER)
    count = read.data["n"] if read else 0
    assert counted["applied"] <= count <= counted["applied"] + counted["unknown"], (count, counted)
    for session, entries in kept.items():
        location = SnapshotLocation.agent(session, "a")
        stored = set(await storage.list_snapshot_ids(location=location))
        acknowledged = {i for i, outcome in entries.items() if outcome == "applied"}
        refused = {i for i, outcome in entries.items() if outcome == "not applied"}
        assert acknowledged <= stored, f"{session} has lost {sorted(acknowledged - stored)}"
        assert not refused & stored, f"{session} has what was refused: {sorted(refused & stored)}"
    for session, writes in latest.items():
        read = await storage.load_snapshot(location=SnapshotLocation.agent(session, "a"))
        # Each save replaced the one before it: the last acknowledged one, or one after it.
        last = max((place for place, (_, o) in enumerate(writes) if o == "applied"), default=0)
        possible = {number for number, o in writes[last:] if o != "not applied"}
        mark = read.data["mark"] if read else None
        assert mark in possible or (mark is None and last == 0), f"{session}: {mark}, {possible}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=600, help="how long the workers work")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--endpoint", help=argparse.SUPPRESS)
    parser.add_argument("--root", help=argparse.SUPPRESS)
    parser.add_argument("--name", help=argparse.SUPPRESS)
    parser.add_argument("--log", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.name:
        asyncio.run(worker(options))
        return
    with tempfile.TemporaryDirectory() as logs:
        options.logs = Path(logs)
        for part in (on_s3, on_files):
            asyncio.run(part(options))


if __name__ == "__main__":
    main()
