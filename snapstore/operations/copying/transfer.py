"""Write objects at a target, each only where nothing is lost there.

An object that the target has already, with equal bytes, is left alone. What else lies under its key
is a conflict, unless it may be replaced, and then it is replaced only at the version that was seen.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Final, Literal, NamedTuple

import msgspec

from snapstore.encoding.padding import PADDING_BYTES
from snapstore.errors import InvalidIdentifierError, OutcomeUnknownError, StorageError
from snapstore.model.snapshot import SnapshotLocation
from snapstore.operations.events import CopyEvent
from snapstore.operations.listing import Listed
from snapstore.operations.parallel import WIDTH
from snapstore.storage.snapshots import ObjectSnapshotStorage
from snapstore.storage.writes import ORIGIN
from snapstore.stores.base import (
    ObjectTooLargeError,
    PreconditionFailedError,
    StoredObject,
    content_version,
)
from snapstore.stores.capabilities import MetadataStore, capability
from snapstore.stores.pace import Pace

__all__ = [
    "ConflictMode",
    "CopyReport",
    "Item",
    "Transfer",
    "code_of_object",
    "largest_object",
    "validate_conflict_mode",
]

ConflictMode = Literal["error", "overwrite"]
"""What is done about another object at the target, unless it is history."""

_LARGE: Final = 512 * 1024
"""Bytes from which on a hash of them would stall the event loop."""
_OF_THE_OBJECT: Final = frozenset({"EntityTooLarge", "InvalidObjectState", "KeyTooLongError"})
"""Codes of S3 that concern one object, and not all of them."""
_NOT_WHOLE: Final = frozenset({"conflict", "changed", "failed"})
"""What became of an entry in history, so that the target's history is not whole."""


class CopyReport(msgspec.Struct, kw_only=True):
    """Totals of what was copied, or in a dry run would be.

    Attributes:
        dry_run: Whether nothing was changed.
        sessions: Sessions that were found.
        copied: Objects that were not there before.
        replaced: Objects written over another one.
        bytes: Bytes of both.
        equal: Objects that were there already.
        conflicts: Objects in whose place there is another one, which was not touched.
        held: Latest snapshots not written, since their history at the target is not whole.
        missing: Sessions and objects that the source does not have, or not any more.
        changed: Objects that are not as a plan says, and latest snapshots to be copied by another
            run.
        failed: Objects that can't be copied.
        requests: Calls of both stores: on S3 a request each, without retries.
    """

    dry_run: bool = False
    sessions: int = 0
    copied: int = 0
    replaced: int = 0
    bytes: int = 0
    equal: int = 0
    conflicts: int = 0
    held: int = 0
    missing: int = 0
    changed: int = 0
    failed: int = 0
    requests: int = 0

    @property
    def ok(self) -> bool:
        """Whether the target has all that the source has, or in a dry run would have."""
        return not (self.conflicts or self.held or self.changed or self.failed)

    def count(self, event: CopyEvent) -> None:
        """Count an event."""
        match event.result:
            case "planned" | "copied" | "replaced":
                is_new = event.result == "copied" or (
                    event.result == "planned" and event.replaces is None
                )
                self.copied += is_new
                self.replaced += not is_new
                self.bytes += event.size or 0
            case "conflict":
                self.conflicts += 1
            case "held":
                self.held += 1
            case "missing":
                self.missing += 1
            case "changed":
                self.changed += 1
            case "failed":
                self.failed += 1


class Item(NamedTuple):
    """An object that is to be written at a target.

    Attributes:
        session_id: Its session at the source.
        key: Its key at the source.
        target: Its full key at the target.
        read: Reads it; `None` if it is gone.
        size: Its bytes; `None` if that is not known.
        etag: Its etag at the source; `None` if that is not known.
        location: The location whose history it is in, or whose latest it is.
        is_history: Whether it is in history.
        is_at_hand: Whether to read it costs nothing.
    """

    session_id: str
    key: str
    target: str
    read: Callable[[], Awaitable[StoredObject | None]]
    size: int | None = None
    etag: str | None = None
    location: SnapshotLocation | None = None
    is_history: bool = False
    is_at_hand: bool = False

    def event(
        self,
        outcome: Literal[
            "planned", "copied", "replaced", "conflict", "held", "missing", "changed", "failed"
        ],
        stored: StoredObject | None = None,
        *,
        replaces: str | None = None,
        code: str | None = None,
    ) -> CopyEvent:
        """What became of it."""
        return CopyEvent(
            session_id=self.session_id,
            key=self.key,
            result=outcome,
            size=self.size if stored is None else len(stored.data),
            etag=self.etag if stored is None or self.is_at_hand else stored.version.etag,
            replaces=replaces,
            code=code,
        )


