"""What the fast path does with connections: no request gets the response of another one."""

import asyncio
import re
import socket
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiobotocore.config import AioConfig
from aiobotocore.session import get_session

from scripted import Answer, serving_bytes, serving_connections
from snapstore import (
    S3Storage,
    Snapshot,
    SnapshotConflictError,
    SnapshotLocation,
    StorageError,
    StorageTimeoutError,
    StorageUnavailableError,
)
from snapstore.stores import HTTPSession
from snapstore.stores.s3 import internals

FIRST = SnapshotLocation.agent("s-1", "first")
SECOND = SnapshotLocation.agent("s-1", "second")
ONE_TRY = {"retries": {"total_max_attempts": 1}}
TOO_MUCH = Snapshot.new({"text": "x" * (32 * 2**20)})
"""More than the buffers of a socket hold."""


def document(name):
    return (
        b'{"scope":"agent","schemaVersion":"1.0","createdAt":"t","data":{"name":"%b"},"appData":{}}'
        % name.encode()
    )


def response(body=b"", *, status=200, more=b""):
    head = f'HTTP/1.1 {status} X\r\nETag: "e"\r\nContent-Length: {len(body)}\r\n\r\n'
    return head.encode() + body + more


@asynccontextmanager
async def storage_at(url, **config):
    session = get_session()
    session.set_credentials("key", "secret")
    options = {"session": session, "region": "us-east-1", "endpoint_url": url}
    async with S3Storage("bucket", config=AioConfig(**config), **options) as storage:
        yield storage


async def name_in(storage, location):
    snapshot = await storage.load_snapshot(location=location)
    assert snapshot is not None
    return snapshot.data["name"]


async def head_of(reader):
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    # Else it is not the fast path's.
    assert head.startswith("HEAD") or "amz-sdk-request" not in head
    return head


def answering(more=b"", later=b""):
    """Answer loads with their names, and send more than that, at once or a little later."""

    async def answer(reader, writer):
        while True:
            name = "first" if "/first/" in await head_of(reader) else "second"
            writer.write(response(document(name), more=more))
            if later:
                await asyncio.sleep(0.05)
                writer.write(later)

    return answer


async def test_the_response_to_a_cancelled_load_is_nobody_elses() -> None:
    arrived, may_answer = asyncio.Event(), asyncio.Event()

    async def answer(reader, writer):
        while True:
            name = "first" if "/first/" in await head_of(reader) else "second"
            if name == "first":
                arrived.set()
                await may_answer.wait()
            writer.write(response(document(name)))

    async with serving_connections(answer) as (url, connections), storage_at(url) as storage:
        loading = asyncio.create_task(name_in(storage, FIRST))
        await arrived.wait()
        loading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await loading
        may_answer.set()
        assert await name_in(storage, SECOND) == "second"
        assert len(connections) == 2


@pytest.mark.parametrize("when", ["more", "later"])
async def test_a_response_that_nobody_asked_for_is_nobodys(when) -> None:
    answer = answering(**{when: response(document("smuggled"))})
    async with serving_connections(answer) as (url, connections), storage_at(url) as storage:
        assert await name_in(storage, FIRST) == "first"
        await asyncio.sleep(0.2)
        assert await name_in(storage, SECOND) == "second"
        assert len(connections) == 2


async def test_a_connection_is_used_again() -> None:
    async with serving_connections(answering()) as (url, connections), storage_at(url) as storage:
        for _ in range(3):
            assert await name_in(storage, FIRST) == "first"
            assert await name_in(storage, SECOND) == "second"
        assert len(connections) == 1


async def test_hints_before_the_response_are_not_the_response() -> None:
    hints = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
    async with (
        serving_bytes(lambda _: Answer(hints + response(document("first")))) as server,
        storage_at(server.url) as storage,
    ):
        assert await name_in(storage, FIRST) == "first"
        assert "amz-sdk-request" not in server.arrived[0].headers


async def test_a_status_that_is_none_is_an_error() -> None:
    answer = Answer(b"HTTP/1.1 099 X\r\nContent-Length: 0\r\n\r\n")
    async with (
        serving_bytes(lambda _: answer) as server,
        storage_at(server.url, **ONE_TRY) as storage,
        asyncio.timeout(5),
    ):
        with pytest.raises(StorageError, match="99"):
            await storage.load_snapshot(location=FIRST)


async def test_a_server_that_only_hints_is_not_waited_for_longer_than_for_others() -> None:
    answer = Answer(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n")
    async with (
        serving_bytes(lambda _: answer) as server,
        storage_at(server.url, read_timeout=0.2, **ONE_TRY) as storage,
        asyncio.timeout(5),
    ):
        with pytest.raises(StorageTimeoutError):
            await storage.load_snapshot(location=FIRST)


@pytest.mark.parametrize("size", [900_000, 1_100_000])
async def test_a_body_may_take_longer_than_the_server_to_answer(size) -> None:
    async def answer(reader, writer):
        head = await head_of(reader)
        [length] = re.findall(r"content-length: (\d+)", head)
        left = int(length)
        while left:
            left -= len(await reader.read(50_000))
            await asyncio.sleep(0.05)
        writer.write(response())

    def small_buffers(address):
        made = socket.socket(*address[:3])
        made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16_384)
        made.setblocking(False)
        return made

    snapshot = Snapshot.new({"text": "x" * size})
    async with (
        serving_connections(answer, rcvbuf=4096) as (url, _),
        storage_at(
            url, read_timeout=0.4, connector_args={"socket_factory": small_buffers}, **ONE_TRY
        ) as storage,
    ):
        await storage.save_snapshot(location=FIRST, snapshot=snapshot, is_latest=True)


