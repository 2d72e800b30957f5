"""What a user reads who has made a mistake: one line that says what is wrong and what to do."""

import asyncio
import datetime as dt
import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import traceback
import uuid
from pathlib import Path
from types import SimpleNamespace

import botocore.auth
import pytest
from aiobotocore.config import AioConfig
from aiobotocore.session import get_session
from aiohttp import web

from scripted import Handler, serving
from snapstore import (
    AccessDeniedError,
    BucketNotFoundError,
    FileStorage,
    LifecycleError,
    PartialDeleteError,
    S3Storage,
    Snapshot,
    SnapshotLocation,
    StorageClosedError,
    StorageError,
    StorageTimeoutError,
    StorageUnavailableError,
    UnsupportedOperationError,
    WrongEventLoopError,
)
from snapstore.testing.server import create_bucket

LOCATION = SnapshotLocation.agent("session-1", "weather")
FOLDER = "session-1/scopes/agent/weather/snapshots"
LATEST = f"{FOLDER}/snapshot_latest.json"
SNAPSHOT = Snapshot.new({"text": "CANARY-SNAPSHOT"})
SECRET = "CANARY"
"""Is in all that no message may show: keys, tokens, passwords, snapshots."""
NOWHERE = "http://127.0.0.1:1"
TIMEOUT = 60
"""Seconds after which a test gives up on what would otherwise hang."""

OPERATIONS = {
    "load": lambda storage: storage.load_snapshot(location=LOCATION),
    "save": lambda storage: storage.save_snapshot(
        location=LOCATION, snapshot=SNAPSHOT, is_latest=True
    ),
    "checkpoint": lambda storage: storage.checkpoint(location=LOCATION, snapshot=SNAPSHOT),
    "list": lambda storage: storage.list_snapshot_ids(location=LOCATION),
    "delete": lambda storage: storage.delete_session(session_id="session-1"),
}
WITHOUT_SETTLING = ["load", "save", "list", "delete"]
"""Those whose outcome is known also where a request may have arrived."""


@pytest.fixture(autouse=True)
def configured(monkeypatch):
    """A region, credentials that no server knows, and no second try."""
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "CANARY-ID")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "CANARY-SECRET")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")


@pytest.fixture
def as_admin(s3_server, bucket, monkeypatch):
    """Credentials and endpoint of the real server."""
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    return s3_server


@pytest.fixture
def profile(monkeypatch, tmp_path):
    """Makes a profile and chooses it, instead of credentials in the environment."""

    def choose(text):
        (tmp_path / "config").write_text(f"[profile mine]\n{text}\n")
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
        monkeypatch.setenv("AWS_PROFILE", "mine")
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")

    return choose


async def complaint(work, kind, *words):
    """What an operation complains of: in one line, with these words, and without a secret."""
    with pytest.raises(kind) as caught:
        await work
    error = caught.value
    assert type(error) is kind
    message = str(error)
    assert message.splitlines() == [message]
    for word in words:
        assert word in message
    seen = "".join(traceback.format_exception(error))
    link: BaseException | None = error
    while link is not None:
        seen += f"{link!r} {link} {vars(link)} {link.args}"
        link = link.__cause__ or link.__context__
    assert SECRET not in seen
    return error


async def complaints(storage, kind, *words, operations=OPERATIONS):
    """What operations complain of; each message names the bucket, and the key if there is one."""
    for operation in operations:
        error = await complaint(OPERATIONS[operation](storage), kind, *words)
        assert error.bucket in str(error)
        assert error.key in str(error)
        assert "session-1/" in error.key


async def complaint_of_opening(storage, kind, *words):
    error = await complaint(storage.open(), kind, *words)
    assert error.bucket in str(error)
    with pytest.raises(StorageClosedError):
        await storage.load_snapshot(location=LOCATION)


