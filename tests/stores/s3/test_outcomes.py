"""What a caller is told of a write that failed, on servers and networks with ways of their own."""

import asyncio
import hashlib
from contextlib import asynccontextmanager, nullcontext
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from types import SimpleNamespace

import aiohttp
import pytest
from aiobotocore.config import AioConfig
from aiobotocore.credentials import AioRefreshableCredentials
from aiobotocore.retries.bucket import AsyncTokenBucket
from aiobotocore.session import get_session
from aiohttp import web
from botocore.exceptions import ClientError, EndpointConnectionError

from scripted import Answer, serving, serving_bytes
from snapstore import (
    AccessDeniedError,
    InvalidResponseError,
    OutcomeUnknownError,
    S3Storage,
    Snapshot,
    SnapshotConflictError,
    SnapshotLocation,
    StorageError,
    StorageTimeoutError,
    StorageUnavailableError,
)

LOCATION = SnapshotLocation.agent("s-1", "counter")
THREE_TRIES = {"total_max_attempts": 3}


class ScriptedS3:
    """As much of S3 as one object takes, in any of the ways that servers spell etags.

    Attributes:
        quotes: `"bare"` takes an etag in If-Match without quotes alone, `"quoted"` with quotes
            alone; others are refused with 412, or with `refusal`.
        etag_of_get: What is done to an etag before it is given with a GET or HEAD.
        arrived: The requests: method and If-Match.
    """

    def __init__(self, quotes="bare", refusal=412, etag_of_get=str):
        self.quotes, self.refusal, self.etag_of_get = quotes, refusal, etag_of_get
        self.objects = {}
        self.arrived = []

    async def handle(self, request):
        body = await request.read()
        given = request.headers.get("If-Match")
        self.arrived.append((request.method, given))
        key = request.path
        stored = self.objects.get(key)
        if request.method == "PUT":
            if given is not None and not self.is_met(given, stored):
                return refused(self.refusal if not self.is_well_spelled(given) else 412)
            if "If-None-Match" in request.headers and stored:
                return refused(412)
            metadata = {
                name: value
                for name, value in request.headers.items()
                if name.lower().startswith("x-amz-meta-")
            }
            self.objects[key] = body, metadata
            return web.Response(headers={"ETag": f'"{etag(body)}"'})
        if stored is None:
            return web.Response(status=404, text="<Error><Code>NoSuchKey</Code></Error>")
        body, metadata = stored
        shown = {"ETag": self.etag_of_get(f'"{etag(body)}"'), **metadata}
        return web.Response(body=body, headers=shown)

    def is_well_spelled(self, given):
        return given.startswith('"') == (self.quotes == "quoted")

    def is_met(self, given, stored):
        if stored is None or not self.is_well_spelled(given):
            return False
        expected = self.etag_of_get(f'"{etag(stored[0])}"').removeprefix("W/").strip('"')
        return given.strip('"') == expected


def etag(body):
    return hashlib.md5(body).hexdigest()


def refused(status):
    code = "PreconditionFailed" if status == 412 else "InvalidArgument"
    return web.Response(status=status, text=f"<Error><Code>{code}</Code></Error>")


@pytest.fixture(params=["direct", "generic", "borrowed"])
def storage_at(request):
    """A function that opens a storage at an endpoint."""

    @asynccontextmanager
    async def opened(url, *, session=None, config=None, **options):
        if session is None:
            session = get_session()
            session.set_credentials("key", "secret")
        options = {"timeout": 30, **options}
        to = {"region_name": "us-east-1", "endpoint_url": url, "config": config}
        if request.param == "borrowed":
            async with (
                session.create_client("s3", **to) as client,
                S3Storage("bucket", client=client, direct=False, **options) as storage,
            ):
                yield storage
        else:
            direct = request.param == "direct"
            storage = S3Storage(
                "bucket",
                session=session,
                region="us-east-1",
                endpoint_url=url,
                config=config,
                direct=direct,
                **options,
            )
            async with storage:
                yield storage

    return opened


async def save(storage, number=1, **condition):
    snapshot = Snapshot.new({"n": number})
    return await storage.save_snapshot(
        location=LOCATION, snapshot=snapshot, is_latest=True, **condition
    )


def add_one(current):
    return Snapshot.new({"n": current.data["n"] + 1})


async def count_in(storage):
    return (await storage.load_snapshot(location=LOCATION)).data["n"]


# Etags


