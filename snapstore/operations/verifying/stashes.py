"""Look for stashes whose session is gone."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from snapstore.errors import InvalidIdentifierError
from snapstore.model.keys import Layout
from snapstore.model.snapshot import SnapshotLocation
from snapstore.operations.verifying.findings import VerifyFinding
from snapstore.stores.managed import ManagedStore

__all__ = ["stashes_without_session"]


async def stashes_without_session(
    objects: ManagedStore, layout: Layout
) -> AsyncGenerator[VerifyFinding, None]:
    """Look for stashes whose session is gone."""
    prefix = layout.stashes_prefix
    last: str | None = None
    async with aclosing(objects.scan(prefix)) as pages:
        async for page in pages:
            for key in page:
                session_id = key.removeprefix(prefix).partition("/")[0]
                if session_id == last or not _is_session_id(session_id):
                    continue
                if not layout.is_stash(key, session_id):
                    continue  # of a session `context`, or of a store with that prefix
                last = session_id
                if not await _is_session(objects, layout, session_id):
                    yield VerifyFinding(
                        kind="stash without session",
                        key=f"{prefix}{session_id}/",
                        message="its session does not exist; erase_session removes it",
                    )


async def _is_session(objects: ManagedStore, layout: Layout, session_id: str) -> bool:
    # The SDKs' sessions of the same stashes lie in `session/`, for any prefix.
    beside = f"{layout.stashes_prefix.removesuffix('context/')}session/{session_id}/"
    for prefix in (layout.session_prefix(session_id), beside):
        async with aclosing(objects.scan(f"{prefix}scopes/", page_size=1)) as pages:
            async for page in pages:
                if page:
                    return True
    return False


def _is_session_id(text: str) -> bool:
    try:
        SnapshotLocation.agent(text, "agent")
    except InvalidIdentifierError:
        return False
    return True
