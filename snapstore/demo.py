"""The demo: one agent session in S3, from its first turn to its proven end.

Every step checks what it says, and raises if it is not so. Run as `python -m snapstore.demo`, this
module is the agent's worker process: it learns from the first line of its input where to work, and
plays one turn of the session for each further line.
"""

from __future__ import annotations

import asyncio
import io
import os
import secrets
import signal
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, closing, contextmanager
from importlib.metadata import version
from importlib.resources import files
from time import perf_counter
from typing import Any, Final, TypeVar

import msgspec

from snapstore import (
    S3Storage,
    Snapshot,
    SnapshotConflictError,
    SnapshotLocation,
    SnapstoreError,
    snapshot_time,
)

__all__ = ["DemoError", "run"]

T = TypeVar("T")

_BUCKET: Final = "demo"
_KILLED_AFTER: Final = 2
"""Turns: the agent has called its tool and waits for the result."""

_PATIENCE: Final = 5.0
"""Seconds for a worker to end by itself when the demo stops early."""

_LATEST: Final = "snapshot_latest.json"
_TEXT_WIDTH: Final = 86
_TIME_WIDTH: Final = 8


class DemoError(Exception):
    """What the demo says is not so, or it could not get that far."""


def run(
    *, bucket: str | None, prefix: str | None, endpoint_url: str | None, region: str | None
) -> None:
    """Run the demo and print what happens.

    Args:
        bucket: A bucket that exists, used with the credentials that botocore finds; `None` for a
            new one on a server started for the demo.
        prefix: What all keys begin with; `None` for a new prefix.
        endpoint_url: Where the server is; `None` for botocore's resolution.
        region: The bucket's region; `None` for botocore's resolution.

    Raises:
        DemoError: A claim is not true, no server could be started, or a worker failed.
        SnapstoreError: A request failed.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a session has more than ASCII
    token = secrets.token_hex(4)
    place = _Place(
        bucket=_BUCKET if bucket is None else bucket,
        prefix=f"snapstore-demo-{token}" if prefix is None else prefix,
        session_id=f"session-{token}",
        endpoint_url=endpoint_url,
        region=region,
    )
    _say(f"snapstore {version('snapstore')}: the life of one agent session in S3")
    started = perf_counter()
    if bucket is not None:
        asyncio.run(_demonstrate(place, "yours", started))
        return

    from snapstore.testing.server import ServerUnavailableError, create_bucket, running_server

    try:
        with running_server() as server, _environment(server.environment()):
            create_bucket(server, _BUCKET)
            asyncio.run(_demonstrate(place, "SeaweedFS, started for this demo", started))
    except ServerUnavailableError as error:
        raise DemoError(str(error)) from error


class _Place(msgspec.Struct, frozen=True):
    """Where the demo works: in a session of its own."""

    bucket: str
    prefix: str
    session_id: str
    endpoint_url: str | None
    region: str | None

    @property
    def location(self) -> SnapshotLocation:
        return SnapshotLocation.agent(self.session_id, "weather")

    @property
    def session(self) -> str:
        """What all keys of the session begin with."""
        return f"{self.prefix}/{self.session_id}/" if self.prefix else f"{self.session_id}/"

    @property
    def snapshots(self) -> str:
        """What the keys of the agent's snapshots begin with; printed as `…/`."""
        return f"{self.session}scopes/agent/weather/snapshots/"

    def storage(self) -> S3Storage:
        return S3Storage(
            self.bucket,
            prefix=self.prefix,
            endpoint_url=self.endpoint_url,
            region=self.region,
            timeout=20.0,
        )


async def _demonstrate(place: _Place, server: str, started: float) -> None:
    async with place.storage() as storage:
        # The first request finds out whether the server and the bucket are there at all.
        await storage.list_snapshot_ids(location=place.location, limit=1)
        with closing(await asyncio.to_thread(_Witness, place)) as witness:
            # Before anything is saved, since whatever is there will be deleted.
            _verify(not await asyncio.to_thread(witness.keys), "the new session has objects")
            _say(f"  server   {witness.endpoint_url} ({server})", started)
            _say("  session  as the Strands TypeScript SDK wrote it: text, a tool call, an image")
            _say(f"  …/ is    s3://{place.bucket}/{place.snapshots}")
            try:
                await _Demo(place, storage, witness).run()
            except BaseException:
                await _delete_leftovers(place, storage)
                raise
    _say()
    seconds = perf_counter() - started
    _say(f"Proved in {seconds:.1f} s: no saved turn was lost with the killed worker, no update was")
    _say("overwritten by another writer, and of the deleted session nothing is left.")


async def _delete_leftovers(place: _Place, storage: S3Storage) -> None:
    try:
        await storage.delete_session(session_id=place.session_id)
    except SnapstoreError as error:
        left = f"s3://{place.bucket}/{place.session}"
        print(f"snapstore demo: {left} may not be empty: {error}", file=sys.stderr)