@pytest.mark.parametrize("refusal", [412, 400], ids=["412", "400"])
@pytest.mark.parametrize("quotes", ["bare", "quoted"])
async def test_the_quotes_that_a_server_wants_are_found_out_once(
    storage_at, quotes, refusal
) -> None:
    server = ScriptedS3(quotes, refusal)
    async with serving(server.handle) as url, storage_at(url) as storage:
        first = await save(storage, 1)
        second = await save(storage, 2, if_match=first)
        with pytest.raises(SnapshotConflictError):
            await save(storage, 3, if_match=first)
        server.arrived.clear()
        await save(storage, 3, if_match=second)
        assert len(server.arrived) == 1
        assert await count_in(storage) == 3


@pytest.mark.parametrize("quotes", ["bare", "quoted"])
async def test_an_update_finds_out_the_quotes_with_its_next_read(storage_at, quotes) -> None:
    server = ScriptedS3(quotes)
    async with serving(server.handle) as url, storage_at(url) as storage:
        await save(storage, 1)
        server.arrived.clear()
        await storage.update_latest(location=LOCATION, update=add_one)
        assert [method for method, _ in server.arrived] in (
            ["GET", "PUT"],
            ["GET", "PUT", "GET", "PUT"],
        )
        assert await count_in(storage) == 2


async def test_a_real_conflict_is_one_before_the_quotes_are_known(storage_at) -> None:
    server = ScriptedS3("quoted")
    async with serving(server.handle) as url, storage_at(url) as storage:
        first = await save(storage, 1)
        await save(storage, 2)
        with pytest.raises(SnapshotConflictError):
            await save(storage, 3, if_match=first)
        assert await count_in(storage) == 2


async def test_a_weak_etag_is_sent_as_the_strong_one(storage_at) -> None:
    server = ScriptedS3(etag_of_get=lambda strong: f"W/{strong}")
    async with serving(server.handle) as url, storage_at(url) as storage:
        await save(storage, 1)
        read = await storage.load_versioned(location=LOCATION)
        assert not read.etag.startswith("W/")
        await save(storage, 2, if_match=read)
        read = await storage.load_versioned(location=LOCATION)
        await save(storage, 3, if_match=f'W/"{read.etag}"')
        await storage.update_latest(location=LOCATION, update=add_one)
        assert await count_in(storage) == 4


async def test_an_etag_with_a_comma_is_sent_in_quotes(storage_at) -> None:
    server = ScriptedS3("quoted", etag_of_get=lambda bare: bare.replace('"', '"a,', 1))
    async with serving(server.handle) as url, storage_at(url) as storage:
        await save(storage, 1)
        read = await storage.load_versioned(location=LOCATION)
        assert read.etag.startswith("a,")
        await save(storage, 2, if_match=read)
        assert await count_in(storage) == 2


async def test_etag_that_differs_between_put_and_get_is_no_conflict(storage_at) -> None:
    server = ScriptedS3(etag_of_get=lambda bare: bare.replace('"', '"get-', 1))
    async with serving(server.handle) as url, storage_at(url) as storage:
        saved = await save(storage, 1)
        again = await save(storage, 2, if_match=saved)
        await save(storage, 3, if_match=again)
        with pytest.raises(SnapshotConflictError):
            await save(storage, 4, if_match=saved)
        assert await count_in(storage) == 3


# Headers


def answering_in_latin1():
    """Answers with a header that is not UTF-8; reads find what was written last."""
    stored, metadata = b"", b""

    def answer(request):
        nonlocal stored, metadata
        if request.method == "PUT":
            # Large, so that a response which nobody reads keeps its connection.
            stored = request.body + b" " * 3_000_000
            kept = [name for name in request.headers if name.startswith("x-amz-meta-")]
            metadata = b"".join(f"{name}: {request.headers[name]}\r\n".encode() for name in kept)
        body = b"" if request.method == "PUT" else stored
        head = b'HTTP/1.1 200 OK\r\nETag: "e"\r\nX-Gateway: caf\xe9\r\n'
        head += b"Content-Length: %d\r\n%s\r\n" % (len(body), metadata)
        return Answer(head + (b"" if request.method == "HEAD" else body))

    return answer


async def test_a_header_that_is_not_utf8_says_nothing_of_the_write(storage_at, request) -> None:
    is_borrowed = "borrowed" in request.node.name
    async with serving_bytes(answering_in_latin1()) as server:
        config = AioConfig(retries=THREE_TRIES, max_pool_connections=2)
        async with storage_at(server.url, config=config) as storage:
            if is_borrowed:
                # A client that can't read it can't tell, nor may it be written again.
                with pytest.raises(OutcomeUnknownError) as caught:
                    await save(storage, if_none_match=True)
                assert caught.value.outcome == "unknown"
            else:
                await save(storage, if_none_match=True)
            # More often than there are connections.
            for _ in range(5):
                with pytest.raises(InvalidResponseError) if is_borrowed else nullcontext():
                    await storage.load_snapshot(location=LOCATION)


