"""Fork a session: its history up to a snapshot, under a session id that is free.

The target is claimed before anything is copied: the manifest of each location, written where there
is none, says what it is forked from. So two forks into one target are told apart, and a fork that
was cut off is known again by its claim and goes on. The claims say at the end that the fork is
whole: from then on it is a session like any other, and its id is taken.

Copies are made by the server where it can. They are never conditional, since many servers ignore
the condition of a copy: what lies at the target is listed before, and refused unless it is of this
fork. History is copied before latest. Where the latest snapshot of the source is copied, history
is listed once more after it: a checkpoint writes history first, so what latest was saved from is
there.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing, suppress
from typing import Any, Final, Literal, NamedTuple

import msgspec

from snapstore.encoding.envelope import decode_manifest, encode_manifest
from snapstore.errors import SnapshotDecodeError, SnapshotExistsError, SnapshotNotFoundError
from snapstore.model.ids import validate_identifier, validate_snapshot_id
from snapstore.model.keys import Layout
from snapstore.model.snapshot import SCHEMA_VERSION, SnapshotLocation, SnapshotManifest, now
from snapstore.operations.locations import iter_history, iter_locations
from snapstore.operations.operation import Operation, with_pace
from snapstore.operations.parallel import overlapped
from snapstore.storage.snapshots import ObjectSnapshotStorage
from snapstore.storage.writes import ORIGIN
from snapstore.stores.base import PreconditionFailedError, Version
from snapstore.stores.capabilities import CopyingStore, MetadataStore, capability
from snapstore.stores.pace import Pace

__all__ = ["ForkEvent", "ForkReport", "fork_session"]

_MAX_BYTES: Final = 2**20
"""How large a manifest may be."""
_ANY_SIZE: Final = 2**62
_CLAIM: Final = "forkedFrom"


class ForkEvent(msgspec.Struct, frozen=True, kw_only=True, tag="fork", omit_defaults=True):
    """An object of a fork.

    Attributes:
        key: The full key of the source.
        into: The full key of the copy.
        result: `"planned"` in a dry run; `"copied"`; `"missing"` where the source was deleted
            meanwhile.
    """

    key: str
    into: str
    result: Literal["planned", "copied", "missing"]


class ForkReport(msgspec.Struct, kw_only=True):
    """Totals of a fork.

    Attributes:
        dry_run: Whether nothing was changed.
        locations: Locations of the fork.
        copied: Objects copied, or to be copied: history, latest and stash.
        missing: Objects that were deleted at the source meanwhile.
        requests: Calls of the store: on S3 a request each, without retries.
    """

    dry_run: bool = False
    locations: int = 0
    copied: int = 0
    missing: int = 0
    requests: int = 0

    @property
    def ok(self) -> bool:
        """Whether everything was copied."""
        return not self.missing


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
        self._last_copied: dict[SnapshotLocation, str] = {}
        self._claims: dict[SnapshotLocation, Version] = {}
        self._whole: set[SnapshotLocation] = set()

    async def run(self) -> AsyncGenerator[ForkEvent, None]:
        await self._find_ends()
        await self._require_free_target()
        if not self._report.dry_run:
            await self._claim()
        self._report.locations = len(self._ends)
        for copies in (self._stash(), self._histories(), self._latests(), self._histories()):
            async with aclosing(overlapped(copies, self._copy)) as events:
                async for event in events:
                    self._report.requests = self._pace.turns
                    yield event
        if not self._report.dry_run:
            for location, claim in self._claims.items():
                if location not in self._whole:
                    await self._write_claim(location, claim)
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
        if self._whole and self._whole == self._ends.keys():
            raise self._occupied(self._layout.session_prefix(self._into))

    async def _require_own(self, key: str) -> None:
        stash = self._stash_of(self._into)
        if key.startswith(stash) and self._claims:
            source = self._stash_of(self._session_id) + key.removeprefix(stash)
            if await self._is_copy(source, key):
                return
            raise self._occupied(key)
        place = Layout.place_of(key, self._layout.session_prefix(self._into))
        location = None if place is None else self._source_of(place.location)
        if place is None or location is None or location not in self._ends:
            raise self._occupied(key)
        if location not in self._claims:
            await self._read_claim(location)
        end = self._ends[location]
        is_own = place.kind == "manifest"
        if place.kind == "latest":
            is_own = await self._is_copy(self._latest_of(location).source, key)
        elif place.snapshot_id is not None and (end is None or place.snapshot_id <= end):
            is_own = await self._is_copy(self._layout.history(location, place.snapshot_id), key)
        if not is_own:
            raise self._occupied(key)

    async def _read_claim(self, location: SnapshotLocation) -> None:
        """Read the claim of a location, which must be of this fork."""
        key = self._layout.manifest(self._target_of(location))
        stored = await self._objects.get(key, max_bytes=_MAX_BYTES)
        claim: Any = None
        if stored is not None:
            with suppress(SnapshotDecodeError):
                claim = decode_manifest(stored.data, key=key).extra.get(_CLAIM)
        expected = {"sessionId": self._session_id, "upto": self._upto}
        if stored is None or not isinstance(claim, dict) or not expected.items() <= claim.items():
            raise self._occupied(key)
        self._claims[location] = stored.version
        if claim.get("complete") is not False:
            self._whole.add(location)

    async def _is_copy(self, source: str, target: str) -> bool:
        """Whether an object has the bytes of another one. What has gone meanwhile is no matter."""
        of_target = await self._objects.get(target, max_bytes=_ANY_SIZE)
        of_source = await self._objects.get(source, max_bytes=_ANY_SIZE)
        return of_target is None or (of_source is not None and of_source.data == of_target.data)

    async def _claim(self) -> None:
        """Claim the target, and look once more whether somebody else has come in between."""
        made: list[SnapshotLocation] = []
        try:
            for location in self._ends:
                if location not in self._claims:
                    self._claims[location] = await self._write_claim(location, None)
                    made.append(location)
            if made:
                await self._require_free_target()
        except SnapshotExistsError:
            for location in made:
                await self._release(location)
            raise

    async def _write_claim(self, location: SnapshotLocation, replaces: Version | None) -> Version:
        """Write the claim of a location; with a version to replace, as complete."""
        key = self._layout.manifest(location)
        source = await self._objects.get(key, max_bytes=_MAX_BYTES)
        manifest = SnapshotManifest(SCHEMA_VERSION, now())
        if source is not None:
            manifest = decode_manifest(source.data, key=key)
        claim: dict[str, Any] = {
            "sessionId": self._session_id,
            "snapshotId": self._ends[location],
            "upto": self._upto,
            "complete": replaces is not None,
        }
        if _CLAIM in manifest.extra:
            claim[_CLAIM] = manifest.extra[_CLAIM]
        claimed = msgspec.structs.replace(manifest, extra={**manifest.extra, _CLAIM: claim})
        target = self._layout.manifest(self._target_of(location))
        data = encode_manifest(claimed, max_bytes=_MAX_BYTES)
        try:
            return await self._objects.put(
                target, data, if_match=replaces, if_none_match=replaces is None
            )
        except PreconditionFailedError:
            pass
        raise self._occupied(target)

    async def _release(self, location: SnapshotLocation) -> None:
        """Take back a claim, unless somebody has written over it."""
        key = self._layout.manifest(self._target_of(location))
        version = self._claims.pop(location)
        stored = await self._objects.get(key, max_bytes=_MAX_BYTES)
        if stored is not None and stored.version.etag == version.etag:
            await self._objects.delete([key])

    async def _stash(self) -> AsyncGenerator[_Copy, None]:
        source, target = self._stash_of(self._session_id), self._stash_of(self._into)
        async with aclosing(self._objects.scan(source)) as pages:
            async for page in pages:
                for key in page:
                    yield _Copy(key, target + key.removeprefix(source), None)

    async def _histories(self) -> AsyncGenerator[_Copy, None]:
        """What of history has not been copied yet."""
        for location, end in self._ends.items():
            after = self._last_copied.get(location)
            if after is not None and after == end:
                continue
            history = iter_history(self._objects, self._layout, location, after=after, last=end)
            async with aclosing(history) as pages:
                async for page in pages:
                    for entry in page:
                        target = self._layout.history(self._target_of(location), entry.snapshot_id)
                        yield _Copy(entry.key, target, {})
                        self._last_copied[location] = entry.snapshot_id

    async def _latests(self) -> AsyncGenerator[_Copy, None]:
        for location in self._ends:
            yield self._latest_of(location)

    def _latest_of(self, location: SnapshotLocation) -> _Copy:
        end, target = self._ends[location], self._layout.latest(self._target_of(location))
        if end is None:
            return _Copy(self._layout.latest(location), target, None)
        return _Copy(self._layout.history(location, end), target, {ORIGIN: end})

    async def _copy(self, copy: _Copy) -> AsyncGenerator[ForkEvent, None]:
        result: Literal["planned", "copied", "missing"] = "planned"
        if not self._report.dry_run and not await self._is_copied(copy):
            if self._upto is None and copy in map(self._latest_of, self._ends):
                return  # not every location has a latest snapshot
            result = "missing"
        elif not self._report.dry_run:
            result = "copied"
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

    def _occupied(self, key: str) -> SnapshotExistsError:
        return SnapshotExistsError(
            f"{key} exists: the session {self._into} is not free",
            operation="scan",
            bucket=self._objects.name,
            key=key,
            outcome="not applied",
        )
