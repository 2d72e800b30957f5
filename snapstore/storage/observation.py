"""Report each operation of a storage to a hook, once, when it ends.

Without a hook a storage has no observer, and its operations only check that.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from contextvars import Context, copy_context
from types import TracebackType
from typing import Any, Final, Literal, TypeVar

import msgspec

from snapstore.errors import SnapshotConflictError, StorageError, WrongEventLoopError
from snapstore.model.keys import Layout
from snapstore.model.snapshot import Snapshot
from snapstore.storage.updates import Update
from snapstore.stores.lifecycle import Use
from snapstore.stores.managed import ManagedStore
from snapstore.stores.recording import Recording, RecordInto, RequestRecord

__all__ = ["Observer", "OperationHook", "OperationRecord", "Watch", "unrecorded"]

T = TypeVar("T")

logger: Final = logging.getLogger("snapstore")


class OperationRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One operation of a storage, as it is given to `on_operation`. It has no content.

    Args:
        operation: The method that was called: `"save_snapshot"`.
        place: The bucket, or the directory of a `FileStorage`.
        outcome: `"ok"`; `"failed"` if it raised an error; `"cancelled"`. A walk that its caller
            has left early is `"ok"`.
        error: The name of the class of what it raised; `None` if it raised nothing.
        code: The server's code for the error; `None` where there is none.
        status: The HTTP status of the error; `None` where there is none.
        started_at: When it began, in seconds of Unix time.
        seconds: Seconds that it took, retries and waits included; of `update_latest` with the time
            that `update` takes, of a walk with the time between its pages.
        bytes_read: Bytes of the objects that it has read.
        bytes_written: Bytes of the documents that it has sent, as JSON, those of a write that
            failed included; once for all attempts of a write.
        conflicts: How often another writer came first: lost races of `update_latest`, and one for
            an operation that failed with a `SnapshotConflictError`.
        key_pattern: Where the object lies in the layout, with names instead of ids, and without
            the prefix: `"<session_id>/scopes/agent/<scope_id>/snapshots/snapshot_latest.json"`. Of
            a checkpoint it is that of latest, of a rewind that of the snapshot in history, of a
            listing what the keys begin with, `""` for a listing of all sessions. `None` if it ended
            before it came to that.
        key: The full key if the storage was asked for keys (`on_operation_keys=True`); otherwise
            `None`.
        requests: Its HTTP requests, in the order in which they ended. Only S3 makes any. Those of
            operations that `update` of `update_latest` makes are not among them.
    """

    operation: str
    place: str
    outcome: Literal["ok", "failed", "cancelled"]
    error: str | None = None
    code: str | None = None
    status: int | None = None
    started_at: float
    seconds: float
    bytes_read: int = 0
    bytes_written: int = 0
    conflicts: int = 0
    key_pattern: str | None = None
    key: str | None = None
    requests: tuple[RequestRecord, ...] = ()

    @property
    def retries(self) -> int:
        """How many of its requests repeated an earlier one."""
        return sum(request.attempt > 1 for request in self.requests)


OperationHook = Callable[[OperationRecord], object]
"""Called with the record of each operation; a plain function, not a coroutine function."""


