"""Typed use of the conversation store for Pydantic AI."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, assert_type

from pydantic_ai.conversation import Conversation

from snapstore import MemoryStorage
from snapstore.integrations.pydantic_ai import CollectedGarbage, SnapstoreConversationStore
from snapstore.stores import S3ObjectStore

if TYPE_CHECKING:
    from pydantic_ai.conversation_store import ConversationStore


async def use() -> None:
    async with SnapstoreConversationStore(S3ObjectStore("my-bucket"), prefix="chats") as store:
        assert_type(store, SnapstoreConversationStore)
        as_theirs: ConversationStore = store
        assert_type(await as_theirs.load("chat-1"), Conversation | None)
        await store.save(Conversation(conversation_id="chat-1"), scope="user-1")
        garbage = await store.collect_garbage(dry_run=True, grace=timedelta(days=7))
        assert_type(garbage, CollectedGarbage)
        assert_type(garbage.bytes, int | None)


async def share() -> None:
    async with MemoryStorage() as storage:
        SnapstoreConversationStore(storage.objects)
