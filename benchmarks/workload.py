"""The snapshots that are saved and loaded: conversations with tools, of a given size."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from typing import Any

import msgspec

from snapstore import Snapshot

CREATED_AT = "2026-01-02T03:04:05.678Z"
TEXT = (
    "the order was delayed because customs asked for another invoice while our warehouse had "
    "already shipped two of five parcels so refund or replace them café naïve 東京 status"
)
WORDS = TEXT.split()


@dataclass(frozen=True)
class Workload:
    """A snapshot as each variant wants it.

    Attributes:
        name: Its size in words.
        snapshot: As snapstore has it.
        document: The same as plain JSON, in the envelope of the TypeScript SDK.
    """

    name: str
    snapshot: Snapshot
    document: dict[str, Any]

    @property
    def size(self) -> int:
        """Bytes of compact JSON."""
        return len(msgspec.json.encode(self.document))

    @property
    def content(self) -> dict[str, Any]:
        """What every variant must load again."""
        return {"data": self.snapshot.data, "appData": self.snapshot.app_data}


def make_workload(name: str, size: int) -> Workload:
    """Make a snapshot of about `size` bytes of compact JSON; the same one each time."""
    chosen = random.Random(size)  # noqa: S311 -- jitter in a text is no secret
    messages: list[dict[str, Any]] = []
    data: dict[str, Any] = {
        "messages": messages,
        "state": {"customer": "c-1042", "locale": "en", "open_orders": [17, 18], "vip": False},
        "systemPrompt": f"You help customers. {_text(chosen, 60)}",
        "modelState": {},
        "interrupts": {},
    }
    length = len(json.dumps(data, ensure_ascii=False).encode())
    while length < size:
        turn = _turn(chosen, len(messages))
        turn_length = len(msgspec.json.encode(turn))
        # The rest that is too little for a turn is text.
        if length + turn_length > size:
            turn = [_message("user", {"text": _text(chosen, max((size - length) // 7, 1))})]
            turn_length = size - length
        messages += turn
        length += turn_length
    snapshot = Snapshot("agent", "1.0", CREATED_AT, data, {"tenant": "acme"})
    document = {
        "scope": "agent",
        "schemaVersion": "1.0",
        "createdAt": CREATED_AT,
        "data": data,
        "appData": snapshot.app_data,
    }
    return Workload(name, snapshot, document)


def _turn(chosen: random.Random, number: int) -> list[dict[str, Any]]:
    """A question, a tool that returns rows, a tool that returns text, and an answer."""
    rows = [
        {
            "id": chosen.randrange(10**6),
            "sku": f"SKU-{chosen.randrange(10**5):05d}",
            "price": round(chosen.uniform(1, 500), 2),
            "quantity": chosen.randrange(1, 9),
            "shipped": chosen.random() < 0.5,
            "note": None if chosen.random() < 0.5 else _text(chosen, 6),
        }
        for _ in range(chosen.randrange(3, 10))
    ]
    policy = _text(chosen, chosen.randrange(150, 300))
    return [
        _message("user", {"text": _text(chosen, 30)}),
        *_call(chosen, "find_orders", {"page": number, "limit": 20}, {"json": {"rows": rows}}),
        *_call(chosen, "read_policy", {"topic": _text(chosen, 3)}, {"text": policy}),
        _message("assistant", {"text": _text(chosen, 80)}),
    ]


def _call(
    chosen: random.Random, tool: str, asked: dict[str, Any], found: dict[str, Any]
) -> list[dict[str, Any]]:
    call = f"tooluse_{chosen.getrandbits(64):016x}"
    use = {"name": tool, "toolUseId": call, "input": asked}
    result = {"toolUseId": call, "status": "success", "content": [found]}
    return [
        _message("assistant", {"text": _text(chosen, 12)}, {"toolUse": use}),
        _message("user", {"toolResult": result}),
    ]


def _message(role: str, *content: dict[str, Any]) -> dict[str, Any]:
    return {"role": role, "content": list(content)}


def _text(chosen: random.Random, words: int) -> str:
    return " ".join(chosen.choices(WORDS, k=words))
