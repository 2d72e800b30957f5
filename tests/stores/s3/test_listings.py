"""Listings with details and by a delimiter: the same on both paths, and never a made-up value."""

from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest
from aiobotocore.config import AioConfig
from aiobotocore.session import get_session

from scripted import Answer, serving_bytes
from snapstore import InvalidResponseError, StorageError, UnsupportedOperationError
from snapstore.stores.capabilities import ObjectDetails
from snapstore.stores.s3 import xml
from snapstore.stores.s3.store import S3ObjectStore
from snapstore.testing.proxy import recording_proxy

PATHS = pytest.mark.parametrize("direct", [True, False], ids=["fast path", "slow path"])
BY_BOTOCORE = "amz-sdk-request"
AT = datetime(2026, 11, 28, 4, 45, 9, 244_000, tzinfo=UTC)
ETAG = "f561aaf6ef0bf14d4208bb46a4ccb3ad"


def page(*entries, truncated="false", token=None, encoded=False):
    """A document of ListObjectsV2."""
    after = "" if token is None else f"<NextContinuationToken>{token}</NextContinuationToken>"
    how = "<EncodingType>url</EncodingType>" if encoded else ""
    return (
        f'<?xml version="1.0"?><ListBucketResult><Name>b</Name>{how}'
        f"<IsTruncated>{truncated}</IsTruncated>{''.join(entries)}{after}</ListBucketResult>"
    )


def entry(key="a/1", size="3", modified="2026-11-28T04:45:09.244Z", etag=f'"{ETAG}"', more=""):
    told = {"Key": key, "LastModified": modified, "ETag": etag, "Size": size}
    inner = "".join(f"<{n}>{text}</{n}>" for n, text in told.items() if text is not None)
    return f"<Contents>{inner}{more}</Contents>"


def common(prefix):
    return f"<CommonPrefixes><Prefix>{prefix}</Prefix></CommonPrefixes>"


def answer_with(document, status=200):
    body = document.encode()
    head = f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\n\r\n"
    return lambda _: Answer(head.encode() + body)


@asynccontextmanager
async def store_at(url, *, direct, **options) -> AsyncIterator[S3ObjectStore]:
    session = get_session()
    session.set_credentials("key", "secret")
    store = S3ObjectStore(
        "bucket",
        session=session,
        region="us-east-1",
        endpoint_url=url,
        config=AioConfig(retries={"total_max_attempts": 1}),
        direct=direct,
        **options,
    )
    await store.open()
    try:
        yield store
    finally:
        await store.aclose()


async def all_of(pages):
    found = []
    async with aclosing(pages):
        async for one in pages:
            found += one
    return found


async def end_of(pages):
    try:
        return await all_of(pages)
    except StorageError as error:
        return type(error), str(error), error.key


async def ends_on_both_paths(document, status=200):
    ends = []
    async with serving_bytes(answer_with(document, status)) as server:
        for direct in (True, False):
            async with store_at(server.url, direct=direct) as store:
                server.arrived.clear()
                ends.append(await end_of(store.scan_details("a/")))
                assert len(server.arrived) == 1
                assert (BY_BOTOCORE not in server.arrived[0].headers) is direct
    # Where a value can't be read, the client's parsers have other words for it.
    assert (ends[0] if isinstance(ends[0], list) else ends[0][::2]) == (
        ends[1] if isinstance(ends[1], list) else ends[1][::2]
    )
    return ends[0]


# Details


DETAILS = {
    "as Amazon writes it": entry(more="<StorageClass>STANDARD</StorageClass>"),
    "quotes by name": entry(etag=f"&quot;{ETAG}&quot;"),
    "quotes by number": entry(etag=f"&#34;{ETAG}&#34;"),
    "quotes by hexadecimal number": entry(etag=f"&#x22;{ETAG}&#x22;"),
    "a weak etag": entry(etag=f'W/"{ETAG}"'),
    "another order": f"<Contents><Size>3</Size><ETag>{ETAG}</ETag><Key>a/1</Key>"
    "<LastModified>2026-11-28T04:45:09.244Z</LastModified></Contents>",
    "an owner": entry(more="<Owner><ID>i</ID><DisplayName>n</DisplayName></Owner>"),
    "a time elsewhere": entry(modified="2026-11-28T05:45:09.244+01:00"),
    "nanoseconds": entry(modified="2026-11-28T04:45:09.244000999Z"),
    "a comment": entry(more="<!-- <Size>4</Size> -->"),
    "CDATA": entry(etag=f"<![CDATA[{ETAG}]]>"),
    "attributes": entry().replace("<Size>", '<Size unit="B">'),
}