class _Demo:
    """The seven steps."""

    def __init__(self, place: _Place, storage: S3Storage, witness: _Witness) -> None:
        self.place = place
        self.location = place.location
        self.storage = storage
        self.witness = witness
        self.original = _original()
        self.turns = len(_messages(self.original))
        self.ids: list[str] = []

    async def run(self) -> None:
        async with AsyncExitStack() as workers:
            await self.save_and_kill(workers)
            await self.resume(workers)
        await self.travel()
        await self.refuse_lost_update()
        await self.list_pages()
        await self.delete()

    async def save_and_kill(self, workers: AsyncExitStack) -> None:
        step = _Step("1. Save every turn")
        worker = await workers.enter_async_context(_worker(self.place))
        found = await worker.report()
        _verify(found.turn == 0, "a new session has a snapshot already")
        _say(f"  worker process {worker.pid} calls checkpoint: history first, then …/{_LATEST}")
        await self.play(worker, range(1, _KILLED_AFTER + 1))
        step.proved(f"{_KILLED_AFTER} of {self.turns} turns are saved")

        step = _Step("2. Kill the worker")
        status = await worker.kill()
        _verify(status == -signal.SIGKILL, f"the worker was killed, but its status is {status}")
        step.proved(f"SIGKILL ended process {worker.pid}, whose agent was waiting for its tool")

    async def resume(self, workers: AsyncExitStack) -> None:
        step = _Step("3. Resume in another process")
        worker = await workers.enter_async_context(_worker(self.place))
        found = await worker.report()
        _verify(
            found.turn == _KILLED_AFTER,
            f"{_KILLED_AFTER} turns were saved, but {found.turn} were found",
        )
        _say(f"  worker process {worker.pid} calls load_snapshot: …/{_LATEST}", ms=found.ms)
        _say(f"  it is at turn {found.turn} of {self.turns}; last message, {found.message}")
        await self.play(worker, range(found.turn + 1, self.turns + 1))
        status = await worker.end()
        _verify(status == 0, f"the worker ended with status {status}")
        latest = _present(await self.storage.load_snapshot(location=self.location))
        _verify(latest.data == self.original.data, "the session is not the same as the original")
        step.proved("the session went on to its end, and is equal to what the SDK wrote")

    async def play(self, worker: _Worker, turns: range) -> None:
        for turn in turns:
            played = await worker.play()
            _verify(played.turn == turn, f"turn {turn} was played as turn {played.turn}")
            self.ids.append(_present(played.snapshot_id))
            _say(f"  turn {turn}  {played.message}")
            _say(f"          {_history(self.ids[-1])}", ms=played.ms)

    async def travel(self) -> None:
        step = _Step("4. Travel back in time")
        started = perf_counter()
        ids = await self.storage.list_snapshot_ids(location=self.location)
        _verify(ids == self.ids, f"{len(self.ids)} snapshots were saved, and {len(ids)} are listed")
        _say(
            f"  list_snapshot_ids lists …/immutable_history/: {len(ids)} ids, oldest first", started
        )
        earlier = ids[_KILLED_AFTER - 1]
        started = perf_counter()
        snapshot = _present(
            await self.storage.load_snapshot(location=self.location, snapshot_id=earlier)
        )
        _say("  load_snapshot(snapshot_id=…) loads the last one before the kill")
        _say(f"          {_history(earlier)}", started)
        messages = _messages(snapshot)
        _verify(messages == _messages(self.original)[:_KILLED_AFTER], "an old snapshot has changed")
        time = f"{snapshot_time(earlier):%Y-%m-%d %H:%M:%S.%f}"[:-3]
        step.proved(
            f"on {time} UTC there were {len(messages)} messages, now there are {self.turns}"
        )

    async def refuse_lost_update(self) -> None:
        step = _Step("5. Refuse a lost update")
        a = _present(await self.storage.load_versioned(location=self.location))
        b = _present(await self.storage.load_versioned(location=self.location))
        _verify(a.etag == b.etag, "two reads of one version have different etags")
        count = a.snapshot.app_data["n"]
        _say(f"  A and B call load_versioned: both read …/{_LATEST} with n = {count}")

        started = perf_counter()
        saved = await self.storage.save_snapshot(
            location=self.location, snapshot=_counted(a.snapshot), is_latest=True, if_match=a
        )
        _say(f"  A calls save_snapshot with n = {count + 1}, if_match=what it read: saved", started)

        started = perf_counter()
        try:
            await self.storage.save_snapshot(
                location=self.location, snapshot=_counted(b.snapshot), is_latest=True, if_match=b
            )
        except SnapshotConflictError as error:
            name = type(error).__name__
            _say(
                f"  B calls save_snapshot with n = {count + 1}, if_match=what it read: {name}",
                started,
            )
        else:
            raise DemoError("this server ignores if_match: B has overwritten what A saved")
        kept = _present(await self.storage.load_versioned(location=self.location))
        _verify(kept.etag == saved.etag, "the write that was refused has changed something")

        started = perf_counter()
        await self.storage.update_latest(location=self.location, update=_counted)
        _say("  B calls update_latest with n → n + 1, which reads first: saved", started)
        latest = _present(await self.storage.load_snapshot(location=self.location))
        _verify(latest.app_data["n"] == count + 2, "an update is lost")
        step.proved(f"n = {latest.app_data['n']}: both updates are in")

    async def list_pages(self) -> None:
        step = _Step("6. List history in pages")
        listed: list[str] = []
        page: list[str] = []
        while not listed or len(page) == 2:
            after = listed[-1] if listed else None
            started = perf_counter()
            page = await self.storage.list_snapshot_ids(
                location=self.location, limit=2, start_after=after
            )
            cursor = "" if after is None else f", start_after={after!r}"
            _say(f"  list_snapshot_ids(limit=2{cursor})", started)
            listed += page
            for snapshot_id in page:
                _say(f"    {snapshot_id}")
        _verify(listed == self.ids, "the pages together are not the history")
        step.proved(f"{len(listed)} ids, each once, in the order they were saved")

    async def delete(self) -> None:
        step = _Step("7. Delete the session, and prove it")
        paths = [f"immutable_history/snapshot_{snapshot_id}.json" for snapshot_id in self.ids]
        expected = sorted(self.place.snapshots + path for path in [*paths, _LATEST])
        before = await asyncio.to_thread(self.witness.keys)
        _verify(sorted(before) == expected, f"the bucket has other keys than were saved: {before}")
        _say(f"  plain botocore lists {len(before)} keys under …/")

        started = perf_counter()
        deleted = await self.storage.delete_session(session_id=self.place.session_id)
        _verify(deleted.objects == len(before), f"{deleted.objects} objects were deleted")
        _say(f"  delete_session deletes and confirms {deleted.objects} objects", started)

        started = perf_counter()
        latest = await self.storage.load_snapshot(location=self.location)
        _verify(latest is None, "the deleted session can still be loaded")
        _say("  load_snapshot gives None", started)
        after = await asyncio.to_thread(self.witness.keys)
        _verify(not after, f"the deleted session has keys: {after}")
        step.proved("plain botocore lists no key of this session any more")


