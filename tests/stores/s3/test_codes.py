"""What users are told of an error of an S3 server: what it is, and what helps."""

import gzip
import re

import pytest
from aiobotocore.config import AioConfig
from aiobotocore.session import get_session

from sampling import product, sample
from snapstore import (
    AccessDeniedError,
    BucketNotFoundError,
    InvalidResponseError,
    OutcomeUnknownError,
    PartialDeleteError,
    S3Storage,
    Snapshot,
    SnapshotConflictError,
    SnapshotLocation,
    StorageError,
    StorageUnavailableError,
    UnsupportedOperationError,
)
from snapstore.testing.proxy import Fault, recording_proxy

LOCATION = SnapshotLocation.agent("s-1", "weather")
SNAPSHOT = Snapshot.new({"text": "hello"})
LATEST = "s-1/scopes/agent/weather/snapshots/snapshot_latest.json"
NOWHERE = "http://127.0.0.1:1"
PERMISSION = re.compile(r"\bs3:[A-Z*]|permission")

OPERATIONS = {
    "save": lambda storage: storage.save_snapshot(
        location=LOCATION, snapshot=SNAPSHOT, is_latest=True
    ),
    "load": lambda storage: storage.load_snapshot(location=LOCATION),
    "list": lambda storage: storage.list_snapshot_ids(location=LOCATION),
    "delete": lambda storage: storage.delete_session(session_id="s-1"),
}


@pytest.fixture(autouse=True)
def in_a_hurry(monkeypatch):
    """Let retries come at once."""
    backoff = "botocore.retries.standard.ExponentialBackoff.delay_amount"
    monkeypatch.setattr(backoff, lambda *_: 0.0)
    monkeypatch.setattr("snapstore.stores.retry.full_jitter", lambda _: 0.0)


@pytest.fixture
def session():
    session = get_session()
    session.set_credentials("access-key", "secret-key")
    return session


@pytest.fixture
async def replying(session):
    """Calls an operation on a server that replies so, and returns the error."""
    async with recording_proxy(NOWHERE) as proxy:

        async def reply(operation, fault, *, direct=True):
            async def decide(_):
                return fault

            proxy.fault = decide
            async with S3Storage(
                "bucket",
                session=session,
                region="us-east-1",
                endpoint_url=proxy.endpoint_url,
                direct=direct,
                config=AioConfig(retries={"total_max_attempts": 3}),
            ) as storage:
                with pytest.raises(StorageError) as caught:
                    await operation(storage)
            return caught.value

        yield reply


def assert_one_line(error):
    for text in (str(error), str(error.code), str(error.request_id)):
        assert text.isprintable()
    assert len(str(error)) < 2_000
    assert len(str(error.code)) <= 100


CODES = {
    (403, "InvalidObjectState"): (StorageError, "archived; restore it"),
    (403, "RequestTimeTooSkewed"): (AccessDeniedError, "clock"),
    (403, "AllAccessDisabled"): (AccessDeniedError, "all access to the bucket is disabled"),
    (403, "InvalidPayer"): (AccessDeniedError, "all access to the bucket is disabled"),
    (403, "AccountProblem"): (AccessDeniedError, "a problem with the account"),
    (403, "NotSignedUp"): (AccessDeniedError, "not signed up"),
    (403, "UserSuspended"): (AccessDeniedError, "suspended"),
    (403, "InvalidSecurity"): (AccessDeniedError, "credentials are not valid"),
    (403, "SomethingNew"): (AccessDeniedError, "the server refuses it (403 SomethingNew)"),
    (403, "QuotaExceeded"): (StorageError, "a quota is used up"),
    (400, "XMinioAdminBucketQuotaExceeded"): (StorageError, "a quota is used up"),
    (403, "UserSizeQuotaExceeded"): (StorageError, "a quota is used up"),
    (507, "XMinioStorageFull"): (StorageUnavailableError, "no space left"),
    (507, ""): (StorageUnavailableError, "no space left"),
    (400, "KMS.DisabledException"): (StorageError, "kms_key_id"),
    (400, "KMS.NotFoundException"): (StorageError, "kms_key_id"),
    (400, "KMS.KMSInvalidStateException"): (StorageError, "kms_key_id"),
    (400, "KMS.ThrottlingException"): (StorageUnavailableError, "fewer requests"),
    (400, "InvalidAccessPoint"): (StorageError, "not the name of an access point"),
    (404, "NoSuchAccessPoint"): (BucketNotFoundError, "access point does not exist"),
    (400, "EntityTooLarge"): (StorageError, "larger than the server"),
    (413, ""): (StorageError, "client_max_body_size"),
    (431, ""): (StorageError, "large_client_header_buffers"),
    (414, ""): (StorageError, "the key is longer"),
    (400, "KeyTooLongError"): (StorageError, "the key is longer"),
    (400, "MetadataTooLarge"): (StorageError, "headers are larger"),
    (400, "BadDigest"): (StorageUnavailableError, "not what was sent"),
    (400, "RequestTimeout"): (StorageUnavailableError, "try again later"),
    (503, "ThrottlingException"): (StorageUnavailableError, "fewer requests"),
    (429, ""): (StorageUnavailableError, "fewer requests"),
    (401, ""): (AccessDeniedError, "credentials are not accepted"),
    (407, ""): (StorageError, "HTTP_PROXY"),
    (511, ""): (StorageError, "login"),
    (400, "InvalidEncryptionAlgorithmError"): (StorageError, "server_side_encryption"),
    (501, "NotImplemented"): (UnsupportedOperationError, "does not support"),
}


