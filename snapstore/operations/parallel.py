"""Work on several items at a time, with results as they come and bounded memory."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing
from typing import Any, Final, TypeVar

__all__ = ["WIDTH", "in_order", "overlapped", "to_the_end"]

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

    A worker goes on while its last result waits to be taken, and then waits. Where the consumer
    leaves early, or one worker fails, no further item is begun, and the others are waited for until
    they have come to their next result. Where it is cancelled, they are cancelled, too.

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
    leaving = asyncio.Event()

    async def take() -> list[ItemT]:
        async with turn:
            async for item in items:
                return [item]
            return []

    async def run() -> None:
        error: BaseException | None = None
        try:
            while not leaving.is_set():
                taken = await take()
                if leaving.is_set() or not taken:
                    return
                async with aclosing(work(taken[0])) as found:
                    async for result in found:
                        results.put_nowait(result)
                        await room.acquire()
                        if leaving.is_set():
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
                    raise result.error  # noqa: TRY301 -- it leaves as any other error does
                else:
                    working -= 1
        except asyncio.CancelledError:
            raise
        except BaseException:
            leaving.set()
            for _ in workers:
                room.release()
            # A cancellation comes through here, and then cancels them.
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


async def to_the_end(work: Coroutine[Any, Any, ResultT]) -> ResultT:
    """Await work that a cancellation must not cut off, and pass the cancellation on afterwards."""
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as error:
            cancelled = error
    result = task.result()
    if cancelled is not None:
        raise cancelled
    return result
