"""The session that the demo shows."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from typing import Any

import msgspec

from snapstore import Snapshot

__all__ = ["messages_of", "original", "shown"]


def original() -> Snapshot:
    """The session that is shown, as the Strands TypeScript SDK wrote it."""
    document = msgspec.json.decode(files("snapstore.demo").joinpath("session.json").read_bytes())
    return Snapshot(
        document["scope"],
        document["schemaVersion"],
        document["createdAt"],
        document["data"],
        document["appData"],
    )


def messages_of(snapshot: Snapshot) -> list[dict[str, Any]]:
    """The messages of the session."""
    messages: list[dict[str, Any]] = snapshot.data["messages"]
    return messages


def shown(message: Mapping[str, Any]) -> str:
    """A message in a line."""
    parts = []
    for block in message["content"]:
        match block:
            case {"text": text}:
                parts.append(f'"{_first_line(text)}"')
            case {"toolUse": {"name": name}}:
                parts.append(f"tool call ({name})")
            case {"toolResult": {"status": status}}:
                parts.append(f"tool result ({status})")
            case _:
                parts.append(", ".join(block))  # its kind
    return f"{message['role']}: {' + '.join(parts)}"


def _first_line(text: str) -> str:
    line, *more = text.splitlines()
    return f"{line.rstrip()}…" if more else line
