"""Export a session as one file, a tar: everything of it, byte for byte."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Final

from snapstore.encoding.zstandard import Compressor
from snapstore.errors import (
    SnapshotConflictError,
    SnapshotNotFoundError,
    UnsupportedOperationError,
)
from snapstore.model.ids import validate_identifier
from snapstore.model.keys import Layout
from snapstore.model.snapshot import SnapshotLocation
from snapstore.operations.copying.contents import is_session, iter_archive, iter_others, iter_stash
from snapstore.operations.copying.held import HeldLatest, HeldLatests
from snapstore.operations.copying.transfer import largest_object
from snapstore.operations.exports.tar import LAYOUT, Member, TarWriter, is_portable_name
from snapstore.operations.listing import Listed
from snapstore.operations.locations import iter_history, iter_locations
from snapstore.operations.parallel import in_order
from snapstore.storage.snapshots import ObjectSnapshotStorage
from snapstore.stores.base import Body, StoredObject

__all__ = ["export_session"]

_LARGE: Final = 256 * 1024
"""Bytes from which on to compress or hash them would stall the event loop."""


def export_session(
    storage: ObjectSnapshotStorage, *, session_id: str, compress: bool = False
) -> AsyncGenerator[bytes, None]:
    """Export a session as the bytes of one file, a tar, which `import_session` reads.

    It has all that `copy` copies: latest snapshots, history, manifests, the SDKs' stash, and other
    objects of the session. Equal sessions make equal files. Its last member tells how many there
    are, and their SHA-256, so that a file that was cut or damaged is never imported.

    The session may be in use: latest snapshots are read before their history is listed.

    Args:
        storage: Where it is, open.
        session_id: The session.
        compress: Whether the file is compressed by Zstandard (`.tar.zst`). That needs the extra
            `archive` before Python 3.14.

    Returns:
        An async generator of pieces of the file. Close it if you leave it early. It holds 16
        objects in memory at most, and the names of those that are not history. It raises one of
        these errors.

        - `SnapshotNotFoundError`: there is no such session;
        - `ObjectTooLargeError`: an object is larger than the storage's `max_snapshot_bytes`;
        - `UnsupportedOperationError`: a key can't be a name in a file, as with an empty segment;
        - `SnapshotConflictError`: history was deleted meanwhile. Export it again.

    Raises:
        InvalidIdentifierError: The session id is not valid.
        ModuleNotFoundError: The extra `archive` is not installed.

    Example:
        ::

            async with aclosing(export_session(storage, session_id="session-1")) as pieces:
                async for piece in pieces:
                    await response.write(piece)
    """
    validate_identifier(session_id, "session_id")
    pieces = _Export(storage, session_id).pieces()
    return _compressed(pieces, Compressor()) if compress else pieces


async def _compressed(
    pieces: AsyncGenerator[bytes, None], compressor: Compressor
) -> AsyncGenerator[bytes, None]:
    async with aclosing(pieces):
        async for piece in pieces:
            if ready := await _without_stalling(compressor.compress, piece):
                yield ready
    yield await asyncio.to_thread(compressor.flush)


async def _without_stalling(work: Callable[[bytes], bytes], data: bytes) -> bytes:
    return work(data) if len(data) < _LARGE else await asyncio.to_thread(work, data)


class _Export:
    """One export.

    Args:
        storage: Where the session is.
        session_id: The session.
    """

    def __init__(self, storage: ObjectSnapshotStorage, session_id: str) -> None:
        self._storage = storage
        self._session_id = session_id
        self._max_bytes = largest_object(storage)
        self._writer = TarWriter(session_id)
        self._locations: list[SnapshotLocation] = []
        self._is_session = False

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """The bytes of the file: a member each, and the end."""
        async with HeldLatests() as held:
            await self._read_latests(held)
            async with aclosing(self._objects(held)) as members:
                async for member in members:
                    yield await self._add(member)
            async with aclosing(held.bodies()) as bodies:
                async for latest, body in bodies:
                    name = LAYOUT.latest(latest.location)
                    yield await self._add(Member(name, body, latest.origin))
        if not self._is_session:  # it was deleted meanwhile
            raise self._not_found()
        yield self._writer.end()

    async def _add(self, member: Member) -> bytes:
        prefix = LAYOUT.session_prefix(self._session_id)
        self._is_session = self._is_session or LAYOUT.is_own(member.name, prefix)
        if len(member.data) < _LARGE:
            return self._writer.add(member)
        return await asyncio.to_thread(self._writer.add, member)

    def _not_found(self) -> SnapshotNotFoundError:
        objects = self._storage.objects
        return SnapshotNotFoundError(
            f"{objects.name} has no session {self._session_id}",
            operation="get",
            bucket=objects.name,
            key=self._storage.layout.session_prefix(self._session_id),
        )

    async def _read_latests(self, held: HeldLatests) -> None:
        """Read the latest snapshots, in the order of their locations.

        Raises:
            SnapshotNotFoundError: There is no session.
        """
        objects, layout = self._storage.objects, self._storage.layout
        async with aclosing(iter_locations(objects, layout, self._session_id)) as found:
            self._locations = sorted(
                [location async for location in found], key=lambda one: (one.scope, one.scope_id)
            )
        if not self._locations and not await is_session(self._storage, self._session_id):
            raise self._not_found()
        for location in self._locations:
            stored = await self._get(layout.latest(location))
            if stored is not None:
                await held.add(location, layout.latest(location), stored)

    async def _objects(self, held: HeldLatests) -> AsyncGenerator[Member, None]:
        """Everything but the latest snapshots."""
        async with aclosing(in_order(self._others(), self._get_named)) as others:
            async for name, stored in others:
                if stored is not None:
                    yield Member(name, Body(stored.data))
        latest_of = {latest.location: latest for latest in held.held}
        for location in self._locations:
            latest = latest_of.get(location)
            has_origin = is_lost = False
            async with aclosing(in_order(self._history(location), self._get_named)) as history:
                async for name, stored in history:
                    if stored is None:
                        is_lost = True
                        continue
                    if latest is not None and Layout.snapshot_id_of(name) == latest.origin:
                        has_origin = True
                    yield Member(name, Body(stored.data))
            if latest is not None and not has_origin:
                await self._require_history(latest, is_lost=is_lost)
        for location in self._locations:
            async with aclosing(in_order(self._archive(location), self._get_named)) as archive:
                async for name, stored in archive:
                    if stored is not None:
                        yield Member(name, Body(stored.data))

    async def _require_history(self, latest: HeldLatest, *, is_lost: bool) -> None:
        """Check that history was not deleted after latest was read.

        Raises:
            SnapshotConflictError: It was.
        """
        if latest.may_lack_its_history(await self._get(latest.key), is_lost=is_lost):
            raise SnapshotConflictError(
                f"history of {latest.key} was deleted while it was exported; export it again",
                operation="get",
                bucket=self._storage.objects.name,
                key=latest.key,
            )

    async def _others(self) -> AsyncGenerator[tuple[str, str], None]:
        """Keys and names of what is neither history nor latest nor archive, sorted."""
        layout, session_id = self._storage.layout, self._session_id
        for listed, here, there in (
            (
                iter_others(self._storage, session_id),
                layout.session_prefix(session_id),
                LAYOUT.session_prefix(session_id),
            ),
            (
                iter_stash(self._storage, session_id),
                layout.stash_prefix(session_id),
                LAYOUT.stash_prefix(session_id),
            ),
        ):
            async with aclosing(self._named(listed, here, there)) as named:
                async for found in named:
                    yield found

    async def _archive(self, location: SnapshotLocation) -> AsyncGenerator[tuple[str, str], None]:
        """Keys and names of the archive of a location, sorted."""
        listed = iter_archive(self._storage, location)
        here = self._storage.layout.archive_prefix(location)
        async with aclosing(self._named(listed, here, LAYOUT.archive_prefix(location))) as named:
            async for found in named:
                yield found

    async def _named(
        self, listed: AsyncGenerator[Listed, None], here: str, there: str
    ) -> AsyncGenerator[tuple[str, str], None]:
        """Keys and names of what was listed, sorted.

        Args:
            listed: The objects.
            here: What their keys begin with.
            there: What their names begin with instead.
        """
        async with aclosing(listed):
            keys = [found.key async for found in listed]
        for key in sorted(keys):
            name = there + key.removeprefix(here)
            if not is_portable_name(name):
                raise UnsupportedOperationError(
                    f"{key!a} can't be exported: it can't be the name of a file",
                    operation="get",
                    bucket=self._storage.objects.name,
                    key=key,
                )
            yield key, name

    async def _history(self, location: SnapshotLocation) -> AsyncGenerator[tuple[str, str], None]:
        """Keys and names of history."""
        pages = iter_history(self._storage.objects, self._storage.layout, location)
        async with aclosing(pages):
            async for page in pages:
                for entry in page:
                    yield entry.key, LAYOUT.history(location, entry.snapshot_id)

    async def _get_named(self, named: tuple[str, str]) -> tuple[str, StoredObject | None]:
        key, name = named
        return name, await self._get(key)

    async def _get(self, key: str) -> StoredObject | None:
        return await self._storage.objects.get(key, max_bytes=self._max_bytes)
