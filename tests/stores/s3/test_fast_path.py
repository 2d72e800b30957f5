"""The direct path: the same requests for less, and the generic path where it must not be used."""

import asyncio
import gc
import hashlib
import time
from contextlib import suppress
from datetime import UTC, datetime
from functools import wraps

import aiohttp
import botocore.handlers
import pytest
from aiobotocore.client import AioBaseClient
from aiobotocore.config import AioConfig
from aiobotocore.credentials import AioDeferredRefreshableCredentials, AioRefreshableCredentials
from aiobotocore.httpsession import AIOHTTPSession
from aiobotocore.session import get_session
from aiobotocore.stub import AioStubber
from aiohttp.client_proto import ResponseHandler
from botocore import UNSIGNED
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials as BotoCredentials

from snapstore import (
    PartialDeleteError,
    S3Storage,
    Snapshot,
    SnapshotLocation,
    StorageError,
    StorageTimeoutError,
    new_snapshot_id,
)
from snapstore.stores.s3.client import HTTPSession
from snapstore.stores.s3.fast_path import FastPath
from snapstore.stores.s3.signing import UNSIGNED_PAYLOAD, Credentials, Signer
from snapstore.stores.s3.slow_path import SlowPath
from snapstore.stores.s3.template import Template
from snapstore.testing.proxy import Fault, recording_proxy

LOCATION = SnapshotLocation.agent("s-1", "weather")
SNAPSHOT = Snapshot.new({"messages": ["hello"]})
BY_BOTOCORE = "amz-sdk-request"
"""A header of every request that botocore has made, and of none that is replayed."""

VOLATILE = {
    *("authorization", "x-amz-date", "x-amz-content-sha256", "x-amz-meta-snapstore-write"),
    *("x-amz-meta-snapstore-lineage", "x-amz-checksum-crc32"),
}


async def save(storage: S3Storage, **condition):
    return await storage.save_snapshot(
        location=LOCATION, snapshot=SNAPSHOT, is_latest=True, **condition
    )


async def load(storage: S3Storage):
    return await storage.load_snapshot(location=LOCATION)


async def list_ids(storage: S3Storage):
    return await storage.list_snapshot_ids(location=LOCATION, limit=10)


async def delete(storage: S3Storage):
    # Something to delete: another page is listed where a page was full, never for so few.
    await save(storage)
    return await storage.delete_session(session_id="s-1")


async def save_history(storage: S3Storage):
    return await storage.save_snapshot(location=LOCATION, snapshot=SNAPSHOT, is_latest=False)


OPERATIONS = {
    "PutObject": save,
    "GetObject": load,
    "ListObjectsV2": list_ids,
    "DeleteObjects": delete,
}


@pytest.fixture
async def proxy(s3_server, monkeypatch):
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    async with recording_proxy(s3_server.endpoint_url) as proxy:
        yield proxy


@pytest.fixture
def storage(proxy, bucket, prefix):
    return S3Storage(bucket, prefix=prefix, endpoint_url=proxy.endpoint_url)


def replayed(proxy) -> list[tuple[str, bool]]:
    """Each request that has arrived, and whether it was replayed."""
    return [(request.operation, BY_BOTOCORE not in request.headers) for request in proxy.requests]


