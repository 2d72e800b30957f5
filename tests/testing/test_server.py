"""The S3 servers that tests and the demo run on: they answer, keep to themselves, and end."""

import asyncio
import contextlib
import dataclasses
import importlib.util
import os
import shlex
import signal
import socket
import subprocess
import sys
import sysconfig
import threading
import time
from pathlib import Path

import pytest
from aiobotocore.session import get_session
from botocore.exceptions import ClientError

from snapstore.testing import engines
from snapstore.testing import server as module
from snapstore.testing.server import ServerUnavailableError, create_bucket, running_server

ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(module.__file__).parents[2])}


ON_LINUX = sys.platform == "linux"


@pytest.fixture
def engine(request):
    """The engine that the tests are run on."""
    return request.config.getoption("--s3-server")


@pytest.fixture
def scripts(tmp_path, monkeypatch):
    """An environment's directory for programs, empty."""
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path / name))
    (tmp_path / "scripts").mkdir()
    return tmp_path / "scripts"


def write_weed(scripts, *lines):
    (scripts / "weed").write_text("\n".join(["#!/bin/sh", *lines, ""]))
    (scripts / "weed").chmod(0o755)


def put_and_get(options, bucket, **arguments):
    async def run():
        async with get_session().create_client("s3", **options) as client:
            put = await client.put_object(Bucket=bucket, Key="a/key", Body=b"text", **arguments)
            got = await client.get_object(Bucket=bucket, Key="a/key")
            async with got["Body"] as body:
                return put, await body.read()

    return asyncio.run(run())


