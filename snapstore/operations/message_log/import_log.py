"""Import what the Strands SDK's older session managers keep: a log of messages.

`FileSessionManager` and `S3SessionManager` of the SDK for Python have an object for each message::

    [<prefix>/]session_<session_id>/
        session.json
        agents/agent_<agent_id>/
            agent.json
            messages/message_<n>.json
        multi_agents/multi_agent_<orchestrator_id>/
            multi_agent.json
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Iterable, Mapping
from contextlib import aclosing
from typing import Any, Final, Literal

from snapstore.errors import InvalidIdentifierError, SnapshotDecodeError, SnapshotEncodeError
from snapstore.model.ids import validate_identifier
from snapstore.model.snapshot import SnapshotLocation
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
from snapstore.operations.message_log.logged import (
    InvalidLogError,
    encode_logged,
    logged_snapshot_id,
    orchestrator_data,
    time_of,
)
from snapstore.operations.message_log.reader import MessageLog
from snapstore.operations.operation import Operation, with_pace
from snapstore.operations.parallel import overlapped
from snapstore.operations.selection import session_ids
from snapstore.storage.snapshots import ObjectSnapshotStorage
from snapstore.storage.writes import ORIGIN
from snapstore.stores.base import ObjectTooLargeError, StoredObject, Version
from snapstore.stores.managed import ManagedStore
from snapstore.stores.pace import Pace

__all__ = ["import_message_log"]

_OF_A_DOCUMENT: Final = (
    InvalidIdentifierError,
    InvalidLogError,
    ObjectTooLargeError,
    SnapshotDecodeError,
    SnapshotEncodeError,
)
"""Errors that concern one document, and not the others."""
_WIDTH: Final = 4
"""Sessions at a time. Of each, all messages of one agent are in memory."""


def import_message_log(
    source: ManagedStore,
    target: ObjectSnapshotStorage,
    *,
    prefix: str = "",
    sessions: Iterable[str] | AsyncIterable[str] | None = None,
    dry_run: bool = False,
    on_conflict: ConflictMode = "error",
    max_requests_per_second: float | None = None,
) -> Operation[CopyEvent, CopyReport]:
    """Make snapshots of the sessions that the Strands SDK's older session managers have kept.

    Those are `FileSessionManager` and `S3SessionManager` of the SDK for Python. For each agent the
    snapshot has what they would restore: the messages that its conversation manager has not
    removed, redacted ones in their redacted form; state; interrupts; the state of the conversation
    manager and of the model. It is written as the latest snapshot and as an entry in history. For
    each orchestrator a latest snapshot is written, as the SDK does.

    Ids and times in snapshots come from the log. So an import that is repeated finds what it has
    written, and changes nothing. A latest snapshot that was changed since is a conflict.

    Nothing is invented: pairs of tool calls and results that a crash has left broken are imported
    as they are, and an agent whose model keeps the conversation on its server
    (`response_id` in the model's state) gets no messages, as the SDK has it.

    No agent should write to a session while it is imported.

    Args:
        source: The log, open: `ManagedStore(FileObjectStore(storage_dir))` for one in files,
            `storage.objects` of an `S3Storage` for one in a bucket.
        target: Where to, open.
        prefix: The prefix of `S3SessionManager`. `/` around it is ignored.
        sessions: The sessions; `None` for all.
        dry_run: Change nothing: the events tell what would be written.
        on_conflict: What is done about another latest snapshot: see `copy`.
        max_requests_per_second: For both together; `None` for no limit.

    Returns:
        The operation. The keys of its events are those at the target; or in the log, of what can't
        be imported: an id that is none here (`code="InvalidIdentifier"`), a document that is not
        as the SDK writes it (`"InvalidDocument"`), a conversation that is larger than the target's
        `max_snapshot_bytes` (`"TooLarge"`).

    Raises:
        TypeError: `sessions` is a single text, or `source` is no `ManagedStore`.
        InvalidIdentifierError: One of `sessions` is no session id. Raised while it runs for an
            async iterable.
        ValueError: `on_conflict` is unknown, or `max_requests_per_second` is not more than 0.
    """
    if not isinstance(source, ManagedStore):
        raise TypeError(f"source must be a ManagedStore, not a {type(source).__name__}")
    validate_conflict_mode(on_conflict)
    pace = Pace(max_requests_per_second)
    report = CopyReport(dry_run=dry_run)
    to = with_pace(target, pace)
    transfer = Transfer(to, report, pace, max_bytes=largest_object(target), on_conflict=on_conflict)
    trimmed = prefix.strip("/")
    log = MessageLog(source.paced(pace), f"{trimmed}/" if trimmed else "", transfer.max_bytes)
    ids = log.sessions() if sessions is None else session_ids(target, sessions)
    importing = _Importing(log, to, transfer)

    async def events() -> AsyncGenerator[CopyEvent, None]:
        async with aclosing(overlapped(ids, importing.of_session, width=_WIDTH)) as found:
            async for event in found:
                yield event
        report.requests = pace.turns

    return Operation(events(), report)


class _Importing:
    """Imports sessions.

    Args:
        log: The log.
        target: Where to, with a pace.
        transfer: Writes.
    """

    def __init__(self, log: MessageLog, target: ObjectSnapshotStorage, transfer: Transfer) -> None:
        self._log = log
        self._layout = target.layout
        self._max_bytes = target.max_snapshot_bytes
        self._transfer = transfer

    async def of_session(self, session_id: str) -> AsyncGenerator[CopyEvent, None]:
        """Import one session."""
        prefix = self._log.session_prefix(session_id)
        key = f"{prefix}session.json"
        session, code = None, None
        try:
            validate_identifier(session_id, "session_id")
            session = await self._log.read(key)
        except _OF_A_DOCUMENT as error:
            code = _code_of(error)
        if session is None:
            result: Literal["failed", "missing"] = "missing" if code is None else "failed"
            event = CopyEvent(session_id=session_id, key=key, result=result, code=code)
            yield self._transfer.report_only(event)
            return
        self._transfer.report.sessions += 1
        contents = await self._log.contents(session_id)
        for agent_id, numbers in contents.agents.items():
            key = f"{prefix}agents/agent_{agent_id}/agent.json"
            found = self._agent(session_id, agent_id, numbers)
            async with aclosing(self._write(session_id, key, found)) as events:
                async for event in events:
                    yield event
        for orchestrator_id in contents.orchestrators:
            key = f"{prefix}multi_agents/multi_agent_{orchestrator_id}/multi_agent.json"
            found = self._orchestrator(session_id, orchestrator_id, key, session)
            async with aclosing(self._write(session_id, key, found)) as events:
                async for event in events:
                    yield event

    async def _agent(self, session_id: str, agent_id: str, numbers: list[int]) -> list[Item] | None:
        location = SnapshotLocation.agent(session_id, agent_id)
        agent = await self._log.agent(session_id, agent_id, numbers)
        if agent is None:
            return None
        document = await asyncio.to_thread(encode_logged, "agent", agent.data(), agent.time)
        snapshot_id = logged_snapshot_id(document, agent.time)
        history = self._layout.history(location, snapshot_id)
        latest = self._layout.latest(location)
        return [
            _item(location, history, document, {}, is_history=True),
            _item(location, latest, document, {ORIGIN: snapshot_id}),
        ]

    async def _orchestrator(
        self, session_id: str, orchestrator_id: str, key: str, session: dict[str, Any]
    ) -> list[Item] | None:
        location = SnapshotLocation.multi_agent(session_id, orchestrator_id)
        found = await self._log.read(key)
        if found is None:
            return None
        # Its own document has no time. Its latest snapshot is all that the SDK keeps.
        data = orchestrator_data(found, orchestrator_id)
        time = time_of(session)
        document = await asyncio.to_thread(encode_logged, "multiAgent", data, time)
        return [_item(location, self._layout.latest(location), document, {})]

    async def _write(
        self, session_id: str, key: str, reading: Awaitable[list[Item] | None]
    ) -> AsyncGenerator[CopyEvent, None]:
        """Write the objects of one agent or orchestrator."""
        items, code = None, None
        try:
            items = await reading
        except _OF_A_DOCUMENT as error:
            code = _code_of(error)
        if items is None:
            result: Literal["failed", "missing"] = "missing" if code is None else "failed"
            event = CopyEvent(session_id=session_id, key=key, result=result, code=code)
            yield self._transfer.report_only(event)
            return
        for item in items:
            if (item.size or 0) > self._max_bytes:
                yield self._transfer.report_only(item.event("failed", code="TooLarge"))
            elif not item.is_history and self._transfer.is_held(item):
                yield self._transfer.report_only(item.event("held"))
            else:
                async with aclosing(self._transfer.write(item, Listed(item.target))) as events:
                    async for event in events:
                        yield event


def _item(
    location: SnapshotLocation,
    key: str,
    document: bytes,
    metadata: Mapping[str, str],
    *,
    is_history: bool = False,
) -> Item:
    stored = StoredObject(document, Version(""), metadata)

    async def read() -> StoredObject | None:
        return stored

    return Item(
        location.session_id,
        key,
        key,
        read,
        len(document),
        location=location,
        is_history=is_history,
        is_at_hand=True,
    )


def _code_of(error: Exception) -> str:
    if isinstance(error, InvalidIdentifierError):
        return "InvalidIdentifier"
    return "TooLarge" if isinstance(error, ObjectTooLargeError) else "InvalidDocument"