@pytest.mark.parametrize("token", [None, "a/token+with=signs"])
@pytest.mark.parametrize("region", ["us-east-1", "eu-central-1", "cn-north-1"])
@pytest.mark.parametrize(
    ("method", "path", "query", "body"),
    [
        ("GET", "/bucket/plain/key.json", "", b""),
        ("PUT", "/bucket/a%20b/%C3%BC%2B~x.json", "", b'{"a":1}'),
        ("GET", "/", "list-type=2&prefix=a%2Fb%20c%2B&start-after=%C3%BC", b""),
        ("POST", "/bucket", "delete=", b"<Delete/>"),
        ("PUT", "/over/tls.json", "", None),
    ],
)
def test_a_signature_is_the_one_that_botocore_makes(
    method, path, query, body, region, token, monkeypatch
) -> None:
    at = datetime(2026, 11, 22, 23, 59, 59, tzinfo=UTC)
    monkeypatch.setattr("botocore.auth.get_current_datetime", lambda: at)
    headers = {
        "content-type": "application/json",
        "x-amz-meta-snapstore-lineage": "a=b c=d",
        "if-match": "d41d8",
    }
    scheme = "http" if body is not None else "https"
    url = f"{scheme}://bucket.example.com:8443{path}{'?' if query else ''}{query}"
    request = AWSRequest(method=method, url=url, data=body or b"", headers=dict(headers))
    if body is None:
        request.context["client_config"] = AioConfig(s3={"payload_signing_enabled": False})
    S3SigV4Auth(BotoCredentials("AKID", "secret/+", token), "s3", region).add_auth(request)

    signed = Signer(region).sign(
        Credentials("AKID", "secret/+", token),
        method=method,
        path=path,
        query=query,
        headers={**headers, "host": "bucket.example.com:8443"},
        payload=UNSIGNED_PAYLOAD if body is None else hashlib.sha256(body).hexdigest(),
        at=at.timestamp(),
    )

    expected = {name.lower(): value for name, value in request.headers.items()}
    assert signed == {**expected, "host": "bucket.example.com:8443"}


def test_a_signing_key_is_of_one_day_and_one_secret() -> None:
    signer = Signer("us-east-1")
    request = {"method": "GET", "path": "/", "query": "", "headers": {}, "payload": "x"}
    one, other = Credentials("A", "one", None), Credentials("A", "other", None)
    day = 86_400.0
    signatures = [
        signer.sign(credentials, **request, at=at)["authorization"]
        for credentials, at in ((one, 0.0), (other, 0.0), (one, day), (one, 0.0))
    ]
    assert signatures[0] == signatures[3]
    assert len(set(signatures)) == 3


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_open_primes_all_templates_and_sends_nothing(operation, storage, proxy) -> None:
    async with storage:
        assert proxy.requests == []
        await OPERATIONS[operation](storage)
    assert (operation, True) in replayed(proxy)
    assert (operation, False) not in replayed(proxy)


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_templates_of_a_borrowed_client_are_from_first_requests(
    operation, bucket, prefix, proxy, s3_server, aws_session
) -> None:
    options = {**s3_server.client_options, "endpoint_url": proxy.endpoint_url}
    async with (
        aws_session.create_client("s3", **options) as client,
        S3Storage(bucket, prefix=prefix, client=client) as storage,
    ):
        for again in (False, True):
            proxy.requests.clear()
            await OPERATIONS[operation](storage)
            assert (operation, again) in replayed(proxy)


@pytest.mark.parametrize("borrowed", [True, False])
async def test_a_large_request_is_replayed_on_any_client(
    borrowed, bucket, prefix, proxy, s3_server, aws_session
) -> None:
    large = Snapshot.new({"text": "x" * 2**20})
    options = {**s3_server.client_options, "endpoint_url": proxy.endpoint_url}
    async with aws_session.create_client("s3", **options) as client:
        own = {"client": client} if borrowed else {"endpoint_url": proxy.endpoint_url}
        async with S3Storage(bucket, prefix=prefix, **own) as storage:
            await save(storage)
            await save(storage)
            proxy.requests.clear()
            await storage.save_snapshot(location=LOCATION, snapshot=large, is_latest=True)
            assert await load(storage) == large
    assert replayed(proxy)[0] == ("PutObject", True)


async def test_templates_are_dropped_when_client_hooks_change(
    bucket, prefix, proxy, s3_server, aws_session
) -> None:
    options = {**s3_server.client_options, "endpoint_url": proxy.endpoint_url}
    async with (
        aws_session.create_client("s3", **options) as client,
        S3Storage(bucket, prefix=prefix, client=client) as storage,
    ):
        await save(storage)
        client.meta.events.register("choose-signer.s3", botocore.handlers.disable_signing)
        proxy.requests.clear()
        with suppress(StorageError):  # some servers take what is not signed
            await save(storage)
    assert [("Authorization" in request.headers) for request in proxy.requests] == [False]


async def test_opening_that_is_cancelled_closes_its_client(storage, monkeypatch) -> None:
    is_warm = asyncio.Event()

    async def prime(self):
        await self._templates.internals.open_session()
        is_warm.set()
        await asyncio.Event().wait()

    with monkeypatch.context() as patch:
        patch.setattr(FastPath, "prime", prime)
        opening = asyncio.create_task(storage.open())
        await is_warm.wait()
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
    del opening
    gc.collect()  # a session that was left open would warn
    async with storage:
        await save(storage)
        gc.collect()


