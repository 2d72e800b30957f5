"""Who may use a resource, and when: opened once, on one event loop, closed when it is idle.

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
from contextlib import suppress
from contextvars import ContextVar, Token
from types import TracebackType
from typing import Final

from snapstore.errors import (
    LifecycleError,
    StorageClosedError,
    StorageTimeoutError,
    WrongEventLoopError,
)

__all__ = ["Lifecycle", "Use"]

logger: Final = logging.getLogger("snapstore")

_LEAST_TO_OPEN: Final = 15.0
"""Seconds that opening may take in any case: it may import aiobotocore."""
_DROP_TIMEOUT: Final = 10.0
"""Seconds that releasing what a closed loop has left may take: it may wait for that loop."""


class _State(enum.Enum):
    CLOSED = "closed"
    OPENING = "being opened"
    OPEN = "open"
    CLOSING = "being closed"


class Lifecycle:
    """Keeps a resource's state, and counts its uses.

    With the loop that it was opened on, it is closed.

    Args:
        name: What it is the lifecycle of, for messages.
        acquire: Acquires the resource.
        release: Releases it; called when nothing uses it any more.
        timeout: Seconds that opening may take, if they are more than 15, and that closing waits
            for the uses under way, and then for the release; `None` for no limit.

    Example:
        ::

            with lifecycle.use():  # raises where the resource may not be used
                ...
    """

    def __init__(
        self,
        name: str,
        acquire: Callable[[], Awaitable[None]],
        release: Callable[[], Awaitable[None]],
        *,
        timeout: float | None,
    ) -> None:
        self.name = name
        self._state = _State.CLOSED
        self._acquire = acquire
        self._release = release
        self._timeout = timeout
        self._loop: asyncio.AbstractEventLoop | None = None
        self._held: AsyncGenerator[None, None] | None = None
        self._uses = 0
        self._idle = asyncio.Event()
        self._closing = asyncio.Lock()

    async def open(self) -> None:
        """Acquire the resource for the running loop.

        Raises:
            LifecycleError: It is not closed.
            StorageTimeoutError: It could not be acquired in time.
        """
        if not self._is_closed():
            raise LifecycleError(f"{self.name} is already {self._state.value}")
        loop = _running_loop(self.name)
        self._loop, self._state = loop, _State.OPENING
        try:
            await self._drop()
            self._held = _hold(self._acquire, self._release)
            seconds = None if self._timeout is None else max(self._timeout, _LEAST_TO_OPEN)
            await self._in_time(anext(self._held), "open", seconds)
        except BaseException:
            self._set_closed(loop)
            raise
        self._uses = 0
        self._idle, self._closing = asyncio.Event(), asyncio.Lock()
        self._idle.set()
        self._state = _State.OPEN

    async def aclose(self) -> None:
        """Refuse new uses, wait for those under way, and release the resource.

        A use that has not ended after `timeout` seconds is not waited for any longer: it fails at
        its next step.

        Raises:
            WrongEventLoopError: It was opened on another loop, and that is not closed.
            LifecycleError: It is still being opened, or this is called inside of a use.
            StorageTimeoutError: It could not be released in time.
        """
        if self._is_closed():
            await self._drop()
            return
        if self._state is _State.OPENING:
            raise LifecycleError(f"{self.name} is still being opened")
        self._check_loop()
        use = _current.get()
        if use is not None and use.is_of(self) and use.task is asyncio.current_task():
            raise LifecycleError(
                f"{self.name} can't be closed inside one of its own operations, which closing "
                "waits for"
            )
        self._state = _State.CLOSING
        async with self._closing:
            if self._state is not _State.CLOSING:
                return  # another task has closed it meanwhile
            await self._wait_until_idle()
            loop, held, self._held = self._loop, self._held, None
            try:
                if held is not None:
                    await self._in_time(held.aclose(), "close", self._timeout)
            finally:
                self._set_closed(loop)

    def use(self) -> Use:
        """A use of the resource, as a context manager. Inside of one, others may begin.

        Raises:
            StorageClosedError: On entering: it is not open.
            WrongEventLoopError: On entering: it was opened on another loop.
        """
        return Use(self)

    def begin(self, *, is_inner: bool) -> None:
        """Count a use that begins.

        Args:
            is_inner: Whether it begins inside of another one, which closing waits for.
        """
        is_open = self._state is _State.OPEN or (is_inner and self._state is _State.CLOSING)
        if not is_open or self._is_closed():
            raise StorageClosedError(
                f"{self.name} is {self._state.value}; open it first, with 'async with' or "
                "'await ….open()' (for a namespace, open the storage that it came from)"
            )
        self._check_loop()
        self._uses += 1
        self._idle.clear()

    def end(self) -> None:
        """Count a use that ends."""
        # Of a loop that was closed in the middle of them, uses end when they are collected: not
        # counted any more, they must not make closing wait for ever.
        self._uses = max(self._uses - 1, 0)
        if not self._uses:
            self._idle.set()

    async def _wait_until_idle(self) -> None:
        try:
            async with asyncio.timeout(self._timeout):
                await self._idle.wait()
        except TimeoutError:
            logger.warning(
                "%s is closed while %d operations have not ended after %g s",
                self.name,
                self._uses,
                self._timeout,
            )

    async def _in_time(self, work: Awaitable[None], operation: str, seconds: float | None) -> None:
        timeout = asyncio.timeout(seconds)
        try:
            async with timeout:
                await work
        except TimeoutError:
            if not timeout.expired():
                raise
        else:
            return
        raise StorageTimeoutError(
            f"{operation} of {self.name} did not end by its deadline, after {seconds:g} s",
            operation=operation,
        )

    async def _drop(self) -> None:
        """Release what is left of a life that ended with its loop, and not by `aclose`."""
        held, self._held = self._held, None
        if held is None:
            return
        try:
            async with asyncio.timeout(_DROP_TIMEOUT):
                await held.aclose()
        except Exception as error:  # noqa: BLE001 -- not all of a loop can be released from another
            logger.debug("%s was left open by a loop: %s", self.name, type(error).__name__)

    def _is_closed(self) -> bool:
        if self._loop is not None and self._loop.is_closed():
            self._state = _State.CLOSED
        return self._state is _State.CLOSED

    def _set_closed(self, loop: asyncio.AbstractEventLoop | None) -> None:
        # A coroutine of an earlier loop may be collected, and so ended, at any time later.
        if self._loop is loop:
            self._state = _State.CLOSED

    def _check_loop(self) -> None:
        if _running_loop(self.name) is not self._loop:
            raise WrongEventLoopError(
                f"{self.name} is used from another event loop than the one it was opened on; "
                "await it on that one (in a web app, from an 'async def' endpoint), or "
                "open one storage for each loop"
            )

    def __del__(self) -> None:
        if self._state in (_State.OPEN, _State.CLOSING) and not self._is_closed():
            warnings.warn(
                f"{self.name} was never closed; use 'async with' or 'await storage.aclose()'",
                ResourceWarning,
                stacklevel=2,
                source=self,
            )


class Use:
    """A use of a resource, from entering it to leaving it.

    Args:
        lifecycle: The resource's.

    Attributes:
        task: The task that uses it.
    """

    __slots__ = ("_ended", "_lifecycle", "_token", "task")

    def __init__(self, lifecycle: Lifecycle) -> None:
        self._lifecycle = lifecycle
        self._ended = True
        self._token: Token[Use | None]
        self.task: asyncio.Task[object] | None = None

    def is_of(self, lifecycle: Lifecycle) -> bool:
        """Whether it is a use of this resource, and has not ended."""
        return self._lifecycle is lifecycle and not self._ended

    def __enter__(self) -> None:
        outer = _current.get()
        self._lifecycle.begin(is_inner=outer is not None and outer.is_of(self._lifecycle))
        self._ended = False
        self.task = asyncio.current_task()
        self._token = _current.set(self)

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._ended = True
        self._lifecycle.end()
        # A coroutine whose loop has ended is closed in another context, which has none of this.
        with suppress(ValueError):
            _current.reset(self._token)


_current: ContextVar[Use | None] = ContextVar("snapstore_use", default=None)
"""The use under way. The tasks that it starts have it, too."""


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
