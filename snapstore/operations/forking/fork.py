"""Fork a session: its history up to a snapshot, under a session id that is free.

The target is claimed before anything is copied: the manifest of each location, written where there
is none, says what it is forked from, and which run of the fork is at work. So two forks into one
target are told apart, and a fork that was cut off is known again by its claims: the next run takes
them over, each on the version that it has read, and goes on. A run whose claim was taken over ends:
it looks at each claim again before it copies a latest snapshot, and can't say of it that it is
whole. So a run that was only slow does not put back a latest snapshot under a session that is in
use by then. The claims say at the end that the fork is whole: from then on it is a session like any
other, and its id is taken.

Copies are made by the server where it can. They are never conditional, since many servers ignore
the condition of a copy: what lies at the target is listed before, and refused unless it is of this
fork. History is copied before latest. Where the latest snapshot of the source is copied, histories
are compared once more after it: a checkpoint writes history first, so what latest was saved from is
there, also where its clock is behind.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Final, Literal, NamedTuple

import msgspec

from snapstore.errors import SnapshotExistsError, SnapshotNotFoundError
from snapstore.model.ids import validate_identifier, validate_snapshot_id
from snapstore.model.keys import Layout
from snapstore.model.snapshot import SnapshotLocation
from snapstore.operations.forking.claims import Claims
from snapstore.operations.forking.report import ForkEvent, ForkReport
from snapstore.operations.locations import HistoryEntry, exists, iter_history, iter_locations
from snapstore.operations.operation import Operation, with_pace
from snapstore.operations.parallel import overlapped
from snapstore.storage.snapshots import ObjectSnapshotStorage
from snapstore.storage.writes import ORIGIN
from snapstore.stores.capabilities import CopyingStore, MetadataStore, capability
from snapstore.stores.pace import Pace

__all__ = ["fork_session"]

_ANY_SIZE: Final = 2**62


def fork_session(
    storage: ObjectSnapshotStorage,
    *,
    session_id: str,
    into: str,
    upto: str | None = None,
    dry_run: bool = False,
    max_requests_per_second: float | None = None,
) -> Operation[ForkEvent, ForkReport]:
    """Fork a session: copy its history up to a snapshot, and make that one the latest.

    Latest, history, manifests and the stash are copied; the source is not touched. Load from the
    fork when the operation has ended. One that was cut off can be made again with the same
    arguments, and goes on. The manifest of each location says what it was forked from, in
    `extra["forkedFrom"]`: `sessionId`, `snapshotId` and, where that was a fork itself, its own
    `forkedFrom`.

    Args:
        storage: Where, open.
        session_id: The session.
        into: The id of the fork. Nothing may lie under it.
        upto: The last snapshot of the fork: an id in the history of any location. Locations without
            a snapshot up to it are left out. `None` for all of history and the latest snapshots.
        dry_run: Change nothing: the events tell what would be copied.
        max_requests_per_second: Keeps it from slowing saves; `None` for no limit.

    Returns:
        The operation. It raises `SnapshotNotFoundError` if there is no such session or snapshot,
        and `SnapshotExistsError` if the target is not free, before anything is copied.

    Raises:
        InvalidIdentifierError: An id is not valid.
        ValueError: `into` is the session itself, or `max_requests_per_second` is not more than 0.
    """
    validate_identifier(session_id, "session_id")
    validate_identifier(into, "into")
    if into == session_id:
        raise ValueError("a session can't be forked into itself")
    upto = None if upto is None else validate_snapshot_id(upto, "upto")
    pace = Pace(max_requests_per_second)
    report = ForkReport(dry_run=dry_run)
    fork = _Fork(
        with_pace(storage, pace),
        session_id=session_id,
        into=into,
        upto=upto,
        report=report,
        pace=pace,
    )
    return Operation(fork.run(), report)


class _Copy(NamedTuple):
    """A copy that is to be made.

    Attributes:
        source: The full key.
        target: The full key of the copy.
        metadata: What is kept beside it; `None` for what is kept beside the source.
    """

    source: str
    target: str
    metadata: Mapping[str, str] | None


class _Fork:
    def __init__(
        self,
        storage: ObjectSnapshotStorage,
        *,
        session_id: str,
        into: str,
        upto: str | None,
        report: ForkReport,
        pace: Pace,
    ) -> None:
        self._objects = storage.objects
        self._layout = storage.layout
        self._session_id = session_id
        self._into = into
        self._upto = upto
        self._report = report
        self._pace = pace
        self._copying = capability(self._objects, CopyingStore)
        # The last snapshot of each location; `None` for all of history, and latest.
        self._ends: dict[SnapshotLocation, str | None] = {}
        self._claims = Claims(storage.objects, storage.layout, session_id, into, upto)
        self._without_latest: set[SnapshotLocation] = set()

    async def run(self) -> AsyncGenerator[ForkEvent, None]:
        await self._find_ends()
        await self._require_free_target()
        if not self._report.dry_run:
            await self._claim()
        self._report.locations = len(self._ends)
        for copies in (self._stash(), self._histories(), self._latests(), self._late_histories()):
            async with aclosing(overlapped(copies, self._copy)) as events:
                async for event in events:
                    self._report.requests = self._pace.turns
                    yield event
        if not self._report.dry_run:
            for location, end in self._ends.items():
                if location not in self._without_latest:
                    await self._claims.write(location, end, is_complete=True)
        self._report.requests = self._pace.turns

    async def _find_ends(self) -> None:
        """Find the locations of the source, and where each of them ends."""
        is_there = self._upto is None
        found = iter_locations(self._objects, self._layout, self._session_id)
        async with aclosing(found) as locations:
            async for location in locations:
                if self._upto is None:
                    self._ends[location] = None
                elif (end := await self._last_id(location, self._upto)) is not None:
                    self._ends[location] = end
                    is_there = is_there or end == self._upto
        if not self._ends or not is_there:
            prefix = self._layout.session_prefix(self._session_id)
            what = "has no snapshot" if self._upto is None else f"has no snapshot {self._upto}"
            raise SnapshotNotFoundError(
                f"{prefix} {what}; nothing was forked",
                operation="scan",
                bucket=self._objects.name,
                key=prefix,
                outcome="not applied",
            )

    async def _last_id(self, location: SnapshotLocation, upto: str) -> str | None:
        last: str | None = None
        history = iter_history(self._objects, self._layout, location, last=upto)
        async with aclosing(history) as pages:
            async for page in pages:
                last = page[-1].snapshot_id if page else last
        return last

    async def _require_free_target(self) -> None:
        """Look for anything at the target that is not of this fork, cut off before.

        Raises:
            SnapshotExistsError: There is something.
        """
        for prefix in (self._layout.session_prefix(self._into), self._stash_of(self._into)):
            async with aclosing(self._objects.scan(prefix)) as pages:
                async for page in pages:
                    for key in page:
                        await self._require_own(key)
        # Cut off at the very end, it has said of some locations alone that they are whole.
        if self._claims.whole and self._claims.whole == self._ends.keys():
            raise self._claims.occupied(self._layout.session_prefix(self._into))

    async def _require_own(self, key: str) -> None:
        stash = self._stash_of(self._into)
        if key.startswith(stash) and self._claims.locations:
            source = self._stash_of(self._session_id) + key.removeprefix(stash)
            if await self._is_copy(source, key):
                return
            raise self._claims.occupied(key)
        place = Layout.place_of(key, self._layout.session_prefix(self._into))
        location = None if place is None else self._source_of(place.location)
        if place is None or location is None or location not in self._ends:
            raise self._claims.occupied(key)
        if location not in self._claims.locations:
            await self._claims.read(location)
        end = self._ends[location]
        is_own = place.kind == "manifest"
        if place.kind == "latest":
            is_own = await self._is_copy(self._latest_of(location).source, key)
        elif place.snapshot_id is not None and (end is None or place.snapshot_id <= end):
            is_own = await self._is_copy(self._layout.history(location, place.snapshot_id), key)
        if not is_own:
            raise self._claims.occupied(key)

    async def _is_copy(self, source: str, target: str) -> bool:
        """Whether an object has the bytes of another one. What has gone meanwhile is no matter."""
        of_target = await self._objects.get(target, max_bytes=_ANY_SIZE)
        of_source = await self._objects.get(source, max_bytes=_ANY_SIZE)
        return of_target is None or (of_source is not None and of_source.data == of_target.data)

    async def _claim(self) -> None:
        """Claim the target, and look once more whether somebody else has come in between."""
        made: list[SnapshotLocation] = []
        try:
            for location, end in self._ends.items():
                is_new = location not in self._claims.locations
                await self._claims.write(location, end)
                if is_new:
                    made.append(location)
            if made:
                await self._require_free_target()
        except SnapshotExistsError:
            for location in made:
                await self._claims.release(location)
            raise

    async def _stash(self) -> AsyncGenerator[_Copy, None]:
        source, target = self._stash_of(self._session_id), self._stash_of(self._into)
        async with aclosing(self._objects.scan(source)) as pages:
            async for page in pages:
                for key in page:
                    if self._layout.is_stash(key, self._session_id):
                        yield _Copy(key, target + key.removeprefix(source), None)

    async def _histories(self) -> AsyncGenerator[_Copy, None]:
        for location in self._ends:
            async with aclosing(self._history(location)) as copies:
                async for copy in copies:
                    yield copy

    async def _late_histories(self) -> AsyncGenerator[_Copy, None]:
        """What was saved while the fork was made, before the latest snapshot was copied."""
        if self._report.dry_run:
            return
        for location, end in self._ends.items():
            if end is None:
                async with aclosing(self._history(location)) as copies:
                    async for copy in copies:
                        yield copy

    async def _history(self, location: SnapshotLocation) -> AsyncGenerator[_Copy, None]:
        """What of a history is not at the target."""
        target = self._target_of(location)
        source = self._entries(location, self._ends[location])
        async with aclosing(source), aclosing(self._entries(target, None)) as copies:
            copied = await anext(copies, None)
            async for entry in source:
                while copied is not None and copied.snapshot_id < entry.snapshot_id:
                    copied = await anext(copies, None)
                if copied is None or copied.snapshot_id != entry.snapshot_id:
                    yield _Copy(entry.key, self._layout.history(target, entry.snapshot_id), {})

    async def _entries(
        self, location: SnapshotLocation, last: str | None
    ) -> AsyncGenerator[HistoryEntry, None]:
        history = iter_history(self._objects, self._layout, location, last=last)
        async with aclosing(history) as pages:
            async for page in pages:
                for entry in page:
                    yield entry

    async def _latests(self) -> AsyncGenerator[_Copy, None]:
        for location, end in self._ends.items():
            copy = self._latest_of(location)
            # Not every location has a latest snapshot.
            if end is not None or await exists(self._objects, copy.source):
                yield copy

    def _latest_of(self, location: SnapshotLocation) -> _Copy:
        end, target = self._ends[location], self._layout.latest(self._target_of(location))
        if end is None:
            return _Copy(self._layout.latest(location), target, None)
        return _Copy(self._layout.history(location, end), target, {ORIGIN: end})

    async def _copy(self, copy: _Copy) -> AsyncGenerator[ForkEvent, None]:
        place = Layout.place_of(copy.target, self._layout.session_prefix(self._into))
        is_latest = place is not None and place.kind == "latest"
        source = None if place is None else self._source_of(place.location)
        result: Literal["planned", "copied", "missing"] = "planned"
        if not self._report.dry_run:
            if source is not None and is_latest:
                await self._claims.require(source)
            result = "copied" if await self._is_copied(copy) else "missing"
        if result == "missing" and source is not None and is_latest:
            self._without_latest.add(source)
        self._report.copied += result != "missing"
        self._report.missing += result == "missing"
        yield ForkEvent(key=copy.source, into=copy.target, result=result)

    async def _is_copied(self, copy: _Copy) -> bool:
        if self._copying is not None:
            copied = await self._copying.copy(copy.source, copy.target, metadata=copy.metadata)
            return copied is not None
        stored = await self._objects.get(copy.source, max_bytes=_ANY_SIZE)
        if stored is None:
            return False
        metadata = stored.metadata if copy.metadata is None else copy.metadata
        keeping = capability(self._objects, MetadataStore)
        if keeping is None or not metadata:
            await self._objects.put(copy.target, stored.data)
        else:
            await keeping.put_with_metadata(copy.target, stored.data, metadata)
        return True

    def _stash_of(self, session_id: str) -> str:
        return self._layout.stash_prefix(session_id)

    def _target_of(self, location: SnapshotLocation) -> SnapshotLocation:
        return msgspec.structs.replace(location, session_id=self._into)

    def _source_of(self, location: SnapshotLocation) -> SnapshotLocation:
        return msgspec.structs.replace(location, session_id=self._session_id)
