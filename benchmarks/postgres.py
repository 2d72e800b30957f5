"""A PostgreSQL server of our own, for as long as it is needed, where it is installed."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Debian keeps them out of PATH.
DEBIAN = Path("/usr/lib/postgresql")


@contextmanager
def running_postgres() -> Iterator[str | None]:
    """Run a server that only a socket in a temporary folder leads to.

    Yields:
        Where it is, as `postgresql://…`; `None` if PostgreSQL is not installed.
    """
    programs = _programs()
    if programs is None:
        yield None
        return
    # It refuses to run as root.
    user = "postgres" if os.getuid() == 0 else None
    # The folder for temporary files may be closed to that user, and too deep for a socket's path.
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        if user is not None:
            shutil.chown(name, user, pwd.getpwnam(user).pw_gid)
        data, log = Path(name) / "data", Path(name) / "log"

        def run(program: str, *arguments: str) -> None:
            command = [str(programs / program), "-D", str(data), *arguments]
            quiet = subprocess.DEVNULL
            subprocess.run(command, check=True, user=user, cwd=name, stdin=quiet, stdout=quiet)

        run("initdb", "--auth=trust", "--encoding=UTF8", "--locale=C", "--username=bench")
        settings = f"-c listen_addresses= -c unix_socket_directories={name}"
        run("pg_ctl", "--wait", "--silent", "--log", str(log), "-o", settings, "start")
        try:
            yield f"postgresql://bench@/postgres?host={name}"
        finally:
            run("pg_ctl", "--silent", "--mode=fast", "stop")


def _programs() -> Path | None:
    found = shutil.which("initdb")
    if found is not None and shutil.which("pg_ctl") is not None:
        return Path(found).parent
    versions = [path.parent for path in DEBIAN.glob("*/bin/initdb")]
    return max(versions, key=lambda path: float(path.parent.name), default=None)