def replying(status, code, more="", headers=None) -> Handler:
    """Answers as AWS does; without a code, or to a HEAD, there is no body."""

    async def handler(request: web.Request) -> web.Response:
        await request.read()
        body = f"<Error><Code>{code}</Code><Message>Told at length.</Message>{more}</Error>"
        return web.Response(
            status=status,
            text=body if code and request.method != "HEAD" else "",
            content_type="application/xml",
            headers=headers,
        )

    return handler


# Buckets.


async def test_a_bucket_that_does_not_exist(as_admin):
    async with S3Storage("no-such-bucket") as storage:
        await complaints(storage, BucketNotFoundError, "no-such-bucket", "check its name")


@pytest.mark.parametrize(
    ("bucket", "words"),
    [
        ("s3://my-bucket", "name alone"),
        ("my-bucket/prod", "prefix"),
        ("arn:aws:s3:::my-bucket", "name alone"),
    ],
)
def test_more_than_the_name_of_a_bucket(bucket, words):
    with pytest.raises(ValueError, match=words) as caught:
        S3Storage(bucket)
    assert repr(bucket) in str(caught.value)


@pytest.mark.parametrize("bucket", ["my bucket", "mybücket", "my-bucket!"])
async def test_what_can_not_be_the_name_of_a_bucket(bucket):
    async with S3Storage(bucket, endpoint_url=NOWHERE) as storage:
        await complaints(storage, StorageError, "can't be the name of a bucket", "check it")
        with pytest.raises(StorageError) as caught:
            await storage.load_snapshot(location=LOCATION)
        assert "regex" not in str(caught.value)


@pytest.mark.seaweedfs  # moto takes any name
async def test_what_the_server_takes_for_no_name_of_a_bucket(as_admin):
    async with S3Storage("b" * 70) as storage:
        await complaints(
            storage, StorageError, "can't be the name", "check it", operations=["save"]
        )


# Regions.


@pytest.mark.parametrize(
    ("reply", "hint"),
    [
        (
            replying(
                301,
                "PermanentRedirect",
                "<Endpoint>bucket.s3.eu-west-1.amazonaws.com</Endpoint><Bucket>bucket</Bucket>",
                {"x-amz-bucket-region": "eu-west-1"},
            ),
            "pass region='eu-west-1'",
        ),
        (replying(301, "PermanentRedirect"), "check region and endpoint_url"),
        (replying(301, "", headers={"x-amz-bucket-region": "eu-west-1"}), "region='eu-west-1'"),
        (replying(301, ""), "check region and endpoint_url"),
        (
            replying(400, "AuthorizationHeaderMalformed", "<Region>eu-west-1</Region>"),
            "pass region='eu-west-1'",
        ),
        (replying(400, "IllegalLocationConstraintException"), "check region and endpoint_url"),
    ],
    ids=["301", "301 without region", "301 without body", "301 bare", "malformed", "illegal"],
)
async def test_another_region_than_the_bucket_s(reply, hint):
    async with serving(reply) as url, S3Storage("bucket", endpoint_url=url) as storage:
        await complaints(storage, StorageError, "the bucket is elsewhere", hint)


async def test_a_region_that_the_server_names_is_used_from_then_on():
    signed_for = []

    async def handler(request: web.Request) -> web.StreamResponse:
        region = request.headers["Authorization"].split("/")[2]
        signed_for.append(region)
        named = {"x-amz-bucket-region": "eu-west-1"}
        known = region == "eu-west-1"
        reply = (
            replying(404, "NoSuchKey") if known else replying(301, "PermanentRedirect", "", named)
        )
        return await reply(request)

    async with serving(handler) as url, S3Storage("bucket", endpoint_url=url) as storage:
        assert await storage.load_snapshot(location=LOCATION) is None
        assert await storage.load_snapshot(location=LOCATION) is None
    # The first one was replayed, and then made by the client, which followed the name.
    assert signed_for == ["us-east-1", "us-east-1", "eu-west-1", "eu-west-1"]


