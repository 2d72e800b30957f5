"""The latest snapshots of a session, read before anything else of it, and written last."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncGenerator
from functools import partial
from types import TracebackType
from typing import Final, NamedTuple, Self

from snapstore.model.snapshot import SnapshotLocation
from snapstore.operations.threads import in_thread
from snapstore.storage.writes import ORIGIN
from snapstore.stores.base import Body, StoredObject

__all__ = ["HeldLatest", "HeldLatests"]

_IN_MEMORY: Final = 2**20
"""Bytes of all of them from which on they lie in a temporary file."""


class HeldLatest(NamedTuple):
    """A latest snapshot that was read.

    Attributes:
        location: Where it belongs.
        key: Its full key.
        size: Its bytes.
        etag: Its etag.
        origin: The id of the entry in history that it was saved from; `None` if that is not known.
    """

    location: SnapshotLocation
    key: str
    size: int
    etag: str
    origin: str | None

    def may_lack_its_history(self, now: StoredObject | None, *, is_lost: bool) -> bool:
        """Whether what it was saved from may have been deleted after it was read.

        To be asked where that was not found in its history. It may never have been there.

        Args:
            now: The latest snapshot as it is now.
            is_lost: Whether something was listed in history that could not be read any more.
        """
        is_replaced = now is not None and now.version.etag != self.etag
        return now is None or is_lost or (is_replaced and self.origin is not None)


class HeldLatests:
    """Holds latest snapshots: in a temporary file, without a name, where they are large.

    Attributes:
        held: Those that are held, in the order in which they came.
    """

    def __init__(self) -> None:
        self._file = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY)  # noqa: SIM115 -- see __aexit__
        self.held: list[HeldLatest] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()

    async def add(self, location: SnapshotLocation, key: str, stored: StoredObject) -> None:
        """Hold one."""
        await in_thread(partial(self._file.write, stored.data))
        origin = stored.metadata.get(ORIGIN)
        size = len(stored.data)
        self.held.append(HeldLatest(location, key, size, stored.version.etag, origin))

    async def bodies(self) -> AsyncGenerator[tuple[HeldLatest, Body], None]:
        """All that are held, one after the other."""
        start = 0
        for latest in self.held:
            yield latest, await in_thread(partial(self._read, start, latest.size))
            start += latest.size

    def _read(self, start: int, size: int) -> Body:
        self._file.seek(start)
        return Body(self._file.read(size))