class _Witness:
    """Lists what is in the bucket with plain botocore, without any code of snapstore.

    It blocks: it is for a thread.
    """

    def __init__(self, place: _Place) -> None:
        from botocore.session import get_session

        self._place = place
        self._client: Any = get_session().create_client(
            "s3", region_name=place.region, endpoint_url=place.endpoint_url
        )
        self.endpoint_url: str = self._client.meta.endpoint_url

    def keys(self) -> list[str]:
        from botocore.exceptions import BotoCoreError, ClientError

        bucket, prefix = self._place.bucket, self._place.session
        try:
            page = self._client.list_objects_v2(Bucket=bucket, Prefix=prefix)
        except (BotoCoreError, ClientError) as error:
            raise DemoError(f"plain botocore can't list {bucket}/{prefix}: {error}") from error
        _verify(page["IsTruncated"] is False, "the listing by plain botocore is cut short")
        return [found["Key"] for found in page.get("Contents", ())]

    def close(self) -> None:
        self._client.close()


class _Report(msgspec.Struct):
    """What a worker process says, in a line of JSON: after it has loaded, and after each turn."""

    turn: int = 0
    message: str = ""
    snapshot_id: str | None = None
    ms: float = 0.0
    error: str | None = None


class _Worker:
    """A worker process, as the demo sees it."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.pid = process.pid

    def tell(self, line: bytes) -> None:
        _present(self._process.stdin).write(line + b"\n")

    async def report(self) -> _Report:
        line = await _present(self._process.stdout).readline()
        if not line:
            status = await self._process.wait()
            raise DemoError(f"worker process {self.pid} ended too early, with status {status}")
        report = msgspec.json.decode(line, type=_Report)
        if report.error is not None:
            raise DemoError(f"in worker process {self.pid}: {report.error}")
        return report

    async def play(self) -> _Report:
        """Let it play its next turn."""
        self.tell(b"")
        return await self.report()

    async def kill(self) -> int:
        self._process.kill()
        return await self.end()

    async def end(self) -> int:
        """Let it end, as it does when there is nothing more to read, and give its status."""
        _present(self._process.stdin).close()
        await _present(self._process.stdout).read()
        return await self._process.wait()


@asynccontextmanager
async def _worker(place: _Place) -> AsyncIterator[_Worker]:
    """Start a worker process. It finds its credentials in the environment, as we do."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "snapstore.demo"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        start_new_session=True,  # Ctrl-C is for us to act upon
    )
    worker = _Worker(process)
    try:
        worker.tell(msgspec.json.encode(place))
        yield worker
    finally:
        if process.returncode is None:
            # Killed in the middle of a save, it could leave an object after all are deleted.
            try:
                async with asyncio.timeout(_PATIENCE):
                    await worker.end()
            except TimeoutError:
                await worker.kill()