@pytest.mark.parametrize("document", DETAILS.values(), ids=DETAILS.keys())
async def test_details_are_read_alike_on_both_paths(document) -> None:
    expected = [ObjectDetails("a/1", 3, AT, ETAG)]
    assert await ends_on_both_paths(page(document)) == expected
    several = page(document, document.replace("a/1", "a/2"), entry("a/3", size="0"))
    found = await ends_on_both_paths(several)
    assert [(details.key, details.size) for details in found] == [
        ("a/1", 3),
        ("a/2", 3),
        ("a/3", 0),
    ]


async def test_an_etag_that_is_not_told_is_none() -> None:
    [details] = await ends_on_both_paths(page(entry(etag=None)))
    assert details == ObjectDetails("a/1", 3, AT, None)
    [details] = await ends_on_both_paths(page(entry(etag='""')))
    assert details.etag is None


async def test_keys_are_decoded_beside_details() -> None:
    document = page(entry("a/%C3%BC+%26%25"), entry("a/&lt;&amp;>"), encoded=True)
    found = await ends_on_both_paths(document)
    assert [details.key for details in found] == ["a/ü &%", "a/<&>"]


INVALID = {
    "no size": entry(size=None),
    "an empty size": entry(size=""),
    "no time": entry(modified=None),
    "an empty time": entry(modified=""),
    "a time without a zone": entry(modified="2026-11-28T04:45:09.244"),
    "a time that is none": entry(modified="yesterday"),
    "no key": entry(key=None),
}


@pytest.mark.parametrize("where", ["first", "last"])
@pytest.mark.parametrize("document", INVALID.values(), ids=INVALID.keys())
async def test_details_that_are_missing_are_an_error(document, where) -> None:
    entries = [document, entry("a/2")] if where == "first" else [entry("a/2"), document]
    kind, words, key = await ends_on_both_paths(page(*entries))
    assert kind is InvalidResponseError
    assert "an entry of the listing has no" in words
    assert key == "a/"


def test_details_of_one_entry_are_never_those_of_another() -> None:
    """As many elements of each name as entries, in the order of a regular page, but misplaced."""
    first = entry("a/1", size=None)
    second = "<Contents><Size>9</Size>" + entry("a/2").removeprefix("<Contents>")
    document = page(first, second).encode()
    assert xml.read_details(document) is None
    with pytest.raises(InvalidResponseError):
        xml.parse_details(document, "a/")


@pytest.mark.parametrize("size", ["-3", "3.0", "0x3", "three", "³"])
async def test_a_size_that_is_no_number_is_an_error(size) -> None:
    kind, _, _ = await ends_on_both_paths(page(entry(size=size)))
    assert kind is InvalidResponseError


def test_the_usual_documents_are_not_parsed() -> None:
    for name in ("as Amazon writes it", "quotes by name", "quotes by number", "an owner"):
        document = page(DETAILS[name], DETAILS[name].replace("a/1", "a/2")).encode()
        read = xml.read_details(document)
        assert read == xml.parse_details(document, "a/"), name
        assert read is not None, name
    assert xml.read_details(page().encode()) == xml.parse_details(page().encode(), "")


@PATHS
async def test_a_borrowed_client_parses_times_itself(direct, s3_server, bucket, prefix) -> None:
    async with get_session().create_client("s3", **s3_server.client_options) as client:
        await client.put_object(Bucket=bucket, Key=f"{prefix}/a", Body=b"four")
        store = S3ObjectStore(bucket, client=client, direct=direct)
        await store.open()
        for _ in range(2):  # the fast path learns from the first one
            [details] = await all_of(store.scan_details(f"{prefix}/"))
            assert (details.key, details.size) == (f"{prefix}/a", 4)
            assert abs(datetime.now(UTC) - details.modified) < timedelta(minutes=5)
            assert details.modified.tzinfo is UTC
        await store.aclose()


@PATHS
async def test_details_cost_as_many_requests_as_keys(direct, s3_server, bucket, prefix) -> None:
    async with recording_proxy(s3_server.endpoint_url) as proxy:
        options = s3_server.storage_options | {"endpoint_url": proxy.endpoint_url}
        store = S3ObjectStore(bucket, direct=direct, **options)
        await store.open()
        versions = [await store.put(f"{prefix}/{n}", b"x" * n) for n in range(5)]
        proxy.requests.clear()
        found = await all_of(store.scan_details(f"{prefix}/", page_size=2))
        await store.aclose()
    assert proxy.operations == ["ListObjectsV2"] * 3
    assert all((BY_BOTOCORE not in request.headers) is direct for request in proxy.requests)
    assert [details.key for details in found] == [f"{prefix}/{n}" for n in range(5)]
    assert [details.size for details in found] == list(range(5))
    assert [details.etag for details in found] == [version.etag for version in versions]


# Beginnings