async def test_open_fetches_no_credentials(bucket, prefix, proxy, s3_server) -> None:
    fetched = []

    async def fetch():
        fetched.append(True)
        return {
            "access_key": s3_server.access_key,
            "secret_key": s3_server.secret_key,
            "token": None,
            "expiry_time": "2100-01-01T00:00:00Z",
        }

    session = get_session()
    session._credentials = AioDeferredRefreshableCredentials(fetch, "test")  # noqa: SLF001 -- there is no public way in
    async with S3Storage(
        bucket, prefix=prefix, endpoint_url=proxy.endpoint_url, session=session
    ) as storage:
        assert fetched == []
        await save(storage)
        await save(storage)
    assert fetched == [True]
    assert replayed(proxy) == [("PutObject", False), ("PutObject", True)]


async def test_templates_are_made_again_for_another_region(bucket, prefix, proxy) -> None:
    async def elsewhere(request):
        if "/eu-central-1/s3/" in request.headers["Authorization"]:
            return None
        headers = {"x-amz-bucket-region": "eu-central-1"}
        return Fault.error(301, "PermanentRedirect", headers=headers)

    proxy.fault = elsewhere
    async with S3Storage(bucket, prefix=prefix, endpoint_url=proxy.endpoint_url) as storage:
        await save(storage)
        proxy.requests.clear()
        await save(storage)
    assert replayed(proxy) == [("PutObject", True)]


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_a_replayed_request_says_what_the_generic_one_says(
    operation, bucket, prefix, proxy
) -> None:
    for may_be_direct in (False, True):
        async with S3Storage(
            bucket,
            prefix=f"{prefix}/ü +&",
            endpoint_url=proxy.endpoint_url,
            server_side_encryption="AES256",
            expected_bucket_owner="123456789012",
            direct=may_be_direct,
        ) as storage:
            await OPERATIONS[operation](storage)
    [generic, direct] = [
        next(
            request
            for request in proxy.requests
            if request.operation == operation and (BY_BOTOCORE in request.headers) is by_botocore
        )
        for by_botocore in (True, False)
    ]
    assert (direct.method, direct.path) == (generic.method, generic.path)
    assert dict(direct.query) == dict(generic.query)
    by_name = [
        {name.lower(): value for name, value in request.headers.items()}
        for request in (direct, generic)
    ]
    # What these tell the server is optional.
    for name in (BY_BOTOCORE, "amz-sdk-invocation-id", "x-amz-sdk-checksum-algorithm"):
        by_name[1].pop(name, None)
    assert by_name[0].keys() == by_name[1].keys()
    assert {n: v for n, v in by_name[0].items() if n not in VOLATILE} == {
        n: v for n, v in by_name[1].items() if n not in VOLATILE
    }
    signed = [
        headers["authorization"].split("SignedHeaders=")[1].split(",")[0] for headers in by_name
    ]
    assert signed[0] == signed[1].replace(";x-amz-sdk-checksum-algorithm", "")


async def test_conditions_are_replayed_too(storage, proxy) -> None:
    async with storage:
        first = await save(storage, if_none_match=True)
        await save(storage, if_match=first)
        await save_history(storage)
    assert replayed(proxy) == [("PutObject", True)] * 3
    create, update, history = (request.headers for request in proxy.requests)
    assert create["If-None-Match"] == history["If-None-Match"] == "*"
    assert update["If-Match"] == first.etag


async def test_missing_snapshot_and_conflict_stay_on_the_fast_path(storage, proxy) -> None:
    async with storage:
        assert await load(storage) is None
        await save(storage)
        proxy.requests.clear()
        assert await storage.load_snapshot(location=LOCATION, snapshot_id=new_snapshot_id()) is None
        with pytest.raises(Exception, match="another writer came first"):
            await save(storage, if_none_match=True)
    assert replayed(proxy) == [("GetObject", True), ("PutObject", True), ("HeadObject", False)]