# What never leaves


async def refuse_to_connect(monkeypatch, tmp_path):
    return {"url": "http://127.0.0.1:9"}


async def never_answer_a_connect(monkeypatch, tmp_path):
    async def wait_for_ever(*_, **__):
        raise aiohttp.ConnectionTimeoutError("Connection timeout to host http://127.0.0.1:9")

    monkeypatch.setattr(aiohttp.TCPConnector, "connect", wait_for_ever)
    return {"url": "http://127.0.0.1:9"}


async def name_a_directory_of_certificates(monkeypatch, tmp_path):
    monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path))
    return {"url": "https://127.0.0.1:9"}


async def name_an_empty_file_of_certificates(monkeypatch, tmp_path):
    (tmp_path / "empty.pem").touch()
    monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "empty.pem"))
    return {"url": "https://127.0.0.1:9"}


async def name_a_missing_file_of_certificates(monkeypatch, tmp_path):
    monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "missing.pem"))
    return {"url": "https://127.0.0.1:9"}


@pytest.mark.parametrize(
    "hinder",
    [
        refuse_to_connect,
        never_answer_a_connect,
        name_a_directory_of_certificates,
        name_an_empty_file_of_certificates,
        name_a_missing_file_of_certificates,
    ],
)
async def test_what_never_left_was_not_applied(storage_at, hinder, monkeypatch, tmp_path) -> None:
    options = await hinder(monkeypatch, tmp_path)
    async with storage_at(options["url"], config=AioConfig(retries=THREE_TRIES)) as storage:
        for condition in ({"if_none_match": True}, {"if_match": "e"}, {}):
            with pytest.raises(StorageError) as caught:
                await save(storage, **condition)
            assert type(caught.value) in (StorageError, StorageUnavailableError)
            assert caught.value.outcome == "not applied"
            assert caught.value.retryable is isinstance(caught.value, StorageUnavailableError)


def credentials_that_fail(error):
    """Expired credentials whose refresh raises."""

    async def refresh():
        raise error

    expired = datetime.now(UTC) - timedelta(hours=1)
    return AioRefreshableCredentials("key", "secret", "token", expired, refresh, "assume-role")


def token_service(status, code):
    metadata = {"HTTPStatusCode": status, "HTTPHeaders": {}}
    return ClientError({"Error": {"Code": code}, "ResponseMetadata": metadata}, "AssumeRole")


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (token_service(403, "AccessDenied"), AccessDeniedError, "AssumeRole was refused"),
        (token_service(400, "Throttling"), StorageUnavailableError, "AssumeRole failed"),
        (token_service(500, "InternalFailure"), StorageUnavailableError, "AssumeRole failed"),
        (
            EndpointConnectionError(endpoint_url="https://sts.example.com", error=OSError()),
            StorageUnavailableError,
            "https://sts.example.com could not be reached",
        ),
        (TimeoutError(), StorageTimeoutError, "could not be obtained"),
    ],
    ids=["refused", "throttled", "failed", "not reached", "timed out"],
)
async def test_token_service_failure_is_told_and_not_applied(
    storage_at, error, kind, words
) -> None:
    server = ScriptedS3()
    session = get_session()
    session._credentials = credentials_that_fail(error)  # noqa: SLF001 -- the only way in
    config = AioConfig(retries=THREE_TRIES)
    async with (
        serving(server.handle) as url,
        storage_at(url, session=session, config=config) as storage,
    ):
        with pytest.raises(kind, match=words) as caught:
            await save(storage, if_none_match=True)
    assert "credentials could not be obtained" in str(caught.value)
    assert caught.value.outcome == "not applied"
    assert server.arrived == []


# Facts for the next call


async def test_history_save_error_has_the_id_to_repeat_it(storage_at) -> None:
    server = ScriptedS3()
    fails = True

    async def handle(request):
        if fails and request.method in ("PUT", "HEAD", "GET"):
            await request.read()
            if request.method == "PUT":
                await ScriptedS3.handle(server, request)
            return web.Response(status=500, text="<Error><Code>InternalError</Code></Error>")
        return await server.handle(request)

    config = AioConfig(retries=THREE_TRIES)
    async with serving(handle) as url, storage_at(url, config=config) as storage:
        with pytest.raises(OutcomeUnknownError) as caught:
            await storage.save_snapshot(
                location=LOCATION, snapshot=(snapshot := Snapshot.new({})), is_latest=False
            )
        assert (caught.value.outcome, caught.value.retryable) == ("unknown", True)
        fails = False
        saved = await storage.save_snapshot(
            location=LOCATION,
            snapshot=snapshot,
            is_latest=False,
            snapshot_id=caught.value.snapshot_id,
        )
        assert saved.snapshot_id == caught.value.snapshot_id
        assert len(server.objects) == 1


