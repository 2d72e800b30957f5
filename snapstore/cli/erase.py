"""`erase` and `erase-all`: for good, with a receipt."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import click
import msgspec

from snapstore import ObjectSnapshotStorage
from snapstore.cli.arguments import (
    IDENTIFIER,
    PLACE,
    Place,
    S3Settings,
    change_options,
    s3_options,
    storage_at,
)
from snapstore.cli.printing import (
    counted,
    json_of,
    say,
    shown_size,
    shown_time,
    write_json,
    write_row,
)
from snapstore.cli.running import (
    confirm,
    file_errors,
    follow,
    opened,
    require_consent,
    usage_errors,
)
from snapstore.operations import (
    EraseEvent,
    ErasureReceipt,
    Operation,
    erase_all,
    erase_session,
)

__all__ = ["COMMANDS"]

Erase = Callable[..., Operation[EraseEvent, ErasureReceipt]]


def _erase_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        s3_options,
        change_options,
        click.option(
            "--receipt",
            type=click.Path(dir_okay=False, allow_dash=True),
            metavar="FILE",
            help="Write the receipt here, as JSON, also if it is cut off; - is stdout.",
        ),
        click.option(
            "--bypass-governance",
            is_flag=True,
            help="Also what is locked in governance mode; needs s3:BypassGovernanceRetention.",
        ),
    ):
        command = option(command)
    return command


@click.command("erase")
@click.argument("place", type=PLACE)
@click.argument("session_id", metavar="SESSION", type=IDENTIFIER)
@_erase_options
def erase(place: Place, session_id: str, **options: Any) -> None:
    """Erase a session for good: versions, delete markers and stash included.

    Nothing of it can be loaded from the first step on. It works after an ordinary delete, too. Exit
    status 1: something is left, or that can't be known; the receipt tells.
    """

    def start(storage: ObjectSnapshotStorage, **others: Any) -> Any:
        return erase_session(storage, session_id=session_id, **others)

    _run(place, start, f"session {session_id}", **options)


@click.command("erase-all")
@click.argument("place", type=PLACE)
@_erase_options
def erase_all_command(place: Place, **options: Any) -> None:
    """Erase all that lies under a place for good: a user's namespace, say.

    A bucket without a prefix is refused, and so is a directory: rm -r removes one.
    """
    if place.bucket is None:
        raise click.UsageError("a directory is removed with rm -r, and not by erase-all")
    _run(place, erase_all, f"all under {place.text}", **options)


COMMANDS: Final = {"erase": erase, "erase-all": erase_all_command}


def _run(
    place: Place,
    start: Erase,
    what: str,
    *,
    bypass_governance: bool,
    receipt: str | None,
    dry_run: bool,
    yes: bool,
    as_json: bool,
    pace: float | None,
    **settings: str | None,
) -> None:
    require_consent(yes=yes, dry_run=dry_run)
    storage = storage_at(place, S3Settings(**settings))

    def operation(*, dry_run: bool) -> Operation[EraseEvent, ErasureReceipt]:
        return start(
            storage,
            dry_run=dry_run,
            bypass_governance=bypass_governance,
            max_requests_per_second=pace,
        )

    def write(event: EraseEvent) -> None:
        if as_json:
            write_json(event)
        else:
            write_row(event.result, event.kind, event.key, event.version_id or "", event.code or "")

    with usage_errors():
        operation(dry_run=True)  # what can't be erased is refused before anything is opened
    with _receipt_file(None if dry_run else receipt) as save, opened(storage) as run:
        if dry_run or not yes:
            show = write if dry_run else _nothing
            run(follow(operation(dry_run=True), "looking", count=_told, on_event=show))
            if dry_run:
                return
            confirm(f"Erase {what} for good?", yes=False)
        erasing = operation(dry_run=False)
        try:
            run(follow(erasing, "erasing", count=_told, on_event=write))
        finally:
            save(erasing.report)
    _tell(erasing.report)
    if not erasing.report.ok:
        raise click.exceptions.Exit(1)


@contextmanager
def _receipt_file(path: str | None) -> Iterator[Callable[[ErasureReceipt], None]]:
    """Open a file before anything is done, and give a function that writes a receipt to it.

    What the file has before is replaced by the receipt, and not earlier.
    """
    if path is None:
        yield _nothing
        return
    is_new = path != "-" and not os.path.exists(path)  # noqa: PTH110 -- nothing runs yet
    is_saved = False
    with file_errors():
        file = click.open_file(path, "ab")

    def save(receipt: ErasureReceipt) -> None:
        nonlocal is_saved
        is_saved = True
        if path != "-" and os.path.isfile(path):  # noqa: PTH113 -- and no pipe or device
            file.truncate(0)
        file.write(msgspec.json.format(json_of(receipt)) + b"\n")
        file.flush()

    try:
        with file:
            yield save
    finally:
        if is_new and not is_saved:
            os.unlink(path)  # noqa: PTH108 -- nothing was begun


def _nothing(_: object) -> None:
    """Show or save nothing."""


def _told(receipt: ErasureReceipt) -> str:
    parts = [
        counted(receipt.objects, "object"),
        counted(receipt.versions, "version"),
        counted(receipt.delete_markers, "delete marker"),
    ]
    what = "to be erased" if receipt.dry_run else "erased"
    return f"{', '.join(parts)} {what} ({shown_size(receipt.bytes)})"


def _tell(receipt: ErasureReceipt) -> None:
    for one in receipt.retained:
        until = "" if one.until is None else f" until {shown_time(one.until)}"
        version = "" if one.version_id is None else f" version {one.version_id}"
        say(f"kept: {one.key}{version}: {one.code}, {one.reason or 'reason not known'}{until}")
    for note in receipt.notes:
        say(f"note: {note}")
    left = {True: "nothing is left", False: "something is left", None: "what is left is not known"}
    say(left[receipt.nothing_left])
