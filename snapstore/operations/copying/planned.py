"""Copy what the events of a dry run say, and no more."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from functools import partial
from itertools import islice
from typing import Final, TypeGuard

from snapstore.errors import InvalidIdentifierError, shown
from snapstore.operations.copying.places import validate_apart
from snapstore.operations.copying.transfer import CopyReport, Item, Transfer, largest_object
from snapstore.operations.events import CopyEvent, Event
from snapstore.operations.operation import Operation, with_pace
from snapstore.operations.parallel import overlapped
from snapstore.storage.snapshots import ObjectSnapshotStorage
from snapstore.stores.pace import Pace

__all__ = ["apply_copies"]

_BATCH: Final = 256
"""How many events are taken at a time."""


def apply_copies(
    source: ObjectSnapshotStorage,
    target: ObjectSnapshotStorage,
    events: Iterable[Event],
    *,
    max_requests_per_second: float | None = None,
) -> Operation[CopyEvent, CopyReport]:
    """Copy what the events of a dry run say, and no more.

    An object is copied only if it is at the source as the event says, and if the target still has
    what the event says, or nothing. Otherwise its event is `"changed"`, and nothing is written.
    Events other than planned copies are skipped.

    Args:
        source: Where from, open.
        target: Where to, open.
        events: The events, in the order in which they came. They are read as they are needed.
        max_requests_per_second: For both storages together; `None` for no limit.

    Returns:
        The operation. It raises `ValueError` at an event whose key is not of the source.

    Raises:
        ValueError: `max_requests_per_second` is not more than 0.
    """
    pace = Pace(max_requests_per_second)
    report = CopyReport()
    view, to = with_pace(source, pace), with_pace(target, pace)
    max_bytes = largest_object(source, target)
    transfer = Transfer(to, report, pace, max_bytes=max_bytes)

    async def applied() -> AsyncGenerator[CopyEvent, None]:
        around = await validate_apart(view, to, [])
        planned = _Planned(view, to, transfer, around)
        copies = (event for event in events if _is_planned_copy(event))
        while batch := [*islice(copies, _BATCH)]:
            async with aclosing(planned.of_batch(batch)) as results:
                async for result in results:
                    yield result
        report.requests = pace.turns

    return Operation(applied(), report)


class _Planned:
    """Copies what events say.

    Args:
        source: Where from, with a pace.
        target: Where to, with a pace.
        transfer: Writes.
        around: Sessions that the target lies in.
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

    async def of_batch(self, batch: list[CopyEvent]) -> AsyncGenerator[CopyEvent, None]:
        """Copy what some events say, the latest snapshots among them last."""
        pairs = [(self._item(event), event.replaces) for event in batch]
        for is_latest in (False, True):
            chosen = [pair for pair in pairs if _is_latest(pair[0]) is is_latest]
            async with aclosing(overlapped(_each(chosen), self._write)) as events:
                async for event in events:
                    yield event

    async def _write(self, pair: tuple[Item, str | None]) -> AsyncGenerator[CopyEvent, None]:
        item, replaces = pair
        if _is_latest(item) and self._transfer.is_held(item):
            yield self._transfer.report_only(item.event("held"))
            return
        async with aclosing(self._transfer.write_planned(item, replaces)) as events:
            async for event in events:
                yield event

    def _item(self, event: CopyEvent) -> Item:
        if event.session_id in self._around:
            raise ValueError(f"the target lies in the session {event.session_id} of the source")
        source, target, session_id = self._source.layout, self._target.layout, event.session_id
        try:
            prefix, stash = source.session_prefix(session_id), source.stash_prefix(session_id)
        except InvalidIdentifierError:
            prefix = stash = ""
        key = event.key
        if stash and key.startswith(stash):
            to = target.stash_prefix(session_id) + key.removeprefix(stash)
        elif prefix and key.startswith(prefix):
            to = target.session_prefix(session_id) + key.removeprefix(prefix)
        else:
            raise ValueError(f"an event is not of the source: {shown(key)}")
        place = source.place_of(key, prefix)
        is_history = place is not None and place.kind == "history"
        is_snapshot = place is not None and place.kind in ("history", "latest")
        return Item(
            session_id,
            key,
            to,
            partial(self._source.objects.get, key, max_bytes=self._transfer.max_bytes),
            event.size,
            event.etag,
            place.location if place is not None and is_snapshot else None,
            is_history=is_history,
        )


def _is_planned_copy(event: Event) -> TypeGuard[CopyEvent]:
    return isinstance(event, CopyEvent) and event.result == "planned"


def _is_latest(item: Item) -> bool:
    return item.location is not None and not item.is_history


async def _each(
    pairs: list[tuple[Item, str | None]],
) -> AsyncGenerator[tuple[Item, str | None], None]:
    for pair in pairs:
        yield pair
