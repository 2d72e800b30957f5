"""Copies that the server makes: whole, with metadata of their own, and never made up."""

from contextlib import asynccontextmanager

import pytest
from aiobotocore.config import AioConfig
from aiobotocore.session import get_session

from scripted import Answer, serving_bytes
from snapstore import InvalidResponseError, StorageError, StorageUnavailableError
from snapstore.stores import PreconditionFailedError, StoredObject
from snapstore.stores.s3.store import S3ObjectStore
from snapstore.testing.object_suite import ODD_KEYS
from snapstore.testing.proxy import Fault, recording_proxy

MIB = 2**20
PATHS = pytest.mark.parametrize("direct", [True, False], ids=["fast path", "slow path"])
RESULT = b"<CopyObjectResult><ETag>&quot;e-1&quot;</ETag></CopyObjectResult>"


@pytest.fixture(autouse=True)
def in_a_hurry(monkeypatch):
    """Let retries come at once."""
    monkeypatch.setattr("snapstore.stores.retry.full_jitter", lambda _: 0.0)


@pytest.fixture
async def proxy(s3_server):
    async with recording_proxy(s3_server.endpoint_url) as proxy:
        yield proxy


@pytest.fixture
async def store(proxy, bucket, s3_server):
    options = s3_server.storage_options | {"endpoint_url": proxy.endpoint_url}
    store = S3ObjectStore(bucket, **options)
    await store.open()
    yield store
    await store.aclose()


async def head(client, bucket, key):
    reply = await client.head_object(Bucket=bucket, Key=key)
    return reply["ContentType"], reply["Metadata"]


async def test_a_copy_is_one_request_and_has_the_metadata_of_a_put(
    store, proxy, s3_client, bucket, prefix
) -> None:
    source, key = f"{prefix}/a", f"{prefix}/b/c"
    await store.put_with_metadata(source, b"body" * 500, {"author": "me"})
    proxy.requests.clear()
    version = await store.copy(source, key, metadata={"made-by": "a copy"})
    assert proxy.operations == ["CopyObject"]
    stored = await store.get(key, max_bytes=MIB)
    assert stored == StoredObject(b"body" * 500, version, {"made-by": "a copy"})
    content_type, metadata = await head(s3_client, bucket, key)
    _, of_source = await head(s3_client, bucket, source)
    assert content_type == "application/json"
    assert set(metadata) == {"made-by", "snapstore-write"}
    assert metadata["snapstore-write"] != of_source["snapstore-write"]
    # It is a version as a put makes one.
    await store.put(key, b"next", if_match=version)
    with pytest.raises(PreconditionFailedError):
        await store.put(key, b"next but one", if_match=version)


@pytest.mark.parametrize("odd", ODD_KEYS)
async def test_a_copy_is_from_any_key_and_to_any_key(odd, store, prefix) -> None:
    source, key = f"{prefix}/{odd}", f"{prefix}/copy/{odd}"
    await store.put(source, odd.encode())
    version = await store.copy(source, key)
    assert await store.get(key, max_bytes=MIB) == StoredObject(odd.encode(), version)


async def test_there_is_no_copy_of_nothing(store, prefix) -> None:
    await store.put(f"{prefix}/b", b"stays")
    assert await store.copy(f"{prefix}/a", f"{prefix}/b") is None
    assert await store.copy(f"{prefix}/a", f"{prefix}/c") is None
    assert (await store.get(f"{prefix}/b", max_bytes=MIB)).data == b"stays"
    assert await store.get(f"{prefix}/c", max_bytes=MIB) is None


async def test_a_copy_over_itself_has_new_metadata(store, prefix) -> None:
    await store.put_with_metadata(f"{prefix}/a", b"body", {"author": "me"})
    version = await store.copy(f"{prefix}/a", f"{prefix}/a", metadata={"author": "you"})
    stored = await store.get(f"{prefix}/a", max_bytes=MIB)
    assert stored == StoredObject(b"body", version, {"author": "you"})


async def test_content_and_kept_metadata_are_of_one_version(store, proxy, prefix) -> None:
    source, key = f"{prefix}/a", f"{prefix}/b"
    await store.put_with_metadata(source, b"first", {"n": "first"})
    replacements = iter([b"second", b"third"])

    async def replace(_):
        if proxy.operations[-1] == "CopyObject":
            data = next(replacements, None)
            if data is not None:
                await store.put_with_metadata(source, data, {"n": data.decode()})

    proxy.fault = replace
    version = await store.copy(source, key, metadata=None)
    assert await store.get(key, max_bytes=MIB) == StoredObject(b"third", version, {"n": "third"})
    assert proxy.operations.count("CopyObject") == 3


async def test_a_source_that_is_always_replaced_is_an_error_in_the_end(
    store, proxy, prefix
) -> None:
    source, key = f"{prefix}/a", f"{prefix}/b"
    await store.put(source, b"0")

    async def replace(_):
        if proxy.operations[-1] == "CopyObject":
            await store.put(source, str(len(proxy.operations)).encode())

    proxy.fault = replace
    with pytest.raises(StorageError) as caught:
        await store.copy(source, key, metadata=None)
    assert (caught.value.outcome, proxy.operations.count("CopyObject")) == ("applied", 10)


