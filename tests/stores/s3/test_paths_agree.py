"""The direct and the generic path: the same requests, and the same verdicts on every response."""

import base64
import hashlib
import zlib
from contextlib import aclosing, asynccontextmanager

import pytest
from aiobotocore.config import AioConfig
from aiobotocore.session import get_session

from sampling import product, sample
from scripted import Answer, serving_bytes
from snapstore import S3Storage, Snapshot, SnapshotLocation, SnapstoreError

LOCATION = SnapshotLocation.agent("s-1", "weather")
ONE_TRY = {"retries": {"total_max_attempts": 1}}
BODY = b'{"scope":"agent","schemaVersion":"1.0","createdAt":"t","data":{},"appData":{}}'
KEY = "s-1/scopes/agent/weather/snapshots/snapshot_latest.json"
XML = "application/xml"
PAGE = b'<?xml version="1.0"?><ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>'
ENTRY = (
    f"{KEY.rpartition('/')[0]}/immutable_history/snapshot_01912a3b-0000-7000-8000-000000000001.json"
)


def response(status, body=b"", *, closes=False, length=True, cut=None, **headers):
    """The answer with a status, a body and headers."""
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    if length:
        fields.setdefault("Content-Length", str(len(body)))
    if closes or not length or cut is not None:
        fields["Connection"] = "close"
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items() if value is not None)
    head = f"HTTP/1.1 {status} X\r\n{lines}\r\n".encode("latin-1")
    return Answer(head + body[:cut], closes or not length or cut is not None)


def an_error(code, **more):
    inner = "".join(f"<{name}>{text}</{name}>" for name, text in {"Code": code, **more}.items())
    return f"<Error>{inner}<Message>m</Message></Error>".encode()


def b64(digest):
    return base64.b64encode(digest).decode()


GOOD_CRC = b64(zlib.crc32(BODY).to_bytes(4, "big"))

RESPONSES = {
    **{
        f"{status} {code or 'empty'}": response(status, an_error(code) if code else b"")
        for status, codes in {
            304: [""],
            400: ["InvalidArgument", "ExpiredToken", "InvalidToken", "RequestTimeout", "BadDigest"],
            401: [""],
            403: [
                *("AccessDenied", "SignatureDoesNotMatch", "InvalidAccessKeyId"),
                *("InvalidObjectState", "RequestTimeTooSkewed", "AllAccessDisabled", ""),
            ],
            404: ["NoSuchKey", "NoSuchBucket", ""],
            405: ["MethodNotAllowed"],
            408: [""],
            409: ["ConditionalRequestConflict", "OperationAborted", ""],
            411: ["MissingContentLength"],
            412: ["PreconditionFailed", ""],
            413: [""],
            416: ["InvalidRange"],
            418: [""],
            429: ["SlowDown", "TooManyRequests", ""],
            431: [""],
            500: ["InternalError", ""],
            501: ["NotImplemented", ""],
            502: [""],
            503: ["SlowDown", "ServiceUnavailable", "SlowDownWrite", ""],
            504: [""],
            520: [""],
            599: [""],
        }.items()
        for code in codes
    },
    "502 HTML": response(502, b"<html><body>Bad gateway<br></body></html>"),
    "404 HTML": response(404, b"<html><body><h1>Not found</h1></body></html>"),
    "503 text": response(503, b"upstream connect error or disconnect/reset before headers"),
    "404 CDATA": response(404, b"<Error><Code><![CDATA[NoSuchKey]]></Code></Error>"),
    "404 declared": response(404, b'<?xml version="1.0"?>\n<Error><Code> NoSuchKey</Code></Error>'),
    "404 nested": response(
        404, b"<ErrorResponse><Error><Code>NoSuchKey</Code></Error></ErrorResponse>"
    ),
    "404 no text": response(404, b"\xff\xfe<"),
    "503 with a wait": response(503, an_error("SlowDown"), Retry_After="3600"),
    "429 with a date": response(429, Retry_After="Wed, 21 Oct 2015 07:28:00 GMT"),
    "500 with an id": response(500, an_error("InternalError"), x_amz_request_id="r-1"),
    "empty 200": response(200),
    "200 with an error": response(200, an_error("InternalError"), ETag='"e"'),
    "200 with a declared error": response(
        200, b'<?xml version="1.0"?>\n\n' + an_error("SlowDown"), ETag='"e"'
    ),
    "200 with garbage": response(200, b"\x00<garbage", ETag='"e"'),
    "200 with HTML": response(200, b"<html><body>Log in</body></html>", ETag='"e"'),
    "200 with a listing": response(200, PAGE, ETag='"e"'),
    "201": response(201, b"", ETag='"e"'),
    "204": response(204, b"", ETag='"e"', length=False),
    "closed": Answer(b"", closes=True),
    "closed within the head": Answer(b"HTTP/1.1 200 OK\r\nETag", closes=True),
    "no HTTP": Answer(b"SSH-2.0-OpenSSH\r\n", closes=True),
    "a snapshot": response(200, BODY, ETag='"e"'),
    "a snapshot, weak etag": response(200, BODY, ETag='W/"e"'),
    "a snapshot, bare etag": response(200, BODY, ETag="e"),
    "a snapshot, no etag": response(200, BODY),
    "a snapshot, empty etag": response(200, BODY, ETag='""'),
    "a snapshot, cut": response(200, BODY, ETag='"e"', cut=20),
    "a snapshot, no length": response(200, BODY, ETag='"e"', length=False),
    "a snapshot, no length, cut": response(200, BODY, ETag='"e"', length=False, cut=20),
    "a snapshot, part": response(206, BODY, ETag='"e"', Content_Range="bytes 0-76/77"),
    "a snapshot, chunked": Answer(
        response(200, b"", ETag='"e"', length=False, Transfer_Encoding="chunked").data
        + b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)
    ),
    "a snapshot, chunked, cut": Answer(
        response(200, b"", ETag='"e"', length=False, Transfer_Encoding="chunked").data
        + b"%x\r\n%s\r\n" % (len(BODY), BODY),
        closes=True,
    ),
    "a snapshot after hints": Answer(
        b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + response(200, BODY, ETag='"e"').data
    ),
    "a snapshot and more": Answer(response(200, BODY, ETag='"e"').data * 2),
    "a long header": response(200, BODY, ETag='"e"', X_Long="x" * 9000),
    "a snapshot, gzip": response(200, BODY, ETag='"e"', Content_Encoding="gzip"),
    "a snapshot, latin-1": response(200, BODY, ETag='"e"', X_Gateway="caf\xe9"),
    **{
        f"a snapshot, {name} {value}": response(
            200, BODY, ETag='"e"', **{f"x-amz-checksum-{name}": value}
        )
        for name, value in {
            "crc32": GOOD_CRC,
            "sha256": b64(hashlib.sha256(BODY).digest()),
            "sha1": b64(hashlib.sha1(BODY).digest()),
        }.items()
    },
    **{
        f"a snapshot, wrong {name}": response(
            200, BODY, ETag='"e"', **{f"x-amz-checksum-{name}": "AAAAAA=="}
        )
        for name in ("crc32", "crc32c", "crc64nvme", "sha1", "sha256")
    },
    "a snapshot, checksum of parts": response(
        200, BODY, ETag='"e"', **{"x-amz-checksum-sha256": "AAAAAA==-2"}
    ),
}