def is_running(group):
    """Whether a process of a group is left that has not ended."""
    if ON_LINUX:
        return any(members_of(group))
    try:
        os.killpg(group, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def members_of(group):
    """The processes of a group: (id, name). In a container nobody may collect those that ended."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            pid, _, rest = path.read_text().partition(" (")
            name, _, fields = rest.rpartition(") ")
            state, _, its_group = fields.split()[:3]
            if int(its_group) == group and state != "Z":
                yield int(pid), name


def wait_until(condition, timeout=15.0):
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def sockets_of(server):
    port = int(server.endpoint_url.rpartition(":")[2])
    return [
        path for number in (port, port + 10_000) for path in Path("/tmp").glob(f"*-{number}.sock")
    ]


def has_left_nothing(server):
    return not (is_running(server.pid) or server.log.parent.exists() or sockets_of(server))


def listening_addresses(pid):
    inodes = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            inodes.add(str(descriptor.readlink()).removeprefix("socket:[").removesuffix("]"))
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            _, address, _, state, *_, inode = line.split()[:10]
            if state == "0A" and inode in inodes:
                host, port = address.split(":")
                yield host, int(port, 16)


def test_a_server_stores_what_a_signed_request_puts(s3_server):
    create_bucket(s3_server, "stores")
    assert put_and_get(s3_server.client_options, "stores")[1] == b"text"


@pytest.mark.seaweedfs  # moto checks no credentials
@pytest.mark.ceph
def test_a_wrong_secret_is_refused(s3_server):
    create_bucket(s3_server, "wrong-secret")
    with pytest.raises(ClientError, match="SignatureDoesNotMatch"):
        put_and_get(s3_server.client_options | {"aws_secret_access_key": "wrong"}, "wrong-secret")


@pytest.mark.seaweedfs
def test_limited_identity_creates_no_buckets(s3_server):
    create_bucket(s3_server, "limited")
    limited = dataclasses.replace(s3_server, access_key="limited", secret_key="limited-secret")
    assert put_and_get(limited.client_options, "limited")[1] == b"text"
    with pytest.raises(ClientError, match="AccessDenied"):
        create_bucket(limited, "limited-too")


@pytest.mark.seaweedfs  # Ceph has no key for it
@pytest.mark.moto
def test_server_side_encryption_works(s3_server):
    create_bucket(s3_server, "encrypted")
    put, body = put_and_get(s3_server.client_options, "encrypted", ServerSideEncryption="AES256")
    assert (put["ServerSideEncryption"], body) == ("AES256", b"text")


def test_a_bucket_that_nobody_created_does_not_exist(s3_server):
    with pytest.raises(ClientError, match="NoSuchBucket"):
        put_and_get(s3_server.client_options, "never-created")


def test_a_bucket_can_be_created_while_a_loop_runs(s3_server):
    async def create():
        create_bucket(s3_server, "from-a-loop")

    asyncio.run(create())
    assert put_and_get(s3_server.client_options, "from-a-loop")[1] == b"text"


RUBBISH = (
    "AWS_ACCOUNT_ID_ENDPOINT_MODE",
    "AWS_CA_BUNDLE",
    "AWS_CONFIG_FILE",
    "AWS_DEFAULTS_MODE",
    "AWS_MAX_ATTEMPTS",
    "AWS_PROFILE",
    "AWS_REGION",
    "AWS_REQUEST_CHECKSUM_CALCULATION",
    "AWS_REQUEST_MIN_COMPRESSION_SIZE_BYTES",
    "AWS_RESPONSE_CHECKSUM_VALIDATION",
    "AWS_RETRY_MODE",
    "AWS_S3_DISABLE_EXPRESS_SESSION_AUTH",
    "AWS_S3_US_EAST_1_REGIONAL_ENDPOINT",
    "AWS_SHARED_CREDENTIALS_FILE",
    "AWS_STS_REGIONAL_ENDPOINTS",
    "REQUESTS_CA_BUNDLE",
)


@pytest.mark.parametrize("name", RUBBISH)
def test_a_bucket_is_created_whatever_is_set_on_this_machine(s3_server, monkeypatch, name):
    monkeypatch.setenv(name, "rubbish of this machine")
    create_bucket(s3_server, f"any-{name.lower().replace('_', '-')}")


def test_server_reads_no_settings_of_the_machine(s3_server, tmp_path):
    (tmp_path / ".aws" / "models" / "s3" / "2006-03-01").mkdir(parents=True)
    for name in ("config", "credentials", "models/s3/2006-03-01/service-2.json"):
        (tmp_path / ".aws" / name).write_text("[rubbish")
    program = """
import asyncio
from snapstore import S3Storage
from snapstore.testing.server import S3Server, create_bucket
server = S3Server(*{}, 0, None)
create_bucket(server, "rubbish")

async def check():
    async with S3Storage("rubbish", **server.storage_options) as storage:
        assert (await storage.check()).ok

asyncio.run(check())
"""
    reached = (s3_server.endpoint_url, s3_server.access_key, s3_server.secret_key, s3_server.region)
    proxies = dict.fromkeys(["HTTP_PROXY", "http_proxy", "ALL_PROXY"], "http://127.0.0.1:1")
    # The two files can't be found by their variables: then they are looked for at home.
    rubbish = dict.fromkeys({*RUBBISH} - {"AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"}, "[")
    hidden = {name: value for name, value in ENVIRONMENT.items() if not name.startswith("AWS_")}
    subprocess.run(
        [sys.executable, "-W", "error", "-c", program.format(reached)],
        env=hidden | rubbish | proxies | {"HOME": str(tmp_path), "AWS_ENDPOINT_URL_S3": "["},
        check=True,
    )


@pytest.mark.seaweedfs  # the others let the owner create it again
def test_a_bucket_that_exists_is_not_created_again(s3_server):
    create_bucket(s3_server, "twice")
    with pytest.raises(ClientError, match="BucketAlready"):
        create_bucket(s3_server, "twice")


def test_another_program_finds_the_server_by_its_environment(s3_server):
    create_bucket(s3_server, "environment")
    code = (
        "import botocore.session as s; s.get_session().create_client('s3').head_bucket(Bucket=%r)"
    )
    command = [sys.executable, "-c", code % "environment"]
    subprocess.run(command, env=ENVIRONMENT | s3_server.environment(), check=True)


@pytest.mark.skipif(not ON_LINUX, reason="reads /proc")
def test_a_server_listens_on_loopback_only(s3_server):
    seen = set()
    for _ in range(20):  # what isn't needed to answer may start a little later
        for pid, _ in members_of(s3_server.pid):
            seen |= set(listening_addresses(pid))
        time.sleep(0.05)
    assert int(s3_server.endpoint_url.rpartition(":")[2]) in {port for _, port in seen}
    assert {host for host, _ in seen} == {"0100007F"}


def test_ctrl_c_in_the_terminal_does_not_reach_the_server(s3_server):
    assert os.getsid(s3_server.pid) != os.getsid(0)


@pytest.mark.swift
def test_swift_stores_objects_but_refuses_if_match(s3_server):
    create_bucket(s3_server, "no-if-match")
    put, body = put_and_get(s3_server.client_options, "no-if-match")
    assert body == b"text"
    options = s3_server.client_options
    with pytest.raises(ClientError, match="NotImplemented"):
        put_and_get(options, "no-if-match", IfMatch=put["ETag"])


@pytest.mark.ceph
@pytest.mark.parametrize("daemon", ["ceph-mon", "ceph-osd"])
def test_ceph_ends_when_one_of_its_daemons_does(engine, daemon):
    with running_server(engine) as server:
        [pid] = [pid for pid, name in members_of(server.pid) if name == daemon]
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not is_running(server.pid))


def test_two_servers_run_side_by_side_and_leave_nothing_behind(s3_server, engine):
    with running_server(engine) as other:
        create_bucket(s3_server, "side-by-side")
        create_bucket(other, "side-by-side")
        assert bool(sockets_of(other)) == (engine == "seaweedfs")
        assert not has_left_nothing(other)
    assert has_left_nothing(other)
    assert put_and_get(s3_server.client_options, "side-by-side")[1] == b"text"


@pytest.mark.s3
def test_a_server_is_stopped_when_its_block_fails(engine):
    with pytest.raises(ZeroDivisionError), running_server(engine) as server:
        _ = 1 / 0
    assert has_left_nothing(server)


@pytest.mark.s3
def test_a_server_outlives_the_thread_that_started_it(engine):
    started = []
    with contextlib.ExitStack() as stack:
        thread = threading.Thread(
            target=lambda: started.append(stack.enter_context(running_server(engine)))
        )
        thread.start()
        thread.join()
        create_bucket(started[0], "other-thread")


@pytest.mark.s3
def test_a_starter_that_is_killed_leaves_nothing_behind(engine):
    code = """
import sys, time
from snapstore.testing.server import running_server
with running_server(sys.argv[1]) as server:
    print(server.pid, server.log, server.endpoint_url, flush=True)
    time.sleep(600)
"""
    with subprocess.Popen(
        [sys.executable, "-c", code, engine], stdout=subprocess.PIPE, text=True, env=ENVIRONMENT
    ) as starter:
        pid, log, url = starter.stdout.readline().split()
        server = module.S3Server(url, "", "", "", int(pid), Path(log))
        assert is_running(server.pid)
        starter.kill()
    wait_until(lambda: has_left_nothing(server))


def test_a_missing_binary_names_the_extra_and_the_alternative(scripts, monkeypatch):
    monkeypatch.setenv("PATH", str(scripts))
    with pytest.raises(ServerUnavailableError) as caught, running_server():
        pass
    assert 'pip install "snapstore[server]"' in str(caught.value)
    assert 'running_server("moto")' in str(caught.value)
    assert 'pip install "moto[server,s3]"' in str(caught.value)


@pytest.mark.parametrize(
    ("engine", "packages"),
    [
        ("moto", 'pip install "moto[server,s3]"'),
        ("swift", "pip install swift lxml"),
        ("ceph", "apt-get install --no-install-recommends radosgw ceph-osd ceph-mon"),
    ],
)
def test_what_is_missing_says_how_to_install_it(engine, packages, scripts, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("PATH", str(scripts))
    with pytest.raises(ServerUnavailableError) as caught, running_server(engine):
        pass
    assert packages in str(caught.value)


def test_server_that_ends_at_once_is_reported_with_its_log(scripts):
    write_weed(scripts, "for i in $(seq 1 100); do echo line $i; done", "exit 3")
    began = time.monotonic()
    with pytest.raises(ServerUnavailableError, match="exit status 3") as caught, running_server():
        pass
    assert time.monotonic() - began < 20
    assert str(caught.value).splitlines()[1:] == [f"line {i}" for i in range(81, 101)]


def test_the_machines_settings_do_not_reach_the_server(scripts, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "from-this-machine")
    monkeypatch.setenv("HTTP_PROXY", "from-this-machine")
    write_weed(scripts, "env; echo; exit 1")
    with pytest.raises(ServerUnavailableError, match="\nHOME=") as caught, running_server():
        pass
    assert "from-this-machine" not in str(caught.value)
    assert f"HOME={Path.home()}\n" not in str(caught.value)


@pytest.mark.seaweedfs
def test_other_ports_are_tried_when_one_was_taken_meanwhile(scripts, tmp_path):
    weed = Path(sys.executable).with_name("weed")
    write_weed(
        scripts,
        f'if [ -e {tmp_path}/tried ]; then exec {weed} "$@"; fi',
        f"touch {tmp_path}/tried",
        "echo listen tcp 127.0.0.1:1: bind: address already in use; exit 1",
    )
    with running_server() as server:
        create_bucket(server, "other-ports")


@pytest.mark.ceph
@pytest.mark.parametrize("taken", ["by the gateway", "by the monitor"])
def test_ceph_tries_other_ports_when_one_was_taken_meanwhile(engine, taken, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as other:
        [free] = engines._free_ports(1)  # noqa: SLF001 -- nobody else chooses them
        first = [other.getsockname()[1], free]
        choices = [first if taken == "by the gateway" else first[::-1], engines._free_ports(2)]  # noqa: SLF001
        monkeypatch.setattr(engines, "_free_ports", lambda count: choices.pop(0))
        with running_server(engine) as server:
            create_bucket(server, "other-ports")
    assert not choices


def test_a_server_that_finds_no_free_port_is_given_up(scripts, tmp_path):
    write_weed(scripts, f"echo >> {tmp_path}/tried", "echo address already in use; exit 1")
    with pytest.raises(ServerUnavailableError, match="address already in use"), running_server():
        pass
    assert (tmp_path / "tried").read_text().count("\n") == 5


def test_server_never_ready_that_ignores_sigterm_is_killed(scripts, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_START_TIMEOUT", 0.5)
    write_weed(
        scripts,
        "trap '' TERM",
        f"echo $$ > {tmp_path}/pid; echo thinking",
        "while :; do sleep 0.1; done",
    )
    with (
        pytest.raises(ServerUnavailableError, match=r"0\.5 s; its log:\nthinking"),
        running_server(),
    ):
        pass
    assert not is_running(int((tmp_path / "pid").read_text()))


@contextlib.contextmanager
def command(*arguments):
    with subprocess.Popen(
        [sys.executable, "-m", "snapstore.testing.server", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def read_settings(process):
    settings = {}
    for line in process.stdout:
        if line.startswith("#"):
            assert "Ctrl-C" in line
            return settings, int(line.partition("process ")[2].partition(";")[0])
        export, assignment = shlex.split(line)
        assert export == "export"
        name, _, settings[name] = assignment.partition("=")
    raise AssertionError(process.stderr.read())


@pytest.mark.s3
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_command_prints_settings_that_work_until_stopped(number, engine):
    with command("--engine", engine, "--bucket", "demo") as process:
        settings, pid = read_settings(process)
        options = {
            "endpoint_url": settings["AWS_ENDPOINT_URL_S3"],
            "aws_access_key_id": settings["AWS_ACCESS_KEY_ID"],
            "aws_secret_access_key": settings["AWS_SECRET_ACCESS_KEY"],
            "region_name": settings["AWS_REGION"],
        }
        assert put_and_get(options, "demo")[1] == b"text"
        process.send_signal(number)
        _, errors = process.communicate(timeout=30)
        assert (process.returncode, errors) == (0, "")
    assert not is_running(pid)


@pytest.mark.s3
def test_the_command_fails_with_the_log_when_its_server_dies(engine):
    with command("--engine", engine) as process:
        _, pid = read_settings(process)
        os.kill(pid, signal.SIGKILL)
        _, errors = process.communicate(timeout=30)
        assert process.returncode == 1
        first, *log = errors.splitlines()
        assert first == f"{engine} ended with exit status {-signal.SIGKILL}; its log:"
        assert 0 < len(log) <= 20


def test_command_fails_in_one_line_without_the_server(tmp_path):
    code = (
        "import sys, sysconfig; sysconfig.get_path = lambda name: ''\n"
        "from snapstore.testing.server import main; sys.exit(main([]))"
    )
    environment = ENVIRONMENT | {"PATH": str(tmp_path)}
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stdout) == (1, "")
    assert "snapstore[server]" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.s3
@pytest.mark.parametrize("name", ["h2", "a b", "", "x" * 80])
def test_command_fails_in_one_line_without_its_bucket(name, engine):
    with command("--engine", engine, "--bucket", name) as process:
        printed, errors = process.communicate(timeout=60)
        assert (process.returncode, printed) == (1, "")
    assert errors.startswith("python -m snapstore.testing.server: ")
    assert "bucket" in errors.lower()
    assert errors.count("\n") == 1


def test_the_command_fails_in_one_line_whatever_fails(tmp_path):
    code = (
        "import sys, tempfile; import snapstore.testing.server as server\n"
        "def fail(engine): raise OSError(28, 'No space\\nleft')\n"
        "server._running = fail\n"
        "sys.exit(server.main([]))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.endswith("[Errno 28] No space left\n")
    assert result.stderr.count("\n") == 1
