"""Read every object of sessions, and tell what is not as it should be. Mend it only when told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Iterable
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec

from snapstore.encoding.envelope import decode_manifest, decode_raw_snapshot_in_slices
from snapstore.encoding.padding import PADDING_BYTES, strip_padding
from snapstore.errors import (
    InvalidIdentifierError,
    InvalidResponseError,
    SnapshotDecodeError,
)
from snapstore.model.ids import snapshot_time
from snapstore.model.keys import Layout, ObjectPlace, PackName
from snapstore.model.snapshot import SnapshotLocation, VersionedSnapshot
from snapstore.operations.archiving.packing import verify as verify_pack
from snapstore.operations.locations import exists
from snapstore.operations.operation import Operation, with_pace
from snapstore.operations.parallel import overlapped
from snapstore.operations.selection import session_ids
from snapstore.operations.verifying.findings import VerifyFinding, VerifyReport
from snapstore.operations.verifying.mending import Mending
from snapstore.operations.verifying.stashes import stashes_without_session
from snapstore.storage.claims import read_claim
from snapstore.storage.packs import read_pack
from snapstore.storage.snapshots import ObjectSnapshotStorage
from snapstore.stores.base import ObjectTooLargeError, StoredObject
from snapstore.stores.pace import Pace

__all__ = ["verify"]

_ANY_SIZE: Final = 2**62
_AT_ONCE: Final = 8
"""How many objects of a session are read at a time."""
_FRESH: Final = timedelta(minutes=1)
"""For how long after a checkpoint began its latest snapshot may still be missing."""
_AHEAD: Final = timedelta(days=1)
"""How far an id may be in the future: clocks differ."""


def verify(
    storage: ObjectSnapshotStorage,
    *,
    sessions: Iterable[str] | AsyncIterable[str] | None = None,
    mend: bool = False,
    max_requests_per_second: float | None = None,
) -> Operation[VerifyFinding, VerifyReport]:
    """Read every object of sessions, and tell what is not as it should be.

    Args:
        storage: Where, open.
        sessions: The sessions; `None` for all, and then stashes without a session are found, too.
        mend: Set damaged objects aside, under `…/snapshots/damaged/`, and make the newest good
            snapshot of history the latest one where latest is damaged or missing. Nothing is done
            to an object that has changed since it was looked at.
        max_requests_per_second: Keeps it from slowing saves; `None` for no limit.

    Returns:
        The operation, whose events are findings.

    Raises:
        TypeError: `sessions` is a single text.
        InvalidIdentifierError: One of `sessions` is no session id. Raised while it runs for an
            async iterable.
        ValueError: `max_requests_per_second` is not more than 0.
    """
    pace = Pace(max_requests_per_second)
    report = VerifyReport()
    view = with_pace(storage, pace)
    verification = _Verification(view, report, mend=mend)
    ids = session_ids(view, sessions)

    async def events() -> AsyncGenerator[VerifyFinding, None]:
        sources = [overlapped(ids, verification.of_session)]
        if sessions is None:
            sources.append(stashes_without_session(view.objects, view.layout))
        for source in sources:
            async with aclosing(source) as findings:
                async for finding in findings:
                    report.findings += 1
                    report.mended += finding.mended is not None
                    report.requests = pace.turns
                    yield finding
        report.requests = pace.turns

    return Operation(events(), report)


class _Verification:
    def __init__(self, storage: ObjectSnapshotStorage, report: VerifyReport, *, mend: bool) -> None:
        self._storage = storage
        self._objects = storage.objects
        self._layout = storage.layout
        self._report = report
        self._mending = Mending(storage) if mend else None
        # A pack takes its memory.
        self._slot = asyncio.Semaphore(1)

    async def of_session(self, session_id: str) -> AsyncGenerator[VerifyFinding, None]:
        """Verify one session: each object by itself, and then each location as a whole."""
        self._report.sessions += 1
        session = _Session()
        keys = self._keys(session_id)

        def look_at(key: str) -> AsyncGenerator[VerifyFinding, None]:
            return self._of_object(key, session_id, session)

        work = overlapped(keys, look_at, width=_AT_ONCE)
        try:
            async with aclosing(work) as findings:
                async for finding in findings:
                    yield finding
        except InvalidResponseError as error:
            if "out of order" not in str(error):
                raise
            yield VerifyFinding(
                kind="listing out of order",
                key=self._layout.session_prefix(session_id),
                message="the store lists snapshots in another order than that of their ids",
            )
            return
        for location, found in session.locations.items():
            async with aclosing(self._of_location(location, found)) as findings:
                async for finding in findings:
                    yield finding

    async def _keys(self, session_id: str) -> AsyncGenerator[str, None]:
        prefix = self._layout.session_prefix(session_id)
        previous = ""
        async with aclosing(self._objects.scan(prefix)) as pages:
            async for page in pages:
                for key in page:
                    if Layout.is_nested_store(key, prefix):
                        continue
                    same = key.rpartition("/")[0] == previous.rpartition("/")[0]
                    if same and key <= previous:
                        raise InvalidResponseError(
                            f"the listing of {prefix} is out of order",
                            operation="scan",
                            key=prefix,
                        )
                    previous = key
                    yield key

    async def _of_object(
        self, key: str, session_id: str, session: _Session
    ) -> AsyncGenerator[VerifyFinding, None]:
        self._report.objects += 1
        place = Layout.place_of(key, self._layout.session_prefix(session_id))
        found = None if place is None else session.at(place.location)
        if place is None or found is None:
            yield VerifyFinding(
                kind="foreign object", key=key, message="it is not of the layout of snapshots"
            )
        elif place.kind == "manifest":
            async with aclosing(self._of_manifest(key, place)) as findings:
                async for finding in findings:
                    yield finding
        elif place.kind in ("latest", "history"):
            async with aclosing(self._of_snapshot(key, place, found)) as findings:
                async for finding in findings:
                    yield finding
        elif place.kind == "archive":
            packed = await self._of_archive(key, place.location)
            if packed is not None:
                yield packed
        elif place.kind == "damaged":
            yield VerifyFinding(
                kind="set aside", key=key, message="damaged bytes that were set aside"
            )

    async def _of_archive(self, key: str, location: SnapshotLocation) -> VerifyFinding | None:
        name = Layout.pack_in(key, self._layout.archive_prefix(location))
        if name is None:
            return VerifyFinding(
                kind="foreign object", key=key, message="it is not of the layout of snapshots"
            )
        if key == name.claim:
            return await self._of_claim(name)
        async with self._slot:
            try:
                max_bytes = self._storage.max_snapshot_bytes
                pack = await read_pack(self._objects, name, max_bytes=max_bytes)
                if pack is not None:
                    await asyncio.to_thread(verify_pack, pack)
            except SnapshotDecodeError as error:
                return VerifyFinding(kind="pack damaged", key=key, message=str(error))
        return None

    async def _of_claim(self, name: PackName) -> VerifyFinding | None:
        try:
            claim = await read_claim(self._objects, name)
        except SnapshotDecodeError as error:
            return VerifyFinding(kind="pack damaged", key=name.claim, message=str(error))
        if claim is None or claim.state == "idle":
            return None
        return VerifyFinding(
            kind="unfinished archive",
            key=name.claim,
            message="an operation is at work on its pack, or was cut off; archive goes on",
        )

    async def _of_manifest(
        self, key: str, place: ObjectPlace
    ) -> AsyncGenerator[VerifyFinding, None]:
        stored = await self._objects.get(key, max_bytes=_ANY_SIZE)
        if stored is None:
            return
        try:
            manifest = decode_manifest(stored.data, key=key)
        except SnapshotDecodeError as error:
            mended = await self._set_aside(place.location, key, stored)
            yield VerifyFinding(kind="manifest damaged", key=key, message=str(error), mended=mended)
            return
        claim = manifest.extra.get("forkedFrom")
        if isinstance(claim, dict) and claim.get("complete") is False:
            yield VerifyFinding(
                kind="unfinished fork",
                key=key,
                message="the fork was cut off; make it again, or erase the session",
            )

    async def _of_snapshot(
        self, key: str, place: ObjectPlace, found: _Location
    ) -> AsyncGenerator[VerifyFinding, None]:
        is_latest = place.kind == "latest"
        found.has_latest = found.has_latest or is_latest
        found.has_history = found.has_history or not is_latest
        try:
            snapshot = await self._storage.load_versioned(
                location=place.location, snapshot_id=place.snapshot_id
            )
        except SnapshotDecodeError as error:
            try:
                stored = await self._read_damaged(key)
            except ObjectTooLargeError:
                yield VerifyFinding(kind="too large", key=key, message=str(error))
                return
            if stored is None:
                return
            if is_latest:
                found.damaged_latest = str(error), stored
                return
            mended = await self._set_aside(place.location, key, stored)
            yield VerifyFinding(kind="history damaged", key=key, message=str(error), mended=mended)
            return
        if snapshot is None:
            return
        if snapshot.snapshot.scope != place.location.scope:
            yield VerifyFinding(
                kind="wrong scope",
                key=key,
                message=f"a snapshot of scope {snapshot.snapshot.scope!r} lies in another one",
            )
            return
        if is_latest:
            found.latest = snapshot
        elif place.snapshot_id is not None:
            if _is_ahead(place.snapshot_id):
                yield VerifyFinding(
                    kind="id in the future",
                    key=key,
                    message="its id is over a day ahead of this clock: it comes after newer ones",
                )
            else:
                # Only what nothing was found about may become the latest.
                found.newest = max(found.newest, place.snapshot_id)

    async def _of_location(
        self, location: SnapshotLocation, found: _Location
    ) -> AsyncGenerator[VerifyFinding, None]:
        key = self._layout.latest(location)
        if found.damaged_latest is not None:
            problem, stored = found.damaged_latest
            mended = await self._replace_latest(location, found, stored)
            yield VerifyFinding(kind="latest damaged", key=key, message=problem, mended=mended)
        elif found.has_history and not found.has_latest:
            # A first checkpoint writes history first, and latest in the next moment.
            if _is_fresh(found.newest) or await exists(self._objects, key):
                return
            mended = await self._replace_latest(location, found, None)
            yield VerifyFinding(
                kind="latest missing",
                key=key,
                message="there is history, but no latest snapshot",
                mended=mended,
            )
        elif found.latest is not None and found.latest.snapshot_id is not None:
            origin = found.latest.snapshot_id
            entry = self._layout.history(location, origin)
            try:
                saved = await self._storage.load_snapshot(location=location, snapshot_id=origin)
                if saved is None:  # a rewind beside an archiver: it was moved all the same
                    saved = await self._storage.load_archived(location=location, snapshot_id=origin)
            except SnapshotDecodeError:
                return  # it is a finding already
            if saved is None:
                yield VerifyFinding(
                    kind="latest without its history",
                    key=key,
                    message=f"it was saved from {entry}, which does not exist",
                )
            elif saved != found.latest.snapshot:
                yield VerifyFinding(
                    kind="latest differs from its history",
                    key=key,
                    message=f"it has another document than {entry}, which it was saved from",
                )

    async def _set_aside(
        self, location: SnapshotLocation, key: str, damaged: StoredObject
    ) -> str | None:
        if self._mending is None:
            return None
        return await self._mending.set_aside(location, key, damaged)

    async def _replace_latest(
        self, location: SnapshotLocation, found: _Location, damaged: StoredObject | None
    ) -> str | None:
        if self._mending is None or not found.newest:
            return None
        return await self._mending.replace_latest(location, found.newest, damaged)

    async def _read_damaged(self, key: str) -> StoredObject | None:
        """Read an object that was damaged; `None` if it is a good snapshot by now, or gone.

        Raises:
            ObjectTooLargeError: It is larger than a snapshot may be.
        """
        limit = self._storage.max_snapshot_bytes + PADDING_BYTES
        stored = await self._objects.get(key, max_bytes=limit)
        if stored is None:
            return None
        document = strip_padding(stored.data)
        if len(document) > self._storage.max_snapshot_bytes:
            raise ObjectTooLargeError(f"{key} is too large", operation="get", key=key)
        try:
            await decode_raw_snapshot_in_slices(document, key=key)
        except SnapshotDecodeError:
            return stored
        return None


class _Location(msgspec.Struct):
    """What was seen of a location."""

    has_latest: bool = False
    has_history: bool = False
    newest: str = ""
    latest: VersionedSnapshot | None = None
    damaged_latest: tuple[str, StoredObject] | None = None


class _Session:
    """What was seen of a session."""

    def __init__(self) -> None:
        self.locations: dict[SnapshotLocation, _Location] = {}

    def at(self, location: SnapshotLocation) -> _Location:
        """What was seen of one of its locations."""
        return self.locations.setdefault(location, _Location())


def _is_ahead(snapshot_id: str) -> bool:
    try:
        return snapshot_time(snapshot_id) > datetime.now(UTC) + _AHEAD
    except InvalidIdentifierError:  # later than any date
        return True


def _is_fresh(snapshot_id: str) -> bool:
    return bool(snapshot_id) and snapshot_time(snapshot_id) > datetime.now(UTC) - _FRESH
