"""Starts the stub of S3, and tells it what to do."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks import stub_s3

BUCKET = "bench"
REGION = "us-east-1"


class UnequalWorkError(Exception):
    """What was measured is not what was to be measured."""


def require(condition: object, why: str) -> None:
    """Raise `UnequalWorkError` unless a condition holds."""
    if not condition:
        raise UnequalWorkError(why)


class StubClient:
    """The stub, as the measuring process sees it.

    It blocks, and is for the time between two measurements.

    Args:
        ports: The stub's ports, by scheme.
        certificate: The file of the certificate on the TLS port, which signs itself.
    """

    def __init__(self, ports: Mapping[str, int], certificate: Path) -> None:
        self.certificate = certificate
        self.endpoints = {scheme: f"{scheme}://127.0.0.1:{port}" for scheme, port in ports.items()}
        self._connection = http.client.HTTPConnection("127.0.0.1", ports["http"])

    def set_knobs(self, **knobs: float | bool) -> None:
        """Set the times and switches that `stub_s3.Knobs` lists; the others are kept."""
        self._control(knobs=knobs)

    def reset(self) -> None:
        """Count from 0 again."""
        self._control(reset=True)

    def clear(self) -> None:
        """Remove all objects."""
        self._control(clear=True)

    def keep(self) -> None:
        """Remember all objects, for `restore`."""
        self._control(keep=True)

    def restore(self) -> None:
        """Bring back the objects of `keep`, and only those."""
        self._control(restore=True)

    def fill(self, prefix: str, count: int) -> None:
        """Make snapshots in history, whose ids are in the order of their making."""
        self._control(fill={"prefix": prefix, "count": count})

    def fill_sessions(self, prefix: str, count: int) -> None:
        """Make sessions of a latest snapshot and two in history each."""
        self._control(fill_sessions={"prefix": prefix, "count": count})

    def counts(self, *, weigh: bool = False) -> stub_s3.Counts:
        """What was done since the last reset; `stored` only if asked to weigh."""
        return stub_s3.Counts(**self._control(weigh=weigh))

    def stored(self, key: str) -> bytes:
        """The body of an object."""
        self._connection.request("GET", f"/{BUCKET}/{key}")
        reply = self._connection.getresponse()
        body = reply.read()
        require(reply.status == 200, f"nothing is stored as {key}")
        return body

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _control(self, **wanted: object) -> dict[str, Any]:
        self._connection.request("POST", stub_s3.CONTROL, json.dumps(wanted))
        counts: dict[str, Any] = json.loads(self._connection.getresponse().read())
        return counts


@contextmanager
def running_stub() -> Iterator[StubClient]:
    """Run a stub in a process of its own."""
    with tempfile.TemporaryDirectory() as name:
        certificate, private_key = Path(name) / "certificate.pem", Path(name) / "key.pem"
        _make_certificate(certificate, private_key)
        # -P: the modules beside the stub must not be taken for others of the same name.
        program = [sys.executable, "-P", stub_s3.__file__, str(certificate), str(private_key)]
        with subprocess.Popen(
            program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process:
            if process.stdout is None or process.stdin is None:
                raise AssertionError("unreachable")
            client = StubClient(json.loads(process.stdout.readline()), certificate)
            try:
                yield client
            finally:
                client.close()
                process.stdin.close()


def _make_certificate(certificate: Path, private_key: Path) -> None:
    """One that signs itself, since a client that checks nothing would do less than it does."""
    wanted = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=stub"]
    # Rust takes no authority for a server.
    usable = ["-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=CA:FALSE"]
    files = ["-keyout", str(private_key), "-out", str(certificate)]
    subprocess.run(["openssl", *wanted, *usable, *files], check=True, capture_output=True)  # noqa: S607 -- found on PATH
