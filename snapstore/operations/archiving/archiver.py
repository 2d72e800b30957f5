"""Moves snapshots of history into packs, as `snapstore.operations.archiving.packing` tells."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Final

import msgspec

from snapstore.encoding.packs import MAX_DOCUMENTS, MAX_TOTAL_BYTES
from snapstore.errors import SnapshotDecodeError
from snapstore.model.ids import new_snapshot_id
from snapstore.model.keys import PackName
from snapstore.model.snapshot import SnapshotLocation
from snapstore.operations.archiving.originals import Gone, Originals
from snapstore.operations.archiving.packing import Packs, verify
from snapstore.operations.events import ArchiveEvent, ArchiveResult
from snapstore.operations.locations import HistoryEntry
from snapstore.storage.claims import Claim, Ownership, create_claim, read_claim, take_claim
from snapstore.storage.packs import FULL_PACK_BYTES, list_archive, whole_packs
from snapstore.storage.snapshots import ObjectSnapshotStorage
from snapstore.stores.base import Version
from snapstore.stores.capabilities import ConditionalDeleteStore, capability
from snapstore.stores.pace import Pace

__all__ = ["ArchiveReport", "Archiver", "has_conditional_deletes"]

_REQUESTS_FOR_A_PACK: Final = 11
"""Beside a read and a delete of each snapshot: claim, pack, looks at history and archive."""


class ArchiveReport(msgspec.Struct, kw_only=True):
    """Totals of snapshots that were moved into packs, or in a dry run would be.

    Attributes:
        dry_run: Whether nothing was changed.
        sessions: Sessions that were looked at.
        locations: Locations that were looked at.
        kept: Snapshots in history that are kept.
        archived: Snapshots moved, or to be moved.
        bytes: Their bytes, as far as they are known.
        packs: Packs written.
        packed_bytes: Bytes of these packs.
        skipped: Snapshots that were left in history, or had gone: see the events.
        failed: Snapshots that are too large, or whose deletion from history was not confirmed.
        requests: Calls of the store: on S3 a request each, without retries.
        requests_needed: In a dry run, about how many more would move them.
    """

    dry_run: bool = False
    sessions: int = 0
    locations: int = 0
    kept: int = 0
    archived: int = 0
    bytes: int = 0
    packs: int = 0
    packed_bytes: int = 0
    skipped: int = 0
    failed: int = 0
    requests: int = 0
    requests_needed: int = 0

    @property
    def ok(self) -> bool:
        """Whether nothing has failed."""
        return not self.failed


async def has_conditional_deletes(storage: ObjectSnapshotStorage) -> bool:
    """Find out whether the store deletes on a condition."""
    scratch = storage.layout.latest(
        SnapshotLocation.agent(f"snapstore-check-{new_snapshot_id()}", "check")
    )
    deleting = capability(storage.objects, ConditionalDeleteStore)
    return deleting is not None and await deleting.has_conditional_deletes(scratch)


class Archiver:
    """Moves snapshots into packs.

    Args:
        storage: Where, with a pace.
        report: Counts.
        pace: Counts requests.
    """

    def __init__(self, storage: ObjectSnapshotStorage, report: ArchiveReport, pace: Pace) -> None:
        self._storage = storage
        self._objects = storage.objects
        self._layout = storage.layout
        self._report = report
        self._pace = pace
        self._conditional = False
        # A pack takes its memory.
        self._slot = asyncio.Semaphore(1)

    async def prepare(self) -> None:
        """Find out what the store can do, before anything else."""
        if not self._report.dry_run:
            self._conditional = await has_conditional_deletes(self._storage)

    async def recover(self, location: SnapshotLocation) -> None:
        """Bring to an end what runs that were cut off have left of their packs."""
        if self._report.dry_run:
            return
        for name in (await list_archive(self._objects, self._layout, location)).claimed:
            claim = await read_claim(self._objects, name)
            if claim is None:
                continue
            packs = self._packs(location)
            match claim.state:
                case "held":
                    await self._recover_held(location, packs, claim)
                case "pending":
                    void = await claim.take_over(self._objects, "void")
                    if void is not None:
                        await packs.remove(void)
                case "void":
                    await packs.remove(claim)
                case "idle":
                    await packs.release(claim)

    async def _recover_held(self, location: SnapshotLocation, packs: Packs, claim: Claim) -> None:
        """Go on with a pack that another run holds, or with the one that it was to replace."""
        own = await claim.take_over(self._objects, "held")
        if own is None:
            return
        own = await packs.roll_back(own) or own
        async with self._slot:
            try:
                pack = await packs.read(own.pack)
                if pack is None:
                    await packs.discard(own)
                    return
                differing = await self._originals(location).differing(pack)
                changed = {found for found, what in differing.items() if what == "changed"}
                if not changed:
                    await packs.release(own)
                else:
                    await packs.drop(own, pack, changed)
            except SnapshotDecodeError:
                pass  # it stays claimed, and no snapshot relies on it

    async def archive(
        self, location: SnapshotLocation, entries: Sequence[HistoryEntry]
    ) -> AsyncGenerator[ArchiveEvent, None]:
        """Move snapshots of a location into packs.

        Args:
            location: The location.
            entries: The snapshots, oldest first.
        """
        if self._report.dry_run:
            self._report.requests_needed += 2 * len(entries) + _REQUESTS_FOR_A_PACK
            for entry in entries:
                yield self._event(entry, "planned")
            return
        fresh = [*entries]
        whole = await whole_packs(self._objects, self._layout, location)
        for name in whole:
            if not fresh:
                return
            if name.first <= fresh[-1].snapshot_id and fresh[0].snapshot_id <= name.last:
                async with self._slot:
                    events, fresh = await self._move_into(location, name, fresh)
                for event in events:
                    yield event
        while fresh:
            async with self._slot:
                events, fresh = await self._pack(location, fresh)
            for event in events:
                yield event

    async def _move_into(
        self, location: SnapshotLocation, name: PackName, entries: list[HistoryEntry]
    ) -> tuple[list[ArchiveEvent], list[HistoryEntry]]:
        """Delete from history what a pack has already.

        Returns:
            What was done, and the snapshots that the pack does not have.
        """
        packs = self._packs(location)
        try:
            pack = await packs.read(name)
        except SnapshotDecodeError:
            return [], entries  # nothing can rely on it
        packed = [e for e in entries if pack is not None and pack.get(e.snapshot_id) is not None]
        if pack is None or not packed:
            return [], entries
        rest = [entry for entry in entries if pack.get(entry.snapshot_id) is None]
        claim = await take_claim(self._objects, name)
        if claim is None:
            return [self._event(entry, "busy") for entry in packed], rest
        try:
            # Again, since it may have been removed before it was claimed.
            pack = await packs.read(name)
            if pack is not None:
                await asyncio.to_thread(verify, pack)
        except SnapshotDecodeError:
            pack = None
        if pack is None:
            await packs.give_back(claim)
            return [], entries
        events: list[ArchiveEvent] = []
        versions: dict[str, Version] = {}
        same: list[HistoryEntry] = []
        async with aclosing(self._originals(location).read(packed)) as originals:
            async for original in originals:
                entry, stored = original.entry, original.stored
                if original.is_missing:
                    events.append(self._event(entry, "missing", pack=name))
                elif stored is None or not original.is_in(pack):
                    events.append(self._event(entry, "conflict", pack=name))
                else:
                    same.append(entry)
                    versions[entry.snapshot_id] = stored.version
        ownership = Ownership(self._objects, claim)
        gone, failed = await self._originals(location).delete(versions, ownership)
        await packs.release(claim)
        return [*events, *self._moved(same, name, gone, failed)], rest

    async def _pack(
        self, location: SnapshotLocation, entries: list[HistoryEntry]
    ) -> tuple[list[ArchiveEvent], list[HistoryEntry]]:
        """Write one pack as `snapstore.operations.archiving.packing` tells, and delete what it has.

        Returns:
            What was done, and the snapshots that are still to be packed.
        """
        packs, originals = self._packs(location), self._originals(location)
        # What is copied or exported may not be larger than a snapshot.
        full = min(FULL_PACK_BYTES, self._storage.max_snapshot_bytes // 2)
        writer = packs.new_writer()
        events: list[ArchiveEvent] = []
        versions: dict[str, Version] = {}
        packed: list[HistoryEntry] = []
        rest: list[HistoryEntry] = []
        async with aclosing(originals.read(entries)) as found:
            async for entry, stored, is_too_large in found:
                if is_too_large:
                    events.append(self._event(entry, "failed", code="TooLarge"))
                elif stored is None:
                    events.append(self._event(entry, "missing"))
                elif entry.etag not in (None, stored.version.etag):
                    events.append(self._event(entry, "changed"))
                elif packed and (
                    writer.size >= full
                    or len(packed) >= MAX_DOCUMENTS
                    or writer.total + len(stored.data) > MAX_TOTAL_BYTES - 2**20
                ):
                    rest = entries[entries.index(entry) :]
                    break
                else:
                    await asyncio.to_thread(writer.add, entry.snapshot_id, stored.data)
                    versions[entry.snapshot_id] = stored.version
                    packed.append(entry)
        if not packed:
            return events, rest
        documents = writer.documents
        name, data = await packs.finish(writer)
        del writer  # and its memory
        claim = await create_claim(self._objects, name, "pending")
        if claim is None:
            return [*events, *(self._event(entry, "busy") for entry in packed)], rest
        gone = await originals.look(versions)
        is_there = not gone and await packs.write(claim, data, documents)
        gone = gone or await originals.look(versions)
        if gone:
            await packs.abandon(claim)
            events += [self._event(e, gone[e.snapshot_id]) for e in packed if e.snapshot_id in gone]
            return events, [*(e for e in packed if e.snapshot_id not in gone), *rest]
        held = await claim.change(self._objects, "held") if is_there else None
        if held is None:
            await packs.abandon(claim)
            return [*events, *(self._event(entry, "busy") for entry in packed)], rest
        self._report.packs += 1
        self._report.packed_bytes += len(data)
        del data
        return [*events, *await self._delete(location, held, packed, versions)], rest

    async def _delete(
        self,
        location: SnapshotLocation,
        held: Claim,
        packed: list[HistoryEntry],
        versions: dict[str, Version],
    ) -> list[ArchiveEvent]:
        """Delete from history what a new pack has, and take out of it what has changed since."""
        packs, name = self._packs(location), held.pack
        ownership = Ownership(self._objects, held)
        gone, failed = await self._originals(location).delete(versions, ownership)
        unwanted = {found for found, what in gone.items() if what == "changed"}
        if len(unwanted) < len(gone) and await ownership.is_unchanged():
            unwanted = {*gone}
        pack = await packs.read(name) if unwanted else None
        now: PackName | None = name
        if pack is None:
            await packs.release(held)
        else:
            now = await packs.drop(held, pack, unwanted)
        moved = [entry for entry in packed if entry.snapshot_id not in unwanted]
        return [
            *(self._event(e, gone[e.snapshot_id]) for e in packed if e.snapshot_id in unwanted),
            *self._moved(moved, now, gone, failed),
        ]

    def _moved(
        self,
        entries: list[HistoryEntry],
        name: PackName | None,
        gone: dict[str, Gone],
        failed: dict[str, str],
    ) -> list[ArchiveEvent]:
        events: list[ArchiveEvent] = []
        for entry in entries:
            code, what = failed.get(entry.snapshot_id), gone.get(entry.snapshot_id)
            if code is not None:
                events.append(self._event(entry, "failed", pack=name, code=code))
            else:
                events.append(self._event(entry, what or "archived", pack=name))
        return events

    def _event(
        self,
        entry: HistoryEntry,
        result: ArchiveResult,
        *,
        pack: PackName | None = None,
        code: str | None = None,
    ) -> ArchiveEvent:
        counted = result in ("planned", "archived")
        self._report.archived += counted
        self._report.bytes += (entry.size or 0) if counted else 0
        self._report.failed += result == "failed"
        self._report.skipped += not counted and result != "failed"
        self._report.requests = self._pace.turns
        return ArchiveEvent(
            key=entry.key,
            result=result,
            pack=None if pack is None else pack.key,
            size=entry.size,
            etag=entry.etag,
            modified=entry.modified,
            code=code,
        )

    def _packs(self, location: SnapshotLocation) -> Packs:
        return Packs(
            self._objects,
            self._layout,
            location,
            max_bytes=self._storage.max_snapshot_bytes,
            conditional=self._conditional,
        )

    def _originals(self, location: SnapshotLocation) -> Originals:
        return Originals(
            self._objects,
            self._layout,
            location,
            max_bytes=self._storage.max_snapshot_bytes,
            conditional=self._conditional,
        )