async def test_no_region_at_all_or_one_that_is_none(monkeypatch):
    monkeypatch.delenv("AWS_REGION")
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    await complaint_of_opening(S3Storage("bucket", region="EU west 1"), StorageError, "'EU west 1'")


# Credentials.


async def test_no_credentials(monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    async with S3Storage("bucket", endpoint_url=NOWHERE) as storage:
        await complaints(
            storage,
            AccessDeniedError,
            "no credentials were found",
            "AWS_ACCESS_KEY_ID",
            "AWS_PROFILE",
            "session=",
        )


async def test_only_an_access_key(monkeypatch):
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    await complaint_of_opening(
        S3Storage("bucket"), AccessDeniedError, "incomplete", "AWS_SECRET_ACCESS_KEY"
    )


async def test_a_profile_that_does_not_exist(monkeypatch):
    monkeypatch.setenv("AWS_PROFILE", "no-such-profile")
    await complaint_of_opening(
        S3Storage("bucket"), StorageError, "no-such-profile", "check AWS_PROFILE"
    )


@pytest.mark.seaweedfs  # moto checks no credentials
@pytest.mark.parametrize(
    ("variable", "words"),
    [
        ("AWS_SECRET_ACCESS_KEY", ["the secret key is wrong", "check AWS_SECRET_ACCESS_KEY"]),
        ("AWS_ACCESS_KEY_ID", ["the access key is unknown", "check AWS_ACCESS_KEY_ID"]),
    ],
)
async def test_credentials_that_are_wrong(as_admin, monkeypatch, variable, words):
    monkeypatch.setenv(variable, "CANARY-WRONG")
    async with S3Storage("tests") as storage:
        await complaints(storage, AccessDeniedError, *words)


async def test_an_access_key_with_the_line_break_of_its_file(monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "CANARY-ID\n")
    async with (
        serving(replying(404, "NoSuchKey")) as url,
        S3Storage("bucket", endpoint_url=url) as storage,
    ):
        await complaints(storage, StorageError, "line break", "credentials")


@pytest.mark.parametrize(
    ("code", "more"),
    [
        ("ExpiredToken", "<Token-0>CANARY-TOKEN</Token-0>"),
        ("InvalidToken", "<Token-0>CANARY-TOKEN</Token-0>"),
        ("TokenRefreshRequired", ""),
    ],
)
async def test_a_session_token_that_has_expired(monkeypatch, code, more):
    monkeypatch.setenv("AWS_SESSION_TOKEN", "CANARY-TOKEN")
    async with (
        serving(replying(400, code, more)) as url,
        S3Storage("bucket", endpoint_url=url) as storage,
    ):
        await complaints(storage, AccessDeniedError, "session token", "renew", code)


PRINT_EXPIRED = """
import json
print(json.dumps({
    "Version": 1,
    "AccessKeyId": "CANARY-ID",
    "SecretAccessKey": "CANARY-SECRET",
    "SessionToken": "CANARY-TOKEN",
    "Expiration": "2020-01-01T00:00:00Z",
}))
"""


async def test_a_program_for_credentials_that_gives_expired_ones(profile, tmp_path):
    (tmp_path / "expired.py").write_text(PRINT_EXPIRED)
    profile(f"credential_process = {sys.executable} {tmp_path}/expired.py")
    async with S3Storage("bucket", endpoint_url=NOWHERE) as storage:
        await complaints(storage, AccessDeniedError, "expired", "renew")


@pytest.mark.parametrize(
    ("program", "kind", "words"),
    [
        ("sh -c 'echo CANARY-STDERR >&2; exit 1'", AccessDeniedError, "custom-process"),
        ("sh -c 'echo CANARY-STDOUT'", StorageError, "AWS configuration"),
        ("no-such-program", StorageError, "no-such-program"),
    ],
    ids=["fails", "prints nonsense", "is missing"],
)
async def test_a_program_for_credentials_that_gives_none(profile, program, kind, words):
    profile(f"credential_process = {program}")
    await complaint_of_opening(S3Storage("bucket", endpoint_url=NOWHERE), kind, words, "check")


async def test_nobody_has_logged_in(profile):
    profile(
        "sso_session = snapstore-has-no-such-session\n"
        "sso_account_id = 123456789012\n"
        "sso_role_name = role\n"
        "[sso-session snapstore-has-no-such-session]\n"
        "sso_start_url = http://127.0.0.1:1/start\n"
        "sso_region = us-east-1"
    )
    async with S3Storage("bucket", endpoint_url=NOWHERE) as storage:
        await complaints(storage, AccessDeniedError, "aws sso login")


@pytest.mark.parametrize(
    ("status", "code"),
    [(403, "AccessDenied"), (400, "ExpiredToken"), (403, "InvalidClientTokenId")],
)
async def test_a_role_that_may_not_be_assumed(profile, monkeypatch, status, code):
    profile(
        "role_arn = arn:aws:iam::123456789012:role/r\n"
        "source_profile = source\n"
        "[profile source]\n"
        "aws_access_key_id = CANARY-ID\n"
        "aws_secret_access_key = CANARY-SECRET"
    )

    async def refuse(request: web.Request) -> web.Response:
        error = f"<Error><Code>{code}</Code><Message>CANARY-ID may not.</Message></Error>"
        return web.Response(status=status, text=f"<ErrorResponse>{error}</ErrorResponse>")

    async with serving(refuse) as url, S3Storage("bucket", endpoint_url=NOWHERE) as storage:
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", url)
        for operation in OPERATIONS.values():
            refused = operation(storage)
            error = await complaint(refused, AccessDeniedError, "AssumeRole", code, "check")
            assert "s3:" not in str(error)


async def test_a_configuration_file_that_can_not_be_read(monkeypatch, tmp_path):
    (tmp_path / "config").write_text("[profile mine\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    await complaint_of_opening(S3Storage("bucket"), StorageError, str(tmp_path / "config"))


@pytest.mark.seaweedfs  # moto looks at no clock
@pytest.mark.parametrize("hours", [-1, 1])
async def test_a_clock_that_is_an_hour_off(as_admin, monkeypatch, hours):
    now, off = botocore.auth.get_current_datetime, dt.timedelta(hours=hours)
    monkeypatch.setattr(
        botocore.auth, "get_current_datetime", lambda *args, **options: now(*args, **options) + off
    )
    clock = SimpleNamespace(
        strftime=time.strftime,
        gmtime=time.gmtime,
        time=lambda: time.time() + off.total_seconds(),
    )
    monkeypatch.setattr("snapstore.stores.s3.signing.time", clock)
    async with S3Storage("tests") as storage:
        await complaints(storage, AccessDeniedError, "clock", "set it")


# Permissions.


@pytest.fixture
async def denying(as_admin, s3_client, monkeypatch):
    """A bucket of its own where the second identity is refused an action."""

    async def deny(action):
        name = f"denied-{uuid.uuid4().hex}"
        create_bucket(as_admin, name)
        statement = {
            "Effect": "Deny",
            "Principal": "*",
            "Action": action,
            "Resource": [f"arn:aws:s3:::{name}", f"arn:aws:s3:::{name}/*"],
        }
        policy = {"Version": "2012-10-17", "Statement": [statement]}
        await s3_client.put_object(Bucket=name, Key=LATEST, Body=b"{}")
        await s3_client.put_bucket_policy(Bucket=name, Policy=json.dumps(policy))
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "limited")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "limited-secret")
        return name

    return deny


