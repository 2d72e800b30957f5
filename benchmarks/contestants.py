"""The adapters, and what else the users of each framework keep its state with.

Each is used by its framework, which runs a whole turn with a model that answers at once; but the
Claude Agent SDK, whose turns are made by a program of its own, see `transcripts.py`. What has no
types, or is not installed for the type checkers, is imported by name.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from types import SimpleNamespace
from typing import Any

from agents import Agent as OpenAIAgent
from agents import ModelResponse, Runner, Usage, set_tracing_disabled
from agents.memory import Session, SQLiteSession
from agents.models.interface import Model as OpenAIModel
from openai.types.responses import ResponseOutputMessage, ResponseOutputText
from pydantic_ai import Agent as PydanticAgent
from pydantic_ai.conversation import Conversation
from pydantic_ai.conversation_store import ConversationStore, InMemoryConversationStore
from pydantic_ai.models.test import TestModel
from strands import Agent as StrandsAgent
from strands.agent.conversation_manager import NullConversationManager
from strands.models import Model as StrandsModel

from benchmarks.stub import BUCKET, REGION
from benchmarks.talk import NAME, Contestant, Places, Talk
from benchmarks.transcripts import Claude, OneObjectAnAppend
from snapstore.integrations.claude import SnapstoreSessionStore
from snapstore.integrations.langgraph import SnapstoreSaver
from snapstore.integrations.openai_agents import SnapstoreSession
from snapstore.integrations.pydantic_ai import SnapstoreConversationStore
from snapstore.integrations.strands import SnapstoreSessionManager, StrandsStorage
from snapstore.stores import S3ObjectStore

set_tracing_disabled(disabled=True)


class LangGraph(Talk):
    """LangGraph: a graph of one node, on a checkpointer.

    Args:
        places: Where the state is kept.
        open_saver: Opens the checkpointer.
    """

    def __init__(self, places: Places, open_saver: Callable[[Places], Any]) -> None:
        super().__init__(places)
        self._open = open_saver
        self._answer = ""
        self._config = {"configurable": {"thread_id": NAME}}

    async def start(self, stack: AsyncExitStack) -> None:
        """See `Talk.start`."""
        saver = await stack.enter_async_context(self._open(self.places))
        if hasattr(saver, "setup"):
            await saver.setup()
        graphs: Any = importlib.import_module("langgraph.graph")
        builder = graphs.StateGraph(graphs.MessagesState)
        builder.add_node("answer", lambda _: {"messages": [("assistant", self._answer)]})
        builder.set_entry_point("answer")
        builder.set_finish_point("answer")
        self._graph = builder.compile(checkpointer=saver)

    async def turn(self, question: str, answer: str) -> None:
        """See `Talk.turn`."""
        self._answer = answer
        await self._graph.ainvoke({"messages": [("user", question)]}, self._config)

    async def resume(self) -> list[str]:
        """See `Talk.resume`."""
        state = await self._graph.aget_state(self._config)
        return [message.content for message in state.values["messages"]]


def _saver(places: Places, module: str, name: str) -> Any:
    """A checkpointer of LangGraph's own."""
    kind: Any = getattr(importlib.import_module(f"langgraph.checkpoint.{module}"), name)
    if module == "memory":
        return kind()
    return kind.from_conn_string(places.database if "postgres" in module else str(places.file))


def _our_saver(places: Places, **options: Any) -> Any:
    return SnapstoreSaver(S3ObjectStore(BUCKET), prefix=places.prefix, **options)


class Parrot(OpenAIModel):
    """Says what it was told to."""

    answer = ""

    async def get_response(self, *_: Any, **__: Any) -> ModelResponse:
        """Answer."""
        text = ResponseOutputText(text=self.answer, type="output_text", annotations=[])
        message = ResponseOutputMessage(
            id="1", content=[text], role="assistant", status="completed", type="message"
        )
        return ModelResponse(output=[message], usage=Usage(), response_id=None)

    def stream_response(self, *_: Any, **__: Any) -> Any:
        """Not used."""
        raise NotImplementedError


