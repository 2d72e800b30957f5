"""The shape of an operation: events as it goes, a report of totals, and a pace."""

from __future__ import annotations

import copy
from collections.abc import AsyncGenerator
from types import TracebackType
from typing import Generic, Self, TypeVar

from snapstore.storage.snapshots import ObjectSnapshotStorage
from snapstore.stores.pace import Pace

__all__ = ["Operation", "with_pace"]

EventT_co = TypeVar("EventT_co", covariant=True)
ReportT_co = TypeVar("ReportT_co", covariant=True)


class Operation(Generic[EventT_co, ReportT_co]):
    """Work on many objects. Nothing is done before it is iterated or run.

    It is iterated once, for an event about each object or session: what was done to it, or, in a
    dry run, what would be done. The next step is made when the next event is asked for. `run`
    iterates it to the end.

    It may be left at any point. Leaving it waits for the requests that are under way, and what was
    done until then stays done: the same operation can be started anew, and does the rest.

    Example:
        ::

            async with prune(storage, RetentionPolicy(keep_last=10)) as operation:
                async for event in operation:
                    print(event.key)
            print(operation.report.deleted)

            report = await prune(storage, RetentionPolicy(keep_last=10), dry_run=True).run()
    """

    def __init__(self, events: AsyncGenerator[EventT_co, None], report: ReportT_co) -> None:
        self._events = events
        self._report = report

    @property
    def report(self) -> ReportT_co:
        """The totals so far."""
        return self._report

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> EventT_co:
        return await anext(self._events)

    async def run(self) -> ReportT_co:
        """Do all of it, or the rest.

        Returns:
            The report.
        """
        async with self:
            async for _ in self:
                pass
        return self._report

    async def aclose(self) -> None:
        """Leave it, and wait for the requests that are under way."""
        await self._events.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()


def with_pace(storage: ObjectSnapshotStorage, pace: Pace) -> ObjectSnapshotStorage:
    """A view of a storage whose listings and `objects` wait for a turn before each request."""
    view = copy.copy(storage)
    view.objects = storage.objects.paced(pace)
    return view