@pytest.mark.seaweedfs  # moto checks no permissions
@pytest.mark.parametrize(
    ("action", "operations", "words"),
    [
        ("s3:GetObject", ["load"], ["s3:GetObject", "s3:ListBucket"]),
        ("s3:PutObject", ["save", "checkpoint"], ["s3:PutObject"]),
        ("s3:ListBucket", ["list", "delete"], ["s3:ListBucket"]),
    ],
)
async def test_a_permission_that_is_missing(denying, action, operations, words):
    async with S3Storage(await denying(action)) as storage:
        await complaints(storage, AccessDeniedError, "access denied", *words, operations=operations)


@pytest.mark.seaweedfs  # moto checks no permissions
async def test_a_missing_permission_to_delete(denying):
    bucket = await denying("s3:DeleteObject")
    async with S3Storage(bucket) as storage:
        error = await complaint(
            storage.delete_session(session_id="session-1"),
            PartialDeleteError,
            "1 of 1",
            bucket,
            LATEST,
            "AccessDenied",
        )
    assert error.failed == {LATEST: "AccessDenied"}


# Where the server is.


async def test_a_server_that_is_down():
    async with S3Storage("bucket", endpoint_url=NOWHERE) as storage:
        await complaints(storage, StorageUnavailableError, NOWHERE, "refused", "check endpoint_url")