class OpenAI(Talk):
    """OpenAI Agents SDK: a run of an agent, with a session.

    Args:
        places: Where the state is kept.
        make_session: Makes the session.
    """

    def __init__(self, places: Places, make_session: Callable[[Places], Session]) -> None:
        super().__init__(places)
        self._make = make_session
        self._model = Parrot()
        self._agent = OpenAIAgent("weather", model=self._model)

    async def start(self, stack: AsyncExitStack) -> None:
        """See `Talk.start`."""
        self._session = self._make(self.places)
        if isinstance(self._session, SnapstoreSession):
            await stack.enter_async_context(self._session)
        elif isinstance(self._session, SQLiteSession):
            stack.callback(self._session.close)
        else:
            session: Any = self._session
            stack.push_async_callback(session.engine.dispose)

    async def turn(self, question: str, answer: str) -> None:
        """See `Talk.turn`."""
        self._model.answer = answer
        await Runner.run(self._agent, question, session=self._session)

    async def resume(self) -> list[str]:
        """See `Talk.resume`."""
        contents: list[Any] = [item.get("content") for item in await self._session.get_items()]
        return [one if isinstance(one, str) else one[0]["text"] for one in contents]


def _our_session(places: Places) -> Session:
    return SnapstoreSession(NAME, S3ObjectStore(BUCKET), prefix=places.prefix)


def _sqlalchemy_session(places: Places) -> Session:
    sessions: Any = importlib.import_module("agents.extensions.memory")
    url = str(places.database).replace("postgresql:", "postgresql+psycopg:")
    session: Session = sessions.SQLAlchemySession.from_url(NAME, url=url, create_tables=True)
    return session


class Pydantic(Talk):
    """Pydantic AI: a turn loads the conversation, runs an agent, and saves the result.

    Args:
        places: Where the state is kept.
        make_store: Makes the conversation store.
    """

    def __init__(self, places: Places, make_store: Callable[[Places], ConversationStore]) -> None:
        super().__init__(places)
        self._make = make_store
        self._agent = PydanticAgent()

    async def start(self, stack: AsyncExitStack) -> None:
        """See `Talk.start`."""
        self._store = self._make(self.places)
        if isinstance(self._store, SnapstoreConversationStore):
            await stack.enter_async_context(self._store)

    async def turn(self, question: str, answer: str) -> None:
        """See `Talk.turn`."""
        conversation = await self._store.load(NAME) or Conversation(conversation_id=NAME)
        model = TestModel(custom_output_text=answer)
        result = await self._agent.run(question, conversation=conversation, model=model)
        await self._store.save(result)

    async def resume(self) -> list[str]:
        """See `Talk.resume`."""
        conversation = await self._store.load(NAME)
        messages: list[Any] = [] if conversation is None else [*conversation.messages]
        return [message.parts[0].content for message in messages]


def _our_conversations(places: Places) -> ConversationStore:
    return SnapstoreConversationStore(S3ObjectStore(BUCKET), prefix=places.prefix)


class Echo(StrandsModel):
    """Says what it was told to."""

    answer = ""

    def get_config(self) -> dict[str, Any]:
        """There is none."""
        return {}

    def update_config(self, **_: Any) -> None:
        """There is none."""

    def structured_output(self, *_: Any, **__: Any) -> AsyncGenerator[Any, None]:
        """Not used."""
        raise NotImplementedError

    async def stream(self, *_: Any, **__: Any) -> AsyncGenerator[Any, None]:
        """Answer."""
        yield {"messageStart": {"role": "assistant"}}
        yield {"contentBlockDelta": {"delta": {"text": self.answer}}}
        yield {"contentBlockStop": {}}
        yield {"messageStop": {"stopReason": "end_turn"}}


OpenManager = Callable[[Places, AsyncExitStack], Awaitable[Callable[[], Any]]]


class Strands(Talk):
    """Strands: an agent with a session manager. Making it is what resumes it.

    Args:
        places: Where the state is kept.
        open_manager: Connects, and gives a function that makes session managers.
    """

    def __init__(self, places: Places, open_manager: OpenManager) -> None:
        super().__init__(places)
        self._open = open_manager
        self._model = Echo()
        self._agent: StrandsAgent | None = None

    async def start(self, stack: AsyncExitStack) -> None:
        """See `Talk.start`."""
        self._manager = await self._open(self.places, stack)

    async def turn(self, question: str, answer: str) -> None:
        """See `Talk.turn`."""
        self._model.answer = answer
        agent = self._agent = self._agent or await self._made()
        await agent.invoke_async(question)

    async def resume(self) -> list[str]:
        """See `Talk.resume`."""
        messages: list[Any] = [*(await self._made()).messages]
        return [message["content"][0]["text"] for message in messages]

    async def _made(self) -> StrandsAgent:
        # Off the loop: the agent is restored while it is made, which blocks.
        return await asyncio.to_thread(
            lambda: StrandsAgent(
                model=self._model,
                agent_id=NAME,
                session_manager=self._manager(),
                conversation_manager=NullConversationManager(),  # keeps all messages
                callback_handler=None,
            )
        )


