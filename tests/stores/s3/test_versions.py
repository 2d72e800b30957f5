"""Versions in a versioned bucket: listed whole, and deleted for good, each accounted for."""

import uuid
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime

import pytest
from aiobotocore.config import AioConfig
from aiobotocore.session import get_session

from scripted import Answer, serving_bytes
from snapstore import InvalidResponseError, StorageError
from snapstore.stores.base import PreconditionFailedError
from snapstore.stores.capabilities import ObjectVersion
from snapstore.stores.s3.store import S3ObjectStore
from snapstore.testing.proxy import recording_proxy
from snapstore.testing.server import create_bucket

KEYS = ["a/1", "a/b c+d%2Fe&f", "a/ü", "a/z"]


@pytest.fixture(autouse=True)
def in_a_hurry(monkeypatch):
    """Let retries come at once."""
    monkeypatch.setattr("snapstore.stores.s3.deletes.full_jitter", lambda _: 0.0)


@pytest.fixture
def new_bucket(s3_server):
    name = f"versions-{uuid.uuid4().hex}"
    create_bucket(s3_server, name)
    return name


@pytest.fixture
async def versioned(new_bucket, s3_client):
    enabled = {"Status": "Enabled"}
    await s3_client.put_bucket_versioning(Bucket=new_bucket, VersioningConfiguration=enabled)
    return new_bucket


@pytest.fixture
async def proxy(s3_server):
    async with recording_proxy(s3_server.endpoint_url) as proxy:
        yield proxy


@asynccontextmanager
async def store_of(bucket, s3_server, proxy):
    options = s3_server.storage_options | {"endpoint_url": proxy.endpoint_url}
    store = S3ObjectStore(bucket, **options)
    await store.open()
    try:
        yield store
    finally:
        await store.aclose()


async def all_of(pages):
    async with aclosing(pages):
        return [item async for page in pages for item in page]


def facts(versions):
    return sorted((v.key, v.is_delete_marker, v.is_current, v.size) for v in versions)


async def test_all_versions_and_delete_markers_are_listed_and_deleted(
    versioned, s3_server, proxy
) -> None:
    async with store_of(versioned, s3_server, proxy) as store:
        for key in KEYS:
            for size in (1, 2):
                await store.put(key, b"x" * size)
        await store.put("b/1", b"beside")
        await store.delete(["a/1", "a/ü"])
        expected = [(key, False, key not in ("a/1", "a/ü"), 2) for key in KEYS]
        expected += [(key, False, False, 1) for key in KEYS]
        expected += [("a/1", True, True, 0), ("a/ü", True, True, 0)]
        whole = await all_of(store.scan_versions("a/"))
        assert facts(whole) == sorted(expected)
        assert len({(version.key, version.version_id) for version in whole}) == len(whole)
        for version in whole:
            assert abs((datetime.now(UTC) - version.modified).total_seconds()) < 300
        for page_size in (1, 2, 3, 10):
            proxy.requests.clear()
            async with aclosing(store.scan_versions("a/", page_size=page_size)) as pages:
                found = [page async for page in pages]
            assert all(len(page) <= page_size for page in found)
            assert sorted(version for page in found for version in page) == sorted(whole)
            assert set(proxy.operations) == {"ListObjectVersions"}
        # Without its delete marker, the newest version is back.
        markers = [(v.key, v.version_id) for v in whole if v.is_delete_marker and v.key == "a/1"]
        assert await store.delete_versions(markers) == {}
        assert (await store.get("a/1", max_bytes=9)).data == b"xx"
        proxy.requests.clear()
        rest = [(version.key, version.version_id) for version in whole]
        assert await store.delete_versions(rest) == {}  # one of them for the second time
        assert proxy.operations == ["DeleteObjects"]
        assert await all_of(store.scan_versions("a/")) == []
        assert [version.key for version in await all_of(store.scan_versions(""))] == ["b/1"]


async def test_without_versioning_there_is_one_version_of_each(
    new_bucket, s3_server, proxy, s3_client
) -> None:
    async with store_of(new_bucket, s3_server, proxy) as store:
        await store.put("a/1", b"one")
        await store.put("a/1", b"two!")
        await store.put("a/2", b"")
        [first, second] = sorted(await all_of(store.scan_versions("a/")))
        assert first[:5] == ("a/1", "null", True, False, 4)
        assert second[:5] == ("a/2", "null", True, False, 0)
        assert await store.delete_versions([("a/1", "null"), ("a/3", "null")]) == {}
        assert await store.get("a/1", max_bytes=9) is None
        assert await store.delete_versions([]) == {}
        # Versioning that is switched on later leaves what was there as version "null".
        enabled = {"Status": "Enabled"}
        await s3_client.put_bucket_versioning(Bucket=new_bucket, VersioningConfiguration=enabled)
        await store.put("a/2", b"two")
        found = await all_of(store.scan_versions("a/2"))
        assert sorted((v.size, v.version_id == "null", v.is_current) for v in found) == [
            (0, True, False),
            (3, False, True),
        ]
        assert await store.delete_versions([("a/2", "null")]) == {}
        assert (await store.get("a/2", max_bytes=9)).data == b"two"


