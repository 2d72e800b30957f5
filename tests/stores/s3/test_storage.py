"""What is special to `S3Storage`, on a real server: clients, requests, configuration."""

import asyncio
import gc
import os
import subprocess
import sys
from contextlib import aclosing, suppress

import botocore.session
import pytest
from aiobotocore.awsrequest import AioAWSResponse
from aiobotocore.config import AioConfig
from aiobotocore.session import get_session

from snapstore import (
    AccessDeniedError,
    BucketNotFoundError,
    InvalidIdentifierError,
    S3Storage,
    Snapshot,
    SnapshotLocation,
    StorageClosedError,
    StorageError,
    StorageUnavailableError,
    WrongEventLoopError,
)
from snapstore.testing.proxy import recording_proxy

LOCATION = SnapshotLocation.agent("s-1", "weather")
SNAPSHOT = Snapshot.new({"messages": []})


def session_for(server):
    session = get_session()
    session.set_credentials(server.access_key, server.secret_key)
    return session


def storage_on(server, bucket, prefix, endpoint_url=None, **options):
    return S3Storage(
        bucket,
        prefix=prefix,
        session=session_for(server),
        region=server.region,
        endpoint_url=endpoint_url or server.endpoint_url,
        **options,
    )


@pytest.fixture
async def recorded(s3_server, bucket, prefix):
    async with (
        recording_proxy(s3_server.endpoint_url) as proxy,
        storage_on(s3_server, bucket, prefix, proxy.endpoint_url) as storage,
    ):
        yield storage, proxy


async def test_a_save_and_a_load_are_one_request_each(recorded) -> None:
    storage, proxy = recorded
    await storage.save_snapshot(location=LOCATION, snapshot=SNAPSHOT, is_latest=True)
    await storage.save_snapshot(location=LOCATION, snapshot=SNAPSHOT, is_latest=False)
    await storage.load_snapshot(location=LOCATION)
    await storage.load_snapshot(location=SnapshotLocation.agent("none", "none"))
    assert proxy.operations == ["PutObject", "PutObject", "GetObject", "GetObject"]


async def test_a_rewind_is_one_get_and_one_put(recorded) -> None:
    storage, proxy = recorded
    saved = await storage.checkpoint(location=LOCATION, snapshot=SNAPSHOT)
    later = await storage.checkpoint(location=LOCATION, snapshot=Snapshot.new({"n": 2}))
    proxy.requests.clear()
    await storage.rewind(location=LOCATION, snapshot_id=saved.snapshot_id, if_match=later)
    assert proxy.operations == ["GetObject", "PutObject"]
    assert "if-match" in proxy.requests[1].headers
    read = await storage.load_versioned(location=LOCATION)
    assert (read.snapshot, read.snapshot_id) == (SNAPSHOT, saved.snapshot_id)


async def test_listings_and_deletes_of_2500_cost_a_request_for_each_1000(
    recorded, s3_server, bucket, prefix
) -> None:
    storage, proxy = recorded
    slots = asyncio.Semaphore(32)
    folder = f"{prefix}/s-1/scopes/agent/weather/snapshots/immutable_history/"

    async with get_session().create_client("s3", **s3_server.client_options) as client:

        async def seed(number: int) -> None:
            key = f"{folder}snapshot_01912a3b-0000-7000-8000-{number:012x}.json"
            async with slots:
                await client.put_object(Bucket=bucket, Key=key, Body=b"{}")

        await asyncio.gather(*(seed(number) for number in range(2500)))

    ids = await storage.list_snapshot_ids(location=LOCATION, limit=10)
    assert ids == [f"01912a3b-0000-7000-8000-{number:012x}" for number in range(10)]
    assert proxy.operations == ["ListObjectsV2"]
    assert proxy.requests[0].query["max-keys"] == "10"

    proxy.requests.clear()
    assert await storage.list_snapshot_ids(location=LOCATION, limit=1, start_after=ids[-1]) == [
        "01912a3b-0000-7000-8000-00000000000a"
    ]
    assert proxy.operations == ["ListObjectsV2"]
    assert proxy.requests[0].query["start-after"] == f"{folder}snapshot_{ids[-1]}.json"

    proxy.requests.clear()
    async with aclosing(storage.iter_snapshot_ids(location=LOCATION)) as walk:
        assert await anext(walk) == ids[0]
    assert proxy.operations == ["ListObjectsV2"]

    every = [f"01912a3b-0000-7000-8000-{number:012x}" for number in range(2500)]
    proxy.requests.clear()
    newest = await storage.list_snapshot_ids(location=LOCATION, newest_first=True, limit=10)
    assert newest == every[:-11:-1]
    assert set(proxy.operations) == {"ListObjectsV2"}
    assert len(proxy.operations) <= 3 + 24

    proxy.requests.clear()
    walk = storage.iter_snapshot_ids(location=LOCATION, newest_first=True)
    async with aclosing(walk) as backwards:
        assert [snapshot_id async for snapshot_id in backwards] == every[::-1]
    assert proxy.operations == ["ListObjectsV2"] * 5

    proxy.requests.clear()
    deleted = await storage.delete_session(session_id="s-1")
    assert (deleted.objects, deleted.kept) == (2500, 0)
    # The last listing looks for packs.
    assert sorted(proxy.operations) == ["DeleteObjects"] * 3 + ["ListObjectsV2"] * 4


