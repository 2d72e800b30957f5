"""Typed use of the session store for the Claude Agent SDK."""

from __future__ import annotations

from typing import assert_type

from claude_agent_sdk import ClaudeAgentOptions, SessionKey, SessionStore, SessionStoreEntry

from snapstore import MemoryStorage
from snapstore.integrations.claude import CompactedTranscript, SnapstoreSessionStore
from snapstore.stores import FileObjectStore, S3ObjectStore


async def use() -> None:
    async with SnapstoreSessionStore(S3ObjectStore("my-bucket"), prefix="agents") as store:
        assert_type(store, SnapstoreSessionStore)
        ClaudeAgentOptions(session_store=store)
        as_theirs: SessionStore = store
        key: SessionKey = {"project_key": "p", "session_id": "s"}
        await as_theirs.append(key, [{"type": "user", "uuid": "u"}])
        assert_type(await store.load(key), list[SessionStoreEntry] | None)
        compacted = await store.compact(key, grace=120.0)
        assert_type(compacted, CompactedTranscript)
        assert_type(compacted.before, int)


async def share() -> None:
    async with MemoryStorage() as storage:
        SnapstoreSessionStore(storage.objects)


def in_trio() -> None:
    with SnapstoreSessionStore(FileObjectStore("/var/lib/agents"), timeout=None) as store:
        assert_type(store, SnapstoreSessionStore)
