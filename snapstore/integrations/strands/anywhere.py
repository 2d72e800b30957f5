"""A resource of one event loop that can be used from all: it lives on an I/O thread of its own.

An agent of the Strands SDK restores itself in a loop made for that moment, in a thread made for
that moment, while the loop that called is blocked; it saves itself on whatever loop it is invoked
on. A client belongs to one loop, so it gets one that none of them can block or close.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
import warnings
import weakref
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from typing import Any, Final, Generic, Protocol, TypeVar

from snapstore.errors import StorageClosedError
from snapstore.integrations.strands.iothread import IOThread
from snapstore.stores.threads import require_threads

__all__ = ["Anywhere"]

T = TypeVar("T")


class _Resource(Protocol):
    async def open(self) -> None: ...
    async def aclose(self) -> None: ...


R = TypeVar("R", bound=_Resource)


class Anywhere(Generic[R]):
    """Opens a resource when it is first used, on its own thread, and closes it when it is told to.

    In a process that was forked off it opens another one. Where nobody has closed it, the end of
    the interpreter does.

    Args:
        name: What users know it as.
        thread_name: The name of its thread.
        make: Makes the resource, without I/O.
    """

    _home: _Home[R] | None = None

    def __init__(self, name: str, thread_name: str, make: Callable[[], R]) -> None:
        self._name = name
        self._thread_name = thread_name
        self._make = make
        self._closed = False
        self._lock = threading.Lock()
        _all.add(self)

    def __reduce__(self) -> tuple[type[Anywhere[R]], tuple[str, str, Callable[[], R]]]:
        """What was pickled opens a resource of its own."""
        return Anywhere, (self._name, self._thread_name, self._make)

    def __deepcopy__(self, memo: object) -> Anywhere[R]:
        """A deep copy does, too; what it is made of, such as a session, need not be copied."""
        return Anywhere(self._name, self._thread_name, self._make)

    async def run(self, work: Callable[[R], Awaitable[T]], *, to_the_end: bool = False) -> T:
        """Run something with the resource, on its loop, and wait for it on this one.

        Args:
            work: What to do with it.
            to_the_end: To cancel this does not cancel the work.

        Raises:
            StorageClosedError: It was closed.
            LifecycleError: It was not open, and no thread can be had.
        """
        waiting = asyncio.wrap_future(self._submit(work))
        return await (asyncio.shield(waiting) if to_the_end else waiting)

    def close(self) -> None:
        """Let what is under way end, close the resource, and end the thread; once."""
        with self._lock:
            first, self._closed = not self._closed, True
            home = self._home
        if home is None:
            return
        ending = home.end() if first else None
        if home.join():
            self._home = None
            if ending is not None:
                ending.result()

    def forget(self) -> None:
        """In a process that was forked off: the thread has stayed behind."""
        self._lock = threading.Lock()
        if self._home is not None:
            # To let go of it would be to close what is the parent's, and to warn of it.
            _left_behind.append(self._home)
            self._home = None

    def _submit(self, work: Callable[[R], Awaitable[T]]) -> Future[T]:
        with self._lock:
            if self._closed:
                raise StorageClosedError(f"{self._name} is closed")
            if self._home is None:
                require_threads(self._name)
                self._home = _Home(self._thread_name, self._make())
            return self._home.submit(work)

    def __del__(self) -> None:
        if self._home is not None and not self._closed:
            self._home.end()  # first, since the warning may be an error
            warnings.warn(
                f"{self._name} was never closed; use 'with' or call close()",
                ResourceWarning,
                stacklevel=2,
                source=self,
            )


class _Home(Generic[R]):
    """A resource and its thread."""

    def __init__(self, thread_name: str, resource: R) -> None:
        self._resource = resource
        self._is_open = False
        self._opening = asyncio.Lock()
        self._uses = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._thread = IOThread(thread_name)

    def submit(self, work: Callable[[R], Awaitable[T]]) -> Future[T]:
        return self._thread.submit(self._do(work))

    def end(self) -> Future[None]:
        return self._thread.stop(self._end())

    def join(self) -> bool:
        return self._thread.join()

    async def _do(self, work: Callable[[R], Awaitable[T]]) -> T:
        self._uses += 1
        self._idle.clear()
        try:
            if not self._is_open:
                async with self._opening:
                    if not self._is_open:
                        await self._resource.open()
                        self._is_open = True
            return await work(self._resource)
        finally:
            self._uses -= 1
            if not self._uses:
                self._idle.set()

    async def _end(self) -> None:
        # What was submitted earlier has begun earlier.
        await self._idle.wait()
        if self._is_open:
            await self._resource.aclose()


_all: Final[weakref.WeakSet[Anywhere[Any]]] = weakref.WeakSet()
_left_behind: Final[list[_Home[Any]]] = []


def _close_all() -> None:
    for each in list(_all):
        each.close()


def _forget_all() -> None:
    for each in list(_all):
        each.forget()


atexit.register(_close_all)
os.register_at_fork(after_in_child=_forget_all)
