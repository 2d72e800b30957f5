"""`prune`, `prune-sessions` and `apply`: keep less."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from datetime import timedelta
from typing import IO, Any, Final, TypeVar

import click

from snapstore import ObjectSnapshotStorage
from snapstore.cli.arguments import (
    DURATION,
    PLACE,
    Place,
    S3Settings,
    change_options,
    pace_option,
    s3_options,
    session_option,
    storage_at,
)
from snapstore.cli.printing import counted, shown_size, write_json, write_row
from snapstore.cli.running import (
    confirm,
    follow,
    opened,
    require_consent,
    require_sessions,
    usage_errors,
)
from snapstore.operations import (
    ApplyReport,
    CopyEvent,
    Event,
    Operation,
    PruneReport,
    RetentionPolicy,
    SessionEvent,
    SessionPruneReport,
    apply,
    decode_events,
    encode_event,
    prune,
    prune_sessions,
)

__all__ = ["COMMANDS"]

CommandT = TypeVar("CommandT", bound=Callable[..., Any])
_RULES: Final = ("last", "hourly", "daily", "weekly", "monthly")


def _rule_options(command: CommandT) -> CommandT:
    for rule in reversed(_RULES):
        what = "The newest N." if rule == "last" else f"The last one of each of N {_PERIODS[rule]}."
        command = click.option(
            f"--keep-{rule}", type=click.IntRange(0), metavar="N", default=0, help=what
        )(command)
    return command


_PERIODS: Final = {"hourly": "hours", "daily": "days", "weekly": "weeks", "monthly": "months"}


@click.command("prune")
@click.argument("place", type=PLACE)
@_rule_options
@click.option("--keep-within", type=DURATION, help="All that are less than this older, as 90d.")
@session_option
@change_options
@s3_options
def prune_command(
    place: Place,
    keep_within: timedelta | None,
    sessions: tuple[str, ...],
    dry_run: bool,
    yes: bool,
    as_json: bool,
    pace: float | None,
    **others: Any,
) -> None:
    """Delete the snapshots in history that no rule keeps.

    The rules are those of restic, in UTC, for each location by itself. The latest snapshot is never
    touched.
    """
    rules = {f"keep_{rule}": others.pop(f"keep_{rule}") for rule in _RULES}
    with usage_errors():
        policy = RetentionPolicy(**rules, keep_within=keep_within)
    require_consent(yes=yes, dry_run=dry_run)

    def plan(storage: ObjectSnapshotStorage, *, dry_run: bool) -> Operation[Event, Any]:
        return prune(
            storage,
            policy,
            sessions=sessions or None,
            dry_run=dry_run,
            max_requests_per_second=pace,
        )

    storage = storage_at(place, S3Settings(**others))
    _change(
        storage,
        plan,
        _told_of_prune,
        sessions=sessions,
        dry_run=dry_run,
        yes=yes,
        as_json=as_json,
        pace=pace,
    )


@click.command("prune-sessions")
@click.argument("place", type=PLACE)
@click.option(
    "--idle-for", type=DURATION, required=True, help="For how long, as 90d, 12h, 30m or 2w."
)
@click.option(
    "--unconditional",
    is_flag=True,
    help="Also on a server whose deletes have no conditions: what is saved in the same moment is "
    "lost.",
)
@session_option
@change_options
@s3_options
def prune_sessions_command(
    place: Place,
    idle_for: timedelta,
    unconditional: bool,
    sessions: tuple[str, ...],
    dry_run: bool,
    yes: bool,
    as_json: bool,
    pace: float | None,
    **settings: str | None,
) -> None:
    """Remove whole sessions, with their stash, that were not updated for long."""
    require_consent(yes=yes, dry_run=dry_run)

    def plan(storage: ObjectSnapshotStorage, *, dry_run: bool) -> Operation[Event, Any]:
        return prune_sessions(
            storage,
            idle_for=idle_for,
            sessions=sessions or None,
            dry_run=dry_run,
            unconditional=unconditional,
            max_requests_per_second=pace,
        )

    storage = storage_at(place, S3Settings(**settings))
    _change(
        storage,
        plan,
        _told_of_sessions,
        sessions=sessions,
        dry_run=dry_run,
        yes=yes,
        as_json=as_json,
        pace=pace,
        unconditional=unconditional,
    )


@click.command("apply")
@click.argument("place", type=PLACE)
@click.argument("file", type=click.File("rb"))
@click.option("--unconditional", is_flag=True, help="For sessions: as in prune-sessions.")
@click.option("--yes", is_flag=True, help="Don't ask.")
@click.option("--json", "as_json", is_flag=True, help="Each event as one line of JSON.")
@pace_option
@s3_options
def apply_command(
    place: Place,
    file: IO[bytes],
    unconditional: bool,
    yes: bool,
    as_json: bool,
    pace: float | None,
    **settings: str | None,
) -> None:
    """Do what a dry run has said, and no more. FILE has the lines that it wrote with --json.

    The whole file is read and validated before anything is deleted; - is stdin.
    """
    if file.name == "<stdin>" and not yes:
        raise click.UsageError("the file comes from stdin, where nobody can be asked: add --yes")
    require_consent(yes=yes, dry_run=False)
    storage = storage_at(place, S3Settings(**settings))
    with tempfile.TemporaryFile() as plan:
        with usage_errors():
            for event in decode_events(file):
                plan.write(encode_event(_validated(event, storage)))
        plan.seek(0)
        confirm("Delete what the file says?", yes=yes)
        with opened(storage) as run:
            applying = _Applying(storage, plan, unconditional, pace, as_json=as_json)
            report = run(applying.run())
    if not report.ok:
        raise click.exceptions.Exit(1)


COMMANDS: Final = {
    "prune": prune_command,
    "prune-sessions": prune_sessions_command,
    "apply": apply_command,
}


def _change(
    storage: ObjectSnapshotStorage,
    plan: Callable[..., Operation[Event, Any]],
    told: Callable[[Any], str],
    *,
    sessions: tuple[str, ...],
    dry_run: bool,
    yes: bool,
    as_json: bool,
    pace: float | None,
    unconditional: bool = False,
) -> None:
    """Do it; or, where it must be asked for, plan it, ask, and do what was planned."""
    with opened(storage) as run:
        require_sessions(run, storage, sessions)
        if yes:
            operation = plan(storage, dry_run=False)
            report = run(follow(operation, "deleting", count=told, on_event=_writer(as_json)))
            if not report.ok:
                raise click.exceptions.Exit(1)
            return
        with tempfile.TemporaryFile() as file:

            def keep(event: Event) -> None:
                file.write(encode_event(event))
                if dry_run:
                    _writer(as_json)(event)

            run(follow(plan(storage, dry_run=True), "looking", count=told, on_event=keep))
            if dry_run:
                return
            confirm("Do it?", yes=False)
            file.seek(0)
            applying = _Applying(storage, file, unconditional, pace, as_json=as_json)
            applied = run(applying.run())
    # As with --yes, a session that is in use again is no failure.
    if applied.failed or applied.changed > applying.woken:
        raise click.exceptions.Exit(1)


class _Applying:
    """Does what events of a dry run say.

    Attributes:
        woken: Sessions that were kept, since they were updated after the dry run.
    """

    def __init__(
        self,
        storage: ObjectSnapshotStorage,
        file: IO[bytes],
        unconditional: bool,
        pace: float | None,
        *,
        as_json: bool,
    ) -> None:
        self.woken = 0
        self._write = _writer(as_json)
        self._operation = apply(
            storage,
            decode_events(file),
            unconditional=unconditional,
            max_requests_per_second=pace,
        )

    async def run(self) -> ApplyReport:
        return await follow(
            self._operation, "deleting", count=self._told, on_event=self._count_and_write
        )

    def _count_and_write(self, event: Event) -> None:
        self.woken += isinstance(event, SessionEvent) and event.result in ("kept", "changed")
        self._write(event)

    def _told(self, report: ApplyReport) -> str:
        text = (
            f"{report.done:,} deleted, {report.changed - self.woken:,} changed and left alone, "
            f"{report.missing:,} gone before, {report.failed:,} failed"
        )
        return f"{text}, {self.woken:,} kept since they woke up" if self.woken else text


def _validated(event: Event, storage: ObjectSnapshotStorage) -> Event:
    """An event of a dry run of deletions at a place.

    Raises:
        ValueError: It is something else.
    """
    layout = storage.layout
    if isinstance(event, CopyEvent):
        raise ValueError("an event is of a copy: copy --plan does what it says")  # noqa: TRY004
    if event.result != "planned":
        raise ValueError(f"an event is not of a dry run: its result is {event.result!r}")
    if isinstance(event, SessionEvent):
        layout.session_prefix(event.session_id)  # it is validated here
        return event
    session_id = layout.session_id_of(event.key, "/scopes/")
    place = session_id and layout.place_of(event.key, layout.session_prefix(session_id))
    if not place or place.snapshot_id is None:
        raise ValueError(f"an event is not of this place: {event.key}")
    return event


def _writer(as_json: bool) -> Callable[[Event], None]:
    def write(event: Event) -> None:
        if as_json:
            write_json(event)
        elif isinstance(event, SessionEvent):
            write_row(event.result, event.session_id, event.code or "")
        else:
            write_row(event.result, event.key, event.code or "")

    return write


def _told_of_prune(report: PruneReport) -> str:
    what = "to be deleted" if report.dry_run else "deleted"
    text = (
        f"{counted(report.deleted, 'snapshot')} {what} ({shown_size(report.bytes)}), "
        f"{report.kept:,} kept in {counted(report.sessions, 'session')}, "
        f"{counted(report.requests, 'request')}"
    )
    text += f" and {report.requests_needed:,} more to delete" if report.dry_run else ""
    return f"{text}, {report.failed:,} failed" if report.failed else text


def _told_of_sessions(report: SessionPruneReport) -> str:
    what = "to be removed" if report.dry_run else "removed"
    text = (
        f"{report.removed:,} of {counted(report.sessions, 'session')} {what} "
        f"({counted(report.objects, 'object')}, {shown_size(report.bytes)}), "
        f"{counted(report.requests, 'request')}"
    )
    text += f", {report.woken:,} kept since they woke up" if report.woken else ""
    return f"{text}, {report.failed:,} failed" if report.failed else text
