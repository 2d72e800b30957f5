"""The seven steps of the demo. Each checks what it says, and raises if it is not so."""

from __future__ import annotations

import asyncio
import signal
from contextlib import AsyncExitStack
from time import perf_counter
from typing import Final

import msgspec

from snapstore import (
    S3Storage,
    Snapshot,
    SnapshotConflictError,
    SnapshotLocation,
    snapshot_time,
)
from snapstore.demo.lister import IndependentLister
from snapstore.demo.output import Step, say
from snapstore.demo.session import messages_of, original
from snapstore.demo.target import DemoError, Target, present, verify
from snapstore.demo.worker import Worker, running_worker

__all__ = ["Demo"]

_KILLED_AFTER: Final = 2
"""Turns: the agent has called its tool and waits for the result."""

_LATEST: Final = "snapshot_latest.json"


class Demo:
    """The seven steps.

    Args:
        target: Where the session is.
        storage: An open storage there.
        lister: Lists what is there.
    """

    def __init__(self, target: Target, storage: S3Storage, lister: IndependentLister) -> None:
        self.target = target
        self.location: SnapshotLocation = target.location
        self.storage = storage
        self.lister = lister
        self.original: Snapshot = original()
        self.turns: int = len(messages_of(self.original))
        self.ids: list[str] = []

    async def run(self) -> None:
        """Go through all steps."""
        async with AsyncExitStack() as workers:
            await self.save_and_kill(workers)
            await self.resume(workers)
        await self.travel()
        await self.refuse_lost_update()
        await self.list_pages()
        await self.delete()

    async def save_and_kill(self, workers: AsyncExitStack) -> None:
        """Steps 1 and 2: a worker saves every turn until it is killed."""
        step = Step("1. Save every turn")
        worker = await workers.enter_async_context(running_worker(self.target))
        found = await worker.report()
        verify(found.turn == 0, "a new session has a snapshot already")
        say(f"  worker process {worker.pid} calls checkpoint: history first, then …/{_LATEST}")
        await self.play(worker, range(1, _KILLED_AFTER + 1))
        step.proved(f"{_KILLED_AFTER} of {self.turns} turns are saved")

        step = Step("2. Kill the worker")
        status = await worker.kill()
        verify(status == -signal.SIGKILL, f"the worker was killed, but its status is {status}")
        step.proved(f"SIGKILL ended process {worker.pid}, whose agent was waiting for its tool")

    async def resume(self, workers: AsyncExitStack) -> None:
        """Step 3: another worker plays the turns that are left."""
        step = Step("3. Resume in another process")
        worker = await workers.enter_async_context(running_worker(self.target))
        found = await worker.report()
        verify(
            found.turn == _KILLED_AFTER,
            f"{_KILLED_AFTER} turns were saved, but {found.turn} were found",
        )
        say(f"  worker process {worker.pid} calls load_snapshot: …/{_LATEST}", ms=found.ms)
        say(f"  it is at turn {found.turn} of {self.turns}; last message, {found.message}")
        await self.play(worker, range(found.turn + 1, self.turns + 1))
        status = await worker.end()
        verify(status == 0, f"the worker ended with status {status}")
        latest = present(await self.storage.load_snapshot(location=self.location))
        verify(latest.data == self.original.data, "the session is not the same as the original")
        step.proved("the session went on to its end, and is equal to what the SDK wrote")

    async def play(self, worker: Worker, turns: range) -> None:
        """Let a worker play some turns, and keep the ids that they are saved under."""
        for turn in turns:
            played = await worker.play()
            verify(played.turn == turn, f"turn {turn} was played as turn {played.turn}")
            self.ids.append(present(played.snapshot_id))
            say(f"  turn {turn}  {played.message}")
            say(f"          {_history(self.ids[-1])}", ms=played.ms)

    async def travel(self) -> None:
        """Step 4: an earlier turn is still there."""
        step = Step("4. Travel back in time")
        started = perf_counter()
        ids = await self.storage.list_snapshot_ids(location=self.location)
        verify(ids == self.ids, f"{len(self.ids)} snapshots were saved, and {len(ids)} are listed")
        say(
            f"  list_snapshot_ids lists …/immutable_history/: {len(ids)} ids, oldest first", started
        )
        earlier = ids[_KILLED_AFTER - 1]
        started = perf_counter()
        snapshot = present(
            await self.storage.load_snapshot(location=self.location, snapshot_id=earlier)
        )
        say("  load_snapshot(snapshot_id=…) loads the last one before the kill")
        say(f"          {_history(earlier)}", started)
        messages = messages_of(snapshot)
        verify(
            messages == messages_of(self.original)[:_KILLED_AFTER], "an old snapshot has changed"
        )
        time = f"{snapshot_time(earlier):%Y-%m-%d %H:%M:%S.%f}"[:-3]
        step.proved(
            f"on {time} UTC there were {len(messages)} messages, now there are {self.turns}"
        )

    async def refuse_lost_update(self) -> None:
        """Step 5: of two writers that have read the same, one is refused."""
        step = Step("5. Refuse a lost update")
        a = present(await self.storage.load_versioned(location=self.location))
        b = present(await self.storage.load_versioned(location=self.location))
        verify(a.etag == b.etag, "two reads of one version have different etags")
        count = a.snapshot.app_data["n"]
        say(f"  A and B call load_versioned: both read …/{_LATEST} with n = {count}")

        started = perf_counter()
        saved = await self.storage.save_snapshot(
            location=self.location, snapshot=_counted(a.snapshot), is_latest=True, if_match=a
        )
        say(f"  A calls save_snapshot with n = {count + 1}, if_match=what it read: saved", started)

        started = perf_counter()
        try:
            await self.storage.save_snapshot(
                location=self.location, snapshot=_counted(b.snapshot), is_latest=True, if_match=b
            )
        except SnapshotConflictError as error:
            name = type(error).__name__
            say(
                f"  B calls save_snapshot with n = {count + 1}, if_match=what it read: {name}",
                started,
            )
        else:
            raise DemoError("this server ignores if_match: B has overwritten what A saved")
        kept = present(await self.storage.load_versioned(location=self.location))
        verify(kept.etag == saved.etag, "the write that was refused has changed something")

        started = perf_counter()
        await self.storage.update_latest(location=self.location, update=_counted)
        say("  B calls update_latest with n → n + 1, which reads first: saved", started)
        latest = present(await self.storage.load_snapshot(location=self.location))
        verify(latest.app_data["n"] == count + 2, "an update is lost")
        step.proved(f"n = {latest.app_data['n']}: both updates are in")

    async def list_pages(self) -> None:
        """Step 6: history comes in pages."""
        step = Step("6. List history in pages")
        listed: list[str] = []
        page: list[str] = []
        while not listed or len(page) == 2:
            after = listed[-1] if listed else None
            started = perf_counter()
            page = await self.storage.list_snapshot_ids(
                location=self.location, limit=2, start_after=after
            )
            cursor = "" if after is None else f", start_after={after!r}"
            say(f"  list_snapshot_ids(limit=2{cursor})", started)
            listed += page
            for snapshot_id in page:
                say(f"    {snapshot_id}")
        verify(listed == self.ids, "the pages together are not the history")
        step.proved(f"{len(listed)} ids, each once, in the order they were saved")

    async def delete(self) -> None:
        """Step 7: of the deleted session nothing is left."""
        step = Step("7. Delete the session, and prove it")
        paths = [f"immutable_history/snapshot_{snapshot_id}.json" for snapshot_id in self.ids]
        expected = sorted(self.target.snapshots + path for path in [*paths, _LATEST])
        before = await asyncio.to_thread(self.lister.keys)
        verify(sorted(before) == expected, f"the bucket has other keys than were saved: {before}")
        say(f"  plain botocore lists {len(before)} keys under …/")

        started = perf_counter()
        deleted = await self.storage.delete_session(session_id=self.target.session_id)
        verify(deleted.objects == len(before), f"{deleted.objects} objects were deleted")
        say(f"  delete_session deletes and confirms {deleted.objects} objects", started)

        started = perf_counter()
        latest = await self.storage.load_snapshot(location=self.location)
        verify(latest is None, "the deleted session can still be loaded")
        say("  load_snapshot gives None", started)
        after = await asyncio.to_thread(self.lister.keys)
        verify(not after, f"the deleted session has keys: {after}")
        step.proved("plain botocore lists no key of this session any more")


def _counted(snapshot: Snapshot | None) -> Snapshot:
    """What both writers do: add one to a number beside the session."""
    app_data = present(snapshot).app_data
    return msgspec.structs.replace(present(snapshot), app_data={**app_data, "n": app_data["n"] + 1})


def _history(snapshot_id: str) -> str:
    return f"…/immutable_history/snapshot_{snapshot_id}.json"
