"""A conversation of an agent, in the way of one framework, with its state kept in one way."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import NamedTuple

NAME = "chat-1"


class Places(NamedTuple):
    """Where a contestant may keep its state.

    Attributes:
        prefix: What its keys in the bucket begin with.
        file: A file of its own.
        database: A database, as a URL; `None` if there is none.
    """

    prefix: str
    file: Path
    database: str | None


class Talk(ABC):
    """A conversation in one process: it goes on, or is resumed.

    Args:
        places: Where the state is kept.
    """

    def __init__(self, places: Places) -> None:
        self.places = places

    @abstractmethod
    async def start(self, stack: AsyncExitStack) -> None:
        """Open it, and connect; the stack closes it."""

    @abstractmethod
    async def turn(self, question: str, answer: str) -> None:
        """Run a turn, and save it."""

    @abstractmethod
    async def resume(self) -> list[str]:
        """Load the conversation; returns the questions and answers, in their order."""

    async def tidy(self) -> None:
        """Do what is to be done from time to time; it is not measured."""
        return


class Contestant(NamedTuple):
    """A way to keep the state of a framework.

    Attributes:
        framework: Of which framework.
        name: What the table calls it.
        place: Where the state lies: `S3`, `file`, `database` or `memory`.
        make: Makes its conversation.
    """

    framework: str
    name: str
    place: str
    make: Callable[[Places], Talk]
