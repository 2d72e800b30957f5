"""Several operators on one object store, whose calls take turns as a seed says."""

import asyncio
import random

from snapstore import ObjectSnapshotStorage, StorageError
from snapstore.testing import FaultyObjectStore, StoreFault

BURSTS = (1, 1, 2, 4, 8, 16, 64, 256)


class _Operator:
    """One that works on the store: at each call it waits for its turn."""

    def __init__(self, inner, dies_at, *, applied):
        self.store = FaultyObjectStore(inner)
        self.store.fault = self._turn
        self.waiting = []
        self.is_done = False
        self._calls = 0
        self._dies_at = dies_at
        self._applied = applied

    async def _turn(self, _):
        turn = asyncio.get_running_loop().create_future()
        self.waiting.append(turn)
        try:
            await turn
        finally:
            if turn in self.waiting:  # cancelled
                self.waiting.remove(turn)
        self._calls += 1
        if self._dies_at is not None and self._calls >= self._dies_at:
            # A process that was killed makes no further call.
            return StoreFault(applied=self._applied and self._calls == self._dies_at)
        return None

    async def work(self, operation):
        try:
            async with ObjectSnapshotStorage(self.store) as storage:
                await operation(storage)
        except StorageError:
            if self._dies_at is None:
                raise
        finally:
            self.is_done = True


async def interleave(inner, operations, seed, *, deaths=0.2):
    """Run operations at once, each call of which is one step. Some of them are killed.

    Args:
        inner: The object store.
        operations: Each is awaited with a storage of its own.
        seed: What the turns, and the deaths, are made of.
        deaths: How many of the operations are killed, as a share.
    """
    rng = random.Random(seed)
    operators = [
        _Operator(
            inner,
            rng.randrange(1, 60) if rng.random() < deaths else None,
            applied=rng.random() < 0.5,
        )
        for _ in operations
    ]
    async with asyncio.TaskGroup() as group:
        for operator, operation in zip(operators, operations, strict=True):
            group.create_task(operator.work(operation))
        turns, now = 0, operators[0]
        while living := [one for one in operators if not one.is_done]:
            if not all(one.waiting for one in living):
                await asyncio.sleep(0)
                continue
            if now not in living or turns == 0:
                now, turns = rng.choice(living), rng.choice(BURSTS)
            turns -= 1
            turn = now.waiting.pop(rng.randrange(len(now.waiting)))
            if not turn.done():  # cancelled
                turn.set_result(None)
            await asyncio.sleep(0)