async def test_a_host_that_does_not_exist(monkeypatch):
    def resolve(host, *args, **options):
        assert host == "no-such-host.invalid"
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    url = "http://no-such-host.invalid:9000"
    async with S3Storage("bucket", endpoint_url=url) as storage:
        await complaints(storage, StorageUnavailableError, url, "not known", "check endpoint_url")


async def test_a_proxy_that_is_down(monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://user:CANARY-PASSWORD@127.0.0.1:1")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    async with S3Storage("bucket", endpoint_url="http://s3.invalid") as storage:
        await complaints(
            storage, StorageUnavailableError, "proxy", "http://127.0.0.1:1", "check HTTP_PROXY"
        )


async def never(request: web.Request) -> web.StreamResponse:
    await asyncio.sleep(TIMEOUT)
    raise AssertionError


async def test_a_server_that_never_answers(bring_deadlines_forward):
    async def never_in_time(request: web.Request) -> web.StreamResponse:
        bring_deadlines_forward()
        return await never(request)

    async with (
        serving(never_in_time) as url,
        S3Storage("bucket", endpoint_url=url, timeout=60.5) as storage,
    ):
        await complaints(storage, StorageTimeoutError, "60.5 s", "timeout=")


async def test_a_server_that_outlasts_the_read_timeout():
    config = AioConfig(read_timeout=0.1, retries={"total_max_attempts": 1})
    async with (
        serving(never) as url,
        S3Storage("bucket", endpoint_url=url, config=config) as storage,
    ):
        await complaints(
            storage, StorageTimeoutError, "read_timeout", operations=["load", "save", "list"]
        )


@pytest.mark.parametrize(
    ("endpoint_url", "words"),
    [
        ("http://", "host"),
        ("http://user:CANARY-PASSWORD@127.0.0.1:1", "password"),
        ("http://127.0.0.1:1/bucket", "bucket"),
    ],
)
def test_endpoint_url_that_is_no_url_is_an_error(endpoint_url, words):
    with pytest.raises(ValueError, match="endpoint_url") as caught:
        S3Storage("bucket", endpoint_url=endpoint_url)
    assert words in str(caught.value)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (404, "", StorageError),
        (405, "MethodNotAllowed", UnsupportedOperationError),
        (400, "", StorageError),
    ],
)
async def test_a_server_that_does_not_speak_s3(status, code, kind):
    async with (
        serving(replying(status, code)) as url,
        S3Storage("bucket", endpoint_url=url) as storage,
    ):
        await complaints(storage, kind, "check endpoint_url")


@pytest.mark.parametrize(("status", "code"), [(500, "InternalError"), (503, "SlowDown")])
async def test_a_server_that_fails(status, code):
    async with (
        serving(replying(status, code)) as url,
        S3Storage("bucket", endpoint_url=url) as storage,
    ):
        await complaints(
            storage,
            StorageUnavailableError,
            f"{status} {code}",
            "again later",
            operations=WITHOUT_SETTLING,
        )


# TLS. The key is for nothing else, and the certificate is good for 127.0.0.1 until 2120.