@pytest.mark.parametrize(
    ("case", "operation"),
    sample(
        product(
            case={f"{status} {code}".strip(): (status, code) for status, code in CODES},
            operation={name: name for name in OPERATIONS},
        ),
        one_in=3,
    ),
)
async def test_a_code_is_told_by_what_it_is_and_no_permission_is_named(
    case, operation, replying
) -> None:
    status, code = case
    kind, words = CODES[case]
    body = f"<Error><Code>{code}</Code><Message>m</Message></Error>" if code else "<html>no</html>"
    fault = Fault(forward=False, status=status, body=body.encode())
    error = await replying(OPERATIONS[operation], fault)
    assert type(error) is kind
    assert words in str(error)
    assert not PERMISSION.search(str(error))
    assert error.status == status
    assert_one_line(error)


@pytest.mark.parametrize(
    ("operation", "permission"),
    [("save", "s3:PutObject"), ("load", "s3:GetObject"), ("list", "s3:ListBucket")],
)
async def test_a_permission_is_named_where_one_is_missing(operation, permission, replying) -> None:
    error = await replying(OPERATIONS[operation], Fault.error(403, "AccessDenied"))
    assert type(error) is AccessDeniedError
    assert f"the permission needed is {permission}" in str(error)
    bare = await replying(
        OPERATIONS[operation], Fault(forward=False, status=403, body=b"<html>blocked</html>")
    )
    assert "not a proxy or a firewall" in str(bare)
    assert permission in str(bare)


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_error_names_the_permission_that_the_server_names(operation, replying) -> None:
    message = (
        "User: arn:aws:iam::1:user/CANARY is not authorized to perform: kms:GenerateDataKey on "
        "resource: arn:aws:kms:eu-west-1:1:key/CANARY because no policy allows it"
    )
    body = f"<Error><Code>AccessDenied</Code><Message>{message}</Message></Error>".encode()
    error = await replying(OPERATIONS[operation], Fault(forward=False, status=403, body=body))
    assert "the permission needed is kms:GenerateDataKey" in str(error)
    assert "s3:" not in str(error)
    assert "CANARY" not in str(error)


NASTY = ["A\nFATAL: b", "A\x1b[31m", "A\u2028b", "A\u202eb", "A" * 200_000, "&#10;A", "<x>A</x>"]


@pytest.mark.parametrize(
    ("nasty", "operation", "direct"),
    sample(
        product(
            nasty=dict(enumerate(NASTY)),
            operation={name: name for name in OPERATIONS},
            direct={"fast path": True, "slow path": False},
        ),
        one_in=3,
    ),
)
async def test_whatever_a_server_says_is_one_short_line(nasty, operation, direct, replying) -> None:
    for status in (400, 403, 412):
        body = f"<Error><Code>{nasty}</Code><Message>{nasty}</Message></Error>"
        headers = {"x-amz-request-id": "\x7f" * 3_000}
        error = await replying(
            OPERATIONS[operation],
            Fault(forward=False, status=status, body=body.encode(), headers=headers),
            direct=direct,
        )
        assert_one_line(error)


@pytest.mark.parametrize("nasty", NASTY[:5], ids=range(5))
async def test_whatever_region_a_server_names_is_told_in_one_line(nasty, replying) -> None:
    body = f"<Error><Code>AuthorizationHeaderMalformed</Code><Region>{nasty}</Region></Error>"
    for headers in ({}, {"x-amz-bucket-region": "eu-west-1" * 300}):
        fault = Fault(forward=False, status=400, body=body.encode(), headers=headers)
        assert_one_line(await replying(OPERATIONS["load"], fault))


