"""`fork`, `verify` and `redact`."""

from __future__ import annotations

import re
from typing import Final, TextIO

import click

from snapstore.cli.arguments import (
    IDENTIFIER,
    PLACE,
    Place,
    S3Settings,
    change_options,
    pace_option,
    s3_options,
    session_option,
    storage_at,
)
from snapstore.cli.printing import counted, write_json, write_row
from snapstore.cli.running import (
    confirm,
    follow,
    opened,
    require_consent,
    require_sessions,
    usage_errors,
)
from snapstore.operations import (
    ForkEvent,
    ForkReport,
    Operation,
    RedactEvent,
    RedactReport,
    VerifyFinding,
    VerifyReport,
    fork_session,
    redact,
    redaction,
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
            write_row(event.result, event.key, event.into)

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
@pace_option
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
            write_row(finding.kind, finding.key, finding.message, finding.mended or "")

    operation = verify(storage, sessions=sessions or None, mend=mend, max_requests_per_second=pace)
    with opened(storage) as run:
        require_sessions(run, storage, sessions)
        report = run(follow(operation, "reading", count=_told_of_verify, on_event=write))
    if not report.ok:
        raise click.exceptions.Exit(1)


@click.command("redact")
@click.argument("place", type=PLACE)
@click.argument("session_id", metavar="SESSION", type=IDENTIFIER)
@click.option(
    "--texts", type=click.File(encoding="utf-8"), help="A file of texts, one a line; - is stdin."
)
@click.option(
    "--patterns",
    type=click.File(encoding="utf-8"),
    help="A file of regular expressions, one a line; - is stdin.",
)
@click.option("--replacement", default="[redacted]", show_default=True)
@click.option(
    "--keep-versions", is_flag=True, help="In a versioned bucket, leave the old versions there."
)
@change_options
@s3_options
def redact_command(
    place: Place,
    session_id: str,
    texts: TextIO | None,
    patterns: TextIO | None,
    replacement: str,
    keep_versions: bool,
    dry_run: bool,
    yes: bool,
    as_json: bool,
    pace: float | None,
    **settings: str | None,
) -> None:
    """Replace texts in everything that was ever saved of a session.

    The texts come from a file or from stdin, and never as arguments: those are seen by others, and
    kept by shells. Exit status 1: it is not known to be clean.
    """
    sources = [source for source in (texts, patterns) if source is not None]
    if any(source.name == "<stdin>" for source in sources) and not (yes or dry_run):
        raise click.UsageError("the texts come from stdin, where nobody can be asked: add --yes")
    require_consent(yes=yes, dry_run=dry_run)
    storage = storage_at(place, S3Settings(**settings))
    with usage_errors():
        try:
            change = redaction(
                _lines_of(texts), patterns=_lines_of(patterns), replacement=replacement
            )
        except re.error as error:
            # Without the pattern, which may be as secret as the texts.
            raise click.UsageError(f"a pattern is no regular expression: {error.msg}") from None

    def write(event: RedactEvent) -> None:
        if as_json:
            write_json(event)
        else:
            write_row(event.result, event.key, ", ".join(event.places))

    def operation(*, dry_run: bool) -> Operation[RedactEvent, RedactReport]:
        return redact(
            storage,
            session_id=session_id,
            change=change,
            dry_run=dry_run,
            erase_versions=not keep_versions,
            max_requests_per_second=pace,
        )

    with opened(storage) as run:
        if dry_run or not yes:
            planned = operation(dry_run=True)
            report = run(follow(planned, "looking", count=_told_of_redaction, on_event=write))
            _require_objects(report, session_id, keep_versions=keep_versions)
            if dry_run:
                return
            confirm("Redact it?", yes=False)
        done = operation(dry_run=False)
        report = run(follow(done, "redacting", count=_told_of_redaction, on_event=write))
    _require_objects(report, session_id, keep_versions=keep_versions)
    if not (report.ok or (keep_versions and report.is_clean is None)):
        raise click.exceptions.Exit(1)


COMMANDS: Final = {"fork": fork, "verify": verify_command, "redact": redact_command}


def _require_objects(report: RedactReport, session_id: str, *, keep_versions: bool) -> None:
    """Refuse a session of which there is nothing, not even a version of an object."""
    if not (report.objects or report.versions or report.retained):
        but = "; what was deleted may have left versions, which are kept" if keep_versions else ""
        raise click.ClickException(f"there is no session {session_id}{but}")


def _lines_of(file: TextIO | None) -> list[str]:
    return [] if file is None else [text for line in file if (text := line.rstrip("\r\n"))]


def _told_of_redaction(report: RedactReport) -> str:
    what, erased = "redacted", "erased"
    if report.dry_run:
        what, erased = f"to be {what}", f"to be {erased}"
    text = (
        f"{report.redacted:,} of {counted(report.objects, 'object')} {what} in "
        f"{counted(report.places, 'place')}, {counted(report.versions, 'version')} {erased}, "
        f"{counted(report.requests, 'request')}"
    )
    if report.retained:
        text += f", {counted(report.retained, 'version')} could not be erased"
    if not report.dry_run and report.is_clean is False:
        text += ": it is not clean"
    return text


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