@pytest.mark.seaweedfs  # others send no checksum that would tell another body from the one stored
@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize(
    "fault",
    [
        Fault(lost=True),
        Fault(cut=3),
        Fault(status=206),
        Fault.error(500, "InternalError"),
        Fault.error(307, "TemporaryRedirect", headers={"Location": "http://127.0.0.1:9/"}),
        Fault(body=b"<Error><Code>InternalError</Code></Error>"),
        Fault(body=b"\xff\xfe<"),
        Fault(headers={"ETag": None, "x-amz-checksum-crc32": "AAAAAA=="}, body=b"{}"),
    ],
    ids=["lost", "cut", "206", "500", "307", "an error", "no text", "forged"],
)
async def test_what_is_not_as_expected_is_handed_to_the_generic_path(
    operation, fault, storage, proxy
) -> None:
    async with storage:
        await save(storage)
        await OPERATIONS[operation](storage)
        await save(storage)
        proxy.requests.clear()

        async def once(request):
            of_this = [r for r in proxy.requests if r.operation == operation]
            return fault if request.operation == operation and len(of_this) == 1 else None

        proxy.fault = once
        result = await OPERATIONS[operation](storage)
        kinds = [direct for name, direct in replayed(proxy) if name == operation]
        harmless = operation != "GetObject" if fault.status == 206 else False
        harmless = harmless or (fault.cut is not None and operation == "PutObject")  # no body
        assert kinds == ([True] if harmless else [True, False])
        if operation == "GetObject":
            assert result == SNAPSHOT


async def test_read_timeout_below_the_deadline_is_kept(bucket, prefix, proxy) -> None:
    config = AioConfig(read_timeout=1.0)
    async with S3Storage(
        bucket, prefix=prefix, endpoint_url=proxy.endpoint_url, config=config, timeout=30
    ) as storage:
        await save(storage)
        await load(storage)
        proxy.requests.clear()

        async def stall(request):
            return None if BY_BOTOCORE in request.headers else Fault(stall=20)

        proxy.fault = stall
        async with asyncio.timeout(15):
            assert await load(storage) == SNAPSHOT
        assert [direct for _, direct in replayed(proxy)] == [True, False]


async def test_a_longer_one_leaves_it_to_the_deadline(
    bucket, prefix, proxy, bring_deadlines_forward
) -> None:
    async with S3Storage(
        bucket, prefix=prefix, endpoint_url=proxy.endpoint_url, timeout=30.0
    ) as storage:
        await save(storage)
        await load(storage)
        proxy.requests.clear()

        async def stall(_):
            bring_deadlines_forward()
            return Fault(stall=300)

        proxy.fault = stall
        with pytest.raises(StorageTimeoutError, match="did not end by its deadline"):
            await load(storage)
        assert [direct for _, direct in replayed(proxy)] == [True]


async def test_circuit_breaker_opens_after_five_failures(storage, proxy, monkeypatch) -> None:
    async with storage:
        await save(storage)
        await load(storage)
        proxy.requests.clear()

        async def fail(request):
            direct = BY_BOTOCORE not in request.headers
            return Fault.error(400, "BadRequest") if direct else None

        proxy.fault = fail
        for _ in range(7):
            await load(storage)
        kinds = [direct for _, direct in replayed(proxy)]
        assert kinds == [True, False] * 5 + [False, False]

        resumed = time.monotonic() + 61
        monkeypatch.setattr("snapstore.stores.s3.circuit_breaker.time.monotonic", lambda: resumed)
        proxy.requests.clear()
        await load(storage)
        assert [direct for _, direct in replayed(proxy)] == [True, False]


async def test_a_success_in_between_starts_the_count_again(storage, proxy) -> None:
    async with storage:
        await save(storage)
        await load(storage)
        asked = 0

        async def fail(request):
            nonlocal asked
            if BY_BOTOCORE in request.headers:
                return None
            asked += 1
            return Fault.error(400, "BadRequest") if asked % 5 else None

        proxy.fault = fail
        proxy.requests.clear()
        for _ in range(15):
            await load(storage)
        assert [direct for _, direct in replayed(proxy)][-1] is True


async def test_a_server_in_trouble_is_no_reason_to_stop_replaying(storage, proxy) -> None:
    async with storage:
        await save(storage)
        await load(storage)

        async def fail(request):
            return None if BY_BOTOCORE in request.headers else Fault.error(503, "SlowDown")

        proxy.fault = fail
        proxy.requests.clear()
        for _ in range(7):
            await load(storage)
        assert [direct for _, direct in replayed(proxy)] == [True, False] * 7
        assert (await storage.check())["fast path"].status == "ok"