async def _our_manager(places: Places, stack: AsyncExitStack) -> Callable[[], Any]:
    storage = StrandsStorage.over(S3ObjectStore(BUCKET), prefix=places.prefix)
    stack.callback(storage.close)
    await storage.read("nothing")  # connects
    return lambda: SnapstoreSessionManager(NAME, storage=storage)


async def _snapshot_manager(places: Places, _: AsyncExitStack) -> Callable[[], Any]:
    storages: Any = importlib.import_module("strands.storage")
    sessions: Any = importlib.import_module("strands.session")
    storage = storages.S3Storage(BUCKET, prefix=places.prefix)
    await storage.read("nothing")  # connects
    return lambda: sessions.SnapshotSessionManager(NAME, storage=storage)


async def _message_log_manager(places: Places, stack: AsyncExitStack) -> Callable[[], Any]:
    boto3: Any = importlib.import_module("boto3")
    sessions: Any = importlib.import_module("strands.session.s3_session_manager")
    client = await asyncio.to_thread(boto3.client, "s3")
    stack.callback(client.close)
    # It makes a client for each manager, which is no part of what is compared.
    shared = SimpleNamespace(client=lambda **_: client, region_name=REGION)
    return lambda: sessions.S3SessionManager(
        NAME, BUCKET, prefix=places.prefix, boto_session=shared
    )


def _contestants() -> list[Contestant]:
    def savers(name: str, place: str, make: Callable[[Places], Any]) -> Contestant:
        return Contestant("LangGraph", name, place, partial(LangGraph, open_saver=make))

    def stores(name: str, make: Callable[[Places], Any], *, compact: bool = False) -> Contestant:
        talk = partial(Claude, open_store=make, compact=compact)
        return Contestant("Claude Agent SDK", name, "S3", talk)

    def sessions(name: str, place: str, make: Callable[[Places], Session]) -> Contestant:
        return Contestant("OpenAI Agents", name, place, partial(OpenAI, make_session=make))

    def conversations(
        name: str, place: str, make: Callable[[Places], ConversationStore]
    ) -> Contestant:
        return Contestant("Pydantic AI", name, place, partial(Pydantic, make_store=make))

    def managers(name: str, make: OpenManager) -> Contestant:
        return Contestant("Strands", name, "S3", partial(Strands, open_manager=make))

    def ours(places: Places) -> Any:
        return SnapstoreSessionStore(S3ObjectStore(BUCKET), prefix=places.prefix)

    memory = partial(_saver, module="memory", name="InMemorySaver")
    sqlite = partial(_saver, module="sqlite.aio", name="AsyncSqliteSaver")
    postgres = partial(_saver, module="postgres.aio", name="AsyncPostgresSaver")
    return [
        managers("SnapstoreSessionManager", _our_manager),
        managers("SnapshotSessionManager on S3Storage, the SDK's", _snapshot_manager),
        managers("S3SessionManager, the SDK's", _message_log_manager),
        savers("SnapstoreSaver", "S3", _our_saver),
        savers(
            'SnapstoreSaver, on_conflict="raise"', "S3", partial(_our_saver, on_conflict="raise")
        ),
        savers("AsyncSqliteSaver", "file", sqlite),
        savers("AsyncPostgresSaver", "database", postgres),
        savers("InMemorySaver", "memory", memory),
        stores("SnapstoreSessionStore", ours),
        stores("SnapstoreSessionStore, compacted", ours, compact=True),
        stores("boto3, one object an append", OneObjectAnAppend),
        sessions("SnapstoreSession", "S3", _our_session),
        sessions("SQLiteSession", "file", lambda places: SQLiteSession(NAME, places.file)),
        sessions("SQLAlchemySession", "database", _sqlalchemy_session),
        conversations("SnapstoreConversationStore", "S3", _our_conversations),
        conversations("InMemoryConversationStore", "memory", lambda _: InMemoryConversationStore()),
    ]


CONTESTANTS = _contestants()
"""All of them, by framework; in each, snapstore's first."""
