"""Deletes on S3: each key is accounted for, whatever it is, and whatever the server replies."""

import base64
import hashlib
from collections import Counter

import pytest
from aiobotocore.config import AioConfig
from aiobotocore.session import get_session

from snapstore import PartialDeleteError, S3Storage, Snapshot, SnapshotLocation, StorageError
from snapstore.testing.proxy import Fault, recording_proxy

LOCATION = SnapshotLocation.agent("s-1", "weather")
SNAPSHOT = Snapshot.new({"messages": []})
SNAPSHOTS = "s-1/scopes/agent/weather/snapshots"
BY_BOTOCORE = "amz-sdk-request"
PATHS = pytest.mark.parametrize("direct", [True, False], ids=["fast path", "slow path"])

NOT_FOR_XML = ["\x01", "\x0b", "\x1f", "\x7f", "\x85", "\ufffe", "\uffff", "\n", "\r", "\t"]


@pytest.fixture
async def proxy(s3_server, monkeypatch):
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    async with recording_proxy(s3_server.endpoint_url) as proxy:
        yield proxy


@pytest.fixture
def storage_on(proxy, bucket, prefix):
    def make(*, direct=True):
        # By default what fails is tried until the deadline.
        config = AioConfig(retries={"total_max_attempts": 3})
        return S3Storage(
            bucket, prefix=prefix, endpoint_url=proxy.endpoint_url, direct=direct, config=config
        )

    return make


@pytest.fixture
def in_a_hurry(monkeypatch):
    """Let retries come at once."""
    backoff = "botocore.retries.standard.ExponentialBackoff.delay_amount"
    monkeypatch.setattr(backoff, lambda *_: 0.0)
    monkeypatch.setattr("snapstore.stores.s3.deletes.full_jitter", lambda _: 0.0)
    monkeypatch.setattr("snapstore.stores.retry.full_jitter", lambda _: 0.0)


async def save(storage):
    return await storage.save_snapshot(location=LOCATION, snapshot=SNAPSHOT, is_latest=True)


async def delete(storage):
    return await storage.delete_session(session_id="s-1")


async def put(client, bucket, *keys):
    for key in keys:
        await client.put_object(Bucket=bucket, Key=key, Body=b"{}")


async def keys_in(client, bucket, prefix):
    reply = await client.list_objects_v2(Bucket=bucket, Prefix=prefix)
    return [found["Key"] for found in reply.get("Contents", ())]


def batches(proxy):
    return [request for request in proxy.requests if request.operation == "DeleteObjects"]


def result(*outcomes):
    return Fault(forward=False, body=f"<DeleteResult>{''.join(outcomes)}</DeleteResult>".encode())


def failed(key, code):
    return f"<Error><Key>{key}</Key><Code>{code}</Code></Error>"


def deleted(key):
    return f"<Deleted><Key>{key}</Key></Deleted>"


# Keys.


@pytest.mark.ceph
@pytest.mark.seaweedfs  # moto takes no line break in a key
@PATHS
async def test_keys_that_xml_can_not_carry_are_deleted_with_the_others(
    direct, storage_on, s3_client, proxy, bucket, prefix
) -> None:
    odd = [f"{prefix}/{SNAPSHOTS}/a{character}b" for character in NOT_FOR_XML]
    plain = [f"{prefix}/{SNAPSHOTS}/{name}" for name in ("ab", "a&b", "a<b>", "ü")]
    await put(s3_client, bucket, *odd, *plain)
    async with storage_on(direct=direct) as storage:
        assert (await delete(storage)).objects == len(odd + plain)
    assert await keys_in(s3_client, bucket, prefix) == []
    assert Counter(proxy.operations) == {
        "ListObjectsV2": 1,
        "DeleteObjects": 1,
        "DeleteObject": len(odd),
    }


async def test_delete_names_the_xml_unsafe_key_that_stays(
    storage_on, s3_client, proxy, bucket, prefix
) -> None:
    odd = f"{prefix}/{SNAPSHOTS}/a\x01b"
    await put(s3_client, bucket, odd)

    async def refuse(request):
        return Fault.error(403, "AccessDenied") if request.operation == "DeleteObject" else None

    async with storage_on() as storage:
        await save(storage)
        proxy.fault = refuse
        with pytest.raises(PartialDeleteError) as caught:
            await delete(storage)
    assert caught.value.failed == {odd: "AccessDenied"}
    assert str(caught.value).isprintable()
    assert await keys_in(s3_client, bucket, prefix) == [odd]


async def test_delete_takes_no_stray_ampersand_for_another_key(
    storage_on, proxy, bucket, prefix
) -> None:
    key = f"{prefix}/{SNAPSHOTS}/a&copy.json"
    listed = f"<IsTruncated>false</IsTruncated><Contents><Key>{key}</Key></Contents>"

    async def reply(request):
        if request.operation == "ListObjectsV2":
            text = f"<ListBucketResult>{listed}</ListBucketResult>"
            return Fault(forward=False, body=text.encode())
        return None

    async with storage_on() as storage:
        await save(storage)
        proxy.fault = reply
        # It is not well-formed, so the slow path finds no listing.
        with pytest.raises(StorageError):
            await delete(storage)
    assert batches(proxy) == []


# Replies.