class Observer:
    """Reports the operations of a storage, and of its namespaces, to a hook.

    Args:
        hook: The hook. What it raises is logged, the first time, and goes no further.
        with_keys: Whether records have keys.
        objects: The store of the storage.

    Raises:
        TypeError: The hook can't be called, or is a coroutine function.
    """

    def __init__(self, hook: OperationHook, *, with_keys: bool, objects: ManagedStore) -> None:
        _validate_hook(hook)
        self.with_keys: bool = with_keys
        self._hook = hook
        self._objects = objects
        self._has_failed = False

    @classmethod
    def of(
        cls, hook: OperationHook | None, *, with_keys: bool, objects: ManagedStore
    ) -> Observer | None:
        """An observer for a hook; `None` for no hook."""
        return None if hook is None else cls(hook, with_keys=with_keys, objects=objects)

    def watch(self, operation: str, layout: Layout, use: Use) -> Watch:
        """An operation, as a context manager around all of it.

        Args:
            operation: Its name.
            layout: The keys of the storage.
            use: The use of the store that it is.
        """
        return Watch(self, operation, layout, use)

    def watch_pages(
        self, operation: str, layout: Layout, pages: AsyncGenerator[T, None]
    ) -> AsyncGenerator[T, None]:
        """A walk. It is reported when it ends or is left, and not at all if it never began.

        Args:
            operation: Its name.
            layout: The keys of the storage.
            pages: The pages. It is closed at the end.
        """
        return self._walk(operation, layout, pages, copy_context())

    async def _walk(
        self, operation: str, layout: Layout, pages: AsyncGenerator[T, None], context: Context
    ) -> AsyncGenerator[T, None]:
        recording = Recording(with_keys=self.with_keys)
        error: BaseException | None = None
        try:
            async with aclosing(pages):
                while True:
                    # Not around the yield: the consumer's code is no part of the operation.
                    with RecordInto(recording):
                        page = await anext(pages, None)
                    if page is None:
                        break
                    yield page
        except GeneratorExit:
            raise
        except BaseException as raised:
            error = raised
            raise
        finally:
            self.report(operation, layout, recording, error, context)
            del error  # it refers to this frame

    def report(
        self,
        operation: str,
        layout: Layout,
        recording: Recording,
        error: BaseException | None,
        context: Context,
    ) -> None:
        """Call the hook.

        Args:
            operation: The name of the operation.
            layout: The keys of the storage.
            recording: What it has done.
            error: What it raised.
            context: Its caller's context, which the hook runs in.
        """
        if isinstance(error, WrongEventLoopError):
            return  # the hook belongs to the storage's loop
        cause = error if isinstance(error, StorageError) else None
        outcome: Literal["ok", "failed", "cancelled"] = "ok"
        if error is not None:
            outcome = "failed" if isinstance(error, Exception) else "cancelled"
        record = OperationRecord(
            operation=operation,
            place=self._objects.name,
            outcome=outcome,
            error=None if error is None else type(error).__name__,
            code=None if cause is None else cause.code,
            status=None if cause is None else cause.status,
            started_at=recording.began_at,
            seconds=recording.seconds,
            bytes_read=recording.bytes_read,
            bytes_written=recording.bytes_written,
            conflicts=recording.conflicts + isinstance(error, SnapshotConflictError),
            key_pattern=None if recording.key is None else layout.pattern(recording.key),
            key=recording.key if self.with_keys else None,
            requests=tuple(recording.requests),
        )
        # A connection keeps the context of the task that made it, and so this recording.
        recording.requests.clear()
        try:
            result = context.run(self._hook, record)
            if inspect.iscoroutine(result):
                result.close()
                raise TypeError("on_operation returned a coroutine, which nobody awaits")  # noqa: TRY301 -- logged as an error of the hook
        except Exception as failure:
            if not self._has_failed:
                self._has_failed = True
                # What the operation raised is in the chain, and may be an error of `update`.
                failure.__suppress_context__ = True
                logger.warning(
                    "on_operation failed; further failures are not logged", exc_info=failure
                )


class Watch:
    """One operation, from entering to leaving it.

    Args:
        observer: Reports it.
        operation: Its name.
        layout: The keys of the storage.
        use: The use of the store that it is.
    """

    __slots__ = ("_context", "_into", "_layout", "_observer", "_operation", "_recording", "_use")

    def __init__(self, observer: Observer, operation: str, layout: Layout, use: Use) -> None:
        self._observer = observer
        self._operation = operation
        self._layout = layout
        self._use = use
        self._context = copy_context()
        self._recording = Recording(with_keys=observer.with_keys)
        self._into = RecordInto(self._recording)

    def __enter__(self) -> None:
        try:
            self._use.__enter__()
        except BaseException as error:
            self._report(error)
            raise
        self._into.__enter__()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._into.__exit__()
        self._use.__exit__(exc_type, exc, traceback)
        self._report(exc)

    def _report(self, error: BaseException | None) -> None:
        self._observer.report(self._operation, self._layout, self._recording, error, self._context)


def unrecorded(update: Update) -> Update:
    """The `update` of `update_latest`, whose own operations are no part of that one."""

    async def run(latest: Snapshot | None) -> Snapshot:
        with RecordInto(None):
            updated = update(latest)
            return await updated if inspect.isawaitable(updated) else updated

    return run


def _validate_hook(hook: Any) -> None:
    if not callable(hook):
        raise TypeError(f"on_operation must be a function, not a {type(hook).__name__}")
    for function in (hook, type(hook).__call__):
        if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
            raise TypeError("on_operation must be a plain function, not a coroutine function")
