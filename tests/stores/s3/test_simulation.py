# ruff: noqa: N803 -- the parameters of requests are named as botocore names them
"""Simulated schedules of writers on an unreliable wire: no report of a write is ever false.

The storage code is the real one. Beneath it, a client of a simulated S3 loses responses, delivers
requests late or twice, and answers with errors after applying. Time is simulated too, so a schedule
takes milliseconds, and depends on its seed alone. When all has ended, and what was held has landed,
each report is compared with what the server did.

Two kinds of conflict may be reported although the write was applied, and are counted apart:

- hidden: a gateway sent the request twice by itself, and what was found after the refusal carried
  nothing of ours: another SDK's write, or none after a delete;
- foreign: a writer without our metadata restored the very bytes of an older version, so that an
  etag names two versions.

`pytest tests/stores/s3/test_simulation.py --schedules=100000` simulates more of them.
"""

import asyncio
import hashlib
import random
import selectors
from collections import Counter, defaultdict
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionClosedError,
    ConnectTimeoutError,
    HTTPClientError,
    ReadTimeoutError,
)

from snapstore import (
    S3Storage,
    SavedSnapshot,
    Snapshot,
    SnapshotConflictError,
    SnapshotLocation,
    SnapstoreError,
    StorageError,
    new_snapshot_id,
)
from snapstore.stores import PreconditionFailedError
from snapstore.stores.s3.client import HTTPSession

LOCATION = SnapshotLocation.agent("s-1", "a")
LATEST = "s-1/scopes/agent/a/snapshots/snapshot_latest.json"
OURS = "snapstore-write"