@PATHS
async def test_beginnings_are_fetched_a_thousand_at_a_time(direct) -> None:
    documents = [
        page(common("a/1/"), common("a/%C3%BC%2F"), truncated="true", token="t/1", encoded=True),
        page(entry("a/x"), truncated="true", token="t/2"),
        page(entry("a/y"), common("a/z&amp;/")),
    ]
    replies = iter(documents)
    async with (
        serving_bytes(answer_with("")) as server,
        store_at(server.url, direct=direct) as store,
    ):

        def answer(request):
            return answer_with(next(replies))(request)

        server.answer = answer
        pages = store.scan_prefixes("a/", delimiter="/", start_after="a/0/")
        async with aclosing(pages):
            found = [one async for one in pages]
        targets = [request.target for request in server.arrived]
    assert found == [["a/1/", "a/ü/"], [], ["a/z&/"]]
    assert all("delimiter=%2F" in target and "max-keys=1000" in target for target in targets)
    assert ["start-after=a%2F0%2F" in target for target in targets] == [True, False, False]
    assert "continuation-token=t%2F2" in targets[2]


NOT_TAKEN = {
    "ignored": (page(entry("a/s/scopes/1")), 200),
    "ignored beside others": (
        page(entry("a/x"), common("a/s/scopes/"), entry("a/t/scopes/1")),
        200,
    ),
    "only its first character is taken": (page(common("a/s/")), 200),
    "another one is taken": (page(common("a/s/scopes/x/")), 200),
}


@pytest.mark.parametrize("document", NOT_TAKEN.values(), ids=NOT_TAKEN.keys())
async def test_a_delimiter_that_is_not_taken_is_unsupported(document) -> None:
    async with (
        serving_bytes(answer_with(*document)) as server,
        store_at(server.url, direct=True) as store,
    ):
        with pytest.raises(
            UnsupportedOperationError, match="by the delimiter '/scopes/'"
        ) as caught:
            await all_of(store.scan_prefixes("a/", delimiter="/scopes/"))
        assert caught.value.key == "a/"


def refusing(status, code, *, only_delimiters):
    def answer(request):
        if "delimiter=" in request.target or not only_delimiters:
            return answer_with(f"<Error><Code>{code}</Code></Error>", status)(request)
        return answer_with(page())(request)

    return answer


@pytest.mark.parametrize(
    ("status", "code"),
    [(400, "InvalidArgument"), (501, "NotImplemented"), (405, "MethodNotAllowed")],
)
async def test_a_delimiter_that_is_refused_is_unsupported(status, code) -> None:
    async with (
        serving_bytes(refusing(status, code, only_delimiters=True)) as server,
        store_at(server.url, direct=True) as store,
    ):
        with pytest.raises(UnsupportedOperationError, match="refuses it"):
            await all_of(store.scan_prefixes("a/", delimiter="/scopes/"))
        # It is not the delimiter if listings are refused as such, or for another reason.
        server.answer = refusing(status, code, only_delimiters=False)
        with pytest.raises(StorageError) as caught:
            await all_of(store.scan_prefixes("a/", delimiter="/scopes/"))
        assert "refuses it: " not in str(caught.value)
        server.answer = refusing(403, "AccessDenied", only_delimiters=True)
        with pytest.raises(StorageError) as caught:
            await all_of(store.scan_prefixes("a/", delimiter="/scopes/"))
        assert caught.value.code == "AccessDenied"


BROKEN = {
    "no token": page(common("a/1/"), truncated="true"),
    "the same token": page(common("a/1/"), truncated="true", token="t"),
    "no end": page(common("a/1/")).replace("<IsTruncated>false</IsTruncated>", ""),
    "no prefix": page("<CommonPrefixes></CommonPrefixes>"),
}


@pytest.mark.parametrize("document", BROKEN.values(), ids=BROKEN.keys())
async def test_a_broken_listing_of_beginnings_is_an_error(document) -> None:
    async with (
        serving_bytes(answer_with(document)) as server,
        store_at(server.url, direct=True) as store,
    ):
        with pytest.raises(InvalidResponseError):
            await all_of(store.scan_prefixes("a/", delimiter="/"))


async def test_an_empty_delimiter_is_refused_before_anything_is_sent() -> None:
    async with (
        serving_bytes(answer_with(page())) as server,
        store_at(server.url, direct=True) as store,
    ):
        with pytest.raises(ValueError, match="delimiter"):
            await all_of(store.scan_prefixes("a/", delimiter=""))
        assert server.arrived == []


@pytest.mark.parametrize("start_after", ["a/1/", "a/1/x/y"])
async def test_the_beginning_of_the_cursor_is_left_out(start_after) -> None:
    """Amazon S3 gives it again: there are keys after the cursor that begin with it."""
    document = page(common("a/1/"), common("a/2/"))
    async with (
        serving_bytes(answer_with(document)) as server,
        store_at(server.url, direct=True) as store,
    ):
        found = await all_of(store.scan_prefixes("a/", delimiter="/", start_after=start_after))
        assert found == ["a/2/"]
        assert "start-after=a%2F1%2F&" in f"{server.arrived[0].target}&"