CERTIFICATE = """\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgtf1LhNURqheMiyeH
VKVvRLNsOSPvbXHDHmSW84f24vChRANCAATNf3oqTnn2i7udE7QEwCvDHk8QL+2P
bNlABMMCuW09rLQl40NflOVsQSxruKOrdeejP5qkMf1b0zo5PkyYIuzN
-----END PRIVATE KEY-----
-----BEGIN CERTIFICATE-----
MIIBbzCCARWgAwIBAgIUXZum7ATWa6fRSXntsCsyEh5GxEMwCgYIKoZIzj0EAwIw
FDESMBAGA1UEAwwJMTI3LjAuMC4xMCAXDTIwMDEwMTAwMDAwMFoYDzIxMjAwMTAx
MDAwMDAwWjAUMRIwEAYDVQQDDAkxMjcuMC4wLjEwWTATBgcqhkjOPQIBBggqhkjO
PQMBBwNCAATNf3oqTnn2i7udE7QEwCvDHk8QL+2PbNlABMMCuW09rLQl40NflOVs
QSxruKOrdeejP5qkMf1b0zo5PkyYIuzNo0MwQTAPBgNVHREECDAGhwR/AAABMA8G
A1UdEwEB/wQFMAMBAf8wHQYDVR0OBBYEFIl4wN8mHDO5E36mDXNehw9MUF4IMAoG
CCqGSM49BAMCA0gAMEUCIAbcvr7sUNdFcsdq5KnuH5ycefFXhFlb3NpoWCfuQIVC
AiEA8tEb0m8VeAnk1rgjGtF1+RPTW0eqN+53wojfJYxJYs4=
-----END CERTIFICATE-----
"""


@pytest.fixture
async def over_tls(tmp_path):
    """The URL of a server whose certificate nobody has signed but itself; where to find that."""
    (tmp_path / "server.pem").write_text(CERTIFICATE)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(tmp_path / "server.pem")
    async with serving(replying(404, "NoSuchKey"), tls=tls) as url:
        yield url, str(tmp_path / "server.pem")


async def test_a_certificate_that_nobody_knows(over_tls, monkeypatch):
    url, certificate = over_tls
    async with S3Storage("bucket", endpoint_url=url) as storage:
        await complaints(
            storage,
            StorageUnavailableError,
            url,
            "not trusted",
            "signed certificate",
            "AWS_CA_BUNDLE",
        )
    # What the message says is of help.
    monkeypatch.setenv("AWS_CA_BUNDLE", certificate)
    async with S3Storage("bucket", endpoint_url=url) as storage:
        assert await storage.load_snapshot(location=LOCATION) is None


async def test_a_certificate_for_another_host(over_tls, monkeypatch):
    url, certificate = over_tls
    monkeypatch.setenv("AWS_CA_BUNDLE", certificate)
    url = url.replace("127.0.0.1", "localhost")
    async with S3Storage("bucket", endpoint_url=url) as storage:
        await complaints(storage, StorageUnavailableError, url, "certificate", "localhost")


async def test_a_file_of_certificates_that_does_not_exist(over_tls, monkeypatch, tmp_path):
    monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "none.pem"))
    async with S3Storage("bucket", endpoint_url=over_tls[0]) as storage:
        await complaints(storage, StorageError, "AWS_CA_BUNDLE")


async def test_http_where_the_server_speaks_tls(over_tls):
    url = over_tls[0].replace("https", "http")
    async with S3Storage("bucket", endpoint_url=url) as storage:
        await complaints(
            storage,
            StorageUnavailableError,
            url,
            "https://",
            operations=WITHOUT_SETTLING,
        )


async def test_tls_where_the_server_speaks_http():
    async with serving(replying(404, "NoSuchKey")) as plain:
        url = plain.replace("http", "https")
        async with S3Storage("bucket", endpoint_url=url) as storage:
            await complaints(storage, StorageUnavailableError, url, "TLS", "http://")


# Out of turn.