def page(key):
    contents = f"<Contents><Key>{key}</Key></Contents>"
    text = f"<ListBucketResult><IsTruncated>false</IsTruncated>{contents}</ListBucketResult>"
    return Fault(forward=False, body=text.encode())


async def test_a_foreign_key_in_a_listing_is_told_in_one_line(replying) -> None:
    error = await replying(OPERATIONS["delete"], page("elsewhere/a&#10;FATAL"))
    assert type(error) is InvalidResponseError
    assert_one_line(error)


@pytest.mark.parametrize("direct", [True, False])
async def test_a_key_and_its_code_in_a_delete_are_told_in_one_line(direct, session) -> None:
    key = "s-1/scopes/agent/weather/snapshots/a\u2028FATAL"
    code = "B\u2028" * 50_000
    error = f"<Error><Key>{key}</Key><Code>{code}</Code></Error>"

    async def decide(request):
        if request.operation != "DeleteObjects":
            return page(key)
        return Fault(forward=False, body=f"<DeleteResult>{error}</DeleteResult>".encode())

    async with recording_proxy(NOWHERE) as proxy:
        proxy.fault = decide
        own = {"region": "us-east-1", "endpoint_url": proxy.endpoint_url, "session": session}
        async with S3Storage("bucket", direct=direct, **own) as storage:
            with pytest.raises(PartialDeleteError) as caught:
                await storage.delete_session(session_id="s-1")
    assert_one_line(caught.value)
    assert caught.value.failed.keys() == {key}
    [told] = caught.value.failed.values()
    assert told.isprintable()
    assert len(told) <= 100


@pytest.mark.parametrize("direct", [True, False])
async def test_a_create_that_is_answered_with_304_has_lost_its_race(direct, replying) -> None:
    error = await replying(
        lambda storage: storage.save_snapshot(
            location=LOCATION, snapshot=SNAPSHOT, is_latest=True, if_none_match=True
        ),
        Fault(forward=False, status=304),
        direct=direct,
    )
    # Where the object itself can't tell more, as here, that is what the server said.
    assert type(error) in (SnapshotConflictError, OutcomeUnknownError)
    assert error.status == 304


GZIPPED = gzip.compress(b"<Error><Code>NoSuchKey</Code></Error>")


@pytest.mark.parametrize("direct", [True, False])
@pytest.mark.parametrize("operation", ["list", "delete"])
@pytest.mark.parametrize(
    ("body", "headers", "words"),
    [
        (GZIPPED, {"Content-Encoding": "gzip"}, "compressed"),
        (b"<a/>", {"X-Added": "x" * 9_000}, "larger than 8 KB"),
    ],
    ids=["gzip", "header"],
)
async def test_a_reply_that_a_proxy_has_spoilt_is_told_by_what_it_is(
    body, headers, words, operation, direct, replying
) -> None:
    fault = Fault(forward=False, body=body, headers=headers)
    error = await replying(OPERATIONS[operation], fault, direct=direct)
    assert type(error) is InvalidResponseError
    assert words in str(error)
    assert_one_line(error)


@pytest.mark.parametrize("direct", [True, False])
async def test_a_compressed_error_is_not_taken_for_another_one(direct, replying) -> None:
    fault = Fault(forward=False, status=404, body=GZIPPED, headers={"Content-Encoding": "gzip"})
    error = await replying(OPERATIONS["load"], fault, direct=direct)
    assert type(error) is InvalidResponseError
    assert "compressed" in str(error)


# Endpoints, wherever they come from.

ENDPOINTS = {
    "http://127.0.0.1:1/bucket": "must not end with the bucket",
    "http://127.0.0.1:1/gateway/bucket/": "must not end with the bucket",
    "https://bucket.s3.eu-west-1.amazonaws.com": "must not begin with the bucket",
    "https://bucket.s3-accelerate.amazonaws.com": "must not begin with the bucket",
    "http://user:CANARY@127.0.0.1:1": "must not hold a password",
}


