"""Who may use a storage, and when: opened once, on one event loop, closed when it is idle."""

from __future__ import annotations

import asyncio
import enum
import warnings
from collections.abc import Awaitable, Callable
from types import TracebackType

from snapstore.errors import LifecycleError, StorageClosedError, WrongEventLoopError

__all__ = ["Lifecycle"]


class _State(enum.Enum):
    CLOSED = "closed"
    OPENING = "being opened"
    OPEN = "open"
    CLOSING = "being closed"


class Lifecycle:
    """Keeps a resource's state, and as a context manager each use of it.

    Args:
        name: What it is the lifecycle of, for messages.
        acquire: Acquires the resource.
        release: Releases it; called when nothing uses it any more.

    Example:
        ::

            with lifecycle:  # raises where the resource may not be used
                ...
    """

    def __init__(
        self,
        name: str,
        acquire: Callable[[], Awaitable[None]],
        release: Callable[[], Awaitable[None]],
    ) -> None:
        self._state = _State.CLOSED
        self._name = name
        self._acquire = acquire
        self._release = release
        self._loop: asyncio.AbstractEventLoop | None = None
        self._uses = 0
        self._idle = asyncio.Event()
        self._closing = asyncio.Lock()

    async def open(self) -> None:
        """Acquire the resource for the running loop.

        Raises:
            LifecycleError: It is not closed.
        """
        if self._state is not _State.CLOSED:
            raise LifecycleError(f"{self._name} is already {self._state.value}")
        loop = _running_loop(self._name)
        self._state = _State.OPENING
        try:
            await self._acquire()
        except BaseException:
            self._state = _State.CLOSED
            raise
        self._loop = loop
        self._idle, self._closing = asyncio.Event(), asyncio.Lock()
        self._idle.set()
        self._state = _State.OPEN

    async def aclose(self) -> None:
        """Refuse new uses, wait for those under way, and release the resource.

        Raises:
            WrongEventLoopError: It was opened on another loop.
            LifecycleError: It is still being opened.
        """
        if self._state is _State.CLOSED:
            return
        if self._state is _State.OPENING:
            raise LifecycleError(f"{self._name} is still being opened")
        self._check_loop()
        self._state = _State.CLOSING
        async with self._closing:
            if self._state is not _State.CLOSING:
                return  # another task has closed it meanwhile
            await self._idle.wait()
            try:
                await self._release()
            finally:
                self._state = _State.CLOSED

    def __enter__(self) -> None:
        if self._state is not _State.OPEN:
            hint = f"use 'async with {self._name}(...)' or 'await storage.open()'"
            raise StorageClosedError(f"{self._name} is {self._state.value}; {hint}")
        self._check_loop()
        self._uses += 1
        self._idle.clear()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._uses -= 1
        if not self._uses:
            self._idle.set()

    def _check_loop(self) -> None:
        if _running_loop(self._name) is not self._loop:
            raise WrongEventLoopError(
                f"{self._name} is used from another event loop than the one it was opened on; "
                "await it on that one (in a web app, from an 'async def' endpoint), or "
                "open one storage for each loop"
            )

    def __del__(self) -> None:
        if self._state in (_State.OPEN, _State.CLOSING):
            warnings.warn(
                f"{self._name} was never closed; use 'async with' or 'await storage.aclose()'",
                ResourceWarning,
                stacklevel=2,
                source=self,
            )


def _running_loop(name: str) -> asyncio.AbstractEventLoop:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        raise WrongEventLoopError(
            f"{name} runs on asyncio, and no asyncio loop runs here"
        ) from None
