"""Write the snapshots of packs to history again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Container, Iterable, Iterator
from contextlib import aclosing
from typing import Final, Literal

import msgspec

from snapstore.encoding.packs import PackedDocument
from snapstore.encoding.zstandard import require as require_zstandard
from snapstore.errors import OutcomeUnknownError, StorageError
from snapstore.model.keys import PackName
from snapstore.model.snapshot import SnapshotLocation
from snapstore.operations.archiving.originals import Originals
from snapstore.operations.events import UnarchiveEvent
from snapstore.operations.locations import iter_locations
from snapstore.operations.operation import Operation, with_pace
from snapstore.operations.parallel import overlapped
from snapstore.operations.selection import session_ids
from snapstore.storage.overlap import overlap
from snapstore.storage.packs import read_pack, whole_packs
from snapstore.storage.snapshots import ObjectSnapshotStorage
from snapstore.stores.base import Body, ObjectTooLargeError, PreconditionFailedError
from snapstore.stores.pace import Pace

__all__ = ["UnarchiveReport", "Unarchiver", "unarchive"]

_BATCH_BYTES: Final = 8 * 2**20

Document = tuple[PackedDocument, Body]


class UnarchiveReport(msgspec.Struct, kw_only=True):
    """Totals of snapshots that were written to history again, or in a dry run would be.

    Attributes:
        dry_run: Whether nothing was changed.
        sessions: Sessions that were looked at.
        locations: Locations that were looked at.
        packs: Packs that were read.
        restored: Snapshots written, or to be written.
        bytes: Their bytes.
        present: Snapshots that history had already.
        conflicts: Snapshots of which history has another one under their id.
        requests: Calls of the store: on S3 a request each, without retries.
        requests_needed: In a dry run, about how many more would write them.
    """

    dry_run: bool = False
    sessions: int = 0
    locations: int = 0
    packs: int = 0
    restored: int = 0
    bytes: int = 0
    present: int = 0
    conflicts: int = 0
    requests: int = 0
    requests_needed: int = 0

    @property
    def ok(self) -> bool:
        """Whether history has every snapshot that was in a pack."""
        return not self.conflicts


def unarchive(
    storage: ObjectSnapshotStorage,
    *,
    sessions: Iterable[str] | AsyncIterable[str] | None = None,
    dry_run: bool = False,
    max_requests_per_second: float | None = None,
) -> Operation[UnarchiveEvent, UnarchiveReport]:
    """Write the snapshots of packs to history again, byte for byte.

    It only adds: the packs stay, until `prune_archive` removes those of which history has
    everything, and nothing in history is overwritten. A run that was cut off can be made again. As
    with a save, what is written while the session is being deleted may stay.

    Args:
        storage: Where, open.
        sessions: The sessions; `None` for all.
        dry_run: Change nothing: the events tell what would be written. Snapshots that history has
            already are not compared.
        max_requests_per_second: Keeps it from slowing saves; `None` for no limit.

    Returns:
        The operation. Its events are of snapshots. It raises `SnapshotDecodeError` at a damaged
        pack.

    Raises:
        TypeError: `sessions` is a single text.
        InvalidIdentifierError: One of `sessions` is no session id. Raised while it runs for an
            async iterable.
        ValueError: `max_requests_per_second` is not more than 0.
        ModuleNotFoundError: The extra `archive` is not installed.
    """
    require_zstandard()
    pace = Pace(max_requests_per_second)
    report = UnarchiveReport(dry_run=dry_run)
    view = with_pace(storage, pace)
    unarchiver = Unarchiver(view, report, pace)
    ids = session_ids(view, sessions)

    async def of_session(session_id: str) -> AsyncGenerator[UnarchiveEvent, None]:
        report.sessions += 1
        found = iter_locations(view.objects, view.layout, session_id)
        async with aclosing(found) as locations:
            async for location in locations:
                report.locations += 1
                for name in await whole_packs(view.objects, view.layout, location):
                    async with aclosing(unarchiver.restore(location, name)) as events:
                        async for event in events:
                            yield event
        report.requests = pace.turns

    return Operation(overlapped(ids, of_session), report)


class Unarchiver:
    """Writes snapshots of packs to history.

    Args:
        storage: Where, with a pace.
        report: Counts.
        pace: Counts requests.
    """

    def __init__(self, storage: ObjectSnapshotStorage, report: UnarchiveReport, pace: Pace) -> None:
        self._objects = storage.objects
        self._layout = storage.layout
        self._max_bytes = storage.max_snapshot_bytes
        self._report = report
        self._pace = pace
        # A pack takes its memory.
        self._slot = asyncio.Semaphore(1)

    async def restore(
        self, location: SnapshotLocation, name: PackName, only: Container[str] | None = None
    ) -> AsyncGenerator[UnarchiveEvent, None]:
        """Write the snapshots of a pack to history.

        Args:
            location: The location.
            name: The pack.
            only: The ids of those that are written; `None` for all.

        Raises:
            SnapshotDecodeError: The pack is damaged.
        """
        async with self._slot:
            pack = await read_pack(self._objects, name, max_bytes=self._max_bytes)
            if pack is None:
                return
            self._report.packs += 1
            originals = Originals(
                self._objects,
                self._layout,
                location,
                max_bytes=self._max_bytes,
                conditional=False,
            )
            wanted = [
                packed for packed in pack.documents if only is None or packed.snapshot_id in only
            ]
            there = await originals.find(packed.snapshot_id for packed in wanted)
            if self._report.dry_run:
                for packed in wanted:
                    if packed.snapshot_id not in there:
                        self._report.requests_needed += 1
                        yield self._event(location, name, packed, "planned")
                return
            ids = {packed.snapshot_id for packed in wanted}
            documents = pack.read_all()
            while batch := await asyncio.to_thread(_next_batch, documents, ids):

                async def write(document: Document) -> UnarchiveEvent:
                    return await self._write(location, name, *document)

                for event in await overlap(batch, write):
                    yield event

    async def _write(
        self, location: SnapshotLocation, name: PackName, packed: PackedDocument, data: Body
    ) -> UnarchiveEvent:
        key = self._layout.history(location, packed.snapshot_id)
        failure: StorageError
        try:
            await self._objects.put(key, data, if_none_match=True)
        except (PreconditionFailedError, OutcomeUnknownError) as error:
            failure = error
        else:
            return self._event(location, name, packed, "restored")
        try:
            stored = await self._objects.get(key, max_bytes=len(data))
            is_same = stored is not None and stored.data == data
        except ObjectTooLargeError:
            is_same = False
        if isinstance(failure, OutcomeUnknownError) and not is_same:
            raise failure
        return self._event(location, name, packed, "present" if is_same else "conflict")

    def _event(
        self,
        location: SnapshotLocation,
        name: PackName,
        packed: PackedDocument,
        result: Literal["planned", "restored", "present", "conflict"],
    ) -> UnarchiveEvent:
        counted = result in ("planned", "restored")
        self._report.restored += counted
        self._report.bytes += packed.length if counted else 0
        self._report.present += result == "present"
        self._report.conflicts += result == "conflict"
        self._report.requests = self._pace.turns
        return UnarchiveEvent(
            key=self._layout.history(location, packed.snapshot_id),
            pack=name.key,
            result=result,
            size=packed.length,
        )


def _next_batch(
    documents: Iterator[tuple[PackedDocument, bytes]], wanted: Container[str]
) -> list[Document]:
    batch: list[Document] = []
    size = 0
    for packed, document in documents:
        if packed.snapshot_id in wanted:
            batch.append((packed, Body(document)))
            size += packed.length
            if size >= _BATCH_BYTES:
                break
    return batch