async def test_save_sends_compact_json_with_a_checksum(recorded, prefix) -> None:
    storage, proxy = recorded
    await storage.save_snapshot(location=LOCATION, snapshot=SNAPSHOT, is_latest=True)
    (request,) = proxy.requests
    assert request.path.endswith(
        f"/{prefix}/s-1/scopes/agent/weather/snapshots/snapshot_latest.json"
    )
    assert request.headers["Content-Type"] == "application/json"
    assert request.headers["Content-Length"] == str(len(request.body))
    assert request.headers["x-amz-checksum-crc32"]
    assert "Expect" not in request.headers
    assert "Transfer-Encoding" not in request.headers
    assert request.headers["User-Agent"].startswith("snapstore/")
    assert request.body.startswith(b'{"scope":"agent","schemaVersion":"1.0","createdAt":')


async def test_encryption_and_owner_go_with_each_request(s3_server, bucket, prefix) -> None:
    async with (
        recording_proxy(s3_server.endpoint_url) as proxy,
        storage_on(
            s3_server,
            bucket,
            prefix,
            proxy.endpoint_url,
            server_side_encryption="AES256",
            expected_bucket_owner="123456789012",
        ) as storage,
    ):
        await storage.checkpoint(location=LOCATION, snapshot=SNAPSHOT)
        assert await storage.load_snapshot(location=LOCATION) == SNAPSHOT
        await storage.delete_session(session_id="s-1")
        for request in proxy.requests:
            assert request.headers["x-amz-expected-bucket-owner"] == "123456789012"
            written = request.operation == "PutObject"
            assert ("x-amz-server-side-encryption" in request.headers) is written


async def test_a_kms_key_goes_with_every_write(s3_server, bucket, prefix) -> None:
    async with (
        recording_proxy(s3_server.endpoint_url) as proxy,
        storage_on(
            s3_server,
            bucket,
            prefix,
            proxy.endpoint_url,
            server_side_encryption="aws:kms",
            kms_key_id="key-1",
            config=AioConfig(retries={"total_max_attempts": 1}),
        ) as storage,
    ):
        # The server has no KMS: what it answers is not what is tested.
        with suppress(StorageError):
            await storage.save_snapshot(location=LOCATION, snapshot=SNAPSHOT, is_latest=True)
        headers = proxy.requests[0].headers
        assert headers["x-amz-server-side-encryption"] == "aws:kms"
        assert headers["x-amz-server-side-encryption-aws-kms-key-id"] == "key-1"


@pytest.mark.parametrize(
    ("endpoint_url", "payload"), [("https://127.0.0.1:1", "UNSIGNED-PAYLOAD"), (None, "hash")]
)
async def test_body_is_hashed_for_the_signature_over_http_only(
    s3_server, bucket, endpoint_url, payload
) -> None:
    session, sent = session_for(s3_server), []

    def capture(request, **_):
        sent.append(request.headers["X-Amz-Content-SHA256"].decode())
        return AioAWSResponse(request.url, 200, {"etag": '"e"'}, _Empty())

    session.register("before-send.s3.PutObject", capture)
    storage = S3Storage(
        bucket,
        session=session,
        region="us-east-1",
        endpoint_url=endpoint_url or s3_server.endpoint_url,
    )
    async with storage:
        await storage.save_snapshot(location=LOCATION, snapshot=SNAPSHOT, is_latest=True)
    assert len(sent) == 1
    assert (sent[0] == payload) if payload == "UNSIGNED-PAYLOAD" else len(sent[0]) == 64


