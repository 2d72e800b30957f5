"""Commands whose operations can be planned: plan, ask, and do what was planned."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from typing import IO, Any, Final, TypeVar

import click

from snapstore import ObjectSnapshotStorage
from snapstore.cli.arguments import DURATION
from snapstore.cli.printing import say, write_json
from snapstore.cli.running import confirm, follow, opened, usage_errors
from snapstore.operations import (
    ApplyReport,
    Event,
    Operation,
    PackEvent,
    RetentionPolicy,
    SessionEvent,
    UnarchiveEvent,
    apply,
    decode_events,
    encode_event,
)

__all__ = [
    "apply_file",
    "change",
    "finish",
    "policy_from",
    "policy_if_any",
    "policy_options",
]

CommandT = TypeVar("CommandT", bound=Callable[..., Any])
_RULES: Final = ("last", "hourly", "daily", "weekly", "monthly")


def policy_options(command: CommandT) -> CommandT:
    """Add the options that say which snapshots are kept."""
    command = click.option(
        "--keep-within", type=DURATION, help="All that are less than this older, as 90d."
    )(command)
    for rule in reversed(_RULES):
        what = "The newest N." if rule == "last" else f"The last one of each of N {_PERIODS[rule]}."
        command = click.option(
            f"--keep-{rule}", type=click.IntRange(0), metavar="N", default=0, help=what
        )(command)
    return command


_PERIODS: Final = {"hourly": "hours", "daily": "days", "weekly": "weeks", "monthly": "months"}


def policy_from(options: dict[str, Any]) -> RetentionPolicy:
    """Take the policy out of the options of a command.

    Raises:
        click.UsageError: It keeps nothing.
    """
    rules = {f"keep_{rule}": options.pop(f"keep_{rule}") for rule in (*_RULES, "within")}
    with usage_errors():
        return RetentionPolicy(**rules)


def policy_if_any(options: dict[str, Any]) -> RetentionPolicy | None:
    """Take the policy out of the options of a command; `None` if no rule was given."""
    if any(options[f"keep_{rule}"] for rule in (*_RULES, "within")):
        return policy_from(options)
    for rule in (*_RULES, "within"):
        del options[f"keep_{rule}"]
    return None


def change(
    storage: ObjectSnapshotStorage,
    plan: Callable[..., Operation[Event, Any]],
    told: Callable[[Any], str],
    *,
    dry_run: bool,
    yes: bool,
    as_json: bool,
    pace: float | None,
    doing: str = "deleting",
    unconditional: bool = False,
) -> None:
    """Do it; or, where it must be asked for, plan it, ask, and do what was planned.

    Args:
        storage: Where, not open.
        plan: Makes the operation.
        told: Says in words what its report tells.
        dry_run: Only plan it, and write the events.
        yes: Don't ask.
        as_json: Whether events are written as lines of JSON.
        pace: Requests in a second.
        doing: What it does, in a word.
        unconditional: As in `prune_sessions`.
    """
    with opened(storage) as run:
        if yes:
            operation = plan(storage, dry_run=False)
            report = run(follow(operation, doing, count=told, on_event=_writer(as_json)))
            say(told(report))
            if not report.ok:
                raise click.exceptions.Exit(1)
            return
        with tempfile.TemporaryFile() as file:

            def keep(event: Event) -> None:
                file.write(encode_event(event))
                if dry_run:
                    _writer(as_json)(event)

            report = run(follow(plan(storage, dry_run=True), "looking", count=told, on_event=keep))
            if dry_run:
                say(told(report))
                return
            say(told(report))
            confirm("Do it?", yes=False)
            file.seek(0)
            applied = run(
                apply_file(storage, file, unconditional, pace, doing=doing, as_json=as_json)
            )
    finish(applied)


async def apply_file(
    storage: ObjectSnapshotStorage,
    file: IO[bytes],
    unconditional: bool,
    pace: float | None,
    *,
    as_json: bool,
    doing: str = "deleting",
) -> ApplyReport:
    """Do what the lines of a file say, and write what was done."""
    operation = apply(
        storage,
        decode_events(file),
        unconditional=unconditional,
        max_requests_per_second=pace,
    )
    return await follow(operation, doing, count=_told_of_apply, on_event=_writer(as_json))


def finish(report: ApplyReport) -> None:
    """Say what was done.

    Raises:
        click.exceptions.Exit: Not all was done.
    """
    say(_told_of_apply(report))
    if not report.ok:
        raise click.exceptions.Exit(1)


def _writer(as_json: bool) -> Callable[[Event], None]:
    def write(event: Event) -> None:
        if as_json:
            write_json(event)
        elif isinstance(event, SessionEvent):
            print("\t".join((event.result, event.session_id, event.code or "")).rstrip())
        elif isinstance(event, (UnarchiveEvent, PackEvent)):
            print(f"{event.result}\t{event.key}")
        else:
            print("\t".join((event.result, event.key, event.code or "")).rstrip())

    return write


def _told_of_apply(report: ApplyReport) -> str:
    return (
        f"{report.done:,} done, {report.changed:,} changed and left alone, "
        f"{report.missing:,} gone before, {report.failed:,} failed"
    )
