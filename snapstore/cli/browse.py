"""`ls` and `du`: what there is, and how much of it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import datetime
from typing import Any, Final

import click

from snapstore import (
    InvalidIdentifierError,
    ObjectSnapshotStorage,
    Scope,
    SessionDescription,
    SessionSummary,
    SnapshotLocation,
    snapshot_time,
)
from snapstore.cli.arguments import (
    IDENTIFIER,
    LOCATION,
    PLACE,
    TIME,
    Place,
    S3Settings,
    s3_options,
    storage_at,
)
from snapstore.cli.printing import counted, say, shown_size, shown_time, write_json, write_table
from snapstore.cli.running import opened, usage_errors

__all__ = ["COMMANDS"]

_PAGE: Final = 100


@click.command("ls")
@click.argument("place", type=PLACE)
@click.argument("session_id", metavar="[SESSION]", type=IDENTIFIER, required=False)
@click.argument("location", metavar="[SCOPE/ID]", type=LOCATION, required=False)
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True)
@click.option(
    "--order",
    type=click.Choice(["id", "created", "updated"]),
    default="id",
    show_default=True,
    help="Of sessions. All but id read every session.",
)
@click.option("--cursor", metavar="TEXT", help="Where the next page begins, as the last one said.")
@click.option("--oldest-first", is_flag=True, help="Of snapshots; else the newest come first.")
@click.option("--since", type=TIME, help="Only snapshots of this time (UTC) or later.")
@click.option("--until", type=TIME, help="Only snapshots of this time (UTC) or earlier.")
@click.option("--json", "as_json", is_flag=True, help="Each as one line of JSON.")
@s3_options
def ls(
    place: Place,
    session_id: str | None,
    location: tuple[Scope, str] | None,
    limit: int,
    order: Any,
    cursor: str | None,
    oldest_first: bool,
    since: datetime | None,
    until: datetime | None,
    as_json: bool,
    **settings: str | None,
) -> None:
    """List sessions; the locations of a SESSION; or the snapshots of a location, newest first.

    SCOPE/ID is a location, as agent/weather.
    """
    with opened(storage := storage_at(place, S3Settings(**settings))) as run:
        if session_id is None:
            with usage_errors():
                page = run(storage.list_sessions(limit=limit, order=order, cursor=cursor))
            _write_sessions(page.sessions, as_json=as_json)
            if page.cursor is not None:
                say(f"there may be more: --cursor {page.cursor}")
            return
        if location is None:
            described = run(storage.describe_session(session_id=session_id))
            if described is None:
                raise click.ClickException(f"there is no session {session_id}")
            _write_locations(described, as_json=as_json)
            return
        with usage_errors():
            ids = run(
                storage.list_snapshot_ids(
                    location=SnapshotLocation(session_id, *location),
                    limit=limit,
                    start_after=cursor,
                    newest_first=not oldest_first,
                    since=since,
                    until=until,
                )
            )
    _write_snapshots(ids, as_json=as_json)
    if len(ids) == limit:
        say(f"there may be more: --cursor {ids[-1]}")


@click.command("du")
@click.argument("place", type=PLACE)
@click.argument("session_id", metavar="[SESSION]", type=IDENTIFIER, required=False)
@click.option("--json", "as_json", is_flag=True, help="Each as one line of JSON.")
@s3_options
def du(place: Place, session_id: str | None, as_json: bool, **settings: str | None) -> None:
    """Show how many bytes each session takes, or each location of a SESSION, and all of them."""
    with opened(storage := storage_at(place, S3Settings(**settings))) as run:
        if session_id is not None:
            described = run(storage.describe_session(session_id=session_id))
            if described is None:
                raise click.ClickException(f"there is no session {session_id}")
            _write_locations(described, as_json=as_json)
            return
        sizes, total, snapshots = run(_all_sessions(storage))
    if as_json:
        for session in sizes:
            write_json(session)
        return
    rows = [(one.session_id, f"{one.snapshots:,}", shown_size(one.bytes)) for one in sizes]
    write_table(("session", ">snapshots", ">size"), rows)
    parts = counted(len(sizes), "session"), counted(snapshots, "snapshot"), shown_size(total)
    say(", ".join(parts))


COMMANDS: Final = {"ls": ls, "du": du}


async def _all_sessions(
    storage: ObjectSnapshotStorage,
) -> tuple[list[SessionSummary], int, int]:
    sessions: list[SessionSummary] = []
    async with aclosing(_summaries(storage)) as found:
        async for session in found:
            sessions.append(session)  # noqa: PERF401 -- it is closed at the end
    total = sum(session.bytes or 0 for session in sessions)
    return sessions, total, sum(session.snapshots for session in sessions)


async def _summaries(storage: ObjectSnapshotStorage) -> AsyncGenerator[SessionSummary, None]:
    cursor: str | None = None
    while True:
        page = await storage.list_sessions(limit=_PAGE, cursor=cursor)
        for session in page.sessions:
            yield session
        cursor = page.cursor
        if cursor is None:
            return


def _write_sessions(sessions: tuple[SessionSummary, ...], *, as_json: bool) -> None:
    if as_json:
        for session in sessions:
            write_json(session)
        return
    write_table(
        ("session", "updated", ">locations", ">snapshots", ">size"),
        [
            (
                session.session_id,
                shown_time(session.updated_at),
                f"{session.locations:,}",
                f"{session.snapshots:,}",
                shown_size(session.bytes),
            )
            for session in sessions
        ],
    )


def _write_locations(described: SessionDescription, *, as_json: bool) -> None:
    if as_json:
        write_json(described)
        return
    rows = [
        (
            f"{found.location.scope}/{found.location.scope_id}",
            f"{found.snapshots:,}",
            shown_time(found.first_at),
            shown_time(found.last_at),
            "-" if found.latest is None else shown_size(found.latest.size),
            shown_size(found.bytes),
        )
        for found in described.locations
    ]
    write_table((*("location", ">snapshots", "first", "last"), ">latest", ">size"), rows)
    for name in ("archive", "stash", "foreign"):
        totals = getattr(described, name)
        if totals.objects:
            say(f"{name}: {counted(totals.objects, 'object')}, {shown_size(totals.bytes)}")


def _write_snapshots(ids: list[str], *, as_json: bool) -> None:
    if as_json:
        for snapshot_id in ids:
            write_json({"snapshot_id": snapshot_id, "time": _time_of(snapshot_id)})
        return
    rows = [(snapshot_id, shown_time(_time_of(snapshot_id))) for snapshot_id in ids]
    write_table(("snapshot", "time"), rows)


def _time_of(snapshot_id: str) -> datetime | None:
    try:
        return snapshot_time(snapshot_id)
    except InvalidIdentifierError:  # later than any date
        return None
