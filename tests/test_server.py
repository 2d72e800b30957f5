"""The S3 servers that tests and the demo run on: they answer, keep to themselves, and end."""

import asyncio
import contextlib
import dataclasses
import importlib.util
import os
import shlex
import signal
import subprocess
import sys
import sysconfig
import threading
import time
from pathlib import Path

import pytest
from aiobotocore.session import get_session
from botocore.exceptions import ClientError

from snapstore.testing import server as module
from snapstore.testing.server import ServerUnavailableError, create_bucket, running_server

ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(module.__file__).parents[2])}


def real(test):
    """Mark a test that starts a SeaweedFS of its own."""
    return pytest.mark.s3(pytest.mark.seaweedfs(test))


@pytest.fixture(scope="module")
def server():
    with running_server() as server:
        yield server


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


def is_running(pid):
    try:
        os.kill(pid, 0)
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except ProcessLookupError:
        return False
    except FileNotFoundError:
        return not Path("/proc/self/stat").exists()
    # In a container nobody may collect the orphans that have ended.
    return state != "Z"


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


@real
def test_a_server_stores_what_a_signed_request_puts(server):
    create_bucket(server, "stores")
    assert put_and_get(server.client_options, "stores")[1] == b"text"


@real
def test_seaweedfs_refuses_a_wrong_secret(server):
    create_bucket(server, "wrong-secret")
    with pytest.raises(ClientError, match="SignatureDoesNotMatch"):
        put_and_get(server.client_options | {"aws_secret_access_key": "wrong"}, "wrong-secret")


@real
def test_the_limited_identity_writes_objects_but_creates_no_buckets(server):
    create_bucket(server, "limited")
    limited = dataclasses.replace(server, access_key="limited", secret_key="limited-secret")
    assert put_and_get(limited.client_options, "limited")[1] == b"text"
    with pytest.raises(ClientError, match="AccessDenied"):
        create_bucket(limited, "limited-too")


@real
def test_server_side_encryption_works(server):
    create_bucket(server, "encrypted")
    put, body = put_and_get(server.client_options, "encrypted", ServerSideEncryption="AES256")
    assert (put["ServerSideEncryption"], body) == ("AES256", b"text")


@real
def test_a_bucket_that_nobody_created_does_not_exist(server):
    with pytest.raises(ClientError, match="NoSuchBucket"):
        put_and_get(server.client_options, "never-created")


@real
def test_a_bucket_can_be_created_while_a_loop_runs(server):
    async def create():
        create_bucket(server, "from-a-loop")

    asyncio.run(create())
    assert put_and_get(server.client_options, "from-a-loop")[1] == b"text"


@real
def test_a_bucket_is_created_whatever_profile_this_machine_names(server, monkeypatch):
    monkeypatch.setenv("AWS_PROFILE", "not-configured")
    create_bucket(server, "any-profile")


@real
def test_a_bucket_that_exists_is_not_created_again(server):
    create_bucket(server, "twice")
    with pytest.raises(ClientError, match="BucketAlready"):
        create_bucket(server, "twice")


@real
def test_another_program_finds_the_server_by_its_environment(server):
    create_bucket(server, "environment")
    code = (
        "import botocore.session as s; s.get_session().create_client('s3').head_bucket(Bucket=%r)"
    )
    command = [sys.executable, "-c", code % "environment"]
    subprocess.run(command, env=ENVIRONMENT | server.environment(), check=True)


@real
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_server_listens_on_loopback_only(server):
    seen = set()
    for _ in range(20):  # what isn't needed to answer may start a little later
        seen |= set(listening_addresses(server.pid))
        time.sleep(0.05)
    assert int(server.endpoint_url.rpartition(":")[2]) in {port for _, port in seen}
    assert {host for host, _ in seen} == {"0100007F"}


@real
def test_ctrl_c_in_the_terminal_does_not_reach_the_server(server):
    assert os.getsid(server.pid) != os.getsid(0)


@real
def test_two_servers_run_side_by_side_and_leave_nothing_behind(server):
    with running_server() as other:
        create_bucket(server, "side-by-side")
        create_bucket(other, "side-by-side")
        assert sockets_of(other)
        assert not has_left_nothing(other)
    assert has_left_nothing(other)
    assert put_and_get(server.client_options, "side-by-side")[1] == b"text"


@real
def test_a_server_is_stopped_when_its_block_fails():
    with pytest.raises(ZeroDivisionError), running_server() as server:
        _ = 1 / 0
    assert has_left_nothing(server)


@real
def test_a_server_outlives_the_thread_that_started_it():
    started = []
    with contextlib.ExitStack() as stack:
        thread = threading.Thread(
            target=lambda: started.append(stack.enter_context(running_server()))
        )
        thread.start()
        thread.join()
        create_bucket(started[0], "other-thread")


@real
def test_a_starter_that_is_killed_leaves_nothing_behind():
    code = """
import time
from snapstore.testing.server import running_server
with running_server() as server:
    print(server.pid, server.log, server.endpoint_url, flush=True)
    time.sleep(600)
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=ENVIRONMENT
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


def test_missing_moto_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with (
        pytest.raises(ServerUnavailableError, match=r'pip install "moto\[server,s3\]"'),
        running_server("moto"),
    ):
        pass


def test_a_server_that_ends_at_once_is_reported_with_status_and_the_end_of_its_log(scripts):
    write_weed(scripts, "for i in $(seq 1 100); do echo line $i; done", "exit 3")
    began = time.monotonic()
    with pytest.raises(ServerUnavailableError, match="exit status 3") as caught, running_server():
        pass
    assert time.monotonic() - began < 5
    assert str(caught.value).splitlines()[1:] == [f"line {i}" for i in range(81, 101)]


def test_the_machines_settings_do_not_reach_the_server(scripts, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "from-this-machine")
    monkeypatch.setenv("HTTP_PROXY", "from-this-machine")
    write_weed(scripts, "env; echo; exit 1")
    with pytest.raises(ServerUnavailableError, match="\nHOME=") as caught, running_server():
        pass
    assert "from-this-machine" not in str(caught.value)
    assert f"HOME={Path.home()}\n" not in str(caught.value)


@real
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


def test_a_server_that_finds_no_free_port_is_given_up(scripts, tmp_path):
    write_weed(scripts, f"echo >> {tmp_path}/tried", "echo address already in use; exit 1")
    with pytest.raises(ServerUnavailableError, match="address already in use"), running_server():
        pass
    assert (tmp_path / "tried").read_text().count("\n") == 5


def test_a_server_that_is_never_ready_and_ignores_sigterm_is_killed(scripts, tmp_path, monkeypatch):
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


@real
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_prints_working_settings_and_ends_well_when_told(number):
    with command("--bucket", "demo") as process:
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


@real
def test_the_command_fails_with_the_log_when_its_server_dies():
    with command() as process:
        _, pid = read_settings(process)
        os.kill(pid, signal.SIGKILL)
        _, errors = process.communicate(timeout=30)
        assert process.returncode == 1
        first, *log = errors.splitlines()
        assert first == f"seaweedfs ended with exit status {-signal.SIGKILL}; its log:"
        assert len(log) == 20


def test_the_command_fails_without_a_traceback_when_the_server_is_not_installed(tmp_path):
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
