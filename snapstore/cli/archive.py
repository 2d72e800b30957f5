"""`archive`, `unarchive` and `prune-archive`."""

from __future__ import annotations

from typing import Any, Final

import click

from snapstore import ObjectSnapshotStorage
from snapstore.cli.arguments import (
    PLACE,
    Place,
    S3Settings,
    change_options,
    s3_options,
    session_option,
    storage_at,
)
from snapstore.cli.changes import change, policy_from, policy_if_any, policy_options
from snapstore.cli.printing import counted, shown_size
from snapstore.cli.running import require_consent
from snapstore.operations import (
    ArchivePruneReport,
    ArchiveReport,
    Event,
    Operation,
    UnarchiveReport,
    archive,
    prune_archive,
    unarchive,
)

__all__ = ["COMMANDS"]


@click.command("archive")
@click.argument("place", type=PLACE)
@policy_options
@session_option
@change_options
@s3_options
def archive_command(
    place: Place,
    sessions: tuple[str, ...],
    dry_run: bool,
    yes: bool,
    as_json: bool,
    pace: float | None,
    **others: Any,
) -> None:
    """Move the snapshots that no rule keeps from history into compressed packs.

    The rules are those of `prune`. Packs are read by `ls --archived`, `show` and `unarchive`.
    """
    policy = policy_from(others)
    require_consent(yes=yes, dry_run=dry_run)

    def plan(storage: ObjectSnapshotStorage, *, dry_run: bool) -> Operation[Event, Any]:
        return archive(
            storage,
            policy,
            sessions=sessions or None,
            dry_run=dry_run,
            max_requests_per_second=pace,
        )

    storage = storage_at(place, S3Settings(**others))
    change(
        storage,
        plan,
        _told_of_archive,
        sessions=sessions,
        dry_run=dry_run,
        yes=yes,
        as_json=as_json,
        pace=pace,
        doing="packing",
    )


@click.command("unarchive")
@click.argument("place", type=PLACE)
@session_option
@change_options
@s3_options
def unarchive_command(
    place: Place,
    sessions: tuple[str, ...],
    dry_run: bool,
    yes: bool,
    as_json: bool,
    pace: float | None,
    **settings: str | None,
) -> None:
    """Write the snapshots of packs to history again. The packs stay."""
    require_consent(yes=yes, dry_run=dry_run)

    def plan(storage: ObjectSnapshotStorage, *, dry_run: bool) -> Operation[Event, Any]:
        return unarchive(
            storage, sessions=sessions or None, dry_run=dry_run, max_requests_per_second=pace
        )

    storage = storage_at(place, S3Settings(**settings))
    change(
        storage,
        plan,
        _told_of_unarchive,
        sessions=sessions,
        dry_run=dry_run,
        yes=yes,
        as_json=as_json,
        pace=pace,
        doing="unpacking",
    )


@click.command("prune-archive")
@click.argument("place", type=PLACE)
@policy_options
@session_option
@change_options
@s3_options
def prune_archive_command(
    place: Place,
    sessions: tuple[str, ...],
    dry_run: bool,
    yes: bool,
    as_json: bool,
    pace: float | None,
    **others: Any,
) -> None:
    """Delete the packs of which history has everything again.

    With rules also those of which no rule keeps anything. The rules are those of `prune`.
    """
    policy = policy_if_any(others)
    require_consent(yes=yes, dry_run=dry_run)

    def plan(storage: ObjectSnapshotStorage, *, dry_run: bool) -> Operation[Event, Any]:
        return prune_archive(
            storage,
            policy,
            sessions=sessions or None,
            dry_run=dry_run,
            max_requests_per_second=pace,
        )

    storage = storage_at(place, S3Settings(**others))
    change(
        storage,
        plan,
        _told_of_packs,
        sessions=sessions,
        dry_run=dry_run,
        yes=yes,
        as_json=as_json,
        pace=pace,
    )


COMMANDS: Final = {
    "archive": archive_command,
    "unarchive": unarchive_command,
    "prune-archive": prune_archive_command,
}


def _told_of_archive(report: ArchiveReport) -> str:
    what = "to be archived" if report.dry_run else "archived"
    text = f"{counted(report.archived, 'snapshot')} {what} ({shown_size(report.bytes)}"
    if report.packs:
        text += f" in {counted(report.packs, 'pack')} of {shown_size(report.packed_bytes)}"
    text += (
        f"), {report.kept:,} kept in {counted(report.sessions, 'session')}, "
        f"{counted(report.requests, 'request')}"
    )
    text += f" and about {report.requests_needed:,} more to do it" if report.dry_run else ""
    text += f", {report.skipped:,} skipped" if report.skipped else ""
    return f"{text}, {report.failed:,} failed" if report.failed else text


def _told_of_unarchive(report: UnarchiveReport) -> str:
    what = "to be restored" if report.dry_run else "restored"
    text = (
        f"{counted(report.restored, 'snapshot')} {what} ({shown_size(report.bytes)}) from "
        f"{counted(report.packs, 'pack')}, {counted(report.requests, 'request')}"
    )
    text += f" and {report.requests_needed:,} more to write" if report.dry_run else ""
    text += f", {report.present:,} were there" if report.present else ""
    return f"{text}, {report.conflicts:,} conflicts" if report.conflicts else text


def _told_of_packs(report: ArchivePruneReport) -> str:
    what = "to be deleted" if report.dry_run else "deleted"
    text = (
        f"{counted(report.deleted, 'pack')} of {counted(report.documents, 'snapshot')} {what}, "
        f"{report.kept:,} kept in {counted(report.sessions, 'session')}, "
        f"{counted(report.requests, 'request')}"
    )
    text += f" and about {report.requests_needed:,} more to delete" if report.dry_run else ""
    return f"{text}, {report.damaged:,} damaged" if report.damaged else text
