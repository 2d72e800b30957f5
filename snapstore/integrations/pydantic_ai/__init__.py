"""Pydantic AI: a `ConversationStore` in S3, in files, or in memory.

::

    store = SnapstoreConversationStore(S3ObjectStore("my-bucket"), prefix="conversations")
    conversation = await store.load("chat-1") or Conversation(conversation_id="chat-1")
    result = await agent.run("Hello", conversation=conversation)
    await store.save(result)
"""

try:
    from snapstore.integrations.pydantic_ai.batches import EntryNotFoundError
    from snapstore.integrations.pydantic_ai.garbage import CollectedGarbage
    from snapstore.integrations.pydantic_ai.store import SnapstoreConversationStore
except ImportError as _error:
    if (_error.name or "").partition(".")[0] not in {"pydantic", "pydantic_ai", "pydantic_core"}:
        raise
    raise ImportError(
        "snapstore.integrations.pydantic_ai needs Pydantic AI 2.66 or newer: "
        "pip install 'snapstore[pydantic-ai]'",
        name=_error.name,
    ) from None

__all__ = ["CollectedGarbage", "EntryNotFoundError", "SnapstoreConversationStore"]
