"""Copy sessions from one storage to another.

A checkpoint writes history before latest. So the latest snapshots of a session are read before
anything else of it is listed, and written after everything else: also where somebody saves
meanwhile, the target never has a latest snapshot without the history that came before it, nor
without its stash.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Iterable
from contextlib import aclosing

from snapstore.operations.copying.contents import TargetContents
from snapstore.operations.copying.held import HeldLatest, HeldLatests
from snapstore.operations.copying.places import validate_apart
from snapstore.operations.copying.session_items import SessionItems
from snapstore.operations.copying.transfer import (
    ConflictMode,
    CopyReport,
    Item,
    Transfer,
    largest_object,
    validate_conflict_mode,
)
from snapstore.operations.events import CopyEvent
from snapstore.operations.listing import Listed
from snapstore.operations.operation import Operation, with_pace
from snapstore.operations.parallel import overlapped
from snapstore.operations.selection import session_ids
from snapstore.storage.snapshots import ObjectSnapshotStorage
from snapstore.stores.base import Body
from snapstore.stores.pace import Pace

__all__ = ["copy"]


def copy(
    source: ObjectSnapshotStorage,
    target: ObjectSnapshotStorage,
    *,
    sessions: Iterable[str] | AsyncIterable[str] | None = None,
    dry_run: bool = False,
    on_conflict: ConflictMode = "error",
    verify: bool = False,
    max_requests_per_second: float | None = None,
) -> Operation[CopyEvent, CopyReport]:
    """Copy sessions from one storage to another: a backup, or a migration.

    All that belongs to a session is copied byte for byte: latest snapshots, history, manifests, the
    SDKs' stash, and all else that `delete_session` would delete. The snapshot in history that a
    latest one was saved from stays known where the target's store keeps metadata. Nothing is
    deleted at the target.

    What the target has already is left alone. So a copy that was cut off can be made again and does
    the rest, and a copy that is repeated brings what is new. History at the target is never
    overwritten. Another latest snapshot, manifest or stash object there is a conflict, unless
    `on_conflict="overwrite"`, and is then replaced only at the version that was seen.

    The source may be in use. A latest snapshot is read before its history, and written after it, so
    that the target's history always has what latest was saved from.

    Args:
        source: Where from, open.
        target: Where to, open on the same event loop.
        sessions: The sessions; `None` for all.
        dry_run: Change nothing: the events tell what would be written.
        on_conflict: `"error"` reports another object at the target as a conflict; `"overwrite"`
            replaces it, unless it is in history.
        verify: Compare bytes, also where size and etag are equal.
        max_requests_per_second: For both storages together; `None` for no limit.

    Returns:
        The operation. Its events are about what the target did not have as the source does.
        Conflicts are events, and no error: the report's `ok` tells whether all is there. An object
        larger than both storages' `max_snapshot_bytes` allow is a failed event; 16 objects are in
        memory at most. It raises `ValueError` before anything is changed, if source and target are
        the same place, or the target lies in a session that is copied.

    Raises:
        TypeError: `sessions` is a single text.
        InvalidIdentifierError: One of `sessions` is no session id. Raised while it runs for an
            async iterable.
        ValueError: `on_conflict` is unknown, or `max_requests_per_second` is not more than 0.
    """
    validate_conflict_mode(on_conflict)
    pace = Pace(max_requests_per_second)
    report = CopyReport(dry_run=dry_run)
    if sessions is not None and not isinstance(sessions, str | AsyncIterable):
        sessions = list(sessions)
    view = with_pace(source, pace)
    ids = session_ids(view, sessions)
    to = with_pace(target, pace)
    max_bytes = largest_object(source, target)
    transfer = Transfer(
        to, report, pace, max_bytes=max_bytes, on_conflict=on_conflict, verify=verify
    )

    async def events() -> AsyncGenerator[CopyEvent, None]:
        async with aclosing(ids):
            around = await validate_apart(view, to, sessions)
            copying = _Copying(view, to, transfer, around)
            async with aclosing(overlapped(ids, copying.of_session)) as found:
                async for event in found:
                    try:
                        yield event
                    except GeneratorExit:
                        copying.is_left = True
                        raise
        report.requests = pace.turns

    return Operation(events(), report)


class _Copying:
    """Copies sessions.

    Args:
        source: Where from, with a pace.
        target: Where to, with a pace.
        transfer: Writes.
        around: Sessions that the target lies in.

    Attributes:
        is_left: Whether no more objects are begun, since nobody asks for events any longer.
    """

    def __init__(
        self,
        source: ObjectSnapshotStorage,
        target: ObjectSnapshotStorage,
        transfer: Transfer,
        around: frozenset[str],
    ) -> None:
        self._source = source
        self._target = target
        self._transfer = transfer
        self._around = around
        self.is_left: bool = False

    async def of_session(self, session_id: str) -> AsyncGenerator[CopyEvent, None]:
        """Copy one session."""
        if session_id in self._around:
            raise ValueError(f"the target lies in the session {session_id} of the source")
        session = SessionItems(self._source, self._target, session_id, self._transfer.max_bytes)
        async with HeldLatests() as held, TargetContents(self._target, session_id) as there:
            if not await session.find():
                yield self._transfer.report_only(
                    CopyEvent(
                        session_id=session_id,
                        key=self._source.layout.session_prefix(session_id),
                        result="missing",
                    )
                )
                return
            self._transfer.report.sessions += 1
            failed = await session.read_latests(held)
            for items in (session.items(held, there), session.archive()):
                async with aclosing(overlapped(self._until_left(items), self._write)) as events:
                    async for event in events:
                        session.note(event)
                        yield event
            if self.is_left:
                return
            for event in failed:
                yield self._transfer.report_only(event)
            async with aclosing(held.bodies()) as latests:
                async for latest, body in latests:
                    async with aclosing(self._write_latest(session, latest, body)) as events:
                        async for event in events:
                            yield event

    async def _until_left(
        self, items: AsyncGenerator[tuple[Item, Listed | None], None]
    ) -> AsyncGenerator[tuple[Item, Listed | None], None]:
        async with aclosing(items):
            async for item in items:
                if self.is_left:
                    return
                yield item

    def _write(self, pair: tuple[Item, Listed | None]) -> AsyncGenerator[CopyEvent, None]:
        return self._transfer.write(*pair)

    async def _write_latest(
        self, session: SessionItems, latest: HeldLatest, body: Body
    ) -> AsyncGenerator[CopyEvent, None]:
        item = session.latest(latest, body)
        if self._transfer.is_held(item):
            yield self._transfer.report_only(item.event("held"))
        elif not await session.has_its_history(latest):
            yield self._transfer.report_only(item.event("changed"))
        else:
            async with aclosing(self._transfer.write(item, Listed(item.target))) as events:
                async for event in events:
                    yield event
