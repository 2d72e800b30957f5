"""The command line, run as a program: alone, or in a terminal."""

import asyncio
import contextlib
import os
import pty
import re
import sys
import time
from typing import NamedTuple

TIMEOUT = 60
"""Seconds after which a test gives up on what would otherwise hang."""

IN_A_TERMINAL = """
import fcntl, signal, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
# Tests that run in the background ignore it, and so would what they start here.
signal.signal(signal.SIGINT, signal.default_int_handler)
from snapstore.cli import main
sys.exit(main())
"""
_SEQUENCES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Ended(NamedTuple):
    """A program that has ended."""

    status: int
    out: str
    err: str = ""


def environment_of(more=None):
    """The environment of this process without settings of AWS, and with others."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    return {**kept, "PYTHONUTF8": "1", "COLUMNS": "200", "TERM": "xterm", **(more or {})}


async def snapstore(*arguments, environment=None, stdin=b""):
    """Run a command; returns how it has ended."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "snapstore.cli", *map(str, arguments)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment_of(environment),
    )
    out, err = await asyncio.wait_for(process.communicate(stdin), TIMEOUT)
    return Ended(process.returncode, out.decode(), err.decode())


class Terminal:
    """A command in a terminal of its own.

    Attributes:
        shown: What it has written, without the sequences that move the cursor.
    """

    def __init__(self, process, descriptor):
        self._process = process
        self._descriptor = descriptor
        self.shown = ""

    async def until(self, text):
        """Wait until it has written a text."""
        ends = time.monotonic() + TIMEOUT
        while text not in self.shown:
            if time.monotonic() > ends or self._process.returncode is not None:
                raise AssertionError(f"{text!r} was never shown: {self.shown!r}")
            await asyncio.sleep(0.01)
            self._read()

    def type(self, text):
        """Type something."""
        os.write(self._descriptor, text.encode())

    async def ended(self):
        """Wait until it ends; returns its exit status."""
        waiting = asyncio.create_task(self._process.wait())
        try:
            async with asyncio.timeout(TIMEOUT):
                while not waiting.done():
                    await asyncio.sleep(0.01)
                    self._read()
        finally:
            waiting.cancel()
        self._read()
        return self._process.returncode

    def _read(self):
        # A terminal whose program has ended can't be read any more.
        with contextlib.suppress(BlockingIOError, OSError):
            while chunk := os.read(self._descriptor, 65536):
                self.shown += _SEQUENCES.sub("", chunk.decode(errors="replace"))


@contextlib.asynccontextmanager
async def in_a_terminal(*arguments, environment=None, stdout=None):
    """Run a command in a pseudo-terminal, its results there as well or in a file."""
    ours, theirs = pty.openpty()
    os.set_blocking(ours, False)
    try:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", IN_A_TERMINAL, *map(str, arguments)),
            stdin=theirs,
            stdout=theirs if stdout is None else stdout,
            stderr=theirs,
            env=environment_of(environment),
            start_new_session=True,
        )
    finally:
        os.close(theirs)
    try:
        yield Terminal(process, ours)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        os.close(ours)
