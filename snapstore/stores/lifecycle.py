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
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar, Token
from types import TracebackType
from typing import Any, Final

from snapstore.errors import (
    LifecycleError,
    StorageClosedError,
    StorageTimeoutError,
    WrongEventLoopError,
)
from snapstore.stores.contexts import restore

__all__ = ["Lifecycle", "Use"]

logger: Final = logging.getLogger("snapstore")

_NO_USE: Final = nullcontext()

_LEAST_TO_OPEN: Final = 15.0
"""Seconds that opening may take in any case: it may import aiobotocore."""
_DROP_TIMEOUT: Final = 10.0
"""Seconds that releasing what a closed loop has left may take: it may wait for that loop."""


class _State(enum.Enum):
    CLOSED = "closed"
    OPENING = "being opened"
    OPEN = "open"
    CLOSING = "being closed"


class _Life:
    """One life of a resource, from opening to closing."""

    def __init__(self, resource: object, loop: asyncio.AbstractEventLoop) -> None:
        self.resource: object = resource
        self.loop: asyncio.AbstractEventLoop = loop
        self.held: AsyncGenerator[None, None] | None = None
        self.closing: asyncio.Lock = asyncio.Lock()
        self.idle: asyncio.Event = asyncio.Event()
        self.idle.set()
        self.uses: int = 0

    def begin(self) -> None:
        self.uses += 1
        self.idle.clear()

    def end(self) -> None:
        self.uses -= 1
        # Uses may be collected, and so ended, when their loop is closed, and nobody waits any more.
        if not self.uses and not self.loop.is_closed():
            self.idle.set()


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
        self.name: str = name
        self._state = _State.CLOSED
        self._acquire = acquire
        self._release = release
        self._timeout = timeout
        # What its lives have in common. They don't refer to it, so it is collected at once.
        self._resource = object()
        self._life: _Life | None = None

    async def open(self) -> None:
        """Acquire the resource for the running loop.

        Raises:
            LifecycleError: It is not closed.
            StorageTimeoutError: It could not be acquired in time.
        """
        if not self._is_closed():
            raise LifecycleError(f"{self.name} is already {self._state.value}")
        loop = _running_loop(self.name)
        last, self._life = self._life, _Life(self._resource, loop)
        life, self._state = self._life, _State.OPENING
        try:
            await self._drop(last)
            life.held = _hold(self._acquire, self._release)
            seconds = None if self._timeout is None else max(self._timeout, _LEAST_TO_OPEN)
            await self._in_time(anext(life.held), "open", seconds)
        except BaseException:
            self._set_closed(life)
            raise
        self._state = _State.OPEN

    async def aclose(self) -> None:
        """Refuse new uses, wait for those under way, and release the resource.

        A use that has not ended after `timeout` seconds is not waited for any longer: it fails at
        its next step.

        Raises:
            WrongEventLoopError: It was opened on another loop, and that is not closed.
            LifecycleError: It is still being opened, or this is called inside of a use, or in a
                task that a use has started.
            StorageTimeoutError: It could not be released in time.
        """
        life = self._life
        if self._is_closed() or life is None:
            await self._drop(life)
            return
        if self._state is _State.OPENING:
            raise LifecycleError(f"{self.name} is still being opened")
        self._check_loop(life)
        if any(use.life is life for use in _uses_under_way()):
            raise LifecycleError(
                f"{self.name} can't be closed inside one of its own operations, which closing "
                "waits for"
            )
        self._state = _State.CLOSING
        async with life.closing:
            if self._life is not life or self._state is not _State.CLOSING:
                return  # another task has closed it meanwhile
            await self._wait_until_idle(life)
            held, life.held = life.held, None
            try:
                if held is not None:
                    await self._in_time(held.aclose(), "close", self._timeout)
            finally:
                self._set_closed(life)

    def use(self) -> Use:
        """A use of the resource, as a context manager. Inside of one, others may begin.

        Raises:
            StorageClosedError: On entering: it is not open, or it was closed while the operation
                that this is a part of was under way.
            WrongEventLoopError: On entering: it was opened on another loop.
        """
        return Use(self)

    def step(self) -> AbstractContextManager[None]:
        """A use for a step of an operation, as a context manager. Errors as `use`.

        If the running task is in a use already, closing waits for that one, and the step needs none
        of its own.
        """
        use = _current.get()
        is_inside = (
            use is not None
            and use.life is not None
            and use.life is self._life
            and use.task is asyncio.current_task()
            and not self._is_closed()
        )
        return _NO_USE if is_inside else Use(self)

    def begin(self) -> _Life:
        """Begin a use, and count it."""
        life = self._life
        is_inner = is_of_earlier_life = False
        for use in _uses_under_way():
            if use.life is not None and use.life.resource is self._resource:
                is_inner = is_inner or use.life is life
                is_of_earlier_life = is_of_earlier_life or use.life is not life
        # Closing waits for the operation that this use is a part of.
        is_open = self._state is _State.OPEN or (is_inner and self._state is _State.CLOSING)
        is_stale = is_of_earlier_life and not is_inner
        if life is None or self._is_closed() or not is_open or is_stale:
            state = self._state.value if not is_open else "closed"
            raise StorageClosedError(
                f"{self.name} is {state}; open it first, with 'async with' or "
                "'await ….open()' (for a namespace, open the storage that it came from)"
            )
        self._check_loop(life)
        life.begin()
        return life

    async def _wait_until_idle(self, life: _Life) -> None:
        try:
            async with asyncio.timeout(self._timeout):
                await life.idle.wait()
        except TimeoutError:
            logger.warning(
                "%s is closed while %d operations have not ended after %g s",
                self.name,
                life.uses,
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

    async def _drop(self, life: _Life | None) -> None:
        """Release what is left of a life that ended with its loop, and not by `aclose`."""
        if life is None or life.held is None:
            return
        held, life.held = life.held, None
        try:
            async with asyncio.timeout(_DROP_TIMEOUT):
                await held.aclose()
        except Exception as error:  # noqa: BLE001 -- not all of a loop can be released from another
            logger.debug("%s was left open by a loop: %s", self.name, type(error).__name__)

    def _is_closed(self) -> bool:
        if self._life is not None and self._life.loop.is_closed():
            self._state = _State.CLOSED
        return self._state is _State.CLOSED

    def _set_closed(self, life: _Life) -> None:
        # A coroutine of an earlier loop may be collected, and so ended, at any time later.
        if self._life is life:
            self._state = _State.CLOSED

    def _check_loop(self, life: _Life) -> None:
        if _running_loop(self.name) is not life.loop:
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
    """A use of a resource, from entering it to leaving it, once.

    Args:
        lifecycle: The resource's.

    Attributes:
        life: The life of the resource that it is a use of; `None` before and after.
        outer: The use inside of which it was entered; `None` where there is none.
        task: The task that is in it; `None` before and after.
    """

    __slots__ = ("_lifecycle", "_token", "life", "outer", "task")

    def __init__(self, lifecycle: Lifecycle) -> None:
        self._lifecycle: Lifecycle | None = lifecycle
        self._token: Token[Use | None] | None = None
        self.life: _Life | None = None
        self.outer: Use | None = None
        self.task: asyncio.Task[Any] | None = None

    def __enter__(self) -> None:
        if self._lifecycle is None or self.life is not None:
            raise LifecycleError("a use of a store is entered only once; call use() for each")
        self.life = self._lifecycle.begin()
        self.outer = _current.get()
        self.task = asyncio.current_task()
        self._token = _current.set(self)

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        life, token = self.life, self._token
        # A connection keeps the context of the task that made it, and so this use. What it refers
        # to must not live as long.
        self._lifecycle = self._token = self.life = self.outer = self.task = None
        if life is not None:
            life.end()
        restore(_current, token)


_current: ContextVar[Use | None] = ContextVar("snapstore_use", default=None)
"""The innermost use under way. The tasks that it starts have it, too."""


def _uses_under_way() -> Iterator[Use]:
    """The uses that the running task is in, or was started in, the innermost first."""
    use = _current.get()
    while use is not None:
        yield use
        use = use.outer


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
