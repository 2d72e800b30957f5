"""A file to be imported, which is read twice: to check all of it, and to import it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import AsyncGenerator, AsyncIterable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from itertools import islice
from typing import IO, Final, cast

from snapstore.encoding.zstandard import MAGIC, open_to_read
from snapstore.errors import InvalidExportError
from snapstore.operations.exports.imported import ImportedObject, read_objects
from snapstore.operations.threads import in_thread

__all__ = ["ImportFile", "Source", "is_source", "open_import_file"]

Source = str | os.PathLike[str] | IO[bytes] | AsyncIterable[bytes]
"""What can be imported: a path, a binary file, or pieces of a file."""

_PIECE: Final = 2**20
"""Bytes that are read or written at a time."""
_AT_A_TIME: Final = 64
"""Objects that are read in one go, if they are small."""


class ImportFile:
    """A file that can be read from its beginning, as often as need be.

    Args:
        file: It can seek.
        start: Where the export begins in it.
        max_bytes: How large an object may be.
    """

    def __init__(self, file: IO[bytes], start: int, max_bytes: int) -> None:
        self._file = file
        self._start = start
        self._max_bytes = max_bytes

    async def check(self) -> str:
        """Read all of it, and import nothing.

        Returns:
            The session that was exported.

        Raises:
            InvalidExportError: It is no export, or not a whole one.
            SnapshotDecodeError: It holds what should be a snapshot or a manifest, and is none.
        """
        return await in_thread(self._check)

    def _check(self) -> str:
        session_id = ""
        for found in self._objects():
            session_id = found.session_id
        return session_id

    async def objects(self) -> AsyncGenerator[ImportedObject, None]:
        """All objects, read anew, and checked again."""
        objects = self._objects()
        while batch := await in_thread(partial(_take, objects)):
            for found in batch:
                yield found

    def _objects(self) -> Iterator[ImportedObject]:
        self._file.seek(self._start)
        beginning = _bytes(self._file.read(len(MAGIC)))
        self._file.seek(self._start)
        if beginning != MAGIC:
            yield from read_objects(self._file, max_bytes=self._max_bytes)
            return
        stream, damaged = open_to_read(self._file)
        with stream:
            try:
                yield from read_objects(stream, max_bytes=self._max_bytes)
            except (EOFError, damaged):
                pass
            else:
                return
        raise InvalidExportError("the compressed export is damaged, or was cut")


def _take(objects: Iterator[ImportedObject]) -> list[ImportedObject]:
    """Some objects: one at least, if there is any."""
    taken: list[ImportedObject] = []
    size = 0
    for found in islice(objects, _AT_A_TIME):
        taken.append(found)
        size += len(found.member.data)
        if size >= _PIECE:
            break
    return taken


@asynccontextmanager
async def open_import_file(source: Source, *, max_bytes: int) -> AsyncGenerator[ImportFile, None]:
    """Open what is to be imported. What can't be read twice is written to a temporary file first.

    Args:
        source: See `Source`. A file of the caller's stays open.
        max_bytes: How large an object may be.

    Raises:
        OSError: The file can't be read.
        TypeError: It is a file of text.
    """
    if isinstance(source, str | os.PathLike):
        file = await in_thread(partial(open, source, "rb"))
        try:
            yield ImportFile(cast("IO[bytes]", file), 0, max_bytes)
        finally:
            await in_thread(file.close)
    elif not isinstance(source, AsyncIterable) and await in_thread(partial(_can_seek, source)):
        yield ImportFile(source, await in_thread(source.tell), max_bytes)
    else:
        spooled = await in_thread(tempfile.TemporaryFile)
        try:
            await _spool(source, cast("IO[bytes]", spooled))
            yield ImportFile(cast("IO[bytes]", spooled), 0, max_bytes)
        finally:
            await in_thread(spooled.close)


async def _spool(source: IO[bytes] | AsyncIterable[bytes], file: IO[bytes]) -> None:
    pieces = source if isinstance(source, AsyncIterable) else _pieces(source)
    async for piece in pieces:
        await in_thread(partial(file.write, _bytes(piece)))


async def _pieces(source: IO[bytes]) -> AsyncGenerator[bytes, None]:
    while piece := await in_thread(partial(source.read, _PIECE)):
        yield piece


def _bytes(piece: object) -> bytes:
    if not isinstance(piece, bytes | bytearray | memoryview):
        raise TypeError(f"an export is read as bytes, not as {type(piece).__name__}")
    return bytes(piece)


def _can_seek(file: IO[bytes]) -> bool:
    seekable = getattr(file, "seekable", None)
    return seekable is not None and bool(seekable())


def is_source(source: object) -> bool:
    """Whether something can be imported, as far as its type tells."""
    return isinstance(source, str | os.PathLike | AsyncIterable) or callable(
        getattr(source, "read", None)
    )
