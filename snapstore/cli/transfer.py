"""`copy`, `export`, `import` and `import-log`: move sessions."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import IO, Any, Final, Literal

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
    session_option,
    storage_at,
)
from snapstore.cli.printing import counted, json_of, say, shown_size, write_json, write_row
from snapstore.cli.running import (
    confirm,
    file_errors,
    follow,
    opened,
    require_consent,
    usage_errors,
)
from snapstore.operations import (
    CopyEvent,
    CopyReport,
    Event,
    Operation,
    apply_copies,
    copy,
    decode_events,
    import_message_log,
    import_session,
    save_export,
)

__all__ = ["COMMANDS"]

Mode = Literal["error", "overwrite"]
Run = Callable[[Any], Any]


def _target_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for name, metavar in (("profile", "NAME"), ("region", "REGION"), ("endpoint-url", "URL")):
        command = click.option(
            f"--target-{name}", metavar=metavar, help=f"As --{name}, of the target."
        )(command)
    return command


_overwrite_option = click.option(
    "--overwrite",
    is_flag=True,
    help="Replace other latest snapshots, manifests and stash objects. History is never replaced.",
)


@click.command("copy")
@click.argument("source", type=PLACE)
@click.argument("target", type=PLACE)
@session_option
@_overwrite_option
@click.option("--verify", is_flag=True, help="Compare bytes, also where size and etag are equal.")
@click.option(
    "--plan", type=click.File("rb"), help="Copy what a dry run has said, and no more (--json)."
)
@change_options
@s3_options
@_target_options
def copy_command(
    source: Place,
    target: Place,
    sessions: tuple[str, ...],
    overwrite: bool,
    verify: bool,
    plan: IO[bytes] | None,
    dry_run: bool,
    yes: bool,
    as_json: bool,
    pace: float | None,
    **settings: str | None,
) -> None:
    """Copy sessions from one place to another: a backup, or a migration.

    What the target has already is left alone, so a copy can be made again and brings what is new.
    Exit status 1: something at the target is another object, or can't be copied.
    """
    if plan is not None and (dry_run or sessions or verify or overwrite):
        raise click.UsageError("--plan has all that is to be done: no other option goes with it")
    if plan is not None and plan.name == "<stdin>" and not yes:
        raise click.UsageError("the file comes from stdin, where nobody can be asked: add --yes")
    require_consent(yes=yes, dry_run=dry_run)
    here, there = _storages(source, target, settings)
    mode: Mode = "overwrite" if overwrite else "error"

    def start(*, dry_run: bool) -> Operation[CopyEvent, CopyReport]:
        return copy(
            here,
            there,
            sessions=sessions or None,
            dry_run=dry_run,
            on_conflict=mode,
            verify=verify,
            max_requests_per_second=pace,
        )

    def apply(file: IO[bytes]) -> Operation[CopyEvent, CopyReport]:
        return apply_copies(here, there, _read_events(file), max_requests_per_second=pace)

    with tempfile.TemporaryFile() as file, usage_errors():
        if plan is not None:
            for event in decode_events(plan):
                file.write(json_of(_validated(event, here)))
            file.seek(0)
            confirm("Copy what the file says?", yes=yes)
        with opened(here, there) as run:
            if plan is not None:
                report = _follow(run, apply(file), as_json=as_json)
            else:
                report = _copied(
                    run, start, apply, sessions=sessions, dry_run=dry_run, yes=yes, as_json=as_json
                )
    _finish(report)


@click.command("export")
@click.argument("place", type=PLACE)
@click.argument("session_id", metavar="SESSION", type=IDENTIFIER)
@click.argument("file", type=click.Path(dir_okay=False, allow_dash=True))
@click.option("--yes", is_flag=True, help="Write over a file that exists, without asking.")
@s3_options
def export(place: Place, session_id: str, file: str, yes: bool, **settings: str | None) -> None:
    """Write a session to a file: a tar, compressed if its name ends with .zst; - is stdout."""
    storage = storage_at(place, S3Settings(**settings))
    is_stdout = file == "-"
    if is_stdout and sys.stdout.isatty():
        raise click.UsageError("a tar is not for a terminal: give a file, or pipe it")
    if not is_stdout and os.path.exists(file):  # noqa: PTH110 -- nothing runs yet
        require_consent(yes=yes, dry_run=False)
        confirm(f"{file} exists. Write over it?", yes=yes)
    target = sys.stdout.buffer if is_stdout else file
    with opened(storage) as run, file_errors():
        report = run(save_export(storage, target, session_id=session_id))
    say(f"{counted(report.bytes, 'byte')} written")


@click.command("import")
@click.argument("place", type=PLACE)
@click.argument("file", type=click.Path(dir_okay=False, exists=True, allow_dash=True))
@click.option("--as", "session_id", type=IDENTIFIER, help="Import it under another session id.")
@_overwrite_option
@change_options
@s3_options
def import_command(
    place: Place,
    file: str,
    session_id: str | None,
    overwrite: bool,
    dry_run: bool,
    yes: bool,
    as_json: bool,
    pace: float | None,
    **settings: str | None,
) -> None:
    """Read a session from a file that export has written; - is stdin.

    The whole file is checked before anything is changed.
    """
    if file == "-" and not (yes or dry_run):
        raise click.UsageError("the file comes from stdin, where nobody can be asked: add --yes")
    require_consent(yes=yes, dry_run=dry_run)
    storage = storage_at(place, S3Settings(**settings), must_exist=False)
    mode: Mode = "overwrite" if overwrite else "error"
    source = sys.stdin.buffer if file == "-" else file

    def start(*, dry_run: bool) -> Operation[CopyEvent, CopyReport]:
        return import_session(
            storage,
            source,
            session_id=session_id,
            dry_run=dry_run,
            on_conflict=mode,
            max_requests_per_second=pace,
        )

    with opened(storage) as run, usage_errors(), file_errors():
        report = _copied(run, start, None, dry_run=dry_run, yes=yes, as_json=as_json)
    _finish(report)


@click.command("import-log")
@click.argument("source", type=PLACE)
@click.argument("target", type=PLACE)
@session_option
@_overwrite_option
@change_options
@s3_options
@_target_options
def import_log(
    source: Place,
    target: Place,
    sessions: tuple[str, ...],
    overwrite: bool,
    dry_run: bool,
    yes: bool,
    as_json: bool,
    pace: float | None,
    **settings: str | None,
) -> None:
    """Make snapshots of the message log of the Strands SDK for Python.

    SOURCE is what its FileSessionManager or S3SessionManager has written: session_…/agents/….
    """
    require_consent(yes=yes, dry_run=dry_run)
    here, there = _storages(source, target, settings)
    mode: Mode = "overwrite" if overwrite else "error"

    def start(*, dry_run: bool) -> Operation[CopyEvent, CopyReport]:
        return import_message_log(
            here.objects,
            there,
            prefix=here.layout.sessions_prefix,
            sessions=sessions or None,
            dry_run=dry_run,
            on_conflict=mode,
            max_requests_per_second=pace,
        )

    with opened(here, there) as run, usage_errors():
        report = _copied(
            run, start, None, sessions=sessions, dry_run=dry_run, yes=yes, as_json=as_json
        )
    _finish(report)


COMMANDS: Final = {
    "copy": copy_command,
    "export": export,
    "import": import_command,
    "import-log": import_log,
}


def _storages(
    source: Place, target: Place, settings: dict[str, str | None]
) -> tuple[ObjectSnapshotStorage, ObjectSnapshotStorage]:
    ours = {name: value for name, value in settings.items() if not name.startswith("target_")}
    theirs = {name: settings[f"target_{name}"] for name in ours}
    return (
        storage_at(source, S3Settings(**ours)),
        storage_at(target, S3Settings(**theirs), must_exist=False),
    )


def _copied(
    run: Run,
    start: Callable[..., Operation[CopyEvent, CopyReport]],
    apply: Callable[[IO[bytes]], Operation[CopyEvent, CopyReport]] | None,
    *,
    sessions: tuple[str, ...] = (),
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> CopyReport:
    """Do it; or, where it must be asked for, plan it, ask, and do what was planned."""
    absent: set[str] = set()
    if yes and not dry_run:
        report = _follow(run, start(dry_run=False), as_json=as_json, absent=absent)
        _require(sessions, absent)
        return report
    with tempfile.TemporaryFile() as file:

        def keep(event: CopyEvent) -> None:
            _note_absent(event, absent)
            if dry_run:
                _writer(as_json)(event)
            else:
                file.write(json_of(event))

        planned: CopyReport = run(
            follow(start(dry_run=True), "looking", count=_told, on_event=keep)
        )
        _require(sessions, absent)
        if dry_run:
            return planned
        confirm("Do it?", yes=False)
        file.seek(0)
        operation = start(dry_run=False) if apply is None else apply(file)
        return _follow(run, operation, as_json=as_json)


def _read_events(file: IO[bytes]) -> Iterator[CopyEvent]:
    """Read events that `json_of` has written: `decode_events` takes no half surrogates."""
    for line in file:
        yield msgspec.convert(json.loads(line), CopyEvent)


def _validated(event: Event, source: ObjectSnapshotStorage) -> CopyEvent:
    """An event of a copy from a place.

    Raises:
        ValueError: It is something else.
    """
    if not isinstance(event, CopyEvent):
        raise ValueError("an event is of no copy: apply does what it says")  # noqa: TRY004
    layout, session_id = source.layout, event.session_id
    if not event.key.startswith(
        (layout.session_prefix(session_id), layout.stash_prefix(session_id))
    ):
        raise ValueError(f"an event is not of the source: {event.key}")
    return event


def _follow(
    run: Run,
    operation: Operation[CopyEvent, CopyReport],
    *,
    as_json: bool,
    absent: set[str] | None = None,
) -> CopyReport:
    write = _writer(as_json)

    def on_event(event: CopyEvent) -> None:
        if absent is not None:
            _note_absent(event, absent)
        write(event)

    done: CopyReport = run(follow(operation, "copying", count=_told, on_event=on_event))
    return done


def _note_absent(event: CopyEvent, absent: set[str]) -> None:
    """Note a session that does not exist at the source: of snapshots, or of a message log."""
    if event.result == "missing" and event.key.endswith(("/", "/session.json")):
        absent.add(event.session_id)


def _require(sessions: tuple[str, ...], absent: set[str]) -> None:
    """Refuse sessions that were named and are not there; the others were copied."""
    if missing := [session_id for session_id in sessions if session_id in absent]:
        raise click.ClickException(f"there is no session {', '.join(missing)}")


def _writer(as_json: bool) -> Callable[[CopyEvent], None]:
    def write(event: CopyEvent) -> None:
        if as_json:
            write_json(event)
        else:
            write_row(event.result, event.key, event.code or "")

    return write


def _told(report: CopyReport) -> str:
    what = "to be copied" if report.dry_run else "copied"
    text = (
        f"{counted(report.copied, 'object')} {what}, {report.replaced:,} replaced "
        f"({shown_size(report.bytes)}), {report.equal:,} equal, "
        f"{counted(report.sessions, 'session')}, {counted(report.requests, 'request')}"
    )
    for name in ("conflicts", "held", "missing", "changed", "failed"):
        if number := getattr(report, name):
            text += f", {number:,} {name}"
    return text


def _finish(report: CopyReport) -> None:
    if not report.ok:
        raise click.exceptions.Exit(1)