async def test_checkpoint_error_has_its_id_and_the_state_of_latest(
    storage_at,
) -> None:
    server = ScriptedS3()
    async with serving(server.handle) as url, storage_at(url) as storage:
        await save(storage, 1)
        with pytest.raises(SnapshotConflictError) as caught:
            await storage.checkpoint(
                location=LOCATION, snapshot=Snapshot.new({}), if_match="0" * 32
            )
        assert (caught.value.outcome, caught.value.retryable) == ("not applied", False)
        kept = await storage.load_snapshot(location=LOCATION, snapshot_id=caught.value.snapshot_id)
        assert kept is not None


async def test_latest_names_the_history_entry_that_it_came_from(storage_at) -> None:
    server = ScriptedS3()
    async with serving(server.handle) as url, storage_at(url) as storage:
        saved = await storage.checkpoint(location=LOCATION, snapshot=Snapshot.new({}))
        read = await storage.load_versioned(location=LOCATION)
        assert read.snapshot_id == saved.snapshot_id
        entry = await storage.load_versioned(location=LOCATION, snapshot_id=saved.snapshot_id)
        assert entry.snapshot_id == saved.snapshot_id
        await save(storage, 2)
        assert (await storage.load_versioned(location=LOCATION)).snapshot_id is None


# Waiting


async def test_tries_are_made_for_as_long_as_the_deadline_allows(
    storage_at, monkeypatch, request
) -> None:
    """As with one write a second for a key, of which R2 and GCS refuse the others."""
    waited = []

    async def pass_the_time(seconds):
        waited.append(seconds)

    server, refusals = ScriptedS3(), 9

    async def handle(request):
        nonlocal refusals
        if refusals:
            refusals -= 1
            await request.read()
            return web.Response(status=429, text="<Error><Code>SlowDown</Code></Error>")
        return await server.handle(request)

    replaced = SimpleNamespace(**{**vars(asyncio), "sleep": pass_the_time})
    monkeypatch.setattr("snapstore.stores.retry.asyncio", replaced)
    async with serving(handle) as url, storage_at(url, timeout=60) as storage:
        await save(storage)
    if "borrowed" not in request.node.name:  # such a client makes some of the tries itself
        assert len(waited) == 9


@pytest.mark.parametrize("header", ["3600", "date"])
async def test_a_wait_that_would_pass_the_deadline_fails_at_once(storage_at, header) -> None:
    if header == "date":
        header = format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)

    async def handle(request):
        await request.read()
        return web.Response(status=503, headers={"Retry-After": header})

    async with serving(handle) as url, storage_at(url, timeout=60) as storage:
        with pytest.raises(StorageUnavailableError) as caught:
            await storage.load_snapshot(location=LOCATION)
        assert caught.value.retry_after == pytest.approx(3600, abs=30)


async def test_what_waits_for_its_next_try_keeps_nobody_from_a_request(storage_at) -> None:
    server, refused_ones = ScriptedS3(), set()
    first_refusal = asyncio.Event()

    async def handle(request):
        if "s-2" in request.path:
            await request.read()
            refused_ones.add(request.path)
            first_refusal.set()
            return web.Response(status=429, headers={"Retry-After": "10"})
        return await server.handle(request)

    elsewhere = SnapshotLocation.agent("s-2", "counter")
    async with serving(handle) as url, storage_at(url, max_concurrency=1) as storage:
        waiting = asyncio.create_task(storage.load_snapshot(location=elsewhere))
        await first_refusal.wait()
        await storage.load_snapshot(location=LOCATION)
        assert not waiting.done()
        waiting.cancel()


async def test_connection_without_an_answer_leaves_time_for_others(storage_at, monkeypatch) -> None:
    monkeypatch.setattr("snapstore.stores.deadline._LEAST_OF_AN_ATTEMPT", 0.2)
    monkeypatch.setattr("snapstore.stores.deadline._SHARE_OF_AN_ATTEMPT", 100)
    server, stuck = ScriptedS3(), 2

    async def handle(request):
        nonlocal stuck
        if stuck:
            stuck -= 1
            await asyncio.Event().wait()
        return await server.handle(request)

    async with serving(handle) as url, storage_at(url, timeout=20) as storage:
        await save(storage, if_none_match=True)
        assert await count_in(storage) == 1


