"""The adapters to frameworks, each as what it has in common with the others: turns of a thread.

What its framework calls a thread, a session or a conversation is a thread here, and what is added
to it at a time, and is there as a whole or not at all, is a turn.
"""

from langgraph.checkpoint.base.id import uuid6
from pydantic_ai.conversation import Conversation
from pydantic_ai.conversation_store import ConversationConflict
from pydantic_ai.messages import ModelRequest, UserPromptPart

from checkpoints import checkpoint_with, config_of, values_of
from snapstore import SnapshotConflictError
from snapstore.integrations.claude import SnapstoreSessionStore
from snapstore.integrations.langgraph import SnapstoreSaver
from snapstore.integrations.openai_agents import SnapstoreSession
from snapstore.integrations.pydantic_ai import SnapstoreConversationStore

IDS = [
    *("", " ", ".", "..", "...", "/", "//", "a/b", "/a", "a/", "a/../b", "a\\b"),
    *("\x00", "\n", "\x7f", "\x85", "\u2028", "\ufeff", "\ud800", "\udc00\ud800"),
    *("e\u0301", "\u00e9", "ü", "🌧", "\U000e0041", "ß", "SS"),
    *("a", "A", "%41", "%2F", "~", "~none", "*", "?", "#", "a b", "a+b", "user@example.com"),
    *("@snapstore", "head", "head.json", "c", "records", "x" * 1_000, "y" * 199 + "é" * 9),
    *("x" * 1_001, "part-1700000000000-000000.jsonl"),
]
"""Texts that something on the way may treat in a way of its own, and twins of them."""


class Adapter:
    """An adapter, opened over an object store.

    Args:
        objects: The object store.
        options: Those of the adapter.
    """

    conflict = None
    """What the second of two turns that go on from one state raises; `None` if both are kept."""

    def __init__(self, objects, **options):
        self.it = self.make(objects, **options)

    async def __aenter__(self):
        await self.it.__aenter__()
        return self

    async def __aexit__(self, *error):
        await self.it.__aexit__(*error)


class LangGraph(Adapter):
    conflict = SnapshotConflictError

    @staticmethod
    def make(objects, **options):
        return SnapstoreSaver(objects, on_conflict="raise", **options)

    async def turns(self, thread_id):
        found = await self.it.aget_tuple(config_of(thread_id))
        return [] if found is None else values_of(found)["turns"]

    async def add(self, thread_id, turn):
        found = await self.it.aget_tuple(config_of(thread_id))
        config = config_of(thread_id) if found is None else found.config
        turns = [*([] if found is None else values_of(found)["turns"]), turn]
        version = f"{len(turns):032}.1"
        checkpoint = checkpoint_with({"turns": turns}, {"turns": version}) | {"id": str(uuid6())}
        config = await self.it.aput(config, checkpoint, {"source": "loop"}, {"turns": version})
        await self.it.aput_writes(config, [("turns", turn)], "task")

    async def delete(self, thread_id):
        await self.it.adelete_thread(thread_id)


class Claude(Adapter):
    make = SnapstoreSessionStore

    async def turns(self, thread_id):
        key = {"project_key": "project", "session_id": thread_id}
        return [entry["turn"] for entry in await self.it.load(key) or []]

    async def add(self, thread_id, turn):
        key = {"project_key": "project", "session_id": thread_id}
        await self.it.append(key, [{"type": "user", "uuid": turn, "turn": turn}])

    async def delete(self, thread_id):
        await self.it.delete({"project_key": "project", "session_id": thread_id})


class OpenAIAgents(Adapter):
    @staticmethod
    def make(objects, **options):
        return SnapstoreSession("", objects, **options)

    async def turns(self, thread_id):
        items = await self.it.with_session_id(thread_id).get_items()
        return [item["content"] for item in items]

    async def add(self, thread_id, turn):
        await self.it.with_session_id(thread_id).add_items([{"role": "user", "content": turn}])

    async def delete(self, thread_id):
        await self.it.with_session_id(thread_id).clear_session()


class PydanticAI(Adapter):
    conflict = ConversationConflict
    make = SnapstoreConversationStore

    async def turns(self, thread_id):
        conversation = await self.it.load(thread_id)
        messages = [] if conversation is None else conversation.messages
        return [message.parts[0].content for message in messages]

    async def add(self, thread_id, turn):
        conversation = await self.it.load(thread_id)
        conversation = conversation or Conversation(conversation_id=thread_id)
        conversation.messages.append(ModelRequest(parts=[UserPromptPart(content=turn)]))
        await self.it.save(conversation, scope=thread_id)

    async def delete(self, thread_id):
        await self.it.delete(thread_id)


ADAPTERS = {
    "langgraph": LangGraph,
    "claude": Claude,
    "openai": OpenAIAgents,
    "pydantic": PydanticAI,
}

REFUSED = {
    "claude": {"", "\ud800", "\udc00\ud800", "x" * 1_000, "x" * 1_001},
}
"""Ids that an adapter refuses, since it keeps to the keys of a reference adapter."""