@pytest.fixture
def configured(monkeypatch, tmp_path):
    """Makes an endpoint come from somewhere else than the argument."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "access-key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret-key")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")

    def configure(source, url):
        if source.startswith("AWS_"):
            monkeypatch.setenv(source, url)
            return
        text = f"[default]\nendpoint_url = {url}\n"
        if source == "services":
            text = f"[default]\nservices = mine\n[services mine]\ns3 =\n  endpoint_url = {url}\n"
        (tmp_path / "config").write_text(text)
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))

    return configure


@pytest.mark.parametrize("url", ENDPOINTS)
def test_an_endpoint_in_the_argument_is_refused(url) -> None:
    with pytest.raises(ValueError, match=ENDPOINTS[url]) as caught:
        S3Storage("bucket", endpoint_url=url)
    assert "CANARY" not in str(caught.value)


@pytest.mark.parametrize(
    "source", ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "profile", "services"]
)
@pytest.mark.parametrize("url", ENDPOINTS)
async def test_an_endpoint_that_is_configured_is_refused_as_well(url, source, configured) -> None:
    configured(source, url)
    storage = S3Storage("bucket")
    for _ in range(2):
        with pytest.raises(StorageError, match=ENDPOINTS[url]) as caught:
            await storage.open()
        assert "AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL or the profile" in str(caught.value)
        assert "CANARY" not in str(caught.value)
    await storage.aclose()


@pytest.mark.parametrize("url", [url for url in ENDPOINTS if "CANARY" not in url])
async def test_an_endpoint_of_a_borrowed_client_is_refused_as_well(url, session) -> None:
    options = {"endpoint_url": url, "region_name": "us-east-1"}
    async with session.create_client("s3", **options) as client:
        with pytest.raises(ValueError, match=f"the client.*{ENDPOINTS[url]}"):
            S3Storage("bucket", client=client)


@pytest.mark.parametrize("url", ["127.0.0.1:9000", "s3.example.com"])
async def test_what_is_no_url_is_refused_wherever_it_comes_from(url, configured) -> None:
    with pytest.raises(ValueError, match="must begin with http"):
        S3Storage("bucket", endpoint_url=url)
    configured("AWS_ENDPOINT_URL_S3", url)
    with pytest.raises(StorageError, match="must begin with http") as caught:
        await S3Storage("bucket").open()
    assert "AWS_ENDPOINT_URL_S3" in str(caught.value)


@pytest.mark.parametrize(
    ("bucket", "url"),
    [
        ("minio", "http://minio.example.com"),
        ("s3", "https://s3.eu-west-1.amazonaws.com"),
        ("bucket", "https://bucket-gateway.example.com/other"),
        ("bucket", "https://s3.eu-west-1.amazonaws.com"),
    ],
)
async def test_an_endpoint_that_only_looks_like_the_bucket_s_is_none(
    bucket, url, configured
) -> None:
    configured("AWS_ENDPOINT_URL_S3", url)
    async with S3Storage(bucket):
        pass
    S3Storage(bucket, endpoint_url=url)


@pytest.mark.parametrize("bucket", ["", "my\nbucket", "my\u2028bucket"])
def test_a_bucket_whose_name_would_break_a_line_is_refused(bucket) -> None:
    with pytest.raises(ValueError, match="the name of a bucket"):
        S3Storage(bucket)


# Checksums.


@pytest.mark.parametrize("source", ["config", "AWS_REQUEST_CHECKSUM_CALCULATION", "borrowed"])
@pytest.mark.parametrize("wanted", ["when_required", "when_supported"])
async def test_write_carries_a_checksum_unless_told_not_to(
    wanted, source, s3_server, bucket, prefix, monkeypatch
) -> None:
    config = AioConfig(request_checksum_calculation=wanted)
    async with recording_proxy(s3_server.endpoint_url) as proxy:
        for name, value in s3_server.environment().items():
            monkeypatch.setenv(name, value)
        own = {"endpoint_url": proxy.endpoint_url}
        if source == "config":
            own["config"] = config
        elif source.startswith("AWS_"):
            monkeypatch.setenv(source, wanted)
        options = {**s3_server.client_options, "endpoint_url": proxy.endpoint_url}
        async with get_session().create_client("s3", config=config, **options) as client:
            if source == "borrowed":
                own = {"client": client}
            for direct in (True, False):
                async with S3Storage(bucket, prefix=prefix, direct=direct, **own) as storage:
                    for _ in range(2):
                        await OPERATIONS["save"](storage)
                    assert await OPERATIONS["load"](storage) == SNAPSHOT
                    assert (await storage.delete_session(session_id="s-1")).objects == 1
    writes = [request for request in proxy.requests if request.operation == "PutObject"]
    assert len(writes) == 4
    for request in writes:
        names = {name.lower() for name in request.headers}
        assert ("x-amz-checksum-crc32" in names) is (wanted == "when_supported")
        assert "x-amz-trailer" not in names