@pytest.mark.parametrize("storage_at", ["direct", "generic"], indirect=True)
async def test_a_deadline_after_failures_says_how_the_last_one_was(storage_at) -> None:
    """A borrowed client makes a read again by itself, and says nothing of it."""
    replies = iter([web.Response(status=429, text="<Error><Code>SlowDown</Code></Error>")])

    async def handle(request):
        reply = next(replies, None)
        if reply is None:
            await asyncio.Event().wait()
        return reply

    async with serving(handle) as url, storage_at(url, timeout=2) as storage:
        with pytest.raises(StorageTimeoutError, match="SlowDown") as caught:
            await storage.load_snapshot(location=LOCATION)
    assert (caught.value.code, caught.value.status) == ("SlowDown", 429)


async def test_a_deadline_in_the_queue_has_not_applied_anything(storage_at, monkeypatch) -> None:
    arrived = asyncio.Event()

    async def handle(request):
        arrived.set()
        await asyncio.Event().wait()

    async with serving(handle) as url, storage_at(url, max_concurrency=1) as storage:
        first = asyncio.create_task(save(storage, if_none_match=True))
        await arrived.wait()
        monkeypatch.setattr(storage.objects, "timeout", 0.2)
        with pytest.raises(StorageTimeoutError) as caught:
            await save(storage, if_none_match=True)
        assert (caught.value.outcome, caught.value.retryable) == ("not applied", True)
        first.cancel()
        with pytest.raises(StorageTimeoutError) as caught:
            await save(storage, if_none_match=True)
        assert (caught.value.outcome, caught.value.retryable) == ("unknown", False)


# Limits of the client's owner


@pytest.mark.parametrize("limit", [1, 2, 3])
@pytest.mark.parametrize("mode", ["legacy", "standard", "adaptive"])
async def test_tries_are_at_most_those_of_the_clients_config(storage_at, limit, mode) -> None:
    arrived = []

    async def handle(request):
        await request.read()
        arrived.append(request.method)
        return web.Response(status=503, text="<Error><Code>SlowDown</Code></Error>")

    config = AioConfig(retries={"total_max_attempts": limit, "mode": mode})
    async with serving(handle) as url, storage_at(url, config=config) as storage:
        for _ in range(2):
            arrived.clear()
            with pytest.raises(StorageUnavailableError):
                await storage.load_snapshot(location=LOCATION)
            assert len(arrived) == limit


async def test_rate_limit_of_adaptive_mode_is_asked_for_each_request(
    storage_at, monkeypatch
) -> None:
    asked = []

    async def count(*arguments, **options):
        asked.append(arguments)  # and it does not wait

    monkeypatch.setattr(AsyncTokenBucket, "acquire", count)
    replies = iter([(429, "SlowDown")])

    async def handle(request):
        await request.read()
        status, code = next(replies, (404, "NoSuchKey"))
        return web.Response(status=status, text=f"<Error><Code>{code}</Code></Error>")

    config = AioConfig(retries={"mode": "adaptive"})
    async with serving(handle) as url, storage_at(url, config=config) as storage:
        for _ in range(5):
            assert await storage.load_snapshot(location=LOCATION) is None
    # The limit applies from the first response that throttles.
    assert len(asked) >= 5


@pytest.mark.parametrize("status", [403, 503])
async def test_delete_that_fails_says_whether_it_had_begun(storage_at, status) -> None:
    page = (
        "<ListBucketResult><IsTruncated>false</IsTruncated>"
        "<Contents><Key>s-1/scopes/agent/counter/snapshots/snapshot_latest.json</Key></Contents>"
        "</ListBucketResult>"
    )
    failing = set()

    async def handle(request):
        await request.read()
        if request.method in failing:
            return web.Response(status=status, text="<Error><Code>Refused</Code></Error>")
        return web.Response(text=page)

    config = AioConfig(retries={"total_max_attempts": 1})
    async with serving(handle) as url, storage_at(url, config=config) as storage:
        for methods, outcome in (({"GET"}, "not applied"), ({"POST", "DELETE"}, "unknown")):
            failing.clear()
            failing.update(methods)
            with pytest.raises(StorageError) as caught:
                await storage.delete_session(session_id="s-1")
            assert caught.value.outcome == outcome


async def test_update_that_can_not_read_has_applied_nothing(storage_at) -> None:
    async def handle(request):
        return web.Response(status=403, text="<Error><Code>AccessDenied</Code></Error>")

    async with serving(handle) as url, storage_at(url) as storage:
        with pytest.raises(StorageError) as caught:
            await storage.update_latest(location=LOCATION, update=add_one)
    assert (caught.value.outcome, caught.value.retryable) == ("not applied", False)
