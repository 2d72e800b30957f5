"""What a block of operations costs this process, and what many blocks say of each other."""

from __future__ import annotations

import asyncio
import gc
import statistics
import time
import tracemalloc
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Operation = Literal["save", "load"]


@dataclass
class Block:
    """What a block of operations cost.

    Attributes:
        count: How many operations.
        cpu: Seconds of CPU of the process, all its threads and the kernel's part included.
        wall: Seconds.
        latencies: Seconds that each operation took.
    """

    count: int
    cpu: float
    wall: float
    latencies: list[float]


@dataclass(frozen=True)
class Ratio:
    """How two series compare, round by round.

    Attributes:
        median: Of the ratios.
        minimum: Of the ratios.
    """

    median: float
    minimum: float


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> Ratio:
    """Compare the rounds that both were in."""
    ratios = [a / b for a, b in zip(ours, theirs, strict=False)]
    return Ratio(statistics.median(ratios), min(ratios))


def percentile(values: Sequence[float], part: float) -> float:
    """The value that `part` of the values (0 to 1) do not exceed."""
    ordered = sorted(values)
    return ordered[min(int(part * len(ordered)), len(ordered) - 1)]


async def measure_block(
    call: Callable[[int], Awaitable[Any]], count: int, concurrency: int
) -> Block:
    """Call `call(slot)` `count` times in all, one after the other in each slot."""
    latencies: list[float] = []
    left = count

    async def work(slot: int) -> None:
        nonlocal left
        while left > 0:
            left -= 1
            start = time.perf_counter()
            await call(slot)
            latencies.append(time.perf_counter() - start)

    # What an earlier block left behind is not for this one to collect.
    gc.collect()
    cpu, wall = time.process_time(), time.perf_counter()
    await asyncio.gather(*(work(slot) for slot in range(concurrency)))
    return Block(count, time.process_time() - cpu, time.perf_counter() - wall, latencies)


TICK = 0.001


async def longest_stall(call: Callable[[], Awaitable[Any]]) -> float:
    """How late, in seconds, a task that wants to run every millisecond ran at worst."""
    gaps = [0.0]

    async def tick() -> None:
        while True:
            start = time.perf_counter()
            await asyncio.sleep(TICK)
            gaps.append(time.perf_counter() - start - TICK)

    task = asyncio.create_task(tick())
    await asyncio.sleep(5 * TICK)
    gc.collect()
    await asyncio.sleep(5 * TICK)
    gaps.clear()
    # Kept, since to let go of a large one takes its time too, and that is its user's.
    result = await call()
    # The gap in which it ended is one too.
    await asyncio.sleep(5 * TICK)
    task.cancel()
    del result
    return max(gaps)


async def peak_memory(call: Callable[[], Awaitable[Any]]) -> int:
    """How many bytes more Python held at the worst time than before; of what it allocates."""
    gc.collect()
    tracemalloc.start()
    try:
        await call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