async def test_a_copy_whose_response_is_lost_is_made_again(store, proxy, prefix) -> None:
    await store.put(f"{prefix}/a", b"body")

    async def lose_the_first(_):
        return Fault(lost=True) if proxy.operations.count("CopyObject") == 1 else None

    proxy.fault = lose_the_first
    version = await store.copy(f"{prefix}/a", f"{prefix}/b")
    assert await store.get(f"{prefix}/b", max_bytes=MIB) == StoredObject(b"body", version)


async def test_a_source_that_is_gone_after_a_lost_response_is_no_missing_one(
    store, proxy, prefix
) -> None:
    await store.put(f"{prefix}/a", b"body")

    async def lose_the_first(_):
        attempts = proxy.operations.count("CopyObject")
        if attempts == 2:
            proxy.fault = no_fault
            await store.delete([f"{prefix}/a"])
        return Fault(lost=True) if attempts == 1 else None

    async def no_fault(_):
        return None

    proxy.fault = lose_the_first
    with pytest.raises(StorageError) as caught:
        await store.copy(f"{prefix}/a", f"{prefix}/b")
    assert (caught.value.code, caught.value.outcome) == ("NoSuchKey", "unknown")
    assert (await store.get(f"{prefix}/b", max_bytes=MIB)).data == b"body"


# Scripted responses


def answering(*replies):
    replies = iter(replies)

    def answer(_):
        status, body = next(replies)
        head = f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\n\r\n"
        return Answer(head.encode() + body)

    return answer


@asynccontextmanager
async def scripted_store(*replies, direct=True, **options):
    async with serving_bytes(answering(*replies)) as server:
        session = get_session()
        session.set_credentials("key", "secret")
        store = S3ObjectStore(
            "bucket",
            session=session,
            region="us-east-1",
            endpoint_url=server.url,
            config=AioConfig(retries={"total_max_attempts": 2}),
            direct=direct,
            **options,
        )
        await store.open()
        try:
            yield store, server
        finally:
            await store.aclose()


@PATHS
async def test_owner_and_encryption_are_those_of_the_store(direct) -> None:
    async with scripted_store(
        (200, RESULT),
        direct=direct,
        expected_bucket_owner="123456789012",
        server_side_encryption="aws:kms",
        kms_key_id="key-1",
    ) as (store, server):
        version = await store.copy("a/ü +%&?.json", "b/ü +%&?.json", metadata={"n": "1"})
    assert version.etag == "e-1"
    [request] = server.arrived
    assert request.target == "/bucket/b/%C3%BC%20%2B%25%26%3F.json"
    expected = {
        "x-amz-copy-source": "bucket/a/%C3%BC%20%2B%25%26%3F.json",
        "x-amz-metadata-directive": "REPLACE",
        "x-amz-meta-n": "1",
        "content-type": "application/json",
        "x-amz-expected-bucket-owner": "123456789012",
        "x-amz-source-expected-bucket-owner": "123456789012",
        "x-amz-server-side-encryption": "aws:kms",
        "x-amz-server-side-encryption-aws-kms-key-id": "key-1",
    }
    assert {name: request.headers.get(name) for name in expected} == expected


ERROR = b'<?xml version="1.0"?>\n\n<Error><Code>%s</Code><Message>m</Message></Error>'


@PATHS
async def test_an_error_in_a_good_response_is_an_error(direct) -> None:
    """Amazon S3 begins the response before the copy is made (API Reference, "CopyObject")."""
    error = ERROR % b"InternalError"
    async with scripted_store((200, error), (200, error), direct=direct) as (store, server):
        with pytest.raises(StorageUnavailableError) as caught:
            await store.copy("a", "b")
        assert len(server.arrived) == 2
    assert (caught.value.code, caught.value.outcome) == ("InternalError", "unknown")
    async with scripted_store((200, error), (200, RESULT), direct=direct) as (store, _):
        assert (await store.copy("a", "b")).etag == "e-1"


@pytest.mark.parametrize(
    "body", [b"", b"<CopyObjectResult/>", b"<CopyObjectResult><ETag/></CopyObjectResult>"]
)
async def test_a_copy_without_an_etag_is_an_error(body) -> None:
    async with scripted_store((200, body)) as (store, server):
        with pytest.raises(InvalidResponseError):
            await store.copy("a", "b")
        assert len(server.arrived) == 1


@pytest.mark.parametrize(
    ("status", "code"), [(404, "NoSuchBucket"), (403, "AccessDenied"), (400, "InvalidRequest")]
)
async def test_only_a_missing_source_is_none(status, code) -> None:
    async with scripted_store((status, ERROR % code.encode())) as (store, _):
        with pytest.raises(StorageError) as caught:
            await store.copy("a", "b")
    assert (caught.value.code, caught.value.outcome) == (code, "not applied")
