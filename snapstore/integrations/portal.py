"""Use a resource of one event loop from any thread and any event loop.

A client belongs to the event loop that it was opened on. Frameworks with synchronous interfaces
call from worker threads, on loops that are made for one call, and while the loop that called them
is blocked. So the resource gets an event loop on a thread of its own, which nobody else can block
or close. anyio calls this a portal.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import threading
import warnings
import weakref
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final, Generic, Protocol, TypeVar

from snapstore.errors import LifecycleError, StorageClosedError, shown
from snapstore.stores.threads import require_threads

__all__ = ["Portal", "Resource"]

logger: Final = logging.getLogger("snapstore")

T = TypeVar("T")


class Resource(Protocol):
    """What a portal gives access to."""

    async def open(self) -> None:
        """Get ready for use on the running event loop. If this fails, it is called again."""
        ...

    async def aclose(self) -> None:
        """Release everything, on the same event loop."""
        ...


R = TypeVar("R", bound=Resource)


class Portal(Generic[R]):
    """Gives any thread and any event loop access to a resource that lives on one event loop.

    The thread begins and the resource is opened with the first use. `close` waits for the work
    under way, closes the resource and ends the thread; the end of the interpreter does the same for
    a portal that nobody closed. A portal that is collected open warns, and closes the resource.

    The thread does not survive a fork: in the child, the portal opens a resource of its own. So
    does a portal that was pickled or deep-copied.

    Args:
        name: What messages call it.
        thread_name: The name of its thread.
        make: Makes the resource, without I/O. It is called at once, so that it can raise for wrong
            arguments, and once more for each forked child and each copy that uses the portal.

    Attributes:
        name: As the argument.

    Example:
        ::

            portal = Portal("Notes", "notes", lambda: ManagedStore(S3ObjectStore("my-bucket")))
            note = portal.call(lambda store: store.get("a", max_bytes=1000))  # in any thread
            note = await portal.run(lambda store: store.get("a", max_bytes=1000))  # on any loop
            portal.close()
    """

    _host: _Host[R] | None = None

    def __init__(self, name: str, thread_name: str, make: Callable[[], R]) -> None:
        self.name: str = name
        self._thread_name = thread_name
        self._make = make
        self._unopened: R | None = make()
        self._closed = False
        self._lock = threading.Lock()
        _portals.add(self)

    def __reduce__(self) -> tuple[type[Portal[R]], tuple[str, str, Callable[[], R]]]:
        return Portal, (self.name, self._thread_name, self._make)

    def __deepcopy__(self, memo: object) -> Portal[R]:
        # What the resource is made of, such as a session, need not be copied.
        return Portal(self.name, self._thread_name, self._make)

    async def run(self, work: Callable[[R], Awaitable[T]], *, shield: bool = False) -> T:
        """Run work with the resource on its loop, and await it on this one.

        Args:
            work: Awaited with the resource.
            shield: Whether the work goes on if the caller is cancelled.

        Raises:
            StorageClosedError: The portal was closed.
            LifecycleError: The resource is not open yet, and no thread can be started.
        """
        waiting = asyncio.wrap_future(self._submit(work))
        return await (asyncio.shield(waiting) if shield else waiting)

    def call(self, work: Callable[[R], Awaitable[T]]) -> T:
        """Run work with the resource on its loop, and block this thread until it has ended.

        Args:
            work: Awaited with the resource. An exception in this thread, as by Ctrl-C, cancels it.

        Raises:
            StorageClosedError: The portal was closed.
            LifecycleError: The resource is not open yet, and no thread can be started; or this is
                the portal's own thread, which would wait for itself.
        """
        if self._host is not None and self._host.is_current_thread():
            raise LifecycleError(f"{self.name} can't wait for its own thread: use 'await'")
        future = self._submit(work)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def close(self) -> None:
        """Wait for the work under way, close the resource, and end the thread.

        It blocks this thread for as long as that takes, but on the portal's own thread, where it
        returns at once. A second call waits for the end of the first one.
        """
        with self._lock:
            is_first, self._closed = not self._closed, True
            host = self._host
        if host is None:
            return
        closing = host.close() if is_first else None
        if host.join():
            self._host = None
            if closing is not None:
                closing.result()

    def _submit(self, work: Callable[[R], Awaitable[T]]) -> Future[T]:
        with self._lock:
            if self._closed:
                raise StorageClosedError(f"{self.name} is closed")
            if self._host is None:
                require_threads(self.name)
                resource = self._make() if self._unopened is None else self._unopened
                self._host, self._unopened = _Host(self._thread_name, resource), None
            return self._host.submit(work)

    def _abandon(self) -> None:
        """Let go, in a forked child, of the parent's thread and resource."""
        self._lock = threading.Lock()
        if self._host is not None:
            # If it were collected, it would warn, and close what is the parent's.
            _of_parents.append(self._host)
            self._host = None

    def __del__(self) -> None:
        if self._host is not None and not self._closed:
            self._host.close()  # first, since the warning may be an error
            warnings.warn(
                f"{self.name} was never closed; use 'with' or call close()",
                ResourceWarning,
                stacklevel=2,
                source=self,
            )


class _Host(Generic[R]):
    """A daemon thread, its event loop, and the resource that lives on the loop.

    Args:
        thread_name: The name of the thread.
        resource: The resource.
    """

    def __init__(self, thread_name: str, resource: R) -> None:
        self._resource = resource
        self._is_open = False
        self._opening = asyncio.Lock()
        self._uses = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._loop = asyncio.new_event_loop()
        # The loop would close an executor of its own by one more thread, and none can be started
        # while the interpreter exits.
        self._executor = ThreadPoolExecutor(thread_name_prefix=thread_name)
        self._loop.set_default_executor(self._executor)
        self._thread = threading.Thread(target=self._run_loop, name=thread_name, daemon=True)
        try:
            self._thread.start()
        except RuntimeError:  # the interpreter exits
            self._loop.close()
            raise

    def submit(self, work: Callable[[R], Awaitable[T]]) -> Future[T]:
        """Run work on the loop. To cancel the future cancels the work."""
        return self._run(self._use(work))

    def close(self) -> Future[None]:
        """Wait for the work under way, close the resource, and stop the loop. Called once."""
        future = self._run(self._close())
        future.add_done_callback(lambda _: self._loop.call_soon_threadsafe(self._loop.stop))
        return future

    def join(self) -> bool:
        """Wait until the thread has ended; on the thread itself, return `False`."""
        if self.is_current_thread():
            return False
        self._thread.join()
        return True

    def is_current_thread(self) -> bool:
        """Whether the caller is on the thread of the loop."""
        return threading.current_thread() is self._thread

    def _run(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    async def _use(self, work: Callable[[R], Awaitable[T]]) -> T:
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

    async def _close(self) -> None:
        # Work that was submitted before has begun by now.
        await self._idle.wait()
        if self._is_open:
            await self._resource.aclose()

    def _run_loop(self) -> None:
        try:
            self._loop.run_forever()
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        finally:
            self._loop.close()
            self._executor.shutdown()


_portals: Final[weakref.WeakSet[Portal[Any]]] = weakref.WeakSet()
_of_parents: Final[list[_Host[Any]]] = []


def _close_all() -> None:
    for portal in list(_portals):
        try:
            portal.close()
        except Exception as error:  # noqa: BLE001 -- the others are to be closed, too
            logger.warning("%s was not closed at exit: %s", portal.name, shown(str(error)))


def _abandon_all() -> None:
    for portal in list(_portals):
        portal._abandon()  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]


atexit.register(_close_all)
os.register_at_fork(after_in_child=_abandon_all)
