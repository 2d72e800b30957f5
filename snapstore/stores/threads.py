"""Work in threads: whether this process can start one, and one that its exit does not wait for.

Python starts no threads while the interpreter exits. gevent and eventlet replace threads by
greenlets, which share one thread, and so can't each run an event loop.
"""

from __future__ import annotations

import asyncio
import contextvars
import sys
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final, TypeVar

from snapstore.errors import LifecycleError

__all__ = ["is_exiting", "require_threads", "run_in_daemon_thread"]

T = TypeVar("T")

_CANCEL_TIMEOUT: Final = 5.0
"""Seconds that cancelled work may take to end."""


def require_threads(what: str) -> None:
    """Raise an error if no thread can be started that runs an event loop of its own.

    Args:
        what: What needs the thread, for the error.

    Raises:
        LifecycleError: The interpreter is exiting, or gevent or eventlet has replaced what threads
            are made of.
    """
    if is_exiting():
        raise LifecycleError(
            f"{what} can't be opened while the interpreter exits, since no threads are started "
            "any more: save before the main thread ends"
        )
    green = _replaced_by()
    if green is not None:
        raise LifecycleError(
            f"{what} needs the threads of Python, which {green} has replaced: it works only where "
            f"{green} does not patch the standard library"
        )


def is_exiting() -> bool:
    """Whether the main thread has ended, after which Python starts no threads for work."""
    return not threading.main_thread().is_alive()


async def run_in_daemon_thread(begin: Callable[[], Awaitable[T]]) -> T:
    """Do in a thread what blocks and then waits, on an event loop of the thread's own.

    Where this is cancelled, what is waited for is cancelled, too, and given 5 seconds to end. The
    exit of the interpreter does not wait for the thread, unlike for asyncio's own.

    Args:
        begin: What blocks; it returns what is to be waited for.
    """
    caller = asyncio.get_running_loop()
    result: asyncio.Future[T] = caller.create_future()
    is_cancelled = threading.Event()
    waiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]]] = []

    async def wait_for(work: Awaitable[T]) -> T:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 -- for type checkers
        waiting.append((asyncio.get_running_loop(), task))
        if is_cancelled.is_set():  # while `begin` was blocking
            task.cancel()
        return await work

    def run() -> None:
        try:
            ended: Any = result.set_result, asyncio.run(wait_for(begin()))
        except BaseException as error:  # noqa: BLE001 -- it is raised where it is waited for
            ended = result.set_exception, error
        with suppress(RuntimeError):  # the caller's loop is closed
            caller.call_soon_threadsafe(*ended)

    run_here = contextvars.copy_context().run
    threading.Thread(target=run_here, args=(run,), name="snapstore-open", daemon=True).start()
    try:
        return await asyncio.shield(result)
    except asyncio.CancelledError:
        is_cancelled.set()
        for loop, task in waiting:
            with suppress(RuntimeError):  # that loop is closed: its work has ended
                loop.call_soon_threadsafe(task.cancel)
        # A thread that imports while the interpreter exits can spoil the exit status.
        ended, _ = await asyncio.wait([result], timeout=_CANCEL_TIMEOUT)
        for future in ended:
            future.exception()  # it was asked for, so asyncio says nothing of it
        raise


def _replaced_by() -> str | None:
    gevent = sys.modules.get("gevent.monkey")
    if gevent is not None and any(
        gevent.is_module_patched(name) for name in ("threading", "queue", "select")
    ):
        return "gevent"
    eventlet = sys.modules.get("eventlet.patcher")
    if eventlet is not None and eventlet.is_monkey_patched("thread"):
        return "eventlet"
    return None