async def test_it_is_off_where_it_is_not_wanted(bucket, prefix, proxy) -> None:
    async with S3Storage(
        bucket, prefix=prefix, endpoint_url=proxy.endpoint_url, direct=False
    ) as storage:
        for operation in OPERATIONS.values():
            await operation(storage)
            await operation(storage)
        assert not any(direct for _, direct in replayed(proxy))
        finding = (await storage.check())["fast path"]
        assert (finding.status, finding.message) == ("ok", "off: direct=False")


@pytest.mark.parametrize(
    ("bucket", "why"),
    [
        ("arn:aws:s3:us-east-1:123456789012:accesspoint/sessions", "ARN"),
        ("sessions--use1-az4--x-s3", "directory bucket"),
    ],
)
async def test_it_is_off_for_buckets_of_a_special_kind(bucket, why) -> None:
    async with get_session().create_client(
        "s3", region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="b"
    ) as client:
        slow_path = SlowPath(client, bucket, common={}, encryption={})
        assert why in (FastPath(client, bucket, slow_path, timeout=None).disabled or "")


class FunctionProxy:
    """What wrapt makes of a function: it has all the attributes of what is inside."""

    def __init__(self, function):
        self.function = function

    def __getattr__(self, name):
        return getattr(self.function, name)

    def __get__(self, instance, owner):
        return self if instance is None else self.function.__get__(instance, owner)


class OwnSession(AIOHTTPSession):
    """Somebody's own HTTP session."""


def tracing(call):
    @wraps(call)
    async def traced(*args, **kwargs):
        return await call(*args, **kwargs)

    return traced


def patched_class(client, monkeypatch):
    call = tracing(AioBaseClient._make_api_call)  # noqa: SLF001 -- as tracing libraries do
    monkeypatch.setattr(AioBaseClient, "_make_api_call", call)


def patched_client(client, monkeypatch):
    call = tracing(client._make_api_call)  # noqa: SLF001 -- as tracing libraries do
    monkeypatch.setattr(client, "_make_api_call", call)


def wrapped_class(client, monkeypatch):
    call = FunctionProxy(AioBaseClient._make_api_call)  # noqa: SLF001 -- as tracing libraries do
    monkeypatch.setattr(AioBaseClient, "_make_api_call", call)


def patched_session(client, monkeypatch):
    monkeypatch.setattr(AIOHTTPSession, "send", tracing(AIOHTTPSession.send))


def patched_aiohttp(client, monkeypatch):
    send = tracing(aiohttp.ClientSession._request)  # noqa: SLF001 -- as tracing libraries do
    monkeypatch.setattr(aiohttp.ClientSession, "_request", send)


def handler(client, monkeypatch):
    client.meta.events.register("before-send.s3.PutObject", lambda **_: None)


def callable_object(client, monkeypatch):
    class Stub:
        def __call__(self, **_):
            """Leave the request as it is."""

    client.meta.events.register("before-send", Stub())


CHANGES = {
    patched_class: "patched",
    patched_client: "patched",
    wrapped_class: "patched",
    patched_aiohttp: "patched",
    handler: "registered for before-send",
    callable_object: "registered for before-send",
}


@pytest.mark.parametrize("later", [False, True], ids=["before opening", "while it is used"])
@pytest.mark.parametrize("change", CHANGES)
async def test_it_is_off_where_somebody_looks_into_the_client(
    change, later, s3_server, bucket, prefix, proxy, monkeypatch, caplog
) -> None:
    caplog.set_level("DEBUG", "snapstore")
    options = {**s3_server.client_options, "endpoint_url": proxy.endpoint_url}
    async with get_session().create_client("s3", **options) as client:
        if not later:
            change(client, monkeypatch)
        async with S3Storage(bucket, prefix=prefix, client=client) as storage:
            await save(storage)
            if later:
                await save(storage)
                assert replayed(proxy)[-1] == ("PutObject", True)
                change(client, monkeypatch)
            for operation in OPERATIONS.values():
                proxy.requests.clear()
                await operation(storage)
                await operation(storage)
                assert not any(direct for _, direct in replayed(proxy))
            assert CHANGES[change] in caplog.text


