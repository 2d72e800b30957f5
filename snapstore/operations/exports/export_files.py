"""Export a session to a file, whole or not at all."""

from __future__ import annotations

import os
import uuid
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress
from functools import partial
from pathlib import Path
from typing import IO, Any, cast

import msgspec

from snapstore.operations.exports.exporting import export_session
from snapstore.operations.threads import in_thread
from snapstore.storage.snapshots import ObjectSnapshotStorage

__all__ = ["ExportReport", "save_export"]


class ExportReport(msgspec.Struct, kw_only=True):
    """What was exported.

    Attributes:
        bytes: The size of the file.
    """

    bytes: int = 0


async def save_export(
    storage: ObjectSnapshotStorage,
    target: str | os.PathLike[str] | IO[bytes],
    *,
    session_id: str,
    compress: bool | None = None,
) -> ExportReport:
    """Export a session to a file: see `export_session`.

    Under its name, the file appears whole or not at all. It is its owner's alone (mode 0600).

    Args:
        storage: Where it is, open.
        target: The path, over any file there is; or a binary file to write to, which stays open.
        session_id: The session.
        compress: Whether to compress; `None`: a path that ends with `.zst` says so.

    Raises:
        OSError: The file can't be written.
        TypeError: `target` is neither a path nor a binary file.

    Other errors are those of `export_session`.
    """
    path = Path(target) if isinstance(target, str | os.PathLike) else None
    if path is None and not callable(getattr(target, "write", None)):
        raise TypeError(f"target must be a path or a binary file, not a {type(target).__name__}")
    if compress is None:
        compress = path is not None and path.suffix == ".zst"
    pieces = export_session(storage, session_id=session_id, compress=compress)
    if path is None:
        return await _write_all(pieces, cast("IO[bytes]", target).write)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    file = await in_thread(partial(_create, temporary))
    try:
        try:
            report = await _write_all(pieces, file.write)
            await in_thread(partial(_sync, file))
        finally:
            await in_thread(file.close)
        await in_thread(partial(os.replace, temporary, path))
    except BaseException:
        with suppress(FileNotFoundError):
            await in_thread(temporary.unlink)
        raise
    return report


async def _write_all(
    pieces: AsyncGenerator[bytes, None], write: Callable[[Any], object]
) -> ExportReport:
    report = ExportReport()
    async with aclosing(pieces):
        async for piece in pieces:
            await in_thread(partial(_write, write, piece))
            report.bytes += len(piece)
    return report


def _write(write: Callable[[Any], object], piece: bytes) -> None:
    """Write all of it: a raw file may take a part."""
    rest = memoryview(piece)
    while rest:
        written = write(rest)
        rest = rest[written if isinstance(written, int) else len(rest) :]


def _create(path: Path) -> IO[bytes]:
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")


def _sync(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())
