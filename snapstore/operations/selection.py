"""Which sessions an operation works on."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Iterable
from contextlib import AsyncExitStack, aclosing

from snapstore.model.ids import validate_identifier
from snapstore.storage.snapshots import ObjectSnapshotStorage

__all__ = ["session_ids"]


def session_ids(
    storage: ObjectSnapshotStorage, sessions: Iterable[str] | AsyncIterable[str] | None
) -> AsyncGenerator[str, None]:
    """The sessions that an operation works on, each once.

    Args:
        storage: Where.
        sessions: Their ids; `None` for all. An async generator is closed at the end.

    Raises:
        TypeError: It is a single text.
        InvalidIdentifierError: One is no session id: at once, or while an async iterable is walked.
    """
    if sessions is None:
        return storage.iter_sessions()
    if isinstance(sessions, str):
        raise TypeError("sessions must be several ids, not one text")
    if isinstance(sessions, AsyncIterable):
        return _validated(sessions)
    return _given([validate_identifier(found, "session_id") for found in sessions])


async def _given(ids: list[str]) -> AsyncGenerator[str, None]:
    for session_id in dict.fromkeys(ids):
        yield session_id


async def _validated(sessions: AsyncIterable[str]) -> AsyncGenerator[str, None]:
    seen: set[str] = set()
    async with AsyncExitStack() as stack:
        if isinstance(sessions, AsyncGenerator):
            await stack.enter_async_context(aclosing(sessions))
        async for session_id in sessions:
            if validate_identifier(session_id, "session_id") not in seen:
                seen.add(session_id)
                yield session_id
