"""What happens in a life, and what each step of it costs."""

from __future__ import annotations

import gc
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial

import msgspec

from benchmarks.conversation import Conversation, Message
from benchmarks.life_peers import Cost, Kind, Life, SnapstoreLife
from benchmarks.stub import StubClient, require

SEED = 500


@dataclass(frozen=True)
class Script:
    """What happens in a life.

    Attributes:
        turns: How many there are. There is a save after each.
        every: Only each so many saves are made, at the sizes that they would have.
        turn_bytes: The average length of a turn as compact JSON.
    """

    turns: int
    every: int = 1
    turn_bytes: int = 3_415

    @property
    def resumes(self) -> set[int]:
        """The saves after which another worker goes on: ten."""
        return {self.turns * tenth // 10 for tenth in range(1, 11)}

    @property
    def rewinds(self) -> dict[int, int]:
        """The saves after which the agent goes back, and to which: three."""
        return {
            self.turns * late // 100: self.turns * early // 100
            for late, early in ((28, 22), (58, 52), (88, 82))
        }


@dataclass(frozen=True)
class Step:
    """A step, and what it cost.

    Attributes:
        kind: What was done.
        number: The last save before it, or the save itself.
        cpu: Seconds of CPU of the client process.
        wall: Seconds.
        sent: Bytes of the objects sent; 0 where the stub has none.
        requests: Requests to the stub.
        stored: Bytes stored after it.
    """

    kind: Kind
    number: int
    cpu: float
    wall: float
    sent: int
    requests: int
    stored: int


@dataclass
class Lived:
    """A life.

    Attributes:
        name: Whose.
        size: Bytes of compact JSON that the messages have in the end.
        steps: All of its steps.
        slow_steps: The steps of the same life at 20 ms a request, with fewer saves.
    """

    name: str
    size: int
    steps: list[Step]
    slow_steps: list[Step] = field(default_factory=list[Step])


class Recorder:
    """Lives a life, and writes down what its steps cost.

    Args:
        life: Whose.
        stub: Counts.
    """

    def __init__(self, life: Life, stub: StubClient) -> None:
        self._life = life
        self._stub = stub
        self._saved: dict[int, list[Message]] = {}

    async def live(self, session: str, script: Script) -> list[Step]:
        """Live from the first turn to the last.

        Raises:
            UnequalWorkError: Something else was loaded than had been saved.
        """
        life, steps = self._life, list[Step]()
        conversation = Conversation(SEED, script.turn_bytes)
        messages = list[Message]()
        self._saved.clear()
        await life.begin(session)
        gc.collect()
        for number in range(1, script.turns + 1):
            turn = conversation.next_turn()
            await life.add(turn)
            messages = messages + turn
            if number % script.every:
                continue
            self._saved[number] = messages
            steps.append(await self._step("save", number, partial(life.save, number)))
            if number in script.rewinds:
                earlier = script.rewinds[number]
                steps.append(await self._step("rewind", number, partial(life.rewind, earlier)))
                messages = self._saved[earlier]
                await self._prove(messages, f"going back to save {earlier}")
            if number in script.resumes:
                steps.append(await self._step("resume", number, life.resume))
                await self._prove(messages, f"resuming after save {number}")
        return steps

    @property
    def size(self) -> int:
        """Bytes of compact JSON of the last save."""
        return len(msgspec.json.encode(self._saved[max(self._saved)]))

    async def end(self) -> list[Step]:
        """End the life in each way there is; but for a last way off the stub, it can go on then.

        Raises:
            UnequalWorkError: The archive has something else than was saved.
        """
        steps: list[Step] = []
        last = max(self._saved)
        for kind, ending in self._life.endings.items():
            self._stub.keep()
            steps.append(await self._step(kind, last, ending))
            if kind == "archive" and isinstance(self._life, SnapstoreLife):
                for number in (min(self._saved), last // 2):
                    found = await self._life.archived(number)
                    what = f"{self._life.name}: the archive has another save {number}"
                    require(found == self._saved[number], what)
            self._stub.restore()
        return steps

    async def _step(self, kind: Kind, number: int, call: Callable[[], Awaitable[Cost]]) -> Step:
        self._stub.reset()
        cost = await call()
        counts = self._stub.counts(weigh=True)
        require(not counts.refused or kind == "archive", f"{self._life.name}, {kind}: refused")
        stored = await self._life.stored()
        return Step(
            kind=kind,
            number=number,
            cpu=cost.cpu,
            wall=cost.wall,
            sent=counts.body_in,
            requests=sum(counts.requests.values()),
            stored=counts.stored if stored is None else stored,
        )

    async def _prove(self, expected: list[Message], what: str) -> None:
        found = await self._life.messages()
        require(found == expected, f"{self._life.name}: {what} gave other messages")