async def save(storage, **condition):
    return await storage.save_snapshot(
        location=LOCATION, snapshot=Snapshot.new({}), is_latest=True, **condition
    )


async def list_details(storage):
    pages = storage.objects.scan_details("s-1/")
    async with aclosing(pages):
        return [details async for page in pages for details in page]


OPERATIONS = {
    "save": save,
    "swap": lambda storage: save(storage, if_match="e"),
    "create": lambda storage: save(storage, if_none_match=True),
    "load": lambda storage: storage.load_versioned(location=LOCATION),
    "list": lambda storage: storage.list_snapshot_ids(location=LOCATION),
    "details": list_details,
    "delete": lambda storage: storage.delete_session(session_id="s-1"),
}


@pytest.fixture
async def server():
    async with serving_bytes(lambda _: response(200)) as scripted:
        yield scripted


@asynccontextmanager
async def storage_at(server, *, direct, prefix="", **config):
    session = get_session()
    session.set_credentials("key", "secret", "token")
    storage = S3Storage(
        "bucket",
        prefix=prefix,
        session=session,
        region="us-east-1",
        endpoint_url=server.url,
        config=AioConfig(**config),
        direct=direct,
        timeout=20,
    )
    async with storage:
        yield storage


async def end_of(operation, storage):
    """What an operation ends with, as far as it does not differ from call to call."""
    try:
        result = await OPERATIONS[operation](storage)
    except SnapstoreError as error:
        facts = ("outcome", "retryable", "code", "status", "request_id", "operation", "key")
        told = {name: getattr(error, name, None) for name in facts}
        wait = getattr(error, "retry_after", None)
        return type(error).__name__, told, wait, str(error)
    return getattr(result, "etag", result)


