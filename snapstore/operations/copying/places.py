"""Whether what is written at a target can change what is read at the source."""

from __future__ import annotations

from collections.abc import AsyncIterable, Iterable

from snapstore.errors import InvalidIdentifierError
from snapstore.operations.copying.contents import is_session
from snapstore.storage.snapshots import ObjectSnapshotStorage
from snapstore.stores.capabilities import LocatedStore, capability

__all__ = ["validate_apart"]


async def validate_apart(
    source: ObjectSnapshotStorage,
    target: ObjectSnapshotStorage,
    sessions: Iterable[str] | AsyncIterable[str] | None,
) -> frozenset[str]:
    """Check that a copy does not go from a place into itself.

    Args:
        source: Where from.
        target: Where to.
        sessions: The sessions that are copied; `None` for all.

    Returns:
        Sessions of the source that the target lies in, and that must not be copied into it.

    Raises:
        ValueError: They are the same, or the target lies in one of the sessions.
    """
    root = await _root(source)
    to = await _root(target) + target.layout.sessions_prefix
    if root + source.layout.sessions_prefix == to:
        raise ValueError(f"source and target are the same: {to}")
    around: set[str] = set()
    for session_id in set(to.split("/")):
        try:
            prefixes = (
                source.layout.session_prefix(session_id),
                source.layout.stash_prefix(session_id),
            )
        except InvalidIdentifierError:
            continue
        if any(to.startswith(root + prefix) for prefix in prefixes):
            around.add(session_id)
    for session_id in around:
        if sessions is None:
            is_copied = await is_session(source, session_id)
        else:
            is_copied = not isinstance(sessions, AsyncIterable) and session_id in set(sessions)
        if is_copied:
            raise ValueError(f"the target, {to}, lies in the session {session_id} of the source")
    return frozenset(around)


async def _root(storage: ObjectSnapshotStorage) -> str:
    located = capability(storage.objects, LocatedStore)
    with storage.objects.use():
        if located is None:
            return f"store:///{id(storage.objects.store):x}/"
        return await located.locate()
