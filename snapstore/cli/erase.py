"""`erase` and `erase-all`: for good, with a receipt."""

from __future__ import annotations

from collections.abc import Callable
from typing import IO, Any, Final

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
from snapstore.cli.printing import counted, say, shown_size, shown_time, write_json
from snapstore.cli.running import confirm, follow, opened, require_consent, usage_errors
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
            "--receipt", type=click.File("wb", lazy=True), help="Write the receipt here, as JSON."
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

    A bucket without a prefix is refused.
    """
    _run(place, erase_all, f"all under {place.text}", **options)


COMMANDS: Final = {"erase": erase, "erase-all": erase_all_command}


def _run(
    place: Place,
    start: Erase,
    what: str,
    *,
    bypass_governance: bool,
    receipt: IO[bytes] | None,
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
            fields = (event.result, event.kind, event.key, event.version_id or "", event.code or "")
            print("\t".join(fields).rstrip())

    with usage_errors():
        operation(dry_run=True)  # what can't be erased is refused before anything is opened
    with opened(storage) as run:
        if dry_run or not yes:
            show = write if dry_run else _nothing
            planned = run(follow(operation(dry_run=True), "looking", count=_told, on_event=show))
            say(_told(planned))
            if dry_run:
                return
            confirm(f"Erase {what} for good?", yes=False)
        done = run(follow(operation(dry_run=False), "erasing", count=_told, on_event=write))
    if receipt is not None:
        receipt.write(msgspec.json.format(msgspec.json.encode(done)) + b"\n")
    _tell(done)
    if not done.ok:
        raise click.exceptions.Exit(1)


def _nothing(_: EraseEvent) -> None:
    """Show nothing of what is only looked at."""


def _told(receipt: ErasureReceipt) -> str:
    parts = [
        counted(receipt.objects, "object"),
        counted(receipt.versions, "version"),
        counted(receipt.delete_markers, "delete marker"),
    ]
    what = "to be erased" if receipt.dry_run else "erased"
    return f"{', '.join(parts)} {what} ({shown_size(receipt.bytes)})"


def _tell(receipt: ErasureReceipt) -> None:
    say(_told(receipt))
    for one in receipt.retained:
        until = "" if one.until is None else f" until {shown_time(one.until)}"
        version = "" if one.version_id is None else f" version {one.version_id}"
        say(f"kept: {one.key}{version}: {one.code}, {one.reason or 'reason not known'}{until}")
    for note in receipt.notes:
        say(f"note: {note}")
    left = {True: "nothing is left", False: "something is left", None: "what is left is not known"}
    say(left[receipt.nothing_left])