class _Empty:
    async def read(self) -> bytes:
        return b""


async def test_region_credentials_endpoint_resolve_as_in_botocore(
    s3_server, bucket, prefix, monkeypatch
) -> None:
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    async with S3Storage(bucket, prefix=prefix) as storage:
        await storage.save_snapshot(location=LOCATION, snapshot=SNAPSHOT, is_latest=True)
        assert await storage.load_snapshot(location=LOCATION) == SNAPSHOT


async def test_a_config_of_the_users_goes_before_our_settings(s3_server, bucket, prefix) -> None:
    async with recording_proxy(s3_server.endpoint_url) as proxy:
        config = AioConfig(user_agent="mine/1", max_pool_connections=1)
        options = {"config": config, "max_concurrency": 20}
        async with storage_on(s3_server, bucket, prefix, proxy.endpoint_url, **options) as storage:
            # With a pool of one they would wait for each other's bodies.
            await asyncio.gather(
                *(storage.load_snapshot(location=LOCATION) for _ in range(20)),
            )
        assert proxy.requests[0].headers["User-Agent"].startswith("mine/1")


async def test_a_borrowed_client_is_used_and_left_open(s3_server, bucket, prefix) -> None:
    async with get_session().create_client("s3", **s3_server.client_options) as client:
        async with S3Storage(bucket, prefix=prefix, client=client) as storage:
            await storage.save_snapshot(location=LOCATION, snapshot=SNAPSHOT, is_latest=True)
        await client.head_object(
            Bucket=bucket,
            Key=f"{prefix}/s-1/scopes/agent/weather/snapshots/snapshot_latest.json",
        )


async def test_client_that_cannot_be_used_is_an_error_at_once(s3_server) -> None:
    session = get_session()
    context = session.create_client("s3", **s3_server.client_options)
    with pytest.raises(TypeError, match=r"async with session\.create_client"):
        S3Storage("bucket", client=context)
    async with context as client:
        for name, value in {
            "region": "us-east-1",
            "endpoint_url": s3_server.endpoint_url,
            "session": session,
            "config": AioConfig(),
        }.items():
            with pytest.raises(TypeError, match=f"client and {name} exclude each other"):
                S3Storage("bucket", client=client, **{name: value})
    blocking = botocore.session.get_session().create_client("s3", **s3_server.client_options)
    with pytest.raises(TypeError, match="blocks"):
        S3Storage("bucket", client=blocking)
    with pytest.raises(TypeError, match="not a str"):
        S3Storage("bucket", client="s3")


@pytest.mark.parametrize(
    "options",
    [
        {"bucket": ""},
        {"timeout": 0},
        {"timeout": -1.0},
        {"max_concurrency": 0},
        {"max_snapshot_bytes": 0},
        {"endpoint_url": "127.0.0.1:9000"},
        {"kms_key_id": "key-1"},
        {"kms_key_id": "key-1", "server_side_encryption": "AES256"},
    ],
)
def test_arguments_out_of_range_are_errors_at_once(options) -> None:
    with pytest.raises(ValueError, match=r"must|needs"):
        S3Storage(**{"bucket": "bucket", **options})


async def test_what_is_not_allowed_sends_no_request(recorded) -> None:
    storage, proxy = recorded
    with pytest.raises(InvalidIdentifierError):
        await storage.load_snapshot(location=LOCATION, snapshot_id="latest")
    with pytest.raises(InvalidIdentifierError):
        await storage.delete_session(session_id="../s-1")
    with pytest.raises(WrongEventLoopError):
        await asyncio.to_thread(asyncio.run, storage.load_snapshot(location=LOCATION))
    await storage.aclose()
    with pytest.raises(StorageClosedError):
        await storage.load_snapshot(location=LOCATION)
    assert proxy.requests == []


