"""Read the message log of the Strands SDK's older session managers."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Final, NamedTuple

from snapstore.encoding.documents import decode_document
from snapstore.errors import UnsupportedOperationError
from snapstore.operations.message_log.logged import InvalidLogError, LoggedAgent
from snapstore.operations.parallel import in_order
from snapstore.stores.capabilities import DelimiterStore, capability
from snapstore.stores.managed import ManagedStore

__all__ = ["LogContents", "MessageLog"]

_WHAT: Final = "message log"
_LARGE: Final = 512 * 1024
"""Bytes of JSON from which on decoding it at once would stall the event loop."""

_PARTS = re.compile(
    r"agents/agent_(?P<agent>[^/]+)/(?:agent|messages/message_(?P<number>[0-9]{1,18}))\.json"
    r"|multi_agents/multi_agent_(?P<orchestrator>[^/]+)/multi_agent\.json"
)


class LogContents(NamedTuple):
    """What a session in the log has.

    Attributes:
        agents: For each agent, the numbers of its messages.
        orchestrators: The orchestrators.
    """

    agents: dict[str, list[int]]
    orchestrators: list[str]


class MessageLog:
    """The log.

    Args:
        objects: The store, with a pace.
        base: What all keys begin with.
        max_bytes: How large an object may be.
    """

    def __init__(self, objects: ManagedStore, base: str, max_bytes: int) -> None:
        self._objects = objects
        self._base = base
        self._max_bytes = max_bytes

    def session_prefix(self, session_id: str) -> str:
        """What the keys of a session begin with."""
        return f"{self._base}session_{session_id}/"

    async def sessions(self) -> AsyncGenerator[str, None]:
        """All sessions, with ids of any form."""
        own = f"{self._base}session_"
        seen: set[str] = set()
        async with aclosing(self._beginnings(own)) as pages:
            async for page in pages:
                for key in page:
                    session_id, slash, _ = key.removeprefix(own).partition("/")
                    if slash and session_id not in seen:
                        seen.add(session_id)
                        yield session_id

    async def _beginnings(self, own: str) -> AsyncGenerator[list[str], None]:
        with_delimiter = capability(self._objects, DelimiterStore)
        if with_delimiter is not None:
            try:
                async with aclosing(with_delimiter.scan_prefixes(own, delimiter="/")) as pages:
                    async for page in pages:
                        yield page
                    return
            except UnsupportedOperationError:
                pass  # every key is listed instead
        async with aclosing(self._objects.scan(own)) as pages:
            async for page in pages:
                yield page

    async def contents(self, session_id: str) -> LogContents:
        """What a session has."""
        prefix = self.session_prefix(session_id)
        found = LogContents({}, [])
        async with aclosing(self._objects.scan(prefix)) as pages:
            async for page in pages:
                for key in page:
                    parts = _PARTS.fullmatch(key, len(prefix))
                    if parts is None:
                        continue
                    if parts["orchestrator"] is not None:
                        found.orchestrators.append(parts["orchestrator"])
                        continue
                    numbers = found.agents.setdefault(parts["agent"], [])
                    if parts["number"] is not None:
                        numbers.append(int(parts["number"]))
        for numbers in found.agents.values():
            numbers.sort()
        return found

    async def read(self, key: str) -> dict[str, Any] | None:
        """Read a document; `None` if there is none.

        Raises:
            SnapshotDecodeError: It is not a JSON object.
            ObjectTooLargeError: It is too large.
        """
        stored = await self._objects.get(key, max_bytes=self._max_bytes)
        if stored is None or len(stored.data) < _LARGE:
            return None if stored is None else decode_document(stored.data, key, _WHAT)
        return await asyncio.to_thread(decode_document, stored.data, key, _WHAT)

    async def agent(self, session_id: str, agent_id: str, numbers: list[int]) -> LoggedAgent | None:
        """Read an agent and its messages; `None` if there is no agent.

        Raises:
            InvalidLogError: It is not as the SDK writes it.
            SnapshotDecodeError: A document is not a JSON object.
            ObjectTooLargeError: A document is too large.
        """
        prefix = f"{self.session_prefix(session_id)}agents/agent_{agent_id}/"
        document = await self.read(f"{prefix}agent.json")
        if document is None:
            return None
        agent = LoggedAgent(document, agent_id)

        async def read(number: int) -> dict[str, Any] | None:
            return await self.read(f"{prefix}messages/message_{number}.json")

        async with aclosing(in_order(_each(numbers[agent.removed :]), read)) as records:
            async for record in records:
                if record is None:  # somebody deletes them
                    raise InvalidLogError
                agent.add(record)
        return agent


async def _each(numbers: list[int]) -> AsyncGenerator[int, None]:
    for number in numbers:
        yield number