async def test_a_storage_that_is_not_open():
    storage = S3Storage("bucket", endpoint_url=NOWHERE)
    for moment in ("before", "after"):
        for operation in OPERATIONS.values():
            await complaint(operation(storage), StorageClosedError, "async with", "open()")
        if moment == "before":
            async with storage:
                await complaint(storage.open(), LifecycleError, "already open")


async def test_a_storage_of_another_loop():
    async with S3Storage("bucket", endpoint_url=NOWHERE) as storage:
        for operation in OPERATIONS.values():
            use = complaint(operation(storage), WrongEventLoopError, "one storage for each loop")
            await asyncio.to_thread(asyncio.run, use)


async def test_a_borrowed_client_that_was_closed():
    async with serving(replying(404, "NoSuchKey")) as url:
        async with get_session().create_client("s3", endpoint_url=url) as client:
            storage = S3Storage("bucket", client=client)
            async with storage:
                assert await storage.load_snapshot(location=LOCATION) is None
        async with storage:
            await complaints(
                storage, StorageError, "client", "closed", "event loop", operations=WITHOUT_SETTLING
            )


# Files.

TRIAL = """
import asyncio, concurrent.futures.thread, json, os, resource, signal, sys
from snapstore import FileStorage, Snapshot, SnapshotLocation, SnapstoreError

root = sys.argv[1]
location = SnapshotLocation.agent("session-1", "weather")

def save(storage, n, size=0):
    data = {"n": n, "text": "x" * size}
    snapshot = Snapshot("agent", "1.0", "2026-11-22T11:13:20.395Z", data, {})
    return storage.save_snapshot(location=location, snapshot=snapshot, is_latest=True)

async def saved(storage):
    snapshot = await storage.load_snapshot(location=location)
    return snapshot and snapshot.data["n"]

async def tell(work):
    try:
        await work
    except SnapstoreError as error:
        told = [type(error).__name__, str(error), error.code, error.key]
    else:
        told = None
    print(json.dumps(told), flush=True)

def files():
    return sorted(
        os.path.join(os.path.relpath(folder, root), name)
        for folder, _, names in os.walk(root)
        for name in names
        if os.path.getsize(os.path.join(folder, name))
    )
"""
AS_NOBODY = """
async def main():
    if os.getuid() == 0:  # the superuser may write everywhere
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
    async with FileStorage(root) as storage:
        await tell(save(storage, 2))
        await tell(storage.delete_session(session_id="session-1"))
        await tell(storage.load_snapshot(location=location))

asyncio.run(main())
"""
ON_A_FULL_DISK = """
async def main():
    async with FileStorage(root) as storage:
        await save(storage, 1)
        before = files()
        if sys.argv[2] == "disk":
            ballast = os.path.join(os.path.dirname(root), "ballast")
            with open(ballast, "wb") as file:
                file.write(bytes(3 * 2**20))
        else:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
            resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, hard))
        await tell(save(storage, 2, size=2 * 2**20))
        assert files() == before
        assert await saved(storage) == 1
        if sys.argv[2] == "disk":
            os.unlink(ballast)
        else:
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        await tell(save(storage, 3, size=2 * 2**20))
        assert await saved(storage) == 3
        assert files() == before

asyncio.run(main())
"""
WITH_FEW_FILES = """
async def main():
    async with FileStorage(root) as storage:
        await tell(save(storage, 1))
        before = files()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        # The lowest number that is free is the next one to be given.
        free = os.dup(0)
        os.close(free)
        await storage.list_snapshot_ids(location=location)
        for more in range(8):
            resource.setrlimit(resource.RLIMIT_NOFILE, (free + more, hard))
            await tell(save(storage, 2))
            await tell(save(storage, 2, size=10))
            await tell(storage.load_snapshot(location=location))
            await tell(storage.list_snapshot_ids(location=location))
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            assert files() == before
            assert await saved(storage) in (1, 2)
        await tell(save(storage, 3))
        assert await saved(storage) == 3

asyncio.run(main())
"""