async def test_it_is_off_where_what_sends_is_patched(
    s3_server, bucket, prefix, monkeypatch
) -> None:
    async with get_session().create_client("s3", **s3_server.client_options) as client:
        patched_session(client, monkeypatch)
        async with S3Storage(bucket, prefix=prefix, client=client) as storage:
            assert "patched" in (await storage.check())["fast path"].message


async def test_a_stubbed_client_answers_and_nothing_is_sent(
    s3_server, bucket, prefix, proxy
) -> None:
    options = {**s3_server.client_options, "endpoint_url": proxy.endpoint_url}
    async with (
        get_session().create_client("s3", **options) as client,
        S3Storage(bucket, prefix=prefix, client=client) as storage,
    ):
        await save(storage)
        await save(storage)
        proxy.requests.clear()
        with AioStubber(client) as stub:
            stub.add_response("put_object", {"ETag": '"stubbed"'})
            assert (await save(storage)).etag == "stubbed"
        assert proxy.requests == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"config": AioConfig(http_session_cls=OwnSession)}, "its HTTP session is a OwnSession"),
        ({"config": AioConfig(signature_version=UNSIGNED)}, "the client has no credentials"),
        ({"config": AioConfig(signature_version="s3")}, "not signed by Signature V4"),
    ],
)
async def test_it_is_off_for_a_client_of_another_kind(
    options, words, s3_server, bucket, prefix
) -> None:
    async with (
        get_session().create_client("s3", **s3_server.client_options, **options) as client,
        S3Storage(bucket, prefix=prefix, client=client) as storage,
    ):
        await asyncio.gather(load(storage), load(storage), return_exceptions=True)
        finding = (await storage.check())["fast path"]
    assert finding.status == "warning"
    assert words in finding.message


async def test_it_is_off_behind_a_proxy(proxy, bucket, prefix) -> None:
    async def answer(request):
        return Fault(forward=False, headers={"ETag": '"e"'})

    proxy.fault = answer
    config = AioConfig(proxies={"http": proxy.endpoint_url})
    async with S3Storage(
        bucket, prefix=prefix, config=config, endpoint_url="http://s3.example.test"
    ) as storage:
        await save(storage)
        assert "proxy" in (await storage.check())["fast path"].message


async def test_it_is_off_where_a_request_has_what_is_not_known(
    s3_server, bucket, prefix, proxy, monkeypatch
) -> None:
    # In Lambda botocore adds a header of its own, which need not be repeated: that one is known.
    monkeypatch.setenv("AWS_LAMBDA_FUNCTION_NAME", "f")
    monkeypatch.setenv("_X_AMZN_TRACE_ID", "Root=1-2-3")
    async with S3Storage(bucket, prefix=prefix, endpoint_url=proxy.endpoint_url) as storage:
        await save(storage)
        await save(storage)
        assert replayed(proxy)[-1] == ("PutObject", True)


@pytest.mark.parametrize("name", ["_get_session", "_proxy_config"])
async def test_fast_path_is_off_without_what_aiobotocore_needs(
    name, s3_server, bucket, prefix, monkeypatch
) -> None:
    class Changed(HTTPSession):
        def __getattribute__(self, wanted):
            if wanted == name and asking:
                raise AttributeError(name=wanted)
            return super().__getattribute__(wanted)

    asking = True
    config = AioConfig(http_session_cls=Changed)
    async with (
        get_session().create_client("s3", config=config, **s3_server.client_options) as client,
        S3Storage(bucket, prefix=prefix, client=client) as storage,
    ):
        asking = False
        await save(storage)
        assert name in (await storage.check())["fast path"].message


async def test_fast_path_is_off_without_what_aiohttp_needs(storage, monkeypatch) -> None:
    as_it_is = ResponseHandler.set_response_params

    def changed(self, **options):
        as_it_is(self, **options)

    monkeypatch.setattr(ResponseHandler, "set_response_params", changed)
    async with storage:
        finding = (await storage.check())["fast path"]
        assert "ResponseHandler.set_response_params" in finding.message


