"""How users of Strands write it, as type checkers see it. Never run: `nox -s typing` checks it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, assert_type

from strands import Agent
from strands.session import SnapshotSessionManager
from strands.storage import LocalFileStorage

from snapstore import Dialect, SnapshotDecodeError
from snapstore.integrations.strands import (
    convert_interrupt_id,
    convert_snapshot,
    is_snapshot_key,
)

if TYPE_CHECKING:
    from strands.types.interrupt import InterruptResponseContent


def a_session_of_one_sdk_becomes_one_of_the_other(folder: Path, to: Dialect) -> list[Path]:
    refused: list[Path] = []
    for path in folder.rglob("*.json"):
        if not assert_type(is_snapshot_key(path.as_posix()), bool):
            continue
        try:
            path.write_bytes(assert_type(convert_snapshot(path.read_bytes(), to), bytes))
        except SnapshotDecodeError:
            refused.append(path)
    return refused


async def what_an_agent_asked_in_typescript_is_answered_in_python(folder: str) -> None:
    session = SnapshotSessionManager("session-1", storage=LocalFileStorage(folder))
    agent = Agent(agent_id="clerk", session_manager=session)
    there = convert_interrupt_id("tool:t-1:approve", "approve", to="python")
    assert_type(there, str)
    answers: list[InterruptResponseContent] = [
        {"interruptResponse": {"interruptId": there, "response": "yes"}}
    ]
    await agent.invoke_async(answers)
