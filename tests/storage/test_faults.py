"""Every fault in every operation, on a real server behind a proxy: what ends how, and what is left.

The table below is the promise. After each cell the state is looked at: what was reported as done is
there, what was reported as refused has changed nothing, and the storage works on.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import replace
from typing import Any, NamedTuple

import pytest
from aiobotocore.config import AioConfig
from aiobotocore.session import get_session

import snapstore
from sampling import sample
from snapstore import (
    AccessDeniedError,
    BucketNotFoundError,
    DeletedSession,
    InvalidResponseError,
    OutcomeUnknownError,
    PartialDeleteError,
    S3Storage,
    Snapshot,
    SnapshotConflictError,
    SnapshotDecodeError,
    SnapshotLocation,
    SnapshotManifest,
    SnapstoreError,
    StorageError,
    StorageTimeoutError,
    StorageUnavailableError,
    UnsupportedOperationError,
    VersionedSnapshot,
)
from snapstore.testing.proxy import Fault, RecordedRequest, RecordingProxy, recording_proxy
from snapstore.testing.samples import CANARY, everything_in_frames, everything_said_by, snapshot_ids

LOCATION = SnapshotLocation.agent("s-1", "weather")
EMPTY = SnapshotLocation.agent("s-1", "other")
OLD_ID, NEW_ID = snapshot_ids(2)
OLD, NEW = (Snapshot.new({"text": f"{CANARY} {age}" * 20}) for age in ("old", "new"))
OLD_MANIFEST, NEW_MANIFEST = (SnapshotManifest("1.0", age) for age in ("old", "new"))
THREE_TRIES = AioConfig(retries={"total_max_attempts": 3})
NEVER = 3600.0
"""Seconds that no test waits for."""
SOON = 10.0
"""Seconds that what takes a moment may take on a busy machine; a lost connection takes longer."""


class State(NamedTuple):
    """All that is stored."""

    latest: Snapshot | None = OLD
    created: Snapshot | None = None
    history: tuple[tuple[str, Snapshot | None], ...] = ((OLD_ID, OLD),)
    manifest: SnapshotManifest | None = OLD_MANIFEST


BEFORE = State()
HISTORY = BEFORE._replace(history=((OLD_ID, OLD), (NEW_ID, NEW)))
LATEST = BEFORE._replace(latest=NEW)


class Operation(NamedTuple):
    """An operation, and which of its requests is hit.

    Attributes:
        columns: Its columns in the table: of the request that is hit, and of what comes after it.
        hit: The S3 operation of the request, and how its key ends.
        call: Calls it; it gets the storage, and what the latest snapshot was loaded as.
        result: What it returns, where that is known beforehand.
        after: What is stored when it is done.
        between: What may be stored when it has failed, beside what was and what is to be.
    """

    columns: str
    hit: tuple[str, str]
    call: Callable[[S3Storage, VersionedSnapshot], Awaitable[Any]]
    result: Any = ...
    after: State = BEFORE
    between: State = BEFORE

    def is_hit_at(self, request: RecordedRequest) -> bool:
        kind, end = self.hit
        return request.operation == kind and request.path.endswith(end)


def save(**options):
    return lambda storage, _: storage.save_snapshot(snapshot=NEW, **options)


def save_over(storage, read):
    return save(location=LOCATION, is_latest=True, if_match=read)(storage, read)


def checkpoint(storage, _):
    return storage.checkpoint(location=LOCATION, snapshot=NEW, snapshot_id=NEW_ID)


def update(storage, _):
    return storage.update_latest(location=LOCATION, update=lambda _: NEW, max_attempts=3)


def load(snapshot_id=None):
    return lambda storage, _: storage.load_snapshot(location=LOCATION, snapshot_id=snapshot_id)


async def load_versioned(storage, read):
    return await storage.load_versioned(location=LOCATION) == read


async def walk(storage, _):
    async with aclosing(storage.iter_snapshot_ids(location=LOCATION)) as ids:
        return [snapshot_id async for snapshot_id in ids]


def delete(storage, _):
    return storage.delete_session(session_id="s-1")


LATEST_PUT, LATEST_GET = ("PutObject", "latest.json"), ("GetObject", "latest.json")
NEW_PUT, OLD_GET = ("PutObject", f"{NEW_ID}.json"), ("GetObject", f"{OLD_ID}.json")
MANIFEST_PUT, MANIFEST_GET = ("PutObject", "manifest.json"), ("GetObject", "manifest.json")
PAGE, BATCH = ("ListObjectsV2", ""), ("DeleteObjects", "")
DELETED, NOTHING = DeletedSession(3, 0), State(None, None, (), None)
CREATED = BEFORE._replace(created=NEW)
BOTH = HISTORY._replace(latest=NEW)
MANIFEST = BEFORE._replace(manifest=NEW_MANIFEST)

OPERATIONS = {
    "save latest": Operation(
        "plain", LATEST_PUT, save(location=LOCATION, is_latest=True), after=LATEST
    ),
    "save latest if_match": Operation("swap", LATEST_PUT, save_over, after=LATEST),
    "save latest if_none_match": Operation(
        "create",
        LATEST_PUT,
        save(location=EMPTY, is_latest=True, if_none_match=True),
        after=CREATED,
    ),
    "save history": Operation(
        "history",
        NEW_PUT,
        save(location=LOCATION, is_latest=False, snapshot_id=NEW_ID),
        after=HISTORY,
    ),
    "checkpoint, history": Operation(
        "history plain", NEW_PUT, checkpoint, after=BOTH, between=HISTORY
    ),
    "checkpoint, latest": Operation("plain", LATEST_PUT, checkpoint, after=BOTH, between=HISTORY),
    "update_latest, read": Operation("read update", LATEST_GET, update, after=LATEST),
    "update_latest, write": Operation("update", LATEST_PUT, update, after=LATEST),
    "load latest": Operation("read", LATEST_GET, load(), OLD),
    "load history": Operation("read", OLD_GET, load(OLD_ID), OLD),
    "load_versioned": Operation("read", LATEST_GET, load_versioned, result=True),
    "load_manifest": Operation(
        "read",
        MANIFEST_GET,
        lambda storage, _: storage.load_manifest(location=LOCATION),
        OLD_MANIFEST,
    ),
    "save_manifest": Operation(
        "plain",
        MANIFEST_PUT,
        lambda storage, _: storage.save_manifest(location=LOCATION, manifest=NEW_MANIFEST),
        after=MANIFEST,
    ),
    "list_snapshot_ids": Operation(
        "list", PAGE, lambda storage, _: storage.list_snapshot_ids(location=LOCATION), [OLD_ID]
    ),
    "iter_snapshot_ids": Operation("list", PAGE, walk, [OLD_ID]),
    "delete_session, list": Operation("list delete", PAGE, delete, DELETED, NOTHING),
    "delete_session, delete": Operation("delete", BATCH, delete, DELETED, NOTHING),
}


def error(status: int, code: str, **headers: str) -> Fault:
    """An error reply that tells all it knows, as those of S3 do."""
    reply = Fault.error(status, code, headers=headers)
    secrets = f"<Message>{CANARY}</Message><StringToSign>{CANARY}</StringToSign></Error>"
    return replace(reply, body=reply.body.replace(b"</Error>", secrets.encode()))


FAULTS = {
    "reset": Fault(lost=True, forward=False),
    "reply-lost": Fault(lost=True),
    "InternalError": error(500, "InternalError"),
    "SlowDown": error(503, "SlowDown"),
    "TooManyRequests": error(429, "TooManyRequests"),
    "AccessDenied": error(403, "AccessDenied"),
    "NoSuchBucket": error(404, "NoSuchBucket"),
    "ExpiredToken": error(400, "ExpiredToken"),
    "ClockSkewed": error(403, "RequestTimeTooSkewed"),
    "redirect-301": error(301, "PermanentRedirect"),
    "redirect-307": error(307, "TemporaryRedirect"),
    "contended-409": error(409, "ConditionalRequestConflict"),
    "refused-412": error(412, "PreconditionFailed"),
    "NotImplemented": error(501, "NotImplemented"),
    "cut-short": Fault(cut=30),
    "ends-early": Fault(cut=30, length=False),
    "empty-body": Fault(body=b""),
    "empty-reply": Fault(forward=False),
    "error-in-200": error(200, "InternalError", ETag='"e"'),
    "garbage": Fault(body=b"\x00<" + CANARY.encode() * 10),
    "wrong-checksum": Fault(headers={"x-amz-checksum-crc32": "AAAAAA=="}),
    "stalled": Fault(stall=NEVER),
    "dripping": Fault(drip=NEVER),
}
"""`cut-short` tells the length of the whole, `ends-early` none."""

# How a request ends that is hit, by what it is: a write without condition, one of latest over a
# version or where there is none, a create in history, the write of update_latest, a read, a page of
# a listing, a batch of a delete. "once" hits one try of it, "always" also all requests after it,
# other ones included.
#
# - A write that is repeated safely is repeated. A write on a condition that was perhaps applied is
#   looked at: it is "ok" or a "conflict" if the object tells, and else "unknown".
# - Where botocore finds no XML or an error in a 200, it makes a 500 of it and tries again.
# - Where DeleteObjects is refused as such, each key is deleted by a request of its own.
# - Replies to writes have no body, so "empty-body" and a checksum of nothing are no fault.
TABLE = """
fault           when   plain   swap    create  history update  read    list    delete
reset           once   ok      ok      ok      ok      ok      ok      ok      ok
reset           always down    unknown unknown unknown unknown down    down    down
reply-lost      once   ok      ok      ok      ok      ok      ok      ok      ok
reply-lost      always down    unknown unknown unknown unknown down    down    down
InternalError   once   ok      ok      ok      ok      ok      ok      ok      ok
InternalError   always down    unknown unknown unknown unknown down    down    down
SlowDown        once   ok      ok      ok      ok      ok      ok      ok      ok
SlowDown        always down    down    down    down    down    down    down    down
TooManyRequests once   ok      ok      ok      ok      ok      ok      ok      ok
TooManyRequests always down    down    down    down    down    down    down    down
AccessDenied    both   denied  denied  denied  denied  denied  denied  denied  denied
NoSuchBucket    both   missing missing missing missing missing missing missing missing
ExpiredToken    both   denied  denied  denied  denied  denied  denied  denied  denied
ClockSkewed     both   denied  denied  denied  denied  denied  denied  denied  denied
redirect-301    both   error   error   error   error   error   error   error   error
redirect-307    both   error   error   error   error   error   error   error   error
contended-409   once   ok      ok      ok      ok      ok      ok      ok      ok
contended-409   always down    down    down    down    down    down    down    down
refused-412     once   error   ok      unknown unknown ok      error   error   error
refused-412     always error   unknown unknown unknown error   error   error   error
NotImplemented  once   unable  unable  unable  unable  unable  unable  unable  ok
NotImplemented  always unable  unable  unable  unable  unable  unable  unable  unable
cut-short       once   ok      ok      ok      ok      ok      ok      ok      ok
cut-short       always broken  ok      ok      ok      ok      broken  broken  broken
ends-early      once   ok      ok      ok      ok      ok      ok      ok      ok
ends-early      always down    ok      ok      ok      broken  broken  down    down
empty-body      once   ok      ok      ok      ok      ok      ok      broken  partial
empty-body      always ok      ok      ok      ok      ok      broken  broken  partial
empty-reply     once   broken  unknown unknown unknown unknown ok      broken  partial
empty-reply     always broken  unknown unknown unknown unknown broken  broken  partial
error-in-200    once   ok      ok      ok      ok      ok      corrupt ok      ok
error-in-200    always down    unknown unknown unknown unknown corrupt down    down
garbage         once   ok      ok      ok      ok      ok      ok      ok      ok
garbage         always down    ok      ok      ok      broken  broken  down    down
wrong-checksum  once   ok      ok      ok      ok      ok      ok      ok      ok
wrong-checksum  always ok      ok      ok      ok      ok      broken  ok      ok
stalled         both   late    late    late    late    late    late    late    late
dripping        both   late    late    late    late    late    late    late    late
"""
ERRORS = {
    "down": StorageUnavailableError,
    "unknown": OutcomeUnknownError,
    "denied": AccessDeniedError,
    "missing": BucketNotFoundError,
    "error": StorageError,
    "conflict": SnapshotConflictError,
    "unable": UnsupportedOperationError,
    "broken": InvalidResponseError,
    "partial": PartialDeleteError,
    "corrupt": SnapshotDecodeError,
    "late": StorageTimeoutError,
}


FIRST_OF_COLUMN = {
    operation.columns.split()[0]: operation for operation in reversed(OPERATIONS.values())
}
TAKEN_AT_ITS_WORD = frozenset(
    {
        *("NoSuchBucket", "TooManyRequests", "contended-409", "refused-412", "NotImplemented"),
        *("empty-body", "empty-reply", "error-in-200", "stalled", "dripping"),
    }
)
"""Faults that end a direct request. For all others it is made again by a generic call."""


class Cell(NamedTuple):
    """A cell of the table, for one operation.

    Attributes:
        fault: What happens.
        once: Whether it happens to one request only.
        operation: To which operation.
        direct: Whether the request that is hit is one of the direct path.
        expected: The error that comes of it; `None` for none.
    """

    fault: Fault
    once: bool
    operation: Operation
    direct: bool
    expected: type[SnapstoreError] | None


def cells():
    """The table as parameters, one for each operation."""
    header, *rows = (line.split() for line in TABLE.strip().splitlines())
    for fault, both, *outcomes in rows:
        ends = dict(zip(header[2:], outcomes, strict=True))
        for when in ("once", "always") if both == "both" else (both,):
            once = when == "once"
            for name, operation in OPERATIONS.items():
                columns = operation.columns.split()[: 1 if once else 2]
                failures = [ERRORS[ends[column]] for column in columns if ends[column] != "ok"]
                expected = failures[0] if failures else None
                cell = Cell(FAULTS[fault], once, operation, not once, expected)
                yield pytest.param(cell, id=f"{fault}-{when}-{name}")
                if once and operation in FIRST_OF_COLUMN.values():
                    passing = expected if fault in TAKEN_AT_ITS_WORD else None
                    cell = cell._replace(direct=True, expected=passing)
                    yield pytest.param(cell, id=f"{fault}-{when}, direct-{name}")


def hitting(fault: Fault, operation: Operation, *, once: bool, when_stuck: Callable[[], None]):
    """Let a fault befall the first request that the operation is hit at, or all from it on."""
    hit = False

    async def decide(request):
        nonlocal hit
        if hit:
            return None if once else fitting(request)
        hit = operation.is_hit_at(request)
        return fitting(request) if hit else None

    def fitting(request):
        if fault.stall or fault.drip:
            when_stuck()
        # What has no body can be neither cut short nor drip.
        bodiless = request.operation == "PutObject" and (fault.cut or fault.drip)
        return replace(fault, body=b" " * 64) if bodiless else fault

    return decide


async def pass_all(_):
    return None


async def look(storage: S3Storage) -> State:
    """All that is stored."""
    latest = await storage.load_snapshot(location=LOCATION)
    created = await storage.load_snapshot(location=EMPTY)
    ids = await storage.list_snapshot_ids(location=LOCATION)
    history = [(i, await storage.load_snapshot(location=LOCATION, snapshot_id=i)) for i in ids]
    manifest = await storage.load_manifest(location=LOCATION)
    stored = manifest if manifest in (OLD_MANIFEST, NEW_MANIFEST) else None
    return State(latest, created, tuple(history), stored)


def public_class(error: BaseException) -> type:
    """The class of the documented tree that an error is of."""
    return next(kind for kind in type(error).__mro__ if kind.__name__ in snapstore.__all__)


@pytest.fixture(scope="module")
def session(s3_server):
    session = get_session()
    session.set_credentials(s3_server.access_key, s3_server.secret_key)
    return session


@pytest.fixture
def storage_behind(s3_server, session, bucket, prefix):
    def make(proxy, **options):
        return S3Storage(
            bucket,
            prefix=prefix,
            session=session,
            region=s3_server.region,
            endpoint_url=proxy.endpoint_url,
            **options,
        )

    return make


@pytest.fixture
def in_a_hurry(monkeypatch):
    """Let retries come at once."""
    monkeypatch.setattr("snapstore.stores.retry.full_jitter", lambda _: 0.0)


@pytest.mark.seaweedfs  # the others give no checksum with what they give back
@pytest.mark.parametrize("cell", sample(cells(), one_in=5))
async def test_each_fault_in_each_operation_ends_as_the_table_says(
    s3_server, storage_behind, in_a_hurry, bring_deadlines_forward, caplog, cell
) -> None:
    caplog.set_level(logging.DEBUG, logger="snapstore")
    fault, once, operation, direct, expected = cell
    async with (
        recording_proxy(s3_server.endpoint_url) as proxy,
        recording_proxy(s3_server.endpoint_url) as elsewhere,
        # With one connection, one that is not given back is missed.
        storage_behind(
            proxy, max_concurrency=1, timeout=20.0, direct=direct, config=THREE_TRIES
        ) as storage,
    ):
        if direct:  # but the first request of each kind is not
            await storage.save_manifest(location=LOCATION, manifest=OLD_MANIFEST)
            await storage.delete_session(session_id="s-1")
        await storage.checkpoint(location=LOCATION, snapshot=OLD, snapshot_id=OLD_ID)
        await storage.save_manifest(location=LOCATION, manifest=OLD_MANIFEST)
        read = await storage.load_versioned(location=LOCATION)
        if fault.status in (301, 307):
            fault = replace(fault, headers={**fault.headers, "Location": elsewhere.endpoint_url})
        proxy.requests.clear()
        proxy.fault = hitting(fault, operation, once=once, when_stuck=bring_deadlines_forward)

        result, failure = None, None
        try:
            result = await operation.call(storage, read)
        except SnapstoreError as error:  # any other fails the test
            failure = error
        proxy.fault = pass_all
        first_hit = next(filter(operation.is_hit_at, proxy.requests))
        assert ("amz-sdk-invocation-id" in first_hit.headers) is not direct

        state = await look(storage)
        if expected is None:
            assert failure is None
            assert operation.result in (..., result)
            assert state == operation.after
        else:
            assert failure is not None, f"it returned {result}"
            assert public_class(failure) is expected
            assert failure.key
            known = (BEFORE, operation.between, operation.after)
            assert state in (known[:2] if expected is SnapshotConflictError else known)
        said = "".join([caplog.text, *(everything_said_by(failure) if failure else ())])
        secrets = (CANARY, s3_server.secret_key, "Credential=", "Signature=")
        for secret in secrets:
            assert secret not in said
        if failure is not None:
            for shown in everything_in_frames(failure):
                assert not any(secret in shown for secret in secrets)
        assert elsewhere.requests == []

        await storage.save_snapshot(location=LOCATION, snapshot=OLD, is_latest=True)


def mixed_work(storage: S3Storage, chance: random.Random):
    """One of all that a storage does, in one of a few sessions."""
    location = SnapshotLocation.agent(f"s-{chance.randrange(5)}", "weather")
    return chance.choice(
        [
            lambda: storage.save_snapshot(location=location, snapshot=NEW, is_latest=True),
            lambda: storage.checkpoint(location=location, snapshot=NEW),
            lambda: storage.load_snapshot(location=location),
            lambda: storage.update_latest(location=location, update=lambda _: NEW),
            lambda: storage.list_snapshot_ids(location=location),
            lambda: storage.delete_session(session_id=location.session_id),
        ]
    )()


def delaying(chance: random.Random, seconds: float):
    """Delay requests and replies, let bodies drip, and leave a quarter of all in peace."""

    async def decide(_):
        return chance.choice(
            [
                None,
                Fault(delay=chance.uniform(0, seconds)),
                Fault(stall=seconds),
                Fault(drip=seconds),
            ]
        )

    return decide


async def all_connections_are_free(storage: S3Storage, proxy: RecordingProxy, count: int) -> None:
    """Hold as many reads at the proxy as there are connections: each needs one to get there."""
    proxy.requests.clear()
    all_there = asyncio.Event()

    async def hold(_):
        if len(proxy.requests) == count:
            all_there.set()
        await all_there.wait()

    proxy.fault = hold
    async with asyncio.timeout(2 * SOON):
        await asyncio.gather(*(storage.load_snapshot(location=LOCATION) for _ in range(count)))


def may_be_deleted(error: Exception) -> bool:
    """Whether a create was refused for an object that a delete has removed since.

    That object may have been its own, if a gateway has sent the request twice.
    """
    return isinstance(error, OutcomeUnknownError) and error.status == 412


@pytest.mark.parametrize("seed", range(3))
async def test_cancelling_200_operations_leaves_the_pool_whole(
    s3_server, storage_behind, seed
) -> None:
    chance = random.Random(seed)
    async with (
        recording_proxy(s3_server.endpoint_url) as proxy,
        storage_behind(proxy, max_concurrency=32) as storage,
    ):
        proxy.fault = delaying(chance, 0.1)
        loop = asyncio.get_running_loop()
        tasks = [asyncio.create_task(mixed_work(storage, chance)) for _ in range(200)]
        for task in tasks:
            loop.call_later(chance.uniform(0.0, 0.35), task.cancel)
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        cancelled = sum(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes)
        assert cancelled > 100
        assert not [o for o in outcomes if isinstance(o, Exception) and not may_be_deleted(o)]
        proxy.fault = pass_all
        async with asyncio.timeout(SOON):
            await storage.load_snapshot(location=LOCATION)
        await all_connections_are_free(storage, proxy, 32)


async def test_timeouts_of_200_operations_leave_the_pool_whole(
    s3_server, storage_behind, bring_deadlines_forward
) -> None:
    chance = random.Random(0)
    async with (
        recording_proxy(s3_server.endpoint_url) as proxy,
        storage_behind(proxy, max_concurrency=32, timeout=SOON) as storage,
    ):

        async def stick(_):
            if len(proxy.requests) == 32:  # and 168 operations wait for their turn
                bring_deadlines_forward()
            return Fault(stall=NEVER)

        proxy.fault = stick
        work = (mixed_work(storage, chance) for _ in range(200))
        outcomes = await asyncio.gather(*work, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [StorageTimeoutError] * 200
        proxy.fault = pass_all
        async with asyncio.timeout(SOON):
            await storage.load_snapshot(location=LOCATION)
        await all_connections_are_free(storage, proxy, 32)


def page(keys=(), *, truncated=None, token=None) -> Fault:
    flag = "" if truncated is None else f"<IsTruncated>{truncated}</IsTruncated>"
    after = "" if token is None else f"<NextContinuationToken>{token}</NextContinuationToken>"
    contents = "".join(f"<Contents><Key>{key}</Key></Contents>" for key in keys)
    body = f"<ListBucketResult>{flag}{contents}{after}</ListBucketResult>"
    return Fault(forward=False, body=body.encode())


@pytest.mark.parametrize(
    "second",
    [
        Fault(forward=False),
        page(),
        page(truncated="true"),
        page(truncated="true", token="a"),
        page(["s-10/scopes/agent/weather/snapshots/snapshot_latest.json"], truncated="false"),
    ],
    ids=["empty", "no flag", "no token", "repeated token", "foreign key"],
)
async def test_listing_broken_on_page_two_is_no_partial_result(
    s3_server, storage_behind, prefix, second
) -> None:
    folder = f"{prefix}/s-1/scopes/agent/weather/snapshots/immutable_history/"
    first = page([f"{folder}snapshot_{OLD_ID}.json"], truncated="true", token="a")

    async def decide(request):
        if request.operation != "ListObjectsV2":
            return None
        return second if "continuation-token" in request.query else first

    async with (
        recording_proxy(s3_server.endpoint_url) as proxy,
        storage_behind(proxy) as storage,
    ):
        await storage.save_snapshot(location=LOCATION, snapshot=OLD, is_latest=True)
        proxy.fault = decide
        with pytest.raises(InvalidResponseError):
            await storage.list_snapshot_ids(location=LOCATION)
        async with aclosing(storage.iter_snapshot_ids(location=LOCATION)) as ids:
            assert await anext(ids) == OLD_ID
            with pytest.raises(InvalidResponseError):
                await anext(ids)
        with pytest.raises(InvalidResponseError):
            await storage.delete_session(session_id="s-1")
        assert "s-10" not in "".join(request.body.decode() for request in proxy.requests)
        assert await storage.load_snapshot(location=LOCATION) == OLD
