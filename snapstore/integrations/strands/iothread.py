"""An event loop of its own, in a thread of its own, for work from any other thread or loop.

What uses it need not know where it is: it may be on a loop that is gone tomorrow, or that somebody
blocks meanwhile. The thread needs neither of them to go on.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

__all__ = ["IOThread"]

T = TypeVar("T")


class IOThread:
    """A daemon thread that runs an event loop until it is told to stop.

    Args:
        name: The thread's name.
    """

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        # asyncio's own would be closed by one more thread, and none can be started when the
        # interpreter is at its end.
        self._executor = ThreadPoolExecutor(thread_name_prefix=name)
        self._loop.set_default_executor(self._executor)
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        try:
            self._thread.start()
        except RuntimeError:  # the interpreter is at its end
            self._loop.close()
            raise

    def submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Run a coroutine on the loop. To cancel the future cancels it there."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def stop(self, last: Coroutine[Any, Any, None]) -> Future[None]:
        """Run this and then no more; it does not wait for it. To be called once."""
        future = self.submit(last)
        future.add_done_callback(lambda _: self._loop.call_soon_threadsafe(self._loop.stop))
        return future

    def join(self) -> bool:
        """Wait until the thread has ended; not in the thread itself, where it returns `False`."""
        if threading.current_thread() is self._thread:
            return False
        self._thread.join()
        return True

    def _run(self) -> None:
        try:
            self._loop.run_forever()
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        finally:
            self._loop.close()
            self._executor.shutdown()