async def test_delete_reports_the_first_reply_if_the_retry_fails(
    storage_on, s3_client, proxy, bucket, prefix, in_a_hurry
) -> None:
    one, two, three = (f"{prefix}/{SNAPSHOTS}/{name}" for name in "abc")
    await put(s3_client, bucket, one, two, three)

    async def reply(request):
        if request.operation != "DeleteObjects":
            return None
        if len(batches(proxy)) == 1:
            return result(failed(one, "AccessDenied"), failed(two, "SlowDown"), deleted(three))
        return Fault.error(500, "InternalError")

    async with storage_on() as storage:
        proxy.fault = reply
        with pytest.raises(PartialDeleteError) as caught:
            await delete(storage)
    assert caught.value.failed == {one: "AccessDenied", two: "SlowDown"}


# What a regular expression could take hours for: each test has two minutes.
HUGE = {
    "errors": "<Error><Key>k</Key><Code>c</Code></Error>" * 50_000,
    "errors that do not end": "<Error>" * 300_000,
    "errors with a key that do not end": "<Error><Key>k</Key>" * 100_000,
    "one in the other": "<Deleted><Error>" * 120_000,
    "results": "<DeleteResult>" * 150_000,
    "ends of results": "</DeleteResult> " * 120_000,
    "references": "<Error><Key>" + "&" * 2_000_000,
    "blanks": " " * 2_000_000,
}


@pytest.mark.parametrize("content", HUGE.values(), ids=HUGE.keys())
async def test_a_huge_reply_to_a_delete_does_not_hold_up_the_loop(
    content, storage_on, proxy, in_a_hurry
) -> None:
    async def reply(request):
        return result(content) if request.operation == "DeleteObjects" else None

    async with storage_on() as storage:
        await save(storage)
        proxy.fault = reply
        with pytest.raises(StorageError):
            await delete(storage)


LISTINGS = {
    "contents": "<Contents>" * 200_000,
    "keys": "<Contents><Key>" * 120_000,
    "tokens": "<NextContinuationToken>" * 80_000,
    "flags": "<IsTruncated>true" * 100_000,
    "ends": "</ListBucketResult> " * 100_000,
    "blanks": " " * 2_000_000,
}


@pytest.mark.parametrize("content", LISTINGS.values(), ids=LISTINGS.keys())
async def test_a_huge_listing_does_not_hold_up_the_loop(
    content, storage_on, proxy, in_a_hurry
) -> None:
    async def reply(request):
        text = f"<ListBucketResult>{content}</ListBucketResult>{content}"
        return Fault(forward=False, body=text.encode())

    async with storage_on() as storage:
        proxy.fault = reply
        with pytest.raises(StorageError):
            await delete(storage)


# Servers that want another request.


def wanting_md5(code):
    """A server that takes no checksum but Content-MD5."""

    async def reply(request):
        if request.operation != "DeleteObjects":
            return None
        md5 = base64.b64encode(hashlib.md5(request.body).digest()).decode()
        return None if request.headers.get("Content-MD5") == md5 else Fault.error(400, code)

    return reply


@PATHS
@pytest.mark.parametrize("borrowed", [True, False], ids=["borrowed", "own"])
@pytest.mark.parametrize("code", ["MissingContentMD5", "InvalidRequest"])
async def test_a_server_that_wants_content_md5_gets_it(
    code, borrowed, direct, storage_on, s3_client, s3_server, proxy, bucket, prefix
) -> None:
    proxy.fault = wanting_md5(code)
    options = {**s3_server.client_options, "endpoint_url": proxy.endpoint_url}
    async with get_session().create_client("s3", **options) as client:
        storage = (
            S3Storage(bucket, prefix=prefix, client=client, direct=direct)
            if borrowed
            else storage_on(direct=direct)
        )
        async with storage:
            for _ in range(2):
                await save(storage)
                assert (await delete(storage)).objects == 1
            assert (await storage.check())["delete"].status == "ok"
    assert "DeleteObject" not in proxy.operations[:6]
    assert any(BY_BOTOCORE not in request.headers for request in batches(proxy)) is direct
    assert await keys_in(s3_client, bucket, prefix) == []


@PATHS
@pytest.mark.parametrize(("status", "code"), [(501, "NotImplemented"), (400, "MalformedXML")])
async def test_a_server_that_refuses_batches_is_asked_for_each_key(
    status, code, direct, storage_on, s3_client, proxy, bucket, prefix
) -> None:
    keys = [f"{prefix}/{SNAPSHOTS}/{n}" for n in range(5)]

    async def refuse(request):
        return Fault.error(status, code) if request.operation == "DeleteObjects" else None

    proxy.fault = refuse
    async with storage_on(direct=direct) as storage:
        for _ in range(2):
            await put(s3_client, bucket, *keys)
            assert (await delete(storage)).objects == 5
        assert len(batches(proxy)) <= 2  # of the fast path, and of the slow one
        report = await storage.check()
        assert report["delete"].status == "ok"
        assert report["batch delete"].status == "warning"
        assert code in report["batch delete"].message
    assert await keys_in(s3_client, bucket, prefix) == []


async def test_delete_raises_the_first_error_if_single_ones_fail(storage_on, proxy) -> None:
    async def refuse(request):
        if request.operation.startswith("DeleteObject"):
            return Fault.error(400, "InvalidRequest")
        return None

    async with storage_on() as storage:
        await save(storage)
        proxy.fault = refuse
        proxy.requests.clear()
        with pytest.raises(StorageError, match=r"DeleteObjects.*400 InvalidRequest"):
            await delete(storage)
    assert Counter(proxy.operations)["DeleteObject"] == 1
