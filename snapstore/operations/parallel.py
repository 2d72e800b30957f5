"""Work on several items at a time, with results as they come and bounded memory."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing
from typing import Any, Final, TypeVar

__all__ = ["WIDTH", "in_order", "overlapped"]

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")

WIDTH: Final = 16
"""How many sessions an operation works on at a time."""


class _End:
    """A worker has no more items, or has failed."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


async def overlapped(
    items: AsyncGenerator[ItemT, None],
    work: Callable[[ItemT], AsyncGenerator[ResultT, None]],
    *,
    width: int = WIDTH,
) -> AsyncGenerator[ResultT, None]:
    """Work on items, several at a time.

    A worker goes on while its last result waits to be taken, and then waits. Who leaves early waits
    until each has come to its next result; who is cancelled cancels them.

    Args:
        items: The items. It is closed at the end.
        work: Works on one item, result by result.
        width: How many items at a time.

    Returns:
        An async generator of results. Those of one item come in their order.
    """
    results: asyncio.Queue[ResultT | _End] = asyncio.Queue()
    room = asyncio.Semaphore(width)
    turn = asyncio.Lock()
    leaving = False

    async def take() -> list[ItemT]:
        async with turn:
            async for item in items:
                return [item]
            return []

    async def run() -> None:
        error: BaseException | None = None
        try:
            while not leaving and (taken := await take()):
                async with aclosing(work(taken[0])) as found:
                    async for result in found:
                        results.put_nowait(result)
                        await room.acquire()
                        if leaving:
                            return
        except BaseException as raised:
            error = raised
            raise
        finally:
            results.put_nowait(_End(error))

    async with aclosing(items):
        workers = [asyncio.create_task(run()) for _ in range(width)]
        try:
            working = width
            while working:
                result = await results.get()
                if not isinstance(result, _End):
                    yield result
                    room.release()
                elif result.error is not None:
                    raise result.error
                else:
                    working -= 1
        except GeneratorExit:
            leaving = True
            for _ in workers:
                room.release()
            await asyncio.gather(*workers, return_exceptions=True)
            raise
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)


async def in_order(
    items: AsyncGenerator[ItemT, None],
    work: Callable[[ItemT], Coroutine[Any, Any, ResultT]],
    *,
    width: int = WIDTH,
) -> AsyncGenerator[ResultT, None]:
    """Work on items, several at a time, with a result for each in their order.

    Who leaves early, or is cancelled, cancels those that are at work.

    Args:
        items: The items. It is closed at the end.
        work: Works on one item.
        width: How many items at a time.
    """
    tasks: deque[asyncio.Task[ResultT]] = deque()
    async with aclosing(items):
        try:
            async for item in items:
                tasks.append(asyncio.create_task(work(item)))
                if len(tasks) == width:
                    yield await tasks.popleft()
            while tasks:
                yield await tasks.popleft()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
