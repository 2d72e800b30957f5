"""Runs a PostgreSQL of this machine, if it has one, for peers that need a database."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

USER = "bench"
DEADLINE = 30.0


@contextmanager
def running_postgres() -> Iterator[str | None]:
    """Run a database of its own on a free port, with its default settings.

    Yields:
        Where it is, as `postgresql://…`; `None` if PostgreSQL is not installed.
    """
    programs = _programs()
    if programs is None:
        yield None
        return
    owner = _owner()
    with tempfile.TemporaryDirectory() as temporary, socket.socket() as free:
        root = Path(temporary)
        if owner is not None:
            shutil.chown(root, owner)
        data = root / "data"
        arguments = ["--pgdata", str(data), "--username", USER, "--auth", "trust"]
        subprocess.run(
            [str(programs / "initdb"), *arguments],
            check=True,
            capture_output=True,
            user=owner,
            cwd=root,
        )
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        command = [str(programs / "postgres"), "-D", str(data), "-p", str(port), "-k", str(root)]
        with (root / "log").open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, user=owner, cwd=root)
        try:
            _wait(programs, process, port)
            yield f"postgresql://{USER}@127.0.0.1:{port}/postgres"
        finally:
            process.send_signal(signal.SIGINT)  # a fast shutdown
            process.wait(DEADLINE)


def _programs() -> Path | None:
    """The directory of its programs. Debian has them beside PATH."""
    found = shutil.which("initdb")
    candidates = [Path(found).resolve().parent] if found else []
    candidates += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((one for one in candidates if (one / "postgres").exists()), None)


def _owner() -> str | None:
    """Who runs it: it refuses to be run by root."""
    if os.getuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


def _wait(programs: Path, process: subprocess.Popen[bytes], port: int) -> None:
    ready = [str(programs / "pg_isready"), "--host", "127.0.0.1", "--port", str(port), "--quiet"]
    ends = time.monotonic() + DEADLINE
    while subprocess.run(ready, check=False).returncode != 0:
        if process.poll() is not None or time.monotonic() > ends:
            raise RuntimeError("PostgreSQL does not start")
        time.sleep(0.05)
