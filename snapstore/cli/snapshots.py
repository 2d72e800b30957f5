"""`show`, `diff` and `rewind`: single snapshots."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from datetime import datetime
from difflib import SequenceMatcher
from typing import Any, Final

import click
import msgspec

from snapstore import (
    ObjectSnapshotStorage,
    Scope,
    Snapshot,
    SnapshotLocation,
    VersionedSnapshot,
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
from snapstore.cli.printing import say, shown_time, write_json
from snapstore.cli.running import confirm, opened, require_consent
from snapstore.cli.transcript import message_lines, messages_of, shown_value
from snapstore.operations import iter_locations

__all__ = ["COMMANDS"]


class _Absent(click.ClickException):
    """What was asked for is not there."""

    def show(self, file: Any = None) -> None:
        print(f"snapstore: {self.format_message()}", file=file or sys.stderr)


@click.command("show")
@click.argument("place", type=PLACE)
@click.argument("session_id", metavar="SESSION", type=IDENTIFIER)
@click.argument("location", metavar="[SCOPE/ID]", type=LOCATION, required=False)
@click.option("--snapshot", "snapshot_id", help="One in history, by its id.")
@click.option("--as-of", type=TIME, help="The newest in history at this time (UTC).")
@click.option("--json", "as_json", is_flag=True, help="The document as it is stored.")
@s3_options
def show(
    place: Place,
    session_id: str,
    location: tuple[Scope, str] | None,
    snapshot_id: str | None,
    as_of: datetime | None,
    as_json: bool,
    **settings: str | None,
) -> None:
    """Show a snapshot: the latest one, one in history, or the one of a time.

    SCOPE/ID is the location, as agent/weather; it can be left out where the session has only one.
    """
    if snapshot_id is not None and as_of is not None:
        raise click.UsageError("--snapshot and --as-of exclude each other")

    with opened(storage := storage_at(place, S3Settings(**settings))) as run:
        where = run(_location_in(storage, session_id, location))
        if as_of is not None:
            snapshot_id = run(_newest_at(storage, where, as_of))
        if as_json:
            raw = run(storage.load_raw(location=where, snapshot_id=snapshot_id))
            if raw is None:
                raise _missing(snapshot_id)
            sys.stdout.buffer.write(raw.document.rstrip(b"\n") + b"\n")
            return
        found = run(storage.load_versioned(location=where, snapshot_id=snapshot_id))
    if found is None:
        raise _missing(snapshot_id)
    for line in _lines(where, found):
        print(line)


@click.command("diff")
@click.argument("place", type=PLACE)
@click.argument("session_id", metavar="SESSION", type=IDENTIFIER)
@click.argument("location", metavar="SCOPE/ID", type=LOCATION)
@click.argument("old")
@click.argument("new", default="latest")
@click.option("--json", "as_json", is_flag=True, help="One change as one line of JSON.")
@s3_options
def diff(
    place: Place,
    session_id: str,
    location: tuple[Scope, str],
    old: str,
    new: str,
    as_json: bool,
    **settings: str | None,
) -> None:
    """Show what has changed from one snapshot to another: messages and state.

    OLD and NEW are ids in history, or latest, which NEW is by default. Exit status 1 means that
    they differ.
    """
    ids = [None if text == "latest" else text for text in (old, new)]
    with opened(storage := storage_at(place, S3Settings(**settings))) as run:
        where = run(_location_in(storage, session_id, location))
        pair = [run(_load(storage, where, snapshot_id)) for snapshot_id in ids]
    changes = [*_changes(*pair)]
    for change in changes:
        if as_json:
            write_json(change)
        else:
            for line in _change_lines(change):
                print(line)
    if changes:
        raise click.exceptions.Exit(1)


@click.command("rewind")
@click.argument("place", type=PLACE)
@click.argument("session_id", metavar="SESSION", type=IDENTIFIER)
@click.argument("location", metavar="SCOPE/ID", type=LOCATION)
@click.argument("snapshot_id", metavar="SNAPSHOT")
@click.option("--dry-run", is_flag=True, help="Change nothing; say what would be done.")
@click.option("--yes", is_flag=True, help="Don't ask.")
@click.option("--json", "as_json", is_flag=True, help="The result as one line of JSON.")
@s3_options
def rewind(
    place: Place,
    session_id: str,
    location: tuple[Scope, str],
    snapshot_id: str,
    dry_run: bool,
    yes: bool,
    as_json: bool,
    **settings: str | None,
) -> None:
    """Go back: make a snapshot of history the latest one.

    It is refused if the latest one is saved by somebody else meanwhile.
    """
    require_consent(yes=yes, dry_run=dry_run)

    with opened(storage := storage_at(place, S3Settings(**settings))) as run:
        where = run(_location_in(storage, session_id, location))
        target = run(_load(storage, where, snapshot_id))
        latest = run(storage.load_versioned(location=where))
        now = "none" if latest is None else f"{len(messages_of(latest.snapshot.data))} messages"
        step = f"the latest snapshot ({now}) by {snapshot_id} ({len(messages_of(target.data))})"
        if dry_run:
            say(f"would replace {step}, with 2 more requests")
            return
        confirm(f"Replace {step}?", yes=yes)
        saved = run(storage.rewind(location=where, snapshot_id=snapshot_id, if_match=latest))
    if as_json:
        write_json({"snapshot_id": saved.snapshot_id, "etag": saved.etag})
    else:
        print(f"the latest snapshot is {saved.snapshot_id} now")


COMMANDS: Final = {"show": show, "diff": diff, "rewind": rewind}


async def _location_in(
    storage: ObjectSnapshotStorage, session_id: str, given: tuple[Scope, str] | None
) -> SnapshotLocation:
    """The location that was given, or the only one there is."""
    if given is not None:
        return SnapshotLocation(session_id, *given)
    found = [one async for one in iter_locations(storage.objects, storage.layout, session_id)]
    if not found:
        raise _Absent(f"there is no session {session_id}")
    if len(found) > 1:
        names = ", ".join(f"{one.scope}/{one.scope_id}" for one in found)
        raise click.UsageError(f"the session has several locations: {names}")
    return found[0]


async def _newest_at(
    storage: ObjectSnapshotStorage, location: SnapshotLocation, time: datetime
) -> str:
    ids = await storage.list_snapshot_ids(location=location, newest_first=True, until=time, limit=1)
    if not ids:
        raise _Absent(f"there is no snapshot in history of {shown_time(time)} or earlier")
    return ids[0]


async def _load(
    storage: ObjectSnapshotStorage, location: SnapshotLocation, snapshot_id: str | None
) -> Snapshot:
    found = await storage.load_snapshot(location=location, snapshot_id=snapshot_id)
    if found is None:
        raise _missing(snapshot_id)
    return found


def _missing(snapshot_id: str | None) -> _Absent:
    what = "latest snapshot" if snapshot_id is None else f"snapshot {snapshot_id} in history"
    return _Absent(f"there is no {what} here")


def _lines(location: SnapshotLocation, found: VersionedSnapshot) -> Iterator[str]:
    snapshot = found.snapshot
    yield f"# {location.session_id} {location.scope}/{location.scope_id}"
    yield f"# saved {shown_value(snapshot.created_at, 40)}, id {found.snapshot_id or 'not known'}"
    for message in messages_of(snapshot.data):
        yield ""
        yield from message_lines(message)
    rest = {key: value for key, value in snapshot.data.items() if key != "messages"}
    for name, value in [*rest.items(), ("app_data", snapshot.app_data)]:
        if value not in (None, {}, []):
            yield ""
            yield f"[{shown_value(name, 60)}] {shown_value(value)}"


class _Change(msgspec.Struct, frozen=True, omit_defaults=True):
    """One difference.

    Attributes:
        what: `"message"`, or the name of a field of the state.
        change: What happened to it.
        place: The place of a message, from 0: in the new snapshot, of a removed one in the old.
        old: As it was.
        new: As it is.
    """

    what: str
    change: str
    place: int | None = None
    old: Any = None
    new: Any = None


def _changes(old: Snapshot, new: Snapshot) -> Iterator[_Change]:
    before, after = messages_of(old.data), messages_of(new.data)
    matcher = SequenceMatcher(None, _texts(before), _texts(after), autojunk=False)
    for tag, i1, i2, j1, j2 in matcher.get_opcodes():
        if tag == "equal":
            continue
        both = min(i2 - i1, j2 - j1)
        for step in range(both):
            one, other = before[i1 + step], after[j1 + step]
            yield _Change("message", "changed", j1 + step, one, other)
        for place in range(i1 + both, i2):
            yield _Change("message", "removed", place, before[place])
        for place in range(j1 + both, j2):
            yield _Change("message", "added", place, new=after[place])
    sides = [{**one.data, "app_data": one.app_data} for one in (old, new)]
    for name in dict.fromkeys([*sides[0], *sides[1]]):
        one, other = (side.get(name) for side in sides)
        if name == "messages" or one == other:
            continue
        change = "changed"
        if name not in sides[0] or name not in sides[1]:
            change = "added" if name in sides[1] else "removed"
        yield _Change(name, change, None, one, other)


def _texts(messages: list[Any]) -> list[str]:
    return [json.dumps(message, sort_keys=True) for message in messages]


def _change_lines(change: _Change) -> Iterator[str]:
    if change.what == "message":
        yield f"@ message {change.place} {change.change}"
        for mark, message in (("-", change.old), ("+", change.new)):
            if message is not None:
                for line in message_lines(message):
                    yield f"{mark} {line}"
    else:
        yield f"@ {shown_value(change.what, 60)} {change.change}"
        if change.change != "added":
            yield f"- {shown_value(change.old)}"
        if change.change != "removed":
            yield f"+ {shown_value(change.new)}"
