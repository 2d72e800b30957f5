"""Typed use of the session for the OpenAI Agents SDK."""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_type

from agents import TResponseInputItem

from snapstore import MemoryStorage
from snapstore.integrations.openai_agents import SnapstoreSession
from snapstore.stores import S3ObjectStore

if TYPE_CHECKING:
    from agents.memory import Session


async def use() -> None:
    async with SnapstoreSession("user-1", S3ObjectStore("my-bucket"), prefix="agents") as session:
        assert_type(session, SnapstoreSession)
        as_theirs: Session = session
        await as_theirs.add_items([{"role": "user", "content": "Hello"}])
        assert_type(await session.get_items(limit=3), list[TResponseInputItem])
        assert_type(await session.pop_item(), TResponseInputItem | None)
        assert_type(await session.rewind(await session.count_items()), list[TResponseInputItem])
        assert_type(session.with_session_id("user-2"), SnapstoreSession)


async def share() -> None:
    async with MemoryStorage() as storage:
        SnapstoreSession("user-1", storage.objects)
