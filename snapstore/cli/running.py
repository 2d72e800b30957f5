"""Run what a command does: on an event loop, with progress, and after a question."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextlib import AsyncExitStack, aclosing, contextmanager, nullcontext
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from snapstore import ObjectSnapshotStorage, SnapstoreError
from snapstore.cli.printing import is_terminal, one_line, printable, say
from snapstore.operations import Operation, iter_locations

__all__ = [
    "confirm",
    "file_errors",
    "follow",
    "opened",
    "require_consent",
    "require_sessions",
    "usage_errors",
]

T = TypeVar("T")
EventT = TypeVar("EventT")
ReportT = TypeVar("ReportT")


@contextmanager
def opened(*storages: ObjectSnapshotStorage) -> Iterator[Callable[[Coroutine[Any, Any, T]], T]]:
    """Open storages on an event loop of their own, and close them at the end.

    The loop runs only while there is something to do. So a question can be asked in between, and an
    interrupt ends it at once.

    Args:
        storages: The storages.

    Returns:
        A context manager. What it gives runs a coroutine on the loop.
    """
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()

        async def enter() -> None:
            for storage in storages:
                await stack.enter_async_context(storage)

        try:
            runner.run(enter())
            yield runner.run
        finally:
            runner.run(stack.aclose())


@contextmanager
def usage_errors() -> Iterator[None]:
    """Turn what the library says of wrong arguments into an error of the command line."""
    try:
        yield
    except SnapstoreError:
        raise
    except ValueError as error:
        raise click.UsageError(str(error)) from None


@contextmanager
def file_errors() -> Iterator[None]:
    """Turn a file that can't be read or written, or a missing library, into one line."""
    try:
        yield
    except BrokenPipeError:
        raise
    except (OSError, ModuleNotFoundError) as error:
        raise click.ClickException(one_line(error)) from None


async def follow(
    operation: Operation[EventT, ReportT],
    doing: str,
    *,
    count: Callable[[ReportT], str],
    on_event: Callable[[EventT], object],
) -> ReportT:
    """Run an operation, with its progress on stderr where that is a terminal.

    It prints the totals at the end, also where the operation was cut off in the middle.

    Args:
        operation: The operation.
        doing: What it does, as `"Deleting"`.
        count: The totals, in words.
        on_event: Called with each event.
    """
    has_begun = False
    console = Console(stderr=True)
    progress = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        # Else what goes to a file or a pipe would be shown above the progress, and not get there.
        redirect_stdout=is_terminal(),
    )
    try:
        with progress if console.is_terminal else nullcontext():
            task = progress.add_task(doing)
            async with operation:
                async for event in operation:
                    has_begun = True
                    on_event(event)
                    progress.update(task, description=f"{doing}: {count(operation.report)}")
    except BaseException:
        if has_begun:
            say(count(operation.report))
        raise
    say(count(operation.report))
    return operation.report


def require_consent(*, yes: bool, dry_run: bool) -> None:
    """Refuse to change something where nobody can be asked.

    Raises:
        click.UsageError: It is no dry run, `--yes` was not given, and this is no terminal.
    """
    if not (yes or dry_run or (sys.stdin.isatty() and sys.stderr.isatty())):
        raise click.UsageError("this changes something: add --yes, or --dry-run to see what")


def require_sessions(
    run: Callable[[Coroutine[Any, Any, bool]], bool],
    storage: ObjectSnapshotStorage,
    session_ids: Iterable[str],
) -> None:
    """Refuse sessions that were named and are not there.

    Raises:
        click.ClickException: One is not there.
    """

    async def exists(session_id: str) -> bool:
        locations = iter_locations(storage.objects, storage.layout, session_id)
        async with aclosing(locations):
            return await anext(locations, None) is not None

    for session_id in session_ids:
        if not run(exists(session_id)):
            raise click.ClickException(f"there is no session {session_id}")


def confirm(question: str, *, yes: bool) -> None:
    """Ask, unless the answer was given before.

    Raises:
        click.exceptions.Exit: The answer is no.
    """
    if yes or click.confirm(printable(question), err=True):
        return
    print("nothing was changed", file=sys.stderr)
    raise click.exceptions.Exit(1)