async def test_a_connection_with_a_body_that_was_refused_is_not_used_again() -> None:
    refused = []

    async def answer(reader, writer):
        while True:
            head = await head_of(reader)
            if head.startswith("PUT"):
                refused.append(writer)
                writer.write(response(status=412))
                await asyncio.Event().wait()  # and takes no more
            writer.write(response(b"" if head.startswith("HEAD") else document("second")))

    snapshot = Snapshot.new({"text": "x" * 200_000})
    async with (
        serving_connections(answer) as (url, connections),
        storage_at(url) as storage,
        asyncio.timeout(10),
    ):
        with pytest.raises(SnapshotConflictError):
            await storage.save_snapshot(
                location=FIRST, snapshot=snapshot, is_latest=True, if_match="other"
            )
        assert await name_in(storage, SECOND) == "second"
        assert refused == connections[:1]


async def test_a_connector_that_keeps_no_connections_says_so() -> None:
    async with (
        serving_bytes(lambda _: Answer(response(document("first")))) as server,
        storage_at(
            server.url, connector_args={"force_close": True, "keepalive_timeout": None}
        ) as storage,
    ):
        assert await name_in(storage, FIRST) == "first"
        assert server.arrived[0].headers["connection"] == "close"


@pytest.mark.parametrize("closes", [False, True])
async def test_a_server_that_answers_before_it_has_all_is_heard(closes) -> None:
    async def answer(reader, writer):
        await head_of(reader)
        writer.write(response(b"<Error><Code>SlowDown</Code></Error>", status=503))
        await writer.drain()
        if not closes:
            await asyncio.Event().wait()  # and takes no more

    async with (
        serving_connections(answer) as (url, connections),
        storage_at(url, **ONE_TRY) as storage,
    ):
        with pytest.raises(StorageUnavailableError) as caught:
            await storage.save_snapshot(location=FIRST, snapshot=TOO_MUCH, is_latest=True)
        assert (caught.value.status, caught.value.code) == (503, "SlowDown")
        assert len(connections) == 1


async def test_a_cancelled_save_leaves_no_task_behind() -> None:
    arrived = asyncio.Event()

    async def answer(reader, writer):
        await head_of(reader)
        arrived.set()
        await asyncio.Event().wait()  # and takes no more

    async with serving_connections(answer) as (url, _), storage_at(url) as storage:
        before = asyncio.all_tasks()
        saving = asyncio.create_task(
            storage.save_snapshot(location=FIRST, snapshot=TOO_MUCH, is_latest=True)
        )
        await arrived.wait()
        saving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await saving
        left = asyncio.all_tasks() - before - {saving}
        assert not [task for task in left if "_write" in repr(task)]


async def test_it_is_off_where_the_session_is_traced(
    s3_server, bucket, prefix, monkeypatch, caplog
) -> None:
    caplog.set_level("DEBUG", "snapstore")
    monkeypatch.setattr(internals, "_CREDENTIALS_TTL", 0.0)
    traced = []

    async def on_request_start(session, context, params):
        traced.append(params.method)

    tracing = aiohttp.TraceConfig()
    tracing.on_request_start.append(on_request_start)
    tracing.freeze()
    config = AioConfig(http_session_cls=HTTPSession)
    async with (
        get_session().create_client("s3", config=config, **s3_server.client_options) as client,
        S3Storage(bucket, prefix=prefix, client=client) as storage,
    ):
        for _ in range(2):
            assert await storage.load_snapshot(location=FIRST) is None
        assert not traced
        session = await client._endpoint.http_session._get_session(None)  # noqa: SLF001
        session.followed.trace_configs.append(tracing)
        assert await storage.load_snapshot(location=FIRST) is None
        assert traced == ["GET"]
        assert "trace_configs" in caplog.text


async def test_what_a_closing_session_does_not_send_was_never_sent(
    s3_server, bucket, prefix
) -> None:
    config = AioConfig(http_session_cls=HTTPSession)
    snapshot = Snapshot.new({})
    async with (
        get_session().create_client("s3", config=config, **s3_server.client_options) as client,
        S3Storage(bucket, prefix=prefix, client=client) as storage,
    ):
        for _ in range(2):
            await storage.save_snapshot(location=FIRST, snapshot=snapshot, is_latest=True)
        session = await client._endpoint.http_session._get_session(None)  # noqa: SLF001
        closing = asyncio.create_task(session.followed.close())
        await asyncio.sleep(0)
        with pytest.raises(StorageError, match="was it closed") as caught:
            await storage.save_snapshot(location=FIRST, snapshot=snapshot, is_latest=True)
        assert caught.value.outcome == "not applied"
        await closing
