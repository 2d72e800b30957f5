"""A conversation with tools that grows turn by turn, in text that compresses as real text does."""

from __future__ import annotations

import random
from itertools import accumulate
from operator import mul
from typing import Any

import msgspec

VOCABULARY = 4_000
SYLLABLES = (
    *("an", "be", "ca", "con", "de", "di", "en", "er", "fi", "ga", "ho", "in", "is", "ka", "la"),
    *("le", "lo", "ma", "men", "mi", "na", "ne", "no", "or", "pa", "per", "pro", "ra", "re", "ri"),
    *("sa", "se", "so", "sta", "ta", "te", "ti", "tion", "to", "tra", "un", "va", "ve", "vi", "é"),
)
Message = dict[str, Any]


class Conversation:
    """The turns of a conversation: the same ones for the same seed.

    Words are as frequent as those of a language are (Zipf's law).

    Args:
        seed: Of the random numbers.
        turn_bytes: The average length of a turn as compact JSON.
    """

    def __init__(self, seed: int, turn_bytes: int) -> None:
        self._random = random.Random(seed)  # noqa: S311 -- no secret
        self._turn_bytes = turn_bytes
        words: dict[str, None] = {}
        while len(words) < VOCABULARY:
            # Frequent words are short.
            longest = min(1 + len(words) // 20, 4)
            words["".join(self._random.choices(SYLLABLES, k=self._random.randint(1, longest)))] = (
                None
            )
        self._words = list(words)
        frequencies = [1 / rank for rank in range(1, VOCABULARY + 1)]
        self._weights = list(accumulate(frequencies))
        lengths = (len(word.encode()) + 1 for word in words)
        self._word_bytes = sum(map(mul, lengths, frequencies)) / sum(frequencies)
        self._number = 0

    def next_turn(self) -> list[Message]:
        """A question, a tool that returns rows, a tool that reads a page, and an answer."""
        self._number += 1
        rows = [self._row() for _ in range(self._random.randrange(2, 8))]
        page = {"text": ""}
        messages = [
            _message("user", {"text": self._text(20)}),
            *self._call(
                "find_orders", {"page": self._number, "limit": 20}, {"json": {"rows": rows}}
            ),
            *self._call("read_page", {"topic": self._text(3)}, page),
            _message("assistant", {"text": self._text(60)}),
        ]
        wanted = self._random.gauss(self._turn_bytes, self._turn_bytes / 10)
        missing = wanted - len(msgspec.json.encode(messages))
        page["text"] = self._text(max(round(missing / self._word_bytes), 1))
        return messages

    def _row(self) -> dict[str, Any]:
        return {
            "id": self._random.randrange(10**6),
            "sku": f"SKU-{self._random.randrange(10**5):05d}",
            "price": round(self._random.uniform(1, 500), 2),
            "quantity": self._random.randrange(1, 9),
            "shipped": self._random.random() < 0.5,
            "note": None if self._random.random() < 0.5 else self._text(6),
        }

    def _call(self, tool: str, asked: dict[str, Any], found: dict[str, Any]) -> list[Message]:
        call = f"tooluse_{self._random.getrandbits(64):016x}"
        use = {"name": tool, "toolUseId": call, "input": asked}
        result = {"toolUseId": call, "status": "success", "content": [found]}
        return [
            _message("assistant", {"text": self._text(12)}, {"toolUse": use}),
            _message("user", {"toolResult": result}),
        ]

    def _text(self, words: int) -> str:
        return " ".join(self._random.choices(self._words, cum_weights=self._weights, k=words))


def _message(role: str, *content: dict[str, Any]) -> Message:
    return {"role": role, "content": list(content)}