def largest_object(*storages: ObjectSnapshotStorage) -> int:
    """How many bytes an object may have that all of the storages can load."""
    return min(storage.max_snapshot_bytes for storage in storages) + PADDING_BYTES


def code_of_object(error: StorageError | InvalidIdentifierError) -> str | None:
    """The code for an event, if an error concerns one object; `None` if it concerns all of them."""
    if isinstance(error, InvalidIdentifierError):
        return "InvalidKey"
    if isinstance(error, ObjectTooLargeError):
        return "TooLarge"
    return error.code if error.code in _OF_THE_OBJECT else None


def validate_conflict_mode(mode: object) -> None:
    """Check the argument `on_conflict`.

    Raises:
        ValueError: It is neither `"error"` nor `"overwrite"`.
    """
    if mode not in ("error", "overwrite"):
        raise ValueError("on_conflict must be 'error' or 'overwrite'")


class Transfer:
    """Writes objects at a target, and keeps account.

    Args:
        target: Where to, with a pace.
        report: Counts.
        pace: Counts requests.
        max_bytes: How large an object may be.
        on_conflict: What is done about another object there.
        verify: Whether objects are equal only by their bytes, and not by size and etag.

    Attributes:
        report: As the argument.
        max_bytes: As the argument.
    """

    def __init__(
        self,
        target: ObjectSnapshotStorage,
        report: CopyReport,
        pace: Pace,
        *,
        max_bytes: int,
        on_conflict: ConflictMode = "error",
        verify: bool = False,
    ) -> None:
        self._objects = target.objects
        self.report: CopyReport = report
        self._pace = pace
        self.max_bytes: int = max_bytes
        self._overwrites = on_conflict == "overwrite"
        self._verify = verify
        self._slots = asyncio.Semaphore(WIDTH)
        self._broken: set[SnapshotLocation] = set()

    async def write(self, item: Item, listed: Listed | None) -> AsyncGenerator[CopyEvent, None]:
        """Write an object where there is none yet, or another one that may be replaced.

        Args:
            item: The object.
            listed: As a listing tells of the one that is at the target; `None` if there is none.

        Returns:
            An async generator of an event, or of none if the target has it already.
        """
        async with self._slots:
            event = await self._of_object(item, self._write(item, listed))
        for counted in self._count(item, event):
            yield counted

    async def write_planned(
        self, item: Item, replaces: str | None
    ) -> AsyncGenerator[CopyEvent, None]:
        """Write an object only if both sides are still as a plan says.

        Args:
            item: The object, with its size and etag at the source.
            replaces: The etag of the object that it replaces; `None` if there is none.
        """
        async with self._slots:
            event = await self._of_object(item, self._write_planned(item, replaces))
        if event is not None and event.result == "missing":
            self._break(item)  # nothing tells whether its session is being deleted
        for counted in self._count(item, event):
            yield counted

    def report_only(self, event: CopyEvent) -> CopyEvent:
        """Count an event about what was not even tried."""
        self.report.count(event)
        self.report.requests = self._pace.turns
        return event

    def is_held(self, item: Item) -> bool:
        """Whether a latest snapshot must not be written, since its history is not whole there."""
        return item.location in self._broken

    def _count(self, item: Item, event: CopyEvent | None) -> list[CopyEvent]:
        self.report.requests = self._pace.turns
        if event is None:
            self.report.equal += 1
            return []
        self.report.count(event)
        if event.result in _NOT_WHOLE:
            self._break(item)
        return [event]

    def _break(self, item: Item) -> None:
        """Note that a history at the target is not whole, if the object is of one."""
        if item.is_history and item.location is not None:
            self._broken.add(item.location)

    async def _of_object(self, item: Item, work: Awaitable[CopyEvent | None]) -> CopyEvent | None:
        """Make an event of an error that concerns one object."""
        try:
            return await work
        except (StorageError, InvalidIdentifierError) as error:
            code = code_of_object(error)
            if code is None:
                raise
            return item.event("failed", code=code)

    async def _write(self, item: Item, listed: Listed | None) -> CopyEvent | None:
        may_replace = self._overwrites and not item.is_history
        if listed is not None:
            if self._is_equal_as_listed(item, listed):
                return None
            if (
                not may_replace
                and None not in (item.size, listed.size)
                and item.size != listed.size
            ):
                return item.event("conflict")
        stored = await item.read() if item.is_at_hand else None
        if (
            stored is not None
            and listed is not None
            and not self._verify
            and await _is_etag_of(listed.etag, stored.data)
        ):
            return None
        there = None
        if listed is not None:
            try:
                there = await self._get(item.target)
            except ObjectTooLargeError:
                return item.event("conflict")
            if there is not None and not self._verify and await _is_etag_of(item.etag, there.data):
                return None
        is_known = item.etag is not None or item.is_history
        if self.report.dry_run and there is None and is_known:
            return item.event("planned")
        stored = stored or await item.read()
        if stored is None:
            return item.event("missing")
        if there is not None and there.data == stored.data:
            return None
        if there is not None and not may_replace:
            return item.event("conflict", stored)
        if self.report.dry_run:
            replaces = None if there is None else there.version.etag
            return item.event("planned", stored, replaces=replaces)
        return await self._put(item, stored, there, "conflict")

    async def _write_planned(self, item: Item, replaces: str | None) -> CopyEvent | None:
        stored = await item.read()
        if stored is None:
            return item.event("missing")
        if (item.etag or stored.version.etag) != stored.version.etag or (
            item.size not in (None, len(stored.data))
        ):
            return item.event("changed", stored)
        there = None
        if replaces is not None:
            there = await self._get(item.target)
            if there is not None and there.data == stored.data:
                return None
            if there is None or there.version.etag != replaces:
                return item.event("changed", stored)
        return await self._put(item, stored, there, "changed")

    def _is_equal_as_listed(self, item: Item, listed: Listed) -> bool:
        return (
            not self._verify
            and item.etag is not None
            and item.etag == listed.etag
            and item.size == listed.size
        )

    async def _get(self, key: str) -> StoredObject | None:
        return await self._objects.get(key, max_bytes=self.max_bytes)

    async def _put(
        self,
        item: Item,
        stored: StoredObject,
        there: StoredObject | None,
        refused: Literal["conflict", "changed"],
    ) -> CopyEvent | None:
        """Write where there is nothing, or over the object that was seen."""
        if_match = None if there is None else there.version
        origin = stored.metadata.get(ORIGIN)
        keeping = None if origin is None else capability(self._objects, MetadataStore)
        failure: PreconditionFailedError | OutcomeUnknownError
        try:
            if keeping is None or origin is None:
                await self._objects.put(
                    item.target, stored.data, if_match=if_match, if_none_match=there is None
                )
            else:
                await keeping.put_with_metadata(
                    item.target,
                    stored.data,
                    {ORIGIN: origin},
                    if_match=if_match,
                    if_none_match=there is None,
                )
        except (PreconditionFailedError, OutcomeUnknownError) as error:
            failure = error
        else:
            return item.event("copied" if there is None else "replaced", stored)
        try:
            now = await self._get(item.target)
        except ObjectTooLargeError:
            return item.event(refused, stored)
        if now is not None and now.data == stored.data:
            return None  # by an earlier try, or another run
        if isinstance(failure, OutcomeUnknownError):
            raise failure
        return item.event(refused, stored)


async def _is_etag_of(etag: str | None, data: bytes) -> bool:
    """Whether an etag is a hash of the bytes, as S3 makes it, or stores without etags."""
    if etag is None:
        return False
    if len(data) < _LARGE:
        return etag in _hashes(data)
    return etag in await asyncio.to_thread(_hashes, data)


def _hashes(data: bytes) -> tuple[str, str]:
    return hashlib.md5(data, usedforsecurity=False).hexdigest(), content_version(data).etag