@pytest.mark.moto
@pytest.mark.seaweedfs  # Ceph ignores the condition
async def test_a_conditional_delete_leaves_a_delete_marker(versioned, s3_server, proxy) -> None:
    async with store_of(versioned, s3_server, proxy) as store:
        assert await store.has_conditional_deletes("scratch")
        first = await store.put("a/1", b"one")
        second = await store.put("a/1", b"two!")
        with pytest.raises(PreconditionFailedError):
            await store.delete_if_match("a/1", first)
        await store.delete_if_match("a/1", second)
        found = await all_of(store.scan_versions("a/"))
        assert facts(found) == [
            ("a/1", False, False, 3),
            ("a/1", False, False, 4),
            ("a/1", True, True, 0),
        ]
        with pytest.raises(PreconditionFailedError) as caught:
            await store.delete_if_match("a/1", second)
        assert caught.value.is_missing


@pytest.mark.ceph
@pytest.mark.seaweedfs  # moto takes no such key
async def test_versions_of_keys_that_xml_can_not_carry_are_deleted_one_by_one(
    versioned, s3_server, proxy, s3_client
) -> None:
    async with store_of(versioned, s3_server, proxy) as store:
        versions = []
        for key in ("a/\x01", "a/plain"):
            reply = await s3_client.put_object(Bucket=versioned, Key=key, Body=b"")
            versions.append((key, reply["VersionId"]))
        proxy.requests.clear()
        assert await store.delete_versions(versions) == {}
        assert sorted(proxy.operations) == ["DeleteObject", "DeleteObjects"]
        [single] = [r for r in proxy.requests if r.operation == "DeleteObject"]
        assert single.query["versionId"] == versions[0][1]
        listed = await s3_client.list_objects_v2(Bucket=versioned)
        assert "Contents" not in listed


# Scripted responses


@asynccontextmanager
async def scripted_store(answer):
    async with serving_bytes(answer) as server:
        session = get_session()
        session.set_credentials("key", "secret")
        store = S3ObjectStore(
            "bucket",
            session=session,
            region="us-east-1",
            endpoint_url=server.url,
            config=AioConfig(retries={"total_max_attempts": 1}),
        )
        await store.open()
        try:
            yield store, server
        finally:
            await store.aclose()


