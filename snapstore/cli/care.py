"""`fork` and `verify`."""

from __future__ import annotations

from typing import Final

import click

from snapstore.cli.arguments import (
    IDENTIFIER,
    PLACE,
    Place,
    S3Settings,
    change_options,
    s3_options,
    session_option,
    storage_at,
)
from snapstore.cli.printing import counted, say, write_json
from snapstore.cli.running import confirm, follow, opened, require_consent, usage_errors
from snapstore.operations import (
    ForkEvent,
    ForkReport,
    VerifyFinding,
    VerifyReport,
    fork_session,
    verify,
)

__all__ = ["COMMANDS"]


@click.command("fork")
@click.argument("place", type=PLACE)
@click.argument("session_id", metavar="SESSION", type=IDENTIFIER)
@click.argument("into", type=IDENTIFIER)
@click.option("--upto", metavar="SNAPSHOT", help="The last snapshot of the fork.")
@change_options
@s3_options
def fork(
    place: Place,
    session_id: str,
    into: str,
    upto: str | None,
    dry_run: bool,
    yes: bool,
    as_json: bool,
    pace: float | None,
    **settings: str | None,
) -> None:
    """Fork a session: its history up to a snapshot, under another id that is free."""
    require_consent(yes=yes, dry_run=dry_run)
    storage = storage_at(place, S3Settings(**settings))

    def write(event: ForkEvent) -> None:
        if as_json:
            write_json(event)
        else:
            print(f"{event.result}\t{event.key}\t{event.into}")

    with usage_errors():
        operation = fork_session(
            storage,
            session_id=session_id,
            into=into,
            upto=upto,
            dry_run=dry_run,
            max_requests_per_second=pace,
        )
    confirm(f"Fork {session_id} into {into}?", yes=yes or dry_run)
    with opened(storage) as run:
        report = run(follow(operation, "copying", count=_told_of_fork, on_event=write))
    say(_told_of_fork(report))
    if not report.ok:
        raise click.exceptions.Exit(1)


@click.command("verify")
@click.argument("place", type=PLACE)
@session_option
@click.option(
    "--mend",
    is_flag=True,
    help="Set damaged objects aside, and make the newest good snapshot the latest one.",
)
@click.option("--yes", is_flag=True, help="Don't ask.")
@click.option("--json", "as_json", is_flag=True, help="Each finding as one line of JSON.")
@click.option(
    "--max-requests-per-second",
    "pace",
    type=click.FloatRange(0, min_open=True),
    metavar="NUMBER",
    help="Go slowly, so that saves are not kept waiting.",
)
@s3_options
def verify_command(
    place: Place,
    sessions: tuple[str, ...],
    mend: bool,
    yes: bool,
    as_json: bool,
    pace: float | None,
    **settings: str | None,
) -> None:
    """Read every object, and tell what is not as it should be.

    Exit status 1: something was found that is not mended.
    """
    require_consent(yes=yes, dry_run=not mend)
    confirm("Mend what is damaged?", yes=yes or not mend)
    storage = storage_at(place, S3Settings(**settings))

    def write(finding: VerifyFinding) -> None:
        if as_json:
            write_json(finding)
        else:
            fields = (finding.kind, finding.key, finding.message, finding.mended or "")
            print("\t".join(fields).rstrip())

    operation = verify(storage, sessions=sessions or None, mend=mend, max_requests_per_second=pace)
    with opened(storage) as run:
        report = run(follow(operation, "reading", count=_told_of_verify, on_event=write))
    say(_told_of_verify(report))
    if not report.ok:
        raise click.exceptions.Exit(1)


COMMANDS: Final = {"fork": fork, "verify": verify_command}


def _told_of_fork(report: ForkReport) -> str:
    what = "to be copied" if report.dry_run else "copied"
    text = f"{counted(report.copied, 'object')} {what}, {counted(report.requests, 'request')}"
    return f"{text}, {report.missing:,} were deleted meanwhile" if report.missing else text


def _told_of_verify(report: VerifyReport) -> str:
    return (
        f"{counted(report.findings, 'finding')}, {report.mended:,} mended, in "
        f"{counted(report.objects, 'object')} of {counted(report.sessions, 'session')}, "
        f"{counted(report.requests, 'request')}"
    )
