"""Import a session from the file that it was exported to."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from snapstore.model.ids import validate_identifier
from snapstore.model.snapshot import SnapshotLocation
from snapstore.operations.copying.contents import TargetContents
from snapstore.operations.copying.transfer import (
    ConflictMode,
    CopyReport,
    Item,
    Transfer,
    largest_object,
    validate_conflict_mode,
)
from snapstore.operations.events import CopyEvent
from snapstore.operations.exports.import_files import (
    ImportFile,
    Source,
    is_source,
    open_import_file,
)
from snapstore.operations.exports.imported import ImportedObject
from snapstore.operations.listing import Listed
from snapstore.operations.operation import Operation, with_pace
from snapstore.operations.parallel import overlapped
from snapstore.storage.snapshots import ObjectSnapshotStorage
from snapstore.storage.writes import ORIGIN
from snapstore.stores.base import StoredObject, Version
from snapstore.stores.pace import Pace

__all__ = ["import_session"]


def import_session(
    storage: ObjectSnapshotStorage,
    source: Source,
    *,
    session_id: str | None = None,
    dry_run: bool = False,
    on_conflict: ConflictMode = "error",
    verify: bool = False,
    max_requests_per_second: float | None = None,
) -> Operation[CopyEvent, CopyReport]:
    """Import a session from a file that `export_session` has made.

    The file is read twice. First all of it is checked: that it is whole, that each member is an
    object of one session, and that snapshots and manifests are good ones. Only then it is imported,
    byte for byte, latest snapshots last. Members are matched to the layout, and never extracted.

    What is there already is treated as `copy` does: what is equal is left alone, so that an import
    that was cut off can be made again; history is never overwritten.

    Args:
        storage: Where to, open.
        source: The path of the file, a binary file, or an async iterable of its pieces. What can't
            seek is written to a temporary file. Whether it is compressed is seen by its content.
        session_id: Another session id to import it under; `None` for its own. Snapshots don't hold
            the session id, and references to the stash are resolved under the new one.
        dry_run: Change nothing: the file is checked, and the events tell what would be written.
        on_conflict: What is done about another latest snapshot, manifest or stash object: see
            `copy`.
        verify: Compare bytes with what is there, also where an etag is a hash of them.
        max_requests_per_second: `None` for no limit.

    Returns:
        The operation. Before anything is changed it raises one of these errors.

        - `InvalidExportError`: the file is no export, or not a whole one, or an object is larger
          than the storage's `max_snapshot_bytes`;
        - `SnapshotDecodeError`: it holds what should be a snapshot or a manifest, and is none;
        - `OSError`: the file can't be read;
        - `ModuleNotFoundError`: it is compressed, and the extra `archive` is not installed.

    Raises:
        TypeError: `source` is none of these.
        InvalidIdentifierError: `session_id` is not valid.
        ValueError: `on_conflict` is unknown, or `max_requests_per_second` is not more than 0.
    """
    if not is_source(source):
        raise TypeError(
            "source must be a path, a binary file or an async iterable of bytes, not a "
            f"{type(source).__name__}"
        )
    if session_id is not None:
        session_id = validate_identifier(session_id, "session_id")
    validate_conflict_mode(on_conflict)
    pace = Pace(max_requests_per_second)
    report = CopyReport(dry_run=dry_run)
    to = with_pace(storage, pace)
    max_bytes = largest_object(storage)
    transfer = Transfer(
        to, report, pace, max_bytes=max_bytes, on_conflict=on_conflict, verify=verify
    )

    async def events() -> AsyncGenerator[CopyEvent, None]:
        async with open_import_file(source, max_bytes=max_bytes) as file:
            exported = await file.check()
            report.sessions = 1
            importing = _Importing(to, session_id or exported, transfer)
            async with aclosing(importing.events(file)) as found:
                async for event in found:
                    yield event
        report.requests = pace.turns

    return Operation(events(), report)


class _Importing:
    """Imports a file that was checked.

    Args:
        target: Where to, with a pace.
        session_id: The session there.
        transfer: Writes.
    """

    def __init__(self, target: ObjectSnapshotStorage, session_id: str, transfer: Transfer) -> None:
        self._layout = target.layout
        self._target = target
        self._session_id = session_id
        self._transfer = transfer

    async def events(self, file: ImportFile) -> AsyncGenerator[CopyEvent, None]:
        """Import everything but latest snapshots, several at a time, and then those."""
        async with (
            TargetContents(self._target, self._session_id) as there,
            aclosing(file.objects()) as objects,
        ):
            first = _First(objects)
            pairs = self._pairs(first.until_latest(), there)
            async with aclosing(overlapped(pairs, self._write)) as events:
                async for event in events:
                    yield event
            async with aclosing(first.latests()) as latests:
                async for found in latests:
                    item = self._item(found)
                    if self._transfer.is_held(item):
                        yield self._transfer.report_only(item.event("held"))
                        continue
                    listed = Listed(item.target)
                    async with aclosing(self._transfer.write(item, listed)) as events:
                        async for event in events:
                            yield event

    async def _pairs(
        self, objects: AsyncGenerator[ImportedObject, None], there: TargetContents
    ) -> AsyncGenerator[tuple[Item, Listed | None], None]:
        async with aclosing(objects):
            async for found in objects:
                item = self._item(found)
                listed: Listed | None = Listed(item.target)
                if found.kind == "stash":
                    listed = await there.in_stash(item.target)
                elif item.location is not None and found.snapshot_id is not None:
                    listed = await there.in_history(item.location, found.snapshot_id)
                yield item, listed

    def _write(self, pair: tuple[Item, Listed | None]) -> AsyncGenerator[CopyEvent, None]:
        return self._transfer.write(*pair)

    def _item(self, found: ImportedObject) -> Item:
        member, layout = found.member, self._layout
        prefix = layout.stash_prefix if found.kind == "stash" else layout.session_prefix
        metadata = {} if member.origin is None else {ORIGIN: member.origin}
        stored = StoredObject(member.data, Version(""), metadata)
        location = found.location

        async def read() -> StoredObject | None:
            return stored

        return Item(
            found.session_id,
            member.name,
            prefix(self._session_id) + found.rest,
            read,
            len(member.data),
            location=None
            if location is None
            else SnapshotLocation(self._session_id, location.scope, location.scope_id),
            is_history=found.kind == "history",
            is_at_hand=True,
        )


class _First:
    """Divides objects into those before the first latest snapshot, and the latest snapshots.

    Args:
        objects: All of them, in the order of an export.
    """

    def __init__(self, objects: AsyncGenerator[ImportedObject, None]) -> None:
        self._objects = objects
        self._latest: ImportedObject | None = None

    async def until_latest(self) -> AsyncGenerator[ImportedObject, None]:
        """Those before the first latest snapshot."""
        async for found in self._objects:
            if found.kind == "latest":
                self._latest = found
                return
            yield found

    async def latests(self) -> AsyncGenerator[ImportedObject, None]:
        """The rest, if the others have been taken."""
        if self._latest is not None:
            yield self._latest
            async for found in self._objects:
                yield found
