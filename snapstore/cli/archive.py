"""`archive`, `unarchive` and `prune-archive`."""

from __future__ import annotations

from functools import partial
from typing import Any, Final

import click

from snapstore.cli.arguments import (
    PLACE,
    Place,
    S3Settings,
    change_options,
    s3_options,
    session_option,
    storage_at,
)
from snapstore.cli.changes import ChangeOptions, change, policy_from, policy_if_any, policy_options
from snapstore.cli.printing import counted, shown_size
from snapstore.operations import (
    ArchivePruneReport,
    ArchiveReport,
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
def archive_command(place: Place, **options: Any) -> None:
    """Move the snapshots that no rule keeps from history into compressed packs.

    The rules are those of `prune`. Packs are read by `ls --archived`, `show` and `unarchive`.
    """
    policy = policy_from(options)
    chosen = ChangeOptions.take(options)
    storage = storage_at(place, S3Settings(**options))
    change(storage, partial(archive, policy=policy), _told_of_archive, chosen, doing="packing")


@click.command("unarchive")
@click.argument("place", type=PLACE)
@session_option
@change_options
@s3_options
def unarchive_command(place: Place, **options: Any) -> None:
    """Write the snapshots of packs to history again. The packs stay."""
    chosen = ChangeOptions.take(options)
    storage = storage_at(place, S3Settings(**options))
    change(storage, unarchive, _told_of_unarchive, chosen, doing="unpacking")


@click.command("prune-archive")
@click.argument("place", type=PLACE)
@policy_options
@session_option
@change_options
@s3_options
def prune_archive_command(place: Place, **options: Any) -> None:
    """Delete the packs of which history has everything again.

    With rules also those of which no rule keeps anything. The rules are those of `prune`.
    """
    policy = policy_if_any(options)
    chosen = ChangeOptions.take(options)
    storage = storage_at(place, S3Settings(**options))
    change(storage, partial(prune_archive, policy=policy), _told_of_packs, chosen)


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
