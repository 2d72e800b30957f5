"""However much a server sends, no more of a reply is read than it may have."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
from aiobotocore.config import AioConfig
from aiobotocore.session import get_session
from aiohttp import web

from scripted import serving
from snapstore import (
    AccessDeniedError,
    InvalidResponseError,
    OutcomeUnknownError,
    S3Storage,
    Snapshot,
    SnapshotLocation,
    StorageError,
    StorageUnavailableError,
)
from snapstore.stores.s3.client import HTTPSession

LOCATION = SnapshotLocation.agent("s-1", "weather")
SNAPSHOT = Snapshot.new({"messages": []})
SESSION = get_session()
SESSION.set_credentials("access-key", "secret-key")
MIB = 2**20
SENT = 300
"""MiB that the server would send."""
READ = 64
"""MiB that a connection may have taken off it, with all that the system keeps in its buffers."""

CLIENTS = ["fast path", "slow path", "borrowed"]


class Flood:
    """Answers some requests with far too much, and all others as a good server does."""

    def __init__(self) -> None:
        self.status = 200
        self.methods = ()
        self.begin = b""
        self.taken: list[int] = []

    async def handle(self, request: web.Request) -> web.StreamResponse:
        await request.read()
        if request.method not in self.methods:
            return answer(request)
        reply = web.StreamResponse(status=self.status, headers={"ETag": '"e"'})
        reply.enable_chunked_encoding()
        await reply.prepare(request)
        self.taken.append(0)
        place = len(self.taken) - 1
        with suppress(ConnectionError):
            await reply.write(self.begin)
            for _ in range(SENT):
                await reply.write(b" " * MIB)
                self.taken[place] += 1
        return reply


def answer(request: web.Request) -> web.Response:
    if request.method == "GET":
        key = "s-1/scopes/agent/weather/snapshots/manifest.json"
        return web.Response(
            text="<ListBucketResult><IsTruncated>false</IsTruncated>"
            f"<Contents><Key>{key}</Key></Contents></ListBucketResult>"
        )
    return web.Response(headers={"ETag": '"e"'})


@asynccontextmanager
async def storage_before(handle, client: str) -> AsyncIterator[S3Storage]:
    async with serving(handle) as url:
        own = {"endpoint_url": url, "session": SESSION, "region": "us-east-1"}
        if client != "borrowed":
            own["config"] = AioConfig(retries={"total_max_attempts": 3})
            async with S3Storage("bucket", **own, direct=client == "fast path") as storage:
                yield storage
            return
        config = AioConfig(
            http_session_cls=HTTPSession, retries={"mode": "standard", "total_max_attempts": 3}
        )
        async with (
            SESSION.create_client(
                "s3", endpoint_url=url, region_name="us-east-1", config=config
            ) as borrowed,
            S3Storage("bucket", client=borrowed) as storage,
        ):
            yield storage


@pytest.fixture(autouse=True)
def in_a_hurry(monkeypatch):
    """Let retries come at once."""
    backoff = "botocore.retries.standard.ExponentialBackoff.delay_amount"
    monkeypatch.setattr(backoff, lambda *_: 0.0)
    monkeypatch.setattr("snapstore.stores.retry.full_jitter", lambda _: 0.0)


async def save(storage):
    return await storage.save_snapshot(location=LOCATION, snapshot=SNAPSHOT, is_latest=True)


async def create(storage):
    return await storage.save_snapshot(
        location=LOCATION, snapshot=SNAPSHOT, is_latest=True, if_none_match=True
    )


async def load(storage):
    return await storage.load_snapshot(location=LOCATION)


async def list_ids(storage):
    return await storage.list_snapshot_ids(location=LOCATION)


async def delete(storage):
    return await storage.delete_session(session_id="s-1")


ERROR = b"<Error><Message>"
METHODS = {"GET", "PUT", "POST"}


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("operation", [save, create, load, list_ids, delete])
@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (403, AccessDeniedError),
        (404, StorageError),
        (412, StorageError),
        (429, StorageUnavailableError),
        (503, StorageUnavailableError),
    ],
)
async def test_of_the_body_of_an_error_only_the_beginning_is_read(
    status, expected, operation, client
) -> None:
    flood = Flood()
    async with storage_before(flood.handle, client) as storage:
        flood.status, flood.begin = status, ERROR
        flood.methods = {"POST"} if operation is delete else METHODS
        with pytest.raises((expected, OutcomeUnknownError)) as caught:
            await operation(storage)
    assert len(str(caught.value)) < 1000
    assert flood.taken
    assert max(flood.taken) < READ


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize(
    ("operation", "method", "begin"),
    [
        (save, "PUT", b""),
        (list_ids, "GET", b"<ListBucketResult>"),
        (delete, "GET", b"<ListBucketResult>"),
        (delete, "POST", b"<DeleteResult>"),
    ],
)
async def test_a_good_reply_that_is_too_large_is_an_error_that_says_so(
    operation, method, begin, client
) -> None:
    flood = Flood()
    async with storage_before(flood.handle, client) as storage:
        flood.methods, flood.begin = {method}, begin
        with pytest.raises(InvalidResponseError, match="larger than") as caught:
            await operation(storage)
        assert caught.value.bucket == "bucket"
        flood.methods = ()
        await save(storage)  # the connection has not been lost
    assert max(flood.taken) < READ


async def test_a_page_of_as_much_as_a_thousand_keys_can_take_is_read() -> None:
    keys = [f"s-1/scopes/agent/weather/snapshots/{'%C3%BC' * 490}{n:04}" for n in range(1000)]
    contents = "".join(f"<Contents><Key>{key}</Key></Contents>" for key in keys)
    page = (
        "<ListBucketResult><EncodingType>url</EncodingType><IsTruncated>false</IsTruncated>"
        f"{contents}</ListBucketResult>"
    )

    async def reply(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(text=page) if request.method == "GET" else answer(request)

    for client in CLIENTS:
        async with storage_before(reply, client) as storage:
            pages = storage.objects.store.scan("s-1/")
            found = [key async for page in pages for key in page]
        assert len(found) == 1000
        assert {len(key.encode()) for key in found} == {1019}
