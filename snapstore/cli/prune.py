"""`prune`, `prune-sessions` and `apply`: keep less."""

from __future__ import annotations

import tempfile
from datetime import timedelta
from functools import partial
from typing import IO, Any, Final

import click

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
from snapstore.cli.changes import (
    ChangeOptions,
    apply_file,
    change,
    policy_from,
    policy_options,
    validated,
)
from snapstore.cli.printing import counted, shown_size
from snapstore.cli.running import confirm, opened, require_consent, usage_errors
from snapstore.operations import (
    PruneReport,
    SessionPruneReport,
    decode_events,
    encode_event,
    prune,
    prune_sessions,
)

__all__ = ["COMMANDS"]


@click.command("prune")
@click.argument("place", type=PLACE)
@policy_options
@session_option
@change_options
@s3_options
def prune_command(place: Place, **options: Any) -> None:
    """Delete the snapshots in history that no rule keeps.

    The rules are those of restic, in UTC, for each location by itself. The latest snapshot is never
    touched.
    """
    policy = policy_from(options)
    chosen = ChangeOptions.take(options)
    storage = storage_at(place, S3Settings(**options))
    change(storage, partial(prune, policy=policy), _told_of_prune, chosen)


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
    **options: Any,
) -> None:
    """Remove whole sessions, with their stash, that were not updated for long."""
    chosen = ChangeOptions.take(options)
    storage = storage_at(place, S3Settings(**options))
    change(
        storage,
        partial(prune_sessions, idle_for=idle_for, unconditional=unconditional),
        _told_of_sessions,
        chosen,
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
                plan.write(encode_event(validated(event, storage)))
        plan.seek(0)
        confirm("Do what the file says?", yes=yes)
        with opened(storage) as run:
            report = run(apply_file(storage, plan, unconditional, pace, as_json=as_json))
    if not report.ok:
        raise click.exceptions.Exit(1)


COMMANDS: Final = {
    "prune": prune_command,
    "prune-sessions": prune_sessions_command,
    "apply": apply_command,
}


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