async def test_a_wrong_bucket_is_an_error_and_not_an_empty_one(s3_server) -> None:
    async with storage_on(s3_server, "no-such-bucket", "") as storage:
        with pytest.raises(BucketNotFoundError, match="the bucket does not exist"):
            await storage.load_snapshot(location=LOCATION)
        with pytest.raises(BucketNotFoundError):
            await storage.list_snapshot_ids(location=LOCATION)
        with pytest.raises(BucketNotFoundError):
            await storage.delete_session(session_id="s-1")


@pytest.mark.ceph
@pytest.mark.seaweedfs  # moto checks no credentials
async def test_a_wrong_secret_gives_one_line_that_says_so(s3_server, bucket) -> None:
    wrong = get_session()
    wrong.set_credentials(s3_server.access_key, "wrong")
    options = {"region": "us-east-1", "endpoint_url": s3_server.endpoint_url}
    async with S3Storage(bucket, session=wrong, **options) as storage:
        with pytest.raises(AccessDeniedError, match="the secret key is wrong"):
            await storage.load_snapshot(location=LOCATION)


async def test_missing_credentials_or_server_give_one_clear_line(s3_server, bucket) -> None:
    options = {"region": "us-east-1", "endpoint_url": s3_server.endpoint_url}
    async with S3Storage(bucket, **options) as storage:
        with pytest.raises(AccessDeniedError, match="no credentials were found"):
            await storage.load_snapshot(location=LOCATION)
    options["endpoint_url"] = "http://127.0.0.1:1"
    async with S3Storage(bucket, session=session_for(s3_server), **options) as storage:
        with pytest.raises(StorageUnavailableError, match=r"http://127\.0\.0\.1:1 could not"):
            await storage.load_snapshot(location=LOCATION)


async def test_session_without_a_client_is_a_typed_error() -> None:
    session = get_session()
    session.set_config_variable("profile", "no-such-profile")
    storage = S3Storage("bucket", session=session)
    with pytest.raises(StorageError, match="no-such-profile"):
        await storage.open()
    with pytest.raises(StorageClosedError):
        await storage.load_snapshot(location=LOCATION)


def test_a_storage_can_be_opened_again_on_another_loop(s3_server, bucket, prefix) -> None:
    storage = storage_on(s3_server, bucket, prefix)

    async def save_and_load() -> Snapshot | None:
        async with storage:
            await storage.save_snapshot(location=LOCATION, snapshot=SNAPSHOT, is_latest=True)
            return await storage.load_snapshot(location=LOCATION)

    for _ in range(2):
        assert asyncio.run(save_and_load()) == SNAPSHOT


async def test_closing_leaves_no_connection_behind(s3_server, bucket, prefix) -> None:
    async with storage_on(s3_server, bucket, prefix) as storage:
        await asyncio.gather(*(storage.load_snapshot(location=LOCATION) for _ in range(10)))
    del storage
    gc.collect()  # an unclosed connection would warn, and warnings are errors


async def test_opening_that_is_cancelled_can_be_repeated(s3_server, bucket, prefix) -> None:
    storage = storage_on(s3_server, bucket, prefix)
    task = asyncio.create_task(storage.open())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with storage:
        assert await storage.load_snapshot(location=LOCATION) is None


COUNTER = """
import asyncio, sys
from snapstore import S3Storage, Snapshot, SnapshotLocation

def add(snapshot):
    return Snapshot.new({"count": snapshot.data["count"] + 1 if snapshot else 1})

async def main(bucket, prefix):
    async with S3Storage(bucket, prefix=prefix) as storage:
        for _ in range(50):
            await storage.update_latest(
                location=SnapshotLocation.agent("s-1", "counter"), update=add
            )

asyncio.run(main(*sys.argv[1:]))
"""


async def test_two_processes_that_count_to_50_each_end_at_100(s3_server, bucket, prefix) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", COUNTER, bucket, prefix],
            env=os.environ | s3_server.environment(),
        )
        for _ in range(2)
    ]
    for process in processes:
        assert await asyncio.to_thread(process.wait) == 0
    async with storage_on(s3_server, bucket, prefix) as storage:
        counted = await storage.load_snapshot(location=SnapshotLocation.agent("s-1", "counter"))
    assert counted.data == {"count": 100}