async def test_with_this_version_of_aiobotocore_it_is_on(storage) -> None:
    async with storage:
        await save(storage)
        finding = (await storage.check())["fast path"]
        assert finding.status == "ok", finding.message


@pytest.mark.ceph
@pytest.mark.seaweedfs  # moto checks no credentials
async def test_new_credentials_are_used_when_the_old_ones_end(
    s3_server, bucket, prefix, proxy, monkeypatch
) -> None:
    key = s3_server.access_key

    async def refresh():
        return {
            "access_key": key,
            "secret_key": s3_server.secret_key,
            "token": None,
            # So soon that botocore asks for new ones each time.
            "expiry_time": datetime.fromtimestamp(time.time() + 60, UTC).isoformat(),
        }

    session = get_session()
    credentials = AioRefreshableCredentials.create_from_metadata(
        metadata=await refresh(), refresh_using=refresh, method="test"
    )
    session._credentials = credentials  # noqa: SLF001 -- there is no public way in
    async with S3Storage(
        bucket,
        prefix=prefix,
        session=session,
        endpoint_url=proxy.endpoint_url,
        region=s3_server.region,
    ) as storage:
        await save(storage)
        await save(storage)
        key = "nobody"
        later = time.monotonic() + 2
        monkeypatch.setattr("snapstore.stores.s3.internals.time.monotonic", lambda: later)
        with pytest.raises(PermissionError, match="the access key is unknown"):
            await save(storage)
    assert "Credential=nobody/" in proxy.requests[-1].headers["Authorization"]


async def test_two_storages_on_one_client_learn_and_close_apart(
    s3_server, bucket, prefix, proxy
) -> None:
    options = {**s3_server.client_options, "endpoint_url": proxy.endpoint_url}
    async with get_session().create_client("s3", **options) as client:
        async with S3Storage(bucket, prefix=prefix, client=client) as one:
            async with S3Storage(bucket, prefix=prefix, client=client) as other:
                await save(other)
            await save(one)
            proxy.requests.clear()
            await save(one)
            assert replayed(proxy) == [("PutObject", True)]
        # Nothing of ours stays behind in the client.
        seen = []
        client.meta.events.register("before-send", lambda **kwargs: seen.append(kwargs))
        await client.list_objects_v2(Bucket=bucket, MaxKeys=1)
        assert len(seen) == 1


@pytest.mark.parametrize("kind", [{"if_match": True}, {"if_none_match": True}])
async def test_a_gateway_that_says_created_has_done_it_once(kind, storage, proxy) -> None:
    async with storage:
        await save(storage)
        saved = await save(storage)
        if "if_none_match" in kind:
            await storage.delete_session(session_id="s-1")
        else:
            kind = {"if_match": saved}

        async def created(request):
            return Fault(status=201) if BY_BOTOCORE not in request.headers else None

        proxy.fault = created
        saved = await save(storage, **kind)
        assert (await storage.load_versioned(location=LOCATION)).etag == saved.etag


LISTING = (
    '<?xml version="1.0"?><ListBucketResult><IsTruncated>false</IsTruncated>{}</ListBucketResult>'
)


@pytest.mark.parametrize(
    "contents",
    [
        '<Contents x="y"><Key x="y">{}</Key></Contents>',
        "<Contents><Key><![CDATA[{}]]></Key></Contents>",
        "<Contents><Key>{}</Key></Contents><!-- <Contents><Key>ghost</Key></Contents> -->",
        "<Contents><Key>{}<!-- c --></Key></Contents>",
    ],
    ids=["attributes", "CDATA", "a comment", "a comment in a key"],
)
async def test_a_listing_of_an_unusual_shape_is_parsed(
    contents, storage, proxy, bucket, prefix
) -> None:
    snapshot_id = new_snapshot_id()
    key = f"{prefix}/s-1/scopes/agent/weather/snapshots/immutable_history/snapshot_{snapshot_id}"
    body = LISTING.format(contents.format(f"{key}.json")).encode()

    async def answer(request):
        return Fault(forward=False, body=body, headers={"Content-Type": "application/xml"})

    async with storage:
        await list_ids(storage)
        proxy.fault = answer
        for _ in range(2):
            assert await list_ids(storage) == [snapshot_id]


