"""Who may use a storage, and when: opened once, on one event loop, closed when it is idle.

The resource is held by an asynchronous generator. asyncio closes those before it closes a loop
(`loop.shutdown_asyncgens`, which `asyncio.run` calls), and those that are collected. So a resource
that nobody closes is released all the same, while its loop still runs.
"""

from __future__ import annotations

import asyncio
import enum
import logging
import warnings
from collections.abc import AsyncGenerator, Awaitable, Callable
from types import TracebackType
from typing import Final

from snapstore.errors import LifecycleError, StorageClosedError, WrongEventLoopError

__all__ = ["Lifecycle"]

logger: Final = logging.getLogger("snapstore")

_DROP_TIMEOUT: Final = 10.0
"""Seconds that releasing what a closed loop has left may take: it may wait for that loop."""


class _State(enum.Enum):
    CLOSED = "closed"
    OPENING = "being opened"
    OPEN = "open"
    CLOSING = "being closed"


class Lifecycle:
    """Keeps a resource's state, and as a context manager each use of it.

    With the loop that it was opened on, it is closed.

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
        self._held: AsyncGenerator[None, None] | None = None
        self._uses = 0
        self._idle = asyncio.Event()
        self._closing = asyncio.Lock()

    async def open(self) -> None:
        """Acquire the resource for the running loop.

        Raises:
            LifecycleError: It is not closed.
        """
        if not self._is_closed():
            raise LifecycleError(f"{self._name} is already {self._state.value}")
        loop = _running_loop(self._name)
        self._loop, self._state = loop, _State.OPENING
        try:
            await self._drop()
            self._held = _hold(self._acquire, self._release)
            await anext(self._held)
        except BaseException:
            self._set_closed(loop)
            raise
        self._uses = 0
        self._idle, self._closing = asyncio.Event(), asyncio.Lock()
        self._idle.set()
        self._state = _State.OPEN

    async def aclose(self) -> None:
        """Refuse new uses, wait for those under way, and release the resource.

        Raises:
            WrongEventLoopError: It was opened on another loop, and that is not closed.
            LifecycleError: It is still being opened.
        """
        if self._is_closed():
            await self._drop()
            return
        if self._state is _State.OPENING:
            raise LifecycleError(f"{self._name} is still being opened")
        self._check_loop()
        self._state = _State.CLOSING
        async with self._closing:
            if self._state is not _State.CLOSING:
                return  # another task has closed it meanwhile
            await self._idle.wait()
            loop, held, self._held = self._loop, self._held, None
            try:
                if held is not None:
                    await held.aclose()
            finally:
                self._set_closed(loop)

    async def _drop(self) -> None:
        """Release what is left of a life that ended with its loop, and not by `aclose`."""
        held, self._held = self._held, None
        if held is None:
            return
        try:
            async with asyncio.timeout(_DROP_TIMEOUT):
                await held.aclose()
        except Exception as error:  # noqa: BLE001 -- not all of a loop can be released from another
            logger.debug("%s was left open by a loop: %s", self._name, type(error).__name__)

    def _is_closed(self) -> bool:
        if self._loop is not None and self._loop.is_closed():
            self._state = _State.CLOSED
        return self._state is _State.CLOSED

    def _set_closed(self, loop: asyncio.AbstractEventLoop | None) -> None:
        # A coroutine of an earlier loop may be collected, and so ended, at any time later.
        if self._loop is loop:
            self._state = _State.CLOSED

    def __enter__(self) -> None:
        if self._state is not _State.OPEN or self._is_closed():
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
        # Of a loop that was closed in the middle of them, uses end when they are collected: not
        # counted any more, they must not make closing wait for ever.
        self._uses = max(self._uses - 1, 0)
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
        if self._state in (_State.OPEN, _State.CLOSING) and not self._is_closed():
            warnings.warn(
                f"{self._name} was never closed; use 'async with' or 'await storage.aclose()'",
                ResourceWarning,
                stacklevel=2,
                source=self,
            )


async def _hold(
    acquire: Callable[[], Awaitable[None]], release: Callable[[], Awaitable[None]]
) -> AsyncGenerator[None, None]:
    await acquire()
    try:
        yield
    finally:
        await release()


def _running_loop(name: str) -> asyncio.AbstractEventLoop:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        raise WrongEventLoopError(
            f"{name} runs on asyncio, and no asyncio loop runs here"
        ) from None
