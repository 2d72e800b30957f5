"""What the fast path does with connections: a response belongs to one request, whatever happens."""

import asyncio
from contextlib import asynccontextmanager, suppress

import aiohttp
import pytest
from aiobotocore.config import AioConfig
from aiobotocore.session import get_session

from scripted import Answer, serving_bytes
from snapstore import (
    S3Storage,
    Snapshot,
    SnapshotLocation,
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


@asynccontextmanager
async def serving_connections(handle):
    """Serve each connection with a function; yields the URL, and the writers of all of them."""
    connections = []

    async def serve(reader, writer):
        connections.append(writer)
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            await handle(reader, writer)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as listening:
        yield f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}", connections


async def head_of(reader):
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    assert "amz-sdk-request" not in head  # else it is not the fast path's
    return head


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


async def test_a_response_that_nobody_asked_for_is_nobodys() -> None:
    async def answer(reader, writer):
        while True:
            name = "first" if "/first/" in await head_of(reader) else "second"
            writer.write(response(document(name), more=response(document("smuggled"))))

    async with serving_connections(answer) as (url, connections), storage_at(url) as storage:
        assert await name_in(storage, FIRST) == "first"
        assert await name_in(storage, SECOND) == "second"
        assert len(connections) == 2


async def test_a_connection_is_used_again() -> None:
    async def answer(reader, writer):
        while True:
            name = "first" if "/first/" in await head_of(reader) else "second"
            writer.write(response(document(name)))

    async with serving_connections(answer) as (url, connections), storage_at(url) as storage:
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


@pytest.mark.parametrize("closes", [False, True])
async def test_a_server_that_answers_before_it_has_all_is_heard(closes) -> None:
    is_over = asyncio.Event()

    async def answer(reader, writer):
        await head_of(reader)
        writer.write(response(b"<Error><Code>SlowDown</Code></Error>", status=503))
        await writer.drain()
        if not closes:
            await is_over.wait()  # and takes no more

    async with (
        serving_connections(answer) as (url, connections),
        storage_at(url, **ONE_TRY) as storage,
    ):
        with pytest.raises(StorageUnavailableError) as caught:
            await storage.save_snapshot(location=FIRST, snapshot=TOO_MUCH, is_latest=True)
        assert (caught.value.status, caught.value.code) == (503, "SlowDown")
        assert len(connections) == 1
        is_over.set()


async def test_a_cancelled_save_leaves_no_task_behind() -> None:
    arrived, is_over = asyncio.Event(), asyncio.Event()

    async def answer(reader, writer):
        await head_of(reader)
        arrived.set()
        await is_over.wait()  # and takes no more

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
        is_over.set()


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