def told_by(script, *arguments, within=()):
    """What a process of its own tells of its operations: errors, or `None`."""
    command = [*within, sys.executable, "-c", TRIAL + script, *map(str, arguments)]
    # Whoever may not write here can't write down what was covered either.
    environment = {name: os.environ[name] for name in os.environ if name[:9] != "COVERAGE_"}
    run = subprocess.run(
        command, capture_output=True, text=True, timeout=TIMEOUT, check=False, env=environment
    )
    assert (run.returncode, run.stderr) == (0, "")
    told = [json.loads(line) for line in run.stdout.splitlines()]
    for error in filter(None, told):
        assert error[1].splitlines() == [error[1]]
        assert SECRET not in error[1]
    return told


@pytest.mark.parametrize("below", ["", "/below"])
async def test_a_root_that_is_a_file(tmp_path, below):
    (tmp_path / "file").write_text("mine")
    root = str(tmp_path / "file") + below
    async with FileStorage(root) as storage:
        for operation in OPERATIONS.values():
            await complaint(operation(storage), StorageError, root, "is not a directory", "another")
        with pytest.raises(StorageError) as caught:
            await OPERATIONS["save"](storage)
        assert caught.value.outcome == "not applied"
    assert (tmp_path / "file").read_text() == "mine"


@pytest.fixture
def open_to_all():
    """A folder that others may enter, as they may not enter `tmp_path`."""
    # Not in TMPDIR, which may lie in a folder that is closed to others.
    with tempfile.TemporaryDirectory(prefix="snapstore-", dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


async def test_a_root_that_may_not_be_written(open_to_all):
    root = open_to_all / "root"
    async with FileStorage(root) as storage:
        await storage.save_snapshot(location=LOCATION, snapshot=SNAPSHOT, is_latest=True)
    before = {path: path.stat().st_mode for path in [root, *root.rglob("*")]}
    try:
        for path in before:
            path.chmod(0o555 if path.is_dir() else 0o444)
        saved, deleted, loaded = told_by(AS_NOBODY, root)
    finally:
        for path, mode in before.items():
            path.chmod(mode)
    for kind, message, code, key in (saved, deleted):
        assert (kind, code, key) == ("AccessDeniedError", "EACCES", LATEST)
        assert "permission" in message.lower()
        assert "check its owner and mode" in message
        assert f"{(root / LATEST).parent} belongs to user {os.getuid()} with mode 0555" in message
        assert LATEST in message
    assert loaded is None
    assert {path: path.stat().st_mode for path in [root, *root.rglob("*")]} == before


def test_a_disk_that_is_full(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = f"mount -t tmpfs -o size=4m tmpfs '{disk}'"
    alone = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    may_mount = shutil.which("unshare") is not None and not subprocess.call(
        [*alone, mount], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    if may_mount:
        within = [*alone, f'{mount} && exec "$@"', "sh"]
        refused, later = told_by(ON_A_FULL_DISK, disk / "root", "disk", within=within)
        code, words = "ENOSPC", "the disk is full"
    else:
        refused, later = told_by(ON_A_FULL_DISK, disk / "root", "limit")
        code, words = "EFBIG", "File too large"
    assert refused[0] == "StorageError"
    assert refused[2:] == [code, LATEST]
    for word in (words, str(disk / "root"), LATEST):
        assert word in refused[1]
    if may_mount:
        assert "free some space" in refused[1]
    assert later is None


def test_too_many_open_files(tmp_path):
    first, *tries, last = told_by(WITH_FEW_FILES, tmp_path / "root")
    assert first is None
    assert last is None
    errors = [told for told in tries if told is not None]
    assert errors
    assert len(errors) < len(tries)
    for kind, message, code, key in errors:
        assert (kind, code) == ("StorageError", "EMFILE")
        assert "too many open files" in message
        assert "ulimit -n" in message
        assert key in message
        assert str(tmp_path / "root") in message