async def test_delete_confirmed_in_a_comment_is_unconfirmed(storage, proxy, bucket, prefix) -> None:
    key = f"{prefix}/s-1/scopes/agent/weather/snapshots/snapshot_latest.json"
    body = f"<DeleteResult><!-- <Deleted><Key>{key}</Key></Deleted> --></DeleteResult>".encode()

    async def answer(request):
        if request.operation != "DeleteObjects":
            return None
        return Fault(forward=False, body=body, headers={"Content-Type": "application/xml"})

    async with storage:
        await delete(storage)
        await save(storage)
        proxy.fault = answer
        with pytest.raises(PartialDeleteError):
            await storage.delete_session(session_id="s-1")


async def test_a_listing_of_an_unusual_shape_is_not_asked_for_again(storage, proxy) -> None:
    body = LISTING.format("<!-- -->").encode()

    async def answer(request):
        if request.operation != "ListObjectsV2":
            return None
        return Fault(forward=False, body=body, headers={"Content-Type": "application/xml"})

    async with storage:
        await list_ids(storage)
        proxy.fault = answer
        proxy.requests.clear()
        for _ in range(8):
            assert await list_ids(storage) == []
        assert replayed(proxy) == [("ListObjectsV2", True)] * 8


@pytest.mark.parametrize(
    "body", ["<Code><![CDATA[NoSuchKey]]></Code>", "<Code>NoSuchKey<!----></Code>"]
)
async def test_error_code_in_unusual_xml_is_understood(body, storage, proxy) -> None:
    async def answer(request):
        text = f"<?xml version='1.0'?><Error>{body}<Message>m</Message></Error>".encode()
        return Fault(forward=False, status=404, body=text)

    async with storage:
        await save(storage)
        await load(storage)
        proxy.fault = answer
        assert await load(storage) is None


async def test_a_client_that_its_owner_has_closed_is_said_to_be(s3_server, bucket, prefix) -> None:
    owned = get_session().create_client("s3", **s3_server.client_options)
    async with S3Storage(bucket, prefix=prefix, client=await owned.__aenter__()) as storage:
        await save(storage)
        await save(storage)
        await owned.__aexit__(None, None, None)
        with pytest.raises(StorageError, match="was it closed"):
            await save(storage)


async def test_an_ipv6_host_is_in_brackets() -> None:
    request = AWSRequest(method="PUT", url="http://[::1]:8333/bucket/key", data=b"", headers={})
    request.headers["User-Agent"] = "u"
    S3SigV4Auth(BotoCredentials("AKID", "secret"), "s3", "us-east-1").add_auth(request)
    template = Template.of(request.prepare(), "key")
    assert template.headers["host"] == "[::1]:8333"
    assert template.origin == "http://[::1]:8333"
    assert template.path == "/bucket/"


def test_credentials_do_not_show_themselves() -> None:
    assert repr(Credentials("AKID", "secret", "token")) == "Credentials(…)"


async def test_aiohttp_can_be_told_to_send_nothing_twice() -> None:
    async with aiohttp.ClientSession() as session:
        assert hasattr(session, "_retry_connection")


async def test_keys_to_be_escaped_are_listed_and_deleted(
    s3_client, bucket, prefix, storage
) -> None:
    names = ["a&b", "a<b>", "a+b", "a b", "ü", "a%20b", "quote'\"", "😀"]
    for name in names:
        await s3_client.put_object(
            Bucket=bucket, Key=f"{prefix}/s-1/scopes/agent/weather/{name}", Body=b"{}"
        )
    async with storage:
        await delete(storage)
        for name in names:
            await s3_client.put_object(
                Bucket=bucket, Key=f"{prefix}/s-1/scopes/agent/weather/{name}", Body=b"{}"
            )
        assert (await delete(storage)).objects == len(names) + 1
    reply = await s3_client.list_objects_v2(Bucket=bucket, Prefix=prefix)
    assert reply["KeyCount"] == 0


async def test_a_large_snapshot_is_saved_and_loaded(s3_server, bucket, prefix, monkeypatch) -> None:
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    large = Snapshot.new({"text": "ü" * 3_000_000})
    async with S3Storage(bucket, prefix=prefix) as storage:
        for _ in range(2):
            await storage.save_snapshot(location=LOCATION, snapshot=large, is_latest=True)
            assert await load(storage) == large