async def _work(place: _Place) -> None:
    """Resume the session where it is, and play one turn for each line of input."""
    original = _original()
    async with place.storage() as storage:
        started = perf_counter()
        found = await storage.load_snapshot(location=place.location)
        data = {**original.data, "messages": []} if found is None else found.data
        turn = len(data["messages"])
        last = _shown(data["messages"][-1]) if turn else ""
        _tell(_Report(turn, last, ms=_since(started)))
        while await asyncio.to_thread(sys.stdin.buffer.readline):
            message = _messages(original)[turn]
            data = {**data, "messages": [*data["messages"], message]}
            turn += 1
            snapshot = Snapshot.new(data, app_data=original.app_data)
            started = perf_counter()
            saved = await storage.checkpoint(location=place.location, snapshot=snapshot)
            _tell(_Report(turn, _shown(message), saved.snapshot_id, _since(started)))


def _tell(report: _Report) -> None:
    # Bytes: what a terminal can show says nothing about a pipe between our own processes.
    sys.stdout.buffer.write(msgspec.json.encode(report) + b"\n")
    sys.stdout.buffer.flush()


def _be_worker() -> int:
    place = msgspec.json.decode(sys.stdin.buffer.readline(), type=_Place)
    try:
        asyncio.run(_work(place))
    except SnapstoreError as error:
        _tell(_Report(error=str(error)))
        return 1
    return 0


@contextmanager
def _environment(changes: Mapping[str, str]) -> Iterator[None]:
    """Have this process and its workers find only our own server, whatever the user configured."""
    before = dict(os.environ)
    for name in before:
        if name.startswith("AWS_"):
            del os.environ[name]
    nothing = {"AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull}
    os.environ.update({**nothing, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1", **changes})
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _original() -> Snapshot:
    """The session that is shown, as the Strands TypeScript SDK wrote it."""
    document = msgspec.json.decode(files("snapstore").joinpath("demo_session.json").read_bytes())
    return Snapshot(
        document["scope"],
        document["schemaVersion"],
        document["createdAt"],
        document["data"],
        document["appData"],
    )


def _messages(snapshot: Snapshot) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = snapshot.data["messages"]
    return messages


def _counted(snapshot: Snapshot | None) -> Snapshot:
    """What both writers do: add one to a number beside the session."""
    app_data = _present(snapshot).app_data
    return msgspec.structs.replace(
        _present(snapshot), app_data={**app_data, "n": app_data["n"] + 1}
    )


def _shown(message: Mapping[str, Any]) -> str:
    """A message in a line."""
    parts = []
    for block in message["content"]:
        match block:
            case {"text": text}:
                parts.append(f'"{_first_line(text)}"')
            case {"toolUse": {"name": name}}:
                parts.append(f"tool call ({name})")
            case {"toolResult": {"status": status}}:
                parts.append(f"tool result ({status})")
            case _:
                parts.append(", ".join(block))  # its kind
    return f"{message['role']}: {' + '.join(parts)}"


def _first_line(text: str) -> str:
    line, *more = text.splitlines()
    return f"{line.rstrip()}…" if more else line


class _Step:
    """A step and its time: a heading, and at the end what was proved."""

    def __init__(self, heading: str) -> None:
        _say()
        _say(heading)
        self._started = perf_counter()

    def proved(self, what: str) -> None:
        _say(f"  ✓ {what}", self._started)


def _say(text: str = "", started: float | None = None, *, ms: float | None = None) -> None:
    if started is not None:
        ms = _since(started)
    time = "" if ms is None else f"{ms:,.0f} ms".rjust(_TIME_WIDTH)
    print(f"{text:<{_TEXT_WIDTH}}{time}".rstrip(), flush=True)


def _since(started: float) -> float:
    return (perf_counter() - started) * 1000


def _verify(holds: bool, otherwise: str) -> None:
    if not holds:
        raise DemoError(otherwise)


def _present(value: T | None) -> T:
    if value is None:
        raise DemoError("something that was saved is not there")
    return value


def _history(snapshot_id: str) -> str:
    return f"…/immutable_history/snapshot_{snapshot_id}.json"


if __name__ == "__main__":
    sys.exit(_be_worker())