class VirtualSelector(selectors.DefaultSelector):
    """It waits for nothing, and adds to the time what it should have waited."""

    now = 0.0

    def select(self, timeout=None):
        assert timeout is not None, "nothing is left that could happen"
        self.now += max(timeout, 0.0)
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose time passes at once."""

    def __init__(self):
        self.virtual = VirtualSelector()
        super().__init__(self.virtual)

    def time(self):
        return self.virtual.now


@dataclass
class Operation:
    """One call of a storage, and all that is known of it.

    Attributes:
        kind: What was called.
        expects: The sequence number of the version to be replaced, where it names one.
        writes: The applied writes of latest that it made.
        history: The keys of history that it has written.
        seen: The sequence numbers that it has read, and whether what it read carried its own id.
        resent: Whether a gateway has sent one of its writes twice.
        report: What the call has returned or raised.
    """

    kind: str
    expects: int | None = None
    writes: list["Stored"] = field(default_factory=list)
    history: list[str] = field(default_factory=list)
    seen: list[tuple[int, bool]] = field(default_factory=list)
    resent: bool = False
    report: object = None


operation: ContextVar[Operation] = ContextVar("operation")


@dataclass(frozen=True)
class Stored:
    """A version of an object, as the server knows it.

    Attributes:
        number: Its place among all writes of the bucket.
        replaced: The number of the version that it has replaced; 0 for none.
        body: The body.
        metadata: The metadata.
        by: The operation that wrote it.
        is_foreign: Whether it was written without our metadata.
    """

    number: int
    replaced: int
    body: bytes
    metadata: dict[str, str]
    by: Operation
    is_foreign: bool

    @property
    def etag(self):
        return hashlib.md5(self.body).hexdigest()


class Bucket:
    """The server: it applies each request that reaches it at once and exactly."""

    def __init__(self):
        self.objects: dict[str, Stored] = {}
        self.log: list[Stored] = []

    def put(self, key, body, metadata, condition, by, *, is_foreign=False):
        current = self.objects.get(key)
        kind, value = condition
        if kind == "IfNoneMatch" and current is not None:
            raise error(412, "PreconditionFailed")
        if kind == "IfMatch" and current is None:
            raise error(404, "NoSuchKey")
        if kind == "IfMatch" and current.etag != value:
            raise error(412, "PreconditionFailed")
        replaced = 0 if current is None else current.number
        stored = Stored(len(self.log) + 1, replaced, body, metadata, by, is_foreign)
        self.log.append(stored)
        self.objects[key] = stored
        if key == LATEST:
            by.writes.append(stored)
        else:
            by.history.append(key)
        return {"ETag": f'"{stored.etag}"'}


def error(status, code, name="PutObject"):
    metadata = {"HTTPStatusCode": status, "HTTPHeaders": {}}
    return ClientError({"Error": {"Code": code}, "ResponseMetadata": metadata}, name)


class Events:
    """The events of a client, as far as its hooks go."""

    def __init__(self):
        self.hooks = defaultdict(list)

    def register(self, event, hook, **_):
        self.hooks[event].append(hook)

    def register_first(self, event, hook, **_):
        self.hooks[event].insert(0, hook)

    def unregister(self, event, hook, **_):
        self.hooks[event].remove(hook)

    def emit(self, event, **values):
        answers = [hook(**values) for hook in self.hooks[event]]
        return next((answer for answer in answers if answer is not None), None)


WRITE_FAULTS = (
    *("lost before", "lost after", "held", "resent", "busy", "500 before", "500 after"),
    *("502 before", "502 after", "502 held", "409", "429", "not connected", "bad header"),
    *("timeout before", "timeout after"),
)
READ_FAULTS = ("lost before", "busy", "500 before")


class Client:
    """A client of a bucket, behind a wire that is as bad as the schedule wants."""

    def __init__(self, bucket, chance, *, trouble, strips, tries):
        self.bucket, self.chance, self.trouble, self.strips = bucket, chance, trouble, strips
        self.tries = tries
        self.late = []
        config = SimpleNamespace(
            max_pool_connections=128,
            retries={"mode": "standard"},
            http_session_cls=HTTPSession,
            request_checksum_calculation="when_supported",
            s3={},
        )
        self.meta = SimpleNamespace(events=Events(), config=config, endpoint_url="http://s3")

    async def put_object(self, *, Key, Body, Metadata, **options):
        condition = next(
            ((name, options[name]) for name in ("IfMatch", "IfNoneMatch") if name in options),
            (None, None),
        )
        metadata = {} if self.strips else dict(Metadata)
        apply = partial(self.bucket.put, Key, Body, metadata, condition, operation.get())
        return await self.call(apply, WRITE_FAULTS)

    async def get_object(self, *, Key, **_):
        stored = await self.call(lambda: self.found(Key, "GetObject"), READ_FAULTS)
        return {**self.head(stored), "Body": Body(stored.body), "ContentLength": len(stored.body)}

    async def head_object(self, *, Key, **_):
        return self.head(await self.call(lambda: self.found(Key, "HeadObject"), READ_FAULTS))

    async def list_objects_v2(self, *, Prefix, **_):
        def page():
            keys = sorted(key for key in self.bucket.objects if key.startswith(Prefix))
            return {"Contents": [{"Key": key} for key in keys], "IsTruncated": False}

        return await self.call(page, READ_FAULTS)

    async def delete_objects(self, *, Delete, **_):
        def delete():
            names = [found["Key"] for found in Delete["Objects"]]
            for name in names:
                self.bucket.objects.pop(name, None)
            return {"Deleted": [{"Key": name} for name in names]}

        return await self.call(delete, ("lost before", "lost after", "busy"))

    async def delete_object(self, *, Key, **_):
        return await self.call(lambda: self.bucket.objects.pop(Key, None) or {}, READ_FAULTS)

    def found(self, key, name):
        stored = self.bucket.objects.get(key)
        if stored is None:
            if key == LATEST:
                operation.get().seen.append((0, False))
            raise error(404, "NoSuchKey" if name == "GetObject" else "404", name)
        if key == LATEST:
            by = operation.get()
            ids = [write.metadata.get(OURS) for write in by.writes]
            said = " ".join(stored.metadata.values())
            carries_ours = any(written and written in said for written in ids)
            by.seen.append((stored.number, carries_ours))
        return stored

    def head(self, stored):
        metadata = {"HTTPStatusCode": 200}
        return {
            "ETag": f'"{stored.etag}"',
            "Metadata": stored.metadata,
            "ResponseMetadata": metadata,
        }

    async def call(self, apply, faults):
        """Send a request, and again where the client does so by itself."""
        for attempt in range(self.tries):
            request = SimpleNamespace(url="http://s3", headers={})
            self.meta.events.emit("before-send.s3", request=request)
            end = {"response": None, "caught_exception": None}
            try:
                return await self.send(apply, faults)
            except ClientError as raised:
                failure, end["response"] = raised, (None, raised.response)
                repeats = raised.response["ResponseMetadata"]["HTTPStatusCode"] >= 500
            except BotoCoreError as raised:
                failure = end["caught_exception"] = raised
                repeats = True
            vetoed = self.meta.events.emit("needs-retry.s3", **end) is False
            if vetoed or not repeats or attempt + 1 == self.tries:
                raise failure
        raise AssertionError("unreachable")

    async def send(self, apply, faults):
        chance = self.chance
        await asyncio.sleep(chance.uniform(0.0, 0.1))
        fault = chance.choice(faults) if chance.random() < self.trouble else None
        what, _, when = (fault or "none").partition(" ")
        if what == "not":
            raise ConnectTimeoutError(endpoint_url="http://s3")
        if what == "busy":
            raise error(503, "SlowDown")
        if what in ("409", "429"):
            raise error(int(what), {"409": "ConditionalRequestConflict"}.get(what, ""))
        if what == "held" or when == "held":
            later = asyncio.get_running_loop().create_task(self.land(apply))
            self.late.append(later)
        elif what == "resent":
            operation.get().resent = True
            with suppress(ClientError):
                apply()
            await asyncio.sleep(chance.choice([0.0, 0.05, 0.5]))
            return apply()
        elif when != "before":
            response = apply()
            await asyncio.sleep(chance.uniform(0.0, 0.1))
            if what == "none":
                return response
        if what in ("500", "502"):
            raise error(int(what), "InternalError" if what == "500" else "502")
        if what == "bad":
            raise HTTPClientError(error=UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"))
        if what == "timeout":
            await asyncio.sleep(chance.choice([1.0, 30.0]))
            raise ReadTimeoutError(endpoint_url="http://s3")
        raise ConnectionClosedError(endpoint_url="http://s3")

    async def land(self, apply):
        await asyncio.sleep(self.chance.choice([0.01, 0.2, 2.0, 60.0]))
        with suppress(ClientError):
            apply()


class Body:
    """The body of a response."""

    def __init__(self, data):
        self.data = data

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        """Release nothing."""

    async def read(self, size=None):
        data, self.data = self.data, b""
        return data


class Schedule:
    """Some writers on one bucket, each with a list of things to do."""

    def __init__(self, seed):
        self.chance = random.Random(seed)
        random.seed(seed)
        self.bucket = Bucket()
        self.operations: list[Operation] = []
        self.clients: list[Client] = []
        self.strips = self.chance.random() < 0.1
        self.document = Snapshot("agent", "1.0", "t", {"n": 0}, {})

    async def run(self):
        writers = self.chance.randint(2, 4)
        await asyncio.gather(*(self.writer(number) for number in range(writers)))
        for client in self.clients:
            await asyncio.gather(*client.late)

    async def writer(self, number):
        client = Client(
            self.bucket,
            self.chance,
            trouble=self.chance.choice([0.1, 0.4, 0.7]),
            strips=self.strips,
            tries=self.chance.choice([1, 1, 3]),
        )
        self.clients.append(client)
        storage = S3Storage("bucket", client=client, direct=False, timeout=20.0)
        known = []
        async with storage:
            for _ in range(self.chance.randint(1, 5)):
                await asyncio.sleep(self.chance.choice([0.0, 0.1, 1.0]))
                await self.act(storage, known, number)

    async def act(self, storage, known, number):
        chance = self.chance
        kind = chance.choice(
            ["update"] * 3
            + ["swap"] * 3
            + ["create", "create", "plain", "checkpoint", "history", "load", "load"]
            + ["delete", "rewind", "rewind", "sdk", "sdk restores"]
        )
        this = Operation(kind)
        self.operations.append(this)
        token = operation.set(this)
        try:
            this.report = await getattr(self, kind.replace(" ", "_"))(storage, known, this)
        except SnapstoreError as raised:
            this.report = raised
        finally:
            operation.reset(token)
        result = this.report
        if isinstance(result, SavedSnapshot) and result.key == LATEST:
            written = [stored for stored in this.writes if stored.etag == result.etag]
            if written:
                known.append((result, written[-1].number))

    def another(self):
        return Snapshot("agent", "1.0", "t", {"n": self.chance.randrange(1, 1000)}, {})

    async def update(self, storage, known, this):
        def add_one(current):
            this.expects = this.seen[-1][0]
            count = current.data["n"] if current else 0
            return Snapshot("agent", "1.0", "t", {"n": count + 1}, {})

        return await storage.update_latest(location=LOCATION, update=add_one, max_attempts=4)

    async def swap(self, storage, known, this):
        return await self.save_over(storage, known, this, self.another())

    async def rewind(self, storage, known, this):
        return await self.save_over(storage, known, this, self.document)

    async def save_over(self, storage, known, this, snapshot):
        if not known:
            return None
        version, this.expects = self.chance.choice(known[-2:])
        given = version if self.chance.random() < 0.8 else version.etag
        return await storage.save_snapshot(
            location=LOCATION, snapshot=snapshot, is_latest=True, if_match=given
        )

    async def create(self, storage, known, this):
        this.expects = 0
        return await storage.save_snapshot(
            location=LOCATION, snapshot=self.another(), is_latest=True, if_none_match=True
        )

    async def plain(self, storage, known, this):
        return await storage.save_snapshot(
            location=LOCATION, snapshot=self.document, is_latest=True
        )

    async def checkpoint(self, storage, known, this):
        version, this.expects = self.chance.choice(known) if known else (None, None)
        return await storage.checkpoint(
            location=LOCATION, snapshot=self.another(), if_match=version
        )

    async def history(self, storage, known, this):
        return await storage.save_snapshot(
            location=LOCATION,
            snapshot=self.another(),
            is_latest=False,
            snapshot_id=new_snapshot_id(),
        )

    async def load(self, storage, known, this):
        read = await storage.load_versioned(location=LOCATION)
        if read is not None:
            known.append((read, this.seen[-1][0]))
        return read

    async def delete(self, storage, known, this):
        return await storage.delete_session(session_id="s-1")

    async def sdk(self, storage, known, this):
        body = (
            b'{"scope":"agent","schemaVersion":"1.0","createdAt":"t","data":{"n":%d},"appData":{}}'
        )
        body %= self.chance.randrange(1000)
        self.bucket.put(LATEST, body, {}, (None, None), this, is_foreign=True)

    async def sdk_restores(self, storage, known, this):
        """Write an older version again, byte for byte, as the restore of a bucket does."""
        older = [stored for stored in self.bucket.log if b'"n":' in stored.body]
        if older:
            body = self.chance.choice(older[-4:]).body
            self.bucket.put(LATEST, body, {}, (None, None), this, is_foreign=True)


def verdicts(schedule):
    """Check each report of a schedule, and count them by what they say.

    Raises:
        AssertionError: A report is false.
    """
    counts = Counter()
    log = schedule.bucket.log
    restored = has_restored_bytes(log)
    for this in schedule.operations:
        report, applied = this.report, this.writes
        for stored in applied:
            is_ours = not stored.is_foreign and this.expects is not None
            has_replaced_it = first(log, stored.replaced) == first(log, this.expects)
            if is_ours and not has_replaced_it and this.kind != "update":
                counts["foreign"] += 1
                assert restored, f"{this.kind} has replaced what it has not seen"
        if this.kind == "update":
            for stored in applied:
                before = log[stored.replaced - 1] if stored.replaced else None
                seen = {first(log, number) for number, _ in this.seen}
                if first(log, stored.replaced) not in seen:
                    counts["foreign"] += 1
                    assert restored, "an update has replaced what it has not read"
                else:
                    assert count_in(stored) == (count_in(before) if before else 0) + 1
            # The same write may land again where a delete has made room for a create.
            distinct = {first(log, stored.number) for stored in applied}
            if isinstance(report, SavedSnapshot) and len(distinct) > 1:
                counts["hidden" if this.resent else "foreign"] += 1
                assert this.resent or restored, "an update counts twice"
        if isinstance(report, SavedSnapshot) and report.key == LATEST:
            counts["applied"] += 1
            assert any(stored.etag == report.etag for stored in applied), "a false success"
        elif isinstance(report, SavedSnapshot):
            counts["applied"] += 1
            assert report.key in this.history, "a false success in history"
        assert type(report) is not StorageError, f"{report}"
        assert not isinstance(report, PreconditionFailedError), "an error of the object tier"
        if isinstance(report, StorageError) and report.outcome is not None:
            name = type(report).__name__
            counts[f"{report.outcome}: {name}"] += 1
            if report.outcome == "not applied":
                done = applied or (this.kind == "history" and this.history)
                if done and is_excused(this, report):
                    counts["hidden"] += 1
                elif applied and is_copied(log, applied[0].replaced):
                    counts["foreign"] += 1
                elif applied and has_come_back(log, applied[0]):
                    counts["came back"] += 1
                else:
                    assert not done, f"{this.kind}: {name} is false, since it was applied"
            else:
                assert report.outcome == "unknown"
                counts["unknown, was applied" if applied else "unknown, was not"] += 1
    return counts


def is_excused(this, report):
    """Whether a gateway sent it twice, and what was found afterwards carried nothing of ours."""
    return (
        isinstance(report, SnapshotConflictError)
        and this.resent
        and not any(carries_ours for _, carries_ours in this.seen[-1:])
    )


def first(log, number):
    """The number of the first try of a write, which may be applied several times.

    What has replaced another try of it has replaced the same content.
    """
    if not number:
        return number
    write = log[number - 1]
    return next(s.number for s in log if s.by is write.by and s.body == write.body)


def is_copied(log, number):
    """Whether a foreign writer has written the very bytes of a version, before or after it."""
    return any(s.is_foreign and s.body == log[number - 1].body for s in log) if number else False


def has_come_back(log, stored):
    """Whether the version that a write has replaced was written again after it, by its own sender.

    A gateway has sent a write without condition twice. Nothing can tell this from a version that
    was there all the time; and the write in question is gone.
    """
    if not stored.replaced:
        return False
    replaced = log[stored.replaced - 1]
    return any(s.by is replaced.by and s.body == replaced.body for s in log[stored.number :])


def has_restored_bytes(log):
    """Whether a foreign writer has written the bytes of an older version again."""
    bodies = Counter(stored.body for stored in log)
    return any(stored.is_foreign and bodies[stored.body] > 1 for stored in log)


def count_in(stored):
    return int(stored.body.partition(b'"n":')[2].partition(b"}")[0])


def simulate(seed):
    loop = VirtualLoop()
    schedule = Schedule(seed)
    try:
        loop.run_until_complete(schedule.run())
    finally:
        loop.close()
    return verdicts(schedule)


def test_no_report_is_false(request):
    total = Counter()
    for seed in range(request.config.getoption("--schedules")):
        try:
            total += simulate(seed)
        except AssertionError as failure:
            raise AssertionError(f"schedule {seed}: {failure}") from failure
    request.config.get_terminal_writer().line(f"\n{dict(sorted(total.items()))}")
    # Each kind of report has come up, so that each was checked.
    for outcome in (
        "applied",
        "not applied: SnapshotConflictError",
        "not applied: SessionDeletedError",
    ):
        assert total[outcome]
    assert total["unknown, was applied"]
    assert total["unknown, was not"]
