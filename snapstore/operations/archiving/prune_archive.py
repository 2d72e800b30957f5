"""Delete packs that are not needed any more."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Iterable
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Literal

import msgspec

from snapstore.encoding.packs import PackReader
from snapstore.errors import SnapshotDecodeError
from snapstore.model.keys import PackName
from snapstore.model.snapshot import SnapshotLocation
from snapstore.operations.archiving.archiver import has_conditional_deletes
from snapstore.operations.archiving.originals import Originals
from snapstore.operations.archiving.packing import Packs
from snapstore.operations.events import PackEvent
from snapstore.operations.locations import iter_locations
from snapstore.operations.operation import Operation, with_pace
from snapstore.operations.parallel import overlapped
from snapstore.operations.pruning.retention import Retention, RetentionPolicy, validate_policy
from snapstore.operations.selection import session_ids
from snapstore.storage.claims import take_claim
from snapstore.storage.packs import whole_packs
from snapstore.storage.snapshots import ObjectSnapshotStorage
from snapstore.stores.pace import Pace

__all__ = ["ArchivePruneReport", "PackRemoval", "prune_archive"]

Reason = Literal["restored", "policy"]


class ArchivePruneReport(msgspec.Struct, kw_only=True):
    """Totals of packs that were deleted, or in a dry run would be.

    Attributes:
        dry_run: Whether nothing was changed.
        sessions: Sessions that were looked at.
        locations: Locations that were looked at.
        deleted: Packs deleted, or to be deleted.
        documents: Snapshots in these packs.
        kept: Packs that are kept.
        damaged: Packs that can't be read, and are kept.
        requests: Calls of the store: on S3 a request each, without retries.
        requests_needed: In a dry run, about how many more would delete them.
    """

    dry_run: bool = False
    sessions: int = 0
    locations: int = 0
    deleted: int = 0
    documents: int = 0
    kept: int = 0
    damaged: int = 0
    requests: int = 0
    requests_needed: int = 0

    @property
    def ok(self) -> bool:
        """Whether every pack can be read."""
        return not self.damaged


def prune_archive(
    storage: ObjectSnapshotStorage,
    policy: RetentionPolicy | None = None,
    *,
    sessions: Iterable[str] | AsyncIterable[str] | None = None,
    dry_run: bool = False,
    max_requests_per_second: float | None = None,
) -> Operation[PackEvent, ArchivePruneReport]:
    """Delete packs that are not needed any more.

    Without a policy these are the packs of which history has every snapshot again, byte for byte:
    `unarchive` writes them. With a policy also those of which it keeps no snapshot. It is applied
    to the snapshots in history and archive of each location together; it takes memory for their
    ids. A pack goes whole or stays whole.

    A pack that another operation is at work on stays; and so does one that an operation has taken
    over from another that had not ended, for an hour from then on.

    Args:
        storage: Where, open.
        policy: Which snapshots are kept; `None` to delete only what is in history.
        sessions: The sessions; `None` for all.
        dry_run: Change nothing: the events tell what would be deleted.
        max_requests_per_second: Keeps it from slowing saves; `None` for no limit.

    Returns:
        The operation. Its events are of packs.

    Raises:
        TypeError: `policy` is no policy, or `sessions` is a single text.
        InvalidIdentifierError: One of `sessions` is no session id. Raised while it runs for an
            async iterable.
        ValueError: `max_requests_per_second` is not more than 0.
    """
    if policy is not None:
        validate_policy(policy)
    pace = Pace(max_requests_per_second)
    report = ArchivePruneReport(dry_run=dry_run)
    view = with_pace(storage, pace)
    removal = PackRemoval(view, report, pace)
    ids = session_ids(view, sessions)
    now = datetime.now(UTC)

    async def of_session(session_id: str) -> AsyncGenerator[PackEvent, None]:
        report.sessions += 1
        found = iter_locations(view.objects, view.layout, session_id)
        async with aclosing(found) as locations:
            async for location in locations:
                report.locations += 1
                retention = None if policy is None else Retention(policy, now)
                async with aclosing(removal.of_location(location, retention)) as events:
                    async for event in events:
                        yield event
        report.requests = pace.turns

    async def run() -> AsyncGenerator[PackEvent, None]:
        await removal.prepare()
        async with aclosing(overlapped(ids, of_session)) as events:
            async for event in events:
                yield event

    return Operation(run(), report)


class PackRemoval:
    """Deletes packs.

    Args:
        storage: Where, with a pace.
        report: Counts.
        pace: Counts requests.
    """

    def __init__(
        self, storage: ObjectSnapshotStorage, report: ArchivePruneReport, pace: Pace
    ) -> None:
        self._storage = storage
        self._objects = storage.objects
        self._report = report
        self._pace = pace
        self._conditional = False

    async def prepare(self) -> None:
        """Find out what the store can do, before anything else."""
        if not self._report.dry_run:
            self._conditional = await has_conditional_deletes(self._storage)

    async def of_location(
        self, location: SnapshotLocation, retention: Retention | None
    ) -> AsyncGenerator[PackEvent, None]:
        """Delete those packs of a location that are not needed.

        Args:
            location: The location.
            retention: Judges its snapshots; `None` to delete only what is in history.
        """
        # History first: what is archived meanwhile is in a pack by then.
        ids: set[str] = set()
        if retention is not None:
            walk = self._storage.iter_snapshot_ids(location=location)
            async with aclosing(walk) as found:
                async for snapshot_id in found:
                    ids.add(snapshot_id)
        names = await whole_packs(self._objects, self._storage.layout, location)
        kept: set[str] | None = None
        if retention is not None and names:
            for name in names:
                pack = await self._read(location, name)
                if pack is not None:
                    ids.update(packed.snapshot_id for packed in pack.documents)
            ordered = sorted(ids, reverse=True)
            kept = {
                found for found in ordered if retention.keeps(found, is_oldest=found == ordered[-1])
            }
        for name in names:
            pack = await self._read(location, name)
            if pack is None:
                self._report.damaged += 1
                yield self._event(name, "damaged")
                continue
            packed_ids = [packed.snapshot_id for packed in pack.documents]
            reason: Reason | None = None
            if kept is not None and kept.isdisjoint(packed_ids):
                reason = "policy"
            elif not await self._originals(location).differing(pack):
                reason = "restored"
            if reason is None:
                self._report.kept += 1
            elif self._report.dry_run:
                self._report.requests_needed += 4
                yield self._event(name, "planned", reason, pack)
            else:
                yield await self.remove(location, name, reason)

    async def remove(self, location: SnapshotLocation, name: PackName, reason: Reason) -> PackEvent:
        """Delete a pack.

        Args:
            location: The location.
            name: The pack.
            reason: Why it is not needed. If history has its snapshots, they are looked at once
                more while no other operation can rely on the pack.
        """
        packs = self._packs(location)
        claim = await take_claim(self._objects, name)
        if claim is None:
            return self._event(name, "busy", reason)
        if not claim.is_settled:
            await packs.release(claim)
            return self._event(name, "busy", reason)
        pack = await self._read(location, name)
        is_needed = pack is None or (
            reason == "restored" and bool(await self._originals(location).differing(pack))
        )
        if is_needed:
            await packs.give_back(claim)
            return self._event(name, "kept", reason)
        if not await packs.discard(claim):
            return self._event(name, "busy", reason)
        return self._event(name, "deleted", reason, pack)

    async def _read(self, location: SnapshotLocation, name: PackName) -> PackReader | None:
        try:
            return await self._packs(location).read(name)
        except SnapshotDecodeError:
            return None

    def _event(
        self,
        name: PackName,
        result: Literal["planned", "deleted", "kept", "busy", "damaged"],
        reason: Reason | None = None,
        pack: PackReader | None = None,
    ) -> PackEvent:
        counted = result in ("planned", "deleted")
        documents = 0 if pack is None else len(pack.documents)
        self._report.deleted += counted
        self._report.documents += documents if counted else 0
        self._report.kept += result in ("kept", "busy")
        self._report.requests = self._pace.turns
        return PackEvent(key=name.key, result=result, reason=reason, documents=documents)

    def _packs(self, location: SnapshotLocation) -> Packs:
        return Packs(
            self._objects,
            self._storage.layout,
            location,
            max_bytes=self._storage.max_snapshot_bytes,
            conditional=self._conditional,
        )

    def _originals(self, location: SnapshotLocation) -> Originals:
        return Originals(
            self._objects,
            self._storage.layout,
            location,
            max_bytes=self._storage.max_snapshot_bytes,
            conditional=self._conditional,
        )