def saying(*documents):
    documents = iter(documents)

    def answer(_):
        body = next(documents).encode()
        return Answer(b"HTTP/1.1 200 X\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))

    return answer


def page(*entries, truncated="false", after="", how=""):
    return (
        f"<ListVersionsResult>{how}<IsTruncated>{truncated}</IsTruncated>{after}"
        f"{''.join(entries)}</ListVersionsResult>"
    )


def entry(key="a", version_id="v1", name="Version", **more):
    told = {"Key": key, "VersionId": version_id, "IsLatest": "true", "Size": "3"}
    told |= {"LastModified": "2026-11-28T04:45:09.244Z"} | more
    inner = "".join(f"<{n}>{text}</{n}>" for n, text in told.items() if text is not None)
    return f"<{name}>{inner}</{name}>"


def after(key, version_id=None):
    marker = f"<NextKeyMarker>{key}</NextKeyMarker>"
    if version_id is not None:
        marker += f"<NextVersionIdMarker>{version_id}</NextVersionIdMarker>"
    return marker


URL = "<EncodingType>url</EncodingType>"


@pytest.mark.parametrize(
    ("key", "marker", "how", "sent"),
    [
        ("a%2Fb%2541", "a%2Fb%2541", URL, "a%2Fb%2541"),  # as Amazon S3: both encoded
        ("a%2Fb%2541", "a/b%41", URL, "a%2Fb%2541"),  # as Ceph: only the key
        ("a/b%41", "a/b%41", "", "a%2Fb%2541"),  # as SeaweedFS: neither
    ],
)
async def test_the_next_page_begins_after_the_last_key(key, marker, how, sent) -> None:
    first = page(entry("a"), entry(key), truncated="true", after=after(marker, "v1"), how=how)
    second = page(entry("z", name="DeleteMarker", Size=None, IsLatest="false"))
    async with scripted_store(saying(first, second)) as (store, server):
        found = await all_of(store.scan_versions("a"))
    at = datetime(2026, 11, 28, 4, 45, 9, 244_000, tzinfo=UTC)
    assert found[1:] == [
        ObjectVersion("a/b%41", "v1", True, False, 3, at),
        ObjectVersion("z", "v1", False, True, 0, at),
    ]
    assert f"key-marker={sent}" in server.arrived[1].target
    assert "version-id-marker=v1" in server.arrived[1].target


BROKEN = {
    "no marker": page(entry(), truncated="true"),
    "the same marker": page(entry(), truncated="true", after=after("a", "v1")),
    "no end": page(entry()).replace("<IsTruncated>false</IsTruncated>", ""),
    "no key": page(entry(Key=None)),
    "no version id": page(entry(VersionId=None)),
    "no size": page(entry(Size=None)),
    "no time": page(entry(LastModified=None)),
    "nothing about the current one": page(entry(IsLatest=None)),
    "a size that is none": page(entry(Size="three")),
}


@pytest.mark.parametrize("document", BROKEN.values(), ids=BROKEN.keys())
async def test_a_broken_listing_of_versions_is_an_error(document) -> None:
    async with scripted_store(saying(document, document)) as (store, _):
        with pytest.raises(InvalidResponseError) as caught:
            await all_of(store.scan_versions("a"))
    assert (caught.value.operation, caught.value.key) == ("ListObjectVersions", "a")


def result(*outcomes):
    return f"<DeleteResult>{''.join(outcomes)}</DeleteResult>"


def deleted(key, **more):
    inner = "".join(f"<{name}>{text}</{name}>" for name, text in more.items())
    return f"<Deleted><Key>{key}</Key>{inner}</Deleted>"


def failed(key, version_id, code):
    inner = f"<Key>{key}</Key><VersionId>{version_id}</VersionId><Code>{code}</Code>"
    return f"<Error>{inner}</Error>"


async def test_each_version_is_accounted_for() -> None:
    asked = [("a", "v1"), ("a", "v2"), ("a", "null"), ("b", "v1"), ("c", "m1"), ("d", "v1")]
    said = result(
        deleted("a", VersionId="v1"),
        failed("a", "v2", "AccessDenied"),
        deleted("a"),  # as SeaweedFS says "null"
        # The version id was ignored, and a delete marker made.
        deleted("b", DeleteMarker="true", DeleteMarkerVersionId="new"),
        deleted("c", DeleteMarker="true", DeleteMarkerVersionId="m1"),
        deleted("x", VersionId="v1"),
    )
    async with scripted_store(saying(said)) as (store, server):
        assert await store.delete_versions(asked) == {
            ("a", "v2"): "AccessDenied",
            ("b", "v1"): "Unconfirmed",
            ("d", "v1"): "Unconfirmed",
        }
    [request] = server.arrived
    for key, version_id in asked:
        assert f"<Key>{key}</Key><VersionId>{version_id}</VersionId>".encode() in request.body


async def test_what_fails_for_now_is_deleted_again() -> None:
    first = result(deleted("a", VersionId="v1"), failed("a", "v2", "InternalError"))
    async with scripted_store(saying(first, result(deleted("a", VersionId="v2")))) as (
        store,
        server,
    ):
        assert await store.delete_versions([("a", "v1"), ("a", "v2")]) == {}
    assert b"v1" not in server.arrived[1].body
    assert b"v2" in server.arrived[1].body


async def test_a_refused_batch_is_deleted_one_by_one() -> None:
    def answer(request):
        if request.method == "POST":
            return Answer(b"HTTP/1.1 501 X\r\nContent-Length: 0\r\n\r\n")
        return Answer(b"HTTP/1.1 204 X\r\n\r\n")

    async with scripted_store(answer) as (store, server):
        assert await store.delete_versions([("a", "v1"), ("a", "v2")]) == {}
    targets = [request.target for request in server.arrived if request.method == "DELETE"]
    assert targets == ["/bucket/a?versionId=v1", "/bucket/a?versionId=v2"]


async def test_versions_that_may_not_be_listed_are_an_error() -> None:
    body = b"<Error><Code>AccessDenied</Code></Error>"

    def answer(_):
        return Answer(b"HTTP/1.1 403 X\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))

    async with scripted_store(answer) as (store, _):
        with pytest.raises(StorageError, match="s3:ListBucketVersions"):
            await all_of(store.scan_versions("a"))