@pytest.mark.parametrize(
    ("operation", "given"),
    sample(product(operation={name: name for name in OPERATIONS}, given=RESPONSES), one_in=5),
)
async def test_each_response_ends_alike_on_both_paths(operation, given, server) -> None:
    """With one try, so that the number of requests is the same, too."""
    method = {"load": "GET", "list": "GET", "details": "GET", "delete": "POST"}.get(
        operation, "PUT"
    )

    def answer(request):
        if operation == "delete" and request.method == "GET":
            entry = f"<Contents><Key>{ENTRY}</Key></Contents></ListBucketResult>".encode()
            return response(200, PAGE.replace(b"</ListBucketResult>", entry))
        if request.method == "HEAD":
            return response(404)
        assert request.method in (method, "DELETE")
        return given

    server.answer = answer
    ends = []
    for direct in (True, False):
        async with storage_at(server, direct=direct, **ONE_TRY) as storage:
            server.arrived.clear()
            end = await end_of(operation, storage)
            ends.append((end, [request.method for request in server.arrived]))
            hit = next(request for request in server.arrived if request.method == method)
            assert ("amz-sdk-request" not in hit.headers) is direct
    assert ends[0] == ends[1]


CONFIGURATIONS = {
    "default": {},
    "virtual host": {"s3": {"addressing_style": "virtual"}},
    "path": {"s3": {"addressing_style": "path"}},
    "signed payload": {"s3": {"payload_signing_enabled": True}},
    "unsigned payload": {"s3": {"payload_signing_enabled": False}},
    "no checksums": {
        "request_checksum_calculation": "when_required",
        "response_checksum_validation": "when_required",
    },
    "user agent": {"user_agent_extra": "my-service/1.0"},
    "app id": {"user_agent_appid": "my-service"},
    "legacy": {"retries": {"mode": "legacy"}},
    "small pool": {"max_pool_connections": 1},
    "timeouts": {"connect_timeout": 3, "read_timeout": 5},
    "keep-alive": {"tcp_keepalive": True},
    "no host prefix": {"inject_host_prefix": False},
    "own header": {"signature_version": "s3v4"},
}
VOLATILE = {
    *("authorization", "x-amz-date", "x-amz-content-sha256", "x-amz-meta-snapstore-write"),
    *("x-amz-checksum-crc32", "content-length", "x-amz-meta-snapstore-lineage"),
    # What these tell the server is optional, and true of a request of botocore's alone.
    *("amz-sdk-invocation-id", "amz-sdk-request", "x-amz-sdk-checksum-algorithm"),
}


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
async def test_requests_are_alike_on_both_paths(configuration, server, monkeypatch) -> None:
    # A virtual host is a name, which need not be looked up here.
    monkeypatch.setattr("aiohttp.TCPConnector._resolve_host", resolve_to_loopback)

    def answer(request):
        if "list-type" in request.target:
            return response(200, PAGE)
        if request.method == "GET":
            return response(200, BODY, ETag='"e"')
        return response(200, b"", ETag='"e"')

    server.answer = answer
    for operation in ("save", "swap", "create", "load", "list", "details"):
        seen = []
        for direct in (True, False):
            config = CONFIGURATIONS[configuration]
            async with storage_at(server, direct=direct, prefix="p/ü +&", **config) as storage:
                server.arrived.clear()
                await OPERATIONS[operation](storage)
                [request] = server.arrived
                assert ("amz-sdk-request" not in request.headers) is direct
                headers = {n: v for n, v in request.headers.items() if n not in VOLATILE}
                seen.append((request.method, target_of(request), headers))
        assert seen[0] == seen[1], operation


def target_of(request):
    path, _, query = request.target.partition("?")
    return path, sorted(query.split("&"))


async def resolve_to_loopback(self, host, port, traces=None):
    return [
        {
            "hostname": host,
            "host": "127.0.0.1",
            "port": port,
            "family": 2,
            "proto": 0,
            "flags": 0,
        }
    ]


@pytest.mark.parametrize("host", ["LOCALHOST", "LocalHost", "s3.example.", "S3.Example"])
@pytest.mark.parametrize("direct", [True, False])
async def test_the_host_is_signed_as_it_is_sent(host, direct, server, monkeypatch) -> None:
    monkeypatch.setattr("aiohttp.TCPConnector._resolve_host", resolve_to_loopback)
    signed = []
    sign = "snapstore.stores.s3.template.signed_host" if direct else "botocore.auth._host_from_url"
    module, _, name = sign.rpartition(".")
    original = getattr(__import__(module, fromlist=[name]), name)
    monkeypatch.setattr(sign, lambda url: signed.append(original(url)) or signed[-1])
    server.answer = lambda _: response(200, BODY, ETag='"e"')
    session = get_session()
    session.set_credentials("key", "secret")
    async with S3Storage(
        "bucket",
        session=session,
        region="us-east-1",
        endpoint_url=server.url.replace("127.0.0.1", host),
        direct=direct,
    ) as storage:
        await storage.load_snapshot(location=LOCATION)
    assert server.arrived[-1].headers["host"] == signed[-1]
